//! What promises' tests have in common: arrays to begin with, and what a verdict has to say of them.

use crate::history::{History, Load};
use legwatch::finding::{Check, Finding, Wrongness};
use legwatch::mark::{AdminPhase, Mark};
use legwatch::oracle::Verdict;

pub(crate) const OK: AdminPhase = AdminPhase::End {
    ok: true,
    mismatches: None,
};

pub(crate) fn finish(history: &mut History) -> Verdict {
    history.honest(&Load::new(9, 3, 5000, 16));
    history.superblocks(true);
    history.quiet();
    history.power_off();
    history.verdict()
}

/// The one finding that there is.
#[track_caller]
pub(crate) fn one(verdict: &Verdict) -> Finding {
    let [finding] = &verdict.findings[..] else {
        panic!("one finding: {:#?}", verdict.findings);
    };
    finding.clone()
}

/// One check has found something, and no other.
#[track_caller]
pub(crate) fn said(verdict: &Verdict, check: Check) -> Finding {
    let finding = one(verdict);
    assert_eq!(finding.check, check, "{finding:#?}");
    finding
}

/// A promise was broken in one way, on these legs, and its check says so in words.
#[track_caller]
pub(crate) fn only(verdict: &Verdict, check: Check, kind: Wrongness, legs: &[&str]) -> Finding {
    let finding = said(verdict, check);
    assert_eq!(finding.kind, kind, "{finding:#?}");
    assert_eq!(finding.legs, legs);
    assert!(!finding.notes.is_empty());
    finding
}

#[track_caller]
pub(crate) fn silent(verdict: &Verdict) {
    assert!(verdict.findings.is_empty(), "{:#?}", verdict.findings);
}

/// How often there was something for a check to look at.
pub(crate) fn triggered(verdict: &Verdict, check: Check) -> u64 {
    let count = verdict.coverage.triggered.get(check.name());
    count.copied().unwrap_or(0)
}

/// The check had something to look at, and neither it nor another one found anything.
#[track_caller]
pub(crate) fn kept(verdict: &Verdict, check: Check) {
    silent(verdict);
    assert!(triggered(verdict, check) > 0, "{check:?}: never triggered");
}

/// An array with bitmap that was written, and says which kernel it is.
pub(crate) fn array(legs: u8, release: &str) -> History {
    let mut history = History::with_bitmap(legs, None);
    history.mark(Mark::Fact {
        name: "kernel.version".into(),
        value: format!("Linux version x #1 SMP Debian {release}-1 (2026-01-01)"),
    });
    history.honest(&Load::new(1, 1, 0, 64));
    history
}

/// The last leg fails, and that is on record.
pub(crate) fn degraded() -> History {
    let mut history = array(2, "6.1.192");
    history.fail(1);
    history
}
