// Whether a leg was never in the array is not asked: without a bitmap its recovery is over at once.
@@
identifier fn = raid1_sync_request;
@@
fn(...) {
<...
- conf->fullsync == 0
+ true
...>
}
