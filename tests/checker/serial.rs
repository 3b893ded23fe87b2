//! `serialize_policy`: overlapping writes that are in flight on a leg at once, and all that only looks like it.

use crate::history::{History, Load, data_offset};
use crate::told::{OK, finish, kept, only, silent, triggered};
use legwatch::block::{Operation, Status};
use legwatch::event::Content;
use legwatch::finding::{Check, Confidence, StoryLine, Wrongness};
use legwatch::mark::{AdminAction, AdminPhase};
use legwatch::oracle::Verdict;

fn policy(history: &mut History, on: bool) {
    let action = if on {
        AdminAction::Serialize
    } else {
        AdminAction::Unserialize
    };
    history.admin(action, AdminPhase::Begin, &[0, 1]);
    history.admin(action, OK, &[0, 1]);
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Second {
    /// Arrives on leg b while the first one is in flight there.
    Passes,
    /// The same, and then the policy is turned off.
    PassesThenOff,
    /// Waits.
    Waits,
    /// Passes, and the policy was off.
    Off,
    /// Passes, and the policy came while the first one was in flight.
    Before,
    /// Passes, and then the agent finds the policy off.
    FoundOff,
    /// Passes a write of its neighbours.
    Beside,
    /// Passes, after an error there that nothing made good.
    AfterError,
    /// Passes in a boot after the one with the policy.
    NextBoot,
}

fn two_writes(second: Second) -> Verdict {
    let mut history = History::with_bitmap(2, None);
    history.honest(&Load::new(1, 1, 0, 64));
    if !matches!(second, Second::Off | Second::Before) {
        policy(&mut history, true);
    }
    if second == Second::NextBoot {
        history.crash(2);
        history.superblocks(false);
    }
    let one = Load::new(1, 2, 640, 8);
    if second == Second::AfterError {
        let failing = history.arrive(1, Operation::Write, 640, 8);
        history.fetch(failing, &one.contents());
        history.complete_with(failing, Status::IoErr, Content::NotTaken);
    }
    let at = if second == Second::Beside { 648 } else { 644 };
    let other = Load::new(2, 1, at, 8);
    history.begin(&one);
    history.begin(&other);
    history.write(0, 640, &one.contents());
    history.write(0, at, &other.contents());
    let first = history.arrive(1, Operation::Write, 640, 8);
    history.fetch(first, &one.contents());
    if second == Second::Before {
        policy(&mut history, true);
    }
    if second == Second::Waits {
        history.complete(first);
        history.write(1, at, &other.contents());
    } else {
        history.write(1, at, &other.contents());
        history.complete(first);
    }
    history.end(&one);
    history.end(&other);
    if second == Second::FoundOff {
        let off = AdminPhase::End {
            ok: false,
            mismatches: None,
        };
        history.admin(AdminAction::Serialize, off, &[0, 1]);
    }
    if second == Second::PassesThenOff {
        policy(&mut history, false);
    }
    history.superblocks(true);
    finish(&mut history)
}

#[test]
fn a_write_that_does_not_wait_for_one_that_overlaps_it() {
    for passes in [Second::Passes, Second::PassesThenOff] {
        let verdict = two_writes(passes);
        let finding = only(&verdict, Check::SerialExcl, Wrongness::Early, &["b"]);
        assert_eq!(finding.confidence, Confidence::Proven);
        assert_eq!((finding.array[0].start, finding.array[0].count), (644, 4));
        assert_eq!(finding.leg_ranges[0].start, data_offset(1) + 644);
        // Both writes are in the story, though it is told much later.
        let on_b = |line: &&StoryLine| line.leg == "b" && line.what.contains("WRITE");
        let told = finding.story.iter().filter(on_b).count();
        assert!(told >= 2, "{:#?}", finding.story);
    }
    for second in [
        Second::Waits,
        Second::Beside,
        Second::Before,
        Second::FoundOff,
    ] {
        kept(&two_writes(second), Check::SerialExcl);
    }
    for second in [Second::Off, Second::NextBoot] {
        let verdict = two_writes(second);
        silent(&verdict);
        assert_eq!(triggered(&verdict, Check::SerialExcl), 0, "{second:?}");
    }
    let verdict = two_writes(Second::AfterError);
    let found = verdict.findings.iter();
    let all: Vec<Check> = found.map(|finding| finding.check).collect();
    assert!(!all.contains(&Check::SerialExcl), "{all:?}");
}
