//! Mirror lag: how long what was written stayed different between two legs, from the completion on the one to the completion on the other.
//!
//! Covers: every write to the data area of an array with two active legs or more, judged by its first sector: when a leg completes it, each leg that has
//! completed the same content before was ahead by so long. Does not cover: what a leg never got; content that was overwritten on the first leg before the second
//! had it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::checker::Checker;
use super::world::{array_range, leg_sector};
use crate::block::{LegId, RequestId, SectorRange};
use crate::shadow::{Origin, State};

/// What two legs were apart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PairLag {
    /// Their names.
    pub legs: [String; 2],
    /// Requests that completed on one leg after the other.
    pub requests: u64,
    /// Their sectors.
    pub sectors: u64,
    /// The longest, in microseconds.
    pub longest_us: u64,
    /// Sectors by time: entry 0 up to 1 microsecond, each further one up to twice as long as the one before.
    pub histogram: Vec<u64>,
}

impl PairLag {
    /// The time in microseconds within which so many of a hundred sectors were equal again (the upper bound of its entry).
    pub fn within_us(&self, percent: u64) -> u64 {
        let want = (self.sectors * percent).div_ceil(100);
        let mut sum = 0;
        for (at, count) in self.histogram.iter().enumerate() {
            sum += count;
            if sum >= want {
                return (1u64 << at.min(62)).min(self.longest_us);
            }
        }
        self.longest_us
    }

    fn add(&mut self, us: u64, sectors: u64) {
        let at = crate::block::to_usize(u64::from(us.max(1).next_power_of_two().ilog2()));
        if self.histogram.len() <= at {
            self.histogram.resize(at + 1, 0);
        }
        self.histogram[at] += sectors;
        self.requests += 1;
        self.sectors += sectors;
        self.longest_us = self.longest_us.max(us);
    }
}

/// All pairs.
#[derive(Debug, Default)]
pub(crate) struct Lags {
    pairs: BTreeMap<(LegId, LegId), PairLag>,
}

impl Checker {
    /// A leg has completed a write.
    pub(super) fn see_mirror_lag(&mut self, us: u64, id: RequestId, range: SectorRange) {
        let Some((array, member)) = self.world.checked(id.leg) else {
            return;
        };
        let Some(on_array) = array_range(member, range).filter(|_| member.active) else {
            return;
        };
        let first = on_array.start();
        let own = leg_sector(member, first).map(|at| self.world.shadow(id.leg).current(at));
        let Some(own) = own.filter(|own| own.request == id.number) else {
            return;
        };
        for other in array.active().filter(|other| other.leg != id.leg) {
            let Some(at) = leg_sector(other, first) else {
                continue;
            };
            let theirs = self.world.shadow(other.leg).current(at);
            if theirs.digest != own.digest
                || theirs.state != State::Acknowledged
                || theirs.origin != Origin::Write
            {
                continue;
            }
            let request = RequestId {
                leg: other.leg,
                number: theirs.request,
            };
            let Some(past) = self.world.requests.past(request) else {
                continue;
            };
            let lag = us.saturating_sub(past.ended_us);
            let key = (id.leg.min(other.leg), id.leg.max(other.leg));
            let pair = self.lags.pairs.entry(key).or_default();
            pair.add(lag, on_array.count());
        }
    }

    /// What the report has of it.
    pub(super) fn lag_coverage(&mut self) {
        let name = |leg: LegId| self.world.header.leg_name(leg).to_owned();
        let named = |((one, other), pair): (&(LegId, LegId), &PairLag)| PairLag {
            legs: [name(*one), name(*other)],
            ..pair.clone()
        };
        self.coverage.lag = self.lags.pairs.iter().map(named).collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_histogram_tells_within_what_time_sectors_were_equal() {
        let mut pair = PairLag::default();
        for us in [0, 1, 2, 3, 4, 5] {
            pair.add(us, 8);
        }
        pair.add(1000, 2);
        assert_eq!(pair.histogram[..4], [16, 8, 16, 8]);
        assert_eq!(
            (pair.requests, pair.sectors, pair.longest_us),
            (7, 50, 1000)
        );
        assert_eq!(
            (pair.within_us(50), pair.within_us(96), pair.within_us(100)),
            (4, 8, 1000)
        );
        assert_eq!(PairLag::default().within_us(50), 0);
    }
}
