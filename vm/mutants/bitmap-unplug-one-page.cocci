// file: md-bitmap.c
// Before data goes out one page with new bits is written, not all of them: the others stay marked, and go with later writes.
@@
identifier fn = __bitmap_unplug;
@@
fn(...) {
<...
- writing = 1;
+ writing = 1;
+ break;
...>
}
