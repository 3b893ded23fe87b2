//! What md has on record, and what it makes of a leg that comes in: broken once each, which its check and no other says; and the legal thing beside it. Flushes of
//! a mirror that the user declared are held to the same.

use crate::history::{ARRAY_SECTORS, History, Load, data_offset};
use crate::told::{finish, kept, only};
use legwatch::block::{Operation, Sector, SectorRange, Status};
use legwatch::event::{Content, What};
use legwatch::finding::{Check, Confidence, Wrongness};
use legwatch::mark::{Hello, IntentKind, Mapping, Mark, Target};
use legwatch::oracle::Verdict;

fn array() -> History {
    let mut history = History::with_bitmap(2, None);
    history.honest(&Load::new(1, 1, 0, 64));
    history
}

#[test]
fn a_superblock_with_the_checksum_of_another() {
    for (at, byte) in [(216, 1), (145, 1)] {
        let mut history = array();
        let mut block = *history.last_superblock(1);
        // The checksum itself, or the place that it says it has, with the right checksum.
        block[at] ^= byte;
        if at != 216 {
            let max = u32::from(history.legs());
            let sum = legwatch::md::superblock::checksum_1(&block, max);
            block[216..220].copy_from_slice(&sum.to_le_bytes());
        }
        history.metadata(1, 8, &[block]);
        let verdict = finish(&mut history);
        assert_eq!(verdict.findings.len(), 1, "byte {at}: {verdict:#?}");
        let finding = only(&verdict, Check::SbPeer, Wrongness::Metadata, &["b"]);
        assert_eq!(finding.confidence, Confidence::Proven);
    }
    // Another array's leavings, or zeros, are nobody's promise.
    let mut history = array();
    history.power_off();
    kept(&history.verdict(), Check::SbPeer);
}

/// Leg b leaves, misses a write, and comes back; with or without saying that it has to be recovered.
fn comes_back(says: bool, copied: bool) -> Verdict {
    let mut history = array();
    history.fail(1);
    let missed = Load::new(1, 2, 640, 8);
    history.honest(&missed);
    history.failed = None;
    history.recovering = says.then_some(1);
    history.superblocks(false);
    if copied {
        history.copy(0, &[1], 640, &missed.contents());
        history.copy(0, &[1], 0, &Load::new(1, 1, 0, 64).contents());
    }
    history.recovering = None;
    history.superblocks(false);
    finish(&mut history)
}

#[test]
fn a_leg_that_comes_back_without_a_recovery_offset() {
    let finding = only(
        &comes_back(false, true),
        Check::RecEq,
        Wrongness::Early,
        &["b"],
    );
    assert_eq!(finding.confidence, Confidence::Proven);
    assert_eq!((finding.array[0].start, finding.array[0].count), (640, 8));
    kept(&comes_back(true, true), Check::RecEq);
}

#[test]
fn bad_blocks_that_are_dropped_before_they_are_written() {
    let load = Load::new(1, 2, 640, 16);
    for rewritten in [8, 16] {
        let mut history = array();
        history.begin(&load);
        history.write(0, 640, &load.contents());
        let request = history.arrive(1, Operation::Write, 640, 16);
        history.fetch(request, &load.contents());
        history.complete_with(request, Status::IoErr, Content::NotTaken);
        history.record_bad(1, data_offset(1) + 640, 16);
        history.end(&load);
        history.quiet();
        history.honest(&Load::new(1, 3, 640, rewritten));
        history.bad.clear();
        history.superblocks(false);
        let verdict = finish(&mut history);
        if rewritten == 16 {
            kept(&verdict, Check::ErrRecord);
        } else {
            let finding = only(&verdict, Check::ErrRecord, Wrongness::Absent, &["b"]);
            assert_eq!(finding.confidence, Confidence::Proven);
            assert_eq!((finding.array[0].start, finding.array[0].count), (648, 8));
        }
    }
}

#[test]
fn a_read_of_a_recovery_that_is_over_is_held_against_no_later_one() {
    let mut history = array();
    history.fail(1);
    history.recovery_to(1);
    // A READ of which nothing is copied, and then a write there.
    history.read(0, 640, 8);
    history.recovering = None;
    history.copy(0, &[1], 0, &Load::new(1, 1, 0, 64).contents());
    history.superblocks(false);
    let load = Load::new(1, 2, 640, 8);
    history.honest(&load);
    // The copy of another recovery begins before a superblock says so.
    history.fail(1);
    history.failed = None;
    let gpa = 0x7000_0000;
    let read = history.arrive_from(0, Operation::Read, data_offset(0) + 640, 8, gpa);
    history.complete_with(read, Status::Ok, Content::NotTaken);
    history.recovering = Some(1);
    history.superblocks(false);
    history.copy(0, &[1], 0, &Load::new(1, 1, 0, 64).contents());
    let write = history.arrive_from(1, Operation::Write, data_offset(1) + 640, 8, gpa);
    history.fetch(write, &load.contents());
    history.complete(write);
    history.recovering = None;
    history.superblocks(false);
    kept(&finish(&mut history), Check::RecEq);
}

/// Two legs without superblocks that the user declares a mirror.
fn declared() -> History {
    let mut history = History::bare(2);
    history.honest_md = false;
    for (leg, head) in (0..).zip(&mut history.header.legs) {
        head.config.data = SectorRange::new(Sector(data_offset(leg)), ARRAY_SECTORS);
    }
    history.push(What::Boot { boot: 1 });
    history.mark(Mark::Hello(Hello {
        agent: "0".into(),
        release: "6.1".into(),
        boot: 1,
        init: true,
        tainted: 0,
    }));
    history.mark(Mark::Target(Target {
        target: 1,
        device: "/dev/mapper/mirror".into(),
        sectors: ARRAY_SECTORS,
        mapping: Mapping::Identity,
    }));
    history.flush(0);
    history.flush(1);
    history
}

#[test]
fn a_declared_mirror_flushes_both_legs() {
    let flush = Load::new(1, 2, 0, 0).kind(IntentKind::Flush);
    let mut durable = Load::new(1, 3, 200, 8);
    durable.flags.dsync = true;
    for (flushed, fua) in [(true, true), (false, true), (true, false)] {
        let mut history = declared();
        history.honest(&Load::new(1, 1, 0, 8));
        history.begin(&flush);
        history.flush(0);
        if flushed {
            history.flush(1);
        }
        history.end(&flush);
        history.begin(&durable);
        for leg in 0..2 {
            history.write(leg, 200, &durable.contents());
            if fua || leg == 0 {
                history.flush(leg);
            }
        }
        history.end(&durable);
        history.quiet();
        history.power_off();
        let verdict = history.verdict();
        let finding = match (flushed, fua) {
            (false, _) => only(&verdict, Check::FlushAll, Wrongness::Absent, &["b"]),
            (_, false) => only(&verdict, Check::FuaTail, Wrongness::Early, &["b"]),
            (true, true) => {
                kept(&verdict, Check::FlushAll);
                kept(&verdict, Check::FuaTail);
                continue;
            }
        };
        assert_eq!(finding.confidence, Confidence::Proven);
    }
}

#[test]
fn a_recovery_that_puts_an_old_copy_over_a_new_write() {
    for over in [true, false] {
        let mut history = array();
        let old = Load::new(1, 2, 640, 8);
        history.honest(&old);
        history.fail(1);
        history.recovery_to(1);
        history.copy(0, &[1], 0, &Load::new(1, 1, 0, 64).contents());
        // Read before the write, and written after it.
        let new = Load::new(1, 3, 640, 8);
        history.honest(&new);
        if over {
            history.copy(0, &[1], 640, &old.contents());
        } else {
            history.copy(0, &[1], 640, &new.contents());
        }
        history.recovering = None;
        history.superblocks(false);
        let later = Load::new(1, 4, 640, 8);
        history.honest(&later);
        let verdict = finish(&mut history);
        if over {
            only(&verdict, Check::RecEq, Wrongness::Absent, &["b"]);
        } else {
            kept(&verdict, Check::RecEq);
        }
    }
}

#[test]
fn data_of_a_failed_leg_where_other_versions_have_superblocks_is_data() {
    let mut history = array();
    // Version 1.0 would have its superblock in the last sectors of the array.
    history.header.legs[1].sectors = data_offset(1) + ARRAY_SECTORS;
    history.fail(1);
    for (sequence, sector) in [(2, ARRAY_SECTORS - 16), (3, 640)] {
        let new = Load::new(1, sequence, sector, 8);
        history.begin(&new);
        history.write(0, sector, &new.contents());
        history.write(1, sector, &new.contents());
        history.end(&new);
    }
    let verdict = finish(&mut history);
    let finding = only(&verdict, Check::FaultSilent, Wrongness::Early, &["b"]);
    assert_eq!(finding.confidence, Confidence::Proven);
    assert_eq!(finding.sectors, 16);
}

#[test]
fn a_bad_block_that_a_power_cut_or_a_discard_takes_off_the_list() {
    for how in ["nothing", "cut", "discard"] {
        let mut history = array();
        let old = *history.last_superblock(1);
        history.record_bad(1, data_offset(1) + 640, 8);
        history.crash(2);
        if how == "cut" {
            history.lose(1, 8, &old);
        }
        history.superblocks(false);
        if how == "discard" {
            // Leg b has no discard: md counts it as done there.
            history.discard(0, 640, 8);
        }
        history.bad.clear();
        history.superblocks(false);
        let verdict = finish(&mut history);
        if how == "nothing" {
            let finding = only(&verdict, Check::ErrRecord, Wrongness::Absent, &["b"]);
            assert_eq!((finding.array[0].start, finding.array[0].count), (640, 8));
        } else {
            let said = verdict.findings.iter();
            let checks: Vec<Check> = said.map(|finding| finding.check).collect();
            assert!(!checks.contains(&Check::ErrRecord), "{how}: {checks:?}");
        }
    }
}

#[test]
fn a_bit_that_a_power_cut_took_asks_for_no_copy() {
    for lost in [false, true] {
        let mut history = History::with_bitmap(2, None);
        history.honest(&Load::new(1, 1, 640, 8));
        history.superblocks(false);
        let old = history.bitmap_block(0);
        let late = Load::new(1, 2, 640, 8);
        history.begin(&late);
        history.write(0, 640, &late.contents());
        let request = history.arrive(1, Operation::Write, 640, 8);
        history.fetch(request, &late.contents());
        history.abandon(request, false);
        history.crash(2);
        if lost {
            history.lose(1, 16, &old);
        }
        history.superblocks(false);
        history.superblocks(true);
        history.quiet();
        let verdict = history.verdict();
        let said = verdict.findings.iter();
        let checks: Vec<Check> = said.map(|finding| finding.check).collect();
        assert_eq!(checks.contains(&Check::ResyncEq), !lost, "{checks:?}");
    }
}

#[test]
fn a_read_of_the_workloads_does_not_hide_what_crosses_a_copy() {
    let mut history = array();
    history.fail(1);
    history.recovery_to(1);
    let old = Load::new(1, 1, 0, 64).contents();
    let gpa = 0x7000_0000;
    let read = history.arrive_from(0, Operation::Read, data_offset(0), 8, gpa);
    history.complete_with(read, Status::Ok, Content::NotTaken);
    history.read(0, 0, 8);
    let load = Load::new(1, 2, 0, 8);
    history.honest(&load);
    let write = history.arrive_from(1, Operation::Write, data_offset(1), 8, gpa);
    history.fetch(write, &old[..8]);
    history.complete(write);
    history.honest(&Load::new(1, 3, 0, 8));
    history.copy(0, &[1], 8, &old[8..]);
    history.recovering = None;
    history.superblocks(false);
    let verdict = finish(&mut history);
    let said = verdict.findings.iter();
    let checks: Vec<Check> = said.map(|finding| finding.check).collect();
    assert!(checks.contains(&Check::SyncExcl), "{checks:?}");
}
