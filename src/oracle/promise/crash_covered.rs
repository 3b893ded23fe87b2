//! `crash-covered`: whatever a cut leaves different is marked, so that the next assembly repairs it.
//!
//! Covers: at a cut of the guest: sectors of which one active leg has completed a write that another active leg has not been given: the freshest
//! superblock is dirty, and with a bitmap the chunk's bit is set in every active leg's copy (as completed, or in flight: either value may be there). Both
//! marks are needed: bits below the checkpoint are ignored at load (`md-bitmap.c:md_bitmap_init_from_disk`).
//!
//! Does not cover: writes in flight at the cut, what a leg lacks after an error of which md has not yet made up its mind (7), excuses 10 to 14, what
//! volatile caches lose (`cache_lost` does). A page that was not yet sent when the data was is K1.

use crate::block::{Sector, SectorRange};
use crate::event::EventNo;
use crate::finding::{Check, Wrongness};
use crate::md::Array;
use crate::oracle::checker::Checker;
use crate::oracle::known::When;
use crate::oracle::world::{leg_range, leg_sector};
use crate::oracle::{all_legs, same_data};
use crate::shadow::State;

impl Checker {
    pub(crate) fn crash_covered(&mut self, no: EventNo) {
        for array in self.world.md.arrays().to_vec() {
            if array.declared
                || array.refused.is_some()
                || array.active().count() < 2
                || !self.runs(&array)
            {
                continue;
            }
            let Some(unproven) = self.promises.unproven.get(&array.key).cloned() else {
                continue;
            };
            let mut found: Vec<(Sector, u8)> = Vec::new();
            let mut looked = 0;
            for sector in unproven.ranges().flat_map(SectorRange::sectors) {
                let Some(behind) = self.missed_by(&array, sector) else {
                    continue;
                };
                looked += 1;
                if !self.covered(&array, sector) {
                    found.push((sector, behind));
                }
            }
            self.count(Check::CrashCovered, looked);
            for (run, leg) in crate::oracle::judge::runs(&found) {
                let leg = crate::block::LegId(leg);
                let Some(member) = array.member(leg) else {
                    continue;
                };
                let note = "legs differ at the cut, and no dirty mark or bit says so".to_owned();
                let on_leg = leg_range(member, run);
                let when = if self.never_set_since_growth(&array, run) {
                    Some(When::Grown)
                } else if self.bit_on_its_way(&array, run) {
                    Some(When::BitOnItsWay)
                } else {
                    array.may_lag(member).then_some(When::Behind)
                };
                self.break_promise_when(
                    no,
                    Check::CrashCovered,
                    Wrongness::Differs,
                    when,
                    leg,
                    array.key,
                    run,
                    on_leg,
                    note,
                );
            }
        }
    }

    /// The active leg that was not given a write which another one has completed.
    fn missed_by(&self, array: &Array, sector: Sector) -> Option<u8> {
        let legs: Vec<_> = array
            .active()
            .filter_map(|member| {
                let at = leg_sector(member, sector)?;
                if self.world.is_bad(member.leg, at) {
                    return None;
                }
                let shadow = self.world.shadow(member.leg);
                let version = shadow.current(at);
                (version.state == State::Acknowledged && !version.changed)
                    .then_some((member.leg, shadow, at, version))
            })
            .collect();
        legs.iter().find_map(|(leg, shadow, at, version)| {
            let failing = self.durable.troubles.pending(*leg);
            legs.iter()
                .any(|(_, other, there, theirs)| {
                    version.digest != theirs.digest
                        && failing.is_none_or(|first| theirs.no <= first)
                        && all_legs::missed(shadow, other, (*at, *there))
                        && !all_legs::both_in_another_order(shadow, other, (*at, *there))
                        && !same_data::buffer_changed(*version, *theirs)
                })
                .then_some(leg.0)
        })
    }

    /// Whether a leg still waits for a bit of these sectors, for no longer than it may.
    fn bit_on_its_way(&self, array: &Array, run: SectorRange) -> bool {
        self.promises.late_bits.iter().any(|late| {
            let copy = self.promises.leg(late.leg).bitmap();
            array.member(late.leg).is_some()
                && copy.is_some_and(|copy| array.chunks(copy, run).any(|chunk| chunk == late.chunk))
        })
    }

    /// Whether the bits that are missing are of chunks that came with the array's growth and were never set since.
    fn never_set_since_growth(&self, array: &Array, run: SectorRange) -> bool {
        let mut missing = array.active().flat_map(|member| {
            let wire = self.promises.leg(member.leg);
            let copy = wire.bitmap();
            let chunks = copy.into_iter().flat_map(|copy| array.chunks(copy, run));
            chunks
                .filter(|chunk| copy.is_some_and(|copy| !copy.is_set(*chunk)))
                .map(|chunk| wire.is_grown(chunk))
                .collect::<Vec<_>>()
        });
        missing.next() == Some(true) && missing.all(|grown| grown)
    }

    pub(super) fn covered(&self, array: &Array, sector: Sector) -> bool {
        let freshest = array
            .active()
            .filter_map(|member| self.promises.leg(member.leg).superblock.as_ref())
            .max_by_key(|superblock| superblock.events);
        let one = SectorRange::new(sector, 1).unwrap_or_default();
        let mut end = sector.0;
        for member in array.active() {
            let wire = self.promises.leg(member.leg);
            let (Some(held), Some(sent)) = (wire.bitmap(), wire.sent_bitmap()) else {
                continue;
            };
            for chunk in array.chunks(held, one) {
                end = end.max(array.of_chunk(held, chunk).end().0);
                if !held.is_set(chunk) && !sent.is_set(chunk) {
                    return false;
                }
            }
        }
        freshest.is_none_or(|superblock| array.below(superblock.resync_offset) <= end)
    }
}
