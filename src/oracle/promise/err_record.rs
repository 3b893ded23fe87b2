//! `err-record`: an error that a leg returns for a write is made good, or recorded.
//!
//! Covers: after a normal WRITE to an active leg was answered with an error, each of its sectors at the next point of rest: it was written well since, or is in
//! the leg's bad-block list as completed, or every other active leg calls the leg faulty (`raid1.c:handle_write_finished`, `narrow_write_error`,
//! `md_error`). What is in the list is there at every later point of rest too, until it is written well. With marks, also that a failure is answered when its
//! write is acknowledged (suspect).
//!
//! Does not cover: discards, resync's and repairs' writes, the last active leg (the guest gets the error), failfast legs (order only), readahead on 6.12
//! (case 16), guests that were cut off. A write that fails while another failure of the leg is not yet on record may be acknowledged before it is: K6.

use std::collections::BTreeMap;

use crate::block::{LegId, Sector, SectorRange};
use crate::event::EventNo;
use crate::finding::{Check, Wrongness};
use crate::md::{Array, ArrayKey, Member};
use crate::oracle::checker::Checker;
use crate::oracle::known::When;
use crate::oracle::record::Record;
use crate::oracle::world::{array_range, leg_range};
use crate::shadow::RangeSet;

/// Failed writes that are remembered one by one.
const FAILURES_MAX: usize = 1024;

/// Errors that md has not answered yet.
#[derive(Debug, Default)]
pub(super) struct Unrecorded {
    /// Leg sectors by leg.
    sectors: BTreeMap<LegId, RangeSet>,
    /// Failed writes, and when they failed.
    failures: Vec<(LegId, SectorRange, EventNo)>,
}

impl Unrecorded {
    /// A new boot, in which this is on record of each leg.
    pub(super) fn boot(&mut self, bad: impl Iterator<Item = (LegId, RangeSet)>) {
        *self = Unrecorded {
            sectors: bad.collect(),
            failures: Vec::new(),
        };
    }

    /// A program has written the leg's superblock.
    pub(super) fn forget(&mut self, leg: LegId) {
        self.sectors.remove(&leg);
    }

    /// A leg was written well, or lost what it was sent.
    pub(super) fn written(&mut self, leg: LegId, range: SectorRange) {
        if let Some(sectors) = self.sectors.get_mut(&leg) {
            sectors.remove(range);
        }
    }
}

impl Checker {
    /// A discard of the array reached a leg. Whatever the others answer, and even where they get none, md calls it done and strikes the range from all
    /// lists (`raid1.c:raid1_end_write_request` ignores its errors, `flush_bio_list` skips legs without discards).
    pub(super) fn discarded(&mut self, array: &Array, on_array: SectorRange) {
        for member in &array.members {
            let range = leg_range(member, on_array);
            self.promises.unrecorded.written(member.leg, range);
        }
    }

    /// A normal write to an active leg was answered with an error.
    pub(super) fn write_failed(
        &mut self,
        no: EventNo,
        array: &Array,
        member: &Member,
        range: SectorRange,
    ) {
        if !member.active || array.active().count() < 2 {
            return;
        }
        let Some(part) = range.intersection(member.data) else {
            return;
        };
        self.count(Check::ErrRecord, 1);
        let unrecorded = &mut self.promises.unrecorded;
        unrecorded
            .sectors
            .entry(member.leg)
            .or_default()
            .insert(part);
        if unrecorded.failures.len() < FAILURES_MAX {
            unrecorded.failures.push((member.leg, part, no));
        }
    }

    /// Whether md has it on record that a leg does not hold a sector.
    fn on_record(&self, array: &Array, leg: LegId, at: Sector) -> bool {
        let wire = self.promises.leg(leg);
        let number = wire.superblock.as_ref().map(|own| own.dev_number);
        let mut others = array.active().filter(|other| other.leg != leg).peekable();
        let faulty = others.peek().is_some()
            && number.is_some_and(|number| {
                others.all(|other| self.promises.leg(other.leg).records_away(number))
            });
        faulty || wire.bad.iter().any(|bad| bad.contains(at))
    }

    /// The first run of a leg's sectors in `range` that failed, and of which nothing is on record.
    fn unanswered(&self, array: &Array, leg: LegId, range: SectorRange) -> Option<SectorRange> {
        let sectors = self.promises.unrecorded.sectors.get(&leg)?;
        let found: Vec<(Sector, ())> = sectors
            .within(range)
            .flat_map(SectorRange::sectors)
            .filter(|at| !self.on_record(array, leg, *at))
            .map(|at| (at, ()))
            .collect();
        crate::oracle::judge::runs(&found)
            .first()
            .map(|(run, ())| *run)
    }

    /// A point of rest: what failed before is answered by now.
    pub(crate) fn err_record(&mut self, no: EventNo, array: &Array) {
        for member in array.members.clone() {
            let whole = member.data;
            let failed = self
                .promises
                .unrecorded
                .sectors
                .get(&member.leg)
                .is_some_and(|sectors| sectors.first_in(whole).is_some());
            // A leg that is no longer active was failed; one without superblocks to say so is not judged.
            if failed
                && member.active
                && array.active().count() >= 2
                && let Some(run) = self.unanswered(array, member.leg, whole)
            {
                let note = format!(
                    "leg {} returned an error for {run}; nothing wrote it again, and no superblock or bad-block list says so",
                    self.world.header.leg_name(member.leg)
                );
                let on_array = array_range(&member, run).unwrap_or_default();
                self.break_promise(
                    no,
                    Check::ErrRecord,
                    Wrongness::Absent,
                    member.leg,
                    array.key,
                    on_array,
                    run,
                    note,
                );
            }
            self.keep_recorded(array, &member);
            let leg = member.leg;
            self.promises.unrecorded.failures.retain(|one| one.0 != leg);
        }
    }

    /// What is in a leg's bad-block list has to stay there until it is written well; of the rest all is said.
    fn keep_recorded(&mut self, array: &Array, member: &Member) {
        let mut kept = RangeSet::default();
        if member.active
            && array.active().count() >= 2
            && let Some(sectors) = self.promises.unrecorded.sectors.get(&member.leg)
        {
            for bad in &self.promises.leg(member.leg).bad {
                for part in sectors.within(*bad) {
                    kept.insert(part);
                }
            }
        }
        self.promises.unrecorded.sectors.insert(member.leg, kept);
    }

    /// The workload was told that a write is done.
    pub(crate) fn err_record_order(&mut self, no: EventNo, record: &Record) {
        if self.promises.unrecorded.failures.is_empty() {
            return;
        }
        let Some(array) = self.world.md.array(record.key).cloned() else {
            return;
        };
        for member in array.active() {
            let on_leg = leg_range(member, record.array);
            let mine = |range: &SectorRange| range.intersection(on_leg).is_some();
            let failures = &self.promises.unrecorded.failures;
            let own = failures
                .iter()
                .any(|(leg, range, at)| *leg == member.leg && mine(range) && *at > record.begin);
            let failfast = self
                .promises
                .leg(member.leg)
                .superblock
                .as_ref()
                .is_some_and(|own| own.failfast);
            if !own || failfast {
                continue;
            }
            let others = failures.iter().any(|(leg, range, _)| {
                *leg == member.leg
                    && !mine(range)
                    && self.unanswered(&array, *leg, *range).is_some()
            });
            let Some(run) = self.unanswered(&array, member.leg, on_leg) else {
                continue;
            };
            let note = format!(
                "leg {} returned an error for {run}, and the write was acknowledged before that was made good or on record",
                self.world.header.leg_name(member.leg)
            );
            let on_array = array_range(member, run).unwrap_or_default();
            self.break_with(
                super::entry::Broken {
                    no,
                    check: Check::ErrRecord,
                    kind: Wrongness::Early,
                    leg: member.leg,
                    key: array.key as ArrayKey,
                    array: on_array,
                    on_leg: run,
                },
                others.then_some(When::LegFailing),
                crate::finding::Confidence::Suspect,
                note,
            );
        }
    }
}
