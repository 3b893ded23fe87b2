// The copies' writes lose FUA with the flag beside it.
@@
@@
- mbio->bi_opf &= ~REQ_NOWAIT;
+ mbio->bi_opf &= ~(REQ_NOWAIT | REQ_FUA);
