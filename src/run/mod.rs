//! `legwatch run`: the supervisor of witness and QEMU.

pub mod out;
