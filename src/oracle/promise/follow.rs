//! From events to checks: what arrives, is fetched and ends is sorted, and handed to the checks that it concerns.

use super::class::Class;
use crate::block::{LegId, Operation, RequestId, Sector, SectorRange, Status};
use crate::event::{Arrived, Digests, EventNo};
use crate::finding::Check;
use crate::md::{Array, IN_SYNC, Member, Superblock};
use crate::oracle::checker::Checker;
use crate::oracle::world::array_range;
use crate::shadow::{Bytes, Open, RangeSet};

impl Checker {
    pub(crate) fn promise_boot(&mut self) {
        for array in self.world.md.arrays() {
            let dirty = array.active().any(|member| {
                let superblock = self.promises.leg(member.leg).superblock.as_ref();
                superblock.is_some_and(|superblock| superblock.resync_offset != IN_SYNC)
            });
            if dirty && !array.declared {
                self.promises.resync_due.insert(array.key);
            }
        }
        self.boot_gone();
        let promises = &mut self.promises;
        promises.classes.clear();
        promises.payloads.clear();
        promises.late_bits.clear();
        promises.doubts.clear();
        promises.arrivals_us.clear();
        promises.gates.clear();
        promises.to_the_gone.clear();
        promises.lost.clear();
        let bad = promises.legs.iter().zip(0..).map(|(wire, leg)| {
            let mut sectors = RangeSet::default();
            for bad in &wire.bad {
                sectors.insert(*bad);
            }
            (LegId(leg), sectors)
        });
        promises.unrecorded.boot(bad);
        promises.early_reads.clear();
        promises.windows.clear();
        promises.checkpoints.clear();
        promises.scrubs.clear();
        promises.serial.clear();
        promises.sync_looks.boot();
        for leg in &mut promises.legs {
            leg.kernel = EventNo(0);
            leg.wrote = EventNo(0);
            leg.out = false;
            leg.forget_errors();
            leg.header_at_arrival.clear();
            // What was fetched and never completed may or may not be there.
            leg.sent = leg.held.clone();
        }
    }

    pub(crate) fn promise_initial(&mut self, leg: LegId, start: Sector, bytes: &[u8]) {
        let wire = &mut self.promises.legs[leg.index()];
        wire.done.put(start, bytes);
        wire.held = None;
        wire.read_again();
        self.world.bad[leg.index()] = wire.bad.iter().copied().collect();
    }

    /// A power cut took this from a leg's cache; `payload`: what is there now, of metadata.
    pub(crate) fn promise_lost(&mut self, leg: LegId, range: SectorRange, payload: Option<&[u8]>) {
        self.promises.cut_short.over(leg, range);
        self.promises.unrecorded.written(leg, range);
        self.cache_lost(leg, range);
        let inside = |data: SectorRange| data.covers(range);
        let data = self.world.md.of(leg).map(|(_, member)| member.data);
        let Some(payload) = payload.filter(|_| !data.is_some_and(inside)) else {
            return;
        };
        // Marks may be gone with it by which md would have copied, and what it had on record.
        if let Some(key) = self.promised(leg).map(|(array, _)| array.key) {
            self.promises.cut_short.forget(key);
        }
        self.promises.unrecorded.forget(leg);
        let wire = &mut self.promises.legs[leg.index()];
        wire.done.put(range.start(), payload);
        wire.bits_lost(range.start(), payload);
        wire.sent = wire.held.clone();
        wire.read_again();
    }

    pub(crate) fn promise_arrived(&mut self, no: EventNo, us: u64, arrived: &Arrived) {
        let id = arrived.request;
        let Some(range) = arrived.ranges.first().copied() else {
            return;
        };
        self.bits_overdue(no, us);
        self.stir_gone(id.leg, range);
        match arrived.operation {
            Operation::Read => self.promise_read(no, arrived, range),
            Operation::Write => {
                let wire = &mut self.promises.legs[id.leg.index()];
                let data = self.world.md.of(id.leg).map(|(_, member)| member.data);
                if data.is_none_or(|data| !data.covers(range)) {
                    self.promises.arrivals_us.insert(id, us);
                }
                if wire.touches_superblock(range) {
                    let events = wire.bitmap().map(|copy| copy.header().events);
                    wire.header_at_arrival.insert(id, events);
                }
                self.bad_block_written(id.leg, range);
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

    fn promise_read(&mut self, no: EventNo, arrived: &Arrived, range: SectorRange) {
        let id = arrived.request;
        if self.looks_at_superblock(id.leg, range) {
            self.promises.legs[id.leg.index()].read_since = true;
        }
        let Some((array, member)) = self.promised(id.leg) else {
            return;
        };
        let Some(on_array) = array_range(member, range) else {
            return;
        };
        let (key, array) = (array.key, array.clone());
        let segments = &arrived.segments;
        let classes = &mut self.promises.classes;
        classes.remember(no, id.leg, segments, key, on_array.start());
        self.bb_noread(no, id, range);
        self.window_opens(no, id.leg, &array, on_array);
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
        let read_fix = self
            .promises
            .leg(id.leg)
            .read_errors
            .first_in(range)
            .is_some();
        if !read_fix {
            self.scrub_written(array.key, id.leg, on_array);
        }
        if arrived.operation == Operation::Discard {
            self.discarded(&array, on_array);
            self.read_discarded(array.key, on_array);
        }
        let from = self.read_from(arrived, &array, on_array);
        let class = self.class(arrived, &array, &member, range, on_array, from);
        if let Some(class) = class {
            self.promises.classes.set(id, class);
            if let Some((from, read)) = from {
                self.window_written(id, array.key, on_array, from, read);
            }
            if member.slot.is_none() {
                self.fault_silent(no, us, id, &array, &member, on_array);
            }
            return;
        }
        let part = range.intersection(member.data).unwrap_or_default();
        self.window_crossed(id, array.key, on_array);
        self.serial_excl(no, id, &array, on_array);
        self.gate_arrived(id, array.key);
        self.written_without(&array, on_array);
        self.fault_silent_trigger(&array);
        self.dirty_first(no, id, &array, &member, on_array, part);
        // raid10 hands a discard on without sending its bits (raid10.c:raid10_handle_discard).
        if !(array.raid10 && arrived.operation == Operation::Discard) {
            self.bit_first(no, us, id, &array, on_array);
        }
    }

    /// The READ whose pages a write comes from: of which leg, and when it arrived.
    fn read_from(
        &self,
        arrived: &Arrived,
        array: &Array,
        on_array: SectorRange,
    ) -> Option<(LegId, EventNo)> {
        let first = arrived.segments.first()?;
        let classes = &self.promises.classes;
        classes.read_into(first.gpa, array.key, on_array.start())
    }

    /// Whose a write is; `None`: the array's own.
    fn class(
        &self,
        arrived: &Arrived,
        array: &Array,
        member: &Member,
        range: SectorRange,
        on_array: SectorRange,
        from: Option<(LegId, EventNo)>,
    ) -> Option<Class> {
        let wire = self.promises.leg(arrived.request.leg);
        if let Some((from, _)) = from {
            Some(Class::Sync(from))
        } else if wire.read_errors.first_in(range).is_some() {
            Some(Class::ReadFix)
        } else if wire.unfixed.first_in(range).is_some() {
            Some(Class::Retry)
        } else if member.slot.is_none()
            || !self.runs(array)
            || self
                .promises
                .classes
                .any_read_into(&arrived.segments, array.key, on_array.start())
        {
            Some(Class::Other)
        } else {
            None
        }
    }

    pub(crate) fn promise_fetched(&mut self, no: EventNo, id: RequestId, payload: Option<&[u8]>) {
        let Some(range) = self
            .world
            .requests
            .open(id)
            .and_then(|open| open.ranges.first().copied())
        else {
            return;
        };
        self.data_fetched(no, id, range);
        let Some(payload) = payload else {
            return;
        };
        let wire = self.promises.leg(id.leg);
        let known = self.world.md.of(id.leg).map(|(_, member)| member.data);
        if known.is_some_and(|data| data.covers(range)) && !wire.touches_superblock(range) {
            self.preflush_order(no, id, range, payload);
            return;
        }
        self.bounds(no, id, range, payload);
        self.sb_good(no, id, range, payload);
        if self.promises.leg(id.leg).touches_superblock(range) {
            self.superblock_fetched(no, id, range, payload);
        }
        self.bits_fetched(no, id, range, payload);
        self.promises.payloads.insert(id, payload.to_vec());
    }

    /// A write to the data area was fetched: its content is known.
    fn data_fetched(&mut self, no: EventNo, id: RequestId, range: SectorRange) {
        let Some((key, on_array)) = self
            .promised(id.leg)
            .and_then(|(array, member)| Some((array.key, array_range(member, range)?)))
        else {
            return;
        };
        let promises = &mut self.promises;
        promises.cut_short.sent(id.leg, range);
        promises.unproven.entry(key).or_default().insert(on_array);
        promises.ever.entry(key).or_default().insert(on_array);
        self.gate_fetched(no, id);
        self.fault_silent_fetched(no, id);
        let class = self.promises.classes.of(id);
        let copied = matches!(class, Some(Class::Sync(from)) if from != id.leg);
        // md writes again from the pages into which it read another leg.
        let again = class == Some(Class::ReadFix)
            || copied
                && self
                    .promises
                    .leg(id.leg)
                    .read_errors
                    .first_in(range)
                    .is_some();
        if copied {
            self.promises.sync_looks.copied(key.uuid, on_array.count());
        } else {
            self.promises.checkpoints.over(id.leg, key, on_array);
        }
        let concerned = again
            || copied && !self.promises.checkpoints.is_empty()
            || self.promises.resync_due.contains(&key);
        if !concerned {
            return;
        }
        let Some((array, member)) = self
            .promised(id.leg)
            .map(|(array, member)| (array.clone(), member.clone()))
        else {
            return;
        };
        if again {
            self.repair_data(no, id, &array, &member);
        }
        if copied {
            self.copied_late(no, id, &array, &member);
        }
        self.read_over(no, id, copied, &array, &member);
    }

    fn superblock_fetched(
        &mut self,
        no: EventNo,
        id: RequestId,
        range: SectorRange,
        payload: &[u8],
    ) {
        let mut bytes = Bytes::default();
        bytes.put(range.start(), payload);
        let Ok(new) = self.promises.leg(id.leg).parts.find(&bytes) else {
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
        if array.key.uuid != new.uuid || !member.active {
            return;
        }
        self.events_step(no, id.leg, &array, &new, payload);
        self.bm_before_sb(no, id, &array, &member, &new);
        self.clean_quiet(no, id.leg, &array, &new);
    }

    /// A leg returned this to a READ; `honest`: no fault made it something else.
    pub(crate) fn promise_returned(
        &mut self,
        no: EventNo,
        id: RequestId,
        open: &Open,
        digests: &Digests,
        honest: bool,
    ) {
        let Some(range) = open.ranges.first().copied() else {
            return;
        };
        if !self.promises.scrubs.is_empty()
            && let Some((key, member)) = self
                .promised(id.leg)
                .map(|(array, member)| (array.key, member.clone()))
        {
            self.scrub_read(key, &member, range, Some(digests));
        }
        if honest {
            self.no_stale_read(no, id, open, digests);
            self.read_early(no, id, open, digests);
        }
    }

    pub(crate) fn promise_ended(
        &mut self,
        no: EventNo,
        us: u64,
        id: RequestId,
        open: &Open,
        status: Option<Status>,
    ) {
        let class = self.promises.classes.end(id);
        let payload = self.promises.payloads.remove(&id);
        let arrived_us = self.promises.arrivals_us.remove(&id);
        self.promises.gates.end(id);
        self.promises.to_the_gone.remove(&id);
        let ok = status == Some(Status::Ok);
        let wire = &mut self.promises.legs[id.leg.index()];
        wire.header_at_arrival.remove(&id);
        wire.last_end_us = us;
        if open.operation == Operation::Flush && status.is_some() {
            wire.flush_ended(open.arrived, no);
            if !ok {
                wire.flush_failed = no;
            }
        }
        self.answered(no, id, open, status, class);
        if matches!(class, Some(Class::Sync(_))) {
            self.window_ended(no, id);
        }
        if let (Some(range), Some(payload), true) = (open.ranges.first().copied(), payload, ok) {
            self.metadata_completed(no, us, id, range, &payload, arrived_us);
        }
    }

    /// What an answer says about the leg's sectors.
    fn answered(
        &mut self,
        no: EventNo,
        id: RequestId,
        open: &Open,
        status: Option<Status>,
        class: Option<Class>,
    ) {
        let put = matches!(open.operation, Operation::Write | Operation::Discard);
        if status == Some(Status::Ok) && put {
            for range in &open.ranges {
                self.promises.unrecorded.written(id.leg, *range);
                self.promises.cut_short.over(id.leg, *range);
                if open.operation == Operation::Discard {
                    let place = self.promised(id.leg).and_then(|(array, member)| {
                        Some((array.key, array_range(member, *range)?))
                    });
                    if let Some((key, on_array)) = place {
                        self.promises.checkpoints.over(id.leg, key, on_array);
                    }
                }
            }
        }
        let Some(status) = status.filter(|_| open.operation != Operation::Discard) else {
            return;
        };
        let wire = &mut self.promises.legs[id.leg.index()];
        if status == Status::Ok {
            let beside = |range: &SectorRange| !wire.touches_superblock(*range);
            if open.operation == Operation::Write && open.ranges.iter().any(beside) {
                wire.wrote = no;
            }
            if open.operation == Operation::Write && !wire.bad.is_empty() {
                for range in &open.ranges {
                    self.world.bad[id.leg.index()].remove(*range);
                }
            }
            if open.operation == Operation::Write && !wire.unfixed.is_empty() {
                for range in &open.ranges {
                    wire.unfixed.remove(*range);
                    wire.read_errors.remove(*range);
                }
            }
            return;
        }
        for range in &open.ranges {
            if open.operation.modifies() {
                self.promises.cut_short.failed(id.leg, *range);
            }
            wire.failed(no, *range);
            if open.operation == Operation::Read {
                wire.read_errors.insert(*range);
            }
        }
        let Some((array, member)) = self
            .promised(id.leg)
            .map(|(array, member)| (array.clone(), member.clone()))
        else {
            return;
        };
        for range in &open.ranges {
            match open.operation {
                Operation::Write if class.is_none() => {
                    self.write_failed(no, &array, &member, *range);
                }
                Operation::Read => self.scrub_read(array.key, &member, *range, None),
                Operation::Write
                | Operation::Discard
                | Operation::WriteZeroes
                | Operation::WriteZeroesUnmap
                | Operation::Flush
                | Operation::GetId
                | Operation::Unsupported(_) => {}
            }
        }
    }

    /// A write outside the data area has completed.
    fn metadata_completed(
        &mut self,
        no: EventNo,
        us: u64,
        id: RequestId,
        range: SectorRange,
        payload: &[u8],
        arrived_us: Option<u64>,
    ) {
        let wire = &mut self.promises.legs[id.leg.index()];
        if let Some(arrived_us) = arrived_us {
            wire.slowest_us = wire.slowest_us.max(us.saturating_sub(arrived_us));
        }
        wire.done.put(range.start(), payload);
        wire.bits_held(no, range.start(), payload);
        let inside = |place: Option<SectorRange>| {
            place.is_some_and(|place| place.intersection(range).is_some())
        };
        let list = wire.superblock.as_ref().and_then(|found| found.bad_blocks);
        if inside(list.map(|(place, _)| place)) {
            wire.rewritten = RangeSet::default();
            wire.read_bad_blocks();
            self.world.bad[id.leg.index()] = wire.bad.iter().copied().collect();
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
        self.superblock_completed(no, us, id.leg, range);
    }

    /// The kernel writes a superblock where `before` was: if it is the boot's first one of its array, and a program had left that array to be resynced (`mdadm
    /// --create` without `--assume-clean`), a resync is due.
    fn created(&mut self, leg: LegId, before: Option<&Superblock>) {
        if before.is_none_or(|before| before.resync_offset == IN_SYNC) {
            return;
        }
        let Some((array, member)) = self.promised(leg) else {
            return;
        };
        let fresh = |member: &Member| self.promises.leg(member.leg).kernel <= self.guest.boot_began;
        if member.active && array.active().count() >= 2 && array.members.iter().all(fresh) {
            let key = array.key;
            self.promises.resync_due.insert(key);
        }
    }

    fn superblock_completed(&mut self, no: EventNo, us: u64, leg: LegId, range: SectorRange) {
        let wire = &mut self.promises.legs[leg.index()];
        let before = wire.superblock.clone();
        let was_dirty = before
            .as_ref()
            .is_some_and(|found| found.resync_offset == 0);
        let events = before.as_ref().map(|found| found.events);
        let recovering = before
            .as_ref()
            .is_some_and(|found| found.recovery_offset.is_some());
        wire.read_again();
        self.world.bad[leg.index()] = wire.bad.iter().copied().collect();
        for written in wire.rewritten.ranges() {
            self.world.bad[leg.index()].remove(written);
        }
        let Some(new) = wire.superblock.clone() else {
            return;
        };
        if new.resync_offset == 0 && !was_dirty {
            wire.dirty_since = no;
        }
        if !wire.by_kernel(&new, range) {
            self.promises.unrecorded.forget(leg);
            return;
        }
        let first = wire.kernel <= self.guest.boot_began || wire.read_since;
        wire.step = match events {
            Some(old) if !first && new.events.checked_add(1) == Some(old) => -1,
            Some(old) if !first && new.events == old => wire.step,
            _ => 1,
        };
        self.created(leg, before.as_ref());
        let wire = &mut self.promises.legs[leg.index()];
        wire.kernel = no;
        wire.read_since = false;
        if let Some(key) = self.promised(leg).map(|(array, _)| array.key) {
            self.promises.cut_short.marks_known(key);
        }
        self.sb_peer(no, leg);
        self.resync_eq(no, leg);
        self.resync_ckpt(no, leg, new.resync_offset);
        if let Some(array) = self.promised(leg).map(|(array, _)| array.clone()) {
            self.see_gone(no, us, &array);
            if array.clean {
                self.resolve_lacks(&array);
            }
        }
        self.gates_open();
        match (recovering, new.recovery_offset) {
            (true, None) => self.rec_eq(no, leg),
            (_, Some(offset)) => {
                let key = self.promised(leg).map(|(array, _)| array.key);
                if let Some(key) = key.filter(|_| !recovering) {
                    self.promises.checkpoints.anew(Check::RecEq, key);
                }
                self.promises.legs[leg.index()].out = false;
                self.durable.troubles.made_up(leg);
                self.rec_ckpt(no, leg, offset);
            }
            (false, None) => {
                let spare = before.is_some_and(|old| old.role_of(old.dev_number) >= 0xff00);
                if self.promises.leg(leg).out || spare {
                    self.rec_none(no, leg);
                }
            }
        }
    }
}
