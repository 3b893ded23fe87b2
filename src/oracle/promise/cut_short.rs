//! What a cut leaves on some legs alone: writes that one leg had not stored when its guest went away. A part of `resync-eq`.
//!
//! Such a sector has an excuse (4, 15) until the resync has passed, and then none: md cannot know what the leg has, so it copies. Whether the leg had stored
//! a request that was abandoned is known here (`Abandoned::applied`).
//!
//! Does not cover: chunks whose bit a leg did not yet hold at the cut (what that leaves is `crash-covered`'s, or K1), writes that carry other content than any
//! other leg has, what a power cut took from a cache.

use std::collections::BTreeMap;

use crate::block::{LegId, Operation, RequestId, Sector, SectorRange};
use crate::event::EventNo;
use crate::finding::{Check, Wrongness};
use crate::md::{Array, ArrayKey};
use crate::oracle::checker::Checker;
use crate::oracle::world::{array_range, leg_range, leg_sector};
use crate::shadow::{Open, RangeSet, State};

/// Sectors of legs that were sent a write and did not store it before a cut, and were not written since.
#[derive(Debug, Default)]
pub(crate) struct CutShort {
    sectors: BTreeMap<LegId, (ArrayKey, RangeSet)>,
}

impl CutShort {
    /// The leg's sectors were written, or nobody knows what is there.
    pub(crate) fn over(&mut self, leg: LegId, range: SectorRange) {
        if let Some((_, sectors)) = self.sectors.get_mut(&leg) {
            sectors.remove(range);
        }
    }

    /// Nobody knows which marks an array's legs have.
    pub(super) fn forget(&mut self, key: ArrayKey) {
        self.sectors.retain(|_, (of, _)| *of != key);
    }
}

impl Checker {
    /// A write was abandoned before the leg had stored it.
    pub(crate) fn cut_short(&mut self, id: RequestId, open: &Open) {
        if open.operation != Operation::Write || open.fetched.is_none() {
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
        let (key, sectors) = self
            .promises
            .cut_short
            .sectors
            .entry(id.leg)
            .or_insert_with(|| (array.key, RangeSet::default()));
        if *key != array.key {
            (*key, *sectors) = (array.key, RangeSet::default());
        }
        for sector in sure {
            let at = leg_sector(&member, sector);
            if let Some(one) = at.and_then(|at| SectorRange::new(at, 1)) {
                sectors.insert(one);
            }
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
                let mut versions = self.world.shadow(member.leg).versions(at);
                let (Some(sent), Some(held)) = (versions.next(), versions.next()) else {
                    continue;
                };
                let unsure = sent.state != State::InDoubt
                    || held.state != State::Acknowledged
                    || held.digest.is_none()
                    || held.digest == sent.digest
                    || self.world.is_bad(member.leg, at);
                let another = array
                    .active()
                    .filter(|other| other.leg != member.leg)
                    .any(|other| {
                        leg_sector(other, sector).is_some_and(|there| {
                            let theirs = self.world.shadow(other.leg).current(there);
                            theirs.state == State::Acknowledged
                                && !theirs.changed
                                && theirs.digest == sent.digest
                                && !self.world.is_bad(other.leg, there)
                        })
                    });
                if another && !unsure {
                    found.push((sector, ()));
                }
            }
            for (run, ()) in crate::oracle::judge::runs(&found) {
                let note = format!(
                    "leg {} had not stored this when its guest ended; now md calls the array clean, and never copied it",
                    self.world.header.leg_name(member.leg)
                );
                let (check, kind, leg) = (Check::ResyncEq, Wrongness::Absent, member.leg);
                let on_leg = leg_range(member, run);
                self.break_promise(no, check, kind, leg, array.key, run, on_leg, note);
            }
        }
    }
}
