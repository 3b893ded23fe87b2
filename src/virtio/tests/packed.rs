//! Packed rings against a driver that is written down plainly: a lap counter, a list of what is free, a list of what is in flight.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use proptest::prelude::*;

use super::super::defs::{DESC_INDIRECT, DESC_NEXT, DESC_WRITE, EVENT_DESC, EVENT_DISABLE};
use super::super::memory::tests::memfd;
use super::super::packed::FRESH_BASE;
use super::super::{Head, Memory, PackedRing, Region, Ring, RingAddresses, RingFault, Used, parse};
use super::{BYTES, GPA, LIMITS};
use crate::stamp::SplitMix64;

const DRIVER: u64 = 0x8_0000;
const DEVICE: u64 = 0x8_0004;
const BUFFERS: u64 = 0x9_0000;

/// What the specification has a driver do.
pub(super) struct Driver {
    file: File,
    size: u16,
    next: u16,
    next_wrap: bool,
    used: u16,
    used_wrap: bool,
    pub(super) free: u16,
    /// By id: descriptors.
    chains: BTreeMap<u16, u16>,
    next_id: u16,
}

impl Driver {
    pub(super) fn new(size: u16, event_index: bool) -> (Driver, Ring) {
        let file = memfd(BYTES);
        let driver = Driver {
            file,
            size,
            next: 0,
            next_wrap: true,
            used: 0,
            used_wrap: true,
            free: size,
            chains: BTreeMap::new(),
            next_id: 0,
        };
        let ring = driver.ring(FRESH_BASE, event_index).unwrap();
        (driver, ring.into())
    }

    pub(super) fn ring(&self, base: u32, event_index: bool) -> Result<PackedRing, RingFault> {
        let region = Region::map(&self.file, 0, GPA, GPA, BYTES).unwrap();
        let memory = Arc::new(Memory::new(vec![Arc::new(region)]).unwrap());
        let addresses = RingAddresses {
            descriptors: GPA,
            available: GPA + DRIVER,
            used: GPA + DEVICE,
        };
        PackedRing::new(memory, addresses, u32::from(self.size), base, event_index)
    }

    fn put(&self, at: u64, bytes: &[u8]) {
        self.file.write_all_at(bytes, at).unwrap();
    }

    fn u16_at(&self, at: u64) -> u16 {
        let mut raw = [0; 2];
        self.file.read_exact_at(&mut raw, at).unwrap();
        u16::from_le_bytes(raw)
    }

    fn descriptor(&self, at: u16, gpa: u64, len: u32, id: u16, flags: u16) {
        let mut raw = gpa.to_le_bytes().to_vec();
        raw.extend(len.to_le_bytes());
        raw.extend(id.to_le_bytes());
        raw.extend(flags.to_le_bytes());
        self.put(u64::from(at) * 16, &raw);
    }

    /// Makes a chain of `(gpa, len, flags)` available; its id.
    pub(super) fn offer(&mut self, chain: &[(u64, u32, u16)]) -> u16 {
        let id = self.next_id;
        self.next_id = self.next_id.wrapping_add(1);
        for (index, &(gpa, len, flags)) in chain.iter().enumerate() {
            let mark = if self.next_wrap { 1 << 7 } else { 1 << 15 };
            let more = if index + 1 < chain.len() {
                DESC_NEXT
            } else {
                0
            };
            // Only the last one's id counts.
            let told = if more == 0 { id } else { 0xdead };
            self.descriptor(self.next, gpa, len, told, flags | mark | more);
            self.next += 1;
            if self.next == self.size {
                self.next = 0;
                self.next_wrap = !self.next_wrap;
            }
        }
        self.free -= chain.len() as u16;
        self.chains.insert(id, chain.len() as u16);
        id
    }

    /// The next used descriptor: id, length.
    pub(super) fn take(&mut self) -> Option<(u16, u32)> {
        let mut raw = [0; 16];
        self.file
            .read_exact_at(&mut raw, u64::from(self.used) * 16)
            .unwrap();
        let flags = u16::from_le_bytes([raw[14], raw[15]]);
        let (avail, used) = (flags & 1 << 7 != 0, flags & 1 << 15 != 0);
        if avail != used || used != self.used_wrap {
            return None;
        }
        let len = u32::from_le_bytes(raw[8..12].try_into().unwrap());
        assert_eq!(flags & DESC_WRITE != 0, len > 0);
        let id = u16::from_le_bytes([raw[12], raw[13]]);
        let count = self.chains.remove(&id).expect("an id that is in flight");
        self.free += count;
        self.used += count;
        if self.used >= self.size {
            self.used -= self.size;
            self.used_wrap = !self.used_wrap;
        }
        Some((id, len))
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn chains_come_in_order_and_go_back_in_any(
        size in 1u16..40,
        steps in prop::collection::vec((0u8..10, any::<u16>()), 1..300),
    ) {
        let (mut driver, mut ring) = Driver::new(size, false);
        let mut offered = std::collections::VecDeque::new();
        let mut taken: Vec<(u16, Head)> = Vec::new();
        let mut shown = std::collections::VecDeque::new();
        let mut given = Vec::new();
        for (step, dice) in steps {
            match step {
                0..=3 => {
                    let count = 1 + dice % 5;
                    if count <= driver.free {
                        let chain = vec![(GPA, 1, 0); usize::from(count)];
                        offered.push_back(driver.offer(&chain));
                    }
                }
                4 | 5 => {
                    let head = ring.pop().unwrap();
                    prop_assert_eq!(head.map(|head| head.id), offered.pop_front());
                    taken.extend(head.map(|head| (head.id, head)));
                }
                6 | 7 => if !taken.is_empty() {
                    let (id, head) = taken.swap_remove(usize::from(dice) % taken.len());
                    let bytes = u32::from(dice % 3);
                    ring.push(Used { head, bytes });
                    given.push((id, bytes));
                },
                8 => {
                    ring.publish();
                    shown.extend(given.drain(..));
                }
                _ => {
                    prop_assert_eq!(driver.take(), shown.pop_front());
                    // Wherever it is stopped with nothing in flight, another one goes on there.
                    if taken.is_empty() && given.is_empty() {
                        ring = driver.ring(ring.base(), false).unwrap().into();
                    }
                }
            }
        }
    }

    #[test]
    fn an_event_is_told_exactly_when_it_is_passed(
        size in 1u16..20,
        chains in prop::collection::vec((1u16..4, any::<bool>()), 1..60),
        event in 0u16..20,
        wrap in any::<bool>(),
    ) {
        let (mut driver, mut ring) = Driver::new(size, true);
        let event = event % size;
        driver.put(DRIVER, &(event | u16::from(wrap) << 15).to_le_bytes());
        driver.put(DRIVER + 2, &EVENT_DESC.to_le_bytes());
        let (mut at, mut lap, mut due) = (0, true, false);
        for (count, publish) in chains {
            let count = count.min(size);
            if publish || driver.free < count {
                prop_assert_eq!(ring.publish(), due);
                due = false;
                driver.chains.clear();
                driver.free = size;
            }
            driver.offer(&vec![(GPA, 1, 0); usize::from(count)]);
            let head = ring.pop().unwrap().unwrap();
            ring.push(Used { head, bytes: 0 });
            // The plain way: walk over the descriptors one by one.
            for _ in 0..count {
                due |= (at, lap) == (event, wrap);
                at += 1;
                if at == size {
                    (at, lap) = (0, !lap);
                }
            }
        }
        prop_assert_eq!(ring.publish(), due);
    }

    #[test]
    fn hostile_rings_are_survived(size in 1u16..300, seed in any::<u64>(), base in any::<u32>()) {
        let (driver, mut ring) = Driver::new(size, true);
        let mut dice = SplitMix64(seed);
        if let Ok(other) = driver.ring(base, true) {
            ring = other.into();
        }
        let mut held = Vec::new();
        for _ in 0..200 {
            let at = dice.below(u64::from(size)) as u16;
            let kind = dice.next_u64() as u16 & 0x8087;
            let gpa = GPA + dice.below(2 * BYTES);
            driver.descriptor(at, gpa, dice.below(5000) as u32, dice.next_u64() as u16, kind);
            driver.put(DRIVER, &dice.next_u64().to_le_bytes()[..4]);
            if let Ok(Some(head)) = ring.pop() {
                let pending = match parse(&ring, head, &LIMITS) {
                    Ok((_, pending)) => pending,
                    Err(bad) => bad.pending,
                };
                held.push(pending);
            }
            if !held.is_empty() && dice.below(2) == 0 {
                let pending = held.swap_remove(dice.below(held.len() as u64) as usize);
                ring.push(pending.complete(crate::block::Status::Ok, 0));
                ring.publish();
            }
            let _more = ring.kicks_on();
        }
        for pending in held {
            pending.abandon();
        }
    }
}

#[test]
fn a_request_is_read_direct_and_indirect() {
    for indirect in [false, true] {
        let (mut driver, mut ring) = Driver::new(4, false);
        let header = [
            1u32.to_le_bytes().to_vec(),
            vec![0; 4],
            vec![8, 0, 0, 0, 0, 0, 0, 0],
        ]
        .concat();
        driver.put(BUFFERS, &header);
        let chain = [
            (GPA + BUFFERS, 16, 0),
            (GPA + BUFFERS + 0x1000, 512, 0),
            (GPA + BUFFERS + 0x2000, 1, DESC_WRITE),
        ];
        // A lap first, so that the chain runs over the ring's end.
        for _ in 0..3 {
            driver.offer(&[(GPA, 1, 0)]);
            let head = ring.pop().unwrap().unwrap();
            ring.push(Used { head, bytes: 0 });
            ring.publish();
            driver.take().unwrap();
        }
        if indirect {
            for (at, (gpa, len, flags)) in chain.into_iter().enumerate() {
                let mut raw = gpa.to_le_bytes().to_vec();
                raw.extend(u32::to_le_bytes(len));
                // Ids and all flags but one mean nothing here (2.8.7).
                raw.extend([0xff, 0xff]);
                raw.extend((flags | DESC_NEXT | DESC_INDIRECT).to_le_bytes());
                driver.put(BUFFERS + 0x3000 + at as u64 * 16, &raw);
            }
            driver.offer(&[(GPA + BUFFERS + 0x3000, 48, DESC_INDIRECT)]);
        } else {
            driver.offer(&chain);
        }
        let head = ring.pop().unwrap().unwrap();
        assert_eq!(head.descriptors, if indirect { 1 } else { 3 });
        let (request, pending) = parse(&ring, head, &LIMITS).unwrap();
        assert_eq!(request.ranges[0].start().0, 8);
        assert_eq!(pending.data().bytes(), 512);
        ring.push(pending.complete(crate::block::Status::Ok, 0));
        assert_eq!(driver.take(), None, "not shown yet");
        assert!(ring.publish());
        assert_eq!(driver.take(), Some((3, 1)));
        assert!(matches!(ring.pop(), Ok(None)));
    }
}

#[test]
fn what_can_not_be_a_ring_is_refused() {
    let (driver, mut ring) = Driver::new(8, false);
    for base in [0x8000_8008, 0x0008_8000, 0x8003_8002, 0x0001_8002] {
        assert!(
            matches!(driver.ring(base, false), Err(RingFault::Base { .. })),
            "{base:#x}"
        );
    }
    // Fresh, whatever the frontend knows of wrap counters; and in the middle of a lap.
    assert_eq!(driver.ring(0, false).unwrap().base(), FRESH_BASE);
    for base in [0x8003_8003, 0x0003_0003, 0x8003_0003, 0x8003_8005] {
        assert_eq!(driver.ring(base, false).unwrap().base(), base);
    }
    // Once its first descriptor was used in a lap, 0 is a place like any other.
    driver.descriptor(0, 0, 0, 0, 0x8080);
    assert_eq!(driver.ring(0, false).unwrap().base(), 0);
    // A chain that goes on for ever.
    for at in 0..8 {
        driver.descriptor(at, 0, 0, 0, DESC_NEXT | 1 << 7);
    }
    assert!(matches!(
        ring.pop(),
        Err(RingFault::Endless { at: 0, size: 8 })
    ));
    for at in [
        RingAddresses {
            descriptors: GPA + 8,
            available: GPA,
            used: GPA,
        },
        RingAddresses {
            descriptors: GPA,
            available: GPA + 2,
            used: GPA,
        },
        RingAddresses {
            descriptors: GPA,
            available: GPA,
            used: GPA + BYTES - 2,
        },
    ] {
        PackedRing::new(Arc::clone(ring.memory()), at, 8, FRESH_BASE, false).unwrap_err();
    }
    for size in [0, 32_769, 65_536] {
        let memory = Arc::clone(ring.memory());
        let refused = PackedRing::new(memory, RingAddresses::default(), size, FRESH_BASE, false);
        assert!(matches!(refused, Err(RingFault::Size(_))));
    }
}

#[test]
fn notification_follows_the_drivers_flags() {
    let (mut driver, mut ring) = Driver::new(8, false);
    let mut one = |driver: &mut Driver| {
        driver.offer(&[(GPA, 1, 0)]);
        let head = ring.pop().unwrap().unwrap();
        ring.push(Used { head, bytes: 1 });
        let told = ring.publish();
        driver.take().unwrap();
        told
    };
    assert!(one(&mut driver));
    driver.put(DRIVER + 2, &EVENT_DISABLE.to_le_bytes());
    assert!(!one(&mut driver));
    // Not negotiated: an event index means nothing.
    driver.put(DRIVER + 2, &EVENT_DESC.to_le_bytes());
    assert!(one(&mut driver));
    ring.kicks_off();
    assert_eq!(driver.u16_at(DEVICE + 2), EVENT_DISABLE);
    assert_eq!(ring.kicks_on(), Ok(false));
    assert_eq!(driver.u16_at(DEVICE + 2), 0);
    driver.offer(&[(GPA, 1, 0)]);
    assert_eq!(ring.kicks_on(), Ok(true));
}
