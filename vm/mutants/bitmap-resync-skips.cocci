// file: md-bitmap.c
// A chunk that needs no resync takes the one after it along.
@@
identifier fn = bitmap_start_sync;
@@
fn(...) {
<...
- return rv;
+ if (!rv)
+ 	*blocks += 128;
+ return rv;
...>
}
