//! What stock kernels are known to break: as long as its condition holds on the wire, and no longer. (K2, K3 and K6 are beside the tests of their checks; K7 and
//! K9 are no findings.)

use crate::history::{History, Load, data_offset, garbage};
use crate::told::{array, finish, kept, said, silent};
use legwatch::block::{LegId, Operation, Sector, Status, sector_digests};
use legwatch::event::{Content, What};
use legwatch::finding::{Check, Confidence};
use legwatch::mark::{IntentKind, Mark};
use legwatch::oracle::Verdict;

/// K1: data is sent before the page with its bit, and the machine is cut off. The page comes late, but for so long it may.
#[test]
fn a_bit_is_on_its_way_for_no_longer_than_pages_take() {
    for overdue in [false, true] {
        let mut history = array(2, "6.12.117");
        history.honest_md = false;
        history.write(0, 640, &[garbage(1)]);
        if overdue {
            history.wait_us(10_000_000);
        }
        history.write(0, 0, &[Load::new(1, 1, 0, 64).content(0)]);
        history.cut();
        let verdict = history.verdict();
        if overdue {
            let mut checks: Vec<Check> = verdict.findings.iter().map(|one| one.check).collect();
            checks.sort();
            assert_eq!(checks, [Check::BitFirst, Check::CrashCovered]);
            let sure = |one: &legwatch::finding::Finding| one.confidence == Confidence::Proven;
            assert!(verdict.findings.iter().all(sure), "{:#?}", verdict.findings);
            assert!(verdict.known.is_empty(), "{:#?}", verdict.known);
        } else {
            silent(&verdict);
            assert_eq!(verdict.known[0].known.as_deref(), Some("K1"));
        }
    }
}

/// K4: a leg is read where it is not recovered, in a boot that found the array dirty; and in one that did not.
#[test]
fn a_stale_read_is_known_before_a_resync_alone() {
    for dirty in [true, false] {
        let mut history = array(2, "6.12.117");
        history.fail(1);
        let load = Load::new(1, 2, 640, 8);
        history.honest(&load);
        history.failed = None;
        history.recovering = Some(1);
        history.superblocks(!dirty);
        if dirty {
            history.crash(2);
        }
        history.superblocks(false);
        history.copy(0, &[1], 0, &Load::new(1, 1, 0, 64).contents());
        history.returned(1, 640, &[[0; 512]; 8]);
        history.copy(0, &[1], 640, &load.contents());
        history.recovering = None;
        history.superblocks(false);
        let verdict = finish(&mut history);
        if dirty {
            silent(&verdict);
            assert_eq!(verdict.known[0].known.as_deref(), Some("K4"));
        } else {
            said(&verdict, Check::NoStaleRead);
            assert!(verdict.known.is_empty(), "{:#?}", verdict.known);
        }
    }
}

/// K4 where an array that is found dirty gets no superblock before it is read, and only its bitmap is loaded, or resync begins: the write-mostly leg lacks what
/// it was sent before the cut. Where nothing was written yet, the READ may be any program's.
#[test]
fn a_stale_read_before_md_writes_a_superblock() {
    for begins in ["nothing", "bitmap", "resync"] {
        println!("{begins}");
        let mut history = History::with_bitmap(2, Some(0));
        history.mark(Mark::Fact {
            name: "kernel.version".into(),
            value: "Linux version x #1 SMP Debian 6.12.117-1 (2026-01-01)".into(),
        });
        history.honest(&Load::new(1, 1, 0, 64));
        let (old, new) = (Load::new(1, 2, 640, 8), Load::new(1, 3, 640, 8));
        history.honest(&old);
        history.begin(&new);
        let behind = history.arrive(0, Operation::Write, 640, 8);
        history.fetch(behind, &new.contents());
        history.write(1, 640, &new.contents());
        history.end(&new);
        history.abandon(behind, false);
        history.crash(2);
        let bits = history.bits;
        match begins {
            "bitmap" => history.bitmap_page(0, bits),
            "resync" => history.copy(0, &[1], 0, &Load::new(1, 1, 0, 64).contents()),
            _ => {}
        }
        history.returned(0, 640, &old.contents());
        history.copy(1, &[0], 640, &new.contents());
        history.superblocks(false);
        let verdict = finish(&mut history);
        silent(&verdict);
        let known: Vec<(Check, Option<&str>)> = verdict
            .known
            .iter()
            .map(|one| (one.check, one.known.as_deref()))
            .collect();
        if begins == "nothing" {
            assert!(known.is_empty(), "{known:?}");
        } else {
            assert!(
                known.contains(&(Check::NoStaleRead, Some("K4"))),
                "{known:?}"
            );
        }
    }
}

/// K5: the array does not look at how a leg's FLUSH ended; that it ended it waits for.
#[test]
fn a_flush_that_fails_is_one_and_one_that_has_not_ended_is_none() {
    for ended in [true, false] {
        let mut history = array(2, "6.1.192");
        let flush = Load::new(1, 2, 0, 0).kind(IntentKind::Flush);
        history.begin(&flush);
        history.flush(0);
        let request = history.arrive_at(1, Operation::Flush, 0, 0);
        if ended {
            history.complete_with(request, Status::IoErr, Content::NotTaken);
        }
        history.end(&flush);
        if !ended {
            history.complete_with(request, Status::IoErr, Content::NotTaken);
        }
        let verdict = finish(&mut history);
        if ended {
            kept(&verdict, Check::FlushAll);
        } else {
            said(&verdict, Check::FlushAll);
        }
    }
}

/// K8: the power goes while md sends out what says "clean": leg b has it, with all data before it; leg a's cache lost a write. `marked`: leg b's FLUSH had not
/// ended either. `own`: leg a says "clean" as well, which md sends behind a FLUSH of leg a alone.
fn power_cut(marked: bool, own: bool, kernel: &str) -> Verdict {
    let mut history = array(2, kernel);
    let roles = [0, 1];
    history.honest(&Load::new(1, 2, 640, 8));
    history.bump();
    for (leg, written) in [(1, !marked), (0, own)] {
        if written {
            history.bitmap_page(leg, history.bits);
            history.superblock(leg, true, &roles);
        }
    }
    history.crash(2);
    let start = Sector(data_offset(0) + 640);
    history.push(What::Lost {
        leg: LegId(0),
        start,
        digests: sector_digests(&[0; 512]).collect(),
        payload: None,
    });
    history.mark(Mark::StepBegin { step: 0 });
    history.verdict()
}

#[test]
fn what_a_cache_lost_is_marked_but_for_a_known_deviation() {
    let all = |verdict: &Verdict| verdict.coverage.triggered["crash-covered"];
    let verdict = power_cut(true, false, "6.12.117");
    silent(&verdict);
    assert!(verdict.known.is_empty() && all(&verdict) == 1);
    // The other leg's mark went ahead: K8, where that was shown.
    let verdict = power_cut(false, false, "6.12.117");
    silent(&verdict);
    assert_eq!(verdict.known[0].known.as_deref(), Some("K8"));
    assert_eq!(verdict.known[0].legs, ["a"]);
    let verdict = power_cut(false, false, "6.16.3");
    let finding = said(&verdict, Check::CrashCovered);
    assert_eq!(finding.confidence, Confidence::Suspect);
    assert!(finding.notes[0].contains("K8"), "{:?}", finding.notes);
    // Its own mark went ahead of its own data: no kernel is known to do that.
    for kernel in ["6.12.117", "6.18.15"] {
        let finding = said(&power_cut(false, true, kernel), Check::CrashCovered);
        assert_eq!(finding.confidence, Confidence::Proven);
        assert_eq!((finding.array[0].start, finding.array[0].count), (640, 1));
    }
}
