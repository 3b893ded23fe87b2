//! What md promises about failures and reads: each promise broken once, which its check and no other says; and the legal thing beside it, which
//! none says.

use crate::history::{History, Load, data_offset, garbage};
use crate::told::{OK, array, degraded, finish, kept, only, silent};
use legwatch::block::{Operation, Status};
use legwatch::event::Content;
use legwatch::finding::{Check, Confidence, Wrongness};
use legwatch::mark::{AdminAction, AdminPhase};
use legwatch::oracle::Verdict;

#[test]
fn a_bit_that_goes_clear_while_a_leg_is_away() {
    for forgotten in [true, false] {
        let mut history = degraded();
        history.honest(&Load::new(1, 2, 640, 8));
        history.honest(&Load::new(1, 3, 1280, 8));
        // Chunk 0 was written before the leg went away, chunk 10 after.
        let keep = if forgotten {
            1 << 20
        } else {
            1 << 10 | 1 << 20
        };
        history.set_bits(keep);
        let verdict = finish(&mut history);
        if forgotten {
            let finding = only(&verdict, Check::BitDegraded, Wrongness::Absent, &["b"]);
            assert_eq!(finding.confidence, Confidence::Suspect);
            assert_eq!(finding.array[0].start, 640);
        } else {
            kept(&verdict, Check::BitDegraded);
        }
    }
}

#[test]
fn bits_may_go_clear_once_the_leg_is_back() {
    let mut history = degraded();
    let load = Load::new(1, 2, 640, 8);
    history.honest(&load);
    history.recovery_to(1);
    history.copy(0, &[1], 640, &load.contents());
    history.copy(0, &[1], 0, &Load::new(1, 1, 0, 64).contents());
    history.set_bits(0);
    history.recovering = None;
    history.superblocks(false);
    kept(&finish(&mut history), Check::RecEq);
}

/// Leg b answers a write with an error.
fn failed_write(history: &mut History, load: &Load) {
    let request = history.arrive(1, Operation::Write, load.sector, load.count.into());
    history.fetch(request, &load.contents());
    history.complete_with(request, Status::IoErr, Content::NotTaken);
}

#[test]
fn an_error_that_nothing_answers() {
    let load = Load::new(1, 2, 640, 8);
    for how in 0..4 {
        let mut history = array(2, "6.1.192");
        history.begin(&load);
        history.write(0, 640, &load.contents());
        failed_write(&mut history, &load);
        match how {
            0 => {}
            1 => history.record_bad(1, data_offset(1) + 640, 8),
            2 => {
                for at in 0..8 {
                    history.write(1, 640 + at, &[load.content(640 + at)]);
                }
            }
            _ => {
                history.fail(1);
            }
        }
        if how > 0 {
            history.end(&load);
        } else {
            history.end_with(&load, 5);
        }
        let verdict = finish(&mut history);
        if how == 0 {
            let finding = only(&verdict, Check::ErrRecord, Wrongness::Absent, &["b"]);
            assert_eq!(finding.confidence, Confidence::Proven);
            assert_eq!(finding.array[0].start, 640);
        } else {
            kept(&verdict, Check::ErrRecord);
        }
    }
}

#[test]
fn a_write_acknowledged_before_its_error_is_on_record() {
    let (load, other) = (Load::new(1, 2, 640, 8), Load::new(2, 1, 1280, 8));
    for (both, before) in [(false, false), (false, true), (true, false), (true, true)] {
        let mut history = array(2, "6.1.192");
        history.begin(&load);
        history.begin(&other);
        history.write(0, 640, &load.contents());
        history.write(0, 1280, &other.contents());
        if both {
            failed_write(&mut history, &other);
        } else {
            history.write(1, 1280, &other.contents());
            history.end(&other);
        }
        failed_write(&mut history, &load);
        history.failed = Some(1);
        if before {
            // Nothing of md's metadata is written from the acknowledgement to the superblock that says so.
            history.md_events += 1;
            let bits = history.bits;
            history.bitmap_page(0, bits);
            history.end(&load);
            history.superblock(0, false, &[0, 0xfffe]);
        } else {
            history.end(&load);
            history.superblocks(false);
        }
        if both {
            history.end(&other);
        }
        let verdict = finish(&mut history);
        if both {
            // The leg may have been faulty when this one ended.
            kept(&verdict, Check::ErrRecord);
            assert_eq!(verdict.known[0].known.as_deref(), Some("K6"));
        } else {
            let finding = only(&verdict, Check::ErrRecord, Wrongness::Early, &["b"]);
            assert_eq!(finding.confidence, Confidence::Suspect);
        }
    }
}

#[test]
fn a_new_write_before_a_fault_is_on_record() {
    for (early, new) in [(true, true), (true, false), (false, true)] {
        let mut history = array(2, "6.1.192");
        let load = Load::new(1, 2, 640, 8);
        history.admin(AdminAction::Fail, AdminPhase::Begin, &[1]);
        if !new {
            history.begin(&load);
        }
        history.admin(AdminAction::Fail, OK, &[1]);
        if new {
            history.begin(&load);
        }
        if early {
            history.write(0, 640, &load.contents());
        }
        history.fail(1);
        if !early {
            history.write(0, 640, &load.contents());
        }
        history.end(&load);
        let verdict = finish(&mut history);
        if early && new {
            let finding = only(&verdict, Check::FaultGate, Wrongness::Early, &["a"]);
            assert_eq!(finding.confidence, Confidence::Proven);
        } else {
            kept(&verdict, Check::FaultGate);
        }
    }
}

#[test]
fn a_leg_that_refused_its_superblock_keeps_no_gate_shut() {
    for refused in [true, false] {
        let mut history = array(2, "6.1.192");
        history.admin(AdminAction::Fail, AdminPhase::Begin, &[1]);
        history.admin(AdminAction::Fail, OK, &[1]);
        // The last leg stays whatever it answers; or an error elsewhere, which says nothing of its superblock.
        let at = if refused { 8 } else { 40 };
        let request = history.arrive_at(0, Operation::Write, at, 1);
        history.fetch(request, &[garbage(1)]);
        history.complete_with(request, Status::IoErr, Content::NotTaken);
        let load = Load::new(1, 2, 640, 8);
        history.begin(&load);
        history.write(0, 640, &load.contents());
        history.fail(1);
        history.end(&load);
        let verdict = finish(&mut history);
        if refused {
            kept(&verdict, Check::FaultGate);
        } else {
            only(&verdict, Check::FaultGate, Wrongness::Early, &["a"]);
        }
    }
}

#[test]
fn a_failed_leg_that_gets_a_new_write() {
    for how in 0..4 {
        let mut history = array(2, "6.1.192");
        let (old, new) = (Load::new(1, 2, 640, 8), Load::new(1, 3, 1280, 8));
        history.begin(&old);
        history.write(0, 640, &old.contents());
        history.fail(1);
        match how {
            // The guest held its half back.
            0 => {
                history.write(1, 640, &old.contents());
                history.end(&old);
            }
            1 => {
                history.end(&old);
                history.begin(&new);
                history.write(0, 1280, &new.contents());
                history.write(1, 1280, &new.contents());
                history.end(&new);
            }
            2 => {
                history.end(&old);
                history.write(0, 1280, &[garbage(1)]);
                history.wait_us(6_000_000);
                history.write(1, 1280, &[garbage(1)]);
            }
            // Somebody looked at it: it may be on its way back.
            _ => {
                history.end(&old);
                let read = history.arrive_at(1, Operation::Read, 8, 8);
                history.complete_with(read, Status::Ok, Content::NotTaken);
                history.honest(&new);
                history.write(1, 1280, &new.contents());
            }
        }
        let verdict = finish(&mut history);
        if how == 1 || how == 2 {
            let finding = only(&verdict, Check::FaultSilent, Wrongness::Early, &["b"]);
            // A stamp tells when its write began.
            let stamped = finding.confidence == Confidence::Proven;
            assert_eq!(stamped, how == 1, "{finding:#?}");
        } else {
            assert!(
                verdict.findings.is_empty(),
                "{how}: {:#?}",
                verdict.findings
            );
        }
    }
}

#[test]
fn bad_blocks_that_are_read() {
    let load = Load::new(1, 2, 640, 8);
    for rewritten in [false, true] {
        let mut history = array(2, "6.1.192");
        history.begin(&load);
        history.write(0, 640, &load.contents());
        failed_write(&mut history, &load);
        history.record_bad(1, data_offset(1) + 640, 8);
        history.end(&load);
        if rewritten {
            history.honest(&Load::new(1, 3, 640, 8));
        }
        // Beside the bad blocks, and over them.
        history.read(1, 648, 8);
        history.read(1, 636, 6);
        let verdict = finish(&mut history);
        if rewritten {
            kept(&verdict, Check::BbNoread);
        } else {
            let finding = only(&verdict, Check::BbNoread, Wrongness::Read, &["b"]);
            assert_eq!(finding.confidence, Confidence::Suspect);
            assert_eq!((finding.array[0].start, finding.array[0].count), (640, 2));
        }
    }
}

#[test]
fn a_read_error_that_is_repaired_with_something_else() {
    let load = Load::new(1, 2, 640, 8);
    for how in 0..5 {
        let mut history = array(2, "6.1.192");
        history.honest(&load);
        let read = history.arrive(1, Operation::Read, 640, 8);
        history.complete_with(read, Status::IoErr, Content::NotTaken);
        match how {
            // The page of the sectors before.
            0 => {
                history.returned(0, 640, &load.contents());
                history.write(1, 640, &vec![garbage(7); 8]);
                history.write(1, 640, &load.contents());
            }
            1 => {
                history.returned(0, 640, &load.contents());
                history.write(1, 640, &load.contents());
            }
            // From the page that the other leg was read into, as md does it; and after somebody put something else there.
            2 => history.copy(0, &[1], 640, &load.contents()),
            3 => {
                let (start, page) = (data_offset(0) + 640, 0x9000_0000);
                let read = history.arrive_from(0, Operation::Read, start, 8, page);
                history.complete_with(read, Status::Ok, Content::NotTaken);
                let start = data_offset(1) + 640;
                let write = history.arrive_from(1, Operation::Write, start, 8, page);
                history.fetch(write, &vec![garbage(7); 8]);
                history.complete(write);
                history.write(1, 640, &load.contents());
            }
            // A new write comes first.
            _ => {
                history.returned(0, 640, &load.contents());
                history.begin(&Load::new(1, 3, 640, 8));
                for leg in [1, 0] {
                    history.write(leg, 640, &Load::new(1, 3, 640, 8).contents());
                }
                history.end(&Load::new(1, 3, 640, 8));
            }
        }
        let verdict = finish(&mut history);
        if how == 0 || how == 3 {
            let finding = only(&verdict, Check::RepairData, Wrongness::Garbage, &["b"]);
            assert_eq!(finding.confidence, Confidence::Proven);
            assert_eq!((finding.array[0].start, finding.array[0].count), (640, 8));
        } else {
            kept(&verdict, Check::RepairData);
        }
    }
}

/// ext4 writes a transaction and commits it.
fn commit(release: &str, flushed: &[u8]) -> Verdict {
    let mut history = array(2, release);
    let mut block = [garbage(9); 8];
    block[0][..8].copy_from_slice(&[0xc0, 0x3b, 0x39, 0x98, 0, 0, 0, 2]);
    for leg in 0..2 {
        history.write(leg, 2000, &[garbage(8); 8]);
    }
    for leg in flushed {
        history.flush(*leg);
    }
    for leg in 0..2 {
        let write = history.arrive(leg, Operation::Write, 2008, 8);
        history.fetch_with(write, &block, true);
        history.complete(write);
        history.flush(leg);
    }
    finish(&mut history)
}

#[test]
fn a_commit_block_before_what_it_commits() {
    kept(&commit("6.1.192", &[0, 1]), Check::PreflushOrder);
    let finding = only(
        &commit("6.1.192", &[0]),
        Check::PreflushOrder,
        Wrongness::Early,
        &["b"],
    );
    assert_eq!(finding.confidence, Confidence::Suspect);
    let verdict = commit("6.12.117", &[0]);
    kept(&verdict, Check::PreflushOrder);
    assert_eq!(verdict.known[0].known.as_deref(), Some("K3"));
    let verdict = commit("6.16.3", &[0]);
    assert!(verdict.findings[0].notes[0].contains("K3"));
}

#[test]
fn a_fault_that_was_injected_is_not_mds() {
    // Leg a returned a lie to the repair's read; what md wrote to b is that lie.
    use legwatch::event::{Action, Decided, What};
    let load = Load::new(1, 2, 640, 1);
    let mut history = array(2, "6.1.192");
    history.honest(&load);
    let read = history.arrive(1, Operation::Read, 640, 1);
    history.complete_with(read, Status::IoErr, Content::NotTaken);
    let lied = history.arrive(0, Operation::Read, 640, 1);
    history.push(What::Decided(Decided {
        request: lied,
        rule: 0,
        action: Action::CorruptAnswer,
    }));
    let digest = crc32fast::hash(&garbage(7));
    history.complete_with(
        lied,
        Status::Ok,
        Content::Returned([digest].into_iter().collect()),
    );
    history.write(1, 640, &[garbage(7)]);
    let verdict = finish(&mut history);
    assert!(
        verdict
            .findings
            .iter()
            .all(|finding| finding.check != Check::RepairData),
        "{:#?}",
        verdict.findings
    );
}

#[test]
fn what_could_not_be_read_is_written_anew_while_no_other_leg_is_there() {
    // Leg b leaves before the write, or between it and the next rest.
    for before in [true, false] {
        let mut history = array(2, "6.1.192");
        history.honest(&Load::new(1, 2, 640, 8));
        let read = history.arrive(0, Operation::Read, 640, 8);
        history.complete_with(read, Status::IoErr, Content::NotTaken);
        history.returned(0, 640, &Load::new(1, 2, 640, 8).contents());
        if before {
            history.fail(1);
        }
        let load = Load::new(1, 3, 640, 8);
        history.begin(&load);
        history.write(0, 640, &load.contents());
        if !before {
            history.fail(1);
        }
        history.end(&load);
        silent(&finish(&mut history));
    }
}
