// file: raid1-10.c
// A discard goes to the first leg only: the others are taken for legs without discard.
@@
identifier fn = raid1_submit_write;
@@
fn(...) {
<...
- !bdev_max_discard_sectors(bio->bi_bdev)
+ (!bdev_max_discard_sectors(bio->bi_bdev) || rdev->raid_disk > 0)
...>
}
