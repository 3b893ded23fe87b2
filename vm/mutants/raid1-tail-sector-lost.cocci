// The legs' writes of more than a page end one sector early, on all legs alike.
@@
identifier fn = raid1_write_request;
@@
fn(...) {
<...
- mbio->bi_end_io = raid1_end_write_request;
+ mbio->bi_end_io = raid1_end_write_request;
+ if (bio_has_data(mbio) && mbio->bi_iter.bi_size > PAGE_SIZE)
+ 	mbio->bi_iter.bi_size -= 512;
...>
}
