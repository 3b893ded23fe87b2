//! How long requests took, and how much later than the first leg the others completed the same data.

use std::collections::{BTreeMap, VecDeque};

use serde::Serialize;
use smallvec::SmallVec;

/// Buckets of a histogram: powers of two of microseconds.
const BUCKETS: usize = 36;
/// Contents that are waited for on other legs.
const WAITING_MAX: usize = 65_536;
/// One sector in so many is looked at, besides a request's first.
const SAMPLE_EVERY: u64 = 64;

/// A histogram of durations. Bucket 0 is below 1 µs, bucket n is from 2^(n-1) µs to below 2^n µs; the last one has the rest.
#[derive(Clone, Debug, Serialize)]
pub struct Histogram {
    /// Counts.
    pub buckets: Vec<u64>,
    /// The longest, in microseconds.
    pub max_us: u64,
}

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram {
            buckets: vec![0; BUCKETS],
            max_us: 0,
        }
    }
}

impl Histogram {
    pub(super) fn put(&mut self, us: u64) {
        let bucket = usize::try_from(u64::BITS - us.leading_zeros()).unwrap_or(BUCKETS);
        self.buckets[bucket.min(BUCKETS - 1)] += 1;
        self.max_us = self.max_us.max(us);
    }
}

/// Contents that one leg has completed and another may complete later.
#[derive(Debug, Default)]
pub(super) struct Lags {
    first: BTreeMap<(u64, u32), (usize, u64)>,
    order: VecDeque<(u64, u32)>,
}

impl Lags {
    /// A leg completed this content of an array sector; tells how much later than the first leg, if it is not the first.
    pub(super) fn completed(
        &mut self,
        leg: usize,
        sector: u64,
        digest: u32,
        us: u64,
    ) -> Option<u64> {
        let key = (sector, digest);
        match self.first.get(&key) {
            Some((first, at)) if *first != leg => Some(us.saturating_sub(*at)),
            // Written again with the same content.
            Some(_) => {
                self.first.insert(key, (leg, us));
                None
            }
            None => {
                if self.order.len() == WAITING_MAX
                    && let Some(old) = self.order.pop_front()
                {
                    self.first.remove(&old);
                }
                self.order.push_back(key);
                self.first.insert(key, (leg, us));
                None
            }
        }
    }
}

/// The array sectors of a request that are looked at, with their digests.
pub(super) fn samples(start: u64, data: u64, digests: &[u32]) -> SmallVec<[(u64, u32); 2]> {
    let Some(array) = start.checked_sub(data) else {
        return SmallVec::new();
    };
    digests
        .iter()
        .enumerate()
        .map(|(at, digest)| (array + at as u64, *digest))
        .filter(|(sector, _)| *sector == array || sector % SAMPLE_EVERY == 0)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_leg_lags_and_the_first_does_not() {
        let mut lags = Lags::default();
        assert_eq!(lags.completed(0, 8, 1, 100), None);
        assert_eq!(lags.completed(1, 8, 1, 350), Some(250));
        assert_eq!(lags.completed(1, 8, 2, 400), None);
        assert_eq!(samples(100, 36, &[5; 130]).len(), 3);
        assert!(samples(3, 36, &[5]).is_empty());
        let mut histogram = Histogram::default();
        for us in [0, 1, 2, 3, u64::MAX] {
            histogram.put(us);
        }
        assert_eq!(histogram.buckets[..3], [1, 1, 2]);
        assert_eq!(histogram.buckets[BUCKETS - 1], 1);
    }
}
