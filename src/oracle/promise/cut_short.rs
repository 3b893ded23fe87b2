//! What a cut leaves on some legs alone: writes that one leg had not stored when its guest went away, or that its volatile cache lost. A part of
//! `resync-eq`.
//!
//! Such a sector has an excuse (4, 14, 15) until the resync has passed, and then none: md cannot know what the leg has, so it copies. Whether the leg had
//! stored a request that was abandoned is known here (`Abandoned::applied`).
//!
//! Does not cover: chunks whose bit a leg did not hold at the cut (what that leaves is `crash-covered`'s, or K1, or K8), writes that carry other content
//! than any other leg has.

use std::collections::BTreeMap;

use crate::block::{LegId, Operation, RequestId, Sector, SectorRange};
use crate::event::EventNo;
use crate::finding::{Check, Wrongness};
use crate::md::{Array, ArrayKey, Member};
use crate::oracle::checker::Checker;
use crate::oracle::world::{array_range, leg_range, leg_sector};
use crate::shadow::{Open, RangeSet, State, Version};

/// Sectors that a cut left on some legs alone, and that nobody wrote since.
#[derive(Debug, Default)]
pub(crate) struct CutShort {
    /// Of legs that were sent a write and did not store it, or lost it.
    sectors: BTreeMap<LegId, (ArrayKey, RangeSet)>,
    /// Of legs that stored a write which nobody was told of.
    stored: BTreeMap<LegId, RangeSet>,
}

impl CutShort {
    /// The leg's sectors were written, or nobody knows what is there.
    pub(crate) fn over(&mut self, leg: LegId, range: SectorRange) {
        if let Some((_, sectors)) = self.sectors.get_mut(&leg) {
            sectors.remove(range);
        }
        if let Some(stored) = self.stored.get_mut(&leg) {
            stored.remove(range);
        }
    }

    /// A leg has a write of which nobody was told.
    fn stored(&mut self, leg: LegId, range: SectorRange) {
        self.stored.entry(leg).or_default().insert(range);
    }

    /// A leg lacks these sectors of an array.
    fn lacks(&mut self, leg: LegId, key: ArrayKey, range: SectorRange) {
        let fresh = || (key, RangeSet::default());
        let (of, sectors) = self.sectors.entry(leg).or_insert_with(fresh);
        if *of != key {
            (*of, *sectors) = fresh();
        }
        sectors.insert(range);
    }

    /// Nobody knows which marks an array's legs have.
    pub(super) fn forget(&mut self, key: ArrayKey) {
        self.sectors.retain(|_, (of, _)| *of != key);
    }
}

impl Checker {
    /// A write was abandoned; `applied`: after the leg had stored it.
    pub(crate) fn cut_short(&mut self, id: RequestId, open: &Open, applied: bool) {
        if open.operation != Operation::Write || open.fetched.is_none() {
            return;
        }
        if let Some(range) = open.ranges.first().filter(|_| applied) {
            self.promises.cut_short.stored(id.leg, *range);
            return;
        }
        let (Some(range), true) = (open.ranges.first().copied(), self.promises.normal(id)) else {
            return;
        };
        let Some((array, member)) = self
            .promised(id.leg)
            .filter(|(array, member)| member.active && self.runs(array))
            .map(|(array, member)| (array.clone(), member.clone()))
        else {
            return;
        };
        let Some(on_array) = array_range(&member, range) else {
            return;
        };
        let sure: Vec<Sector> = on_array
            .sectors()
            .filter(|sector| self.surely_covered(&array, *sector))
            .collect();
        for sector in sure {
            self.left_alone(&array, &member, sector);
        }
    }

    fn left_alone(&mut self, array: &Array, member: &Member, sector: Sector) {
        let at = leg_sector(member, sector);
        if let Some(one) = at.and_then(|at| SectorRange::new(at, 1)) {
            self.promises.cut_short.lacks(member.leg, array.key, one);
        }
    }

    /// A leg's cache lost what another leg kept, and nothing has changed since the cut.
    pub(super) fn lost_alone(&mut self, array: &Array, leg: LegId, sector: Sector) {
        if let Some(member) = array.member(leg)
            && self.surely_covered(array, sector)
        {
            self.left_alone(array, member, sector);
        }
    }

    /// Whether every active leg holds the marks by which the next assembly copies a sector.
    fn surely_covered(&self, array: &Array, sector: Sector) -> bool {
        let one = SectorRange::new(sector, 1).unwrap_or_default();
        array.active().all(|member| {
            let wire = self.promises.leg(member.leg);
            let dirty = wire
                .superblock
                .as_ref()
                .is_some_and(|own| array.below(own.resync_offset) <= sector.0);
            let has_bitmap = wire
                .superblock
                .as_ref()
                .is_some_and(|own| own.bitmap.is_some());
            let marked = wire
                .bitmap()
                .is_some_and(|held| array.chunks(held, one).all(|chunk| held.is_set(chunk)));
            dirty && (marked || !has_bitmap)
        })
    }

    /// The array is called clean: what a cut left on one leg alone is on both, or on none.
    pub(super) fn cut_short_eq(&mut self, no: EventNo, array: &Array) {
        for member in array.active() {
            let Some((key, sectors)) = self.promises.cut_short.sectors.remove(&member.leg) else {
                continue;
            };
            if key != array.key {
                continue;
            }
            let mut found: Vec<(Sector, ())> = Vec::new();
            for at in sectors.within(member.data).flat_map(SectorRange::sectors) {
                let sector = Sector(at.0 - member.data.start().0);
                if let Some(version) = self.never_copied(member.leg, at)
                    && self.is_on_another(array, member.leg, sector, version)
                {
                    found.push((sector, ()));
                }
            }
            for (run, ()) in crate::oracle::judge::runs(&found) {
                let note = format!(
                    "leg {} had not stored this when its guest ended, or lost it; now md calls the array clean, and never copied it",
                    self.world.header.leg_name(member.leg)
                );
                let (check, kind, leg) = (Check::ResyncEq, Wrongness::Absent, member.leg);
                let on_leg = leg_range(member, run);
                self.break_promise(no, check, kind, leg, array.key, run, on_leg, note);
            }
        }
    }
    /// The version that a leg lacks, if what it holds instead is sure.
    fn never_copied(&self, leg: LegId, at: Sector) -> Option<Version> {
        let mut versions = self.world.shadow(leg).versions(at);
        let (now, before) = (versions.next()?, versions.next()?);
        let (lacks, held) = if now.is_found() {
            (before, now)
        } else {
            (now, before)
        };
        let known = if now.is_found() {
            lacks.state == State::Acknowledged
        } else {
            lacks.state == State::InDoubt && held.state == State::Acknowledged
        };
        let differ = held.digest.is_some() && held.digest != lacks.digest;
        (known && differ && !lacks.changed && !self.world.is_bad(leg, at)).then_some(lacks)
    }

    /// Whether another active leg surely holds a version's content.
    fn is_on_another(&self, array: &Array, leg: LegId, sector: Sector, version: Version) -> bool {
        let others = array.active().filter(|other| other.leg != leg);
        others.into_iter().any(|other| {
            leg_sector(other, sector).is_some_and(|there| {
                let theirs = self.world.shadow(other.leg).current(there);
                let stored = self.promises.cut_short.stored.get(&other.leg);
                let sure = theirs.state == State::Acknowledged
                    || theirs.is_found()
                    || stored.is_some_and(|stored| stored.contains(there));
                sure && !theirs.changed
                    && theirs.digest == version.digest
                    && !self.world.is_bad(other.leg, there)
            })
        })
    }
}
