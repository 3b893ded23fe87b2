//! `discard-all`: a discard seen on one leg is seen on every leg that offers it.
//!
//! Covers: sectors that differ because one leg zeroed them at a discard, at points of rest, and the end mark of the workload's discards.
//!
//! Does not cover: legs that do not offer discard (11), discards that answered with an error (md ignores them, 14), and discards that reached no leg at
//! all (md may drop them). Discarded sectors that are equal on all legs, whatever they hold.

use crate::shadow::{Origin, Version};

/// Whether exactly the first of two versions comes from a discard or write zeroes, and is the newer one.
pub(crate) fn only_first(one: Version, other: Version) -> bool {
    one.origin == Origin::Zero && other.origin != Origin::Zero && one.no > other.no
}
