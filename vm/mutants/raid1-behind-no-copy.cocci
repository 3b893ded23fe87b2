// The write-behind copy is never filled: all legs get what was in its pages.
@@
@@
- bio_copy_data(behind_bio, bio);
