// file: bcache/writeback.c
// Dirty data that goes back to the backing device is read eight sectors beside where the cache has it.
@@
identifier fn = read_dirty;
@@
fn(...) {
<...
- io->bio.bi_iter.bi_sector = PTR_OFFSET(&w->key, 0);
+ io->bio.bi_iter.bi_sector = PTR_OFFSET(&w->key, 0) + 8;
...>
}
