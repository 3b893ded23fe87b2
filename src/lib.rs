//! legwatch: a witness for mirrored storage that stands outside the guest.
//!
//! The crate is the library behind two programs: `legwatch`, the vhost-user-blk backend, checker and launcher on the host, and
//! `legwatch-guest`, init and agent in the guest. ARCHITECTURE.md has the flow on one page.

pub mod cache;
pub mod clock;
pub mod guest_health;
pub mod initramfs;
pub mod kernel;
pub mod qemu;
