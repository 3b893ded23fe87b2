// file: md.c
// The superblock says clean, whatever the array is.
@@
identifier fn = super_1_sync;
@@
fn(...) {
<...
- sb->resync_offset = cpu_to_le64(0);
+ sb->resync_offset = cpu_to_le64(MaxSector);
...>
}
