// file: md.c
// The superblock's size is the leg's own, not the array's.
@@
identifier fn = super_1_sync;
@@
fn(...) {
<...
- sb->size = cpu_to_le64(mddev->dev_sectors);
+ sb->size = cpu_to_le64(rdev->sectors);
...>
}
