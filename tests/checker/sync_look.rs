//! What sysfs says of resyncs and recoveries, beside what the legs show; and what lies below a checkpoint for a while.

use crate::history::{History, Load, data_offset, garbage};
use crate::promises_resync::crashed;
use crate::told::{degraded, finish, kept, only, silent};
use legwatch::block::{Operation, Status};
use legwatch::event::Content;
use legwatch::finding::{Check, Confidence, Finding, Wrongness};
use legwatch::mark::{Mark, SyncLook};

fn look(history: &mut History, action: &str, done: u64) {
    history.mark(Mark::Sync(SyncLook {
        action: action.into(),
        legs: vec!["a".into(), "b".into()],
        done,
        all: 8192,
    }));
}

/// When it is looked, and what happens beside.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Look {
    /// The number comes before the copy, after another look of the same pass.
    Early,
    /// After the copy.
    Right,
    /// Before it, and no look came before: it may be about another pass.
    First,
    /// Before it, and a superblock came between the two looks.
    Between,
    /// Before it, and the look before was of another pass.
    Other,
}

#[test]
fn a_recovery_that_sysfs_calls_done_before_the_copy() {
    for how in [
        Look::Early,
        Look::Right,
        Look::First,
        Look::Between,
        Look::Other,
    ] {
        let mut history = degraded();
        let load = Load::new(1, 2, 640, 8);
        history.honest(&load);
        history.recovery_to(1);
        history.copy(0, &[1], 0, &Load::new(1, 1, 0, 64).contents());
        match how {
            Look::Early | Look::Right | Look::Between => look(&mut history, "recover", 128),
            Look::Other => {
                look(&mut history, "recover", 128);
                look(&mut history, "idle", 0);
            }
            Look::First => {}
        }
        if how == Look::Between {
            history.superblocks(false);
        }
        if how == Look::Right {
            history.copy(0, &[1], 640, &load.contents());
        }
        look(&mut history, "recover", 2048);
        if how != Look::Right {
            history.copy(0, &[1], 640, &load.contents());
        }
        look(&mut history, "idle", 0);
        history.recovering = None;
        history.superblocks(false);
        let verdict = finish(&mut history);
        let passes = &verdict.coverage.sync_passes;
        if how == Look::Early {
            let finding = only(&verdict, Check::RecEq, Wrongness::Early, &["b"]);
            assert_eq!(finding.confidence, Confidence::Proven);
            assert_eq!((finding.array[0].start, finding.array[0].count), (640, 8));
            assert_eq!(passes[0].apart, 8);
        } else {
            kept(&verdict, Check::RecEq);
            assert!(passes.iter().all(|pass| pass.apart == 0), "{how:?}");
        }
        let last = passes.last().unwrap();
        assert_eq!((last.action.as_str(), last.done), ("recover", 2048));
        assert_eq!(last.boot, 1);
        if how == Look::Right {
            assert_eq!((passes.len(), last.looks, last.copied), (1, 2, 8));
        }
    }
}

#[test]
fn a_resync_that_sysfs_calls_done_before_the_copy() {
    for early in [true, false] {
        let (mut history, _, new) = crashed("6.1.192");
        look(&mut history, "resync", 0);
        if !early {
            history.copy(0, &[1], 1000, &[new]);
        }
        look(&mut history, "resync", 2048);
        if early {
            history.copy(0, &[1], 1000, &[new]);
        }
        look(&mut history, "idle", 0);
        let verdict = finish(&mut history);
        if early {
            only(&verdict, Check::ResyncEq, Wrongness::Early, &["b"]);
        } else {
            kept(&verdict, Check::ResyncEq);
        }
    }
}

/// A write whose other half the guest holds back while a checkpoint passes it; later the leg fails and is recovered once more.
#[test]
fn what_was_under_way_at_a_checkpoint_is_copied_by_a_later_recovery() {
    for (arrives, by_sysfs) in [(true, true), (true, false), (false, true), (false, false)] {
        let mut history = degraded();
        history.recovery_to(1);
        history.copy(0, &[1], 0, &Load::new(1, 1, 0, 64).contents());
        let late = [garbage(7)];
        history.write(0, 640, &late);
        if by_sysfs {
            look(&mut history, "recover", 128);
            look(&mut history, "recover", 2048);
        } else {
            history.recovered = 2048;
            history.superblocks(false);
            history.recovered = 0;
        }
        if arrives {
            history.write(1, 640, &late);
        }
        history.recovering = None;
        history.fail(1);
        history.recovery_to(1);
        history.copy(0, &[1], 0, &Load::new(1, 1, 0, 64).contents());
        history.copy(0, &[1], 640, &late);
        history.recovering = None;
        history.superblocks(false);
        silent(&finish(&mut history));
    }
}

/// A file system reads a page from leg a and writes it back to both, while something is copied: leg b's half looks like a copy.
#[test]
fn what_is_written_back_from_where_it_was_read_is_no_copy() {
    for both in [true, false] {
        let mut history = degraded();
        let old = [garbage(3)];
        history.write(0, 640, &old);
        history.recovery_to(1);
        history.copy(0, &[1], 640, &old);
        look(&mut history, "recover", 128);
        let gpa = 0x9000_0000;
        let read = history.arrive_from(0, Operation::Read, data_offset(0) + 640, 1, gpa);
        history.complete_with(read, Status::Ok, Content::NotTaken);
        let new = [garbage(4)];
        let put = |history: &mut History, leg: u8| {
            let at = data_offset(leg) + 640;
            let write = history.arrive_from(leg, Operation::Write, at, 1, gpa);
            history.fetch(write, &new);
            history.complete(write);
        };
        if both {
            put(&mut history, 0);
        } else {
            // A write of somebody else's that never reached leg b; then a copy brings it.
            history.write(0, 640, &new);
        }
        look(&mut history, "recover", 2048);
        history.honest_md = both;
        put(&mut history, 1);
        history.honest_md = true;
        history.recovering = None;
        history.superblocks(false);
        let verdict = finish(&mut history);
        if both {
            silent(&verdict);
        } else {
            let told = |finding: &Finding| {
                (finding.check, finding.kind) == (Check::RecEq, Wrongness::Early)
            };
            assert!(verdict.findings.iter().any(told));
        }
    }
}
