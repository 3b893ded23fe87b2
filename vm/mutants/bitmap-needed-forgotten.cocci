// file: md-bitmap.c
// A write that a missing leg did not get leaves no trace: the chunk's bit goes clear as if all legs had it.
@@
identifier fn = bitmap_endwrite;
@@
fn(...) {
<...
- *bmc |= NEEDED_MASK;
+ ;
...>
}
