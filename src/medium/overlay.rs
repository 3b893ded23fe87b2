//! What lies over a medium: sectors of which the leg returns something else than it honestly holds, old versions that rules ask for, and what
//! a volatile cache may still lose. The medium under it stays what an honest disk would hold, so every lie can be lifted.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use smallvec::SmallVec;

use crate::block::{SECTOR_BYTES, Sector, SectorRange};
use crate::stamp::SplitMix64;

/// One sector.
pub type Block = Box<[u8; SECTOR_BYTES]>;

/// Versions since the last flush that a volatile cache may fall back to, a sector.
const VOLATILE_MAX: usize = 8;

/// A sector that is not what it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lie {
    /// The rule that made it.
    pub rule: u16,
    /// What is returned; `None`: nothing, the sector can't be read.
    pub bytes: Option<Block>,
}

/// What a read met.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Met {
    /// The rules whose lies were in it.
    pub rules: SmallVec<[u16; 1]>,
    /// Whether a sector can't be read.
    pub bad: bool,
}

/// The lies of one leg.
#[derive(Clone, Debug, Default)]
pub struct Overlay {
    lies: BTreeMap<u64, Lie>,
}

fn blocks(range: SectorRange, bytes: &[u8]) -> impl Iterator<Item = (Sector, Block)> {
    range
        .sectors()
        .zip(bytes.as_chunks::<SECTOR_BYTES>().0)
        .map(|(sector, block)| (sector, Box::new(*block)))
}

impl Overlay {
    /// A sector returns these bytes (`None`: an error) from now on.
    pub fn put(&mut self, sector: Sector, rule: u16, bytes: Option<Block>) {
        self.lies.insert(sector.0, Lie { rule, bytes });
    }

    /// All sectors of a range do.
    pub fn put_range(&mut self, range: SectorRange, rule: u16, bytes: &[u8]) {
        for (sector, block) in blocks(range, bytes) {
            self.put(sector, rule, Some(block));
        }
    }

    /// A sector's lie.
    pub fn get(&self, sector: Sector) -> Option<&Lie> {
        self.lies.get(&sector.0)
    }

    /// Takes the lies of a range away and returns them.
    pub fn take(&mut self, range: SectorRange) -> BTreeMap<u64, Lie> {
        let sectors: Vec<u64> = self
            .lies
            .range(range.start().0..range.end().0)
            .map(|(sector, _)| *sector)
            .collect();
        sectors
            .into_iter()
            .filter_map(|sector| Some((sector, self.lies.remove(&sector)?)))
            .collect()
    }

    /// Changes what the medium returns for a range to what the leg does.
    pub fn apply(&self, range: SectorRange, bytes: &mut [u8]) -> Met {
        let mut met = Met::default();
        let (out, _) = bytes.as_chunks_mut::<SECTOR_BYTES>();
        for (sector, lie) in self.lies.range(range.start().0..range.end().0) {
            if !met.rules.contains(&lie.rule) {
                met.rules.push(lie.rule);
            }
            let at = usize::try_from(sector.wrapping_sub(range.start().0)).unwrap_or(usize::MAX);
            match (&lie.bytes, out.get_mut(at)) {
                (Some(bytes), Some(to)) => *to = **bytes,
                (None, _) => met.bad = true,
                (Some(_), None) => {}
            }
        }
        met
    }

    /// Lifts all lies, or those of one rule; how many sectors that were.
    pub fn heal(&mut self, rule: Option<u16>) -> u64 {
        let before = self.lies.len();
        self.lies
            .retain(|_, lie| rule.is_some_and(|rule| lie.rule != rule));
        before.saturating_sub(self.lies.len()) as u64
    }

    /// Sectors that are lies.
    pub fn count(&self) -> u64 {
        self.lies.len() as u64
    }
}

/// A leg's overlay, to be shared: a misdirected write of another leg, or a hand that heals, may change it.
#[derive(Debug, Default)]
pub struct Lies {
    any: AtomicBool,
    overlay: Mutex<Overlay>,
}

impl Lies {
    /// Whether there may be any.
    pub fn any(&self) -> bool {
        self.any.load(Ordering::Acquire)
    }

    /// Looks at them, or changes them, under the lock.
    pub fn with<T>(&self, work: impl FnOnce(&mut Overlay) -> T) -> T {
        let mut overlay: MutexGuard<'_, Overlay> =
            self.overlay.lock().unwrap_or_else(PoisonError::into_inner);
        let out = work(&mut overlay);
        self.any.store(overlay.count() > 0, Ordering::Release);
        out
    }
}

/// Old versions of the sectors that stale reads are about.
#[derive(Clone, Debug, Default)]
pub struct Kept {
    spans: Vec<(SectorRange, u8)>,
    old: BTreeMap<u64, VecDeque<Block>>,
}

impl Kept {
    /// Sectors of which versions are kept, and how many. What was kept of others is forgotten.
    pub fn watch(&mut self, spans: Vec<(SectorRange, u8)>) {
        self.old
            .retain(|sector, _| spans.iter().any(|(span, _)| span.contains(Sector(*sector))));
        self.spans = spans;
    }

    /// A range is about to be overwritten; it held `bytes`.
    pub fn overwritten(&mut self, range: SectorRange, bytes: &[u8]) {
        if self.spans.is_empty() {
            return;
        }
        for (sector, block) in blocks(range, bytes) {
            let most = self
                .spans
                .iter()
                .filter(|(span, _)| span.contains(sector))
                .map(|(_, versions)| usize::from(*versions))
                .max();
            if let Some(most) = most {
                let old = self.old.entry(sector.0).or_default();
                old.push_front(block);
                old.truncate(most);
            }
        }
    }

    /// Makes `bytes` what the range held so many versions ago, as far as that is kept.
    pub fn recall(&self, range: SectorRange, versions: u8, bytes: &mut [u8]) {
        let (out, _) = bytes.as_chunks_mut::<SECTOR_BYTES>();
        for (sector, to) in range.sectors().zip(out) {
            let old = self.old.get(&sector.0);
            let back = usize::from(versions).saturating_sub(1);
            if let Some(block) = old.and_then(|old| old.get(back).or(old.back())) {
                *to = **block;
            }
        }
    }
}

/// What a volatile cache holds: for every sector written since the last flush, the versions that a power cut may leave.
#[derive(Clone, Debug, Default)]
pub struct Volatile {
    /// The durable version first, then those that came after it; what the medium has now is not among them.
    older: BTreeMap<u64, Vec<Block>>,
}

impl Volatile {
    /// A range is about to be overwritten; the medium held `bytes`.
    pub fn overwritten(&mut self, range: SectorRange, bytes: &[u8]) {
        for (sector, block) in blocks(range, bytes) {
            let older = self.older.entry(sector.0).or_default();
            if older.len() == VOLATILE_MAX {
                // The durable one stays possible.
                older.remove(1);
            }
            older.push(block);
        }
    }

    /// A range was written, and is durable at once: nothing older can come back.
    pub fn written_through(&mut self, range: SectorRange) {
        for sector in range.sectors() {
            self.older.remove(&sector.0);
        }
    }

    /// Everything is durable now.
    pub fn flushed(&mut self) {
        self.older.clear();
    }

    /// Sectors that a cut may lose.
    pub fn count(&self) -> u64 {
        self.older.len() as u64
    }

    /// The power goes: block by block of so many sectors, one of the possible versions stays. (A block is written whole or not at all.) Returns
    /// the sectors that are not what the medium has.
    pub fn cut(&mut self, mut chance: SplitMix64, block_sectors: u64) -> Vec<(Sector, Block)> {
        let mut lost = Vec::new();
        let (mut block, mut drawn) = (None, 0);
        for (sector, mut older) in std::mem::take(&mut self.older) {
            let choices = (older.len() as u64).saturating_add(1);
            let of = sector.checked_div(block_sectors);
            if of.is_none() || of != block {
                (block, drawn) = (of, chance.next_u64());
            }
            // All sectors of a block were written equally often.
            let at = SplitMix64(drawn).below(choices);
            let at = usize::try_from(at).unwrap_or(usize::MAX);
            if at < older.len() {
                lost.push((Sector(sector), older.swap_remove(at)));
            }
        }
        lost
    }
}

#[cfg(test)]
#[allow(
    clippy::cast_possible_truncation,
    clippy::wildcard_enum_match_arm,
    reason = "numbers of tests are small"
)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECTORS: u64 = 12;

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Write(u64, u64, u8),
        WriteThrough(u64, u64, u8),
        Lose(u64, u64, u8, u16),
        Corrupt(u64, u64, u8, u16),
        Bad(u64, u64, u16),
        Flush,
        Heal(Option<u16>),
        Cut(u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let at = || (0..SECTORS, 1..5u64);
        let step = prop_oneof![
            4 => (at(), any::<u8>()).prop_map(|((s, n), b)| Step::Write(s, n, b)),
            1 => (at(), any::<u8>()).prop_map(|((s, n), b)| Step::WriteThrough(s, n, b)),
            1 => (at(), any::<u8>(), 0..3u16).prop_map(|((s, n), b, r)| Step::Lose(s, n, b, r)),
            1 => (at(), any::<u8>(), 0..3u16).prop_map(|((s, n), b, r)| Step::Corrupt(s, n, b, r)),
            1 => (at(), 0..3u16).prop_map(|((s, n), r)| Step::Bad(s, n, r)),
            1 => Just(Step::Flush),
            1 => prop::option::of(0..3u16).prop_map(Step::Heal),
            1 => any::<u64>().prop_map(Step::Cut),
        ];
        prop::collection::vec(step, 0..60)
    }

    /// The naive model: every sector its honest byte, its lie, and all versions since the last flush.
    #[derive(Clone, Default)]
    struct Model {
        honest: u8,
        lie: Option<(u16, Option<u8>)>,
        since_flush: Vec<u8>,
    }

    proptest! {
        #[test]
        fn overlay_and_cache_agree_with_a_naive_model(steps in steps()) {
            let mut medium = vec![0u8; 512 * 12];
            let (mut overlay, mut volatile) = (Overlay::default(), Volatile::default());
            let mut model = vec![Model::default(); 12];
            let range = |s: u64, n: u64| SectorRange::new(Sector(s), n.min(SECTORS - s)).unwrap();
            let part = |r: SectorRange| (r.start().0 * 512) as usize..(r.end().0 * 512) as usize;
            for step in steps {
                match step {
                    Step::Write(s, n, b) | Step::WriteThrough(s, n, b) | Step::Lose(s, n, b, _) | Step::Corrupt(s, n, b, _) => {
                        let r = range(s, n);
                        let through = matches!(step, Step::WriteThrough(..));
                        if through {
                            volatile.written_through(r);
                        } else {
                            volatile.overwritten(r, &medium[part(r)]);
                        }
                        let mut returned = medium[part(r)].to_vec();
                        overlay.apply(r, &mut returned);
                        let old = overlay.take(r);
                        medium[part(r)].fill(b);
                        for (sector, block) in r.sectors().zip(returned.chunks(512)) {
                            let m = &mut model[sector.0 as usize];
                            let was = m.lie.take();
                            m.since_flush.push(m.honest);
                            if through {
                                m.since_flush.clear();
                            }
                            match step {
                                Step::Lose(_, _, _, rule) => {
                                    // What could not be read before still can't.
                                    m.lie = Some((rule, match was { Some((_, byte)) => byte, None => Some(m.honest) }));
                                    let bytes = match old.get(&sector.0) {
                                        Some(Lie { bytes: None, .. }) => None,
                                        _ => Some(Box::new(<[u8; 512]>::try_from(block).unwrap())),
                                    };
                                    overlay.put(sector, rule, bytes);
                                }
                                Step::Corrupt(_, _, _, rule) => {
                                    m.lie = Some((rule, Some(b ^ 0xff)));
                                    overlay.put(sector, rule, Some(Box::new([b ^ 0xff; 512])));
                                }
                                _ => {}
                            }
                            m.honest = b;
                        }
                    }
                    Step::Bad(s, n, rule) => for sector in range(s, n).sectors() {
                        overlay.put(sector, rule, None);
                        model[sector.0 as usize].lie = Some((rule, None));
                    },
                    Step::Flush => {
                        volatile.flushed();
                        model.iter_mut().for_each(|m| m.since_flush.clear());
                    }
                    Step::Heal(rule) => {
                        let healed = overlay.heal(rule);
                        let mut count = 0;
                        for m in &mut model {
                            if m.lie.is_some_and(|(by, _)| rule.is_none_or(|rule| rule == by)) {
                                m.lie = None;
                                count += 1;
                            }
                        }
                        prop_assert_eq!(healed, count);
                    }
                    Step::Cut(seed) => {
                        for (sector, block) in volatile.cut(SplitMix64(seed), 1) {
                            let m = &mut model[sector.0 as usize];
                            prop_assert!(m.since_flush.contains(&block[0]), "a version since the last flush, or the durable one");
                            medium[part(range(sector.0, 1))].copy_from_slice(&block[..]);
                            m.honest = block[0];
                        }
                        model.iter_mut().for_each(|m| m.since_flush.clear());
                        prop_assert_eq!(volatile.count(), 0);
                    }
                }
                for (at, m) in model.iter().enumerate() {
                    let r = range(at as u64, 1);
                    let mut out = medium[part(r)].to_vec();
                    let met = overlay.apply(r, &mut out);
                    match m.lie {
                        None => prop_assert!(met == Met::default() && out[7] == m.honest),
                        Some((rule, None)) => prop_assert!(met.bad && met.rules[..] == [rule]),
                        Some((rule, Some(byte))) => prop_assert!(!met.bad && out[7] == byte && met.rules[..] == [rule]),
                    }
                }
            }
        }
    }

    #[test]
    fn a_block_is_lost_whole_or_not_at_all() {
        let range = |start| SectorRange::new(Sector(start), 16).unwrap();
        let (mut halves, mut other) = (0, 0);
        for seed in 0..100 {
            let mut volatile = Volatile::default();
            for byte in 1..4u8 {
                volatile.overwritten(range(8), &[byte; 16 * 512]);
            }
            let lost = volatile.cut(SplitMix64(seed), 8);
            for block in [8, 16u64] {
                let of = lost.iter().filter(|(at, _)| at.0 / 8 == block / 8);
                let of: Vec<u8> = of.map(|(_, bytes)| bytes[0]).collect();
                assert!(of.is_empty() || of.len() == 8 && of.iter().all(|byte| *byte == of[0]));
            }
            match lost.len() {
                8 => halves += 1,
                _ => other += 1,
            }
        }
        assert!(
            halves > 10 && other > 10,
            "each block has its own fate: {halves}"
        );
    }

    #[test]
    fn old_versions_are_kept_where_they_are_watched() {
        let mut kept = Kept::default();
        kept.watch(vec![(SectorRange::new(Sector(1), 1).unwrap(), 2)]);
        let range = SectorRange::new(Sector(0), 3).unwrap();
        for byte in 1..5u8 {
            kept.overwritten(range, &[byte; 1536]);
        }
        let recall = |versions| {
            let mut out = [9u8; 1536];
            kept.recall(range, versions, &mut out);
            [out[0], out[512], out[1024]]
        };
        assert_eq!(recall(1), [9, 4, 9]);
        assert_eq!(recall(2), [9, 3, 9]);
        assert_eq!(recall(16), [9, 3, 9], "the oldest there is");
    }
}
