//! A leg's image at a number of the sequence.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

use super::{Effect, Effects, Side};
use crate::block::{LegId, SECTOR_BYTES, Sector, SectorRange};
use crate::event::EventNo;
use crate::journal::Reader;
use crate::shadow::RangeSet;

/// Zeros are written in pieces of so many bytes where a hole can't be made.
const PIECE: usize = 1 << 20;

/// What was built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Built {
    /// The last number that is in it; at most what was asked for.
    pub at: EventNo,
    /// Whether the journal ended before a number above what was asked for came.
    pub ended: bool,
    /// Sectors whose content at that number the journal does not have. They hold what was before.
    pub missing: u64,
    /// The first event whose payload the journal does not have.
    pub first_missing: Option<EventNo>,
}

/// Writes a leg as it was just behind the event `at` into a file that has the leg's size and reads as zeros (or holds the leg as it was when the run
/// began).
///
/// # Errors
/// The journal's and the file's own.
pub fn build<R: Read>(
    reader: &mut Reader<R>,
    leg: LegId,
    side: Side,
    at: EventNo,
    out: &File,
) -> io::Result<Built> {
    let sectors = reader
        .header()
        .legs
        .get(leg.index())
        .map_or(0, |head| head.sectors);
    let whole_of = |sectors| SectorRange::new(Sector(0), sectors).unwrap_or_default();
    let mut whole = whole_of(sectors);
    let mut effects = Effects::new(leg, side);
    let mut missing = RangeSet::default();
    let mut built = Built {
        at: EventNo(0),
        ended: true,
        missing: 0,
        first_missing: None,
    };
    while let Some(event) = reader.next_event()? {
        if event.no > at {
            built.ended = false;
            break;
        }
        built.at = event.no;
        for effect in effects.of(&event) {
            match effect {
                Effect::Bytes { start, bytes } => {
                    let count = (bytes.len() / SECTOR_BYTES) as u64;
                    let Some(range) = SectorRange::new(start, count).filter(|r| whole.covers(*r))
                    else {
                        continue;
                    };
                    missing.remove(range);
                    out.write_all_at(&bytes, start.0 * SECTOR_BYTES as u64)?;
                }
                Effect::Zeros(range) => {
                    let Some(range) = range.intersection(whole) else {
                        continue;
                    };
                    missing.remove(range);
                    zero(out, range)?;
                }
                Effect::Size(sectors) => {
                    whole = whole_of(sectors);
                    out.set_len(sectors * SECTOR_BYTES as u64)?;
                }
                Effect::Missing(range) => {
                    let Some(range) = range.intersection(whole) else {
                        continue;
                    };
                    built.first_missing.get_or_insert(event.no);
                    missing.insert(range);
                }
            }
        }
    }
    built.missing = missing.count();
    Ok(built)
}

/// Makes a range read as zeros: a hole where the file system has them.
fn zero(out: &File, range: SectorRange) -> io::Result<()> {
    use rustix::fs::{FallocateFlags, fallocate};
    let (mut at, mut left) = (
        range.start().0 * SECTOR_BYTES as u64,
        range.count() * SECTOR_BYTES as u64,
    );
    let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    if fallocate(out, hole, at, left).is_ok() {
        return Ok(());
    }
    let piece = vec![0; PIECE];
    while left > 0 {
        let count = usize::try_from(left).map_or(PIECE, |left| left.min(PIECE));
        out.write_all_at(&piece[..count], at)?;
        at += count as u64;
        left -= count as u64;
    }
    Ok(())
}
