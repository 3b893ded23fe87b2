//! The cases in which md may let legs differ, by their numbers in section 6 of the md reference: what shows on the wire that a case holds, and when it is over.
//!
//! A case that is met is counted by sector, once for the last time that it was needed. Some cases excuse nothing because what they are about is never
//! compared; [`CASES`] says which. `tests/checker/excuses.rs` holds each case beside the moment at which it is over.

use serde::{Deserialize, Serialize};

/// A numbered case that excuses a difference.
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
    /// 10: md has it on record as a bad block.
    BadBlock,
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

/// A case as the md reference numbers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Case {
    /// Its number.
    pub number: u8,
    /// In words.
    pub why: &'static str,
    /// What the host sees while it holds, and what ends it.
    pub condition: &'static str,
    /// Whether it is counted, or what it is about is never compared.
    pub counted: bool,
}

const fn case(number: u8, counted: bool, why: &'static str, condition: &'static str) -> Case {
    Case {
        number,
        why,
        condition,
        counted,
    }
}

/// All cases of section 6.
pub const CASES: [Case; 19] = [
    case(
        1,
        false,
        "outside the data area",
        "the sector is outside [data_offset, data_offset + size) of its leg; never ends",
    ),
    case(
        2,
        true,
        "never written since the array began",
        "every active leg holds initial content; ends with the first write or copy that the host sees",
    ),
    case(
        3,
        true,
        "the initial resync has not passed",
        "a superblock has a checkpoint, or a leg's initial content was read by resync and its digest is not known; ends with the copy",
    ),
    case(
        4,
        true,
        "a write was in flight",
        "a request that covers it has a fetch and no end; ends with its answer, or stays if its guest ended first",
    ),
    case(
        5,
        false,
        "the guest holds the other leg's half",
        "one leg was sent the write and the other was not; nothing is judged but at promises, end marks and rest",
    ),
    case(
        6,
        false,
        "write-behind",
        "the leg is write-mostly, the bitmap's header allows writes behind; judged when the array is clean or at rest",
    ),
    case(
        7,
        true,
        "the leg had failed",
        "another leg's superblock calls it faulty or removed; what was held against it since the superblock before is taken back",
    ),
    case(
        8,
        false,
        "the leg is being recovered",
        "its own superblock has a recovery offset; not an active leg until one without it has completed",
    ),
    case(
        9,
        false,
        "a replacement is being built",
        "feature REPLACEMENT and a recovery offset; as case 8",
    ),
    case(
        10,
        true,
        "a bad block",
        "the leg's list has it, as completed; ends with a write to it that succeeds on that leg, or a list without it",
    ),
    case(
        11,
        true,
        "discarded, and a leg does not offer discard",
        "a leg's version is a discard's and the other leg offers none; ends with the next write",
    ),
    case(
        12,
        true,
        "the guest changed the buffer in flight, as it may",
        "content differed between fetch and answer, or the same pages gave two legs different content; ends with the next write",
    ),
    case(
        13,
        true,
        "overlapping writes at the same time",
        "both legs had both contents, or both are what open writes meant; ends with the next write",
    ),
    case(
        14,
        true,
        "a write was answered with an error",
        "the newest version's answer was an error, or none came; ends with the next write that succeeds",
    ),
    case(
        15,
        true,
        "after a crash, before the resync passed",
        "the boot found the array dirty; ends with a fully clean superblock on all active legs",
    ),
    case(
        16,
        false,
        "readahead writes that fail on 6.12",
        "not met: such writes do not come from real users",
    ),
    case(
        17,
        false,
        "programs wrote to the leg itself",
        "md does not run the array in this boot; ends with the kernel's first superblock, or the workload's target",
    ),
    case(
        18,
        false,
        "reshape",
        "feature RESHAPE_ACTIVE: the array is refused",
    ),
    case(
        19,
        false,
        "a repair chose the older content",
        "legs are equal: no difference",
    ),
];

impl Excuse {
    /// The case's number.
    pub fn case(self) -> u8 {
        match self {
            Excuse::Baseline => 2,
            Excuse::BeforeResync => 3,
            Excuse::InFlight => 4,
            Excuse::LegFailed => 7,
            Excuse::BadBlock => 10,
            Excuse::Discarded => 11,
            Excuse::BufferChanged => 12,
            Excuse::Overlap => 13,
            Excuse::WriteFailed => 14,
            Excuse::AfterCrash => 15,
        }
    }

    /// A case in words.
    pub fn why(case: u8) -> &'static str {
        CASES
            .iter()
            .find(|one| one.number == case)
            .map_or("another case", |one| one.why)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nineteen_cases_are_there_in_order_and_those_that_are_counted_have_an_excuse() {
        let excuses = [
            Excuse::Baseline,
            Excuse::BeforeResync,
            Excuse::InFlight,
            Excuse::LegFailed,
            Excuse::BadBlock,
            Excuse::Discarded,
            Excuse::BufferChanged,
            Excuse::Overlap,
            Excuse::WriteFailed,
            Excuse::AfterCrash,
        ];
        let counted: Vec<u8> = CASES
            .iter()
            .filter(|one| one.counted)
            .map(|one| one.number)
            .collect();
        assert_eq!(counted, excuses.map(Excuse::case));
        assert!(
            CASES
                .iter()
                .zip(1..)
                .all(|(one, number)| one.number == number)
        );
        let text = include_str!("../../docs/checks.md");
        for one in CASES {
            assert!(
                text.contains(&format!("### case {}\n", one.number)),
                "{}",
                one.number
            );
        }
    }
}
