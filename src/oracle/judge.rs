//! When what is judged: at end marks, at flushes, and at rest.

use super::ack_all::{self, Arrival};
use super::checker::Checker;
use super::clean_eq::{self, Compared};
use super::excuse::Excuse;
use super::intents::Accept;
use super::record::{IntentNo, Record};
use super::stamp::{self, Judged};
use super::world::{bit, leg_range, leg_sector};
use super::wrong::{Instead, Write, Wrong};
use crate::block::{Operation, Sector, SectorRange};
use crate::event::EventNo;
use crate::finding::{Check, Confidence, Wrongness};
use crate::mark::IntentKind;
use crate::md::{Array, ArrayKey, Member};
use crate::shadow::{Origin, RangeSet};

/// Lagging writes whose legs got READs that are remembered.
const LAGGED_MAX: usize = 100_000;

/// At which moment a write is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moment {
    /// Its end mark has arrived.
    Acknowledged,
    /// A flush that began after its end has ended.
    Flushed,
    /// Nothing is in flight, and md says that legs agree.
    Rest,
    /// Nothing is in flight, but md does not say that legs agree: legs that may lag are left out.
    PartRest,
}

impl Moment {
    fn judges(self, array: &Array, member: &Member) -> bool {
        self == Moment::Rest || !array.may_lag(member)
    }
}

impl Checker {
    /// Judges one intent on all active legs.
    pub(super) fn judge(&mut self, no: EventNo, id: IntentNo, moment: Moment) {
        let Some(record) = self.book.record(id).cloned() else {
            return;
        };
        let Some(array) = self.world.md.array(record.key).cloned() else {
            return;
        };
        for member in array.active() {
            match record.intent.kind {
                IntentKind::Write => self.judge_write(no, id, &record, &array, member, moment),
                IntentKind::Unstamped | IntentKind::Discard => {
                    if moment == Moment::Acknowledged && !record.intent.flags.buffered {
                        self.judge_twins(no, &record, &array, member);
                    }
                }
                IntentKind::Flush => {}
            }
        }
    }

    fn judge_write(
        &mut self,
        no: EventNo,
        id: IntentNo,
        record: &Record,
        array: &Array,
        member: &Member,
        moment: Moment,
    ) {
        if !moment.judges(array, member) {
            if moment == Moment::Acknowledged {
                self.see_lag(record, member);
            }
            self.pend(record);
            return;
        }
        let mut wrong: Vec<(Sector, Wrongness)> = Vec::new();
        let mut early: Vec<(Sector, Wrongness)> = Vec::new();
        let mut passed: Vec<(Sector, Wrongness)> = Vec::new();
        let failed = std::cell::OnceCell::new();
        let (mut judged, mut good) = (0, 0u64);
        for sector in record.array.sectors() {
            let ours = self
                .book
                .cell(array.key, sector)
                .is_some_and(|cell| match moment {
                    Moment::Acknowledged | Moment::Flushed => cell.candidates.contains(&id),
                    Moment::Rest | Moment::PartRest => self.book.expected(cell) == Some(id),
                });
            if !ours {
                continue;
            }
            judged += 1;
            let verdict = stamp::judge(&self.world, &self.book, array, member, sector);
            match verdict {
                Judged::Good => good += 1,
                Judged::Any => continue,
                Judged::Later => {
                    self.pend_one(array.key, sector);
                    continue;
                }
                Judged::Excused(excuse) => {
                    self.excuse_one(array.key, sector, excuse);
                    continue;
                }
                Judged::Wrong(kind) => wrong.push((sector, kind)),
            }
            if let Some(cell) = self.book.cell_mut(array.key, sector) {
                cell.judged |= bit(member.leg);
            }
            if moment == Moment::Acknowledged && verdict == Judged::Good {
                self.count(Check::AckAll, 1);
                match ack_all::look(&self.world, record, member, sector) {
                    Arrival::Pending => early.push((sector, Wrongness::Early)),
                    Arrival::Unseen if self.passed_by(record, array, member, sector, &failed) => {
                        passed.push((sector, Wrongness::Absent));
                    }
                    Arrival::Unseen | Arrival::Failed | Arrival::Done => {}
                }
            }
        }
        self.count(Check::Stamp, judged);
        if moment == Moment::Acknowledged {
            self.fua_tail(no, record, array, member);
        }
        if good > 0 {
            // Where the leg has a part of the write, what is missing makes it torn.
            for (_, kind) in wrong.iter_mut().filter(|one| one.1 == Wrongness::Absent) {
                *kind = Wrongness::Torn;
            }
        }
        self.name_misplaced(array, member, &mut wrong);
        let all = [
            (Check::Stamp, wrong),
            (Check::AckAll, early),
            (Check::AllLegs, passed),
        ];
        for (check, sectors) in all {
            for (run, kind) in runs(&sectors) {
                self.put_wrong(
                    no,
                    check,
                    kind,
                    Confidence::Proven,
                    array,
                    member,
                    run,
                    Some(record),
                );
            }
        }
    }

    /// Whether a leg, whose content is right by another write that overlaps this one, was never given this one, and another active leg was. `failed`:
    /// where the leg failed a request since, once that was looked up.
    fn passed_by(
        &self,
        record: &Record,
        array: &Array,
        member: &Member,
        sector: Sector,
        failed: &std::cell::OnceCell<RangeSet>,
    ) -> bool {
        let since = self.active_since.get(&(array.key, member.leg));
        let Some(at) = leg_sector(member, sector) else {
            return false;
        };
        // A leg that became active meanwhile may have its content by a copy.
        record.intent.flags.immutable
            && !array.declared
            && since.is_some_and(|since| *since < record.begin)
            && self.world.shadow(member.leg).remembers(at, record.begin)
            && !self.world.is_bad(member.leg, at)
            && array
                .active()
                .filter(|other| other.leg != member.leg)
                .any(|other| ack_all::look(&self.world, record, other, sector) == Arrival::Done)
            && !failed
                .get_or_init(|| {
                    let range = leg_range(member, record.array);
                    self.failed_since(member, range, record.begin)
                })
                .contains(at)
    }

    /// A leg that may lag: whether it does.
    fn see_lag(&mut self, record: &Record, member: &Member) {
        let look = |sector| ack_all::look(&self.world, record, member, sector);
        if record
            .array
            .sectors()
            .all(|sector| look(sector) == Arrival::Done)
        {
            return;
        }
        self.behind.insert((record.no, member.leg), record.end_us);
        // What the leg got meanwhile is looked up now: when it is judged, at rest, the log may no longer reach back.
        let on_leg = leg_range(member, record.array);
        if let Some(instead) = self.instead(member, on_leg, record)
            && instead.reads > 0
            && self.lagged.len() < LAGGED_MAX
        {
            self.lagged.insert((record.no, member.leg), instead);
        }
    }

    /// The ends of writes and discards whose content is not known: every leg must have got something, or none.
    fn judge_twins(&mut self, no: EventNo, record: &Record, array: &Array, member: &Member) {
        if array.may_lag(member) {
            self.pend(record);
            return;
        }
        let discard = record.intent.kind == IntentKind::Discard;
        if discard && !self.world.discards(member.leg) {
            self.excuse(array.key, record.array, Excuse::Discarded);
            return;
        }
        let check = if discard {
            Check::DiscardAll
        } else {
            Check::AllLegs
        };
        self.count(check, record.array.count());
        let origin = if discard { Origin::Zero } else { Origin::Write };
        let got = |world: &super::world::World, member: &Member, sector: Sector| {
            leg_sector(member, sector).is_some_and(|at| {
                let shadow = world.shadow(member.leg);
                shadow.forgotten(at)
                    || shadow
                        .versions(at)
                        .any(|v| v.no > record.begin && v.origin == origin)
            })
        };
        // Looked up once, and where it matters: the log is long.
        let failed = std::cell::OnceCell::new();
        let mut wrong = Vec::new();
        for sector in record.array.sectors() {
            if got(&self.world, member, sector) {
                continue;
            }
            let others = array
                .active()
                .filter(|other| other.leg != member.leg)
                .any(|other| got(&self.world, other, sector));
            let excused = || {
                leg_sector(member, sector).is_some_and(|at| {
                    let range = || leg_range(member, record.array);
                    self.world.is_bad(member.leg, at)
                        || failed
                            .get_or_init(|| self.failed_since(member, range(), record.begin))
                            .contains(at)
                })
            };
            if others && !excused() {
                wrong.push((sector, Wrongness::Absent));
            }
        }
        for (run, kind) in runs(&wrong) {
            let sure = Confidence::Proven;
            self.put_wrong(no, check, kind, sure, array, member, run, Some(record));
        }
    }

    /// Where in a range a leg answered a request with an error since an event, or left it without an answer.
    fn failed_since(&self, member: &Member, range: SectorRange, since: EventNo) -> RangeSet {
        use crate::shadow::Ending;
        let (requests, _) =
            self.world
                .requests
                .touching(member.leg, range, since, self.last, usize::MAX);
        let failed = requests.iter().filter(|past| match past.ending {
            Ending::Answered(status) => {
                status != crate::block::Status::Ok && past.operation.modifies()
            }
            Ending::Abandoned => true,
            Ending::Open => false,
        });
        failed
            .flat_map(|past| &past.ranges)
            .filter_map(|one| one.intersection(range))
            .collect()
    }

    /// Judges everything that waits, and compares the legs. `declared`: the agent says that md is at rest, which it may be before the superblock
    /// that says so is on the legs; it counts where md wrote a superblock in this boot, for else the array is not even running.
    pub(super) fn rest(&mut self, no: EventNo, declared: bool) {
        self.book.synced();
        let mut all_settled = true;
        for array in self.world.md.arrays().to_vec() {
            if array.refused.is_some() {
                continue;
            }
            let settled = array.clean || (declared && self.metadata_seen > self.guest.boot_began);
            let moment = if settled {
                Moment::Rest
            } else {
                Moment::PartRest
            };
            let pending = self.pending.remove(&array.key).unwrap_or_default();
            let mut ids: Vec<IntentNo> = Vec::new();
            for sector in pending.ranges().flat_map(SectorRange::sectors) {
                if let Some(id) = self
                    .book
                    .cell(array.key, sector)
                    .and_then(|cell| self.book.expected(cell))
                {
                    ids.push(id);
                }
            }
            ids.sort_unstable();
            ids.dedup();
            for id in ids {
                self.judge(no, id, moment);
            }
            if settled {
                self.resolve_at_rest(no, &array);
            }
            if settled && array.active().count() >= 2 {
                self.compare(no, &array);
            }
            all_settled &= settled;
        }
        if all_settled {
            self.behind.clear();
            self.lagged.clear();
        }
    }

    fn compare(&mut self, no: EventNo, array: &Array) {
        let touched = self.touched.remove(&array.key).unwrap_or_default();
        let stamps = !self.wrongs.watch().is_blind(Check::Stamp);
        for range in touched.ranges() {
            let mut different: Vec<(Sector, (Check, Wrongness, Confidence, u8))> = Vec::new();
            self.coverage.twins_compared += range.count();
            for sector in self.sectors_to_compare(array, range) {
                match clean_eq::compare(&self.world, &self.book, array, sector, stamps) {
                    Compared::Equal => self.clear_excuse(array.key, sector),
                    Compared::Judged => {}
                    Compared::Excused(excuse) => self.excuse_one(array.key, sector, excuse),
                    Compared::Different(check, kind, confidence, leg) => {
                        different.push((sector, (check, kind, confidence, leg.0)));
                    }
                }
            }
            // Of two legs that differ without stamps, nobody knows which is right.
            let two = array.active().count() == 2;
            for (run, (check, kind, confidence, leg)) in runs(&different) {
                let both = two && kind == Wrongness::Differs;
                for member in array.active() {
                    if both || member.leg.0 == leg {
                        self.put_wrong(no, check, kind, confidence, array, member, run, None);
                    }
                }
            }
            for check in [Check::CleanEq, Check::AllLegs, Check::SameData] {
                self.count(check, range.count());
            }
        }
    }

    /// Where no leg was ever written and all media began as zeros, there is nothing to look at.
    fn sectors_to_compare(&self, array: &Array, range: SectorRange) -> Vec<Sector> {
        let zeros = array
            .active()
            .all(|member| self.world.shadow(member.leg).initially_zero());
        if !zeros {
            return range.sectors().collect();
        }
        let mut sectors: Vec<Sector> = array
            .active()
            .flat_map(|member| {
                let start = member.data.start().0;
                self.world
                    .shadow(member.leg)
                    .known(leg_range(member, range))
                    .map(move |at| Sector(at.0 - start))
            })
            .collect();
        sectors.sort_unstable();
        sectors.dedup();
        sectors
    }

    #[expect(clippy::too_many_arguments, reason = "they are the entry's fields")]
    pub(super) fn put_wrong(
        &mut self,
        no: EventNo,
        check: Check,
        kind: Wrongness,
        confidence: Confidence,
        array: &Array,
        member: &Member,
        run: SectorRange,
        record: Option<&Record>,
    ) {
        let on_leg = leg_range(member, run);
        let since = record.map_or(EventNo(0), |record| record.begin);
        let instead = record
            .filter(|_| matches!(kind, Wrongness::Absent | Wrongness::Torn))
            .and_then(|record| {
                let kept = self.lagged.get(&(record.no, member.leg)).copied();
                kept.or_else(|| self.instead(member, on_leg, record))
            });
        let detail = self.detail(check, kind, member.leg, array.key, run.start(), since);
        self.wrongs.put(Wrong {
            check,
            kind,
            confidence,
            leg: member.leg,
            key: array.key,
            write: record.map(|record| Write {
                begin: record.begin,
                end: record.end,
                writer: record.intent.writer,
                sequence: record.intent.sequence,
                array: record.array,
            }),
            array: run,
            on_leg,
            at: no,
            instead,
            known: None,
            note: None,
            injected: self.injected_by(array.key, run),
            detail,
        });
    }

    /// What the leg got for these sectors between a write's begin and its end. `None`: that is no longer known.
    fn instead(&self, member: &Member, on_leg: SectorRange, record: &Record) -> Option<Instead> {
        let (requests, whole) =
            self.world
                .requests
                .touching(member.leg, on_leg, record.begin, record.end, 1000);
        let mut instead = Instead::default();
        let mut read = RangeSet::default();
        for past in requests.iter().filter(|r| r.operation == Operation::Read) {
            instead.reads += 1;
            if instead.first == EventNo(0) {
                instead.first = past.arrived;
            }
            instead.last = past.arrived;
            for range in &past.ranges {
                if let Some(part) = range.intersection(on_leg) {
                    read.insert(part);
                }
            }
        }
        instead.all = read.count() == on_leg.count();
        (whole || instead.reads > 0).then_some(instead)
    }

    /// Garbage that is somebody else's stamp is misplaced.
    fn name_misplaced(
        &mut self,
        array: &Array,
        member: &Member,
        wrong: &mut [(Sector, Wrongness)],
    ) {
        // A run that is misplaced is so as a whole: only its first sector is looked for.
        let mut before: Option<(Sector, Sector)> = None;
        for (sector, kind) in wrong {
            if *kind != Wrongness::Garbage {
                continue;
            }
            let digest = leg_sector(member, *sector)
                .and_then(|at| self.world.shadow(member.leg).current(at).digest);
            let Some(digest) = digest.filter(|d| *d != crate::shadow::ZERO_DIGEST) else {
                continue;
            };
            let next = before
                .filter(|(last, _)| last.checked_add(1) == Some(*sector))
                .and_then(|(_, meant)| meant.checked_add(1))
                .filter(|meant| {
                    let cell = self.book.cell(array.key, *meant);
                    cell.is_some_and(|cell| {
                        matches!(
                            self.book.accepts(cell, *meant, Some(digest)),
                            Accept::Yes(_)
                        )
                    })
                });
            if let Some(meant) = next {
                before = Some((*sector, meant));
                *kind = Wrongness::Misplaced;
                continue;
            }
            if self.scans_left == 0 {
                continue;
            }
            self.scans_left -= 1;
            if let Some((id, meant)) = self.book.whose(digest) {
                let same =
                    meant == *sector && self.book.record(id).is_some_and(|r| r.key == array.key);
                *kind = if same {
                    Wrongness::Older
                } else {
                    before = Some((*sector, meant));
                    Wrongness::Misplaced
                };
            }
        }
    }

    pub(super) fn count(&mut self, check: Check, by: u64) {
        if by == 0 {
            return;
        }
        match self.coverage.triggered.get_mut(check.name()) {
            Some(count) => *count += by,
            None => {
                self.coverage.triggered.insert(check.name().to_owned(), by);
            }
        }
    }

    pub(super) fn pend(&mut self, record: &Record) {
        self.pending
            .entry(record.key)
            .or_default()
            .insert(record.array);
    }

    fn pend_one(&mut self, key: ArrayKey, sector: Sector) {
        if let Some(one) = SectorRange::new(sector, 1) {
            self.pending.entry(key).or_default().insert(one);
        }
    }

    pub(super) fn excuse(&mut self, key: ArrayKey, range: SectorRange, excuse: Excuse) {
        for sector in range.sectors() {
            self.excuse_one(key, sector, excuse);
        }
    }

    fn excuse_one(&mut self, key: ArrayKey, sector: Sector, excuse: Excuse) {
        *self.excused.entry(key).or_default().slot(sector) = Some(excuse.case());
    }

    fn clear_excuse(&mut self, key: ArrayKey, sector: Sector) {
        if let Some(table) = self.excused.get_mut(&key) {
            table.remove(sector);
        }
    }
}

/// Neighbouring sectors with the same tag, as ranges.
pub(super) fn runs<T: Copy + PartialEq>(sectors: &[(Sector, T)]) -> Vec<(SectorRange, T)> {
    let mut out: Vec<(Sector, u64, T)> = Vec::new();
    for (sector, tag) in sectors {
        match out.last_mut() {
            Some((start, count, last)) if start.0 + *count == sector.0 && last == tag => {
                *count += 1;
            }
            Some(_) | None => out.push((*sector, 1, *tag)),
        }
    }
    out.into_iter()
        .filter_map(|(start, count, tag)| Some((SectorRange::new(start, count)?, tag)))
        .collect()
}
