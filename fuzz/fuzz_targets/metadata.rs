//! Any bytes as md's metadata: see `legwatch::oracle::survive`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| legwatch::oracle::survive::survive(bytes));
