//! md's reaction to faults, on stock kernels. By default a sample, each on one kernel or two; `LEGWATCH_FULL=1` runs all on all.
#![allow(
    clippy::wildcard_enum_match_arm,
    reason = "tests look for the events they are about"
)]

use std::fs::File;
use std::io::BufReader;

use super::harness::{Ran, full, run, scenario};
use legwatch::block::{LegId, Status};
use legwatch::event::{Action, Event, What};
use legwatch::journal::Reader;
use serde_json::Value;

const KERNELS: [&str; 3] = ["pinned:6.1", "pinned:6.12", "pinned:7.3.4"];

/// Runs a scenario on every kernel, or without the full matrix on `sample` alone, and looks at each run.
fn on(scenario: &str, sample: &[&str], look: impl Fn(&Ran)) {
    let kernels = if full() { &KERNELS[..] } else { sample };
    for kernel in kernels {
        let ran = run(scenario, kernel, &["--seed", "7"]);
        ran.check_agrees();
        look(&ran);
    }
}

fn fired(ran: &Ran, rule: &str) -> u64 {
    let report = ran.report();
    let all = report["coverage"]["faults"].as_array().unwrap().clone();
    let one = all.iter().find(|fault| fault["name"] == rule).unwrap();
    one["fired"].as_u64().unwrap()
}

fn clean(ran: &Ran) {
    ran.ended_with(0);
    assert_eq!(ran.findings(), Vec::<Value>::new(), "{}", ran.stdout);
}

#[test]
fn a_failed_write_is_on_record_and_the_array_goes_on() {
    on("fault-failed-write", &["pinned:6.12"], clean);
}

#[test]
fn what_both_legs_fail_the_guest_is_told() {
    on("fault-both-legs-fail", &["pinned:6.12"], |ran| {
        clean(ran);
        assert!(ran.report()["coverage"]["writes_failed"].as_u64().unwrap() > 0);
    });
}

#[test]
fn a_read_error_is_repaired_from_the_other_leg() {
    on("fault-read-repaired", &["pinned:6.12"], clean);
}

#[test]
fn a_lost_write_is_listed_as_injected() {
    on("fault-lost-write", &["pinned:6.1"], |ran| {
        clean(ran);
        assert!(fired(ran, "b loses writes") > 0);
    });
}

/// The same, where the scenario says that md had to notice.
#[test]
fn a_lost_write_is_a_finding_where_md_had_to_notice() {
    let ran = run(
        scenario("lost-write-noticed"),
        "pinned:6.12",
        &["--seed", "7"],
    );
    ran.ended_with(1).check_agrees();
    let finding = ran.finding("expect", "unmet", &["b"]);
    let headline = finding["headline"].as_str().unwrap();
    assert!(
        headline.contains("md did not notice what fault `b loses writes` did"),
        "{headline}"
    );
}

/// A twin is told by what is written, so a recovery and what one leg alone got shift nothing: the rule fires once, on a write that a has and b loses.
#[test]
fn a_write_that_the_other_leg_has_is_lost_once_after_a_recovery() {
    on("fault-twin-lost", &["pinned:6.12"], |ran| {
        clean(ran);
        assert_eq!(fired(ran, "b loses what a has"), 1);
        let fact = &ran.report()["coverage"]["facts"]["mismatch_cnt"];
        assert_eq!(fact, "128", "md's check counts 64 KiB at a time");
        let file = BufReader::new(File::open(ran.folder.join("journal")).unwrap());
        let mut reader = Reader::new(file).unwrap();
        let mut events: Vec<Event> = Vec::new();
        while let Some(event) = reader.next_event().unwrap() {
            events.push(event);
        }
        let lost = events.iter().find_map(|event| match &event.what {
            What::Decided(decided) if matches!(decided.action, Action::Lose { .. }) => {
                Some(decided.request)
            }
            _ => None,
        });
        let lost = lost.expect("the rule's decision");
        assert_eq!(lost.leg, LegId(1));
        let arrived = |request| {
            events.iter().find_map(|event| match &event.what {
                What::Arrived(one) if one.request == request => Some((event.no, &one.ranges)),
                _ => None,
            })
        };
        let fetched = |request| {
            events.iter().find_map(|event| match &event.what {
                What::Fetched(one) if one.request == request => Some(&one.digests),
                _ => None,
            })
        };
        let (came, ranges) = arrived(lost).unwrap();
        let content = fetched(lost).unwrap();
        // The same content to the same sectors (both legs' data begins at the same sector), answered by a before it came to b.
        let twins = events.iter().filter(|event| match &event.what {
            What::Completed(done) => {
                done.request.leg == LegId(0)
                    && done.status == Status::Ok
                    && event.no < came
                    && arrived(done.request).is_some_and(|(_, theirs)| theirs == ranges)
                    && fetched(done.request) == Some(content)
            }
            _ => false,
        });
        assert_eq!(twins.count(), 1);
    });
}

#[test]
fn silent_read_corruption_reaches_the_guest_and_md_has_no_means_to_notice() {
    on("fault-silent-read", &["pinned:7.3.4"], |ran| {
        ran.ended_with(0);
        let findings = ran.findings();
        assert_eq!(findings.len(), 1, "{}", ran.stdout);
        assert_eq!(findings[0]["cause"], "injected");
        let reason = findings[0]["reason"].as_str().unwrap();
        assert!(reason.contains("md has no means to notice"), "{reason}");
    });
}

#[test]
fn a_dead_leg_is_kicked() {
    if full() {
        on("fault-dead-leg", &[], clean);
    }
}

#[test]
fn a_leg_that_is_put_back_recovers() {
    on("fault-leg-readded", &["pinned:6.12"], clean);
}

#[test]
fn the_array_runs_ahead_of_a_held_write_mostly_leg() {
    on("fault-held-write-mostly", &["pinned:6.1"], |ran| {
        clean(ran);
        assert!(ran.report()["coverage"]["writes_behind"].as_u64().unwrap() > 0);
    });
}

#[test]
fn a_power_cut_in_mid_load_ends_in_identical_legs_and_durable_data() {
    on("fault-power-cut", &["pinned:6.12"], |ran| {
        clean(ran);
        let surveyed = ran.report()["coverage"]["sectors_surveyed"]
            .as_u64()
            .unwrap();
        assert!(surveyed > 1000, "{surveyed}");
    });
}

#[test]
fn cuts_in_resync_and_recovery_end_in_identical_legs_and_durable_data() {
    on("fault-cut-again", &["pinned:7.3.4"], |ran| {
        clean(ran);
        assert_eq!(ran.report()["coverage"]["boots"], 4);
    });
}

#[test]
fn a_disconnected_leg_is_only_slow() {
    on("fault-disconnected-leg", &["pinned:6.12"], |ran| {
        clean(ran);
        ran.compared_all(2, 2000);
        assert_eq!(fired(ran, "b's line drops"), 3);
    });
}

#[test]
fn an_unplugged_leg_is_failed_and_recovers_when_it_is_back() {
    on("fault-unplugged-leg", &["pinned:6.12"], clean);
}
