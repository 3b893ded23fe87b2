//! What rules did is listed and decides nothing; what the guest's kernel did beside it is found all the same.

use crate::history::{self, History, Load, data_offset, garbage};
use legwatch::block::{LegId, Operation, Sector, SectorRange, sector_digests};
use legwatch::event::{Action, Content, Decided, What};
use legwatch::finding::{Cause, Check};
use legwatch::header::RuleHead;
use legwatch::mark::IntentKind;
use legwatch::oracle::{Outcome, Verdict};
use legwatch::report::text::{Style, render};

fn with_rule(may_not_fire: bool) -> History {
    let mut history = History::new(2, None);
    history.header.rules.push(RuleHead {
        name: "liar".into(),
        may_not_fire,
    });
    history
}

fn finish(history: &mut History) -> Verdict {
    history.honest(&Load::new(9, 3, 5000, 16));
    history.quiet();
    history.power_off();
    history.verdict()
}

/// Leg b answers a read of array sector 200 with garbage, and the guest writes that to leg a.
fn copied(by_rule: bool) -> Verdict {
    copied_of(by_rule, garbage(7), 200)
}

/// The same with another content; what the guest writes goes to array sector `to`.
fn copied_of(by_rule: bool, content: history::Block, to: u64) -> Verdict {
    let mut history = with_rule(true);
    history.honest(&Load::new(1, 1, 200, 1));
    let request = history.arrive(1, Operation::Read, 200, 1);
    if by_rule {
        history.push(What::Decided(Decided {
            request,
            rule: 0,
            action: Action::CorruptAnswer,
        }));
        let lie = sector_digests(&content).collect();
        history.complete_with(request, legwatch::block::Status::Ok, Content::Returned(lie));
    } else {
        history.complete(request);
    }
    history.write(0, to, &[content]);
    finish(&mut history)
}

#[test]
fn a_lie_that_the_guest_copied_is_injected() {
    let verdict = copied(true);
    assert_eq!(verdict.outcome, Outcome::Clean, "{verdict:#?}");
    assert!(!verdict.findings.is_empty());
    for finding in &verdict.findings {
        assert_eq!(finding.cause, Cause::Injected, "{finding:#?}");
        assert!(finding.reason.contains("`liar`"), "{}", finding.reason);
    }
    assert_eq!(verdict.strict().outcome, Outcome::Clean);
}

#[test]
fn zeros_that_the_guest_got_from_a_lie_are_injected_where_it_got_them() {
    let verdict = copied_of(true, [0; 512], 200);
    assert_eq!(verdict.outcome, Outcome::Clean, "{verdict:#?}");
    let finding = &verdict.findings[0];
    assert_eq!(finding.cause, Cause::Injected, "{finding:#?}");
    // Elsewhere they are the kernel's.
    let mut history = with_rule(true);
    history.honest(&Load::new(1, 1, 100, 1));
    history.honest(&Load::new(1, 2, 200, 1));
    let request = history.arrive(1, Operation::Read, 200, 1);
    history.push(What::Decided(Decided {
        request,
        rule: 0,
        action: Action::CorruptAnswer,
    }));
    let lie = sector_digests(&[0; 512]).collect();
    history.complete_with(request, legwatch::block::Status::Ok, Content::Returned(lie));
    history.write(0, 100, &[[0; 512]]);
    assert_eq!(finish(&mut history).outcome, Outcome::Findings);
    assert_eq!(copied_of(false, [0; 512], 200).outcome, Outcome::Findings);
}

#[test]
fn the_same_garbage_without_a_lie_is_the_kernels() {
    let verdict = copied(false);
    assert_eq!(verdict.outcome, Outcome::Findings);
    assert!(
        verdict
            .findings
            .iter()
            .any(|finding| finding.check == Check::Stamp && finding.cause == Cause::Kernel)
    );
}

#[test]
fn a_rule_that_never_fired_makes_the_run_inconclusive() {
    let verdict = finish(&mut with_rule(false));
    assert_eq!(verdict.outcome, Outcome::Inconclusive);
    assert!(
        verdict.reasons[0].contains("fault `liar` never fired"),
        "{:?}",
        verdict.reasons
    );
    assert_eq!(finish(&mut with_rule(true)).outcome, Outcome::Clean);
}

#[test]
fn a_lost_write_is_listed_and_ends_when_it_is_written_again() {
    let mut history = with_rule(false);
    let load = Load::new(1, 1, 200, 4);
    history.begin(&load);
    history.write(0, 200, &load.contents());
    let request = history.arrive(1, Operation::Write, 200, 4);
    let range = SectorRange::new(Sector(data_offset(1) + 200), 4).unwrap();
    history.push(What::Decided(Decided {
        request,
        rule: 0,
        action: Action::Lose {
            sectors: vec![range],
        },
    }));
    history.fetch(request, &load.contents());
    history.complete(request);
    history.end(&load);
    history.honest(&Load::new(1, 2, 200, 1));
    let verdict = finish(&mut history);
    assert_eq!(verdict.outcome, Outcome::Clean, "{verdict:#?}");
    let fault = &verdict.coverage.faults[0];
    assert_eq!((fault.fired, fault.sectors_left), (1, 3));
    let text = render(&history.header, &verdict, Style::Plain);
    assert!(
        text.contains("injected `liar`: 1 requests; 3 sectors are still not"),
        "{text}"
    );
}

/// A write, perhaps flushed, that a power cut takes back on leg a; the resync of the next boot copies that to b.
fn cut(flushed: bool, lie: bool) -> Verdict {
    let mut history = with_rule(true);
    let load = Load::new(1, 1, 200, 2);
    history.honest(&load);
    if flushed {
        let flush = Load::new(1, 2, 0, 0).kind(IntentKind::Flush);
        history.begin(&flush);
        if lie {
            let request = history.arrive(0, Operation::Flush, 0, 0);
            history.push(What::Decided(Decided {
                request,
                rule: 0,
                action: Action::FlushLie,
            }));
            history.complete(request);
        } else {
            history.flush(0);
        }
        history.flush(1);
        history.end(&flush);
    }
    history.crash(2);
    let zeros = [[0u8; 512]; 2];
    history.push(What::Lost {
        leg: LegId(0),
        start: Sector(data_offset(0) + 200),
        digests: sector_digests(&zeros.concat()).collect(),
        payload: None,
    });
    history.superblocks(false);
    history.read(0, 200, 2);
    history.write(1, 200, &zeros);
    history.superblocks(true);
    finish(&mut history)
}

#[test]
fn what_was_flushed_must_survive_a_power_cut_and_nothing_else_must() {
    let right = |verdict: &Verdict| verdict.findings.iter().all(|f| f.check != Check::Stamp);
    assert!(right(&cut(false, false)), "never flushed");
    assert!(right(&cut(true, true)), "the flush was a lie");
    let verdict = cut(true, false);
    assert_eq!(verdict.outcome, Outcome::Findings, "{verdict:#?}");
    assert!(!right(&verdict));
}

/// After a cut, leg a answers the resync's read of sectors 200 and 201 with garbage (by a rule: a lie), and md writes that to b; sector 300 is forgotten.
fn resync_of_a_lie(forgets: bool) -> Verdict {
    let mut history = with_rule(true);
    history.superblocks(true);
    history.superblocks(false);
    let range = SectorRange::new(Sector(data_offset(0) + 200), 2).unwrap();
    let load = Load::new(1, 1, 200, 2);
    history.begin(&load);
    let request = history.arrive(0, Operation::Write, 200, 2);
    history.push(What::Decided(Decided {
        request,
        rule: 0,
        action: Action::Lose {
            sectors: vec![range],
        },
    }));
    history.fetch(request, &load.contents());
    history.complete(request);
    history.write(1, 200, &load.contents());
    history.end(&load);
    if forgets {
        history.write(0, 300, &[garbage(5)]);
    }
    history.crash(2);
    history.superblocks(false);
    let lie = [garbage(7), [0; 512]];
    let request = history.arrive(0, Operation::Read, 200, 2);
    history.push(What::Decided(Decided {
        request,
        rule: 0,
        action: Action::Met,
    }));
    let digests = sector_digests(&lie.concat()).collect();
    history.complete_with(
        request,
        legwatch::block::Status::Ok,
        Content::Returned(digests),
    );
    history.write(1, 200, &lie);
    history.superblocks(true);
    finish(&mut history)
}

#[test]
fn a_resync_that_copies_a_lie_is_injected_and_what_it_forgets_is_not() {
    let verdict = resync_of_a_lie(false);
    assert_eq!(verdict.outcome, Outcome::Clean, "{verdict:#?}");
    let resync = |verdict: &Verdict, cause| {
        let like = verdict.findings.iter();
        like.filter(|one| one.check == Check::ResyncEq && one.cause == cause)
            .map(|one| one.sectors)
            .sum::<u64>()
    };
    assert_eq!(resync(&verdict, Cause::Injected), 2);
    // Where nothing decides, what rules did is looked into all the same.
    let known = verdict.findings.iter().any(|one| one.first_wrong.is_some());
    let text = render(
        &legwatch::header::RunHeader::new(1, 1, Vec::new()),
        &verdict,
        Style::Plain,
    );
    let second = text.lines().nth(1).unwrap();
    assert!(known && second.starts_with("  first wrong: "), "{text}");
    let verdict = resync_of_a_lie(true);
    assert_eq!(verdict.outcome, Outcome::Findings);
    assert_eq!(
        (
            resync(&verdict, Cause::Injected),
            resync(&verdict, Cause::Kernel)
        ),
        (2, 1)
    );
}
