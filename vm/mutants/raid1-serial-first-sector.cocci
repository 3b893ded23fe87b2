// With serialize_policy a write waits for another one only where that covers its first sector, not where it covers a later one.
@@
identifier fn = check_and_add_serial;
@@
fn(...) {
<...
- raid1_rb_iter_first(&serial->serial_rb, lo, hi)
+ raid1_rb_iter_first(&serial->serial_rb, lo, lo)
...>
}
