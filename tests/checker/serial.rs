//! `serialize_policy`: overlapping writes that are in flight on a leg at once, and all that only looks like it.

use crate::history::{History, Load, data_offset};
use crate::told::{OK, array, finish, kept, only, silent, triggered};
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
    /// The same, and another write made it good before: what passes is a piece of the first one, written again.
    PieceAfterError,
    /// Passes, and before the policy is set once more the agent found it off.
    FoundOffAndOn,
    /// Passes one, after another one ended for which it may have waited.
    Woken,
    /// Passes in a boot after the one with the policy.
    NextBoot,
}

fn two_writes(second: Second, release: &str) -> Verdict {
    let mut history = array(2, release);
    if !matches!(second, Second::Off | Second::Before) {
        policy(&mut history, true);
    }
    if second == Second::NextBoot {
        history.crash(2);
        history.superblocks(false);
    }
    let one = Load::new(1, 2, 640, 8);
    if matches!(second, Second::AfterError | Second::PieceAfterError) {
        let failing = history.arrive(1, Operation::Write, 640, 8);
        history.fetch(failing, &one.contents());
        history.complete_with(failing, Status::IoErr, Content::NotTaken);
    }
    if second == Second::PieceAfterError {
        history.write(1, 640, &one.contents());
    }
    let at = if second == Second::Beside { 648 } else { 644 };
    let other = Load::new(2, 1, at, 8);
    history.begin(&one);
    history.begin(&other);
    let before = Load::new(3, 1, 648, 8);
    let woken = (second == Second::Woken).then(|| {
        history.begin(&before);
        history.write(0, 648, &before.contents());
        let request = history.arrive(1, Operation::Write, 648, 8);
        history.fetch(request, &before.contents());
        request
    });
    let first = history.arrive(1, Operation::Write, 640, 8);
    history.fetch(first, &one.contents());
    history.write(0, 640, &one.contents());
    history.write(0, at, &other.contents());
    if let Some(request) = woken {
        history.complete(request);
        history.end(&before);
    }
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
    if matches!(second, Second::FoundOff | Second::FoundOffAndOn) {
        let off = AdminPhase::End {
            ok: false,
            mismatches: None,
        };
        history.admin(AdminAction::Serialize, off, &[0, 1]);
    }
    if second == Second::FoundOffAndOn {
        policy(&mut history, true);
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
        let verdict = two_writes(passes, "6.12.118");
        let finding = only(&verdict, Check::SerialExcl, Wrongness::Early, &["b"]);
        assert_eq!(finding.confidence, Confidence::Proven);
        assert_eq!((finding.array[0].start, finding.array[0].count), (644, 4));
        assert_eq!(finding.leg_ranges[0].start, data_offset(1) + 644);
        // Both writes are in the story, though it is told much later.
        let on_b = |line: &&StoryLine| line.leg == "b" && line.what.contains("WRITE");
        let told = finding.story.iter().filter(on_b).count();
        assert!(told >= 2, "{:#?}", finding.story);
    }
    for second in [Second::Waits, Second::FoundOff, Second::FoundOffAndOn] {
        kept(&two_writes(second, "6.12.118"), Check::SerialExcl);
    }
    silent(&two_writes(Second::Beside, "6.12.118"));
    for second in [Second::Off, Second::Before, Second::NextBoot] {
        let verdict = two_writes(second, "6.12.118");
        silent(&verdict);
        assert_eq!(triggered(&verdict, Check::SerialExcl), 0, "{second:?}");
    }
    for second in [Second::AfterError, Second::PieceAfterError] {
        let verdict = two_writes(second, "6.12.118");
        let found = verdict.findings.iter();
        let all: Vec<Check> = found.map(|finding| finding.check).collect();
        assert!(!all.contains(&Check::SerialExcl), "{second:?}: {all:?}");
    }
}

#[test]
fn a_write_that_is_woken_passes_another_one_on_kernels_that_may() {
    for (release, confidence) in [
        ("6.12.118", Confidence::Proven),
        ("6.18.15", Confidence::Proven),
        ("7.3.4", Confidence::Suspect),
    ] {
        let verdict = two_writes(Second::Woken, release);
        let finding = only(&verdict, Check::SerialExcl, Wrongness::Early, &["b"]);
        assert_eq!(finding.confidence, confidence, "{release}");
        let noted = finding.notes.iter().any(|note| note.contains("K11"));
        assert_eq!(noted, confidence == Confidence::Suspect);
        // A write that nobody woke has no such excuse.
        let verdict = two_writes(Second::Passes, release);
        let finding = only(&verdict, Check::SerialExcl, Wrongness::Early, &["b"]);
        assert_eq!(finding.confidence, Confidence::Proven, "{release}");
    }
}
