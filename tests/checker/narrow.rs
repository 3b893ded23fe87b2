//! Where `fault-gate` and `preflush-order` stay silent: each reason holds as long as it should, and the check is there beside it.

use crate::history::{Block, History, Load, data_offset, garbage};
use crate::told::{OK, array, finish, kept, only, silent, triggered};
use legwatch::block::{Operation, RequestId, Status};
use legwatch::event::Content;
use legwatch::finding::{Check, Wrongness};
use legwatch::mark::{AdminAction, AdminPhase};
use legwatch::oracle::Verdict;

const KERNEL: &str = "6.1.192";

fn load(sequence: u64) -> Load {
    Load::new(1, sequence, 640, 8)
}

/// The user fails leg b.
fn fail(history: &mut History, phase: AdminPhase) {
    history.admin(AdminAction::Fail, AdminPhase::Begin, &[1]);
    history.admin(AdminAction::Fail, phase, &[1]);
}

/// A write that begins now reaches these legs.
fn write(history: &mut History, load: &Load, legs: &[u8]) {
    history.begin(load);
    for leg in legs {
        history.write(*leg, load.sector, &load.contents());
    }
    history.end(load);
}

fn error(history: &mut History, leg: u8, at: u64) {
    let request = history.arrive_at(leg, Operation::Write, at, 1);
    history.fetch(request, &[garbage(1)]);
    history.complete_with(request, Status::IoErr, Content::NotTaken);
}

#[test]
fn a_gate_falls_when_the_leg_was_failed_and_not_before() {
    for went_well in [true, false] {
        let mut history = array(2, KERNEL);
        let phase = AdminPhase::End {
            ok: went_well,
            mismatches: None,
        };
        fail(&mut history, phase);
        if went_well {
            write(&mut history, &load(2), &[0]);
            history.fail(1);
            let verdict = finish(&mut history);
            only(&verdict, Check::FaultGate, Wrongness::Early, &["a"]);
        } else {
            // It is still there.
            write(&mut history, &load(2), &[0, 1]);
            silent(&finish(&mut history));
        }
    }
}

/// The gate is down until the last active leg says so. Leg c is active, or is being recovered; `second`: its superblock is written before the write.
#[test]
fn a_gate_waits_for_every_active_leg_and_for_no_other() {
    for (recovering, second) in [(false, false), (false, true), (true, false)] {
        let mut history = array(3, KERNEL);
        if recovering {
            history.recovering = Some(2);
            history.superblocks(false);
        }
        fail(&mut history, OK);
        history.failed = Some(1);
        history.bump();
        let roles = [0, 0xfffe, 2];
        history.bitmap_page(0, history.bits);
        history.bitmap_page(2, history.bits);
        history.superblock(0, false, &roles);
        let offset = recovering.then_some(0);
        if second {
            history.superblock_with(2, false, &roles, 0, offset);
        }
        write(&mut history, &load(2), &[0, 2]);
        if !second {
            history.superblock_with(2, false, &roles, 0, offset);
        }
        if recovering {
            for (at, contents) in [(0, Load::new(1, 1, 0, 64)), (640, load(2))] {
                history.copy(0, &[2], at, &contents.contents());
            }
            history.recovering = None;
            history.superblocks(false);
        }
        let verdict = finish(&mut history);
        if recovering || second {
            kept(&verdict, Check::FaultGate);
        } else {
            only(&verdict, Check::FaultGate, Wrongness::Early, &["a", "c"]);
        }
    }
}

/// A leg refuses a superblock, takes the next one, and fails something else later: it has no reason not to say that b is faulty.
#[test]
fn a_superblock_that_was_refused_once_opens_no_gate_later() {
    for again in [false, true] {
        let mut history = array(2, KERNEL);
        error(&mut history, 0, 8);
        history.superblocks(false);
        fail(&mut history, OK);
        error(&mut history, 0, if again { 8 } else { 40 });
        write(&mut history, &load(2), &[0]);
        history.fail(1);
        let verdict = finish(&mut history);
        if again {
            kept(&verdict, Check::FaultGate);
        } else {
            only(&verdict, Check::FaultGate, Wrongness::Early, &["a"]);
        }
    }
}

/// Nobody knows when a write began that has no stamp. A stamp beside it is told.
#[test]
fn a_gate_is_for_writes_that_are_known_to_be_new() {
    for stamped in [false, true] {
        let mut history = array(2, KERNEL);
        fail(&mut history, OK);
        let new = load(2);
        history.begin(&new);
        history.write(0, 1280, &[garbage(2); 8]);
        if stamped {
            history.write(0, 640, &new.contents());
        }
        history.fail(1);
        if !stamped {
            history.write(0, 640, &new.contents());
        }
        history.end(&new);
        let verdict = finish(&mut history);
        if stamped {
            only(&verdict, Check::FaultGate, Wrongness::Early, &["a"]);
        } else {
            kept(&verdict, Check::FaultGate);
        }
    }
}

#[test]
fn a_gate_is_over_with_its_boot() {
    for cut in [true, false] {
        let mut history = array(2, KERNEL);
        fail(&mut history, OK);
        if cut {
            history.crash(2);
            history.superblocks(false);
        }
        write(&mut history, &load(2), if cut { &[0, 1] } else { &[0] });
        if !cut {
            history.fail(1);
        }
        let verdict = finish(&mut history);
        assert_eq!(triggered(&verdict, Check::FaultGate), 1);
        if cut {
            silent(&verdict);
        } else {
            only(&verdict, Check::FaultGate, Wrongness::Early, &["a"]);
        }
    }
}

const BEFORE: u64 = 2000;
const COMMIT: u64 = 2008;

/// A commit block of ext4's journal, of this transaction.
fn commit_block(transaction: u8) -> [Block; 8] {
    let mut block = [garbage(transaction); 8];
    block[0][..8].copy_from_slice(&[0xc0, 0x3b, 0x39, 0x98, 0, 0, 0, 2]);
    block
}

fn sent(history: &mut History, leg: u8, at: u64, blocks: &[Block]) -> RequestId {
    let write = history.arrive(leg, Operation::Write, at, blocks.len() as u64);
    history.fetch_with(write, blocks, true);
    write
}

/// A transaction: the block before, a flush of these legs, and the commit block.
fn transaction(history: &mut History, number: u8, flushed: &[u8]) {
    let legs = history.legs();
    for leg in 0..legs {
        history.write(leg, BEFORE, &[garbage(100 + number); 8]);
    }
    for leg in flushed {
        history.flush(*leg);
    }
    for leg in 0..legs {
        let commit = sent(history, leg, COMMIT, &commit_block(number));
        history.complete(commit);
    }
}

#[track_caller]
fn early(verdict: &Verdict, legs: &[&str]) {
    only(verdict, Check::PreflushOrder, Wrongness::Early, legs);
}

/// A leg that has no write cache needs no flush; one that has, and was never seen to be flushed, is taken for one that has none.
#[test]
fn a_commit_block_on_a_leg_with_and_without_a_cache() {
    for cache in [false, true] {
        let mut history = array(2, KERNEL);
        history.header.legs[1].config.write_cache = cache;
        transaction(&mut history, 1, &[0]);
        let verdict = finish(&mut history);
        assert!(triggered(&verdict, Check::PreflushOrder) > 0);
        if cache {
            early(&verdict, &["b"]);
        } else {
            silent(&verdict);
        }
    }
}

/// A leg that is being recovered is no part of the promise; when it is active it is.
#[test]
fn a_commit_block_on_a_leg_that_is_recovered() {
    for over in [false, true] {
        let mut history = array(2, KERNEL);
        history.fail(1);
        history.recovery_to(1);
        history.copy(0, &[1], 0, &Load::new(1, 1, 0, 64).contents());
        if over {
            history.recovering = None;
            history.superblocks(false);
        }
        transaction(&mut history, 1, &[0]);
        if !over {
            history.recovering = None;
            history.superblocks(false);
        }
        let verdict = finish(&mut history);
        assert!(triggered(&verdict, Check::PreflushOrder) > 0);
        if over {
            early(&verdict, &["b"]);
        } else {
            silent(&verdict);
        }
    }
}

/// Leg b failed these sectors, long ago and in an older transaction: the next one is held to its promise.
#[test]
fn an_error_that_is_over_excuses_no_commit_block_later() {
    for at in [BEFORE, COMMIT] {
        for flushed in [&[0, 1][..], &[0]] {
            let mut history = array(2, KERNEL);
            let write = sent(&mut history, 1, at, &[garbage(1); 8]);
            history.complete_with(write, Status::IoErr, Content::NotTaken);
            for leg in [1, 0] {
                history.write(leg, at, &[garbage(1); 8]);
            }
            transaction(&mut history, 1, flushed);
            let verdict = finish(&mut history);
            if flushed.len() == 2 {
                kept(&verdict, Check::PreflushOrder);
            } else {
                early(&verdict, &["b"]);
            }
        }
    }
}

/// While it is not over, md writes the commit block once more, in one piece or in many: no flush comes before that.
#[test]
fn a_commit_block_that_md_writes_again() {
    let block = commit_block(1);
    for how in ["again", "copied", "anew"] {
        let mut history = array(2, KERNEL);
        transaction(&mut history, 1, &[0, 1]);
        // The next transaction's, of which nothing is committed yet.
        for leg in 0..2 {
            history.write(leg, BEFORE, &[garbage(7); 8]);
        }
        match how {
            "again" => {
                let read = history.arrive(1, Operation::Read, COMMIT, 8);
                history.complete_with(read, Status::IoErr, Content::NotTaken);
                history.returned(0, COMMIT, &block);
                let write = sent(&mut history, 1, COMMIT, &block);
                history.complete(write);
            }
            "copied" => {
                let gpa = 0x7000_0000;
                let start = data_offset(0) + COMMIT;
                let read = history.arrive_from(0, Operation::Read, start, 8, gpa);
                history.complete_with(read, Status::Ok, Content::NotTaken);
                let start = data_offset(1) + COMMIT;
                let write = history.arrive_from(1, Operation::Write, start, 8, gpa);
                history.fetch_with(write, &block, true);
                history.complete(write);
            }
            _ => {
                for leg in [1, 0] {
                    let write = sent(&mut history, leg, COMMIT, &block);
                    history.complete(write);
                }
            }
        }
        let verdict = finish(&mut history);
        if how == "anew" {
            early(&verdict, &["a", "b"]);
        } else {
            kept(&verdict, Check::PreflushOrder);
        }
    }
}

/// md copies the block before once more, after the flush: what was durable stays so. A block that only comes with the copy was not.
#[test]
fn a_block_before_that_md_copies_after_the_flush() {
    for same in [true, false] {
        let mut history = array(2, KERNEL);
        let before = [garbage(7); 8];
        for leg in 0..2 {
            let other = if same || leg == 0 { 7 } else { 8 };
            history.write(leg, BEFORE, &[garbage(other); 8]);
        }
        history.flush(0);
        history.flush(1);
        history.copy(0, &[1], BEFORE, &before);
        for leg in 0..2 {
            let commit = sent(&mut history, leg, COMMIT, &commit_block(1));
            history.complete(commit);
        }
        let verdict = finish(&mut history);
        if same {
            kept(&verdict, Check::PreflushOrder);
        } else {
            early(&verdict, &["a", "b"]);
        }
    }
}

/// A block before that is in flight need not be this transaction's; a write-mostly leg may be behind with it, and says nothing of the others.
#[test]
fn a_block_before_that_is_still_under_way() {
    for (behind, open, told) in [
        (None, Some(1), false),
        (None, None, true),
        (Some(1), Some(1), true),
    ] {
        let mut history = History::with_bitmap(2, behind);
        history.honest(&Load::new(1, 1, 0, 64));
        let mut late = Vec::new();
        for leg in 0..2 {
            let write = sent(&mut history, leg, BEFORE, &[garbage(7); 8]);
            if open == Some(leg) {
                late.push(write);
            } else {
                history.complete(write);
            }
        }
        for leg in 0..2 {
            let commit = sent(&mut history, leg, COMMIT, &commit_block(1));
            history.complete(commit);
        }
        for write in late {
            history.complete(write);
        }
        let verdict = finish(&mut history);
        if told {
            early(&verdict, &["a", "b"]);
        } else {
            silent(&verdict);
        }
    }
}

/// In a raid10 the block before may be on another mirror, where a chunk begins.
#[test]
fn a_commit_block_at_the_begin_of_a_chunk() {
    for (at, told) in [(16, false), (24, true)] {
        let mut history = History::raid10(16);
        for leg in 0..2 {
            history.write(leg, at - 8, &[garbage(7); 8]);
        }
        for leg in 0..2 {
            let commit = sent(&mut history, leg, at, &commit_block(1));
            history.complete(commit);
        }
        history.superblocks(true);
        history.quiet();
        history.power_off();
        let verdict = history.verdict();
        if told {
            early(&verdict, &["a", "b"]);
        } else {
            silent(&verdict);
        }
    }
}

/// Of many flushes the last ones are remembered; of those before nothing is held against a leg.
#[test]
fn flushes_that_are_forgotten_count_as_done() {
    for (later, told) in [(16, false), (15, true)] {
        let mut history = array(2, KERNEL);
        for leg in 0..2 {
            history.write(leg, BEFORE, &[garbage(7); 8]);
        }
        history.flush(0);
        let commit = sent(&mut history, 0, COMMIT, &commit_block(1));
        history.complete(commit);
        // It arrived before leg b's next flushes, and is fetched after them.
        let commit = history.arrive(1, Operation::Write, COMMIT, 8);
        for _ in 0..later {
            history.flush(1);
        }
        history.fetch_with(commit, &commit_block(1), true);
        history.complete(commit);
        let verdict = finish(&mut history);
        if told {
            early(&verdict, &["b"]);
        } else {
            kept(&verdict, Check::PreflushOrder);
        }
    }
}
