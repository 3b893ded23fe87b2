// The copy is made by a loop over the source's own vector. A clone shares its parent's vector and has bi_vcnt 0, so nothing is copied.
@@
@@
- bio_copy_data(behind_bio, bio);
+ for (i = 0; i < bio->bi_vcnt; i++)
+ 	memcpy_page(behind_bio->bi_io_vec[i].bv_page, 0, bio->bi_io_vec[i].bv_page, bio->bi_io_vec[i].bv_offset, bio->bi_io_vec[i].bv_len);
