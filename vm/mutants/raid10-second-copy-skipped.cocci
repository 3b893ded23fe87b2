// The loop over the copies ends one copy early.
@@
identifier fn = raid10_write_request;
expression a, b, c, d;
@@
fn(...) {
<...
  for (i = 0; i < conf->copies; i++) {
- 	if (r10_bio->devs[i].bio)
+ 	if (r10_bio->devs[i].bio && i + 1 < conf->copies)
  		raid10_write_one_disk(a, b, c, d, i);
  	...
  }
...>
}
