//! Chains built together with what must come of them; one thing broken per coin flip; and plain hostile bytes.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use proptest::prelude::*;

use super::chain::ChainFault;
use super::defs::{DESC_INDIRECT, DESC_NEXT, DESC_WRITE, RANGES_MAX};
use super::memory::tests::memfd;
use super::request::Refusal;
use super::{Head, Limits, Memory, Pending, Region, Ring, RingAddresses, SplitRing, parse};
use crate::block::{Operation, Status};
use crate::stamp::SplitMix64;

mod inflight;
mod packed;
mod ring;

const GPA: u64 = 0x10_0000;
const BYTES: u64 = 1 << 20;
const AVAILABLE: u64 = 0x4000;
const USED: u64 = 0x5000;
const TABLES: u64 = 0x8000;
const BUFFERS: u64 = 0x2_0000;
const SIZE: u16 = 256;

const LIMITS: Limits = Limits {
    sectors: 4096,
    block_sectors: 1,
    read_only: false,
    flush: true,
    discard: true,
    write_zeroes: true,
};

/// Guest memory with a ring at its start.
struct Arena {
    file: File,
    ring: Ring,
    next_buffer: u64,
    next_table: u64,
}

#[derive(Clone, Copy, Debug)]
struct Desc {
    gpa: u64,
    len: u32,
    flags: u16,
}

impl Arena {
    fn new(event_index: bool) -> Arena {
        let file = memfd(BYTES);
        let region = Region::map(&file, 0, GPA, GPA, BYTES).unwrap();
        let memory = Arc::new(Memory::new(vec![Arc::new(region)]).unwrap());
        let addresses = RingAddresses {
            descriptors: GPA,
            available: GPA + AVAILABLE,
            used: GPA + USED,
        };
        Arena {
            ring: SplitRing::new(memory, addresses, u32::from(SIZE), 0, event_index)
                .unwrap()
                .into(),
            file,
            next_buffer: BUFFERS,
            next_table: TABLES,
        }
    }

    fn put(&self, at: u64, bytes: &[u8]) {
        self.file.write_all_at(bytes, at).unwrap();
    }

    fn get(&self, gpa: u64) -> u8 {
        let mut byte = [0];
        self.file.read_exact_at(&mut byte, gpa - GPA).unwrap();
        byte[0]
    }

    fn u16_at(&self, at: u64) -> u16 {
        let mut raw = [0; 2];
        self.file.read_exact_at(&mut raw, at).unwrap();
        u16::from_le_bytes(raw)
    }

    fn buffer(&mut self, bytes: &[u8]) -> u64 {
        let at = self.next_buffer;
        self.put(at, bytes);
        self.next_buffer += bytes.len() as u64 + 3;
        GPA + at
    }

    fn descriptor(&self, at: u64, desc: Desc, next: u16) {
        let mut raw = [0; 16];
        raw[..8].copy_from_slice(&desc.gpa.to_le_bytes());
        raw[8..12].copy_from_slice(&desc.len.to_le_bytes());
        raw[12..14].copy_from_slice(&desc.flags.to_le_bytes());
        raw[14..].copy_from_slice(&next.to_le_bytes());
        self.put(at, &raw);
    }

    /// Lays a chain out from descriptor 0; the last `indirect` ones go to an indirect table.
    fn lay(&mut self, chain: &[Desc], indirect: usize) {
        let direct = chain.len() - indirect;
        let linked = |at: usize, end: usize, desc: &Desc| Desc {
            flags: desc.flags | if at + 1 < end { DESC_NEXT } else { 0 },
            ..*desc
        };
        let top = direct + usize::from(indirect > 0);
        for (at, desc) in chain[..direct].iter().enumerate() {
            self.descriptor(at as u64 * 16, linked(at, top, desc), at as u16 + 1);
        }
        if indirect > 0 {
            let table = self.next_table;
            self.next_table += indirect as u64 * 16 + 8;
            for (at, desc) in chain[direct..].iter().enumerate() {
                self.descriptor(
                    table + at as u64 * 16,
                    linked(at, indirect, desc),
                    at as u16 + 1,
                );
            }
            let desc = Desc {
                gpa: GPA + table,
                len: indirect as u32 * 16,
                flags: DESC_INDIRECT,
            };
            self.descriptor(direct as u64 * 16, desc, 0);
        }
    }
}

/// Cuts `bytes` anywhere into descriptors, some of them empty.
fn cut(arena: &mut Arena, dice: &mut SplitMix64, bytes: &[u8], flags: u16, out: &mut Vec<Desc>) {
    let mut rest = bytes;
    while !rest.is_empty() {
        let len = if dice.below(3) == 0 {
            rest.len()
        } else {
            1 + dice.below(rest.len() as u64) as usize
        };
        let (head, tail) = rest.split_at(len);
        let gpa = arena.buffer(head);
        out.push(Desc {
            gpa,
            len: len as u32,
            flags,
        });
        if dice.below(8) == 0 {
            out.push(Desc {
                gpa: 0,
                len: 0,
                flags,
            });
        }
        rest = tail;
        if out.len() > 60 {
            let gpa = arena.buffer(rest);
            out.push(Desc {
                gpa,
                len: rest.len() as u32,
                flags,
            });
            break;
        }
    }
}

fn header(kind: u32, sector: u64) -> Vec<u8> {
    let mut raw = kind.to_le_bytes().to_vec();
    raw.extend([0; 4]);
    raw.extend(sector.to_le_bytes());
    raw
}

fn end(pending: Pending, status: Status, written: u32) -> u32 {
    pending.complete(status, written).bytes
}

/// One chain: what it is, what is broken about it, and what must come of it.
fn one(seed: u64) {
    let mut dice = SplitMix64(seed);
    let mut arena = Arena::new(dice.below(2) == 0);
    let (mut kind, mut sector) = (
        [0u32, 1, 4, 8, 11, 13][dice.below(6) as usize],
        dice.below(4000),
    );
    let mut data = vec![0u8; 512 * (1 + dice.below(40) as usize)];
    data.iter_mut().for_each(|b| *b = dice.next_u64() as u8);
    let broken = dice.below(16);
    let moves = kind <= 1;
    match broken {
        1 if moves => sector = 4097 - data.len() as u64 / 512 + dice.below(3),
        2 if moves => data.truncate(data.len() - 1 - dice.below(500) as usize),
        3 => kind = [2, 3, 5, 7, 14, 16, u32::MAX][dice.below(7) as usize],
        _ => {}
    }
    // What goes to the device and what comes back.
    let mut there = header(kind, sector);
    let mut ranges = Vec::new();
    match kind {
        1 => there.extend(&data),
        11 | 13 => {
            for _ in 0..1 + dice.below(u64::from(RANGES_MAX)) {
                let (sector, count) = (dice.below(4000), 1 + dice.below(90) as u32);
                ranges.push((sector, count));
                there.extend(sector.to_le_bytes());
                there.extend(count.to_le_bytes());
                there.extend(u32::from(kind == 13).to_le_bytes());
            }
        }
        _ => {}
    }
    let back = match kind {
        0 => data.len(),
        8 => 20,
        _ => 0,
    };
    if broken == 4 {
        there.truncate(dice.below(16) as usize);
    }
    let mut chain = Vec::new();
    cut(&mut arena, &mut dice, &there, 0, &mut chain);
    let readable = chain.len();
    if broken != 5 {
        cut(
            &mut arena,
            &mut dice,
            &vec![0xaa; back + 1],
            DESC_WRITE,
            &mut chain,
        );
    }
    let mut expect: Result<(), Option<Refusal>> = Ok(());
    let mut answerable = broken != 5;
    match broken {
        1 if moves => expect = Err(Some(Refusal::Range)),
        2 if moves => expect = Err(Some(Refusal::Length(data.len() as u64))),
        3 => expect = Err(Some(Refusal::Type)),
        4 => expect = Err(Some(Refusal::Header)),
        5 => expect = Err(Some(Refusal::Status)),
        6 | 7 => {
            let at = dice.below(readable as u64) as usize;
            chain[at].gpa = if broken == 6 { GPA + BYTES } else { u64::MAX };
            chain[at].len = chain[at].len.max(2);
            expect = Err(Some(Refusal::Chain(ChainFault::Outside {
                gpa: chain[at].gpa,
                bytes: chain[at].len,
            })));
        }
        8 => {
            // Readable behind writable, the status still last.
            let gpa = arena.buffer(&[0xaa]);
            chain.push(Desc {
                gpa: GPA,
                len: 1,
                flags: 0,
            });
            chain.push(Desc {
                gpa,
                len: 1,
                flags: DESC_WRITE,
            });
            expect = Err(Some(Refusal::Chain(ChainFault::Order)));
        }
        _ => {}
    }
    // An empty chain can't be laid out: it is one empty descriptor.
    if chain.is_empty() {
        chain.push(Desc {
            gpa: 0,
            len: 0,
            flags: 0,
        });
    }
    let indirect = match dice.below(3) {
        0 => 0,
        1 => chain.len(),
        _ => dice.below(chain.len() as u64 + 1) as usize,
    };
    arena.lay(&chain, indirect);
    let last = chain.len() - indirect;
    match broken {
        9 if indirect == 0 => {
            // A loop.
            let desc = Desc {
                flags: chain[last - 1].flags | DESC_NEXT,
                ..chain[last - 1]
            };
            arena.descriptor((last as u64 - 1) * 16, desc, dice.below(last as u64) as u16);
            expect = Err(Some(Refusal::Chain(ChainFault::TooLong)));
            answerable = false;
        }
        10 if indirect == 0 => {
            let desc = Desc {
                flags: chain[last - 1].flags | DESC_NEXT,
                ..chain[last - 1]
            };
            arena.descriptor((last as u64 - 1) * 16, desc, SIZE + dice.below(1000) as u16);
            expect = Err(None);
            answerable = false;
        }
        11 if indirect > 0 => {
            let desc = Desc {
                gpa: GPA + TABLES,
                len: [0, 7, 17, 16 * indirect as u32 + 1][dice.below(4) as usize],
                flags: DESC_INDIRECT,
            };
            arena.descriptor(last as u64 * 16, desc, 0);
            expect = Err(None);
            answerable = false;
        }
        12 if indirect > 0 => {
            let desc = Desc {
                gpa: GPA + TABLES,
                len: 16,
                flags: DESC_INDIRECT,
            };
            arena.descriptor(TABLES, desc, 0);
            expect = Err(Some(Refusal::Chain(ChainFault::Nested)));
            answerable = false;
        }
        13 if indirect > 0 => {
            let desc = Desc {
                gpa: GPA + TABLES,
                len: 16,
                flags: DESC_INDIRECT | DESC_NEXT,
            };
            arena.descriptor(last as u64 * 16, desc, 0);
            expect = Err(Some(Refusal::Chain(ChainFault::Nested)));
            answerable = false;
        }
        _ => {}
    }
    let status_at = chain
        .iter()
        .rev()
        .find(|d| d.flags & DESC_WRITE != 0 && d.len > 0)
        .map(|d| d.gpa + u64::from(d.len) - 1);
    match (parse(&arena.ring, Head::split(0), &LIMITS), expect) {
        (Ok((request, pending)), Ok(())) => {
            let (operation, written) = match kind {
                0 => (Operation::Read, data.len() as u32),
                1 => (Operation::Write, 0),
                4 => (Operation::Flush, 0),
                8 => (Operation::GetId, pending.data().copy_prefix(&[7; 20])),
                11 => (Operation::Discard, 0),
                _ => (Operation::WriteZeroesUnmap, 0),
            };
            assert_eq!(request.operation, operation, "seed {seed}");
            if moves {
                let range = request.ranges[0];
                assert_eq!(
                    (range.start().0, range.count()),
                    (sector, data.len() as u64 / 512)
                );
            } else {
                let got: Vec<_> = request
                    .ranges
                    .iter()
                    .map(|r| (r.start().0, r.count() as u32))
                    .collect();
                assert_eq!(got, ranges);
            }
            if kind == 0 {
                pending.data().copy_from(&data);
                assert!(pending.data().equals(&data));
            }
            if moves {
                let mut out = vec![0; data.len()];
                pending.data().copy_to(&mut out);
                assert!(out == data, "seed {seed}");
                let digests: Vec<u32> = crate::block::sector_digests(&data).collect();
                assert_eq!(pending.data().digests()[..], digests[..]);
            }
            assert_eq!(
                pending
                    .data()
                    .segments()
                    .iter()
                    .map(|s| u64::from(s.len))
                    .sum::<u64>(),
                pending.data().bytes()
            );
            assert_eq!(end(pending, Status::Ok, written), back as u32 + 1);
            assert_eq!(arena.get(status_at.unwrap()), 0);
        }
        (Err(bad), Err(why)) => {
            if let Some(why) = why {
                assert_eq!(bad.why, why, "seed {seed}");
            }
            assert_eq!(
                bad.pending.answerable(),
                answerable,
                "seed {seed}: {}",
                bad.why
            );
            let answered = bad.pending.answerable();
            let status = bad.why.status();
            let _bytes = end(bad.pending, status, 0);
            if answered {
                let byte = if status == Status::IoErr { 1 } else { 2 };
                assert_eq!(arena.get(status_at.unwrap()), byte, "seed {seed}");
            }
        }
        (Ok((request, pending)), Err(why)) => {
            pending.abandon();
            panic!("seed {seed}: {request:?} instead of {why:?}");
        }
        (Err(bad), Ok(())) => {
            let why = bad.why;
            bad.pending.abandon();
            panic!("seed {seed}: {why} of kind {kind}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]
    #[test]
    fn a_chain_is_what_it_was_built_as(seed: u64) {
        one(seed);
    }

    /// Random descriptors, mostly pointing somewhere near: whatever they are, parsing ends and the answer goes out.
    #[test]
    fn hostile_descriptors_are_survived(seed: u64) {
        let mut dice = SplitMix64(seed);
        let arena = Arena::new(true);
        for at in 0..600u64 {
            let desc = Desc {
                gpa: match dice.below(8) {
                    0 => dice.next_u64(),
                    1 => u64::MAX - dice.below(64),
                    2 => GPA + BYTES - dice.below(600),
                    _ => GPA + dice.below(BYTES),
                },
                len: match dice.below(6) {
                    0 => 0,
                    1 => u32::MAX - dice.below(16) as u32,
                    2 => dice.below(64) as u32 * 16,
                    _ => dice.below(5000) as u32,
                },
                flags: dice.below(8) as u16,
            };
            let next = if dice.below(10) == 0 { dice.next_u64() as u16 } else { dice.below(u64::from(SIZE)) as u16 };
            arena.descriptor(at * 16, desc, next);
        }
        for head in 0..SIZE {
            match parse(&arena.ring, Head::split(head), &LIMITS) {
                Ok((_, pending)) => { end(pending, Status::Ok, 0); }
                Err(bad) => { let status = bad.why.status(); end(bad.pending, status, 0); }
            }
        }
    }
}

#[test]
fn a_failed_read_counts_no_byte_as_written() {
    let mut arena = Arena::new(false);
    let head = arena.buffer(&header(0, 0));
    let data = arena.buffer(&[0xaa; 513]);
    arena.lay(
        &[
            Desc {
                gpa: head,
                len: 16,
                flags: 0,
            },
            Desc {
                gpa: data,
                len: 513,
                flags: DESC_WRITE,
            },
        ],
        0,
    );
    let (_, pending) = parse(&arena.ring, Head::split(0), &LIMITS).unwrap();
    // Virtio 1.2, 2.7.8.2: at least so many bytes from the first writable one on were written. The data was not.
    assert_eq!(end(pending, Status::IoErr, 0), 0);
    assert_eq!(arena.get(data + 512), 1);
}

#[test]
#[should_panic(expected = "dropped without an answer")]
fn a_dropped_request_is_loud() {
    let mut arena = Arena::new(false);
    let head = arena.buffer(&header(4, 0));
    let status = arena.buffer(&[0]);
    arena.lay(
        &[
            Desc {
                gpa: head,
                len: 16,
                flags: 0,
            },
            Desc {
                gpa: status,
                len: 1,
                flags: DESC_WRITE,
            },
        ],
        0,
    );
    drop(parse(&arena.ring, Head::split(0), &LIMITS));
}

#[test]
fn flags_of_ranges_are_checked() {
    for (kind, flags, expected) in [
        (11u32, 0u32, Ok(Operation::Discard)),
        (11, 1, Err(Status::Unsupported)),
        (11, 2, Err(Status::Unsupported)),
        (13, 0, Ok(Operation::WriteZeroes)),
        (13, 1, Ok(Operation::WriteZeroesUnmap)),
        (13, 3, Err(Status::Unsupported)),
    ] {
        let mut arena = Arena::new(false);
        let mut raw = header(kind, 0);
        raw.extend(8u64.to_le_bytes());
        raw.extend(8u32.to_le_bytes());
        raw.extend(flags.to_le_bytes());
        let len = raw.len() as u32;
        let gpa = arena.buffer(&raw);
        let status = arena.buffer(&[0]);
        arena.lay(
            &[
                Desc { gpa, len, flags: 0 },
                Desc {
                    gpa: status,
                    len: 1,
                    flags: DESC_WRITE,
                },
            ],
            0,
        );
        let got = match parse(&arena.ring, Head::split(0), &LIMITS) {
            Ok((request, pending)) => {
                pending.abandon();
                Ok(request.operation)
            }
            Err(bad) => {
                bad.pending.abandon();
                Err(bad.why.status())
            }
        };
        assert_eq!(got, expected, "type {kind} flags {flags}");
    }
}
