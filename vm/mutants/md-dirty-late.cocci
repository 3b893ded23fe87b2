// file: md.c
// A write does not wait for the dirty mark that it asked for.
@@
identifier fn = md_write_start;
@@
fn(...) {
<...
- wait_event(mddev->sb_wait, ...);
...>
}
