// Of the flags of a write only the flush before it is passed on.
@@
identifier fn = do_write;
@@
fn(...) {
<...
- bio->bi_opf & (REQ_FUA | REQ_PREFLUSH)
+ bio->bi_opf & REQ_PREFLUSH
...>
}
