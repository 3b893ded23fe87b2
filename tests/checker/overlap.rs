//! Overlapping writes: a leg may hold any one of them, but has to be given them all.

use crate::history::{History, Load};
use crate::told::{array, said, silent};
use legwatch::block::{Operation, Status};
use legwatch::event::Content;
use legwatch::finding::{Check, Wrongness};
use legwatch::oracle::Verdict;

const SHORT: u64 = 644;

/// Two writers, of whom the second one's write covers the first one's; both are acknowledged at the end. `leg_b` makes leg b's requests.
fn overlapping(leg_b: impl Fn(&mut History, &Load, &Load)) -> Verdict {
    let mut history = array(2, "6.1.192");
    let (short, long) = (Load::new(1, 2, SHORT, 4), Load::new(2, 1, 640, 16));
    history.begin(&short);
    history.begin(&long);
    history.write(0, SHORT, &short.contents());
    history.write(0, 640, &long.contents());
    leg_b(&mut history, &short, &long);
    history.end(&short);
    history.end(&long);
    history.quiet();
    history.power_off();
    history.verdict()
}

#[test]
fn each_leg_is_given_each_write() {
    let verdict = overlapping(|history, _, long| {
        history.write(1, 640, &long.contents());
    });
    let finding = said(&verdict, Check::AllLegs);
    assert_eq!(finding.kind, Wrongness::Absent);
    assert_eq!((finding.legs, finding.sectors), (vec!["b".to_owned()], 4));
}

#[test]
fn in_whatever_order() {
    silent(&overlapping(|history, short, long| {
        history.write(1, 640, &long.contents());
        for _ in 0..4 {
            history.write(1, SHORT, &short.contents());
            history.write(1, 640, &long.contents());
        }
    }));
}

/// More was written since than is remembered: whether this one was among it can't be told.
#[test]
fn unless_too_much_came_since() {
    silent(&overlapping(|history, _, long| {
        for _ in 0..4 {
            history.write(1, 640, &long.contents());
        }
    }));
}

/// A leg that answered an error was given it; what md makes of the error is err-record's.
#[test]
fn but_for_errors() {
    let verdict = overlapping(|history, short, long| {
        let request = history.arrive(1, Operation::Write, SHORT, 4);
        history.fetch(request, &short.contents());
        history.complete_with(request, Status::IoErr, Content::NotTaken);
        history.write(1, 640, &long.contents());
    });
    let told = |check| verdict.findings.iter().any(|one| one.check == check);
    assert!(!told(Check::AllLegs), "{:#?}", verdict.findings);
}

/// A leg that is recovered meanwhile has the short write's sectors from a copy that came after the long one.
#[test]
fn but_for_a_leg_that_joins() {
    let mut history = array(2, "6.1.192");
    history.fail(1);
    history.recovery_to(1);
    let (short, long) = (Load::new(1, 2, SHORT, 4), Load::new(2, 1, 640, 16));
    history.begin(&short);
    history.begin(&long);
    history.write(0, SHORT, &short.contents());
    history.write(0, 640, &long.contents());
    history.copy(0, &[1], 640, &long.contents());
    history.recovering = None;
    history.superblocks(false);
    history.end(&short);
    history.end(&long);
    history.quiet();
    history.power_off();
    let verdict = history.verdict();
    let told = |check| verdict.findings.iter().any(|one| one.check == check);
    assert!(!told(Check::AllLegs), "{:#?}", verdict.findings);
}
