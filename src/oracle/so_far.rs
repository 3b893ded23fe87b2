//! What the checker can tell while a run goes on.

use std::collections::BTreeSet;

use super::checker::Checker;
use super::world::leg_sector;
use super::wrong::Wrong;
use crate::block::{LegId, SectorRange};

/// Sectors that are looked at for one count of unequal ones.
const LOOK_MAX: usize = 1 << 15;

/// How the run stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SoFar {
    /// Kinds of findings that are proven and decide.
    pub proven: u64,
    /// Kinds of findings that are suspect.
    pub suspect: u64,
    /// How often rules fired.
    pub faults: u64,
    /// Array sectors whose active legs hold different contents now; most of them are in flight.
    pub unequal: u64,
    /// Whether there may be more of these: only a part of what was written since the last comparison was looked at.
    pub unequal_more: bool,
}

impl Checker {
    /// In short, the first thing that is proven to be wrong so far, and decides. What one leg alone lacks is not told before it is sure that the leg
    /// was no failed one at that time (case 7): until the array has written its metadata again or is at rest, or the leg is sent something newer.
    pub fn first_proven(&self) -> Option<String> {
        let wrong = self.proven().next()?;
        Some(format!(
            "{} on leg {}, array {}+{} ({}), proven by {}",
            wrong.kind.name(),
            self.world.header.leg_name(wrong.leg),
            self.world.md.on_whole(wrong.key, wrong.array.start()).0,
            wrong.array.count(),
            wrong.check.name(),
            wrong.at
        ))
    }

    /// Whether there is something of the kind that [`Self::first_proven`] tells, unless it is taken back. Quick.
    pub fn has_proven(&self) -> bool {
        self.wrongs.has_proven()
    }

    fn proven(&self) -> impl Iterator<Item = &Wrong> {
        self.wrongs.proven(|wrong, same| self.stays(wrong, same))
    }

    /// Whether an entry can't be taken back any more; `same` are those of the same event.
    fn stays(&self, wrong: &Wrong, same: &[Wrong]) -> bool {
        let Some(array) = self.world.md.array(wrong.key) else {
            return true;
        };
        if self.world.md.superblock(wrong.leg).is_err() {
            return true;
        }
        let beside = |other: &&Wrong| {
            other.key == wrong.key && other.array.intersection(wrong.array).is_some()
        };
        let legs: BTreeSet<LegId> = same.iter().filter(beside).map(|other| other.leg).collect();
        // The last good leg does not fail (drivers/md/raid1.c:raid1_error).
        if legs.len() >= array.active().count() {
            return true;
        }
        // It was sent something for this very write, so it was good.
        if wrong.instead.is_some_and(|instead| instead.all) {
            return true;
        }
        let (since, seen) = self.was_good(wrong.key, wrong.leg);
        wrong.stays(since, seen)
    }

    /// How the run stands. Takes time: not for every event.
    pub fn so_far(&self) -> SoFar {
        let (unequal, unequal_more) = self.unequal_now();
        let kinds: BTreeSet<_> = self
            .proven()
            .map(|wrong| (wrong.check, wrong.kind))
            .collect();
        SoFar {
            proven: kinds.len() as u64,
            suspect: self.wrongs.suspect_kinds(),
            faults: self.injected.fired(),
            unequal,
            unequal_more,
        }
    }

    fn unequal_now(&self) -> (u64, bool) {
        let (mut unequal, mut looks) = (0, LOOK_MAX);
        for array in self.world.md.arrays() {
            let Some(touched) = self.touched.get(&array.key) else {
                continue;
            };
            if array.refused.is_some() || array.active().count() < 2 {
                continue;
            }
            for sector in touched.ranges().flat_map(SectorRange::sectors) {
                if looks == 0 {
                    return (unequal, true);
                }
                looks -= 1;
                let mut digests = array.active().filter_map(|member| {
                    let at = leg_sector(member, sector)?;
                    Some(self.world.shadow(member.leg).current(at).digest)
                });
                let first = digests.next();
                unequal += u64::from(digests.any(|digest| Some(digest) != first));
            }
        }
        (unequal, false)
    }
}
