// The second copy is written one page further on.
@@
identifier fn = raid10_write_one_disk;
@@
fn(...) {
<...
- r10_bio->devs[n_copy].addr
+ r10_bio->devs[n_copy].addr + 8 * n_copy
...>
}
