//! Random legal histories of a small raid1: dirty and clean marks, bits that are set early and cleared lazily, flushes, durable writes, write-behind,
//! failed legs, recovery, cuts and resyncs. They never alarm. `midst` breaks one promise in them.

use std::collections::BTreeMap;

use crate::history::{ARRAY_SECTORS, Block, CHUNK_SECTORS, History, Load, data_offset, garbage};
use legwatch::block::{Operation, RequestId, Status};
use legwatch::event::Content;
use legwatch::mark::{IntentKind, Mark, SyncLook};
use legwatch::stamp::SplitMix64;
use proptest::prelude::*;

/// Sectors at the array's end (and before its middle) that only `midst` writes.
pub(crate) const RESERVED: u64 = 192;

/// A write on its way.
#[derive(Clone, Debug)]
struct Op {
    load: Option<Load>,
    sector: u64,
    blocks: Vec<Block>,
    gpa: u64,
    parts: Vec<Part>,
    acknowledged: bool,
}

#[derive(Clone, Debug)]
struct Part {
    leg: u8,
    request: Option<RequestId>,
    fetched: bool,
    done: bool,
}

pub(crate) struct Raid {
    pub(crate) history: History,
    rng: SplitMix64,
    open: Vec<Op>,
    pub(crate) disk: BTreeMap<u64, Block>,
    next_gpa: u64,
    pub(crate) sequence: u64,
    pub(crate) boot: u32,
    /// The last superblock update was one up, to dirty.
    pub(crate) may_go_back: bool,
}

impl Raid {
    pub(crate) fn new(seed: u64, legs: u8, bitmap: bool, behind: bool) -> Raid {
        let write_mostly = (bitmap && behind).then_some(legs - 1);
        let history = if bitmap {
            History::with_bitmap(legs, write_mostly)
        } else {
            History::new(legs, None)
        };
        Raid {
            history,
            rng: SplitMix64(seed),
            open: Vec::new(),
            disk: BTreeMap::new(),
            next_gpa: 0x1_0000_0000,
            sequence: 0,
            boot: 1,
            may_go_back: false,
        }
    }

    fn gpa(&mut self) -> u64 {
        self.next_gpa += 0x10_0000;
        self.next_gpa
    }

    fn targets(&self) -> Vec<u8> {
        let failed = self.history.failed;
        (0..self.history.legs())
            .filter(|leg| failed != Some(*leg))
            .collect()
    }

    fn start(&mut self) {
        let count = 1 + self.rng.below(16);
        // What nobody knows the content of goes elsewhere: over a stamp it would be garbage.
        let stamped = self.rng.below(3) > 0;
        let half = ARRAY_SECTORS / 2;
        let sector = self.rng.below(half - RESERVED - count) + if stamped { 0 } else { half };
        let near =
            |op: &Op| op.sector < sector + count && sector < op.sector + op.blocks.len() as u64;
        if self.open.iter().any(near) || self.open.len() >= 6 {
            return;
        }
        self.sequence += 1;
        let mut load = Load::new(1, self.sequence, sector, u32::try_from(count).unwrap());
        load.flags.dsync = self.rng.below(4) == 0;
        let blocks = if stamped {
            self.history.begin(&load);
            load.contents()
        } else {
            let salt = u8::try_from(self.sequence % 251).unwrap();
            vec![garbage(salt); usize::try_from(count).unwrap()]
        };
        self.may_go_back = !self.history.dirty || self.may_go_back;
        let parts = self
            .targets()
            .into_iter()
            .map(|leg| Part {
                leg,
                request: None,
                fetched: false,
                done: false,
            })
            .collect();
        let gpa = self.gpa();
        self.open.push(Op {
            load: stamped.then_some(load),
            sector,
            blocks,
            gpa,
            parts,
            acknowledged: false,
        });
    }

    /// One part of one write goes a step further.
    fn advance(&mut self) {
        if self.open.is_empty() {
            return;
        }
        let at = usize::try_from(self.rng.below(self.open.len() as u64)).unwrap();
        let op = &mut self.open[at];
        let waiting: Vec<usize> = (0..op.parts.len()).filter(|p| !op.parts[*p].done).collect();
        if !waiting.is_empty() {
            let pick = usize::try_from(self.rng.below(waiting.len() as u64)).unwrap();
            let part = &mut op.parts[waiting[pick]];
            let count = op.blocks.len() as u64;
            match part.request {
                None => {
                    part.request = Some(self.history.arrive_from(
                        part.leg,
                        Operation::Write,
                        data_offset(part.leg) + op.sector,
                        count,
                        op.gpa,
                    ));
                }
                Some(request) if !part.fetched => {
                    self.history.fetch(request, &op.blocks);
                    part.fetched = true;
                }
                Some(request) => {
                    self.history
                        .complete_with(request, Status::Ok, Content::Same);
                    part.done = true;
                }
            }
        }
        self.acknowledge(at);
    }

    fn acknowledge(&mut self, at: usize) {
        let behind = self.history.write_mostly;
        let op = &mut self.open[at];
        let ready = op
            .parts
            .iter()
            .all(|part| part.done || behind == Some(part.leg));
        if ready && !op.acknowledged && self.rng.below(2) == 0 {
            op.acknowledged = true;
            if let Some(load) = op.load {
                if load.flags.dsync {
                    for part in op.parts.iter().filter(|part| part.done) {
                        self.history.flush(part.leg);
                    }
                }
                self.history.end(&load);
            }
        }
        if op.acknowledged && op.parts.iter().all(|part| part.done) {
            let op = self.open.remove(at);
            for (at, block) in op.blocks.iter().enumerate() {
                self.disk.insert(op.sector + at as u64, *block);
            }
        }
    }

    /// Something goes on beside: writes begin and go further, nothing else.
    pub(crate) fn mix(&mut self) {
        for _ in 0..8 {
            if self.rng.below(3) == 0 {
                self.start();
            } else {
                self.advance();
            }
        }
    }

    pub(crate) fn drain(&mut self) {
        while !self.open.is_empty() {
            self.advance();
        }
    }

    fn clear_bits(&mut self) {
        if !self.history.bitmap
            || self.history.failed.is_some()
            || self.history.recovering.is_some()
        {
            return;
        }
        let mut bits = self.history.bits;
        for chunk in 0..ARRAY_SECTORS / CHUNK_SECTORS {
            let busy = self.open.iter().any(|op| {
                let end = op.sector + op.blocks.len() as u64;
                op.sector / CHUNK_SECTORS <= chunk && chunk < end.div_ceil(CHUNK_SECTORS)
            });
            if !busy && self.rng.below(2) == 0 {
                bits &= !(1 << chunk);
            }
        }
        self.history.set_bits(bits);
    }

    fn clean(&mut self) {
        if !self.open.is_empty() || !self.history.dirty {
            return;
        }
        let whole = self.history.failed.is_none() && self.history.recovering.is_none();
        if whole && self.may_go_back && self.rng.below(2) == 0 {
            self.history.superblocks_back();
        } else {
            self.history.superblocks(true);
        }
        self.may_go_back = false;
    }

    fn flush(&mut self) {
        self.sequence += 1;
        let flush = Load::new(2, self.sequence, 0, 0).kind(IntentKind::Flush);
        self.history.begin(&flush);
        for leg in self.targets() {
            self.history.flush(leg);
        }
        self.history.end(&flush);
    }

    /// A leg other than the first fails; or the one that did comes back and is copied, while writes go on around it.
    pub(crate) fn fail_or_recover(&mut self) {
        self.drain();
        self.may_go_back = false;
        if let Some(leg) = self.history.failed {
            self.history.recovery_to(leg);
            self.start();
            self.drain();
            let sectors: Vec<u64> = self.disk.keys().copied().collect();
            self.sync("recover", &sectors, &[leg]);
            self.history.recovering = None;
            self.history.superblocks(false);
        } else if self.history.write_mostly.is_none() {
            self.history.failed = Some(self.history.legs() - 1);
            self.history.superblocks(false);
        }
    }

    /// Sectors are copied in order, while writes go on beside and somebody looks how far it is.
    fn sync(&mut self, action: &str, sectors: &[u64], to: &[u8]) {
        for sector in sectors {
            match self.rng.below(8) {
                0 => self.start(),
                1..4 => self.advance(),
                _ => {}
            }
            // A copy waits for what is under way where it goes.
            let here = |op: &Op| {
                let end = op.sector + op.blocks.len() as u64;
                (op.sector..end).contains(sector)
            };
            if self.open.iter().any(here) {
                self.drain();
            }
            let block = self.disk.get(sector).copied().unwrap_or([0; 512]);
            self.copy(*sector, block, to);
            if self.rng.below(8) == 0 {
                self.look(action, sector + 1);
            }
        }
        self.drain();
        self.look("idle", 0);
    }

    fn look(&mut self, action: &str, done: u64) {
        let legs = self.history.header.legs.iter();
        let legs = legs.map(|leg| leg.config.name.clone()).collect();
        self.history.mark(Mark::Sync(SyncLook {
            action: action.into(),
            legs,
            done,
            all: ARRAY_SECTORS,
        }));
    }

    pub(crate) fn copy(&mut self, sector: u64, block: Block, to: &[u8]) {
        let gpa = self.gpa();
        let read = self
            .history
            .arrive_from(0, Operation::Read, data_offset(0) + sector, 1, gpa);
        self.history
            .complete_with(read, Status::Ok, Content::NotTaken);
        for leg in to {
            let at = data_offset(*leg) + sector;
            let write = self.history.arrive_from(*leg, Operation::Write, at, 1, gpa);
            self.history.fetch(write, &[block]);
            self.history.complete(write);
        }
    }

    fn cut(&mut self) {
        if self.history.failed.is_some() || !self.history.dirty {
            return;
        }
        let mut torn = BTreeMap::new();
        for op in std::mem::take(&mut self.open) {
            let mut first = false;
            for part in &op.parts {
                let mut stored = part.done;
                if let (Some(request), false) = (part.request, part.done) {
                    stored = part.fetched && self.rng.below(2) == 0;
                    self.history.abandon(request, stored);
                }
                first |= part.leg == 0 && stored;
            }
            for (at, block) in op.blocks.iter().enumerate() {
                let sector = op.sector + at as u64;
                let old = self.disk.get(&sector).copied().unwrap_or([0; 512]);
                torn.insert(sector, if first { *block } else { old });
            }
        }
        self.boot += 1;
        self.history.crash(self.boot);
        self.history.superblocks(false);
        let others: Vec<u8> = (1..self.history.legs()).collect();
        let sectors: Vec<u64> = torn.keys().copied().collect();
        self.disk.extend(torn);
        self.sync("resync", &sectors, &others);
        self.history.superblocks(true);
        self.may_go_back = false;
    }

    pub(crate) fn step(&mut self) {
        match self.rng.below(60) {
            0..10 => self.start(),
            10..50 => self.advance(),
            50..52 => self.clear_bits(),
            52..54 => self.clean(),
            54..56 => self.flush(),
            56 => self.fail_or_recover(),
            57 if self.rng.below(3) == 0 => self.cut(),
            _ => self.history.wait_us(700_000),
        }
    }

    pub(crate) fn finish(&mut self) {
        self.drain();
        if self.history.failed.is_some() {
            self.fail_or_recover();
        }
        self.clear_bits();
        self.history.superblocks(true);
        self.history.quiet();
        self.history.power_off();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn legal_histories_never_alarm(seed: u64, legs in 2u8..4, bitmap: bool, behind: bool) {
        let mut raid = Raid::new(seed, legs, bitmap, behind);
        for _ in 0..300 {
            raid.step();
        }
        raid.finish();
        let verdict = raid.history.verdict();
        prop_assert!(verdict.findings.is_empty() && verdict.known.is_empty(), "{:#?}", verdict.findings);
    }
}
