// The rest of a write that was split is ended, not submitted.
@@
identifier fn = raid1_write_request;
@@
fn(...) {
<...
  bio_chain(split, bio);
  trace_block_split(...);
- submit_bio_noacct(bio);
+ bio_endio(bio);
...>
}
