//! The cases in which md may let legs differ, by their numbers in section 6 of the md reference. Each is counted by sector where it is used.
//!
//! Used here: 2, 3, 4, 6 to 8 (by who is active), 11 to 15, 17. Not met here, and why: 1 (sectors outside the data area are never compared), 5 (nothing
//! is compared but at an acknowledgement, a quiet point or the end), 9 and 10 (a replacement that is being built is not active; a bad range shows
//! as the error that we gave for it, 14), 16 (such writes do not come from real users), 18 (refused), 19 (no difference).

use serde::{Deserialize, Serialize};

/// A numbered case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Excuse {
    /// 2: never written since the array began; initial content is not known.
    Baseline,
    /// 3: the initial resync has not passed.
    BeforeResync,
    /// 4: a write to it is in flight, or was when its guest ended.
    InFlight,
    /// 7: the leg was failed, and md had not yet recorded it.
    LegFailed,
    /// 11: discarded; a leg does not offer it.
    Discarded,
    /// 12: the guest changed the buffer in flight, as it may.
    BufferChanged,
    /// 13: overlapping writes at the same time, either order is legal.
    Overlap,
    /// 14: a write to it was answered with an error.
    WriteFailed,
    /// 15: after a crash, before the resync passed.
    AfterCrash,
}

impl Excuse {
    /// The case's number.
    pub fn case(self) -> u8 {
        match self {
            Excuse::Baseline => 2,
            Excuse::BeforeResync => 3,
            Excuse::InFlight => 4,
            Excuse::LegFailed => 7,
            Excuse::Discarded => 11,
            Excuse::BufferChanged => 12,
            Excuse::Overlap => 13,
            Excuse::WriteFailed => 14,
            Excuse::AfterCrash => 15,
        }
    }

    /// In words.
    pub fn why(case: u8) -> &'static str {
        match case {
            2 => "never written since the array began",
            3 => "the initial resync has not passed",
            4 => "a write was in flight",
            7 => "the leg had failed",
            11 => "discarded, and a leg does not offer discard",
            12 => "the guest changed the buffer in flight, as it may",
            13 => "overlapping writes at the same time",
            14 => "a write was answered with an error",
            15 => "after a crash, before the resync passed",
            _ => "another case",
        }
    }
}
