// A flush goes to the first leg alone.
@@
identifier fn = do_write;
@@
fn(...) {
<...
- dm_io(&io_req, ms->nr_mirrors, io, NULL, IOPRIO_DEFAULT)
+ dm_io(&io_req, bio->bi_opf & REQ_PREFLUSH && !bio_sectors(bio) ? 1 : ms->nr_mirrors, io, NULL, IOPRIO_DEFAULT)
...>
}
