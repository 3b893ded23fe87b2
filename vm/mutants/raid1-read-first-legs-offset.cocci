// Reads of every leg are made at the first leg's data offset.
@@
identifier fn = raid1_read_request;
@@
fn(...) {
<...
- mirror->rdev->data_offset
+ conf->mirrors[0].rdev->data_offset
...>
}
