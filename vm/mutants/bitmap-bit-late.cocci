// file: md-bitmap.c
// The page with the bit is sent, and not waited for, before the data goes out.
@@
identifier fn = __bitmap_unplug;
@@
fn(...) {
<...
- if (writing) md_bitmap_wait_writes(bitmap);
...>
}
