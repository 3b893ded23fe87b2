// file: md.c
// The superblock keeps the checksum of the one before.
@@
identifier fn = super_1_sync;
@@
fn(...) {
<...
- sb->sb_csum = calc_sb_1_csum(sb);
...>
}
