//! An intent of the workload's: where it lies, and what it means for each sector.

use crate::block::{Sector, SectorRange};
use crate::event::EventNo;
use crate::mark::Intent;
use crate::md::{ArrayKey, Stripe};
use crate::stamp::Stamp;

/// An intent by its place in the book.
pub(crate) type IntentNo = u32;

/// An intent.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) no: IntentNo,
    pub(crate) intent: Intent,
    pub(crate) key: ArrayKey,
    /// Array sectors.
    pub(crate) array: SectorRange,
    pub(super) striped: Striped,
    pub(crate) begin: EventNo,
    pub(crate) begin_us: u64,
    /// Its end, or the end of its boot; 0: open.
    pub(crate) end: EventNo,
    pub(crate) end_us: u64,
    /// Whether it ended well.
    pub(crate) ok: bool,
    pub(super) digests: Box<[u32]>,
    /// Whether it lay over others when it began.
    pub(super) over: bool,
    /// The IV of its first sector, where its target is encrypted.
    pub(super) iv: Option<Sector>,
    /// Sectors of which its content, or what it leaves unknown, is acceptable still.
    pub(super) cells: u32,
}

/// A content that a write means for an array sector: a stamp, and the IV that it is encrypted with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Meant {
    pub(crate) stamp: Stamp,
    pub(crate) iv: Option<Sector>,
}

impl Record {
    /// The digest that the write meant for an array sector; `None` if the content is not known.
    pub(crate) fn digest(&self, sector: Sector) -> Option<u32> {
        let at = sector.0.checked_sub(self.array.start().0)?;
        self.digests.get(usize::try_from(at).ok()?).copied()
    }

    /// What it means for an array sector.
    pub(crate) fn meant(&self, run: u64, sector: Sector) -> Option<Meant> {
        self.digest(sector)?;
        Some(self.meant_at(run, self.offset(sector)?))
    }

    /// The sector of the request that an array sector is, from 0 on.
    pub(super) fn offset(&self, sector: Sector) -> Option<u64> {
        offset(self.array, self.striped, sector)
    }

    /// The request's sectors as the guest numbers them: on the whole, if the array is one mirror's part of it.
    pub(crate) fn on_whole(&self) -> SectorRange {
        let first = self.striped.map(|(_, first)| first);
        first
            .and_then(|first| SectorRange::new(first, self.intent.count.into()))
            .unwrap_or(self.array)
    }

    pub(super) fn meant_at(&self, run: u64, at: u64) -> Meant {
        Meant {
            stamp: Stamp {
                run,
                target: self.intent.target,
                sector: Sector(self.intent.sector.0 + at),
                writer: self.intent.writer,
                sequence: self.intent.sequence,
            },
            iv: self.iv.and_then(|iv| iv.checked_add(at)),
        }
    }

    pub(super) fn ended(&self) -> bool {
        self.end > EventNo(0)
    }
}

/// A part of a request: sectors of one array.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part {
    pub(crate) key: ArrayKey,
    /// Array sectors.
    pub(crate) array: SectorRange,
    pub(crate) striped: Striped,
}

/// Where the part of a request that is on one mirror of a raid10 lies in it: the stripe, and the request's first sector on the whole.
type Striped = Option<(Stripe, Sector)>;

impl Part {
    /// The sector of the request that an array sector is, from 0 on.
    pub(crate) fn offset(&self, sector: Sector) -> Option<u64> {
        offset(self.array, self.striped, sector)
    }
}

fn offset(array: SectorRange, striped: Striped, sector: Sector) -> Option<u64> {
    let (at, first) = match striped {
        Some((stripe, first)) => (stripe.on_array(sector), first),
        None => (sector, array.start()),
    };
    at.0.checked_sub(first.0)
}
