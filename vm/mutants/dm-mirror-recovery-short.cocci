// Recovery takes the number of a region's last sector for its count: each region's last sector is not copied.
@@
identifier fn = recover;
@@
fn(...) {
<...
  if (key == (ms->nr_regions - 1)) {
  	...
  }
- else from.count = region_size;
+ else
+ 	from.count = region_size - 1;
...>
}
