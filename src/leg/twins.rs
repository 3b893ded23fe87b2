//! Which write of one leg is the twin of which write of another: the same content for the same array sector.
//!
//! Content tells, not a count: what one leg alone got (a recovery, a repair, writes while the other was out) would shift a count for ever. Each
//! write is taken as a twin once by every other leg, the newest first, so that the same content written again is another write. A write that
//! failed or was abandoned is as if it had never come: it comes again, or never.

use std::collections::{BTreeMap, VecDeque};

use crate::block::{LegId, Sector, SectorRange};
use crate::fault::TwinIs;

/// Writes of a leg that are remembered for a sector. A leg that is farther behind another than that finds no twin.
const REMEMBERED: usize = 8;

/// The last writes of every leg to every array sector.
#[derive(Debug)]
pub(super) struct Twins {
    legs: Vec<BTreeMap<u64, VecDeque<Past>>>,
}

/// A write to one sector.
#[derive(Clone, Copy, Debug)]
struct Past {
    request: u64,
    digest: u32,
    acknowledged: bool,
    /// The legs whose twin has come, before or after it: a bit each.
    taken: u8,
}

fn bit(leg: LegId) -> u8 {
    1u8.checked_shl(leg.0.into()).unwrap_or(0)
}

impl Twins {
    /// Of so many legs.
    pub(super) fn new(legs: usize) -> Twins {
        Twins {
            legs: vec![BTreeMap::new(); legs],
        }
    }

    /// What `other` has done with the write that arrives on `leg` now.
    pub(super) fn is(&self, leg: LegId, sector: Sector, digest: u32, other: LegId) -> TwinIs {
        let Some(past) = self.past(other, sector) else {
            return TwinIs::Absent;
        };
        let mine = past
            .iter()
            .rev()
            .find(|one| one.digest == digest && one.taken & bit(leg) == 0);
        match mine {
            Some(one) if one.acknowledged => TwinIs::Acknowledged,
            Some(_) => TwinIs::InFlight,
            None if past.iter().any(|one| !one.acknowledged) => TwinIs::InFlight,
            None => TwinIs::Absent,
        }
    }

    fn past(&self, leg: LegId, sector: Sector) -> Option<&VecDeque<Past>> {
        self.legs.get(leg.index())?.get(&sector.0)
    }

    /// Pairs the newest write of each other leg with this content, or (not `pair`) parts them again, on the legs of `among`: those it did so on.
    fn turn(&mut self, leg: LegId, sector: u64, digest: u32, among: u8, pair: bool) -> u8 {
        let mine = bit(leg);
        let mut done = 0;
        for (other, past) in self
            .legs
            .iter_mut()
            .zip(0u8..)
            .map(|(past, at)| (LegId(at), past))
        {
            if other == leg || among & bit(other) == 0 {
                continue;
            }
            let mut past = past.get_mut(&sector).into_iter().flatten().rev();
            if let Some(one) =
                past.find(|one| one.digest == digest && (one.taken & mine == 0) == pair)
            {
                one.taken ^= mine;
                done |= bit(other);
            }
        }
        done
    }

    /// A write arrived: a digest a sector.
    pub(super) fn arrived(
        &mut self,
        leg: LegId,
        request: u64,
        range: SectorRange,
        digests: &[u32],
    ) {
        for (sector, digest) in range.sectors().zip(digests) {
            let taken = self.turn(leg, sector.0, *digest, u8::MAX, true);
            let Some(own) = self.legs.get_mut(leg.index()) else {
                return;
            };
            let past = own.entry(sector.0).or_default();
            if past.len() == REMEMBERED {
                past.pop_front();
            }
            past.push_back(Past {
                request,
                digest: *digest,
                acknowledged: false,
                taken,
            });
        }
    }

    /// A write was acknowledged, or (not `ok`) failed or was abandoned.
    pub(super) fn ended(&mut self, leg: LegId, request: u64, range: SectorRange, ok: bool) {
        for sector in range.sectors() {
            let own = self.legs.get_mut(leg.index());
            let Some(past) = own.and_then(|own| own.get_mut(&sector.0)) else {
                continue;
            };
            let Some(at) = past.iter().rposition(|one| one.request == request) else {
                continue;
            };
            if ok {
                past[at].acknowledged = true;
            } else if let Some(gone) = past.remove(at) {
                self.turn(leg, sector.0, gone.digest, gone.taken, false);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: LegId = LegId(0);
    const B: LegId = LegId(1);

    fn at(sector: u64) -> SectorRange {
        SectorRange::new(Sector(sector), 1).unwrap()
    }

    fn write(twins: &mut Twins, leg: LegId, request: u64, digest: u32) {
        twins.arrived(leg, request, at(5), &[digest]);
        twins.ended(leg, request, at(5), true);
    }

    fn is(twins: &Twins, digest: u32) -> TwinIs {
        twins.is(B, Sector(5), digest, A)
    }

    #[test]
    fn a_twin_has_the_same_content_and_comes_once() {
        let mut twins = Twins::new(2);
        assert_eq!(is(&twins, 7), TwinIs::Absent);
        twins.arrived(A, 1, at(5), &[7]);
        assert_eq!(is(&twins, 7), TwinIs::InFlight);
        assert_eq!(is(&twins, 6), TwinIs::InFlight, "an older write");
        twins.ended(A, 1, at(5), true);
        assert_eq!(is(&twins, 7), TwinIs::Acknowledged);
        assert_eq!(is(&twins, 6), TwinIs::Absent);
        assert_eq!(twins.is(B, Sector(6), 7, A), TwinIs::Absent);
        write(&mut twins, B, 1, 7);
        assert_eq!(is(&twins, 7), TwinIs::Absent, "the same once more is new");
        write(&mut twins, A, 2, 7);
        assert_eq!(is(&twins, 7), TwinIs::Acknowledged);
    }

    #[test]
    fn whichever_leg_is_ahead_a_pair_is_a_pair() {
        let mut twins = Twins::new(3);
        for request in 1..=3 {
            assert_eq!(is(&twins, 0), TwinIs::Absent, "b is the first each time");
            write(&mut twins, B, request, 0);
            write(&mut twins, A, request, 0);
        }
        // A second one of b's that fails had no twin to give back.
        twins.arrived(B, 4, at(5), &[0]);
        twins.ended(B, 4, at(5), false);
        assert_eq!(is(&twins, 0), TwinIs::Absent);
        assert_eq!(
            twins.is(LegId(2), Sector(5), 0, A),
            TwinIs::Acknowledged,
            "a third leg has its own"
        );
    }

    #[test]
    fn what_one_leg_alone_got_shifts_nothing() {
        let mut twins = Twins::new(2);
        // b is recovered, then repaired; then a is ahead of it by two.
        for (request, digest) in [(1, 1), (2, 2), (3, 3)] {
            write(&mut twins, B, request, digest);
        }
        for (request, digest) in [(1, 8), (2, 9)] {
            write(&mut twins, A, request, digest);
        }
        assert_eq!(is(&twins, 8), TwinIs::Acknowledged);
        write(&mut twins, B, 4, 8);
        assert_eq!(is(&twins, 9), TwinIs::Acknowledged);
        // b is out for a while, and misses some.
        for request in 3..20 {
            write(
                &mut twins,
                A,
                request,
                100 + u32::try_from(request).unwrap(),
            );
        }
        assert_eq!(is(&twins, 200), TwinIs::Absent);
        write(&mut twins, A, 20, 200);
        assert_eq!(is(&twins, 200), TwinIs::Acknowledged);
        assert_eq!(is(&twins, 103), TwinIs::Absent, "forgotten");
    }

    #[test]
    fn what_failed_has_never_come() {
        let mut twins = Twins::new(2);
        twins.arrived(A, 1, at(5), &[7]);
        twins.ended(A, 1, at(5), false);
        assert_eq!(is(&twins, 7), TwinIs::Absent);
        write(&mut twins, A, 2, 7);
        twins.arrived(B, 1, at(5), &[7]);
        assert_eq!(is(&twins, 7), TwinIs::Absent, "taken");
        twins.ended(B, 1, at(5), false);
        assert_eq!(is(&twins, 7), TwinIs::Acknowledged, "and given back");
    }
}
