// file: md.c
// The bad-block log is written, and the superblock does not say that there is one: the next assembly does not read it.
@@
identifier fn = super_1_sync;
@@
fn(...) {
<...
- sb->feature_map |= cpu_to_le32(MD_FEATURE_BAD_BLOCKS);
...>
}
