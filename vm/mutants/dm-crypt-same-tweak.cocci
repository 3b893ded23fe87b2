// All sectors of a request are encrypted with the number of the first.
@@
identifier fn = crypt_convert;
@@
fn(...) {
<...
- ctx->cc_sector += sector_step;
...>
}
