//! Random honest histories never alarm: split, merged and reordered requests, overlap, write-behind lag, discards, writes without intents.

#![allow(
    clippy::wildcard_enum_match_arm,
    reason = "tests pick the events that they are about"
)]

use std::collections::VecDeque;

use crate::history::{Block, History, Load, garbage};
use legwatch::block::{Operation, RequestId, Status};
use legwatch::event::Content;
use legwatch::mark::IntentKind;
use legwatch::oracle::Outcome;
use legwatch::stamp::SplitMix64;
use proptest::prelude::*;

/// A piece of a write on its way to one leg.
#[derive(Clone, Debug)]
struct Piece {
    /// Which writes it is part of, with how many sectors.
    writes: Vec<(usize, u64)>,
    sector: u64,
    blocks: Vec<Block>,
    operation: Operation,
    gpa: u64,
}

#[derive(Debug)]
struct Flight {
    request: RequestId,
    leg: u8,
    piece: Piece,
    fetched: bool,
}

#[derive(Debug)]
struct Write {
    load: Load,
    /// Sectors that each leg still has to complete.
    left: Vec<u64>,
    ended: bool,
    marked: bool,
}

struct Model {
    history: History,
    rng: SplitMix64,
    writes: Vec<Write>,
    queued: Vec<VecDeque<Piece>>,
    flights: Vec<Flight>,
    dirty: bool,
    overlap: bool,
    mixed: bool,
    next_gpa: u64,
}

impl Model {
    fn pick(&mut self, bound: usize) -> usize {
        usize::try_from(self.rng.below(bound as u64)).unwrap()
    }

    fn legs(&self) -> usize {
        usize::from(self.history.legs())
    }

    fn behind(&self, leg: usize) -> bool {
        self.history.write_mostly.map(usize::from) == Some(leg)
    }

    fn begin(&mut self) {
        let count = 1 + self.rng.below(24);
        let sector = self.rng.below(300 - count);
        let busy = self.writes.iter().any(|w| {
            !w.marked
                && w.load.sector < sector + count
                && sector < w.load.sector + u64::from(w.load.count)
        });
        if busy && !self.overlap {
            return;
        }
        if !self.dirty {
            self.history.superblocks(false);
            self.dirty = true;
        }
        let mut load = Load::new(
            u16::try_from(self.rng.below(4)).unwrap(),
            self.writes.len() as u64 + 1,
            sector,
            u32::try_from(count).unwrap(),
        );
        if self.mixed {
            load.kind = match self.rng.below(8) {
                0 => IntentKind::Discard,
                1 => IntentKind::Unstamped,
                _ => IntentKind::Write,
            };
        }
        self.history.begin(&load);
        let at = self.writes.len();
        let salt = u8::try_from(at & 0xff).unwrap();
        let blocks: Vec<Block> = match load.kind {
            IntentKind::Write => load.contents(),
            _ => (0..count).map(|_| garbage(salt)).collect(),
        };
        let gpa = self.next_gpa;
        self.next_gpa += 0x10_0000;
        let legs = self.legs();
        for leg in 0..legs {
            // Each leg's block layer splits in its own way.
            let mut from = 0;
            while from < count {
                let len = if load.kind == IntentKind::Discard {
                    count
                } else {
                    1 + self.rng.below(count - from)
                };
                let range = usize::try_from(from).unwrap()..usize::try_from(from + len).unwrap();
                self.queued[leg].push_back(Piece {
                    writes: vec![(at, len)],
                    sector: sector + from,
                    blocks: blocks[range].to_vec(),
                    operation: if load.kind == IntentKind::Discard {
                        Operation::Discard
                    } else {
                        Operation::Write
                    },
                    gpa: gpa + from * 512,
                });
                from += len;
            }
        }
        self.writes.push(Write {
            load,
            left: vec![count; legs],
            ended: false,
            marked: false,
        });
    }

    /// Some piece of some leg goes out, perhaps merged with its neighbour.
    fn submit(&mut self) {
        let leg = self.pick(self.legs());
        if self.queued[leg].is_empty() {
            return;
        }
        let at = self.pick(self.queued[leg].len());
        let piece = self.queued[leg][at].clone();
        let touches = |other: &Piece| {
            other.sector < piece.sector + piece.blocks.len() as u64
                && piece.sector < other.sector + other.blocks.len() as u64
        };
        // A leg that is behind takes overlapping writes in their order.
        if self.behind(leg)
            && (self.queued[leg].iter().take(at).any(touches)
                || self
                    .flights
                    .iter()
                    .any(|f| usize::from(f.leg) == leg && touches(&f.piece)))
        {
            return;
        }
        let mut piece = self.queued[leg].remove(at).unwrap();
        let next = self.queued[leg].iter().position(|other| {
            other.sector == piece.sector + piece.blocks.len() as u64
                && other.operation == Operation::Write
                && piece.operation == Operation::Write
        });
        if let Some(next) = next
            && !self.behind(leg)
            && self.rng.below(2) == 0
        {
            let other = self.queued[leg].remove(next).unwrap();
            piece.blocks.extend(other.blocks);
            piece.writes.extend(other.writes);
        }
        let leg = u8::try_from(leg).unwrap();
        let request = self.history.arrive_from(
            leg,
            piece.operation,
            crate::history::data_offset(leg) + piece.sector,
            piece.blocks.len() as u64,
            piece.gpa,
        );
        self.flights.push(Flight {
            request,
            leg,
            piece,
            fetched: false,
        });
    }

    fn advance(&mut self) {
        if self.flights.is_empty() {
            return;
        }
        let at = self.pick(self.flights.len());
        if self.behind(usize::from(self.flights[at].leg)) && self.rng.below(4) > 0 {
            return;
        }
        let flight = &mut self.flights[at];
        if !flight.fetched && flight.piece.operation == Operation::Write {
            flight.fetched = true;
            self.history.fetch(flight.request, &flight.piece.blocks);
            return;
        }
        let flight = self.flights.remove(at);
        let content = if flight.piece.operation == Operation::Write {
            Content::Same
        } else {
            Content::NotTaken
        };
        self.history
            .complete_with(flight.request, Status::Ok, content);
        for (write, part) in flight.piece.writes {
            self.writes[write].left[usize::from(flight.leg)] -= part;
        }
    }

    /// The guest is told, and some time later its mark arrives.
    fn acknowledge(&mut self) {
        for at in 0..self.writes.len() {
            let done =
                (0..self.legs()).all(|leg| self.behind(leg) || self.writes[at].left[leg] == 0);
            if done && !self.writes[at].ended {
                self.writes[at].ended = true;
            }
            if self.writes[at].ended && !self.writes[at].marked && self.rng.below(4) == 0 {
                self.writes[at].marked = true;
                let load = self.writes[at].load;
                self.history.end(&load);
            }
        }
    }

    fn noise(&mut self) {
        let leg = u8::try_from(self.pick(self.legs())).unwrap();
        match self.rng.below(3) {
            0 => self.history.read(leg, 10, 8),
            1 => self.history.flush(leg),
            _ => {
                // Somebody else writes through the array, without intents, where the workload does not.
                let block = garbage(u8::try_from(self.rng.below(200)).unwrap());
                let sector = 1000 + self.rng.below(50);
                for leg in 0..self.history.legs() {
                    self.history.write(leg, sector, &[block]);
                }
            }
        }
    }

    fn rest(&mut self) {
        while self.writes.iter().any(|w| !w.marked)
            || !self.flights.is_empty()
            || self.queued.iter().any(|q| !q.is_empty())
        {
            self.submit();
            self.advance();
            self.acknowledge();
        }
        self.history.superblocks(true);
        self.dirty = false;
        self.history.quiet();
    }
}

fn run(seed: u64, legs: u8, behind: bool, overlap: bool, mixed: bool) -> History {
    let history = History::new(legs, behind.then_some(legs - 1));
    let count = usize::from(legs);
    let mut model = Model {
        history,
        rng: SplitMix64(seed),
        writes: Vec::new(),
        queued: vec![VecDeque::new(); count],
        flights: Vec::new(),
        dirty: false,
        overlap,
        mixed,
        next_gpa: 0x4000_0000,
    };
    for _ in 0..400 {
        match model.rng.below(40) {
            0..8 => model.begin(),
            8..20 => model.submit(),
            20..36 => model.advance(),
            36 => model.noise(),
            37 if model.rng.below(8) == 0 => model.rest(),
            _ => model.acknowledge(),
        }
    }
    model.rest();
    model.history.power_off();
    model.history
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn honest_histories_are_clean(seed: u64, legs in 2u8..4, behind: bool) {
        let verdict = run(seed, legs, behind, false, false).verdict();
        prop_assert!(verdict.findings.is_empty(), "{:#?}", verdict.findings);
        prop_assert_eq!(verdict.outcome, Outcome::Clean, "{:?}", verdict.reasons);
        prop_assert_eq!(verdict.coverage.sectors_compared, verdict.coverage.sectors_intended);
        prop_assert!(verdict.coverage.excused.is_empty());
        for leg in &verdict.coverage.legs {
            prop_assert_eq!(leg.sectors_seen, verdict.coverage.sectors_intended);
        }
    }

    #[test]
    fn honest_histories_with_overlap_discards_and_unstamped_writes_never_alarm(seed: u64, legs in 2u8..4, behind: bool, overlap: bool) {
        let verdict = run(seed, legs, behind, overlap, true).verdict();
        prop_assert!(verdict.findings.is_empty(), "{:#?}", verdict.findings);
        prop_assert_eq!(verdict.coverage.sectors_compared, verdict.coverage.sectors_intended);
    }

    #[test]
    fn one_lost_or_mangled_write_always_alarms(seed: u64, legs in 2u8..4, behind: bool, which: u64, mangle: bool) {
        use legwatch::event::What;
        let mut history = run(seed, legs, behind, false, false);
        // Only a write that stays the last one on its sectors is sure to be judged; what a stamp-less one lost may be equal again.
        let victims: Vec<usize> = (0..history.events.len()).filter(|at| {
            let What::Fetched(fetched) = &history.events[*at].what else { return false };
            if fetched.payload.is_some() { return false }
            let arrived = history.events.iter().find_map(|e| match &e.what { What::Arrived(a) if a.request == fetched.request => Some(a), _ => None }).unwrap();
            let range = arrived.ranges[0];
            let leg = fetched.request.leg.0;
            let start = range.start().0 - crate::history::data_offset(leg);
            start < 300 && !history.events.iter().any(|e| match &e.what {
                What::Arrived(a) => a.request.leg.0 == leg && a.request.number > fetched.request.number && a.operation == Operation::Write
                    && a.ranges[0].intersection(range).is_some(),
                _ => false,
            })
        }).collect();
        prop_assume!(!victims.is_empty());
        let at = victims[usize::try_from(which % victims.len() as u64).unwrap()];
        let What::Fetched(fetched) = &mut history.events[at].what else { unreachable!() };
        let request = fetched.request;
        if mangle {
            for digest in &mut fetched.digests { *digest ^= 1; }
        } else {
            history.events.retain(|e| match &e.what {
                What::Arrived(a) => a.request != request,
                What::Fetched(f) => f.request != request,
                What::Completed(c) => c.request != request,
                _ => true,
            });
        }
        let verdict = history.verdict();
        let name = history.header.leg_name(request.leg).to_owned();
        prop_assert_eq!(verdict.outcome, Outcome::Findings, "{:#?}", verdict.coverage);
        prop_assert!(verdict.findings.iter().all(|f| f.legs == std::slice::from_ref(&name)), "{:#?}", verdict.findings);
    }
}
