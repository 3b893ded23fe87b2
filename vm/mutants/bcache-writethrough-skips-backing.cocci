// file: bcache/request.c
// A write-through write is put in the cache, and not sent to the backing device.
@@
identifier fn = cached_dev_write;
@@
fn(...) {
<...
  s->iop.bio = bio_alloc_clone(...);
  bio->bi_end_io = backing_request_endio;
- closure_bio_submit(s->iop.c, bio, cl);
+ closure_get(cl);
+ bio_endio(bio);
...>
}
