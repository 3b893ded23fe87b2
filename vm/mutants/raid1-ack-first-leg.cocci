// Every write is acknowledged as soon as one leg has it, as only writes behind may be.
@@
identifier fn = raid1_end_write_request;
@@
fn(...) {
...
- if (r1_bio->bios[mirror] == NULL) rdev_dec_pending(rdev, conf->mddev);
+ if (!behind && test_bit(R1BIO_Uptodate, &r1_bio->state) && !test_and_set_bit(R1BIO_Returned, &r1_bio->state))
+ 	call_bio_endio(r1_bio);
+ if (r1_bio->bios[mirror] == NULL)
+ 	rdev_dec_pending(rdev, conf->mddev);
...
}
