//! What a leg's own errors and lies explain of what is missing after a cut, and that it explains nothing once it is over.

use crate::history::{Block, History, Load, data_offset};
use legwatch::block::{LegId, Operation, RequestId, Sector, Status, sector_digests};
use legwatch::event::{Action, Content, Decided, What};
use legwatch::finding::{Check, Finding, Wrongness};
use legwatch::mark::{IntentKind, Mark};
use legwatch::oracle::Verdict;

const AT: u64 = 200;

fn version(sequence: u64) -> Load {
    let mut load = Load::new(1, sequence, AT, 1);
    load.flags.dsync = true;
    load
}

/// Somebody else's write, elsewhere.
fn other(sequence: u64) -> Load {
    Load::new(2, sequence, 900, 1)
}

/// Two legs with a first version that is durable on both.
fn legs() -> History {
    let mut history = History::new(2, None);
    history.header.keeps_versions = true;
    durable(&mut history, &version(1));
    history
}

/// A write is durable on both legs, and the workload is told so.
fn durable(history: &mut History, load: &Load) {
    history.begin(load);
    for leg in 0..2 {
        history.write(leg, load.sector, &load.contents());
        history.flush(leg);
    }
    history.end(load);
}

/// Leg a fails a request.
fn failed(history: &mut History, operation: Operation, load: &Load) -> RequestId {
    let request = history.arrive(0, operation, load.sector, 1);
    if operation == Operation::Write {
        history.fetch(request, &load.contents());
    }
    history.complete_with(request, Status::IoErr, Content::NotTaken);
    request
}

/// The machine is cut off, and leg a has the first version again.
fn cut(history: &mut History, boot: u32) {
    history.crash(boot);
    has(history, 0, version(1).content(AT));
    history.mark(Mark::StepBegin { step: 0 });
}

fn has(history: &mut History, leg: u8, block: Block) {
    history.push(What::Lost {
        leg: LegId(leg),
        start: Sector(data_offset(leg) + AT),
        digests: sector_digests(&block).collect(),
        payload: None,
    });
}

fn survey(history: &mut History, sequence: u64) {
    history.mark(Mark::Survey {
        target: 1,
        sector: Sector(AT),
        digests: sector_digests(&version(sequence).content(AT)).collect(),
    });
}

fn found(verdict: &Verdict) -> Vec<&Finding> {
    let all = verdict.findings.iter();
    all.filter(|finding| finding.check == Check::Durable)
        .collect()
}

/// The first version is too old for leg a, and that is told; or something explains it (`case`, if it has a number).
#[track_caller]
fn told(history: &History, told: bool, case: Option<u8>) {
    let verdict = history.verdict();
    let found = found(&verdict);
    if told {
        let [one] = &found[..] else {
            panic!("one finding: {found:#?}");
        };
        assert_eq!(one.kind, Wrongness::Older);
        assert_eq!(one.legs, ["a"]);
    } else {
        assert!(found.is_empty(), "{found:#?}");
        let cases: Vec<u8> = verdict.coverage.excused.keys().copied().collect();
        assert_eq!(cases, Vec::from_iter(case));
    }
}

/// md writes again, without FUA, what leg a failed to write durably.
#[test]
fn a_durable_write_that_was_written_again_without_its_flush() {
    for flushed in [false, true] {
        let mut history = legs();
        let load = version(2);
        history.begin(&load);
        failed(&mut history, Operation::Write, &load);
        history.write(0, AT, &load.contents());
        history.write(1, AT, &load.contents());
        history.flush(1);
        history.end(&load);
        // Leg a was not failed: it gets new writes.
        history.honest(&other(1));
        if flushed {
            history.flush(0);
        }
        cut(&mut history, 2);
        told(&history, flushed, Some(14));
    }
}

#[test]
fn an_error_of_an_older_version_explains_nothing_of_a_newer_one() {
    let mut history = legs();
    let old = Load::new(1, 2, AT, 1);
    history.begin(&old);
    failed(&mut history, Operation::Write, &old);
    for leg in 0..2 {
        history.write(leg, AT, &old.contents());
    }
    history.end(&old);
    durable(&mut history, &version(3));
    cut(&mut history, 2);
    told(&history, true, None);
}

#[test]
fn a_bad_block_until_it_is_written() {
    for rewritten in [false, true] {
        let mut history = legs();
        let load = version(2);
        history.begin(&load);
        failed(&mut history, Operation::Write, &load);
        history.record_bad(0, data_offset(0) + AT, 1);
        history.write(1, AT, &load.contents());
        history.flush(1);
        history.end(&load);
        history.honest(&other(1));
        if rewritten {
            durable(&mut history, &version(3));
        }
        cut(&mut history, 2);
        told(&history, rewritten, Some(10));
    }
}

#[test]
fn a_flush_that_failed_or_lied_until_the_next_one() {
    for lie in [false, true] {
        for (leg, again) in [(0, false), (0, true), (1, false)] {
            let mut history = legs();
            let load = version(2);
            history.begin(&load);
            for each in 0..2 {
                history.write(each, AT, &load.contents());
                let flush = history.arrive_at(each, Operation::Flush, 0, 0);
                let hit = each == leg;
                if hit && lie {
                    history.push(What::Decided(Decided {
                        request: flush,
                        rule: 0,
                        action: Action::FlushLie,
                    }));
                }
                let status = if hit && !lie {
                    Status::IoErr
                } else {
                    Status::Ok
                };
                history.complete_with(flush, status, Content::NotTaken);
            }
            history.end(&load);
            if again {
                history.flush(0);
            }
            cut(&mut history, 2);
            // The other leg's flush explains nothing.
            told(&history, again || leg == 1, None);
        }
    }
}

/// A flush fails, and what is durable since is lost: by another one's doing.
#[test]
fn a_flush_that_failed_explains_nothing_of_what_began_later() {
    let mut history = legs();
    let flush = history.arrive_at(0, Operation::Flush, 0, 0);
    history.complete_with(flush, Status::IoErr, Content::NotTaken);
    let load = version(2);
    history.begin(&load);
    for leg in 0..2 {
        history.write(leg, AT, &load.contents());
    }
    history.flush(1);
    history.end(&load);
    cut(&mut history, 2);
    told(&history, true, None);
}

/// Leg a fails a write, so md fails it: another write, which was under way, passes leg a by, and is acknowledged before that is on record (K6). `how` shows that
/// leg a was not failed after all.
fn failing(how: &str) -> History {
    let mut history = legs();
    let (first, load, old) = (other(1), version(2), Load::new(3, 1, 950, 1));
    for write in [&first, &load, &old] {
        history.begin(write);
    }
    failed(&mut history, Operation::Write, &first);
    history.write(1, first.sector, &first.contents());
    history.write(1, AT, &load.contents());
    history.flush(1);
    history.end(&load);
    if matches!(how, "rest" | "a new write") {
        // md wrote it once more, and that went well.
        history.write(0, first.sector, &first.contents());
    }
    if matches!(how, "rest" | "a new write" | "recovered") {
        history.end(&first);
        history.write(0, 950, &old.contents());
        history.write(1, 950, &old.contents());
        history.end(&old);
    }
    match how {
        "a new write" => history.honest(&other(2)),
        "an old write" => {
            history.write(0, 950, &old.contents());
        }
        "rest" => history.quiet(),
        "recovered" => {
            history.recovering = Some(0);
            history.superblocks(false);
            history.recovering = None;
            history.superblocks(false);
        }
        "another leg's new write" => {
            history.begin(&other(2));
            history.write(1, 900, &other(2).contents());
        }
        _ => {}
    }
    cut(&mut history, 2);
    history
}

#[test]
fn a_leg_that_fails_until_it_shows_that_md_did_not_fail_it() {
    for (how, is_told) in [
        ("nothing", false),
        ("another leg's new write", false),
        // It had begun before the other one passed leg a by.
        ("an old write", false),
        ("a new write", true),
        ("rest", true),
        ("recovered", true),
    ] {
        println!("{how}");
        let history = failing(how);
        told(&history, is_told, Some(7));
        // What passed the leg by is held against it by others too.
        let verdict = history.verdict();
        assert_eq!(verdict.findings.is_empty(), !is_told, "{verdict:#?}");
    }
}

/// md leaves a faulty leg out of a flush. Not so a leg that was flushed before the error, or that gets a new write since: that its cache lost what it had is
/// another one's doing.
#[test]
fn a_flush_that_passes_a_failing_leg_by() {
    for (how, is_told) in [("passed by", false), ("before", true), ("alive", true)] {
        println!("{how}");
        let mut history = legs();
        history.honest(&Load::new(1, 2, AT, 1));
        if how == "before" {
            history.flush(0);
        }
        let first = other(1);
        history.begin(&first);
        failed(&mut history, Operation::Write, &first);
        history.write(1, first.sector, &first.contents());
        let flush = Load::new(2, 9, 0, 0).kind(IntentKind::Flush);
        history.begin(&flush);
        history.flush(1);
        history.end(&flush);
        if how == "alive" {
            history.begin(&other(2));
            history.write(0, 900, &other(2).contents());
        }
        cut(&mut history, 2);
        told(&history, is_told, Some(7));
    }
}

/// What md makes of an error of a READ, nobody is told: only rest shows that it was nothing.
#[test]
fn a_read_error_until_the_array_is_at_rest() {
    for rest in [false, true] {
        let mut history = legs();
        failed(&mut history, Operation::Read, &other(1));
        history.write(0, 900, &[[0; 512]]);
        if rest {
            history.quiet();
        }
        let load = version(2);
        history.begin(&load);
        history.write(1, AT, &load.contents());
        history.flush(1);
        history.end(&load);
        cut(&mut history, 2);
        told(&history, rest, Some(7));
    }
}

/// A request of leg a's that is never answered: for the leg went away, and the guest goes on without it; or for the guest was cut off.
#[test]
fn a_request_without_an_answer_if_the_guest_goes_on() {
    for goes_on in [true, false] {
        let mut history = legs();
        let load = version(2);
        history.begin(&load);
        history.write(1, AT, &load.contents());
        history.flush(1);
        let lost = if goes_on { &load } else { &other(1) };
        if !goes_on {
            history.write(0, AT, &load.contents());
            history.flush(0);
            history.end(&load);
            history.begin(lost);
        }
        let request = history.arrive(0, Operation::Write, lost.sector, 1);
        history.fetch(request, &lost.contents());
        history.abandon(request, false);
        if goes_on {
            history.end(&load);
        }
        cut(&mut history, 2);
        told(&history, !goes_on, Some(7));
    }
}

/// An error explains a sector in the boot after it: a resync may spread what is there. Not what is durable later.
#[test]
fn what_is_explained_stays_so_over_boots_until_something_newer_is_durable() {
    for newer in [false, true] {
        let mut history = legs();
        let load = version(2);
        history.begin(&load);
        for leg in 0..2 {
            history.write(leg, AT, &load.contents());
        }
        let flush = history.arrive_at(0, Operation::Flush, 0, 0);
        history.complete_with(flush, Status::IoErr, Content::NotTaken);
        history.flush(1);
        history.end(&load);
        cut(&mut history, 2);
        survey(&mut history, 1);
        history.superblocks(false);
        history.copy(0, &[1], AT, &version(1).contents());
        if newer {
            durable(&mut history, &version(3));
        } else {
            history.honest(&Load::new(1, 3, AT, 1));
        }
        cut(&mut history, 3);
        has(&mut history, 1, version(3).content(AT));
        told(&history, newer, None);
        // Errors of the boot before last are no longer the leg's.
        survey(&mut history, 1);
        let verdict = history.verdict();
        assert_eq!(found(&verdict).len(), 2 * usize::from(newer));
    }
}
