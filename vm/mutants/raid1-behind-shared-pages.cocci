// Legs that are behind are written from the caller's own pages, which the caller gets back with the acknowledgement.
@@
identifier fn = raid1_write_request;
expression m, a, b, c;
@@
fn(...) {
<...
- m = bio_alloc_clone(a, r1_bio->behind_master_bio, b, c);
+ m = bio_alloc_clone(a, bio, b, c);
...>
}
