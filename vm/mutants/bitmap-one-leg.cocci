// file: md-bitmap.c
// Bitmap pages are written to the first leg alone.
@@
identifier fn = write_sb_page;
statement S;
@@
fn(...) {
<...
- while ((rdev = next_active_rdev(rdev, mddev)) != NULL) S
+ if ((rdev = next_active_rdev(rdev, mddev)) != NULL) S
...>
}
