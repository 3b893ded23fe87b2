// All legs are written at the first leg's data offset.
@@
identifier fn = raid1_write_request;
expression m;
@@
fn(...) {
<...
- m->bi_iter.bi_sector = (r1_bio->sector + rdev->data_offset);
+ m->bi_iter.bi_sector = r1_bio->sector + conf->mirrors[0].rdev->data_offset;
...>
}
