// Recovery takes the new leg for the source, and the good one for the target.
@@
identifier fn = raid1_sync_request;
@@
fn(...) {
<...
  if (...) { ... }
- else if (!test_bit(In_sync, &rdev->flags))
+ else if (test_bit(In_sync, &rdev->flags) && mddev->degraded)
  { ... }
  else { ... }
...>
}
