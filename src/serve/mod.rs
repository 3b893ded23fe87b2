//! `legwatch serve`: the witness for a QEMU that somebody else starts.

pub mod leg_arg;
