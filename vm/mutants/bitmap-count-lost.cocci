// file: md-bitmap.c
// Writes under way are not counted, so a bit goes clear while its data is in flight.
@@
identifier fn = bitmap_startwrite;
@@
fn(...) {
<...
- (*bmc)++;
...>
}

@@
identifier fn = bitmap_endwrite;
@@
fn(...) {
<...
- (*bmc)--;
...>
}
