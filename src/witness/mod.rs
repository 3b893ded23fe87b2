//! The witness: legs, sequence, journal and checker in one process.

pub mod wire;
