//! Arrays that are made larger, on legs that were larger all along and on legs that grow: what lies there is held to the same promises.

use crate::history::{History, Load, data_offset};
use crate::told::{finish, said, silent};
use legwatch::block::{LegId, Operation, RequestId};
use legwatch::event::{Action, Decided, What};
use legwatch::finding::{Check, Wrongness};
use legwatch::mark::{Mapping, Mark, Target};
use legwatch::oracle::Outcome;

fn is_of(history: &mut History, sectors: u64) {
    history.mark(Mark::Target(Target {
        target: 1,
        device: "/dev/md0".into(),
        sectors,
        mapping: Mapping::Identity,
    }));
}

/// A rule makes both legs larger.
fn grow(history: &mut History, sectors: u64) {
    for leg in 0..2 {
        let request = history.arrive_at(leg, Operation::Read, 0, 1);
        history.push(What::Decided(Decided {
            request,
            rule: 0,
            action: Action::Resize { sectors },
        }));
        history.complete(request);
    }
}

const GROWN: u64 = 32_768;
const SIZE: u64 = 20_480;

/// An array that was grown onto legs that had grown; `told`: the checker was told of it.
fn grown(told: bool) -> History {
    let mut history = History::new(2, None);
    history.honest(&Load::new(1, 2, 200, 8));
    if told {
        grow(&mut history, GROWN);
    }
    history.resized(SIZE, 256);
    is_of(&mut history, SIZE);
    history
}

#[test]
fn a_leg_that_grew_is_judged_behind_its_old_end() {
    let mut history = grown(true);
    history.honest(&Load::new(1, 3, 200, 8));
    history.honest(&Load::new(1, 4, SIZE - 8, 8));
    let verdict = finish(&mut history);
    silent(&verdict);
    assert_eq!(verdict.outcome, Outcome::Clean, "{:?}", verdict.reasons);
    assert_eq!(verdict.coverage.intents_unmapped, 0);

    let mut history = grown(true);
    let load = Load::new(1, 3, SIZE - 8, 8);
    history.begin(&load);
    history.write(0, SIZE - 8, &load.contents());
    history.end(&load);
    let finding = said(&finish(&mut history), Check::Stamp);
    assert_eq!(
        (finding.kind, finding.legs),
        (Wrongness::Absent, vec!["b".to_owned()])
    );
    assert_eq!(finding.leg_ranges[0].start, data_offset(1) + SIZE - 8);
}

/// What the legs can't hold is not believed, and no array is left to judge by: the run says so, whatever was compared before.
#[test]
fn an_array_that_is_no_longer_seen_makes_the_run_inconclusive() {
    let mut history = grown(false);
    history.header.expect.compared_percent = 0;
    history.honest(&Load::new(1, 3, 200, 8));
    let verdict = finish(&mut history);
    silent(&verdict);
    assert_eq!(verdict.outcome, Outcome::Inconclusive, "{verdict:#?}");
    let [reason] = &verdict.reasons[..] else {
        panic!("one reason: {:#?}", verdict.reasons);
    };
    assert!(
        reason.starts_with("2 requests of the workload went to an array that was checked before")
            && reason.contains("leg b: md 1.2 superblock at sector 8 makes no sense"),
        "{reason}"
    );
}

/// A journal that somebody made by hand may say anything.
#[test]
fn sizes_that_no_leg_has_are_survived() {
    let mut history = History::new(2, None);
    for leg in [7, 0] {
        history.push(What::Decided(Decided {
            request: RequestId {
                leg: LegId(leg),
                number: 1,
            },
            rule: 0,
            action: Action::Resize { sectors: u64::MAX },
        }));
    }
    silent(&finish(&mut history));
}
