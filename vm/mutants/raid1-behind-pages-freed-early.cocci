// The copy's pages are given back with the acknowledgement, while a write-mostly leg still reads from them.
@@
@@
- bio_free_pages(r1_bio->behind_master_bio);
+ ;

@@
identifier fn = raid1_end_write_request;
@@
fn(...) {
<...
- call_bio_endio(r1_bio);
+ call_bio_endio(r1_bio);
+ bio_free_pages(r1_bio->behind_master_bio);
...>
}
