// A discard is rounded up to 64 KiB, as if that were the legs' granularity: what is stored behind it is gone on all legs.
@@
identifier fn = raid1_write_request;
@@
fn(...) {
<...
- mbio->bi_end_io = raid1_end_write_request;
+ mbio->bi_end_io = raid1_end_write_request;
+ if (is_discard)
+ 	mbio->bi_iter.bi_size = round_up(mbio->bi_iter.bi_size, 65536);
...>
}
