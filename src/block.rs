//! The words that every module shares: sectors, legs, requests, operations, statuses. Nothing here knows virtio, md or files.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Bytes in a sector, everywhere in legwatch, whatever a leg's logical block size.
pub const SECTOR_BYTES: usize = 512;

/// The most legs that one run can have, the control leg not counted.
pub const LEGS_MAX: usize = 8;

/// Turns a byte count that is known to fit this machine's memory into a `usize`.
///
/// # Panics
/// On a target whose `usize` is narrower than the value; legwatch supports 64-bit hosts alone.
pub fn to_usize(value: u64) -> usize {
    usize::try_from(value).expect("legwatch runs on 64-bit hosts")
}

/// A sector number: an offset on a leg or on an array, in units of 512 bytes.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Sector(pub u64);

impl Sector {
    /// The byte offset of the sector's first byte; `None` past 2^64.
    pub fn checked_bytes(self) -> Option<u64> {
        self.0.checked_mul(SECTOR_BYTES as u64)
    }

    /// The sector `count` further on; `None` past 2^64.
    pub fn checked_add(self, count: u64) -> Option<Sector> {
        self.0.checked_add(count).map(Sector)
    }
}

impl fmt::Display for Sector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A run of sectors. `start + count` never overflows (checked by [`SectorRange::new`]); `count` may be 0.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct SectorRange {
    start: Sector,
    count: u64,
}

impl SectorRange {
    /// `count` sectors from `start`; `None` if the end would overflow.
    pub fn new(start: Sector, count: u64) -> Option<SectorRange> {
        start.checked_add(count)?;
        Some(SectorRange { start, count })
    }

    /// The first sector.
    pub fn start(self) -> Sector {
        self.start
    }

    /// How many sectors.
    pub fn count(self) -> u64 {
        self.count
    }

    /// The first sector behind the range.
    pub fn end(self) -> Sector {
        Sector(self.start.0 + self.count)
    }

    /// Length in bytes; `None` past 2^64.
    pub fn checked_bytes(self) -> Option<u64> {
        self.count.checked_mul(SECTOR_BYTES as u64)
    }

    /// Whether the range has no sector.
    pub fn is_empty(self) -> bool {
        self.count == 0
    }

    /// Whether `sector` is in the range.
    pub fn contains(self, sector: Sector) -> bool {
        self.start <= sector && sector < self.end()
    }

    /// Whether all of `other` is in the range. An empty range is in every range that its start is in or ends at.
    pub fn covers(self, other: SectorRange) -> bool {
        self.start <= other.start && other.end() <= self.end()
    }

    /// The sectors that both ranges have; `None` if there are none.
    pub fn intersection(self, other: SectorRange) -> Option<SectorRange> {
        let start = self.start.max(other.start);
        let end = self.end().min(other.end());
        (start < end).then(|| SectorRange {
            start,
            count: end.0 - start.0,
        })
    }

    /// Every sector, in order.
    pub fn sectors(self) -> impl Iterator<Item = Sector> {
        (self.start.0..self.end().0).map(Sector)
    }
}

/// `start+count`, the form in which ranges are printed everywhere.
impl fmt::Display for SectorRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}", self.start, self.count)
    }
}

/// A leg by its place in the run's list, 0 to 7; the report prints its name. [`LegId::CONTROL`] is the control leg.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LegId(pub u8);

impl LegId {
    /// The control leg, over which plan, marks and intents travel.
    pub const CONTROL: LegId = LegId(u8::MAX);

    /// The leg's place in the run's list of legs.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// A request by its leg and its number on that leg: 1 for the first that arrived there, counted over all connections and boots.
/// Seeded decisions depend on this number and on nothing that the kernel's timing can change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RequestId {
    /// The leg that the request arrived on.
    pub leg: LegId,
    /// Its number on that leg, from 1.
    pub number: u64,
}

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Operation {
    /// Bytes from the leg.
    Read,
    /// Bytes to the leg.
    Write,
    /// All completed writes become durable.
    Flush,
    /// The ranges' content is no longer needed; they read as zeros afterwards.
    Discard,
    /// The ranges read as zeros afterwards, and stay allocated.
    WriteZeroes,
    /// The ranges read as zeros afterwards, and may be deallocated (the unmap flag).
    WriteZeroesUnmap,
    /// The leg's name.
    GetId,
    /// A request type that the leg does not know, by its number.
    Unsupported(u32),
}

impl Operation {
    /// Whether the operation changes what the leg holds.
    pub fn modifies(self) -> bool {
        match self {
            Operation::Write
            | Operation::Discard
            | Operation::WriteZeroes
            | Operation::WriteZeroesUnmap => true,
            Operation::Read | Operation::Flush | Operation::GetId | Operation::Unsupported(_) => {
                false
            }
        }
    }

    /// Whether the operation makes its ranges read as zeros.
    pub fn zeroes(self) -> bool {
        match self {
            Operation::Discard | Operation::WriteZeroes | Operation::WriteZeroesUnmap => true,
            Operation::Read
            | Operation::Write
            | Operation::Flush
            | Operation::GetId
            | Operation::Unsupported(_) => false,
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Operation::Read => f.write_str("READ"),
            Operation::Write => f.write_str("WRITE"),
            Operation::Flush => f.write_str("FLUSH"),
            Operation::Discard => f.write_str("DISCARD"),
            Operation::WriteZeroes => f.write_str("WRITE_ZEROES"),
            Operation::WriteZeroesUnmap => f.write_str("WRITE_ZEROES(unmap)"),
            Operation::GetId => f.write_str("GET_ID"),
            Operation::Unsupported(kind) => write!(f, "TYPE {kind}"),
        }
    }
}

/// The answer to a request, as virtio-blk has it (virtio 1.2, 5.2.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// `VIRTIO_BLK_S_OK`
    Ok,
    /// `VIRTIO_BLK_S_IOERR`
    IoErr,
    /// `VIRTIO_BLK_S_UNSUPP`
    Unsupported,
}

/// Whether a payload is a commit block of ext4's journal: block type 2 behind jbd2's magic, both big-endian (`include/linux/jbd2.h`).
pub fn is_commit_block(payload: &[u8]) -> bool {
    payload.len() >= 1024 && payload[..8] == [0xc0, 0x3b, 0x39, 0x98, 0, 0, 0, 2]
}

/// CRC-32 (IEEE 802.3, as zlib's) of each whole sector of `bytes`, in order; a tail shorter than a sector is digested as it is.
pub fn sector_digests(bytes: &[u8]) -> impl Iterator<Item = u32> {
    bytes.chunks(SECTOR_BYTES).map(crc32fast::hash)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn intersection_holds_what_both_contain(a in 0u64..60, n in 0u64..20, b in 0u64..60, m in 0u64..20, s in 0u64..80) {
            let x = SectorRange::new(Sector(a), n).unwrap();
            let y = SectorRange::new(Sector(b), m).unwrap();
            let both = x.contains(Sector(s)) && y.contains(Sector(s));
            prop_assert_eq!(x.intersection(y).is_some_and(|r| r.contains(Sector(s))), both);
            prop_assert_eq!(x.intersection(y), y.intersection(x));
        }
    }

    #[test]
    fn a_range_past_the_end_of_numbers_is_refused() {
        assert_eq!(SectorRange::new(Sector(u64::MAX), 1), None);
        assert!(SectorRange::new(Sector(u64::MAX), 0).is_some());
    }
}
