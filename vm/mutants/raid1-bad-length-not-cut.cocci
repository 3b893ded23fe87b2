// A write that begins in a leg's bad range is not cut to its end: the leg misses what follows too.
@@
identifier fn = raid1_write_request;
@@
fn(...) {
<...
- if (bad_sectors < max_sectors) max_sectors = bad_sectors;
...>
}
