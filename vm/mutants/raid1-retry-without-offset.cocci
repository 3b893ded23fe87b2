// A retried block is written without the leg's data offset.
@@
identifier fn = narrow_write_error;
@@
fn(...) {
<...
- wbio->bi_iter.bi_sector += rdev->data_offset;
...>
}
