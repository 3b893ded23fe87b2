//! What an honest disk that gave these answers would hold, a leg each.
//!
//! A write's effect is placed at its *fetch*: from then on the disk may return it. A discard or write zeroes takes effect at its *completion*; if a
//! write to the same sector was fetched between its arrival and its completion, which of the two came last is not known, and the zeroes are in doubt.
//! Answered OK: the sector holds the data. Answered with an error, or not at all: either the data or what was there before, sector by sector.
//! Durable is what was completed before a FLUSH arrived that completed well (virtio 1.2, 5.2.6.2).
//!
//! Not covered: which of two writes in flight at the same time to the same sector an honest disk keeps. The device applies them in the order of
//! their fetches, so this is taken for the truth.

mod bytes;
mod leg;
mod ranges;
mod requests;
mod table;
mod tile;

pub use bytes::Bytes;
pub use leg::{HISTORY, LegShadow, Origin, State, Version, ZERO_DIGEST};
pub use ranges::RangeSet;
pub use requests::{Ending, Open, Past, Requests};
pub use table::Table;
