// file: md.c
// The bitmap's header is not updated before the superblocks.
@@
identifier fn = md_update_sb;
@@
fn(...) {
<...
- mddev->bitmap_ops->update_sb(mddev->bitmap);
...>
}
