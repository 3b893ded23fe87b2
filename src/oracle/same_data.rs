//! `same-data`: the same write has the same content on every leg.
//!
//! Covers: sectors of the data area, without known stamps, that every leg was written, at points of rest, where neither leg's content is an older one of the other.
//!
//! Does not cover: content that came from the same guest pages on both legs and differs: the page may have been changed between the two fetches, as
//! page cache and careless programs do (case 12, counted). Without stamps that cannot be told from a fault of the kernel, so findings are suspect.

use crate::shadow::{Origin, Version};

/// Whether two differing versions are one write's.
pub(crate) fn pair(one: Version, other: Version) -> bool {
    one.origin == Origin::Write && other.origin == Origin::Write
}

/// Whether the difference may be a buffer that the guest changed in flight.
pub(crate) fn buffer_changed(one: Version, other: Version) -> bool {
    one.changed || other.changed || (pair(one, other) && one.gpa == other.gpa && one.gpa != 0)
}
