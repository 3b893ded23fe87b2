// file: md.c
// A failed leg's role is written as if it were in the array.
@@
identifier fn = super_1_sync;
@@
fn(...) {
<...
- sb->dev_roles[i] = cpu_to_le16(MD_DISK_ROLE_FAULTY);
+ sb->dev_roles[i] = cpu_to_le16(rdev2->raid_disk);
...>
}
