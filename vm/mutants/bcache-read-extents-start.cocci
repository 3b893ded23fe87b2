// file: bcache/request.c
// A read that begins within a cached extent gets the extent's start.
@@
identifier fn = cache_lookup_fn;
@@
fn(...) {
<...
- bch_cut_front(&KEY(s->iop.inode, n->bi_iter.bi_sector, 0), bio_key);
...>
}
