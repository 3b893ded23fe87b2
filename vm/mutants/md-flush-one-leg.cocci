// file: md.c
// A flush is sent to all legs but the first.
@@
identifier fn = md_flush_request;
@@
fn(...) {
<...
- rdev->raid_disk < 0
+ rdev->raid_disk <= 0
...>
}
