//! What is not watched finds nothing, is said, and is never called clean for it.

use crate::history::{History, Load};
use legwatch::block::LegId;
use legwatch::event::{EventNo, FrontendChange, What};
use legwatch::finding::Check;
use legwatch::journal::{Reader, Writer};
use legwatch::judge::Judge;
use legwatch::oracle::{Outcome, Verdict};
use legwatch::report::text::{Style, render};
use legwatch::watch::{OPTION, Watch};

/// One lost write among good ones, judged with `watch`, live and from the journal.
fn judged(watch: &str, planted: bool) -> (Verdict, String) {
    let mut history = History::new(2, None);
    let words: Vec<&str> = watch.split(',').collect();
    let words = Watch::parse(&words).unwrap().words();
    history.header.options = serde_json::json!({ OPTION: words });
    history.honest(&Load::new(9, 1, 0, 64));
    if planted {
        let load = Load::new(1, 5, 200, 8);
        history.begin(&load);
        history.write(0, 200, &load.contents());
        history.end(&load);
    }
    history.quiet();
    history.power_off();
    let mut live = Judge::new(&history.header, false);
    let mut journal = Writer::new(Vec::new(), &history.header).unwrap();
    for event in &history.events {
        live.apply(event);
        journal.append(event).unwrap();
    }
    let journal = journal.finish().unwrap();
    let mut reader = Reader::new(&journal[..]).unwrap();
    let mut again = Judge::new(reader.header(), false);
    while let Some(event) = reader.next_event().unwrap() {
        again.apply(&event);
    }
    let verdict = live.finish();
    assert_eq!(verdict, again.finish(), "{watch}");
    let text = render(&history.header, &verdict, Style::Plain);
    (verdict, text)
}

#[test]
fn a_check_that_is_off_is_named_beside_the_word_clean() {
    let (verdict, _) = judged("all", true);
    assert_eq!(verdict.outcome, Outcome::Findings);
    assert!(verdict.coverage.blind.is_empty());
    let (verdict, text) = judged("no-buf-stable,no-fua-tail", false);
    assert_eq!(verdict.outcome, Outcome::Clean);
    assert_eq!(verdict.coverage.blind, ["buf-stable", "fua-tail"]);
    let line = text.lines().next().unwrap();
    assert!(
        line.ends_with("NOT WATCHED: buf-stable, fua-tail"),
        "{line}"
    );
    // Another check still sees the lost write.
    let (verdict, _) = judged("no-stamp,no-ack-all", true);
    assert_eq!(verdict.outcome, Outcome::Findings);
    assert!(
        verdict
            .findings
            .iter()
            .all(|found| found.check != Check::Stamp)
    );
}

#[test]
fn nothing_is_clean_when_nobody_looks_at_the_content() {
    for watch in ["no-crc", "no-shadow", "none", "dirty-first"] {
        let (verdict, text) = judged(watch, true);
        assert_eq!(verdict.outcome, Outcome::Inconclusive, "{watch}: {text}");
        assert!(verdict.findings.is_empty(), "{watch}: {text}");
        assert!(verdict.coverage.blind.contains(&"stamp".to_owned()));
        let line = text.lines().next().unwrap();
        assert!(line.contains("was not watched (--watch no-"), "{line}");
    }
    // The journal is no part of seeing.
    let (verdict, _) = judged("no-journal", true);
    assert_eq!(verdict.outcome, Outcome::Findings);
}

#[test]
fn a_guest_that_was_slowed_down_is_told_of() {
    let mut history = History::new(2, None);
    history.honest(&Load::new(9, 1, 0, 64));
    history.quiet();
    history.power_off();
    let no = EventNo(history.events.last().unwrap().no.0 + 1);
    let mut judge = Judge::new(&history.header, false);
    for event in &history.events {
        judge.apply(event);
    }
    judge.apply(&legwatch::event::Event {
        no,
        time_us: 0,
        what: What::Frontend {
            leg: LegId(0),
            change: FrontendChange::Waited { ms: 1234 },
        },
    });
    let verdict = judge.finish();
    assert_eq!(verdict.outcome, Outcome::Clean);
    assert!(
        verdict
            .notes
            .iter()
            .any(|note| note.contains("waited 1234 ms") && note.contains("no event was lost"))
    );
}
