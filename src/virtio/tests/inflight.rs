//! A ring's server dies at any moment; the next one does exactly what the driver was not shown, in order.

use std::collections::VecDeque;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use proptest::prelude::*;

use super::super::inflight::{Inflight, InflightError, Layout, make};
use super::super::memory::tests::memfd;
use super::super::packed::FRESH_BASE;
use super::super::{Head, Memory, Region, Ring, RingAddresses, SplitRing, Used};
use super::packed::Driver;
use super::{BYTES, GPA};
use crate::stamp::SplitMix64;

const AVAILABLE: u64 = 0x4000;
const USED: u64 = 0x5000;

/// A driver of either layout.
enum Side {
    Split(Split),
    Packed(Driver),
}

/// A driver of one-descriptor chains on a split ring.
struct Split {
    file: File,
    size: u16,
    available: u16,
    seen: u16,
    free: Vec<u16>,
}

impl Side {
    fn new(packed: bool, size: u16) -> Side {
        if packed {
            return Side::Packed(Driver::new(size, false).0);
        }
        Side::Split(Split {
            file: memfd(BYTES),
            size,
            available: 0,
            seen: 0,
            free: (0..size).collect(),
        })
    }

    /// What a frontend knows of the ring after its server has gone: of a packed one, nothing.
    fn ring(&self) -> Ring {
        match self {
            Side::Packed(driver) => driver.ring(FRESH_BASE, false).unwrap().into(),
            Side::Split(split) => {
                let region = Region::map(&split.file, 0, GPA, GPA, BYTES).unwrap();
                let memory = Arc::new(Memory::new(vec![Arc::new(region)]).unwrap());
                let addresses = RingAddresses {
                    descriptors: GPA,
                    available: GPA + AVAILABLE,
                    used: GPA + USED,
                };
                let mut raw = [0; 2];
                split.file.read_exact_at(&mut raw, USED + 2).unwrap();
                let used = u16::from_le_bytes(raw);
                SplitRing::new(memory, addresses, u32::from(split.size), used, false)
                    .unwrap()
                    .into()
            }
        }
    }

    /// Makes a chain available, if there is room; its id.
    fn offer(&mut self, count: u16) -> Option<u16> {
        match self {
            Side::Packed(driver) => {
                (count <= driver.free).then(|| driver.offer(&vec![(GPA, 1, 0); usize::from(count)]))
            }
            Side::Split(split) => {
                let id = split.free.pop()?;
                let slot = u64::from(split.available % split.size);
                let put = |at, word: u16| split.file.write_all_at(&word.to_le_bytes(), at).unwrap();
                put(AVAILABLE + 4 + 2 * slot, id);
                split.available = split.available.wrapping_add(1);
                put(AVAILABLE + 2, split.available);
                Some(id)
            }
        }
    }

    /// The next chain that came back.
    fn take(&mut self) -> Option<u16> {
        match self {
            Side::Packed(driver) => driver.take().map(|(id, _)| id),
            Side::Split(split) => {
                let mut raw = [0; 4];
                split.file.read_exact_at(&mut raw[..2], USED + 2).unwrap();
                if u16::from_le_bytes([raw[0], raw[1]]) == split.seen {
                    return None;
                }
                let at = USED + 4 + 8 * u64::from(split.seen % split.size);
                split.file.read_exact_at(&mut raw, at).unwrap();
                split.seen = split.seen.wrapping_add(1);
                let id = u16::from_le_bytes([raw[0], raw[1]]);
                assert!(!split.free.contains(&id), "came back twice");
                split.free.push(id);
                Some(id)
            }
        }
    }
}

fn layout(packed: bool) -> Layout {
    if packed {
        Layout::Packed
    } else {
        Layout::Split
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn the_next_server_goes_on_where_the_last_one_died(
        packed in any::<bool>(),
        shift in 0u32..6,
        steps in prop::collection::vec((0u8..14, any::<u16>()), 1..400),
    ) {
        let size = 1u16 << shift;
        let mut side = Side::new(packed, size);
        let (region, bytes) = make(layout(packed), 2, size).unwrap();
        let inflight = Inflight::map(&region, 0, bytes, 2).unwrap();
        let mut ring = side.ring();
        ring.track(&inflight, 1).unwrap();
        // By id: to be taken first after a death, in this order; not taken yet; taken and not given back; given back and not shown; shown.
        let mut again: VecDeque<u16> = VecDeque::new();
        let mut offered: VecDeque<u16> = VecDeque::new();
        let mut order: Vec<u16> = Vec::new();
        let mut taken: Vec<Head> = Vec::new();
        let mut given: Vec<u16> = Vec::new();
        let mut shown: VecDeque<u16> = VecDeque::new();
        for (step, dice) in steps {
            match step {
                0..=3 => offered.extend(side.offer(1 + dice % 4)),
                4..=6 => {
                    let head = ring.pop().unwrap();
                    let repeated = again.pop_front();
                    let expected = repeated.or_else(|| offered.pop_front());
                    prop_assert_eq!(head.map(|head| head.id), expected);
                    if let Some(head) = head {
                        if repeated.is_none() {
                            order.push(head.id);
                        }
                        taken.push(head);
                    }
                }
                7 | 8 => if !taken.is_empty() {
                    let head = taken.swap_remove(usize::from(dice) % taken.len());
                    ring.push(Used { head, bytes: 0 });
                    given.push(head.id);
                },
                9 => {
                    ring.publish();
                    order.retain(|id| !given.contains(id));
                    shown.extend(given.drain(..));
                }
                10..=12 => prop_assert_eq!(side.take(), shown.pop_front()),
                _ => {
                    // It dies; what was given back and not shown is as if it had not been.
                    drop(ring);
                    taken.clear();
                    given.clear();
                    ring = side.ring();
                    let count = ring.track(&inflight, 1).unwrap();
                    prop_assert_eq!(count, order.len());
                    again = order.iter().copied().collect();
                }
            }
        }
    }

    #[test]
    fn hostile_regions_are_survived(packed in any::<bool>(), seed in any::<u64>()) {
        let mut dice = SplitMix64(seed);
        let mut side = Side::new(packed, 8);
        let (region, bytes) = make(layout(packed), 1, 8).unwrap();
        for _ in 0..20 {
            let inflight = Inflight::map(&region, 0, bytes, 1).unwrap();
            let mut ring = side.ring();
            if ring.track(&inflight, 0).is_ok() {
                let _offered = side.offer(1);
                let mut held = Vec::new();
                for _ in 0..20 {
                    held.extend(ring.pop().ok().flatten());
                    let at = dice.below(bytes);
                    region.write_all_at(&[dice.below(10) as u8], at).unwrap();
                    if let Some(head) = held.pop() {
                        let _ = super::super::chain::walk(&ring, head);
                        ring.push(Used { head, bytes: 1 });
                        ring.publish();
                    }
                }
            }
            // The driver's side makes no sense any more; it begins anew, with the region as it is.
            side = Side::new(packed, 8);
        }
    }
}

#[test]
fn a_region_that_does_not_fit_is_refused() {
    let (region, bytes) = make(Layout::Split, 1, 8).unwrap();
    assert!(matches!(
        make(Layout::Split, 0, 8),
        Err(InflightError::Shape { .. })
    ));
    assert!(matches!(
        make(Layout::Packed, 1, 0),
        Err(InflightError::Shape { .. })
    ));
    assert!(matches!(
        Inflight::map(&region, 0, bytes + 1, 1),
        Err(InflightError::Memory(_))
    ));
    let inflight = Inflight::map(&region, 0, bytes, 1).unwrap();
    assert!(matches!(
        Inflight::map(&region, 0, bytes, 0),
        Err(InflightError::Shape { .. })
    ));
    let mut large = Side::new(false, 2048).ring();
    assert!(matches!(
        large.track(&inflight, 0),
        Err(InflightError::Room { .. })
    ));
    let mut ring = Side::new(false, 8).ring();
    assert!(matches!(
        ring.track(&inflight, 1),
        Err(InflightError::Room { .. })
    ));
    ring.track(&inflight, 0).unwrap();
    let mut small = Side::new(false, 4).ring();
    assert!(matches!(
        small.track(&inflight, 0),
        Err(InflightError::Other { .. })
    ));
}

#[test]
fn a_ring_may_be_larger_than_was_asked_for() {
    let (region, bytes) = make(Layout::Split, 2, 256).unwrap();
    let inflight = Inflight::map(&region, 0, bytes, 2).unwrap();
    let mut ring = Side::new(false, 1024).ring();
    ring.track(&inflight, 1).unwrap();
}
