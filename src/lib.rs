//! legwatch: a witness for mirrored storage that stands outside the guest.
//!
//! The crate is the library behind two programs: `legwatch`, the vhost-user-blk backend, checker and launcher on the host, and
//! `legwatch-guest`, init and agent in the guest. ARCHITECTURE.md has the flow on one page.

pub mod ahead;
pub mod block;
pub mod cache;
pub mod campaign;
pub mod cli;
pub mod clock;
pub mod config;
pub mod crypt;
pub mod ctl;
mod cut_short;
pub mod device;
pub mod event;
pub mod explain;
pub mod export;
pub mod failure;
pub mod fault;
pub mod finding;
pub mod guest;
pub mod guest_health;
pub mod header;
pub mod initramfs;
pub mod journal;
pub mod judge;
pub mod kernel;
pub mod kernel_command;
pub mod leg;
pub mod mark;
pub mod md;
pub mod medium;
pub mod new_scenario;
pub mod oracle;
pub mod picture;
pub mod plan;
pub mod progress;
pub mod qemu;
pub mod recorded;
pub mod release;
pub mod report;
pub mod run;
pub mod scenario;
pub mod sequence;
pub mod serve;
pub mod shadow;
pub mod stamp;
pub mod suite;
pub mod vhost_user;
pub mod virtio;
pub mod watch;
pub mod witness;
