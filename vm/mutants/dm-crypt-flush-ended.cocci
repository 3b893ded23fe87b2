// A flush has nothing to encrypt: it is ended, and not passed on.
@@
identifier fn = crypt_map;
@@
fn(...) {
<...
- bio_set_dev(bio, cc->dev->bdev);
+ if (!bio_sectors(bio)) {
+ 	bio_endio(bio);
+ 	return DM_MAPIO_SUBMITTED;
+ }
+ bio_set_dev(bio, cc->dev->bdev);
...>
}
