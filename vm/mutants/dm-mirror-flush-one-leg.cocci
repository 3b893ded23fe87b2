// A flush goes to all legs but the last.
@@
identifier fn = mirror_flush;
@@
fn(...) {
<...
- dm_io(&io_req, ms->nr_mirrors, io, &error_bits, IOPRIO_DEFAULT);
+ error_bits = 0;
+ dm_io(&io_req, ms->nr_mirrors - 1, io, &error_bits, IOPRIO_DEFAULT);
...>
}
