//! A set of sectors, kept as ranges that neither touch nor overlap.

use std::collections::BTreeMap;

use crate::block::{Sector, SectorRange};

/// A set of sectors.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeSet {
    /// First sector to the first sector behind.
    ends: BTreeMap<u64, u64>,
}

impl RangeSet {
    /// Puts a range in.
    pub fn insert(&mut self, range: SectorRange) {
        if range.is_empty() {
            return;
        }
        let (mut start, mut end) = (range.start().0, range.end().0);
        while let Some((&first, &last)) = self.ends.range(..=end).next_back() {
            if last < start {
                break;
            }
            self.ends.remove(&first);
            start = start.min(first);
            end = end.max(last);
        }
        self.ends.insert(start, end);
    }

    /// Takes a range out.
    pub fn remove(&mut self, range: SectorRange) {
        if range.is_empty() {
            return;
        }
        let (start, end) = (range.start().0, range.end().0);
        while let Some((&first, &last)) = self.ends.range(..end).next_back() {
            if last <= start {
                break;
            }
            self.ends.remove(&first);
            if end < last {
                self.ends.insert(end, last);
            }
            if first < start {
                self.ends.insert(first, start);
            }
        }
    }

    /// Whether a sector is in.
    pub fn contains(&self, sector: Sector) -> bool {
        self.ends
            .range(..=sector.0)
            .next_back()
            .is_some_and(|(_, &end)| sector.0 < end)
    }

    /// The parts of a range that are in, in order.
    pub fn within(&self, range: SectorRange) -> impl Iterator<Item = SectorRange> {
        let before = self.ends.range(..range.start().0).next_back();
        before
            .into_iter()
            .chain(self.ends.range(range.start().0..range.end().0))
            .filter_map(|(&start, &end)| SectorRange::new(Sector(start), end - start))
            .filter_map(move |part| part.intersection(range))
    }

    /// The first part of a range that is in.
    pub fn first_in(&self, range: SectorRange) -> Option<SectorRange> {
        self.within(range).next()
    }

    /// The ranges, in order.
    pub fn ranges(&self) -> impl Iterator<Item = SectorRange> {
        self.ends
            .iter()
            .filter_map(|(&start, &end)| SectorRange::new(Sector(start), end - start))
    }

    /// How many sectors are in.
    pub fn count(&self) -> u64 {
        self.ends.iter().map(|(start, end)| end - start).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }
}

impl FromIterator<SectorRange> for RangeSet {
    fn from_iter<T: IntoIterator<Item = SectorRange>>(ranges: T) -> RangeSet {
        let mut set = RangeSet::default();
        for range in ranges {
            set.insert(range);
        }
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn agrees_with_a_set_of_sectors(steps in prop::collection::vec((any::<bool>(), 0u64..80, 0u64..20), 0..60)) {
            let (mut ranges, mut model) = (RangeSet::default(), BTreeSet::new());
            for (insert, start, count) in steps {
                let range = SectorRange::new(Sector(start), count).unwrap();
                for sector in range.sectors() {
                    if insert { model.insert(sector); } else { model.remove(&sector); }
                }
                if insert { ranges.insert(range) } else { ranges.remove(range) }
                let flat: BTreeSet<_> = ranges.ranges().flat_map(SectorRange::sectors).collect();
                prop_assert_eq!(&flat, &model);
                prop_assert_eq!(ranges.count(), model.len() as u64);
                let all: Vec<_> = ranges.ranges().collect();
                let part: BTreeSet<_> = ranges.within(range).flat_map(SectorRange::sectors).collect();
                prop_assert_eq!(part, model.iter().copied().filter(|sector| range.contains(*sector)).collect());
                prop_assert!(all.windows(2).all(|pair| pair[0].end() < pair[1].start()));
            }
        }
    }
}
