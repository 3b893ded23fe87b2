//! What a cut may leave and what it may not: on each leg, and through the array.

use crate::history::{Block, History, Load, data_offset, garbage};
use legwatch::block::{LegId, Sector, sector_digests};
use legwatch::event::What;
use legwatch::finding::{Check, Finding, Wrongness};
use legwatch::mark::{IntentKind, Mark};
use legwatch::oracle::Verdict;

const AT: u64 = 200;

/// Three versions of a sector, the second made durable by a flush (or by O_DSYNC, or not at all); then a cut that leaves `on_leg` on leg a, and a survey
/// that reads `through`.
fn cut(durable: Durable, on_leg: Option<Block>, through: Block) -> Verdict {
    let mut history = History::new(2, None);
    history.header.keeps_versions = true;
    history.honest(&version(1));
    let mut second = version(2);
    second.flags.dsync = durable == Durable::Dsync;
    history.begin(&second);
    for leg in 0..2 {
        history.write(leg, AT, &second.contents());
        if durable == Durable::Dsync {
            history.flush(leg);
        }
    }
    history.end(&second);
    if durable == Durable::Flushed {
        let flush = Load::new(2, 1, 0, 0).kind(IntentKind::Flush);
        history.begin(&flush);
        history.flush(0);
        history.flush(1);
        history.end(&flush);
    }
    history.honest(&version(3));
    history.crash(2);
    if let Some(block) = on_leg {
        history.push(What::Lost {
            leg: LegId(0),
            start: Sector(data_offset(0) + AT),
            digests: sector_digests(&block).collect(),
            payload: None,
        });
        // Of other sectors, which the story is not about.
        for at in [9000, 9100] {
            history.push(What::Lost {
                leg: LegId(0),
                start: Sector(data_offset(0) + at),
                digests: sector_digests(&[0; 512]).collect(),
                payload: None,
            });
        }
    }
    history.mark(Mark::StepBegin { step: 0 });
    history.mark(Mark::Survey {
        target: 1,
        sector: Sector(AT),
        digests: sector_digests(&through).collect(),
    });
    history.verdict()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Durable {
    Not,
    Flushed,
    Dsync,
}

fn version(sequence: u64) -> Load {
    Load::new(1, sequence, AT, 1)
}

fn content(sequence: u64) -> Block {
    version(sequence).content(AT)
}

fn found(verdict: &Verdict) -> Vec<&Finding> {
    let all = verdict.findings.iter();
    all.filter(|finding| finding.check == Check::Durable)
        .collect()
}

fn lost_lines(finding: &Finding) -> Vec<&str> {
    let lines = finding.story.iter().map(|line| line.what.as_str());
    lines.filter(|what| what.contains("cache lost")).collect()
}

fn none(verdict: &Verdict) {
    assert!(found(verdict).is_empty(), "{:#?}", found(verdict));
    assert!(verdict.coverage.triggered["durable"] >= 2);
    assert_eq!(verdict.coverage.sectors_surveyed, 1);
}

#[test]
fn every_version_since_the_durable_one_is_legal() {
    for durable in [Durable::Flushed, Durable::Dsync] {
        for sequence in [2, 3] {
            let block = content(sequence);
            none(&cut(durable, Some(block), block));
        }
        none(&cut(durable, None, content(3)));
    }
    for block in [content(1), content(2), content(3), [0; 512]] {
        none(&cut(Durable::Not, Some(block), block));
    }
}

#[test]
fn a_durable_version_that_is_gone_is_found_on_the_leg() {
    for durable in [Durable::Flushed, Durable::Dsync] {
        for block in [content(1), [0; 512]] {
            let verdict = cut(durable, Some(block), content(3));
            let all = found(&verdict);
            assert_eq!(all.len(), 1, "{all:#?}");
            assert_eq!(
                (all[0].kind, &all[0].legs[..]),
                (Wrongness::Older, &["a".to_owned()][..])
            );
            assert_eq!(all[0].array[0].start, AT);
            // What is named is the cut, and the request whose content it took.
            let first = all[0].first_wrong.as_ref().unwrap();
            let at = data_offset(0) + AT;
            assert!(
                first.what.contains(&format!(
                    "took sector {at} from leg a's cache, which request "
                )),
                "{first:?}"
            );
            let told: Vec<&str> = lost_lines(all[0]);
            assert_eq!(told, [format!("power cut: its cache lost {at}+1")]);
        }
    }
}

#[test]
fn a_durable_version_that_is_gone_is_found_through_the_array() {
    let verdict = cut(Durable::Flushed, None, content(1));
    let all = found(&verdict);
    assert_eq!(all.len(), 1, "{all:#?}");
    assert_eq!((all[0].kind, all[0].sectors), (Wrongness::Older, 1));
    assert!(all[0].legs.is_empty() && all[0].headline.contains("through the array"));
    let first = all[0].first_wrong.as_ref().unwrap();
    assert!(
        first.what.contains(&format!("read array sector {AT} (#")),
        "{first:?}"
    );
    // Its story: what each leg got there.
    let got = |leg: &str| {
        let lines = all[0].story.iter().filter(|line| line.leg == leg);
        lines.filter(|line| line.what.contains("WRITE")).count()
    };
    assert!(got("a") > 0 && got("b") > 0, "{:#?}", all[0].story);
}

#[test]
fn what_nobody_wrote_is_never_legal() {
    for durable in [Durable::Dsync, Durable::Flushed] {
        let verdict = cut(durable, Some(garbage(1)), content(3));
        assert_eq!(found(&verdict)[0].kind, Wrongness::Garbage);
        let verdict = cut(durable, None, garbage(2));
        assert_eq!(found(&verdict)[0].kind, Wrongness::Garbage);
    }
    // Written often: what the workload wrote is never taken for what nobody wrote, however long ago.
    let mut history = History::new(2, None);
    history.header.keeps_versions = true;
    for sequence in 1..=9 {
        let mut load = version(sequence);
        load.flags.dsync = true;
        history.honest(&load);
    }
    history.crash(2);
    history.mark(Mark::StepBegin { step: 0 });
    history.mark(Mark::Survey {
        target: 1,
        sector: Sector(AT),
        digests: sector_digests(&content(2)).collect(),
    });
    assert_eq!(found(&history.verdict())[0].kind, Wrongness::Older);
    // Never durable, and written once: the write or what was there before.
    let mut history = History::new(2, None);
    history.header.keeps_versions = true;
    history.honest(&version(1));
    history.crash(2);
    history.mark(Mark::StepBegin { step: 0 });
    history.mark(Mark::Survey {
        target: 1,
        sector: Sector(AT),
        digests: sector_digests(&garbage(3)).collect(),
    });
    assert_eq!(found(&history.verdict())[0].kind, Wrongness::Garbage);
}

#[test]
fn a_leg_that_may_lag_is_left_out() {
    let mut history = History::new(2, Some(0));
    history.header.keeps_versions = true;
    history.honest(&version(1));
    let flush = Load::new(2, 1, 0, 0).kind(IntentKind::Flush);
    history.begin(&flush);
    history.flush(0);
    history.flush(1);
    history.end(&flush);
    history.crash(2);
    history.push(What::Lost {
        leg: LegId(0),
        start: Sector(data_offset(0) + AT),
        digests: sector_digests(&[0; 512]).collect(),
        payload: None,
    });
    history.mark(Mark::StepBegin { step: 0 });
    let verdict = history.verdict();
    assert!(found(&verdict).is_empty(), "{:#?}", found(&verdict));
}
