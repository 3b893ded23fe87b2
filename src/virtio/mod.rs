//! virtio-blk as bytes: guest memory, rings, descriptor chains, request headers, the config space. No I/O, no legs' state.
//!
//! | file | job |
//! | --- | --- |
//! | `defs` | the specification's numbers |
//! | `memory` | the guest's memory as the frontend shares it, and addresses into it |
//! | `buffer` | a request's data in guest memory: copies, comparison, digests |
//! | `ring` | a ring of either layout |
//! | `split` | split rings: avail and used entries, notification |
//! | `packed` | packed rings: laps, chains, event suppression |
//! | `inflight` | what is in flight, noted in the frontend's memory; `inflight_split` and `inflight_packed` for either layout |
//! | `chain` | descriptor chains, indirect tables, their bounds |
//! | `request` | a chain to a [`Request`] and a [`Pending`] |
//! | `space` | feature bits and the config space |
//!
//! Everything a guest can write is hostile: no value from guest memory indexes, adds or loops without a bound.
#![warn(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

pub mod buffer;
pub mod chain;
pub mod defs;
pub mod inflight;
mod inflight_packed;
mod inflight_split;
pub mod memory;
pub mod packed;
pub mod request;
pub mod ring;
pub mod space;
pub mod split;

#[cfg(test)]
#[allow(
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    reason = "numbers of tests are small"
)]
mod tests;

pub use buffer::GuestBuffer;
pub use memory::{Memory, MemoryError, Piece, Region};
pub use packed::PackedRing;
pub use request::{Limits, Malformed, Pending, Request, Used, parse};
pub use ring::{Head, Ring, RingAddresses, RingFault};
pub use split::SplitRing;
