//! What comes of a run: which verdict, for which reasons, and what of the guest's own checks becomes a finding.

use crate::history::{History, Load, garbage};
use crate::planted::{around, finish, only};
use crate::told;
use legwatch::block::Operation;
use legwatch::event::What;
use legwatch::finding::{Check, Finding, Wrongness};
use legwatch::mark::Mark;
use legwatch::oracle::{Outcome, Verdict};

#[test]
fn a_test_that_tested_nothing_has_not_passed() {
    let mut history = History::new(2, None);
    history.power_off();
    let verdict = history.verdict();
    assert_eq!(verdict.outcome, Outcome::Inconclusive);
    assert_eq!(verdict.exit_code(), 125);
}

#[test]
fn expectations_that_are_not_met_make_it_inconclusive() {
    let mut history = History::new(2, None);
    history.header.expect.write_behind = Some(true);
    around(&mut history);
    let verdict = finish(&mut history);
    assert_eq!(verdict.outcome, Outcome::Inconclusive);
    assert!(
        verdict.reasons[0].contains("write-behind"),
        "{:?}",
        verdict.reasons
    );
}

#[test]
fn a_read_back_that_the_legs_do_not_explain() {
    let mut history = History::new(2, None);
    around(&mut history);
    history.mark(Mark::BadRead {
        target: 1,
        sector: legwatch::block::Sector(10),
        head: "00".into(),
        digest: 5,
    });
    let verdict = finish(&mut history);
    let finding = only(&verdict, Check::Stamp, Wrongness::ReadBack, &[], 10, 1);
    assert_eq!(finding.detail, "no leg held what was read");
    let first = finding.first_wrong.unwrap();
    assert!(
        first
            .what
            .starts_with("the guest read array sector 10 back (#"),
        "{first:?}"
    );
}

/// The request that returned it is named, and which leg held it when the guest said so, whatever became of it later.
#[test]
fn what_was_read_back_wrong_is_told_with_the_leg_that_returned_it() {
    let mut history = History::new(2, None);
    around(&mut history);
    let stale = garbage(9);
    history.write(1, 3000, &[stale]);
    history.read(1, 3000, 1);
    let said = history.mark(Mark::BadRead {
        target: 1,
        sector: legwatch::block::Sector(3000),
        head: "00".into(),
        digest: crc32fast::hash(&stale),
    });
    history.write(1, 3000, &[[0; 512]]);
    let verdict = finish(&mut history);
    let finding = only(&verdict, Check::Stamp, Wrongness::ReadBack, &[], 3000, 1);
    assert_eq!(finding.detail, "leg b held what was read");
    let first = finding.first_wrong.clone().unwrap();
    assert!(
        first.what.contains(" on leg b (#") && first.what.contains(": READ "),
        "{first:?}"
    );
    assert!(first.what.ends_with(&format!(
        "array sector 3000 back ({said}) and got what begins with 00"
    )));
    assert!(
        finding.story.iter().any(|line| line.event == first.event),
        "{finding:#?}"
    );
}

#[test]
fn a_run_that_was_cut_off_is_inconclusive_and_keeps_its_findings() {
    let mut history = History::new(2, None);
    around(&mut history);
    let verdict = history.verdict();
    assert_eq!(verdict.outcome, Outcome::Inconclusive);
    let load = Load::new(1, 5, 200, 8);
    history.begin(&load);
    history.write(0, 200, &load.contents());
    history.end(&load);
    assert_eq!(history.verdict().outcome, Outcome::Findings);
}

#[test]
fn a_quiet_point_counts_before_its_clean_superblock_is_written() {
    let mut history = History::new(2, Some(1));
    history.superblocks(false);
    let load = Load::new(1, 5, 200, 8);
    history.begin(&load);
    history.write(0, 200, &load.contents());
    history.end(&load);
    history.quiet();
    let verdict = history.verdict();
    assert_eq!(verdict.findings.len(), 1, "{verdict:#?}");
    assert_eq!(verdict.findings[0].legs, ["b"]);
}

#[test]
fn what_was_in_flight_at_a_crash_may_differ_until_the_resync_passed() {
    let mut history = History::new(2, None);
    around(&mut history);
    history.superblocks(false);
    let load = Load::new(1, 5, 200, 8);
    history.begin(&load);
    history.write(0, 200, &load.contents());
    let request = history.arrive(1, Operation::Write, 200, 8);
    history.fetch(request, &load.contents());
    history.abandon(request, false);
    history.write(0, 600, &[garbage(1)]);
    history.crash(2);
    // A quiet point of a boot in which the array does not run says nothing.
    history.quiet();
    history.superblocks(false);
    // The resync.
    history.read(0, 200, 8);
    history.write(1, 200, &load.contents());
    history.read(0, 600, 1);
    history.write(1, 600, &[garbage(1)]);
    history.superblocks(true);
    history.quiet();
    history.power_off();
    let verdict = history.verdict();
    assert!(verdict.findings.is_empty(), "{verdict:#?}");
    assert_eq!(verdict.coverage.sectors_open, 8);
    assert_eq!(verdict.outcome, Outcome::Clean, "{:?}", verdict.reasons);
}

#[test]
fn a_resync_that_forgot_a_sector_is_found() {
    let mut history = History::new(2, None);
    around(&mut history);
    history.superblocks(false);
    history.write(0, 600, &[garbage(1)]);
    history.crash(2);
    history.superblocks(true);
    let verdict = finish(&mut history);
    only(&verdict, Check::ResyncEq, Wrongness::Absent, &["b"], 600, 1);
}

#[test]
fn a_discard_of_the_whole_array_costs_little() {
    let mut history = History::new(2, None);
    for leg in 0..2 {
        history.discard(leg, 0, crate::history::ARRAY_SECTORS);
    }
    around(&mut history);
    let verdict = finish(&mut history);
    assert_eq!(verdict.outcome, Outcome::Clean, "{verdict:#?}");
    assert_eq!(
        verdict.coverage.twins_compared,
        crate::history::ARRAY_SECTORS
    );
}

#[test]
fn an_array_without_superblocks_is_watched_where_the_user_says_so() {
    let mut history = History::bare(2);
    for leg in &mut history.header.legs {
        leg.config.data = legwatch::block::SectorRange::new(legwatch::block::Sector(2048), 4096);
    }
    for at in 0..2u64 {
        for leg in 0..2u8 {
            let request = history.arrive_at(leg, Operation::Write, 2048 + 8 * at, 1);
            history.fetch(request, &[garbage(1)]);
            history.complete(request);
        }
    }
    let whole = history.events.clone();
    history.push(legwatch::event::What::End);
    let verdict = history.verdict();
    assert_eq!(verdict.outcome, Outcome::Clean, "{verdict:#?}");
    assert!(verdict.notes[0].contains("no agent spoke"));
    history.events = whole;
    history.events.truncate(9);
    history.push(legwatch::event::What::End);
    let verdict = history.verdict();
    only(&verdict, Check::AllLegs, Wrongness::Absent, &["b"], 8, 1);
}

#[test]
fn a_failed_setup_could_not_be_tested_and_a_failed_check_is_a_finding() {
    use legwatch::header::StepHead;
    use legwatch::plan::StepKind;
    for kind in [StepKind::Setup, StepKind::Check] {
        let mut history = History::new(2, None);
        history.header.steps = vec![vec![StepHead {
            kind,
            name: "create".into(),
        }]];
        around(&mut history);
        history.push(What::Console {
            line: "what it said".into(),
        });
        history.mark(Mark::StepEnd {
            step: 0,
            ok: false,
            detail: "exit code 2".into(),
        });
        let verdict = finish(&mut history);
        match kind {
            StepKind::Check => {
                let finding = only_step(&verdict);
                assert_eq!(finding.detail, "exit code 2");
                let said = |line: &legwatch::finding::StoryLine| line.what == "what it said";
                assert!(finding.story.iter().any(said), "{finding:#?}");
            }
            StepKind::Setup | StepKind::Workload => {
                assert_eq!(verdict.outcome, Outcome::Inconclusive);
                assert_eq!(
                    verdict.reasons[0],
                    "could not be tested: set-up `create` failed: exit code 2"
                );
            }
        }
    }
}

fn only_step(verdict: &Verdict) -> Finding {
    let finding = told::one(verdict);
    assert_eq!(
        (finding.check, finding.kind),
        (Check::CheckStep, Wrongness::Step)
    );
    finding
}

/// Begins without an end, all of the same sectors: beyond what there is room for they are counted and not kept.
#[test]
fn begins_without_an_end_are_kept_up_to_a_bound() {
    let mut history = told::array(2, "6.1.192");
    for sequence in 0..1100 {
        history.begin(&Load::new(2, sequence, 640, 8));
    }
    let verdict = finish(&mut history);
    told::silent(&verdict);
    assert_eq!(verdict.outcome, Outcome::Inconclusive);
    let crowded = "76 requests of the workload were not judged";
    let told = verdict.reasons.iter().any(|one| one.starts_with(crowded));
    assert!(told, "{:?}", verdict.reasons);
}
