//! Checkpoints on the way of a resync or a recovery: what they promise, and how it is found broken.

use std::collections::BTreeMap;

use crate::block::{LegId, RequestId, Sector, SectorRange};
use crate::event::EventNo;
use crate::finding::{Check, Wrongness};
use crate::md::{Array, ArrayKey, Member};
use crate::oracle::checker::Checker;
use crate::oracle::world::{leg_range, leg_sector};
use crate::shadow::{Origin, RangeSet};

/// Differences below a checkpoint that are remembered.
const EARLY_MAX: usize = 100_000;

/// A sector that differs below a checkpoint.
#[derive(Clone, Copy, Debug)]
struct Early {
    check: Check,
    at: EventNo,
    digest: Option<u32>,
}

/// What differs below checkpoints, and how far each array and check was looked at.
#[derive(Debug, Default)]
pub(super) struct Checkpoints {
    early: BTreeMap<(LegId, ArrayKey, Sector), Early>,
    /// By the leg that is recovered; a resync's are nobody's.
    looked: BTreeMap<(Check, ArrayKey, Option<LegId>), u64>,
}

impl Checkpoints {
    pub(super) fn clear(&mut self) {
        *self = Checkpoints::default();
    }

    /// A pass begins, or is over: the next checkpoint is looked at from its start, and what an earlier pass left is another's to copy.
    pub(super) fn anew(&mut self, check: Check, key: ArrayKey) {
        self.looked
            .retain(|(of, array, _), _| (*of, *array) != (check, key));
        self.early
            .retain(|(_, array, _), early| (early.check, *array) != (check, key));
    }

    /// Somebody else than resync wrote what a leg lacked, or something newer.
    pub(super) fn over(&mut self, leg: LegId, key: ArrayKey, range: SectorRange) {
        if self.early.is_empty() {
            return;
        }
        let all = (leg, key, range.start())..(leg, key, range.end());
        let over: Vec<_> = self.early.range(all).map(|(place, _)| *place).collect();
        for place in over {
            self.early.remove(&place);
        }
    }

    /// A leg is away: what it is given when it comes back it lacks for that.
    pub(super) fn away(&mut self, leg: LegId) {
        self.early.retain(|(of, _, _), _| *of != leg);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.early.is_empty()
    }
}

impl Checker {
    /// All is copied below `offset`, to the leg that comes or, by a resync, to any. What was looked at with the checkpoint before is not looked at again. How
    /// many sectors differ.
    pub(super) fn checkpoint(
        &mut self,
        no: EventNo,
        check: Check,
        array: &Array,
        comes: Option<LegId>,
        offset: u64,
    ) -> u64 {
        let place = (check, array.key, comes);
        let looked = self.promises.checkpoints.looked.get(&place);
        let from = looked.copied().unwrap_or_default();
        if from == offset {
            return 0;
        }
        let from = if from > offset {
            self.promises.checkpoints.anew(check, array.key);
            0
        } else {
            from
        };
        self.promises.checkpoints.looked.insert(place, offset);
        self.count(check, 1);
        let below = SectorRange::new(Sector(from), offset - from).unwrap_or_default();
        let mut parts = RangeSet::default();
        if let Some(ever) = self.promises.ever.get(&array.key) {
            for part in ever.within(below) {
                parts.insert(part);
            }
        }
        let mut apart = 0;
        for (run, (leg, _)) in self.differences(array, &parts) {
            let leg = LegId(leg);
            apart += run.count();
            for sector in run.sectors() {
                let digest = array
                    .active()
                    .find(|member| member.leg != leg)
                    .and_then(|member| {
                        let at = leg_sector(member, sector)?;
                        self.world.shadow(member.leg).current(at).digest
                    });
                let early = &mut self.promises.checkpoints.early;
                if early.len() < EARLY_MAX {
                    let one = Early {
                        check,
                        at: no,
                        digest,
                    };
                    early.insert((leg, array.key, sector), one);
                }
            }
        }
        apart
    }

    /// A write of resync's was fetched: whether it brings what a checkpoint said was there.
    pub(super) fn copied_late(
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
        let mut found: Vec<(Sector, (Check, EventNo))> = Vec::new();
        for (at, digest) in range.sectors().zip(&digests) {
            let Some(sector) = at.0.checked_sub(member.data.start().0).map(Sector) else {
                continue;
            };
            let key = (id.leg, array.key, sector);
            if let Some(early) = self.promises.checkpoints.early.remove(&key)
                && early.digest == Some(*digest)
                && !self.is_written_back(array, id, sector)
            {
                found.push((sector, (early.check, early.at)));
            }
        }
        for (run, (check, at)) in crate::oracle::judge::runs(&found) {
            let note = format!(
                "with {at} md said that this was copied; it was with request {} of leg {}",
                id.number,
                self.world.header.leg_name(id.leg)
            );
            let on_leg = leg_range(member, run);
            let kind = Wrongness::Early;
            self.break_promise(no, check, kind, id.leg, array.key, run, on_leg, note);
        }
    }

    /// Whether a write comes from a page that was written to another leg at the same place: a program's (a file system's) that wrote back what it had read, and
    /// no copy of resync's.
    fn is_written_back(&self, array: &Array, id: RequestId, sector: Sector) -> bool {
        let there = |member: &Member| {
            let at = leg_sector(member, sector)?;
            Some((self.world.shadow(member.leg), at))
        };
        let member = array.member(id.leg);
        let Some((own, at)) = member.and_then(there) else {
            return false;
        };
        let gpa = own.current(at).gpa;
        let others = array.members.iter().filter(|member| member.leg != id.leg);
        gpa != 0
            && others.filter_map(there).any(|(shadow, at)| {
                let mut versions = shadow.versions(at);
                versions.any(|version| version.origin == Origin::Write && version.gpa == gpa)
            })
    }
}
