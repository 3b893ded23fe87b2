// file: md.c
// Superblocks are rewritten with the events that they had.
@@
identifier fn = md_update_sb;
@@
fn(...) {
<...
- mddev->events ++;
...>
}
