// A retried block carries the data of the first.
@@
identifier fn = narrow_write_error;
@@
fn(...) {
<...
- bio_trim(wbio, sector - r1_bio->sector, sectors);
+ bio_trim(wbio, 0, sectors);
+ wbio->bi_iter.bi_sector = sector;
...>
}
