// The retry of a failed write ends at its first bad block: what comes after is neither written nor recorded.
@@
identifier fn = narrow_write_error;
statement S;
@@
fn(...) {
<...
  if (submit_bio_wait(wbio) < 0)
- 	S
+ {
+ 	S
+ 	sect_to_write = sectors;
+ }
...>
}
