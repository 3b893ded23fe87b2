//! What the checker tells while a run goes on: the first proven finding at once, what differs now, and what does not decide left out.

use crate::history::{History, Load, garbage};
use crate::told;
use legwatch::event::{Action, Decided, What};
use legwatch::finding::Check;
use legwatch::header::RuleHead;
use legwatch::oracle::Checker;

/// A checker that has seen `history` up to `events`.
fn after(history: &History, events: usize) -> Checker {
    let mut checker = Checker::new(&history.header);
    for event in &history.events[..events] {
        checker.apply(event);
    }
    checker
}

#[test]
fn what_differs_now_is_counted_and_is_over_when_the_other_leg_has_it() {
    let mut history = History::with_bitmap(2, None);
    history.honest(&Load::new(1, 1, 64, 8));
    let load = Load::new(1, 2, 200, 16);
    history.begin(&load);
    history.write(0, 200, &load.contents());
    let between = history.events.len();
    history.write(1, 200, &load.contents());
    history.end(&load);
    let equal = history.events.len();
    let so_far = after(&history, between).so_far();
    assert_eq!((so_far.unequal, so_far.unequal_more), (16, false));
    let so_far = after(&history, equal).so_far();
    assert_eq!((so_far.unequal, so_far.proven, so_far.suspect), (0, 0, 0));
}

/// A write that leg b never gets, told as acknowledged.
fn lost_on_b() -> History {
    let mut history = History::with_bitmap(2, None);
    for at in 0..4 {
        history.honest(&Load::new(1, at + 1, 8 * at, 8));
    }
    let lost = Load::new(1, 9, 200, 8);
    history.begin(&lost);
    history.write(0, 200, &lost.contents());
    history.end(&lost);
    history
}

#[test]
fn the_first_finding_is_told_with_the_event_that_proves_it() {
    let mut history = lost_on_b();
    let proven = history.events.len();
    // Whether leg b had failed is not known until it is sent something newer.
    let checker = after(&history, proven);
    assert!(checker.has_proven());
    assert_eq!((checker.so_far().proven, checker.first_proven()), (0, None));
    history.honest(&Load::new(1, 10, 400, 8));
    let checker = after(&history, history.events.len());
    assert_eq!(checker.so_far().proven, 1);
    assert_eq!(
        checker.first_proven().unwrap(),
        format!(
            "absent on leg b, array 200+8 (stamp), proven by {}",
            history.events[proven - 1].no
        )
    );
}

#[test]
fn a_leg_that_got_a_read_in_place_of_the_write_is_told_at_once() {
    let mut history = History::with_bitmap(2, None);
    history.honest(&Load::new(1, 1, 0, 8));
    let lost = Load::new(1, 2, 200, 8);
    history.begin(&lost);
    history.write(0, 200, &lost.contents());
    history.read(1, 200, 8);
    history.end(&lost);
    let told = after(&history, history.events.len()).first_proven();
    assert!(told.unwrap().starts_with("absent on leg b, array 200+8"));
}

#[test]
fn what_all_legs_lack_is_told_at_once() {
    let mut history = History::with_bitmap(2, None);
    history.honest(&Load::new(1, 1, 0, 8));
    let lost = Load::new(1, 2, 200, 8);
    history.begin(&lost);
    assert!(!after(&history, history.events.len()).has_proven());
    history.end(&lost);
    let told = after(&history, history.events.len()).first_proven();
    assert!(told.unwrap().starts_with("absent on leg a, array 200+8"));
}

#[test]
fn what_a_quiet_point_shows_is_told_at_once_and_stays_when_the_leg_fails_later() {
    let mut history = History::with_bitmap(2, None);
    history.honest(&Load::new(1, 1, 200, 8));
    history.write(1, 200, &[garbage(3); 8]);
    history.quiet();
    let told = after(&history, history.events.len()).first_proven();
    assert!(told.unwrap().starts_with("garbage on leg b, array 200+8"));
    history.fail(1);
    history.quiet();
    history.power_off();
    let verdict = history.verdict();
    let finding = told::one(&verdict);
    assert_eq!(
        (finding.check, &finding.legs[..]),
        (Check::Stamp, &["b".to_owned()][..])
    );
}

#[test]
fn what_a_failed_leg_was_not_given_is_never_told() {
    let mut history = lost_on_b();
    let lost = history.events.len();
    history.failed = Some(1);
    history.bitmap_page(0, history.bits);
    history.superblocks(false);
    history.honest(&Load::new(1, 10, 400, 8));
    history.superblocks(true);
    for events in lost..=history.events.len() {
        assert_eq!(after(&history, events).first_proven(), None, "{events}");
    }
    assert!(!after(&history, history.events.len()).has_proven());
}

#[test]
fn a_known_deviation_is_not_told_unless_it_decides() {
    let history = crate::promises::history_behind("6.12.117", 2, &[1], &[]);
    let checker = after(&history, history.events.len());
    assert_eq!((checker.first_proven(), checker.so_far().proven), (None, 0));
    let mut history = history;
    history.header.options = serde_json::json!({ "no_known": true });
    let checker = after(&history, history.events.len());
    assert_eq!(checker.so_far().proven, 1);
    assert!(checker.first_proven().unwrap().contains("(bit-clear-eq)"));
}

#[test]
fn what_a_rule_did_is_counted_as_a_fault_and_is_no_finding() {
    let mut history = History::with_bitmap(2, None);
    history.header.rules.push(RuleHead {
        name: "lies".into(),
        may_not_fire: false,
    });
    let load = Load::new(1, 1, 200, 8);
    history.honest(&load);
    // A read is answered falsely, and md copies the answer to the other leg.
    let read = history.arrive(0, legwatch::block::Operation::Read, 200, 8);
    history.push(What::Decided(Decided {
        request: read,
        rule: 0,
        action: Action::CorruptAnswer,
    }));
    let wrong = [garbage(3); 8];
    let digests = wrong.iter().map(|block| crc32fast::hash(block)).collect();
    history.complete_with(
        read,
        legwatch::block::Status::Ok,
        legwatch::event::Content::Returned(digests),
    );
    history.write(1, 200, &wrong);
    history.quiet();
    let checker = after(&history, history.events.len());
    let so_far = checker.so_far();
    assert_eq!((so_far.faults, so_far.proven), (1, 0));
    assert_eq!(checker.first_proven(), None);
}
