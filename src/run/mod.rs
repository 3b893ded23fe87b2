//! `legwatch run`: the supervisor of witness and QEMU.

mod boot;
mod child;
mod happening;
pub mod out;
mod progress;
