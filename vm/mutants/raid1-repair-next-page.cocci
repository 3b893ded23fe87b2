// What a read error is repaired with is written a page further on.
@@
identifier fn = fix_read_error;
@@
fn(...) {
<...
- r1_sync_page_io(rdev, sect, s, conf->tmppage, REQ_OP_WRITE);
+ r1_sync_page_io(rdev, sect + s, s, conf->tmppage, REQ_OP_WRITE);
...>
}
