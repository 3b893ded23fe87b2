// A leg that is being recovered is read from, wherever the recovery stands.
@@
identifier fn = rdev_in_recovery;
@@
fn(...) {
- return ...;
+ return false;
}
