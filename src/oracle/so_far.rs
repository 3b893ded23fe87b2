//! What the checker can tell while a run goes on.

use super::checker::Checker;
use super::world::leg_sector;
use crate::block::SectorRange;
use crate::finding::Confidence;

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
    /// In short, the first thing that is proven to be wrong so far, and decides.
    pub fn first_proven(&self) -> Option<String> {
        let wrong = self.wrongs.first_proven()?;
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

    /// How the run stands. Takes time: not for every event.
    pub fn so_far(&self) -> SoFar {
        let (unequal, unequal_more) = self.unequal_now();
        SoFar {
            proven: self.wrongs.open_kinds(Confidence::Proven),
            suspect: self.wrongs.open_kinds(Confidence::Suspect),
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
