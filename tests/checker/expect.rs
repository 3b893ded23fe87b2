//! What `[expect]` says of a run's end: met, unmet (a finding), and not exercised (inconclusive).

use crate::history::{History, Load, data_offset};
use legwatch::block::{Operation, Sector, SectorRange};
use legwatch::event::{Action, Decided, GuestEnd, What};
use legwatch::finding::Check;
use legwatch::header::{Expect, LegState, RuleHead, demand};
use legwatch::mark::{IntentKind, Mark};
use legwatch::oracle::{Outcome, Verdict};

fn run(expect: Expect, middle: impl Fn(&mut History)) -> Verdict {
    let mut history = History::new(2, None);
    history.header.expect = Expect {
        compared_percent: 0,
        ..expect
    };
    history.header.rules.push(RuleHead {
        name: "liar".into(),
        may_not_fire: true,
    });
    history.honest(&Load::new(1, 1, 200, 4));
    middle(&mut history);
    history.quiet();
    history.power_off();
    history.verdict()
}

fn unmet(verdict: &Verdict) -> Vec<&str> {
    let all = verdict
        .findings
        .iter()
        .filter(|finding| finding.check == Check::Expect);
    all.map(|finding| finding.headline.as_str()).collect()
}

fn legs(name: &str, state: LegState) -> Expect {
    Expect {
        legs: [(name.to_owned(), state)].into(),
        ..Expect::default()
    }
}

#[test]
fn a_legs_state_is_what_md_wrote() {
    let nothing = |_: &mut History| {};
    assert_eq!(
        run(legs("b", LegState::Active), nothing).outcome,
        Outcome::Clean
    );
    let verdict = run(legs("b", LegState::Faulty), nothing);
    assert_eq!(verdict.outcome, Outcome::Findings);
    assert_eq!(
        unmet(&verdict),
        ["leg b was to be faulty at the end, and is active"]
    );
    let fails = |history: &mut History| {
        history.fail(1);
    };
    for state in [LegState::Faulty, LegState::Out] {
        let verdict = run(legs("b", state), fails);
        assert!(unmet(&verdict).is_empty(), "{:#?}", unmet(&verdict));
    }
    assert_eq!(unmet(&run(legs("b", LegState::Active), fails)).len(), 1);
}

/// Leg b loses a write.
fn loses(history: &mut History) {
    let load = Load::new(1, 2, 200, 4);
    history.begin(&load);
    history.write(0, 200, &load.contents());
    let request = history.arrive(1, Operation::Write, 200, 4);
    let sectors = vec![SectorRange::new(Sector(data_offset(1) + 200), 4).unwrap()];
    let action = Action::Lose { sectors };
    history.push(What::Decided(Decided {
        request,
        rule: 0,
        action,
    }));
    history.fetch(request, &load.contents());
    history.complete(request);
    history.end(&load);
}

#[test]
fn a_lie_is_a_finding_only_where_md_had_to_notice_it() {
    assert_eq!(run(Expect::default(), loses).outcome, Outcome::Clean);
    let noticed = || Expect {
        noticed: vec!["liar".into()],
        ..Expect::default()
    };
    let verdict = run(noticed(), loses);
    assert_eq!(verdict.outcome, Outcome::Findings);
    assert_eq!(
        unmet(&verdict),
        ["md did not notice what fault `liar` did to leg b"]
    );
    // With the request that the rule hit, and what the other leg got.
    let finding = &verdict.findings[0];
    let first = finding.first_wrong.as_ref().unwrap();
    assert!(
        first.what.contains(" on leg b (#") && first.what.ends_with("; fault `liar` hit it"),
        "{first:?}"
    );
    assert_eq!((finding.array[0].start, finding.array[0].count), (200, 4));
    assert_eq!(finding.leg_ranges[0].start, data_offset(1) + 200);
    for words in ["writer 1 #2 begins", "loses ", "acknowledged"] {
        let told = finding.story.iter().any(|line| line.what.contains(words));
        assert!(told, "{words}: {:#?}", finding.story);
    }
    assert!(finding.story.iter().any(|line| line.leg == "a"));
    let repaired = |history: &mut History| {
        loses(history);
        let load = Load::new(1, 2, 200, 4);
        history.write(1, 200, &load.contents());
    };
    let verdict = run(noticed(), repaired);
    assert!(unmet(&verdict).is_empty(), "{:#?}", unmet(&verdict));
}

#[test]
fn errors_of_the_guest_are_demanded_or_forbidden() {
    let errors = |wanted| Expect {
        guest_errors: Some(wanted),
        ..Expect::default()
    };
    let fails = |history: &mut History| {
        let load = Load::new(1, 2, 400, 1);
        history.begin(&load);
        history.end_with(&load, 5);
    };
    let nothing = |_: &mut History| {};
    assert!(unmet(&run(errors(true), fails)).is_empty());
    assert_eq!(
        unmet(&run(errors(true), nothing)),
        ["the guest was to get an error, and got none"]
    );
    assert!(unmet(&run(errors(false), nothing)).is_empty());
    assert_eq!(
        unmet(&run(errors(false), fails)),
        ["the guest was to get no error"]
    );
}

#[test]
fn facts_are_compared_and_must_be_told() {
    let wants = |value: &str| Expect {
        facts: [("mismatch_cnt".to_owned(), value.to_owned())].into(),
        ..Expect::default()
    };
    let tells = |history: &mut History| {
        let (name, value) = ("mismatch_cnt".into(), "128".into());
        history.mark(Mark::Fact { name, value });
    };
    for value in ["128", ">0", ">=128", "<129", "<=128", "!=0"] {
        assert!(unmet(&run(wants(value), tells)).is_empty(), "{value}");
    }
    let verdict = run(wants("0"), tells);
    assert_eq!(unmet(&verdict), ["mismatch_cnt is 128, and 0 is demanded"]);
    let verdict = run(wants("0"), |_| {});
    assert_eq!(verdict.outcome, Outcome::Inconclusive);
    assert!(verdict.reasons[0].contains("never told the fact mismatch_cnt"));
    assert!(!demand(">1", "many") && !demand("<x", "1"));
}

#[test]
fn what_was_not_exercised_is_inconclusive() {
    let resync = run(
        Expect {
            resync: Some(true),
            ..Expect::default()
        },
        |_| {},
    );
    assert_eq!(resync.outcome, Outcome::Inconclusive);
    assert!(
        resync.reasons[0].contains("no resync or recovery"),
        "{:?}",
        resync.reasons
    );
    let bad = run(
        Expect {
            min_bad_reads: 1,
            ..Expect::default()
        },
        |_| {},
    );
    assert!(
        bad.reasons[0].contains("0 sectors were read back wrong"),
        "{:?}",
        bad.reasons
    );
}

/// A run that does nothing of it is inconclusive and says so; one that does is clean.
fn demands(expect: &Expect, does: impl Fn(&mut History), words: &str) {
    let verdict = run(expect.clone(), |_| {});
    assert_eq!(verdict.outcome, Outcome::Inconclusive);
    assert_eq!(verdict.reasons[0], words);
    let verdict = run(expect.clone(), does);
    assert_eq!(
        verdict.outcome,
        Outcome::Clean,
        "{:?} {:#?}",
        verdict.reasons,
        verdict.findings
    );
}

/// Two writes are on their way to both legs at once, the second one to these sectors.
fn two_at_once(history: &mut History, sector: u64) {
    let (first, second) = (Load::new(1, 2, 200, 4), Load::new(2, 1, sector, 4));
    history.begin(&first);
    history.begin(&second);
    let mut sent = Vec::new();
    for leg in 0..2 {
        for load in [&first, &second] {
            let request = history.arrive(leg, Operation::Write, load.sector, 4);
            sent.push((request, load.contents()));
        }
    }
    for (request, contents) in &sent {
        history.fetch(*request, contents);
        history.complete(*request);
    }
    history.end(&first);
    history.end(&second);
}

#[test]
fn writes_over_each_other_are_demanded_on_each_leg() {
    let expect = Expect {
        min_overlaps: 1,
        ..Expect::default()
    };
    let none = "leg a got 0 writes over others in flight; 1 are demanded";
    demands(&expect, |history| two_at_once(history, 202), none);
    // Neighbours are not over each other, and one after the other is not at once.
    let verdict = run(expect.clone(), |history| {
        two_at_once(history, 204);
        history.honest(&Load::new(1, 3, 200, 8));
        history.honest(&Load::new(1, 4, 200, 8));
    });
    assert_eq!(verdict.reasons[0], none);
    let overlaps: Vec<u64> = verdict
        .coverage
        .legs
        .iter()
        .map(|leg| leg.overlaps)
        .collect();
    assert_eq!(overlaps, [0, 0]);
}

#[test]
fn requests_in_flight_are_demanded_on_each_leg() {
    demands(
        &Expect {
            min_in_flight: 2,
            ..Expect::default()
        },
        |history| two_at_once(history, 400),
        "leg a had 1 requests in flight at most; 2 are demanded",
    );
}

#[test]
fn refused_writes_are_demanded() {
    let tells = |history: &mut History| {
        history.mark(Mark::WorkloadEnd {
            step: 0,
            acked: 9,
            failed: 0,
            refused: 3,
            note: String::new(),
        });
    };
    demands(
        &Expect {
            min_refused: 3,
            ..Expect::default()
        },
        tells,
        "0 writes were refused with NOWAIT; 3 are demanded",
    );
}

#[test]
fn discards_are_demanded_of_the_legs_that_take_them() {
    let verdict = |takes: bool| {
        let mut history = History::new(2, None);
        history.header.legs[1].config.discard = takes;
        history.header.expect = Expect {
            compared_percent: 0,
            min_discards: 1,
            ..Expect::default()
        };
        history.honest(&Load::new(1, 1, 200, 4));
        let load = Load::new(1, 2, 400, 8).kind(IntentKind::Discard);
        history.begin(&load);
        history.discard(0, 400, 8);
        history.end(&load);
        history.quiet();
        history.power_off();
        history.verdict()
    };
    let all = verdict(true);
    let why = "leg b completed 0 discards; 1 are demanded";
    assert!(
        all.reasons.iter().any(|one| one == why),
        "{:?}",
        all.reasons
    );
    let one = verdict(false);
    assert!(one.reasons.is_empty(), "{:?}", one.reasons);
}

#[test]
fn a_hang_is_inconclusive_and_names_the_rule_or_is_what_was_wanted() {
    let hang = |wanted: bool| {
        let mut history = History::new(2, None);
        history.header.expect = Expect {
            compared_percent: 0,
            hang: wanted,
            ..Expect::default()
        };
        history.header.rules.push(RuleHead {
            name: "never".into(),
            may_not_fire: false,
        });
        history.honest(&Load::new(1, 1, 200, 4));
        let request = history.arrive(1, Operation::Read, 200, 1);
        let action = Action::NeverAnswer;
        history.push(What::Decided(Decided {
            request,
            rule: 0,
            action,
        }));
        history.abandon(request, false);
        history.push(What::GuestEnded {
            boot: 1,
            how: GuestEnd::Hung {
                why: "silence".into(),
            },
        });
        history.verdict()
    };
    let verdict = hang(false);
    assert_eq!(verdict.outcome, Outcome::Inconclusive);
    let told = verdict
        .reasons
        .iter()
        .any(|why| why.contains("silence; fault `never` held 1 requests"));
    assert!(told, "{:?}", verdict.reasons);
    let verdict = hang(true);
    assert_eq!(verdict.outcome, Outcome::Clean, "{:?}", verdict.reasons);
    let expect = Expect {
        hang: true,
        ..Expect::default()
    };
    assert_eq!(
        unmet(&run(expect, |_| {})),
        ["the guest was to hang, and did not"]
    );
}
