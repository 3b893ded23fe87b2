//! legwatch: a witness for mirrored storage that stands outside the guest.
//!
//! The crate is the library behind two programs: `legwatch`, the vhost-user-blk backend, checker and launcher on the host, and
//! `legwatch-guest`, init and agent in the guest. ARCHITECTURE.md has the flow on one page.

pub mod block;
pub mod clock;
pub mod config;
pub mod event;
pub mod finding;
pub mod header;
pub mod journal;
pub mod mark;
pub mod md;
pub mod oracle;
pub mod plan;
pub mod report;
pub mod sequence;
pub mod shadow;
pub mod stamp;
