// A good write clears the log beyond its end.
@@
identifier fn = handle_write_finished;
@@
fn(...) {
<...
- rdev_clear_badblocks(rdev, r1_bio->sector, r1_bio->sectors, 0);
+ rdev_clear_badblocks(rdev, r1_bio->sector, r1_bio->sectors + 8, 0);
...>
}
