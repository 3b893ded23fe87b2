// Write-mostly is taken for never-write: the leg is left out once the array is busy.
@@
identifier fn = raid1_write_request;
@@
fn(...) {
<...
- if (!rdev || test_bit(Faulty, &rdev->flags)) continue;
+ if (!rdev || test_bit(Faulty, &rdev->flags) || (write_behind && test_bit(WriteMostly, &rdev->flags)))
+ 	continue;
...>
}
