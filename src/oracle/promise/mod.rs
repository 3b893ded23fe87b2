//! md's own metadata as the specification: each promise that md makes on the wire (a dirty mark, a bit, a clean superblock), and the checks that hold it
//! to it. One module a check; here is what they look at, kept up to date from the events.
//!
//! Three moments of a request are three different things: at its *arrival* the guest has submitted it, at its *fetch* its payload is read from guest memory
//! (metadata pages are live: what is in them then is what md thinks then), at its *completion* the leg holds it.
//!
//! A data-area write counts as *normal* (the array's own, not resync's or a repair's) unless it comes from guest pages that a READ of the same array sectors
//! went to before (`raid1.c:sync_request_write` writes the pages that it read), or touches sectors for which the leg returned an error (read-fix and
//! retries, `raid1.c:fix_read_error`, `narrow_write_error`). In doubt a write is not normal, and the checks leave it alone.

mod bit_clear_eq;
mod bit_first;
mod bm_before_sb;
mod bounds;
mod clean_quiet;
mod crash_covered;
mod dirty_first;
mod doubt;
mod entry;
mod events_step;
mod flush_all;
mod fua_tail;
mod meta_fua;
mod rec_eq;
mod resync_eq;
mod sb_peer;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::checker::Checker;
use super::world::array_range;
use crate::block::{LegId, Operation, RequestId, SECTOR_BYTES, Sector, SectorRange, Status};
use crate::event::{Arrived, EventNo, Segment};
use crate::finding::{Check, Wrongness};
use crate::header::RunHeader;
use crate::md::superblock::{self, BadSuperblock, Superblock};
use crate::md::{Array, ArrayKey, BitmapCopy, IN_SYNC, Member};
use crate::shadow::{Bytes, Open, RangeSet};

/// Neighbouring array sectors, the leg that is wrong there, and in which way.
type Difference = (SectorRange, (u8, Wrongness));

/// Pieces of memory that READs went to and that are remembered, to know resync's writes.
const PAGES_MAX: usize = 16_384;
/// Entries of one check that are made; more are the same bug over and over.
const ENTRIES_MAX: u32 = 64;

/// What a leg's metadata says, as completed.
#[derive(Debug)]
pub(crate) struct LegWire {
    sectors: u64,
    block_sectors: u64,
    write_cache: bool,
    /// The metadata as completed. (The world's bytes are as fetched.)
    done: Bytes,
    /// The last superblock that completed.
    pub(crate) superblock: Option<Superblock>,
    /// Completion of the kernel's last superblock write in this boot; 0: none yet.
    kernel: EventNo,
    /// Whether somebody read the superblock since: perhaps an assembly.
    read_since: bool,
    /// The last change of the events counter.
    step: i8,
    /// Completion of the superblock that made it dirty.
    dirty_since: EventNo,
    /// Latest arrival of a FLUSH that has ended, well or not.
    flushed: EventNo,
    /// The last end of a FLUSH that was answered with an error.
    flush_failed: EventNo,
    /// The bitmap as fetched, and as completed.
    sent: Option<BitmapCopy>,
    held: Option<BitmapCopy>,
    /// When bits were set in the completed copy.
    set_at: BTreeMap<u64, EventNo>,
    /// The bitmap's counter when the superblock in flight arrived.
    header_at_arrival: BTreeMap<RequestId, Option<u64>>,
    /// Sectors for which the leg returned an error.
    errors: RangeSet,
    /// The longest that a metadata write took, in microseconds.
    slowest_us: u64,
    /// What was reported already, by what it depended on.
    said: EventNo,
}

/// All of it.
#[derive(Debug)]
pub(crate) struct Promises {
    pub(crate) legs: Vec<LegWire>,
    /// Where in guest memory READs went: address of a piece to its end, the array, and its first array sector.
    pages: BTreeMap<u64, (u64, ArrayKey, Sector)>,
    pages_in_order: VecDeque<u64>,
    /// Requests in flight that are not normal.
    not_normal: BTreeSet<RequestId>,
    /// Payloads of metadata writes in flight.
    payloads: BTreeMap<RequestId, Vec<u8>>,
    /// Bits that must be sent soon.
    late_bits: Vec<bit_first::Late>,
    /// Array sectors written since they were last compared for a bit.
    unproven: BTreeMap<ArrayKey, RangeSet>,
    /// Array sectors written in the run, by anybody.
    ever: BTreeMap<ArrayKey, RangeSet>,
    /// Arrays that the boot before left dirty.
    resync_due: BTreeSet<ArrayKey>,
    doubts: doubt::Doubts,
    entries: BTreeMap<Check, u32>,
    arrivals_us: BTreeMap<RequestId, u64>,
}

impl Promises {
    pub(crate) fn new(header: &RunHeader) -> Promises {
        let legs = header
            .legs
            .iter()
            .map(|leg| LegWire {
                sectors: leg.sectors,
                block_sectors: u64::from(leg.config.block_size) / 512,
                write_cache: leg.config.write_cache,
                done: Bytes::default(),
                superblock: None,
                kernel: EventNo(0),
                read_since: false,
                step: 1,
                dirty_since: EventNo(0),
                flushed: EventNo(0),
                flush_failed: EventNo(0),
                sent: None,
                held: None,
                set_at: BTreeMap::new(),
                header_at_arrival: BTreeMap::new(),
                errors: RangeSet::default(),
                slowest_us: 0,
                said: EventNo(0),
            })
            .collect();
        Promises {
            legs,
            pages: BTreeMap::new(),
            pages_in_order: VecDeque::new(),
            not_normal: BTreeSet::new(),
            payloads: BTreeMap::new(),
            late_bits: Vec::new(),
            unproven: BTreeMap::new(),
            ever: BTreeMap::new(),
            resync_due: BTreeSet::new(),
            doubts: doubt::Doubts::default(),
            entries: BTreeMap::new(),
            arrivals_us: BTreeMap::new(),
        }
    }

    pub(crate) fn leg(&self, leg: LegId) -> &LegWire {
        &self.legs[leg.index()]
    }

    /// Whether the request is one that a check may hold md to.
    fn normal(&self, id: RequestId) -> bool {
        !self.not_normal.contains(&id)
    }

    fn remember_pages(&mut self, segments: &[Segment], key: ArrayKey, first: Sector) {
        let mut sector = first;
        for segment in segments {
            let end = segment.gpa.saturating_add(u64::from(segment.len));
            let over: Vec<u64> = self
                .pages
                .range(segment.gpa..end)
                .map(|(at, _)| *at)
                .collect();
            for at in over {
                self.pages.remove(&at);
            }
            self.pages.insert(segment.gpa, (end, key, sector));
            self.pages_in_order.push_back(segment.gpa);
            if self.pages_in_order.len() > PAGES_MAX
                && let Some(old) = self.pages_in_order.pop_front()
            {
                self.pages.remove(&old);
            }
            let count = u64::from(segment.len) / SECTOR_BYTES as u64;
            let Some(next) = sector.checked_add(count) else {
                return;
            };
            sector = next;
        }
    }

    /// Whether a READ of this array sector went to this address.
    fn was_read_into(&self, gpa: u64, key: ArrayKey, sector: Sector) -> bool {
        self.pages
            .range(..=gpa)
            .next_back()
            .is_some_and(|(start, (end, of, first))| {
                let at = (gpa - start) / SECTOR_BYTES as u64;
                gpa < *end && *of == key && first.checked_add(at) == Some(sector)
            })
    }
}

impl LegWire {
    fn touches_superblock(&self, range: SectorRange) -> bool {
        superblock::Layout::ALL
            .iter()
            .filter_map(|layout| layout.position(self.sectors))
            .filter_map(|at| SectorRange::new(at, 8))
            .any(|place| place.intersection(range).is_some())
    }

    /// The place of the superblock that the leg has.
    fn superblock_place(&self) -> SectorRange {
        let place = self.superblock.as_ref().map(|superblock| {
            SectorRange::new(superblock.position, superblock.sectors).unwrap_or_default()
        });
        place.unwrap_or_default()
    }

    /// Whether a write has the size in which the kernel writes superblocks: programs write whole pages.
    fn by_kernel(&self, superblock: &Superblock, range: SectorRange) -> bool {
        let sectors = superblock
            .sectors
            .next_multiple_of(self.block_sectors.max(1));
        range.start() == superblock.position
            && range.count() == sectors
            && (sectors != 8 || superblock.events > 0)
    }

    /// Whether completed writes need a FLUSH to be durable, as far as was seen.
    fn caches(&self) -> bool {
        self.write_cache && self.flushed > EventNo(0)
    }

    /// The bitmap that is in force, as completed.
    pub(crate) fn bitmap(&self) -> Option<&BitmapCopy> {
        self.held.as_ref().filter(|copy| self.trusts(copy))
    }

    fn sent_bitmap(&self) -> Option<&BitmapCopy> {
        self.sent.as_ref().filter(|copy| self.trusts(copy))
    }

    fn trusts(&self, copy: &BitmapCopy) -> bool {
        self.superblock.as_ref().is_some_and(|superblock| {
            superblock.bitmap == Some(copy.area().start())
                && copy.header().uuid == superblock.uuid
                && !copy.header().useless
        })
    }

    fn read_again(&mut self) {
        self.superblock = match superblock::find(&self.done, self.sectors) {
            Ok(found) => Some(found),
            Err(BadSuperblock::None) => None,
            Err(_) => self.superblock.take(),
        };
        let place = self.superblock.as_ref().and_then(|found| found.bitmap);
        let here = self.held.as_ref().map(|copy| copy.area().start());
        if place != here || place.is_none() {
            self.held = place.and_then(|at| BitmapCopy::read(at, &self.done));
            self.sent = self.held.clone();
            self.set_at.clear();
        }
    }
}

impl Checker {
    /// The array of a leg that the promises are about: one with superblocks, checked.
    fn promised(&self, leg: LegId) -> Option<(&Array, &Member)> {
        self.world.checked(leg).filter(|(array, _)| !array.declared)
    }

    /// Whether md runs the array in this boot: it wrote a superblock, or the workload has a target.
    fn runs(&self, array: &Array) -> bool {
        self.guest.target_in_boot
            || array
                .members
                .iter()
                .any(|member| self.promises.leg(member.leg).kernel > self.guest.boot_began)
    }

    pub(super) fn promise_boot(&mut self) {
        for array in self.world.md.arrays() {
            let dirty = array.active().any(|member| {
                let superblock = self.promises.leg(member.leg).superblock.as_ref();
                superblock.is_some_and(|superblock| superblock.resync_offset != IN_SYNC)
            });
            if dirty && !array.declared {
                self.promises.resync_due.insert(array.key);
            }
        }
        let promises = &mut self.promises;
        promises.pages.clear();
        promises.pages_in_order.clear();
        promises.not_normal.clear();
        promises.payloads.clear();
        promises.late_bits.clear();
        promises.doubts.clear();
        promises.arrivals_us.clear();
        for leg in &mut promises.legs {
            leg.kernel = EventNo(0);
            leg.header_at_arrival.clear();
            // What was fetched and never completed may or may not be there.
            leg.sent = leg.held.clone();
        }
    }

    pub(super) fn promise_initial(&mut self, leg: LegId, start: Sector, bytes: &[u8]) {
        let wire = &mut self.promises.legs[leg.index()];
        wire.done.put(start, bytes);
        wire.held = None;
        wire.read_again();
    }

    pub(super) fn promise_arrived(&mut self, no: EventNo, us: u64, arrived: &Arrived) {
        let id = arrived.request;
        let Some(range) = arrived.ranges.first().copied() else {
            return;
        };
        self.bits_overdue(no, us);
        let wire = &mut self.promises.legs[id.leg.index()];
        match arrived.operation {
            Operation::Read => {
                if wire.touches_superblock(range) {
                    wire.read_since = true;
                }
                let read = self.promised(id.leg).and_then(|(array, member)| {
                    Some((array.key, array_range(member, range)?.start()))
                });
                if let Some((key, sector)) = read {
                    self.promises.remember_pages(&arrived.segments, key, sector);
                }
            }
            Operation::Write => {
                let data = self.world.md.of(id.leg).map(|(_, member)| member.data);
                if data.is_none_or(|data| !data.covers(range)) {
                    self.promises.arrivals_us.insert(id, us);
                }
                if wire.touches_superblock(range) {
                    let events = wire.bitmap().map(|copy| copy.header().events);
                    wire.header_at_arrival.insert(id, events);
                }
                self.promise_write(no, us, arrived, range);
            }
            Operation::Discard => {
                for range in &arrived.ranges {
                    self.promise_write(no, us, arrived, *range);
                }
            }
            Operation::WriteZeroes
            | Operation::WriteZeroesUnmap
            | Operation::Flush
            | Operation::GetId
            | Operation::Unsupported(_) => {}
        }
    }

    fn promise_write(&mut self, no: EventNo, us: u64, arrived: &Arrived, range: SectorRange) {
        let id = arrived.request;
        let Some((array, member)) = self
            .promised(id.leg)
            .map(|(array, member)| (array.clone(), member.clone()))
        else {
            return;
        };
        let Some(on_array) = array_range(&member, range) else {
            return;
        };
        // The block layer merges and splits resync's requests on each leg in its own way: a write may begin in the middle of what was read.
        let sync = arrived.segments.first().is_some_and(|first| {
            self.promises
                .was_read_into(first.gpa, array.key, on_array.start())
        });
        let wire = self.promises.leg(id.leg);
        let retry = wire
            .errors
            .ranges()
            .any(|bad| bad.intersection(range).is_some());
        if sync || retry {
            self.promises.not_normal.insert(id);
            return;
        }
        if member.slot.is_none() || !self.runs(&array) {
            self.promises.not_normal.insert(id);
            return;
        }
        self.leg_is_alive(id.leg);
        let part = range.intersection(member.data).unwrap_or_default();
        self.dirty_first(no, id, &array, &member, on_array, part);
        self.bit_first(no, us, id, &array, on_array);
    }

    pub(super) fn promise_fetched(&mut self, no: EventNo, id: RequestId, payload: Option<&[u8]>) {
        let Some(range) = self
            .world
            .requests
            .open(id)
            .and_then(|open| open.ranges.first().copied())
        else {
            return;
        };
        if let Some((key, on_array)) = self
            .promised(id.leg)
            .and_then(|(array, member)| Some((array.key, array_range(member, range)?)))
        {
            self.promises
                .unproven
                .entry(key)
                .or_default()
                .insert(on_array);
            self.promises.ever.entry(key).or_default().insert(on_array);
        }
        let Some(payload) = payload else {
            return;
        };
        let wire = self.promises.leg(id.leg);
        let known = self.world.md.of(id.leg).map(|(_, member)| member.data);
        if known.is_some_and(|data| data.covers(range)) && !wire.touches_superblock(range) {
            return;
        }
        self.bounds(no, id, range, payload);
        if self.promises.leg(id.leg).touches_superblock(range) {
            self.superblock_fetched(no, id, range, payload);
        }
        self.bits_fetched(no, id, range, payload);
        self.promises.payloads.insert(id, payload.to_vec());
    }

    fn superblock_fetched(
        &mut self,
        no: EventNo,
        id: RequestId,
        range: SectorRange,
        payload: &[u8],
    ) {
        let sectors = self.promises.leg(id.leg).sectors;
        let mut bytes = Bytes::default();
        bytes.put(range.start(), payload);
        let Ok(new) = superblock::find(&bytes, sectors) else {
            return;
        };
        let wire = self.promises.leg(id.leg);
        if !wire.by_kernel(&new, range) {
            return;
        }
        let Some((array, member)) = self
            .promised(id.leg)
            .map(|(array, member)| (array.clone(), member.clone()))
        else {
            return;
        };
        if array.key != new.uuid || !member.active {
            return;
        }
        self.events_step(no, id.leg, &array, &new, payload);
        self.bm_before_sb(no, id, &array, &member, &new);
        self.clean_quiet(no, id.leg, &array, &new);
    }

    pub(super) fn promise_ended(
        &mut self,
        no: EventNo,
        us: u64,
        id: RequestId,
        open: &Open,
        status: Option<Status>,
    ) {
        self.promises.not_normal.remove(&id);
        let payload = self.promises.payloads.remove(&id);
        let arrived_us = self.promises.arrivals_us.remove(&id);
        let ok = status == Some(Status::Ok);
        let wire = &mut self.promises.legs[id.leg.index()];
        wire.header_at_arrival.remove(&id);
        if open.operation == Operation::Flush && status.is_some() {
            wire.flushed = wire.flushed.max(open.arrived);
            if !ok {
                wire.flush_failed = no;
            }
        }
        if status.is_some_and(|status| status != Status::Ok) && open.operation != Operation::Discard
        {
            for range in &open.ranges {
                wire.errors.insert(*range);
            }
        }
        let (Some(range), Some(payload)) = (open.ranges.first().copied(), payload) else {
            return;
        };
        if !ok {
            return;
        }
        if let Some(arrived_us) = arrived_us {
            wire.slowest_us = wire.slowest_us.max(us.saturating_sub(arrived_us));
        }
        wire.done.put(range.start(), &payload);
        if let Some(held) = &mut wire.held {
            for (chunk, set) in held.apply(range.start(), &payload) {
                if set {
                    wire.set_at.insert(chunk, no);
                } else {
                    wire.set_at.remove(&chunk);
                }
            }
        }
        let bitmap_moved = wire.held.is_none()
            && wire
                .superblock
                .as_ref()
                .and_then(|found| found.bitmap)
                .is_some_and(|at| range.contains(at));
        if !wire.touches_superblock(range) {
            if bitmap_moved {
                wire.read_again();
            }
            return;
        }
        let was_dirty = wire
            .superblock
            .as_ref()
            .is_some_and(|found| found.resync_offset == 0);
        let events = wire.superblock.as_ref().map(|found| found.events);
        let recovering = wire
            .superblock
            .as_ref()
            .is_some_and(|found| found.recovery_offset.is_some());
        wire.read_again();
        let Some(new) = wire.superblock.clone() else {
            return;
        };
        if new.resync_offset == 0 && !was_dirty {
            wire.dirty_since = no;
        }
        if wire.by_kernel(&new, range) {
            let first = wire.kernel <= self.guest.boot_began || wire.read_since;
            wire.step = match events {
                Some(old) if !first && new.events + 1 == old => -1,
                Some(old) if !first && new.events == old => wire.step,
                _ => 1,
            };
            wire.kernel = no;
            wire.read_since = false;
            self.sb_peer(no, id.leg);
            self.resync_eq(no, id.leg);
            if let Some(array) = self.promised(id.leg).map(|(array, _)| array.clone())
                && array.clean
            {
                self.resolve_lacks(&array);
            }
            if recovering && new.recovery_offset.is_none() {
                self.rec_eq(no, id.leg);
            }
        }
    }
}
