// The loop that gives each copy its bio ends one copy early.
@@
identifier fn = raid10_write_request;
@@
fn(...) {
<...
- if (rdev)
+ if (rdev && i + 1 < conf->copies)
  {
  	r10_bio->devs[i].bio = bio;
  	...
  }
...>
}
