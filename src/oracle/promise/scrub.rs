//! `scrub`: a check writes nothing, a repair leaves legs equal, and md counts mismatches where there are some.
//!
//! Covers: checks and repairs that the agent runs (`md = "check"`), if nothing else of the workload's is under way. Check: data WRITEs only to sectors that a leg
//! failed to read. Repair: afterwards the active legs hold the same wherever they were read. Both: `mismatch_cnt` is above 0 if, and only if, legs
//! returned different contents for a sector (`raid1.c:process_checks`, `sync_request_write`).
//!
//! Does not cover: checks beside other work, or of arrays of more than 2 GiB; the count's amount (md counts whole units); the count where a READ failed, or
//! where not all of the array was read.

use std::collections::BTreeMap;

use crate::block::{LegId, Sector, SectorRange};
use crate::event::{Digests, EventNo};
use crate::finding::{Check, Confidence, Wrongness};
use crate::mark::AdminAction;
use crate::md::{Array, ArrayKey, Member};
use crate::oracle::checker::Checker;
use crate::oracle::world::{array_range, leg_range, leg_sector};
use crate::shadow::{RangeSet, State, Table};

use super::entry::Broken;

/// Array sectors that a check is followed over.
const SECTORS_MAX: u64 = 1 << 22;

/// A check or repair that runs.
#[derive(Debug)]
pub(super) struct Scrub {
    action: AdminAction,
    /// Nothing else was under way so far.
    alone: bool,
    first: Table<u32>,
    differ: RangeSet,
    reads: BTreeMap<LegId, RangeSet>,
    writes: BTreeMap<LegId, RangeSet>,
    failed: bool,
}

impl Checker {
    pub(super) fn scrub_begins(&mut self, array: &Array, action: AdminAction) {
        if array.sectors > SECTORS_MAX {
            return;
        }
        let scrub = Scrub {
            action,
            alone: self.book.idle(),
            first: Table::default(),
            differ: RangeSet::default(),
            reads: BTreeMap::new(),
            writes: BTreeMap::new(),
            failed: false,
        };
        self.promises.scrubs.insert(array.key, scrub);
    }

    /// The workload begins something.
    pub(crate) fn scrub_disturbed(&mut self) {
        for scrub in self.promises.scrubs.values_mut() {
            scrub.alone = false;
        }
    }

    /// A READ was answered; `None`: with an error.
    pub(super) fn scrub_read(
        &mut self,
        key: ArrayKey,
        member: &Member,
        range: SectorRange,
        digests: Option<&Digests>,
    ) {
        let Some(scrub) = self.promises.scrubs.get_mut(&key) else {
            return;
        };
        let Some(on_array) = array_range(member, range) else {
            return;
        };
        let Some(digests) = digests else {
            scrub.failed = true;
            return;
        };
        scrub.reads.entry(member.leg).or_default().insert(on_array);
        for (at, digest) in range.sectors().zip(digests) {
            let Some(sector) = at.0.checked_sub(member.data.start().0).map(Sector) else {
                continue;
            };
            let slot = scrub.first.slot(sector);
            if slot.is_some_and(|first| first != *digest)
                && let Some(one) = SectorRange::new(sector, 1)
            {
                scrub.differ.insert(one);
            }
            slot.get_or_insert(*digest);
        }
    }

    /// A WRITE arrived, not to sectors that the leg failed to read.
    pub(super) fn scrub_written(&mut self, key: ArrayKey, leg: LegId, on_array: SectorRange) {
        if let Some(scrub) = self.promises.scrubs.get_mut(&key) {
            scrub.writes.entry(leg).or_default().insert(on_array);
        }
    }

    /// A check or repair ended, of a raid10 on each of its mirrors; what went well is judged.
    pub(super) fn scrub_ends(
        &mut self,
        no: EventNo,
        arrays: Vec<Array>,
        ok: bool,
        mismatches: Option<u64>,
    ) {
        let ended: Vec<(Array, Scrub)> = arrays
            .into_iter()
            .filter_map(|array| {
                let scrub = self.promises.scrubs.remove(&array.key)?;
                Some((array, scrub))
            })
            .collect();
        if !ok {
            return;
        }
        let judged = |of: &&(Array, Scrub)| of.1.alone && of.0.active().count() >= 2;
        for (array, scrub) in ended.iter().filter(judged) {
            self.count(Check::Scrub, 1);
            match scrub.action {
                AdminAction::Check => self.check_wrote(no, array, scrub),
                AdminAction::Repair => self.repair_left(no, array, scrub),
                AdminAction::Fail
                | AdminAction::Remove
                | AdminAction::Add
                | AdminAction::ReAdd
                | AdminAction::Serialize
                | AdminAction::Unserialize => {}
            }
        }
        if let Some(mismatches) = mismatches {
            self.scrub_counted(no, &ended, mismatches);
        }
    }

    /// md counts for the whole array.
    fn scrub_counted(&mut self, no: EventNo, ended: &[(Array, Scrub)], mismatches: u64) {
        let sure = |(array, scrub): &(Array, Scrub)| {
            let quiet = scrub.action == AdminAction::Repair || scrub.writes.is_empty();
            scrub.alone && quiet && !scrub.failed && array.active().count() >= 2
        };
        let whole = |(array, scrub): &(Array, Scrub)| {
            array.active().all(|member| {
                let read = scrub.reads.get(&member.leg);
                read.is_some_and(|read| read.count() >= array.sectors)
            })
        };
        let differs = |of: &&(Array, Scrub)| sure(of) && of.1.differ.count() > 0;
        let wrong = if mismatches == 0 {
            ended.iter().find(differs)
        } else {
            let all_read = ended.iter().all(|of| sure(of) && whole(of));
            let alike = ended.iter().all(|of| of.1.differ.count() == 0);
            ended.first().filter(|_| all_read && alike)
        };
        let Some((array, scrub)) = wrong else {
            return;
        };
        let Some(leg) = array.active().last() else {
            return;
        };
        let (run, differ) = (
            scrub.differ.ranges().next().unwrap_or_default(),
            scrub.differ.count(),
        );
        let note = format!(
            "mismatch_cnt is {mismatches}; the legs returned different contents for {differ} sectors"
        );
        let on_leg = leg_range(leg, run);
        self.scrub_broken(no, array, leg, Wrongness::Metadata, run, on_leg, note);
    }

    /// Writes of the array go to all legs; a check's own would not.
    fn check_wrote(&mut self, no: EventNo, array: &Array, scrub: &Scrub) {
        for member in array.active() {
            let mut own = scrub.writes.get(&member.leg).cloned().unwrap_or_default();
            for other in array.active().filter(|other| other.leg != member.leg) {
                for range in scrub
                    .writes
                    .get(&other.leg)
                    .into_iter()
                    .flat_map(RangeSet::ranges)
                {
                    own.remove(range);
                }
            }
            if let Some(run) = own.ranges().next() {
                let note = format!(
                    "during a check leg {} was written to, where it had failed no READ",
                    self.world.header.leg_name(member.leg)
                );
                let on_leg = leg_range(member, run);
                self.scrub_broken(no, array, member, Wrongness::Garbage, run, on_leg, note);
            }
        }
    }

    fn repair_left(&mut self, no: EventNo, array: &Array, scrub: &Scrub) {
        let mut different: Vec<(Sector, LegId)> = Vec::new();
        let mut read = RangeSet::default();
        for range in scrub.reads.values().flat_map(RangeSet::ranges) {
            read.insert(range);
        }
        for sector in read.ranges().flat_map(SectorRange::sectors) {
            let mut versions = array.active().filter_map(|member| {
                let at = leg_sector(member, sector)?;
                Some((member.leg, self.world.shadow(member.leg).current(at)))
            });
            let Some((_, first)) = versions.next() else {
                continue;
            };
            let sure = |state| state == State::Acknowledged;
            let odd = versions.find(|(_, version)| {
                version.digest != first.digest
                    && version.digest.is_some()
                    && first.digest.is_some()
                    && sure(version.state)
                    && sure(first.state)
            });
            different.extend(odd.map(|(leg, _)| (sector, leg)));
        }
        for (run, leg) in crate::oracle::judge::runs(&different) {
            if let Some(member) = array.member(leg) {
                let note = format!(
                    "after a repair leg {} still holds something else",
                    self.world.header.leg_name(leg)
                );
                let on_leg = leg_range(member, run);
                self.scrub_broken(no, array, member, Wrongness::Differs, run, on_leg, note);
            }
        }
    }

    #[expect(clippy::too_many_arguments, reason = "they are the entry's fields")]
    fn scrub_broken(
        &mut self,
        no: EventNo,
        array: &Array,
        member: &Member,
        kind: Wrongness,
        run: SectorRange,
        on_leg: SectorRange,
        note: String,
    ) {
        let broken = Broken {
            no,
            check: Check::Scrub,
            kind,
            leg: member.leg,
            key: array.key,
            array: run,
            on_leg,
        };
        self.break_with(broken, None, Confidence::Proven, note);
    }
}
