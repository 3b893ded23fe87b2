//! What a cut leaves on some legs alone: writes that one leg had not stored when its guest went away, or that its volatile cache lost. A part of
//! `resync-eq`.
//!
//! Such a sector has an excuse (4, 14, 15) until the resync has passed, and then none: md cannot know what the leg has, so it copies. Whether the leg had
//! stored a request that was abandoned is known here (`Abandoned::applied`).
//!
//! Does not cover: chunks whose bit a leg did not hold at the cut (what that leaves is `crash-covered`'s, or K1, or K8), cuts that leave a write of metadata
//! unanswered (nobody knows which marks are there), writes that carry other content than any other leg has, legs of a witness that was killed, too (what
//! they hold is looked at, and not what was on its way), legs that are away when the others are called clean (`rec-eq` is about those).

use std::collections::{BTreeMap, BTreeSet};

use super::class::Class;
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
    lacking: BTreeMap<LegId, (ArrayKey, RangeSet)>,
    /// Of legs that stored a write which nobody was told of.
    stored: BTreeMap<LegId, RangeSet>,
    /// Of legs where a write that is in doubt may have been stored.
    murky: BTreeMap<LegId, RangeSet>,
    /// Arrays of whose metadata a write was abandoned, until md writes a superblock again: nobody knows which marks they have.
    unsure: BTreeSet<ArrayKey>,
}

impl CutShort {
    /// The leg's sectors were written, or it is known what they hold.
    pub(crate) fn over(&mut self, leg: LegId, range: SectorRange) {
        if let Some((_, lacking)) = self.lacking.get_mut(&leg) {
            lacking.remove(range);
        }
        for sectors in [&mut self.stored, &mut self.murky] {
            if let Some(sectors) = sectors.get_mut(&leg) {
                sectors.remove(range);
            }
        }
    }

    /// A write of the leg's sectors was fetched: what the leg has is no longer the newest.
    pub(super) fn sent(&mut self, leg: LegId, range: SectorRange) {
        if let Some(stored) = self.stored.get_mut(&leg) {
            stored.remove(range);
        }
    }

    /// A write of the leg's sectors was answered with an error: it may be there or not.
    pub(super) fn failed(&mut self, leg: LegId, range: SectorRange) {
        self.over(leg, range);
        self.murky.entry(leg).or_default().insert(range);
    }

    /// A leg has a write of which nobody was told.
    fn stored(&mut self, leg: LegId, range: SectorRange) {
        self.failed(leg, range);
        self.stored.entry(leg).or_default().insert(range);
    }

    /// A leg lacks these sectors of an array.
    fn lacks(&mut self, leg: LegId, key: ArrayKey, range: SectorRange) {
        if self.unsure.contains(&key) {
            return;
        }
        let fresh = || (key, RangeSet::default());
        let (of, lacking) = self.lacking.entry(leg).or_insert_with(fresh);
        if *of != key {
            (*of, *lacking) = fresh();
        }
        lacking.insert(range);
    }

    /// Nobody knows which marks an array's legs have.
    pub(super) fn forget(&mut self, key: ArrayKey) {
        self.lacking.retain(|_, (of, _)| *of != key);
    }

    /// A leg is away: what it lacks when it comes back is its recovery's to bring.
    pub(super) fn away(&mut self, leg: LegId) {
        self.lacking.remove(&leg);
    }

    /// A write of an array's metadata was abandoned: its marks may be on the leg or not.
    pub(crate) fn marks_in_doubt(&mut self, key: ArrayKey) {
        self.forget(key);
        self.unsure.insert(key);
    }

    /// md writes an array's superblocks.
    pub(super) fn marks_known(&mut self, key: ArrayKey) {
        self.unsure.remove(&key);
    }
}

impl Checker {
    /// A write was abandoned; `applied`: after the leg had stored it.
    pub(crate) fn cut_short(&mut self, id: RequestId, open: &Open, applied: bool) {
        let Some(range) = open.ranges.first().copied() else {
            return;
        };
        if open.operation != Operation::Write || open.fetched.is_none() {
            return;
        }
        if applied {
            self.promises.cut_short.stored(id.leg, range);
            return;
        }
        if !matches!(self.promises.classes.of(id), None | Some(Class::Sync(_))) {
            return;
        }
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
            // As it holds it, and as it was sent it.
            let marked = [wire.bitmap(), wire.sent_bitmap()].into_iter().all(|copy| {
                copy.is_some_and(|copy| array.chunks(copy, one).all(|chunk| copy.is_set(chunk)))
            });
            dirty && (marked || !has_bitmap)
        })
    }

    /// The array is called clean: what a cut left on one leg alone is on both, or on none.
    pub(super) fn cut_short_eq(&mut self, no: EventNo, array: &Array) {
        for member in array.active() {
            let Some((key, sectors)) = self.promises.cut_short.lacking.remove(&member.leg) else {
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
        let sure = |version: &Version| version.state == State::Acknowledged || version.is_found();
        let mut versions = self.world.shadow(leg).versions(at);
        let now = versions.next()?;
        let (lacks, held) = if now.is_found() {
            let before = versions.next()?;
            (Some(before).filter(sure)?, now)
        } else {
            // None of those that were abandoned was stored.
            let murky = self.promises.cut_short.murky.get(&leg);
            let murky = murky.is_some_and(|murky| murky.contains(at));
            let in_doubt = now.state == State::InDoubt && !murky;
            let held =
                versions.find(|version| version.state != State::InDoubt || version.is_found());
            (Some(now).filter(|_| in_doubt)?, held.filter(sure)?)
        };
        let differ = held.digest.is_some() && held.digest != lacks.digest;
        (differ && !lacks.changed && !self.world.is_bad(leg, at)).then_some(lacks)
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
