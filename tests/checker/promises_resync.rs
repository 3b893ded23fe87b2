//! What md promises about resync, recovery, check and repair: each promise broken once, which its check and no other says; and the legal thing beside it, which
//! none says.

use crate::history::{ARRAY_SECTORS, Block, History, Load, data_offset, garbage};
use crate::told::{array, degraded, finish, kept, only};
use legwatch::block::{Operation, SECTOR_BYTES, Status};
use legwatch::event::Content;
use legwatch::finding::{Check, Confidence, Wrongness};
use legwatch::mark::{AdminAction, AdminPhase, Mark};
use legwatch::oracle::Verdict;

/// A leg of a crashed array that was not yet resynced: `old` on leg b where leg a has `new`.
pub(crate) fn crashed(release: &str) -> (History, Block, Block) {
    let mut history = array(2, release);
    let (old, new) = (garbage(1), garbage(2));
    history.write(0, 1000, &[old]);
    history.write(1, 1000, &[old]);
    history.write(0, 1000, &[new]);
    history.crash(2);
    history.mark(Mark::Fact {
        name: "kernel.version".into(),
        value: format!("Linux version x #1 SMP Debian {release}-1 (2026-01-01)"),
    });
    history.superblocks(false);
    (history, old, new)
}

/// An array that was just made, and is to be resynced.
fn made() -> (History, Block, Block) {
    let mut history = History::created();
    let (old, new) = (garbage(1), garbage(2));
    for content in [old, new] {
        history.write(0, 1000, &[content]);
        history.write(1, 1000, &[content]);
    }
    (history, old, new)
}

/// Resync is over; the guest is done.
fn resynced(history: &mut History, new: Block) -> Verdict {
    history.copy(0, &[1], 1000, &[new]);
    finish(history)
}

#[test]
fn a_leg_that_is_read_where_it_is_not_recovered() {
    for (stale, seen) in [(false, false), (true, false), (true, true)] {
        let mut history = degraded();
        let load = Load::new(1, 2, 640, 8);
        history.honest(&load);
        history.failed = None;
        history.recovering = Some(1);
        history.recovered = 128;
        history.superblocks(false);
        history.copy(0, &[1], 0, &Load::new(1, 1, 0, 64).contents());
        if !stale {
            history.copy(0, &[1], 640, &load.contents());
        }
        let held = if stale {
            vec![[0; SECTOR_BYTES]; 8]
        } else {
            load.contents()
        };
        history.returned(1, 640, &held);
        if seen {
            history.mark(Mark::BadRead {
                target: 1,
                sector: legwatch::block::Sector(640),
                head: String::new(),
                digest: crc32fast::hash(&held[0]),
            });
        }
        history.copy(0, &[1], 640, &load.contents());
        history.recovering = None;
        history.superblocks(false);
        let verdict = finish(&mut history);
        if !stale {
            kept(&verdict, Check::NoStaleRead);
            continue;
        }
        let finding = verdict
            .findings
            .iter()
            .find(|finding| finding.check == Check::NoStaleRead)
            .unwrap();
        let sure = if seen {
            Confidence::Proven
        } else {
            Confidence::Suspect
        };
        assert_eq!(
            (finding.confidence, &finding.legs[..]),
            (sure, &["b".to_owned()][..])
        );
        assert_eq!(
            verdict.findings.len(),
            1 + usize::from(seen),
            "{:#?}",
            verdict.findings
        );
    }
}

#[test]
fn reads_that_flip_before_the_resync() {
    for flips in [false, true] {
        let (mut history, old, new) = crashed("6.1.192");
        history.returned(0, 1000, &[new]);
        history.returned(
            if flips { 1 } else { 0 },
            1000,
            &[if flips { old } else { new }],
        );
        let verdict = resynced(&mut history, new);
        if flips {
            let finding = only(&verdict, Check::ReadSticky, Wrongness::Read, &["b"]);
            assert_eq!(finding.confidence, Confidence::Suspect);
        } else {
            kept(&verdict, Check::ReadSticky);
        }
    }
}

#[test]
fn a_read_of_the_leg_that_resync_then_overwrites() {
    for (release, known) in [("6.1.192", false), ("6.12.117", true)] {
        let (mut history, old, new) = crashed(release);
        history.returned(1, 1000, &[old]);
        let verdict = resynced(&mut history, new);
        if known {
            kept(&verdict, Check::ReadSticky);
            assert_eq!(verdict.known[0].known.as_deref(), Some("K4"));
        } else {
            // Resync reads its source, so leg a shows something else too.
            only(&verdict, Check::ReadSticky, Wrongness::Read, &["a", "b"]);
        }
    }
}

#[test]
fn reads_may_flip_where_something_was_written_between_them() {
    let (mut history, _, new) = crashed("6.1.192");
    history.returned(0, 1000, &[new]);
    history.write(0, 1000, &[garbage(3)]);
    history.write(1, 1000, &[garbage(3)]);
    history.returned(1, 1000, &[garbage(3)]);
    let verdict = resynced(&mut history, garbage(3));
    kept(&verdict, Check::ReadSticky);
}

#[test]
fn a_write_where_a_resync_copies() {
    for (how, first) in (0..4).flat_map(|how| [(how, false), (how, true)]) {
        let (mut history, _, new) = if first { made() } else { crashed("6.1.192") };
        let gpa = 0x9000_0000;
        let load = Load::new(1, 2, if how == 3 { 640 } else { 1000 }, 1);
        history.begin(&load);
        let early = (how == 0).then(|| history.arrive(0, Operation::Write, load.sector, 1));
        let read = history.arrive_from(0, Operation::Read, data_offset(0) + 1000, 1, gpa);
        history.complete_with(
            read,
            Status::Ok,
            Content::Returned([crc32fast::hash(&new)].into_iter().collect()),
        );
        if how == 1 || how == 3 {
            history.write(0, load.sector, &load.contents());
        }
        history.honest_md = false;
        let write = history.arrive_from(1, Operation::Write, data_offset(1) + 1000, 1, gpa);
        history.honest_md = true;
        history.fetch(write, &[new]);
        history.complete(write);
        if let Some(early) = early {
            history.fetch(early, &load.contents());
            history.complete(early);
        }
        if how == 2 {
            history.write(0, load.sector, &load.contents());
        }
        history.write(1, load.sector, &load.contents());
        history.end(&load);
        let verdict = finish(&mut history);
        if how < 2 {
            let finding = only(&verdict, Check::SyncExcl, Wrongness::Early, &["b"]);
            assert_eq!(finding.confidence, Confidence::Suspect);
        } else {
            kept(&verdict, Check::SyncExcl);
        }
    }
}

#[test]
fn a_program_that_writes_what_it_read_is_no_resync() {
    let (mut history, _, new) = crashed("6.1.192");
    let gpa = 0x9000_0000;
    let read = history.arrive_from(0, Operation::Read, data_offset(0) + 1000, 1, gpa);
    history.complete_with(read, Status::Ok, Content::NotTaken);
    history.write(0, 1000, &[garbage(5)]);
    history.write(1, 1000, &[garbage(5)]);
    for leg in [1, 0] {
        let write = history.arrive_from(leg, Operation::Write, data_offset(leg) + 1000, 1, gpa);
        history.fetch(write, &[new]);
        history.complete(write);
    }
    let verdict = finish(&mut history);
    kept(&verdict, Check::SyncExcl);
}

/// A check or repair reads the whole array; leg b holds something else at sector 700.
fn scrub(
    action: AdminAction,
    differs: bool,
    mismatches: u64,
    then: impl FnOnce(&mut History),
) -> Verdict {
    let mut history = array(2, "6.1.192");
    history.write(0, 700, &[garbage(1)]);
    history.write(1, 700, &[garbage(1)]);
    if differs {
        history.write(1, 700, &[garbage(2)]);
    }
    history.superblocks(true);
    history.admin(action, AdminPhase::Begin, &[0, 1]);
    for leg in 0..2 {
        for sector in (0..ARRAY_SECTORS).step_by(128) {
            let contents: Vec<Block> = (sector..sector + 128)
                .map(|at| match at {
                    0..64 => Load::new(1, 1, 0, 64).content(at),
                    700 if leg == 1 && differs => garbage(2),
                    700 => garbage(1),
                    _ => [0; SECTOR_BYTES],
                })
                .collect();
            history.returned(leg, sector, &contents);
        }
    }
    then(&mut history);
    history.admin(
        action,
        AdminPhase::End {
            ok: true,
            mismatches: Some(mismatches),
        },
        &[0, 1],
    );
    // So that no other check sees the difference.
    history.write(0, 700, &[garbage(3)]);
    history.write(1, 700, &[garbage(3)]);
    finish(&mut history)
}

/// md makes leg b equal at sector 700, from the pages that it read it into.
fn repaired(history: &mut History) {
    let gpa = 0x9000_0000;
    let read = history.arrive_from(1, Operation::Read, data_offset(1) + 700, 1, gpa);
    history.complete_with(read, Status::Ok, Content::NotTaken);
    history.honest_md = false;
    let write = history.arrive_from(1, Operation::Write, data_offset(1) + 700, 1, gpa);
    history.honest_md = true;
    history.fetch(write, &[garbage(1)]);
    history.complete(write);
}

#[test]
fn a_check_that_counts_wrong_or_writes() {
    kept(&scrub(AdminAction::Check, false, 0, |_| {}), Check::Scrub);
    kept(&scrub(AdminAction::Check, true, 128, |_| {}), Check::Scrub);
    for (differs, count) in [(true, 0), (false, 128)] {
        let verdict = scrub(AdminAction::Check, differs, count, |_| {});
        let finding = only(&verdict, Check::Scrub, Wrongness::Metadata, &["b"]);
        assert_eq!(finding.confidence, Confidence::Proven);
    }
    let verdict = scrub(AdminAction::Check, false, 0, repaired);
    only(&verdict, Check::Scrub, Wrongness::Garbage, &["b"]);
    // A failed READ is repaired in a check, too.
    let verdict = scrub(AdminAction::Check, false, 0, |history| {
        let read = history.arrive(1, Operation::Read, 696, 8);
        history.complete_with(read, Status::IoErr, Content::NotTaken);
        repaired(history);
    });
    kept(&verdict, Check::Scrub);
}

#[test]
fn a_repair_that_leaves_legs_different() {
    kept(
        &scrub(AdminAction::Repair, true, 128, repaired),
        Check::Scrub,
    );
    let verdict = scrub(AdminAction::Repair, true, 128, |_| {});
    only(&verdict, Check::Scrub, Wrongness::Differs, &["b"]);
}

#[test]
fn a_check_beside_other_work_says_nothing() {
    let verdict = scrub(AdminAction::Check, true, 0, |history| {
        history.honest(&Load::new(4, 1, 3000, 8));
    });
    assert!(verdict.findings.is_empty(), "{:#?}", verdict.findings);
}

#[test]
fn legs_that_the_first_resync_leaves_different() {
    for skipped in [true, false] {
        let (mut history, _, new) = made();
        // Resync reads what leg a has, and leg b is sent something else.
        history.copy(0, &[1], 1000, &[if skipped { garbage(3) } else { new }]);
        let verdict = finish(&mut history);
        if skipped {
            let finding = only(&verdict, Check::ResyncEq, Wrongness::Absent, &["a"]);
            assert_eq!(finding.confidence, Confidence::Proven);
        } else {
            kept(&verdict, Check::ResyncEq);
        }
    }
}

#[test]
fn reads_that_flip_before_the_first_resync() {
    for flips in [true, false] {
        let (mut history, old, new) = made();
        history.returned(0, 1000, &[new]);
        history.returned(1, 1000, &[if flips { old } else { new }]);
        let verdict = resynced(&mut history, new);
        if flips {
            only(&verdict, Check::ReadSticky, Wrongness::Read, &["b"]);
        } else {
            kept(&verdict, Check::ReadSticky);
        }
    }
}

#[test]
fn a_checkpoint_before_the_copy() {
    for early in [true, false] {
        let (mut history, _, new) = crashed("6.1.192");
        if !early {
            history.copy(0, &[1], 1000, &[new]);
        }
        history.checkpoint = 2048;
        history.superblocks(false);
        if early {
            history.copy(0, &[1], 1000, &[new]);
        }
        history.checkpoint = 0;
        history.superblocks(false);
        let verdict = finish(&mut history);
        if early {
            let finding = only(&verdict, Check::ResyncEq, Wrongness::Early, &["b"]);
            assert_eq!(finding.confidence, Confidence::Proven);
        } else {
            kept(&verdict, Check::ResyncEq);
        }
    }
}

#[test]
fn a_recovery_offset_before_the_copy() {
    for (early, held_back) in [(true, false), (false, false), (false, true)] {
        let mut history = degraded();
        let load = Load::new(1, 2, 640, 8);
        history.honest(&load);
        history.recovery_to(1);
        history.copy(0, &[1], 0, &Load::new(1, 1, 0, 64).contents());
        let late = Load::new(1, 3, 1280, 8);
        if held_back {
            history.begin(&late);
            history.write(0, 1280, &late.contents());
        }
        if !early {
            history.copy(0, &[1], 640, &load.contents());
        }
        history.recovered = 2048;
        history.superblocks(false);
        if early {
            history.copy(0, &[1], 640, &load.contents());
        }
        if held_back {
            history.write(1, 1280, &late.contents());
            history.end(&late);
        }
        history.recovering = None;
        history.superblocks(false);
        let verdict = finish(&mut history);
        if early {
            only(&verdict, Check::RecEq, Wrongness::Early, &["b"]);
        } else {
            kept(&verdict, Check::RecEq);
        }
    }
}

#[test]
fn what_a_read_may_see_before_the_first_resync() {
    for how in 0..4 {
        let (mut history, old, new) = made();
        history.honest(&Load::new(1, 1, 0, 8));
        let zeros = [0; SECTOR_BYTES];
        match how {
            // What was shown is discarded.
            0 => {
                history.returned(0, 1000, &[new]);
                for leg in 0..2 {
                    history.discard(leg, 1000, 1);
                }
                history.returned(1, 1000, &[zeros]);
            }
            // The leg that showed it has left.
            1 => {
                history.returned(0, 1000, &[new]);
                history.fail(0);
                history.returned(1, 1000, &[old]);
            }
            // The leg that showed it can no longer be read there.
            2 => {
                history.returned(0, 1000, &[new]);
                let read = history.arrive(0, Operation::Read, 1000, 1);
                history.complete_with(read, Status::IoErr, Content::NotTaken);
                history.returned(1, 1000, &[old]);
            }
            // A write overtakes the READ.
            _ => {
                let read = history.arrive(0, Operation::Read, 1000, 1);
                for leg in 0..2 {
                    history.write(leg, 1000, &[garbage(3)]);
                }
                let digests = std::iter::once(crc32fast::hash(&new)).collect();
                history.complete_with(read, Status::Ok, Content::Returned(digests));
                history.returned(1, 1000, &[garbage(3)]);
            }
        }
        kept(&finish(&mut history), Check::ReadSticky);
    }
}

#[test]
fn a_spare_is_not_active_before_its_own_superblock_says_so() {
    let mut history = History::with_spare();
    let loads = [Load::new(1, 1, 0, 64), Load::new(1, 2, 640, 8)];
    history.begin(&loads[0]);
    for leg in 0..2 {
        history.write(leg, 0, &loads[0].contents());
    }
    history.end(&loads[0]);
    history.crash(2);
    // Leg b stays away; what was dirty is clean as no other leg is there.
    history.fail(1);
    history.begin(&loads[1]);
    history.write(0, 640, &loads[1].contents());
    history.end(&loads[1]);
    history.superblocks(true);
    // The spare gets a slot; the superblock that says so reaches leg a first.
    history.roles.insert(2, 2);
    history.recovering = Some(2);
    history.superblocks(true);
    for load in &loads {
        history.copy(0, &[2], load.sector, &load.contents());
    }
    history.recovering = None;
    history.superblocks(true);
    kept(&finish(&mut history), Check::RecEq);
}

#[test]
fn a_write_mostly_leg_that_took_overlapping_writes_in_another_order() {
    let mut history = History::with_bitmap(2, Some(1));
    let loads = [Load::new(1, 1, 640, 8), Load::new(2, 1, 640, 8)];
    for load in &loads {
        history.begin(load);
    }
    for (leg, order) in [(0, [0, 1]), (1, [1, 0])] {
        for load in order {
            history.write(leg, 640, &loads[load].contents());
        }
    }
    for load in &loads {
        history.end(load);
    }
    history.returned(1, 640, &loads[0].contents());
    kept(&finish(&mut history), Check::NoStaleRead);
}
