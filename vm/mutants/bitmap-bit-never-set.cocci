// file: md-bitmap.c
// A chunk's counter goes up, and its bit is not set in the page.
@@
identifier fn = bitmap_startwrite;
@@
fn(...) {
<...
- md_bitmap_file_set_bit(bitmap, offset);
...>
}
