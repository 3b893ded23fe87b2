// file: raid1.c raid1-10.c
// A leg that failed goes on being written.
@@
identifier fn = raid1_write_request;
@@
fn(...) {
<...
- if (!rdev || test_bit(Faulty, &rdev->flags)) continue;
+ if (!rdev)
+ 	continue;
...>
}

@@
identifier fn = raid1_submit_write;
@@
fn(...) {
<...
- if (test_bit(Faulty, &rdev->flags)) bio_io_error(bio);
- else if (unlikely(bio_op(bio) == REQ_OP_DISCARD && !bdev_max_discard_sectors(bio->bi_bdev)))
+ if (unlikely(bio_op(bio) == REQ_OP_DISCARD && !bdev_max_discard_sectors(bio->bi_bdev)))
  bio_endio(bio);
  else submit_bio_noacct(bio);
...>
}
