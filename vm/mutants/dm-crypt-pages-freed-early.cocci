// The ciphertext's pages are given back when it was submitted, not when it was written.
@@
identifier fn = crypt_endio;
statement S;
@@
fn(...) {
<...
- if (rw == WRITE || io->ctx.aead_recheck) S
...>
}

@@
identifier fn = kcryptd_io_write;
@@
fn(...) {
<...
- dm_submit_bio_remap(io->base_bio, clone);
+ bio_get(clone);
+ dm_submit_bio_remap(io->base_bio, clone);
+ crypt_free_buffer_pages(io->cc, clone);
+ bio_put(clone);
...>
}
