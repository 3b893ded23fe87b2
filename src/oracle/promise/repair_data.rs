//! `repair-data`: what could not be read is written again with what another leg holds.
//!
//! Covers: WRITEs to sectors for which the leg returned an error to a READ: their content is what an active leg, perhaps the same one, holds there
//! (`raid1.c:fix_read_error`, `fix_sync_read_error`, `process_checks`). A write of the array's own may come first, with new content: it goes to the other legs
//! as well, so a difference is told at the next point of rest, if no other leg ever got the content, and one was there all the time to get it.
//!
//! Does not cover: sectors in flight or in doubt, contents that came from a fault's lie.

use crate::block::{LegId, RequestId, Sector};
use crate::event::EventNo;
use crate::finding::{Check, Wrongness};
use crate::md::{Array, ArrayKey, Member};
use crate::oracle::checker::Checker;
use crate::oracle::world::{leg_range, leg_sector};
use crate::shadow::State;

/// Differences that wait to be told.
const REPAIRS_MAX: usize = 1000;

/// A sector that was written again with something that no leg held.
#[derive(Clone, Copy, Debug)]
pub(super) struct Repair {
    key: ArrayKey,
    leg: LegId,
    sector: Sector,
    digest: u32,
    at: EventNo,
    /// Another leg that was active then.
    other: LegId,
}

impl Checker {
    pub(super) fn repair_data(
        &mut self,
        no: EventNo,
        id: RequestId,
        array: &Array,
        member: &Member,
    ) {
        let Some((range, digests)) = self
            .world
            .requests
            .open(id)
            .and_then(|open| Some((*open.ranges.first()?, open.digests.clone())))
        else {
            return;
        };
        // With no other leg, new content goes nowhere else.
        let Some(other) = array.active().find(|other| other.leg != id.leg) else {
            return;
        };
        let other = other.leg;
        self.count(Check::RepairData, 1);
        for (at, digest) in range.sectors().zip(&digests) {
            let Some(sector) = at.0.checked_sub(member.data.start().0).map(Sector) else {
                continue;
            };
            let known = array.active().any(|other| {
                let shadow = self.world.shadow(other.leg);
                let Some(at) = leg_sector(other, sector) else {
                    return true;
                };
                // The write itself is the newest version of its own leg.
                let mut versions = shadow.versions(at).skip(usize::from(other.leg == id.leg));
                let held = versions.next();
                held.is_none_or(|held| {
                    held.digest == Some(*digest)
                        || (other.leg != id.leg && held.digest.is_none())
                        || (other.leg != id.leg && held.state != State::Acknowledged)
                })
            });
            let lie = self.injected.source(Some(*digest)).is_some();
            if !known && !lie && self.promises.doubts.repairs.len() < REPAIRS_MAX {
                self.promises.doubts.repairs.push(Repair {
                    key: array.key,
                    leg: id.leg,
                    sector,
                    digest: *digest,
                    at: no,
                    other,
                });
            }
        }
    }

    /// A point of rest: what no other leg has got by now it was never sent.
    pub(super) fn resolve_repairs(&mut self, array: &Array) {
        let (mine, others): (Vec<Repair>, Vec<Repair>) =
            std::mem::take(&mut self.promises.doubts.repairs)
                .into_iter()
                .partition(|repair| repair.key == array.key);
        self.promises.doubts.repairs = others;
        let mut found = Vec::new();
        for repair in mine {
            let stayed = array.member(repair.other).is_some_and(|other| other.active);
            let elsewhere = array
                .members
                .iter()
                .filter(|other| other.leg != repair.leg)
                .any(|other| {
                    let shadow = self.world.shadow(other.leg);
                    leg_sector(other, repair.sector).is_none_or(|at| {
                        shadow.forgotten(at)
                            || shadow
                                .versions(at)
                                .any(|version| version.digest == Some(repair.digest))
                    })
                });
            if stayed && !elsewhere {
                found.push((repair.sector, (repair.leg, repair.at)));
            }
        }
        for (run, (leg, at)) in crate::oracle::judge::runs(&found) {
            let Some(member) = array.member(leg) else {
                continue;
            };
            let note = format!(
                "leg {} could not read these sectors and was given, with {at}, what no leg held",
                self.world.header.leg_name(leg)
            );
            let on_leg = leg_range(member, run);
            let (check, key) = (Check::RepairData, array.key);
            self.break_promise(at, check, Wrongness::Garbage, leg, key, run, on_leg, note);
        }
    }
}
