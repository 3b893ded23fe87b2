// A write that failed on a leg is taken for done: nothing is retried, nothing recorded.
@@
identifier fn = handle_write_finished;
statement S;
@@
fn(...) {
<...
- fail = true;
- if (!narrow_write_error(r1_bio, m)) S
...>
}
