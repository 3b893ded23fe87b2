// Recovery asks the bitmap about the leg's sector, as raid1 does, where raid10's bitmap counts the array's sectors.
@@
identifier fn = raid10_sync_request;
expression b, d;
@@
fn(...) {
<...
- mddev->bitmap_ops->start_sync(mddev, sect, b, d)
+ mddev->bitmap_ops->start_sync(mddev, sector_nr, b, d)
...>
}
