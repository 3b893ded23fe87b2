// The loop that picks the legs to write ends one leg early.
@@
identifier fn = raid1_write_request;
statement S;
@@
fn(...) {
<...
  max_sectors = r1_bio->sectors;
- for (i = 0; i < disks; i++)
+ for (i = 0; i < conf->raid_disks - 1; i++)
  S
...>
}
