// The copy is made without the operation of its source: the legs are asked to read (Linux 6.16.3, e879a0d9cb08).
@@
expression a, b, c, d;
@@
- behind_bio = bio_alloc_bioset(a, b, bio->bi_opf, c, d);
+ behind_bio = bio_alloc_bioset(a, b, 0, c, d);
