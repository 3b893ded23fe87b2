// file: md.c
// Superblocks are written to the first leg alone.
@@
identifier fn = md_update_sb;
@@
fn(...) {
<...
- rdev->sb_loaded != 1
+ rdev->sb_loaded != 1 || rdev->raid_disk > 0
...>
}
