// Writes beyond a leg's recovery offset are left to the recovery, which is ahead of that offset between two checkpoints.
@@
identifier fn = raid1_write_request;
@@
fn(...) {
<...
- if (!rdev || test_bit(Faulty, &rdev->flags)) continue;
+ if (!rdev || test_bit(Faulty, &rdev->flags))
+ 	continue;
+ if (!test_bit(In_sync, &rdev->flags) && rdev->recovery_offset <= r1_bio->sector)
+ 	continue;
...>
}
