//! Events of the legs: requests that arrive, are fetched and end; and what follows for the checks at once.

use smallvec::SmallVec;

use super::buf_stable;
use super::checker::Checker;
use super::excuse::Excuse;
use super::intents::{Accept, Book};
use super::rounds::Rounds;
use super::same_pages::Points;
use super::world::{array_range, bit};
use super::wrong::{Write, Wrong};
use crate::block::{LegId, Operation, RequestId, SECTOR_BYTES, Sector, SectorRange, Status};
use crate::event::{Abandoned, Arrived, Completed, Content, Digests, EventNo, Fetched};
use crate::finding::{Check, Confidence, Wrongness};
use crate::md::{ArrayKey, Model};
use crate::shadow::{Ending, Open, State};

/// Where each sector of a request is in guest memory.
type Addresses = SmallVec<[u64; 8]>;

/// What is known of a write in flight: which of its sectors are whose stamps.
#[derive(Clone, Debug, Default)]
pub(crate) struct Note {
    runs: SmallVec<[Run; 1]>,
}

#[derive(Clone, Copy, Debug)]
struct Run {
    first: usize,
    count: usize,
    write: Write,
    immutable: bool,
    /// The intent's end, as far as known at the fetch, is looked up again at completion.
    id: u32,
}

impl Checker {
    pub(super) fn arrived(&mut self, no: EventNo, us: u64, arrived: &Arrived) {
        let leg = arrived.request.leg;
        if !self.world.has(leg) {
            return;
        }
        let overlaps = self.is_over_another(arrived);
        self.world.requests.arrive(no, us, arrived);
        let in_flight = self.world.requests.count(leg);
        let counts = &mut self.coverage.legs[leg.index()];
        counts.in_flight_max = counts.in_flight_max.max(in_flight);
        counts.overlaps += u64::from(overlaps);
        self.promise_arrived(no, us, arrived);
    }

    /// Whether it is a write to the data, and one of some of its sectors is in flight on the leg.
    fn is_over_another(&self, arrived: &Arrived) -> bool {
        let leg = arrived.request.leg;
        let ranges = &arrived.ranges;
        arrived.operation == Operation::Write
            && self.world.requests.count(leg) > 0
            && self.world.md.of(leg).is_some_and(|(_, member)| {
                let data = |range: &SectorRange| range.intersection(member.data).is_some();
                ranges.iter().any(data)
            })
            && self.world.requests.in_flight(leg).any(|(_, open)| {
                let over = |one: &SectorRange| {
                    ranges
                        .iter()
                        .any(|range| range.intersection(*one).is_some())
                };
                open.operation == Operation::Write && open.ranges.iter().any(over)
            })
    }

    pub(super) fn fetched(&mut self, no: EventNo, fetched: &Fetched) {
        let id = fetched.request;
        let Some((range, addresses)) = self.world.requests.open(id).and_then(|open| {
            let addresses: Addresses = open.addresses().collect();
            Some((*open.ranges.first()?, addresses))
        }) else {
            return;
        };
        self.world.requests.fetch(no, id, &fetched.digests);
        self.injected.changed(id, range);
        let shadow = self.world.shadow_mut(id.leg);
        shadow.fetched(range, no, id.number, &fetched.digests, &addresses);
        if let Some(payload) = &fetched.payload {
            self.put_bytes(id.leg, range, payload);
        }
        self.look_at_fetch(id, range, &fetched.digests, &addresses);
        self.promise_fetched(no, id, fetched.payload.as_deref());
    }

    /// Keeps payload outside the data area: there it can be metadata.
    pub(super) fn put_bytes(&mut self, leg: LegId, range: SectorRange, payload: &[u8]) {
        let data = self.world.md.of(leg).map(|(_, member)| member.data);
        let part = self.world.header.legs.get(leg.index()).map(|l| l.part());
        let data = data.and_then(|data| crate::md::never_metadata(data, part?));
        let bytes = &mut self.world.bytes[leg.index()];
        for (sector, whole) in range.sectors().zip(payload.chunks_exact(SECTOR_BYTES)) {
            if data.is_none_or(|data| !data.contains(sector)) {
                bytes.put(sector, whole);
            }
        }
    }

    fn look_at_fetch(
        &mut self,
        id: RequestId,
        range: SectorRange,
        digests: &Digests,
        addresses: &[u64],
    ) {
        let Some((key, member)) = self
            .world
            .checked(id.leg)
            .map(|(array, member)| (array.key, member.clone()))
        else {
            return;
        };
        let Some(on_array) = array_range(&member, range) else {
            return;
        };
        self.touch(key, on_array);
        let skip = member.data.start().0.saturating_sub(range.start().0);
        let leg_bit = bit(id.leg);
        let mut note = Note::default();
        for (at, sector) in on_array.sectors().enumerate() {
            let at = at + crate::block::to_usize(skip);
            let Some(digest) = digests.get(at).copied() else {
                break;
            };
            let Some(cell) = self.book.cell(key, sector) else {
                continue;
            };
            match self.book.accepts(cell, sector, Some(digest)) {
                Accept::Any => {}
                Accept::No => self.stray(key, sector, id.leg),
                Accept::Yes(intent) => {
                    self.count_pages(id.leg, intent, sector, addresses[at]);
                    if let Some(cell) = self.book.cell_mut(key, sector) {
                        cell.seen |= leg_bit;
                    }
                    self.note_run(&mut note, at, intent);
                }
            }
        }
        if let Some(begin) = note.runs.iter().map(|run| run.write.begin).max() {
            let begun = self.begun.entry(id.leg).or_default();
            *begun = begin.max(*begun);
            self.leg_is_alive(id.leg, begin);
            self.notes.insert(id, note);
        }
    }

    fn note_run(&self, note: &mut Note, at: usize, id: u32) {
        if let Some(last) = note.runs.last_mut()
            && last.id == id
            && last.first + last.count == at
        {
            last.count += 1;
            return;
        }
        if let Some(record) = self.book.record(id) {
            note.runs.push(Run {
                first: at,
                count: 1,
                write: Write {
                    begin: record.begin,
                    end: record.end,
                    writer: record.intent.writer,
                    sequence: record.intent.sequence,
                    array: record.array,
                },
                immutable: record.intent.flags.immutable && !record.intent.flags.buffered,
                id,
            });
        }
    }

    fn count_pages(&mut self, leg: LegId, intent: u32, sector: Sector, gpa: u64) {
        let Some(record) = self.book.record(intent) else {
            return;
        };
        let buffer = (record.intent.writer, record.intent.slot);
        let points = match Book::buffer_offset(record, sector) {
            Some(offset) => self.announced.points(buffer, offset, gpa),
            None => Points::Unknown,
        };
        let counts = &mut self.coverage.legs[leg.index()];
        match points {
            Points::Own => counts.pages_own += 1,
            Points::Copy => counts.pages_copied += 1,
            Points::Unknown => counts.pages_unknown += 1,
        }
    }

    /// Something reached a sector that nobody meant to be there: it is judged again, at rest.
    fn stray(&mut self, key: ArrayKey, sector: Sector, leg: LegId) {
        if let Some(cell) = self.book.cell_mut(key, sector) {
            cell.judged &= !bit(leg);
        }
        if let Some(one) = SectorRange::new(sector, 1) {
            self.pending.entry(key).or_default().insert(one);
        }
    }

    fn touch(&mut self, key: ArrayKey, range: SectorRange) {
        let twins = self
            .world
            .md
            .array(key)
            .is_some_and(|array| array.active().count() >= 2);
        if twins {
            self.touched.entry(key).or_default().insert(range);
            self.written.entry(key).or_default().insert(range);
        }
    }

    pub(super) fn completed(&mut self, no: EventNo, us: u64, completed: &Completed) {
        let id = completed.request;
        let ending = Ending::Answered(completed.status);
        let Some(open) = self.world.requests.end(no, us, id, ending) else {
            return;
        };
        self.injected.let_go(id);
        let ok = completed.status == Status::Ok;
        let counts = &mut self.coverage.legs[id.leg.index()];
        match (open.operation, ok) {
            (_, false) => counts.errors += 1,
            (Operation::Read, _) => counts.reads += 1,
            (Operation::Write, _) => counts.writes += 1,
            (Operation::Flush, _) => counts.flushes += 1,
            (Operation::Discard, _) => counts.discards += 1,
            (
                Operation::WriteZeroes
                | Operation::WriteZeroesUnmap
                | Operation::GetId
                | Operation::Unsupported(_),
                _,
            ) => {}
        }
        match open.operation {
            Operation::Write => {
                self.write_ended(no, us, id, &open, ok, &completed.content);
                if let Some(range) = open.ranges.first() {
                    self.metadata_ended(no, id.leg, *range, ok);
                }
            }
            Operation::Flush => {
                if ok {
                    self.world.shadow_mut(id.leg).flushed(open.arrived);
                }
            }
            Operation::Discard | Operation::WriteZeroes | Operation::WriteZeroesUnmap => {
                if ok {
                    self.zeroed(no, id, &open);
                }
            }
            Operation::Read => {
                if let (Content::Returned(digests), Some(range)) =
                    (&completed.content, open.ranges.first())
                {
                    let honest = self.injected.answered(id, *range, digests);
                    if honest {
                        self.world.shadow_mut(id.leg).learn(*range, digests);
                    }
                    self.promise_returned(no, id, &open, digests, honest);
                }
            }
            Operation::GetId | Operation::Unsupported(_) => {}
        }
        self.trouble_answered(no, id, &open, completed.status);
        self.promise_ended(no, us, id, &open, Some(completed.status));
    }

    pub(super) fn abandoned(&mut self, no: EventNo, us: u64, abandoned: &Abandoned) {
        let id = abandoned.request;
        let Some(open) = self.world.requests.end(no, us, id, Ending::Abandoned) else {
            return;
        };
        self.coverage.legs[id.leg.index()].abandoned += 1;
        self.injected.abandoned(id);
        match open.operation {
            Operation::Write => {
                self.write_ended(no, us, id, &open, false, &Content::NotTaken);
                let range = open.ranges.first().copied();
                if range.is_some_and(|range| self.world.md.concerns(id.leg, range)) {
                    self.unanswered.insert(id.leg);
                    let array = self.world.md.of(id.leg).map(|(array, _)| array.key);
                    if let Some(key) = array.filter(|_| open.fetched.is_some()) {
                        self.promises.cut_short.marks_in_doubt(key);
                    }
                }
                self.cut_short(id, &open, abandoned.applied);
            }
            Operation::Discard | Operation::WriteZeroes | Operation::WriteZeroesUnmap => {
                if abandoned.applied {
                    self.zeroed(no, id, &open);
                    for range in &open.ranges {
                        self.promises.cut_short.over(id.leg, *range);
                    }
                }
            }
            Operation::Read | Operation::Flush | Operation::GetId | Operation::Unsupported(_) => {}
        }
        self.trouble_unanswered(no, id, &open);
        self.promise_ended(no, us, id, &open, None);
    }

    fn write_ended(
        &mut self,
        no: EventNo,
        us: u64,
        id: RequestId,
        open: &Open,
        ok: bool,
        content: &Content,
    ) {
        let note = self.notes.remove(&id);
        let Some(range) = open.ranges.first().copied() else {
            return;
        };
        let state = if ok {
            State::Acknowledged
        } else {
            State::InDoubt
        };
        let changed = match content {
            Content::Changed(now) => buf_stable::changed(&open.digests, now),
            Content::NotTaken | Content::Same | Content::Returned(_) => Vec::new(),
        };
        if let Some(fetched) = open.fetched {
            let shadow = self.world.shadow_mut(id.leg);
            shadow.end(range, fetched, no, state, |at| {
                changed
                    .iter()
                    .any(|(first, count)| (*first..first + count).contains(&at))
            });
        } else if !ok && matches!(self.world.requests.past(id), Some(past) if past.rule.is_some()) {
            self.failed_unfetched(no, id, range);
        }
        if let Some(note) = note.as_ref().filter(|_| ok) {
            self.measure_lag(us, id.leg, note);
        }
        if ok {
            self.see_mirror_lag(us, id, range);
        }
        if !changed.is_empty() {
            self.buffer_changed(no, id, open, range, &changed, note.as_ref());
        }
    }

    /// A leg has completed what the array acknowledged before: that is write-behind. (What never comes is none, it is lost.)
    fn measure_lag(&mut self, us: u64, leg: LegId, note: &Note) {
        for run in &note.runs {
            if let Some(acknowledged_us) = self.behind.remove(&(run.id, leg)) {
                self.coverage.writes_behind += 1;
                let lag = us.saturating_sub(acknowledged_us);
                self.coverage.behind_longest_us = self.coverage.behind_longest_us.max(lag);
            }
        }
    }

    /// `buf-stable`: the buffer holds something else than what was fetched.
    fn buffer_changed(
        &mut self,
        no: EventNo,
        id: RequestId,
        open: &Open,
        range: SectorRange,
        changed: &[(usize, usize)],
        note: Option<&Note>,
    ) {
        let Some((key, member)) = self
            .world
            .checked(id.leg)
            .map(|(array, member)| (array.key, member.clone()))
        else {
            return;
        };
        let addresses: Vec<u64> = open.addresses().collect();
        for &(first, count) in changed {
            let on_leg = range
                .start()
                .checked_add(first as u64)
                .and_then(|start| SectorRange::new(start, count as u64))
                .and_then(|part| part.intersection(member.data));
            let Some(on_leg) = on_leg else {
                continue;
            };
            let Some(array) = array_range(&member, on_leg) else {
                continue;
            };
            let run = note.and_then(|note| {
                note.runs
                    .iter()
                    .find(|run| run.first < first + count && first < run.first + run.count)
            });
            let owner = addresses
                .get(first)
                .and_then(|gpa| self.announced.owner(*gpa))
                .filter(|buffer| self.immutable.contains_key(buffer));
            *self
                .coverage
                .triggered
                .entry(Check::BufStable.name().to_owned())
                .or_default() += 1;
            let immutable = run.map_or(owner.is_some(), |run| run.immutable);
            if !immutable {
                self.excuse(key, array, Excuse::BufferChanged);
                continue;
            }
            let confidence = if open.arrived < self.released {
                Confidence::Suspect
            } else {
                Confidence::Proven
            };
            let write = run.map(|run| {
                let mut write = run.write;
                if let Some(record) = self.book.record(run.id) {
                    write.end = record.end;
                }
                write
            });
            let detail = self.detail(
                Check::BufStable,
                Wrongness::Changed,
                id.leg,
                key,
                array.start(),
                write.map_or(open.arrived, |write| write.begin.min(open.arrived)),
            );
            self.wrongs.put(Wrong {
                check: Check::BufStable,
                kind: Wrongness::Changed,
                confidence,
                leg: id.leg,
                key,
                write,
                array,
                on_leg,
                at: no,
                instead: None,
                known: None,
                note: None,
                injected: None,
                detail,
            });
        }
    }

    fn zeroed(&mut self, no: EventNo, id: RequestId, open: &Open) {
        for range in &open.ranges {
            let sectors = self
                .world
                .header
                .legs
                .get(id.leg.index())
                .map_or(0, |leg| leg.sectors);
            let whole = SectorRange::new(Sector(0), sectors).unwrap_or_default();
            let Some(range) = range.intersection(whole) else {
                continue;
            };
            self.world
                .shadow_mut(id.leg)
                .zero(range, no, open.arrived, id.number);
            self.world.bytes[id.leg.index()].zero(range);
            self.injected.changed(id, range);
            if let Some((key, on_array)) = self
                .world
                .checked(id.leg)
                .and_then(|(array, member)| Some((array.key, array_range(member, range)?)))
            {
                self.touch(key, on_array);
                self.zeroes_strayed(key, on_array, id.leg);
            }
            self.metadata_ended(no, id.leg, range, true);
        }
    }

    fn zeroes_strayed(&mut self, key: ArrayKey, on_array: SectorRange, leg: LegId) {
        let zero = Some(crate::shadow::ZERO_DIGEST);
        for sector in self.book.unacceptable(key, on_array, zero) {
            self.stray(key, sector, leg);
        }
    }

    /// After a write or zeroing that may have been metadata: what md says now.
    pub(super) fn metadata_ended(&mut self, no: EventNo, leg: LegId, range: SectorRange, ok: bool) {
        if !self.world.md.concerns(leg, range) {
            return;
        }
        let before = self.active_legs();
        let changed = if ok {
            let events = |md: &Model| {
                let superblock = md.superblock(leg).ok();
                superblock.map(|superblock| superblock.events)
            };
            let had = events(&self.world.md);
            let changed = self.world.md.written(leg, &self.world.bytes[leg.index()]);
            let superblock = events(&self.world.md) != had;
            if let Some((array, _)) = self.world.md.of(leg) {
                let rounds = self.rounds.entry(array.key).or_default();
                rounds.seen(array.events, superblock, no);
            }
            changed
        } else {
            self.world.md.suspect(leg)
        };
        if changed {
            self.layout_changed(&before);
        }
        self.metadata_seen = no;
    }

    /// A rule made a leg larger: md may use it all, and moves a superblock that lies at the end.
    pub(super) fn grew(&mut self, leg: LegId, sectors: u64) {
        let Some(head) = self.world.header.legs.get_mut(leg.index()) else {
            return;
        };
        head.grow(sectors);
        let part = head.part();
        self.promises.grew(leg, part);
        let before = self.active_legs();
        if self
            .world
            .md
            .grew(leg, part, &self.world.bytes[leg.index()])
        {
            self.layout_changed(&before);
        }
    }

    /// The guest is still there: a leg that left metadata unanswered (it was unplugged, say) has failed it.
    pub(super) fn guest_goes_on(&mut self, no: EventNo) {
        for leg in std::mem::take(&mut self.unanswered) {
            let before = self.active_legs();
            if self.world.md.suspect(leg) {
                self.layout_changed(&before);
            }
            self.metadata_seen = no;
        }
    }

    fn active_legs(&self) -> Vec<(ArrayKey, LegId)> {
        self.world
            .md
            .arrays()
            .iter()
            .flat_map(|array| array.active().map(|member| (array.key, member.leg)))
            .collect()
    }

    /// Up to where a leg was good for sure, should it turn out to have failed: for data, and for what metadata tells.
    pub(super) fn was_good(&self, key: ArrayKey, leg: LegId) -> (EventNo, EventNo) {
        let seen = self.metadata_seen;
        let round = self.rounds.get(&key).map_or(seen, Rounds::before);
        // A write that began then was sent to the leg, which was good.
        let good = self.begun.get(&leg).copied().unwrap_or_default();
        let quiet = self.quiet_at;
        (round.min(seen).max(good).max(quiet), seen.max(quiet))
    }

    fn layout_changed(&mut self, before: &[(ArrayKey, LegId)]) {
        let now = self.active_legs();
        for (key, leg) in before.iter().filter(|one| !now.contains(one)) {
            let (since, seen) = self.was_good(*key, *leg);
            for (key, range) in self.wrongs.forgive(*leg, since, seen) {
                self.excuse(key, range, Excuse::LegFailed);
            }
        }
        for (key, leg) in now.iter().filter(|one| !before.contains(one)) {
            self.active_since.insert((*key, *leg), self.last);
            if let Some(written) = self.written.get(key) {
                self.touched.insert(*key, written.clone());
            }
            let intended: Vec<Sector> = self
                .book
                .cells()
                .filter(|(of, _, _)| of == key)
                .map(|(_, sector, _)| sector)
                .collect();
            let pending = self.pending.entry(*key).or_default();
            for sector in intended {
                if let Some(one) = SectorRange::new(sector, 1) {
                    pending.insert(one);
                }
            }
        }
        let areas = self.data_areas();
        for (leg, area) in areas {
            self.world.bytes[leg.index()].release(area);
        }
    }

    pub(super) fn initial(&mut self, leg: LegId, start: Sector, bytes: &[u8]) {
        if !self.world.has(leg) {
            return;
        }
        let shadow = self.world.shadow_mut(leg);
        for (at, digest) in crate::block::sector_digests(bytes).enumerate() {
            if let Some(sector) = start.checked_add(at as u64) {
                shadow.put_initial(sector, digest);
            }
        }
        self.world.bytes[leg.index()].put(start, bytes);
        self.promise_initial(leg, start, bytes);
        let before = self.active_legs();
        if self.world.md.observe(leg, &self.world.bytes[leg.index()]) {
            self.layout_changed(&before);
        }
    }
}
