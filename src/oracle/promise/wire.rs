//! What a leg's metadata says, as sent and as completed, and what its answers were.

use std::collections::{BTreeMap, VecDeque};

use super::gone::Gone;
use crate::block::{RequestId, Sector, SectorRange};
use crate::event::EventNo;
use crate::header::LegHead;
use crate::md::bitmap::bad_blocks;
use crate::md::superblock::{BadSuperblock, Superblock, feature};
use crate::md::{BadBitmap, BitmapCopy, Parts};
use crate::shadow::{Bytes, RangeSet};

/// FLUSHes that are remembered a leg.
const FLUSHES_MAX: usize = 16;
/// Errors that are remembered a leg.
const ERRORS_MAX: usize = 1024;

/// Bits of which it is remembered when they were set, a leg.
const SET_AT_MAX: usize = 1 << 18;

/// When bits were set, as far as that may matter still.
#[derive(Debug, Default)]
pub(crate) struct SetAt {
    at: BTreeMap<u64, EventNo>,
    /// Whether there were too many: of these it is no longer known.
    pub(crate) forgot: bool,
}

impl SetAt {
    /// When a chunk's bit was set; `None`: it is not, or was flushed since, or that is no longer known.
    pub(super) fn get(&self, chunk: u64) -> Option<EventNo> {
        self.at.get(&chunk).copied()
    }

    /// A bit was set. What was before `flushed`, the arrival of the last FLUSH that has ended, is as good as forgotten.
    fn set(&mut self, chunk: u64, no: EventNo, flushed: EventNo) {
        if self.at.len() >= SET_AT_MAX {
            self.at.retain(|_, at| *at >= flushed);
            if self.at.len() > SET_AT_MAX / 2 {
                self.at.clear();
                self.forgot = true;
            }
        }
        self.at.insert(chunk, no);
    }

    pub(super) fn forget(&mut self, chunk: u64) {
        self.at.remove(&chunk);
    }
}

#[derive(Debug)]
pub(crate) struct LegWire {
    /// What of the leg md was given.
    pub(super) parts: Parts,
    pub(super) block_sectors: u64,
    pub(super) write_cache: bool,
    /// The metadata as completed. (The world's bytes are as fetched.)
    pub(super) done: Bytes,
    /// The last superblock that completed.
    pub(crate) superblock: Option<Superblock>,
    /// Completion of the kernel's last superblock write in this boot; 0: none yet.
    pub(super) kernel: EventNo,
    /// Completion of the last write in this boot to the bitmap or to data; 0: none yet.
    pub(super) wrote: EventNo,
    /// Whether somebody read the superblock since: perhaps an assembly.
    pub(super) read_since: bool,
    /// The last change of the events counter.
    pub(super) step: i8,
    /// Completion of the superblock that made it dirty.
    pub(super) dirty_since: EventNo,
    /// Latest arrival of a FLUSH that has ended, well or not.
    pub(super) flushed: EventNo,
    /// The last end of a FLUSH that was answered with an error.
    pub(super) flush_failed: EventNo,
    /// The bitmap as fetched, and as completed.
    pub(super) sent: Option<BitmapCopy>,
    pub(super) held: Option<BitmapCopy>,
    /// Sectors that the bitmap is about since the array grew, in this boot, and of whose chunks no bit was set since (K10).
    grown: RangeSet,
    /// Why the bitmap that its superblock names is not looked at.
    pub(crate) refused: Option<&'static str>,
    /// When bits were set in the completed copy.
    pub(crate) set_at: SetAt,
    /// The bitmap's counter when the superblock in flight arrived.
    pub(super) header_at_arrival: BTreeMap<RequestId, Option<u64>>,
    /// The last errors that the leg returned in this boot, and the newest one that is no longer among them.
    errors: VecDeque<(SectorRange, EventNo)>,
    forgotten_error: EventNo,
    /// Sectors for which it returned an error and that were not written well since; and of these where a READ got it.
    pub(super) unfixed: RangeSet,
    pub(super) read_errors: RangeSet,
    /// The bad-block list as completed, and what was written to in it since.
    pub(super) bad: Vec<SectorRange>,
    pub(super) rewritten: RangeSet,
    /// Whether md has it on record that the leg is away.
    pub(super) gone: Gone,
    /// Whether, in this boot, a superblock of the kernel's gave it no slot since its own last gave it one.
    pub(super) out: bool,
    /// The last FLUSHes that ended: arrival and end.
    pub(super) flushes: VecDeque<(EventNo, EventNo)>,
    /// When a request of the leg last ended, in microseconds.
    pub(super) last_end_us: u64,
    /// The longest that a metadata write took, in microseconds.
    pub(super) slowest_us: u64,
    /// What was reported already, by what it depended on.
    pub(super) said: EventNo,
}

impl LegWire {
    pub(super) fn new(leg: &LegHead) -> LegWire {
        LegWire {
            parts: Parts::new(leg.part()),
            block_sectors: u64::from(leg.config.block_size) / 512,
            write_cache: leg.config.write_cache,
            done: Bytes::default(),
            superblock: None,
            kernel: EventNo(0),
            wrote: EventNo(0),
            read_since: false,
            step: 1,
            dirty_since: EventNo(0),
            flushed: EventNo(0),
            flush_failed: EventNo(0),
            sent: None,
            held: None,
            grown: RangeSet::default(),
            refused: None,
            set_at: SetAt::default(),
            header_at_arrival: BTreeMap::new(),
            errors: VecDeque::new(),
            forgotten_error: EventNo(0),
            unfixed: RangeSet::default(),
            read_errors: RangeSet::default(),
            bad: Vec::new(),
            rewritten: RangeSet::default(),
            gone: Gone::default(),
            out: false,
            flushes: VecDeque::new(),
            last_end_us: 0,
            slowest_us: 0,
            said: EventNo(0),
        }
    }

    /// A FLUSH has ended, well or not.
    pub(super) fn flush_ended(&mut self, arrived: EventNo, ended: EventNo) {
        self.flushed = self.flushed.max(arrived);
        if self.flushes.len() == FLUSHES_MAX {
            self.flushes.pop_front();
        }
        self.flushes.push_back((arrived, ended));
    }

    /// Whether a FLUSH that arrived after `after` had ended before `before`; where that is no longer known, it had.
    pub(super) fn flushed_between(&self, after: EventNo, before: EventNo) -> bool {
        let forgotten = self.flushes.len() == FLUSHES_MAX
            && self
                .flushes
                .front()
                .is_some_and(|(arrived, _)| *arrived > after);
        forgotten
            || self
                .flushes
                .iter()
                .any(|(arrived, ended)| *arrived > after && *ended < before)
    }

    /// Whether the leg returned an error for some of these sectors later than that.
    pub(super) fn failed_since(&self, range: SectorRange, no: EventNo) -> bool {
        let mut since = self.errors.iter().rev().take_while(|(_, at)| *at > no);
        self.forgotten_error > no || since.any(|(failed, _)| failed.intersection(range).is_some())
    }

    /// The leg returned an error.
    pub(super) fn failed(&mut self, no: EventNo, range: SectorRange) {
        if self.errors.len() == ERRORS_MAX
            && let Some((_, at)) = self.errors.pop_front()
        {
            self.forgotten_error = at;
        }
        self.errors.push_back((range, no));
        self.unfixed.insert(range);
    }

    /// A boot begins: errors were the one's before, and bits are set anew by what is read.
    pub(super) fn forget_errors(&mut self) {
        self.grown = RangeSet::default();
        self.errors.clear();
        self.forgotten_error = EventNo(0);
        self.unfixed = RangeSet::default();
        self.read_errors = RangeSet::default();
    }

    /// Whether this leg's superblock says that another device is faulty, removed or a spare.
    pub(super) fn records_away(&self, dev_number: u32) -> bool {
        self.superblock
            .as_ref()
            .is_some_and(|own| own.role_of(dev_number) >= 0xff00)
    }

    /// Takes the bad-block list as it is now.
    pub(super) fn read_bad_blocks(&mut self) {
        let list = self
            .superblock
            .as_ref()
            .filter(|superblock| superblock.features & feature::BAD_BLOCKS != 0)
            .and_then(|superblock| superblock.bad_blocks);
        self.bad = list.map_or_else(Vec::new, |(place, shift)| {
            bad_blocks(&self.done.read(place.start(), place.count()), shift)
        });
    }

    pub(super) fn touches_superblock(&self, range: SectorRange) -> bool {
        self.parts.may_hold_superblock(range)
    }

    /// The place of the superblock that the leg has.
    pub(super) fn superblock_place(&self) -> SectorRange {
        let place = self.superblock.as_ref().map(|superblock| {
            SectorRange::new(superblock.position, superblock.sectors).unwrap_or_default()
        });
        place.unwrap_or_default()
    }

    /// Whether a write has the size in which the kernel writes superblocks: programs write whole pages.
    pub(super) fn by_kernel(&self, superblock: &Superblock, range: SectorRange) -> bool {
        let sectors = superblock
            .sectors
            .next_multiple_of(self.block_sectors.max(1));
        range.start() == superblock.position
            && range.count() == sectors
            && (sectors != 8 || superblock.events > 0)
    }

    /// Whether completed writes need a FLUSH to be durable, as far as was seen.
    pub(super) fn caches(&self) -> bool {
        self.write_cache && self.flushed > EventNo(0)
    }

    /// The bitmap that is in force, as completed.
    pub(crate) fn bitmap(&self) -> Option<&BitmapCopy> {
        self.held.as_ref().filter(|copy| self.trusts(copy))
    }

    pub(super) fn sent_bitmap(&self) -> Option<&BitmapCopy> {
        self.sent.as_ref().filter(|copy| self.trusts(copy))
    }

    pub(super) fn trusts(&self, copy: &BitmapCopy) -> bool {
        self.superblock.as_ref().is_some_and(|superblock| {
            superblock.bitmap == Some(copy.area().start())
                && copy.header().uuid == superblock.uuid
                && !copy.header().useless
        })
    }

    pub(super) fn read_again(&mut self) {
        self.superblock = match self.parts.find(&self.done) {
            Ok(found) => Some(found),
            Err(BadSuperblock::None) => None,
            Err(_) => self.superblock.take(),
        };
        self.read_bad_blocks();
        let place = self.superblock.as_ref().and_then(|found| found.bitmap);
        let here = self.held.as_ref().map(|copy| copy.area().start());
        if place != here || place.is_none() {
            self.read_bitmap(place);
            self.sent = self.held.clone();
        }
    }

    fn read_bitmap(&mut self, place: Option<Sector>) {
        let read = place.map(|at| BitmapCopy::read(at, self.sectors_at_most(), &self.done));
        self.refused = match &read {
            Some(Err(BadBitmap::Refused(why))) => Some(why),
            Some(Ok(_) | Err(BadBitmap::None)) | None => None,
        };
        self.held = read.and_then(Result::ok);
        self.set_at.at.clear();
    }

    /// How many sectors the leg's array can have.
    fn sectors_at_most(&self) -> u64 {
        let legs = self
            .superblock
            .as_ref()
            .filter(|superblock| superblock.level == 10)
            .map_or(1, |superblock| u64::from(superblock.raid_disks));
        self.parts.newest().count().saturating_mul(legs)
    }

    /// A metadata write was fetched: the leg is sent these bits. Tells which changed, unless all bits lie otherwise now: then `None`. `before`: the pages
    /// that are on their way already, the oldest first.
    pub(super) fn bits_sent<'a>(
        &mut self,
        start: Sector,
        payload: &'a [u8],
        before: impl Iterator<Item = (Sector, &'a [u8])> + Clone,
    ) -> Option<Vec<(u64, bool)>> {
        let most = self.sectors_at_most();
        let sent = self.sent.as_mut()?;
        if !sent.is_laid_anew(start, payload) {
            let changed = sent.apply(start, payload);
            if !self.grown.is_empty() {
                for (chunk, _) in changed.iter().filter(|(_, set)| *set) {
                    self.grown.remove(sent.sectors(*chunk));
                }
            }
            return Some(changed);
        }
        let pages = before.chain(std::iter::once((start, payload)));
        let anew = sent.anew(most, &self.done, pages).ok();
        if let Some(anew) = &anew {
            self.grown.remove(sent.all());
            self.grown.insert(anew.behind(sent));
        }
        self.sent = anew;
        None
    }

    /// Whether a chunk came with the array's growth, and its bit was never set since.
    pub(super) fn is_grown(&self, chunk: u64) -> bool {
        let sectors = self.sent.as_ref().map(|sent| sent.sectors(chunk));
        sectors.is_some_and(|sectors| self.grown.first_in(sectors).is_some())
    }

    /// A metadata write has completed (`done` has it already): the leg holds these bits.
    pub(super) fn bits_held(&mut self, no: EventNo, start: Sector, payload: &[u8]) {
        for (chunk, set) in self.changed_bits(start, payload) {
            if set && self.write_cache {
                self.set_at.set(chunk, no, self.flushed);
            } else {
                self.set_at.forget(chunk);
            }
        }
    }

    /// A power cut left these bits there (`done` has them already).
    pub(super) fn bits_lost(&mut self, start: Sector, payload: &[u8]) {
        for (chunk, _) in self.changed_bits(start, payload) {
            self.set_at.forget(chunk);
        }
    }

    /// The bits that a write changes in the completed copy; none if all lie otherwise now.
    fn changed_bits(&mut self, start: Sector, payload: &[u8]) -> Vec<(u64, bool)> {
        let Some(held) = &mut self.held else {
            return Vec::new();
        };
        if held.is_laid_anew(start, payload) {
            let place = held.area().start();
            self.read_bitmap(Some(place));
            return Vec::new();
        }
        held.apply(start, payload)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// However many bits are set, and whether or not anybody flushes.
    #[test]
    fn the_times_of_bits_are_bounded() {
        for flushes in [false, true] {
            let mut times = SetAt::default();
            for no in 1..=3 * SET_AT_MAX as u64 {
                let flushed = EventNo(if flushes { no / 1000 * 1000 } else { 0 });
                times.set(no, EventNo(no), flushed);
                assert!(times.at.len() <= SET_AT_MAX);
                assert_eq!(times.get(no), Some(EventNo(no)));
            }
            assert_eq!(times.forgot, !flushes);
        }
    }
}
