// file: md.c
// Metadata is written without a flush before or after.
@@
@@
- REQ_OP_WRITE | REQ_SYNC | REQ_IDLE | REQ_META | REQ_PREFLUSH | REQ_FUA
+ REQ_OP_WRITE | REQ_SYNC | REQ_IDLE | REQ_META
