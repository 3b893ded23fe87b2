// file: md-bitmap.c
// The bit of the next chunk is set.
@@
identifier fn = md_bitmap_file_set_bit;
@@
fn(...) {
<...
- bit = file_page_offset(&bitmap->storage, chunk);
+ bit = file_page_offset(&bitmap->storage, chunk + 1);
...>
}
