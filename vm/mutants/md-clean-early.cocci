// file: md.c
// The array is called clean without a look at the writes under way.
@@
identifier fn = set_in_sync;
@@
fn(...) {
<...
- !mddev->in_sync && percpu_ref_is_zero(&mddev->writes_pending)
+ !mddev->in_sync
...>
}
