// Whatever block of a failed write is bad, it is the first that is recorded.
@@
identifier fn = narrow_write_error;
@@
fn(...) {
<...
- rdev_set_badblocks(rdev, sector, sectors, 0)
+ rdev_set_badblocks(rdev, r1_bio->sector, sectors, 0)
...>
}
