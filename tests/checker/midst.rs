//! One violation of each check in the midst of a random legal history: its check tells it, and no other check speaks.

use crate::history::{ARRAY_SECTORS, Block, Load, data_offset, garbage};
use crate::random_md::{RESERVED, Raid};
use legwatch::block::{Operation, SECTOR_BYTES, Status};
use legwatch::event::Content;
use legwatch::finding::Check;
use legwatch::mark::{AdminAction, AdminPhase, IntentKind};
use proptest::prelude::*;

/// Where the violations are: nothing else of the history is there. A chunk of its own.
const AT: u64 = ARRAY_SECTORS - RESERVED;
const CHUNK: u64 = AT / crate::history::CHUNK_SECTORS;
const OK: AdminPhase = AdminPhase::End {
    ok: true,
    mismatches: None,
};

/// A violation, and whether it needs an array without write-behind.
type Planted = (Check, bool, fn(&mut Raid));

const PLANTED: &[Planted] = &[
    (Check::Stamp, false, stamp),
    (Check::AckAll, false, ack_all),
    (Check::AllLegs, false, all_legs),
    (Check::SameData, false, same_data),
    (Check::DiscardAll, false, discard_all),
    (Check::CleanEq, false, clean_eq),
    (Check::BufStable, false, buf_stable),
    (Check::SbPeer, false, sb_peer),
    (Check::EventsStep, false, events_step),
    (Check::BmBeforeSb, false, bm_before_sb),
    (Check::DirtyFirst, false, dirty_first),
    (Check::CleanQuiet, false, clean_quiet),
    (Check::MetaFua, false, meta_fua),
    (Check::Bounds, false, bounds),
    (Check::BitFirst, false, bit_first),
    (Check::BitClearEq, false, bit_clear_eq),
    (Check::CrashCovered, false, crash_covered),
    (Check::BitDegraded, true, bit_degraded),
    (Check::FlushAll, false, flush_all),
    (Check::FuaTail, false, fua_tail),
    (Check::PreflushOrder, false, preflush_order),
    (Check::ResyncEq, false, resync_eq),
    (Check::RecEq, true, rec_eq),
    (Check::SyncExcl, false, sync_excl),
    (Check::ReadSticky, false, read_sticky),
    (Check::Scrub, false, scrub),
    (Check::SerialExcl, false, serial_excl),
    (Check::ErrRecord, true, err_record),
    (Check::FaultGate, true, fault_gate),
    (Check::FaultSilent, true, fault_silent),
    (Check::BbNoread, true, bb_noread),
    (Check::NoStaleRead, true, no_stale_read),
    (Check::RepairData, false, repair_data),
];

impl Raid {
    fn load(&mut self) -> Load {
        self.sequence += 1;
        Load::new(3, self.sequence, AT, 8)
    }

    /// What the legs hold from here on.
    fn keep(&mut self, contents: &[Block]) {
        for (sector, block) in (AT..).zip(contents) {
            self.disk.insert(sector, *block);
        }
    }

    /// All legs but the second.
    fn others(&self) -> Vec<u8> {
        (0..self.history.legs()).filter(|leg| *leg != 1).collect()
    }

    fn all(&self) -> Vec<u8> {
        (0..self.history.legs()).collect()
    }

    fn last(&self) -> u8 {
        self.history.legs() - 1
    }

    fn write_to(&mut self, legs: &[u8], contents: &[Block]) {
        for leg in legs {
            self.history.write(*leg, AT, contents);
        }
    }

    /// Nothing is in flight, the array is clean, and the agent says so.
    fn rest(&mut self) {
        self.drain();
        self.history.superblocks(true);
        self.history.quiet();
    }

    /// The legs are equal again.
    fn heal(&mut self) {
        let load = self.load();
        self.history.honest(&load);
        self.keep(&load.contents());
    }

    fn crash(&mut self) {
        self.drain();
        self.boot += 1;
        self.history.crash(self.boot);
    }

    /// Leaves `old` on the second leg where the others have `new`, and a dirty array that is not yet resynced.
    fn crash_apart(&mut self) -> (Block, Block) {
        self.drain();
        let (old, new) = (garbage(1), garbage(2));
        self.write_to(&self.all(), &[old]);
        self.write_to(&self.others(), &[new]);
        self.crash();
        self.history.superblocks(false);
        (old, new)
    }

    fn resync(&mut self, new: Block) {
        let others: Vec<u8> = (1..self.history.legs()).collect();
        self.history.copy(0, &others, AT, &[new]);
        self.keep(&[new]);
        self.history.superblocks(true);
    }

    /// The last leg fails, and md has it on record.
    fn fail(&mut self) {
        self.drain();
        self.history.fail(self.last());
    }
}

fn stamp(raid: &mut Raid) {
    let load = raid.load();
    raid.history.begin(&load);
    raid.write_to(&raid.others(), &load.contents());
    raid.mix();
    raid.write_to(&[1], &[garbage(9); 8]);
    raid.mix();
    raid.history.end(&load);
    raid.mix();
    raid.heal();
}

fn ack_all(raid: &mut Raid) {
    let load = raid.load();
    raid.history.begin(&load);
    raid.write_to(&raid.others(), &load.contents());
    let request = raid.history.arrive(1, Operation::Write, AT, 8);
    raid.mix();
    raid.history.fetch(request, &load.contents());
    raid.mix();
    raid.history.end(&load);
    raid.history.complete(request);
    raid.keep(&load.contents());
}

fn all_legs(raid: &mut Raid) {
    raid.write_to(&raid.all(), &[garbage(1)]);
    raid.write_to(&raid.others(), &[garbage(2)]);
    raid.mix();
    raid.rest();
    raid.heal();
}

fn same_data(raid: &mut Raid) {
    raid.write_to(&raid.others(), &[garbage(2)]);
    raid.mix();
    raid.write_to(&[1], &[garbage(3)]);
    raid.rest();
    raid.heal();
}

fn discard_all(raid: &mut Raid) {
    raid.heal();
    let discard = raid.load().kind(IntentKind::Discard);
    raid.history.begin(&discard);
    for leg in raid.others() {
        raid.history.discard(leg, AT, 8);
    }
    raid.mix();
    raid.history.end(&discard);
    raid.rest();
    raid.heal();
}

/// One leg had the discard, the others the write: neither is the other's older content.
fn clean_eq(raid: &mut Raid) {
    for seed in 0..4 {
        raid.write_to(&raid.all(), &[garbage(seed)]);
    }
    raid.history.discard(1, AT, 1);
    raid.mix();
    raid.write_to(&raid.others(), &[garbage(9)]);
    raid.rest();
    raid.heal();
}

fn buf_stable(raid: &mut Raid) {
    let load = raid.load();
    raid.history.begin(&load);
    raid.write_to(&raid.others(), &load.contents());
    let request = raid.history.arrive(1, Operation::Write, AT, 8);
    raid.history.fetch(request, &load.contents());
    raid.mix();
    let mut now = load.contents();
    now[6] = garbage(9);
    let digests = now.iter().map(|block| crc32fast::hash(block)).collect();
    raid.history
        .complete_with(request, Status::Ok, Content::Changed(digests));
    raid.history.end(&load);
    raid.heal();
}

fn roles(raid: &Raid) -> Vec<u16> {
    raid.all().into_iter().map(u16::from).collect()
}

fn sb_peer(raid: &mut Raid) {
    raid.heal();
    raid.history.bump();
    let bits = raid.history.bits;
    for leg in raid.all() {
        let roles = roles(raid);
        raid.history.bitmap_page(leg, bits);
        raid.history
            .superblock_with(leg, false, &roles, if leg == 1 { 9 } else { 0 }, None);
    }
    raid.mix();
}

fn events_step(raid: &mut Raid) {
    raid.history.bump();
    raid.history.bump();
    raid.history.superblocks(false);
    raid.mix();
}

fn bm_before_sb(raid: &mut Raid) {
    raid.heal();
    raid.history.bump();
    let (bits, roles) = (raid.history.bits, roles(raid));
    raid.history.superblock(0, false, &roles);
    for leg in raid.all() {
        raid.history.bitmap_page(leg, bits);
    }
    for leg in 1..raid.history.legs() {
        raid.history.superblock(leg, false, &roles);
    }
    raid.mix();
}

fn dirty_first(raid: &mut Raid) {
    raid.drain();
    raid.history.set_bits(u128::MAX);
    raid.history.superblocks(true);
    raid.history.honest_md = false;
    raid.heal();
    raid.history.honest_md = true;
}

fn clean_quiet(raid: &mut Raid) {
    raid.drain();
    let load = raid.load();
    raid.history.begin(&load);
    raid.write_to(&raid.others(), &load.contents());
    let request = raid.history.arrive(1, Operation::Write, AT, 8);
    raid.history.fetch(request, &load.contents());
    raid.history.superblocks(true);
    raid.history.complete(request);
    raid.history.end(&load);
    raid.keep(&load.contents());
}

fn meta_fua(raid: &mut Raid) {
    raid.drain();
    raid.history.set_bits(u128::MAX);
    raid.history.superblocks(true);
    raid.history.meta_flush = false;
    raid.heal();
    raid.history.meta_flush = true;
    for leg in raid.all() {
        raid.history.flush(leg);
    }
}

fn bounds(raid: &mut Raid) {
    let load = raid.load();
    raid.history.honest(&load);
    raid.keep(&load.contents());
    let request = raid.history.arrive_at(1, Operation::Write, 1000, 8);
    raid.mix();
    raid.history.fetch_with(request, &load.contents(), true);
    raid.history.complete(request);
}

fn bit_first(raid: &mut Raid) {
    raid.heal();
    raid.drain();
    let without = raid.history.bits & !(1 << CHUNK);
    raid.history.set_bits(without);
    raid.history.superblocks(false);
    raid.history.honest_md = false;
    raid.history.bits |= 1 << CHUNK;
    let bits = raid.history.bits;
    for leg in raid.others() {
        raid.history.bitmap_page(leg, bits);
    }
    raid.heal();
    raid.history.honest_md = true;
    raid.history.wait_us(3_000_000);
    raid.history.flush(0);
    raid.history.set_bits(bits);
}

fn bit_clear_eq(raid: &mut Raid) {
    raid.drain();
    raid.history.superblocks(false);
    let load = raid.load();
    raid.history.begin(&load);
    raid.write_to(&raid.others(), &load.contents());
    let request = raid.history.arrive(1, Operation::Write, AT, 8);
    raid.history.fetch(request, &load.contents());
    raid.history.set_bits(0);
    raid.history.complete(request);
    raid.history.end(&load);
    raid.keep(&load.contents());
}

fn crash_covered(raid: &mut Raid) {
    raid.write_to(&raid.all(), &[garbage(1)]);
    raid.write_to(&raid.others(), &[garbage(2)]);
    raid.drain();
    raid.history.superblocks(true);
    raid.crash();
    raid.history.superblocks(false);
    raid.resync(garbage(2));
}

fn bit_degraded(raid: &mut Raid) {
    raid.fail();
    raid.heal();
    raid.mix();
    raid.drain();
    let without = raid.history.bits & !(1 << CHUNK);
    raid.history.set_bits(without);
    raid.fail_or_recover();
}

fn flush_all(raid: &mut Raid) {
    raid.heal();
    let flush = raid.load().kind(IntentKind::Flush);
    raid.history.begin(&flush);
    for leg in raid.others() {
        raid.history.flush(leg);
    }
    raid.history.end(&flush);
    raid.heal();
}

fn fua_tail(raid: &mut Raid) {
    raid.heal();
    let mut load = raid.load();
    load.flags.dsync = true;
    raid.history.begin(&load);
    for leg in raid.others() {
        raid.history.write(leg, AT, &load.contents());
        raid.history.flush(leg);
    }
    raid.write_to(&[1], &load.contents());
    raid.history.end(&load);
    raid.keep(&load.contents());
}

fn preflush_order(raid: &mut Raid) {
    let mut block = [garbage(9); 8];
    block[0][..8].copy_from_slice(&[0xc0, 0x3b, 0x39, 0x98, 0, 0, 0, 2]);
    raid.write_to(&raid.all(), &[garbage(8); 8]);
    for leg in raid.others() {
        raid.history.flush(leg);
    }
    for leg in raid.all() {
        let write = raid.history.arrive(leg, Operation::Write, AT + 8, 8);
        raid.history.fetch_with(write, &block, true);
        raid.history.complete(write);
        raid.history.flush(leg);
    }
    raid.keep(&[[garbage(8); 8], block].concat());
}

fn resync_eq(raid: &mut Raid) {
    raid.crash_apart();
    raid.history.superblocks(true);
    raid.heal();
}

fn rec_eq(raid: &mut Raid) {
    raid.write_to(&raid.all(), &[garbage(1)]);
    raid.drain();
    let last = raid.last();
    raid.history.recovering = Some(last);
    raid.history.superblocks(false);
    let others: Vec<u8> = (0..last).collect();
    raid.write_to(&others, &[garbage(2)]);
    raid.history.recovering = None;
    raid.history.superblocks(false);
    raid.history.superblocks(true);
    raid.heal();
}

fn sync_excl(raid: &mut Raid) {
    let (_, new) = raid.crash_apart();
    let gpa = 0x9_0000_0000;
    let load = raid.load();
    raid.history.begin(&load);
    let read = raid
        .history
        .arrive_from(0, Operation::Read, data_offset(0) + AT, 1, gpa);
    let digests = [crc32fast::hash(&new)].into_iter().collect();
    raid.history
        .complete_with(read, Status::Ok, Content::Returned(digests));
    raid.write_to(&[0], &load.contents());
    raid.history.honest_md = false;
    let write = raid
        .history
        .arrive_from(1, Operation::Write, data_offset(1) + AT, 1, gpa);
    raid.history.honest_md = true;
    raid.history.fetch(write, &[new]);
    raid.history.complete(write);
    for leg in 1..raid.history.legs() {
        raid.write_to(&[leg], &load.contents());
    }
    raid.history.end(&load);
    raid.keep(&load.contents());
    raid.rest();
}

fn read_sticky(raid: &mut Raid) {
    let (old, new) = raid.crash_apart();
    raid.history.returned(0, AT, &[new]);
    raid.history.returned(1, AT, &[old]);
    raid.resync(new);
}

fn serial_excl(raid: &mut Raid) {
    let all = raid.all();
    raid.history
        .admin(AdminAction::Serialize, AdminPhase::Begin, &all);
    raid.history.admin(AdminAction::Serialize, OK, &all);
    let (one, other) = (raid.load(), raid.load());
    raid.history.begin(&one);
    raid.history.begin(&other);
    let first = raid.history.arrive(1, Operation::Write, AT, 8);
    raid.history.fetch(first, &one.contents());
    for leg in raid.others() {
        raid.write_to(&[leg], &one.contents());
        raid.write_to(&[leg], &other.contents());
    }
    raid.write_to(&[1], &other.contents());
    raid.history.complete(first);
    raid.history.end(&one);
    raid.history.end(&other);
    raid.history
        .admin(AdminAction::Unserialize, AdminPhase::Begin, &all);
    raid.keep(&other.contents());
    raid.rest();
}

/// A check that counts nothing where the second leg holds something else.
fn scrub(raid: &mut Raid) {
    raid.rest();
    raid.write_to(&raid.all(), &[garbage(1)]);
    raid.keep(&[garbage(1)]);
    raid.write_to(&[1], &[garbage(2)]);
    raid.history.superblocks(true);
    let all = raid.all();
    raid.history
        .admin(AdminAction::Check, AdminPhase::Begin, &all);
    for leg in raid.all() {
        for sector in (0..ARRAY_SECTORS).step_by(128) {
            let held = |at: u64| match raid.disk.get(&at) {
                Some(_) if at == AT && leg == 1 => garbage(2),
                Some(block) => *block,
                None => [0; SECTOR_BYTES],
            };
            let contents: Vec<Block> = (sector..sector + 128).map(held).collect();
            raid.history.returned(leg, sector, &contents);
        }
    }
    let end = AdminPhase::End {
        ok: true,
        mismatches: Some(0),
    };
    raid.history.admin(AdminAction::Check, end, &all);
    raid.heal();
}

/// The last leg answers a write with an error.
fn failed_write(raid: &mut Raid, load: &Load) {
    let last = raid.last();
    let request = raid.history.arrive(last, Operation::Write, AT, 8);
    raid.mix();
    raid.history.fetch(request, &load.contents());
    raid.history
        .complete_with(request, Status::IoErr, Content::NotTaken);
}

fn err_record(raid: &mut Raid) {
    let load = raid.load();
    raid.history.begin(&load);
    let others: Vec<u8> = (0..raid.last()).collect();
    raid.write_to(&others, &load.contents());
    failed_write(raid, &load);
    raid.history.end_with(&load, 5);
    raid.rest();
    raid.heal();
}

fn fault_gate(raid: &mut Raid) {
    raid.drain();
    let (load, last) = (raid.load(), raid.last());
    raid.history
        .admin(AdminAction::Fail, AdminPhase::Begin, &[last]);
    raid.history.admin(AdminAction::Fail, OK, &[last]);
    raid.history.begin(&load);
    let others: Vec<u8> = (0..last).collect();
    raid.write_to(&others, &load.contents());
    raid.fail();
    raid.history.end(&load);
    raid.keep(&load.contents());
    raid.fail_or_recover();
}

fn fault_silent(raid: &mut Raid) {
    raid.fail();
    let load = raid.load();
    raid.history.begin(&load);
    raid.mix();
    raid.write_to(&raid.all(), &load.contents());
    raid.history.end(&load);
    raid.keep(&load.contents());
    raid.fail_or_recover();
}

fn bb_noread(raid: &mut Raid) {
    let load = raid.load();
    let last = raid.last();
    raid.history.begin(&load);
    let others: Vec<u8> = (0..last).collect();
    raid.write_to(&others, &load.contents());
    failed_write(raid, &load);
    raid.history.record_bad(last, data_offset(last) + AT, 8);
    raid.history.end(&load);
    raid.mix();
    raid.history.read(last, AT, 4);
    raid.heal();
}

fn no_stale_read(raid: &mut Raid) {
    let last = raid.last();
    raid.write_to(&raid.all(), &[garbage(1); 8]);
    raid.fail();
    raid.heal();
    raid.history.recovery_to(last);
    raid.history.returned(last, AT, &[garbage(1); 8]);
    for (sector, block) in raid.disk.clone() {
        raid.copy(sector, block, &[last]);
    }
    raid.history.recovering = None;
    raid.history.superblocks(false);
}

fn repair_data(raid: &mut Raid) {
    let load = raid.load();
    raid.history.honest(&load);
    let read = raid.history.arrive(1, Operation::Read, AT, 8);
    raid.mix();
    raid.history
        .complete_with(read, Status::IoErr, Content::NotTaken);
    raid.history.returned(0, AT, &load.contents());
    raid.write_to(&[1], &[garbage(7); 8]);
    raid.mix();
    raid.write_to(&[1], &load.contents());
    raid.keep(&load.contents());
    raid.rest();
}

/// A busy array, the violation, and the array goes on. Tells what is wrong with the verdict.
fn midst(planted: &Planted, seed: u64, legs: u8, behind: bool) -> Result<(), String> {
    let (check, alone, plant) = planted;
    let behind = behind && legs > 2 && !alone;
    let mut raid = Raid::new(seed, legs, true, behind);
    for _ in 0..120 {
        raid.step();
    }
    if raid.history.failed.is_some() {
        raid.fail_or_recover();
    }
    plant(&mut raid);
    raid.may_go_back = false;
    for _ in 0..120 {
        raid.step();
    }
    raid.finish();
    let verdict = raid.history.verdict();
    let found: Vec<Check> = verdict
        .findings
        .iter()
        .chain(&verdict.known)
        .map(|finding| finding.check)
        .collect();
    if found.contains(check) && found.iter().all(|one| one == check) {
        return Ok(());
    }
    Err(format!(
        "{check:?}, seed {seed}, {legs} legs, behind {behind}: {found:?} {:#?}",
        verdict.findings.first()
    ))
}

#[test]
fn each_violation_is_told_in_the_midst_of_other_work() {
    let mut wrong = Vec::new();
    for planted in PLANTED {
        for (seed, legs, behind) in [(1, 2, false), (2, 3, true), (3, 3, false)] {
            wrong.extend(midst(planted, seed, legs, behind).err());
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_check_of_legs_that_makes_findings_is_planted() {
    for check in Check::LEGS {
        // Counted and never a finding; and what needs a survey, which tests/checker/durable.rs has.
        if matches!(check, Check::SamePages | Check::Durable) {
            continue;
        }
        assert!(PLANTED.iter().any(|(of, _, _)| *of == check), "{check:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn one_broken_promise_always_alarms(seed: u64, legs in 2u8..4, which in 0..PLANTED.len(), behind: bool) {
        let told = midst(&PLANTED[which], seed, legs, behind);
        prop_assert!(told.is_ok(), "{told:?}");
    }
}
