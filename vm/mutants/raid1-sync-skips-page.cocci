// Resync and recovery go on one page behind what they have copied.
@@
identifier fn = raid1_sync_request;
@@
fn(...) {
<...
- r1_bio->sectors = nr_sectors;
+ if (nr_sectors == RESYNC_SECTORS && sector_nr + 8 < mddev->dev_sectors)
+ 	nr_sectors += 8;
+ r1_bio->sectors = nr_sectors;
...>
}
