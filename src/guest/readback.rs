//! Reading back: every sector whose content the model is sure of is read past the page cache and compared with its stamp, all 512 bytes.
//!
//! Workloads may run meanwhile: what the model says is taken before and after a read, and a sector for which that differs is skipped.

use std::fmt::Write;
use std::fs::File;

use super::control::Marker;
use super::model::{Known, Model};
use super::sys::{self, Memory};
use super::target::Target;
use super::{Error, Shared, context};
use crate::block::{SECTOR_BYTES, Sector, SectorRange};
use crate::mark::Mark;
use crate::stamp::Stamp;

/// The most sectors of one read.
const READ_SECTORS: u64 = 8 * Model::TABLE_SECTORS;
/// The most bad sectors that are told one by one.
const TOLD_MAX: u64 = 16;

/// What a read-back found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) good: u64,
    pub(super) bad: u64,
    /// The first error that a read gave.
    pub(super) error: Option<String>,
}

/// Reads a target back; tells bad sectors and the counts.
pub(super) fn run(
    shared: &Shared,
    marker: &mut Marker,
    step: u32,
    target: &Target,
) -> Result<Outcome, Error> {
    let file = sys::open_direct(&target.path, libc::O_CLOEXEC)
        .map_err(context(format!("opening {}", target.path.display())))?;
    let mut outcome = Outcome::default();
    let mut buffer =
        Memory::new(sys::sectors_len(READ_SECTORS)).map_err(context("memory for the read-back"))?;
    let tables = target.model().tables();
    for range in reads(&tables, target.geometry.sectors) {
        let before = target.model().known(range);
        // From the first to the last known sector, on whole blocks.
        let block = target.geometry.block_sectors;
        let is_known = |known: &Known| *known != Known::Nothing;
        let (Some(first), Some(last)) = (
            before.iter().position(is_known),
            before.iter().rposition(is_known),
        ) else {
            continue;
        };
        let start = (range.start().0 + first as u64) / block * block;
        let end = (range.start().0 + last as u64 + 1).next_multiple_of(block);
        let Some(whole) = SectorRange::new(Sector(start), end - start) else {
            continue;
        };
        let errors = read(&file, whole, block, &mut buffer);
        outcome.error = outcome.error.take().or_else(|| {
            errors
                .first()
                .map(|(sector, error)| format!("reading sector {sector}: {error}"))
        });
        let after = target.model().known(range);
        for ((sector, before), after) in range.sectors().zip(before).zip(after) {
            if before != after || before == Known::Nothing {
                continue;
            }
            let at = sys::sectors_len(sector.0 - start);
            let bytes = &buffer.bytes()[at..at + SECTOR_BYTES];
            let unread = errors
                .iter()
                .any(|(from, _)| (*from..from + block).contains(&sector.0));
            if !unread && is_right(shared.run, target.number, sector, before, bytes) {
                outcome.good += 1;
                continue;
            }
            outcome.bad += 1;
            if outcome.bad <= TOLD_MAX && !unread {
                marker.tell(&bad_read(target.number, sector, bytes))?;
            }
        }
    }
    marker.tell(&Mark::ReadBackEnd {
        step,
        good: outcome.good,
        bad: outcome.bad,
    })?;
    Ok(outcome)
}

/// The reads that cover the model's tables, none past the device's end.
fn reads(tables: &[u64], sectors: u64) -> Vec<SectorRange> {
    let mut out: Vec<SectorRange> = Vec::new();
    for table in tables {
        let count = Model::TABLE_SECTORS.min(sectors.saturating_sub(*table));
        match out.last_mut() {
            Some(last) if last.end().0 == *table && last.count() + count <= READ_SECTORS => {
                *last = SectorRange::new(last.start(), last.count() + count).expect("on a device");
            }
            _ => out.push(SectorRange::new(Sector(*table), count).expect("on a device")),
        }
    }
    out
}

/// Reads a range into the buffer's start; if that fails, block by block. Returns the first sectors of blocks that could not be read.
fn read(
    file: &File,
    whole: SectorRange,
    block: u64,
    buffer: &mut Memory,
) -> Vec<(u64, std::io::Error)> {
    let out = &mut buffer.bytes_mut()[..sys::sectors_len(whole.count())];
    if sys::read_sectors(file, whole.start().0, out).is_ok() {
        return Vec::new();
    }
    let mut errors = Vec::new();
    for (at, part) in (0..).zip(out.chunks_exact_mut(sys::sectors_len(block))) {
        let sector = whole.start().0 + at * block;
        if let Err(error) = sys::read_sectors(file, sector, part) {
            errors.push((sector, error));
        }
    }
    errors
}

fn is_right(run: u64, target: u16, sector: Sector, known: Known, bytes: &[u8]) -> bool {
    let Some((found, whole)) = Stamp::read(bytes) else {
        return false;
    };
    let place_is_right = found.run == run && found.target == target && found.sector == sector;
    whole
        && place_is_right
        && match known {
            Known::Exactly { writer, sequence } => {
                found.writer == writer && found.sequence == u64::from(sequence)
            }
            Known::SomeStamp => true,
            Known::Nothing => false,
        }
}

fn bad_read(target: u16, sector: Sector, bytes: &[u8]) -> Mark {
    let head = bytes[..48].iter().fold(String::new(), |mut out, byte| {
        write!(out, "{byte:02x}").expect("a string takes all text");
        out
    });
    Mark::BadRead {
        target,
        sector,
        head,
        digest: crc32fast::hash(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_cover_neighbouring_tables_together_and_stop_at_the_end() {
        let table = Model::TABLE_SECTORS;
        let tables: Vec<u64> = (0..10).chain([20]).map(|n| n * table).collect();
        let reads = reads(&tables, 20 * table + 7);
        let shape: Vec<_> = reads.iter().map(|r| (r.start().0, r.count())).collect();
        assert_eq!(
            shape,
            [(0, 8 * table), (8 * table, 2 * table), (20 * table, 7)]
        );
    }

    #[test]
    fn only_the_known_version_is_right() {
        let stamp = Stamp {
            run: 1,
            target: 2,
            sector: Sector(3),
            writer: 4,
            sequence: 5,
        };
        let bytes = stamp.to_sector();
        let exactly = |writer, sequence| Known::Exactly { writer, sequence };
        let right = |known, bytes: &[u8]| is_right(1, 2, Sector(3), known, bytes);
        assert!(right(exactly(4, 5), &bytes) && right(Known::SomeStamp, &bytes));
        assert!(!right(exactly(4, 4), &bytes) && !right(exactly(5, 5), &bytes));
        let mut torn = bytes;
        torn[500] ^= 1;
        assert!(!right(Known::SomeStamp, &torn) && !right(Known::SomeStamp, &[0; 512]));
        assert!(!is_right(1, 2, Sector(4), Known::SomeStamp, &bytes));
    }
}
