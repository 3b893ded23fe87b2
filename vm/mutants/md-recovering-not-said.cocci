// file: md.c
// A recovering leg's superblock does not say that it is recovering.
@@
identifier fn = super_1_sync;
statement S;
@@
fn(...) {
<...
- sb->feature_map |= cpu_to_le32(MD_FEATURE_RECOVERY_OFFSET);
...>
}
