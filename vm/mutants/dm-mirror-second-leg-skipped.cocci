// A write goes to all legs but the last.
@@
identifier fn = do_write;
@@
fn(...) {
<...
- dm_io(&io_req, ms->nr_mirrors, io, NULL, IOPRIO_DEFAULT)
+ dm_io(&io_req, ms->nr_mirrors - 1, io, NULL, IOPRIO_DEFAULT)
...>
}
