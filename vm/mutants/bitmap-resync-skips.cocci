// file: md-bitmap.c
// Chunks that need a resync are skipped unless the array is degraded.
@@
identifier fn = __bitmap_start_sync;
@@
fn(...) {
<...
- rv = true;
+ rv = degraded;
  if (!degraded) { ... }
...>
}
