// The last page of the copy is left out when it is counted in whole pages.
@@
@@
- bio_copy_data(behind_bio, bio);
+ {
+ 	struct bvec_iter to = behind_bio->bi_iter, from = bio->bi_iter;
+
+ 	if (to.bi_size > PAGE_SIZE)
+ 		to.bi_size -= PAGE_SIZE;
+ 	bio_copy_data_iter(behind_bio, &to, bio, &from);
+ }
