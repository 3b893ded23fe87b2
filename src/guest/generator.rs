//! What a writer does next: a pure sequence of requests.
//!
//! The requests of a writer (kind, sector, size, in order) are a function of the plan's seed, the writer's number, the load and the target's
//! size, and of nothing else: no request is ever chosen anew because of what is in flight. Where a pattern forbids overlaps, the writer
//! *waits* until the sectors of its next request are free ([`Busy`]), and holds nothing that others wait for meanwhile: a writer takes
//! sectors only for a request that it submits without waiting for anybody. So a seed fixes every writer's requests, and the kernel's
//! timing decides only how the writers' requests interleave.
//!
//! Every request takes the same number of draws whatever comes of them, so that one option does not reshuffle the others.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, PoisonError};

use super::Error;
use crate::block::{SECTOR_BYTES, Sector, SectorRange};
use crate::plan::{Pattern, WriteLoad};
use crate::stamp::SplitMix64;

/// The largest write in bytes.
const SIZE_MAX: u32 = 1 << 20;

/// What a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Stamped sectors.
    Write,
    /// A discard.
    Discard,
    /// fsync; the range is empty.
    Flush,
}

/// One request of a writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Planned {
    /// What it is.
    pub(super) kind: Kind,
    /// Its sectors on the target.
    pub(super) range: SectorRange,
    /// Its number within its writer, from 1.
    pub(super) sequence: u64,
}

/// The requests of one writer.
#[derive(Clone, Debug)]
pub(super) struct Generator {
    random: SplitMix64,
    seed: u64,
    salt: u64,
    pattern: Pattern,
    /// Sizes in sectors, whole blocks.
    sizes: Vec<u64>,
    area: SectorRange,
    block: u64,
    discard_percent: u64,
    fsync_every: u64,
    left: u64,
    written: u64,
    next_sequential: u64,
    sequence: u64,
    flush_due: bool,
}

impl Generator {
    /// The generator of writer `index` (from 0) of a load on a target of `sectors` sectors with logical blocks of `block` sectors.
    pub(super) fn new(
        load: &WriteLoad,
        seed: u64,
        index: u16,
        sectors: u64,
        block: u64,
    ) -> Result<Generator, Error> {
        let wrong = |what: String| Error::new(format!("workload on {}: {what}", load.device));
        if load.writers == 0 || !(1..=64).contains(&load.depth) || load.discard_percent > 100 {
            return Err(wrong(format!(
                "{} writers, depth {}, discard_percent {}: use at least 1 writer, a depth of 1 to 64, at most 100 percent",
                load.writers, load.depth, load.discard_percent
            )));
        }
        let bad_size = |size: &&u32| {
            !(1..=SIZE_MAX).contains(*size)
                || !u64::from(**size).is_multiple_of(SECTOR_BYTES as u64)
        };
        if let Some(size) = load.sizes.iter().find(bad_size) {
            return Err(wrong(format!(
                "size {size}: use multiples of {SECTOR_BYTES} up to {SIZE_MAX}"
            )));
        }
        if load.sizes.is_empty() {
            return Err(wrong("it has no sizes".into()));
        }
        // The model keeps sequence numbers in 32 bits; flushes take numbers too.
        if load.writes > u64::from(u32::MAX / 2) {
            return Err(wrong(format!(
                "{} writes: use at most {}",
                load.writes,
                u32::MAX / 2
            )));
        }
        let sizes: Vec<u64> = load
            .sizes
            .iter()
            .map(|bytes| (u64::from(*bytes) / SECTOR_BYTES as u64).next_multiple_of(block))
            .collect();
        let largest = sizes.iter().copied().max().unwrap_or(block);
        let start = load.start.next_multiple_of(block);
        let end = match load.count {
            0 => sectors,
            count => load.start.saturating_add(count),
        };
        if end > sectors {
            return Err(wrong(format!(
                "its area ends at sector {end}, the device has {sectors}"
            )));
        }
        let own = match load.pattern {
            Pattern::Sequential | Pattern::Random | Pattern::OverlapOwn => true,
            Pattern::Shared | Pattern::Overlap => false,
        };
        let parts = if own { u64::from(load.writers) } else { 1 };
        let part = end.saturating_sub(start) / parts / block * block;
        if part < largest {
            return Err(wrong(format!(
                "its area gives each writer {part} sectors, too few for its largest write of {largest}"
            )));
        }
        let first = if own {
            start + part * u64::from(index)
        } else {
            start
        };
        let writers = u64::from(load.writers);
        let writer = u64::from(load.first_writer) + u64::from(index);
        Ok(Generator {
            random: SplitMix64(
                SplitMix64(seed).next_u64() ^ SplitMix64(writer ^ (1 << 32)).next_u64(),
            ),
            seed,
            salt: match load.pattern {
                Pattern::Overlap => u64::from(load.first_writer) | 1 << 33,
                Pattern::Sequential | Pattern::Random | Pattern::Shared | Pattern::OverlapOwn => {
                    writer | 1 << 34
                }
            },
            pattern: load.pattern,
            sizes,
            area: SectorRange::new(Sector(first), part)
                .ok_or_else(|| wrong("its area ends past the end of numbers".into()))?,
            block,
            discard_percent: u64::from(load.discard_percent),
            fsync_every: u64::from(load.fsync_every),
            left: load.writes / writers + u64::from(u64::from(index) < load.writes % writers),
            written: 0,
            next_sequential: 0,
            sequence: 0,
            flush_due: false,
        })
    }

    /// The size of the largest request in sectors.
    pub(super) fn largest(&self) -> u64 {
        self.sizes.iter().copied().max().unwrap_or(0)
    }

    fn place(&mut self, count: u64, chance: u64, near: bool) -> u64 {
        let rooms = |sectors: u64| (sectors - count) / self.block + 1;
        let anywhere = |chance: u64, sectors: u64| {
            SplitMix64(chance).below(rooms(sectors.max(count))) * self.block
        };
        match self.pattern {
            Pattern::Sequential => {
                if self.next_sequential + count > self.area.count() {
                    self.next_sequential = 0;
                }
                let at = self.next_sequential;
                self.next_sequential += count;
                at
            }
            Pattern::Random | Pattern::Shared => anywhere(chance, self.area.count()),
            // Half of the requests go to a spot of four times the largest size that moves with every 16th request, and for all writers of an
            // `Overlap` load alike: so they do meet, in an area of any size.
            Pattern::OverlapOwn | Pattern::Overlap => {
                let spot = (self.largest() * 4).min(self.area.count());
                if near {
                    let turn = self.sequence / 16;
                    let from = SplitMix64(self.seed ^ self.salt.rotate_left(20) ^ turn)
                        .below((self.area.count() - spot) / self.block + 1)
                        * self.block;
                    from + anywhere(chance, spot)
                } else {
                    anywhere(chance, self.area.count())
                }
            }
        }
    }
}

impl Iterator for Generator {
    type Item = Planned;

    fn next(&mut self) -> Option<Planned> {
        if self.flush_due {
            self.flush_due = false;
            self.sequence += 1;
            let range = SectorRange::new(self.area.start(), 0).expect("an empty range fits");
            return Some(Planned {
                kind: Kind::Flush,
                range,
                sequence: self.sequence,
            });
        }
        self.left = self.left.checked_sub(1)?;
        let discard = self.random.below(100) < self.discard_percent;
        let size_index = self.random.below(self.sizes.len() as u64);
        let chance = self.random.next_u64();
        let near = self.random.below(2) == 0;
        let count = self.sizes[crate::block::to_usize(size_index)];
        let at = self.area.start().0 + self.place(count, chance, near);
        self.sequence += 1;
        if !discard {
            self.written += 1;
            self.flush_due = self.fsync_every > 0 && self.written.is_multiple_of(self.fsync_every);
        }
        Some(Planned {
            kind: if discard { Kind::Discard } else { Kind::Write },
            range: SectorRange::new(Sector(at), count).expect("inside a device"),
            sequence: self.sequence,
        })
    }
}

/// The sectors of requests in flight that others must not touch: a writer's own, or those of all writers of a load.
#[derive(Debug, Default)]
pub(super) struct Busy {
    /// Start to end.
    ranges: Mutex<BTreeMap<u64, u64>>,
    freed: Condvar,
}

impl Busy {
    fn ranges(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, u64>> {
        self.ranges.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the range if no sector of it is taken.
    pub(super) fn take(&self, range: SectorRange) -> bool {
        let mut ranges = self.ranges();
        let before = ranges.range(..range.end().0).next_back();
        if before.is_some_and(|(_, end)| *end > range.start().0) {
            return false;
        }
        ranges.insert(range.start().0, range.end().0);
        true
    }

    /// Gives a taken range back.
    pub(super) fn free(&self, range: SectorRange) {
        let end = self.ranges().remove(&range.start().0);
        assert_eq!(end, Some(range.end().0), "only a taken range is given back");
        self.freed.notify_all();
    }

    /// Waits until something was given back, or for a tenth of a second, if the range is still taken.
    pub(super) fn wait(&self, range: SectorRange) {
        let ranges = self.ranges();
        let before = ranges.range(..range.end().0).next_back();
        if before.is_some_and(|(_, end)| *end > range.start().0) {
            let _guard = self
                .freed
                .wait_timeout(ranges, std::time::Duration::from_millis(100))
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::mark::Mapping;
    use crate::plan::{Buffers, Engine};
    use proptest::prelude::*;

    pub(in crate::guest) fn load(pattern: Pattern, writers: u16, writes: u64) -> WriteLoad {
        WriteLoad {
            device: "d".into(),
            target: 1,
            mapping: Some(Mapping::Identity),
            first_writer: 3,
            writers,
            writes,
            sizes: vec![512, 4096, 65536],
            pattern,
            start: 0,
            count: 0,
            engine: Engine::Sync,
            depth: 4,
            buffers: Buffers::Immutable,
            dsync: false,
            fsync_every: 0,
            discard_percent: 0,
        }
    }

    fn pattern() -> impl Strategy<Value = Pattern> {
        prop::sample::select(vec![
            Pattern::Sequential,
            Pattern::Random,
            Pattern::Shared,
            Pattern::OverlapOwn,
            Pattern::Overlap,
        ])
    }

    proptest! {
        #[test]
        fn requests_lie_in_the_area_on_whole_blocks_and_writers_keep_apart(
            pattern in pattern(), writers in 1u16..5, seed: u64, block in prop::sample::select(vec![1u64, 8]), start in 0u64..100,
            discard_percent in 0u8..50, fsync_every in 0u32..9,
        ) {
            let mut load = load(pattern, writers, 101);
            (load.start, load.count) = (start, 2000);
            (load.discard_percent, load.fsync_every) = (discard_percent, fsync_every);
            let mut total = 0;
            let mut parts: Vec<(u64, u64)> = Vec::new();
            for index in 0..writers {
                let make = || Generator::new(&load, seed, index, 2100, block).unwrap();
                let requests: Vec<Planned> = make().collect();
                prop_assert_eq!(&requests, &make().collect::<Vec<_>>());
                let data: Vec<_> = requests.iter().filter(|r| r.kind != Kind::Flush).collect();
                total += data.len();
                for (at, request) in requests.iter().enumerate() {
                    prop_assert_eq!(request.sequence, at as u64 + 1);
                }
                for request in &data {
                    let (from, to) = (request.range.start().0, request.range.end().0);
                    prop_assert!(from >= start && to <= start + 2000 && from % block == 0 && to % block == 0 && to > from);
                }
                parts.push((data.iter().map(|r| r.range.start().0).min().unwrap(), data.iter().map(|r| r.range.end().0).max().unwrap()));
            }
            prop_assert_eq!(total, 101);
            if matches!(pattern, Pattern::Sequential | Pattern::Random | Pattern::OverlapOwn) {
                prop_assert!(parts.windows(2).all(|pair| pair[0].1 <= pair[1].0));
            }
        }

        #[test]
        fn a_sector_is_never_taken_twice(steps in prop::collection::vec((0u64..60, 1u64..9, any::<bool>()), 1..200)) {
            let busy = Busy::default();
            let mut taken: Vec<SectorRange> = Vec::new();
            for (start, count, free) in steps {
                if free && !taken.is_empty() {
                    let range = taken.swap_remove(crate::block::to_usize(start) % taken.len());
                    busy.free(range);
                } else {
                    let range = SectorRange::new(Sector(start), count).unwrap();
                    let meets = taken.iter().any(|t| t.intersection(range).is_some());
                    prop_assert_eq!(busy.take(range), !meets);
                    if !meets { taken.push(range); }
                }
            }
        }
    }

    #[test]
    fn the_overlap_patterns_do_overlap() {
        for pattern in [Pattern::Overlap, Pattern::OverlapOwn] {
            let mut load = load(pattern, 2, 400);
            load.sizes = vec![4096];
            let of = |index| {
                Generator::new(&load, 1, index, 1 << 30, 1)
                    .unwrap()
                    .map(|r| r.range)
                    .collect::<Vec<_>>()
            };
            let (one, two) = (of(0), of(1));
            let near = |a: &[SectorRange], b: &[SectorRange]| {
                (0..200)
                    .filter(|n| {
                        (n + 1..(n + 6).min(200)).any(|m| a[*n].intersection(b[m]).is_some())
                    })
                    .count()
            };
            assert!(near(&one, &one) > 40, "{pattern:?}: {}", near(&one, &one));
            assert_eq!(near(&one, &two) > 20, pattern == Pattern::Overlap);
        }
    }

    #[test]
    fn a_load_that_makes_no_sense_is_refused_in_a_sentence() {
        let refused = |change: fn(&mut WriteLoad)| {
            let mut load = load(Pattern::Random, 2, 10);
            change(&mut load);
            Generator::new(&load, 1, 0, 1000, 1)
                .unwrap_err()
                .to_string()
        };
        assert!(refused(|l| l.sizes = vec![100]).contains("size 100"));
        assert!(refused(|l| l.depth = 65).contains("depth 65"));
        assert!(refused(|l| l.count = 1001).contains("ends at sector 1001"));
        assert!(refused(|l| l.writers = 100).contains("too few"));
        assert!(refused(|l| l.writes = 1 << 40).contains("use at most"));
    }
}
