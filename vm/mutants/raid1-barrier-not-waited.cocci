// Resync does not wait for writes that are under way in its range.
@@
identifier fn = raise_barrier;
@@
fn(...) {
<...
- !atomic_read(&conf->nr_pending[idx])
+ true
...>
}
