//! Each planted violation is found, under its right name, with leg and range; and what is legal beside it is not.

use crate::history::{Block, History, Load, garbage};
use crate::told;
use legwatch::block::{Operation, Status};
use legwatch::event::{Action, Content, Decided, What};
use legwatch::finding::{Check, Confidence, Finding, Range, Wrongness};
use legwatch::mark::{IntentFlags, IntentKind, Mark, PageRun, Pages};
use legwatch::oracle::{Outcome, Verdict};
use legwatch::report::text::{Style, render};

/// Neighbours that are all right, before and behind what is planted.
pub(crate) fn around(history: &mut History) {
    history.honest(&Load::new(9, 1, 0, 64));
    history.honest(&Load::new(9, 2, 4000, 8));
}

pub(crate) fn finish(history: &mut History) -> Verdict {
    history.honest(&Load::new(9, 3, 5000, 16));
    history.quiet();
    history.power_off();
    history.verdict()
}

#[track_caller]
pub(crate) fn only(
    verdict: &Verdict,
    check: Check,
    kind: Wrongness,
    legs: &[&str],
    start: u64,
    count: u64,
) -> Finding {
    assert_eq!(verdict.outcome, Outcome::Findings, "{verdict:#?}");
    let finding = told::one(verdict);
    assert_eq!((finding.check, finding.kind), (check, kind), "{finding:#?}");
    assert_eq!(finding.legs, legs);
    assert_eq!(finding.array, [Range { start, count }]);
    assert_eq!(finding.confidence, Confidence::Proven);
    assert_eq!(verdict.exit_code(), 1);
    finding
}

#[test]
fn honest_traffic_is_clean() {
    let mut history = History::new(2, None);
    around(&mut history);
    let verdict = finish(&mut history);
    assert_eq!(verdict.outcome, Outcome::Clean, "{verdict:#?}");
    assert_eq!(verdict.coverage.sectors_intended, 88);
    assert_eq!(verdict.coverage.sectors_compared, 88);
    assert_eq!(verdict.coverage.legs[1].sectors_seen, 88);
    assert_eq!(verdict.coverage.quiet_reached, 1);
    let text = render(&history.header, &verdict, Style::Plain);
    assert!(
        text.starts_with("✓ clean: 3 writes, 88 of 88 sectors"),
        "{text}"
    );
}

#[test]
fn a_lost_write_on_one_leg() {
    let mut history = History::new(2, None);
    around(&mut history);
    let load = Load::new(1, 5, 200, 8);
    history.begin(&load);
    history.write(0, 200, &load.contents());
    history.end(&load);
    let verdict = finish(&mut history);
    let finding = only(&verdict, Check::Stamp, Wrongness::Absent, &["b"], 200, 8);
    assert!(finding.detail.contains("no request touched these sectors"));
}

#[test]
fn a_lost_part_of_a_write_on_one_leg() {
    let mut history = History::new(3, None);
    around(&mut history);
    let load = Load::new(1, 5, 200, 8);
    history.begin(&load);
    history.write(0, 200, &load.contents());
    history.write(1, 200, &load.contents());
    history.write(2, 200, &load.contents()[..5]);
    history.end(&load);
    let verdict = finish(&mut history);
    only(&verdict, Check::Stamp, Wrongness::Torn, &["c"], 205, 3);
}

#[test]
fn garbage_on_one_leg() {
    let mut history = History::new(2, None);
    around(&mut history);
    let load = Load::new(1, 5, 200, 8);
    history.begin(&load);
    history.write(0, 200, &load.contents());
    let mut bad = load.contents();
    bad[3] = garbage(1);
    history.write(1, 200, &bad);
    history.end(&load);
    let verdict = finish(&mut history);
    let finding = only(&verdict, Check::Stamp, Wrongness::Garbage, &["b"], 203, 1);
    let example = finding.example.unwrap();
    assert_eq!(example.expected.unwrap().what, "writer 1 #5");
    assert_eq!(example.legs[1].what, "content that is no stamp");
    assert!(
        example.legs[1]
            .bytes
            .as_ref()
            .unwrap()
            .starts_with("01a5a5")
    );
    assert!(example.legs[0].good);
    let text = render(&history.header, &verdict, Style::Plain);
    assert!(
        text.contains("leg b sector 2763 holds content that is no stamp; expected writer 1 #5"),
        "{text}"
    );
}

#[test]
fn garbage_identical_on_all_legs() {
    let mut history = History::new(2, None);
    around(&mut history);
    let load = Load::new(1, 5, 200, 8);
    let bad: Vec<Block> = (0..8).map(garbage).collect();
    history.begin(&load);
    history.write(0, 200, &bad);
    history.write(1, 200, &bad);
    history.end(&load);
    let verdict = finish(&mut history);
    only(
        &verdict,
        Check::Stamp,
        Wrongness::Garbage,
        &["a", "b"],
        200,
        8,
    );
}

#[test]
fn swapped_sectors_on_one_leg() {
    let mut history = History::new(2, None);
    around(&mut history);
    let load = Load::new(1, 5, 200, 8);
    history.begin(&load);
    history.write(0, 200, &load.contents());
    let mut swapped = load.contents();
    swapped.swap(2, 3);
    history.write(1, 200, &swapped);
    history.end(&load);
    let verdict = finish(&mut history);
    let finding = only(&verdict, Check::Stamp, Wrongness::Misplaced, &["b"], 202, 2);
    assert_eq!(
        finding.example.unwrap().legs[1].what,
        "writer 1 #5 of array sector 203"
    );
}

#[test]
fn an_older_version_on_one_leg() {
    let mut history = History::new(2, None);
    around(&mut history);
    let (old, new) = (Load::new(3, 118, 200, 8), Load::new(3, 119, 200, 8));
    history.honest(&old);
    history.begin(&new);
    history.write(0, 200, &new.contents());
    history.write(1, 200, &old.contents());
    history.end(&new);
    let verdict = finish(&mut history);
    let finding = only(&verdict, Check::Stamp, Wrongness::Older, &["b"], 200, 8);
    let text = render(&history.header, &verdict, Style::Plain);
    assert!(
        text.contains("holds writer 3 #118 of array sector 200; expected writer 3 #119"),
        "{text}"
    );
    assert!(finding.story.iter().any(|line| line.what.contains("WRITE")));
    // Whoever opens the report sees the first wrong request before having to scroll, and what the wrong bytes are.
    let first = finding.first_wrong.unwrap();
    assert!(first.what.starts_with("request ") && first.what.contains("on leg b"));
    let screen: Vec<&str> = text.lines().take(24).collect();
    assert!(screen[1].contains(&first.what), "{text}");
    assert!(text.contains("^ the first wrong one"), "{text}");
    assert!(text.contains("looks like an older version of this sector, whole; 7."));
    assert!(text.contains("sector 200, #119") && text.contains("sector 200, #118"));
    assert!(text.contains("= promise: ") && text.contains("= explain: legwatch explain stamp"));
}

#[test]
fn a_story_tells_what_rules_did_and_what_the_console_said() {
    let mut history = History::new(2, None);
    history.header.rules.push(legwatch::header::RuleHead {
        name: "slow".into(),
        may_not_fire: true,
    });
    around(&mut history);
    let load = Load::new(3, 119, 200, 8);
    history.begin(&load);
    history.write(0, 200, &load.contents());
    history.push(What::Console {
        line: "md/raid1: something odd".into(),
    });
    let request = history.arrive(1, Operation::Write, 200, 4);
    history.push(What::Decided(Decided {
        request,
        rule: 0,
        action: Action::Delay { ms: 7 },
    }));
    history.fetch(request, &load.contents()[..4]);
    history.complete(request);
    history.end(&load);
    let verdict = finish(&mut history);
    let finding = verdict.findings.first().unwrap();
    let told = |leg: &str, what: &str| {
        finding
            .story
            .iter()
            .any(|line| line.leg == leg && line.what.contains(what))
    };
    assert!(told("console", "md/raid1: something odd"));
    assert!(
        told("b", "fault `slow` holds the answer back for 7 ms"),
        "{:#?}",
        finding.story
    );
    assert!(told("guest", "writer 3 #119 begins"));
    let order: Vec<u64> = finding.story.iter().map(|line| line.event).collect();
    assert!(order.is_sorted());
}

#[test]
fn an_older_version_that_comes_back_after_the_acknowledgement() {
    let mut history = History::new(2, None);
    around(&mut history);
    let (old, new) = (Load::new(3, 118, 200, 8), Load::new(3, 119, 200, 8));
    history.honest(&old);
    history.honest(&new);
    history.write(1, 200, &old.contents());
    let verdict = finish(&mut history);
    only(&verdict, Check::Stamp, Wrongness::Older, &["b"], 200, 8);
}

#[test]
fn a_buffer_changed_in_flight() {
    let mut history = History::new(2, None);
    around(&mut history);
    let load = Load::new(1, 5, 200, 8);
    history.begin(&load);
    history.write(0, 200, &load.contents());
    let request = history.arrive(1, Operation::Write, 200, 8);
    history.fetch(request, &load.contents());
    let mut now = load.contents();
    now[6] = garbage(9);
    let digests = now.iter().map(|block| crc32fast::hash(block)).collect();
    history.complete_with(request, Status::Ok, Content::Changed(digests));
    history.end(&load);
    let verdict = finish(&mut history);
    only(
        &verdict,
        Check::BufStable,
        Wrongness::Changed,
        &["b"],
        206,
        1,
    );
}

#[test]
fn a_reused_buffer_changed_in_flight_is_excused() {
    let mut history = History::new(2, None);
    around(&mut history);
    let mut load = Load::new(1, 5, 200, 8);
    load.flags = IntentFlags::default();
    history.begin(&load);
    history.write(0, 200, &load.contents());
    let request = history.arrive(1, Operation::Write, 200, 8);
    history.fetch(request, &load.contents());
    history.complete_with(
        request,
        Status::Ok,
        Content::Changed([1; 8].into_iter().collect()),
    );
    history.end(&load);
    let verdict = finish(&mut history);
    assert!(verdict.findings.is_empty(), "{verdict:#?}");
}

#[test]
fn acknowledged_before_a_leg_had_it() {
    let mut history = History::new(2, None);
    around(&mut history);
    let load = Load::new(1, 5, 200, 8);
    history.begin(&load);
    history.write(0, 200, &load.contents());
    let request = history.arrive(1, Operation::Write, 200, 8);
    history.fetch(request, &load.contents());
    history.end(&load);
    history.complete(request);
    let verdict = finish(&mut history);
    only(&verdict, Check::AckAll, Wrongness::Early, &["b"], 200, 8);
}

#[test]
fn acknowledged_before_a_write_behind_leg_had_it_is_legal() {
    let mut history = History::new(2, Some(1));
    around(&mut history);
    let load = Load::new(1, 5, 200, 8);
    history.begin(&load);
    history.write(0, 200, &load.contents());
    history.end(&load);
    let request = history.arrive(1, Operation::Write, 200, 8);
    history.fetch(request, &load.contents());
    history.complete(request);
    let verdict = finish(&mut history);
    assert_eq!(verdict.outcome, Outcome::Clean, "{verdict:#?}");
    assert_eq!(verdict.coverage.writes_behind, 1);
    assert!(verdict.coverage.behind_longest_us > 0);
    assert_eq!(verdict.coverage.sectors_compared, 96);
}

#[test]
fn reads_instead_of_writes_on_both_legs() {
    let mut history = History::new(2, Some(1));
    around(&mut history);
    for at in 0..64u64 {
        let load = Load::new(1, at + 1, 1000 + 8 * at, 8);
        history.begin(&load);
        history.read(0, load.sector, 8);
        history.read(1, load.sector, 8);
        history.end(&load);
    }
    let verdict = finish(&mut history);
    let finding = only(
        &verdict,
        Check::Stamp,
        Wrongness::Absent,
        &["a", "b"],
        1000,
        512,
    );
    assert_eq!(finding.headline, "64 writes never reached a leg");
    assert_eq!(verdict.coverage.writes_behind, 0, "lost is not behind");
    assert!(
        finding.detail.starts_with(
            "legs a, b: absent; both legs got a READ of these sectors between issue and acknowledgement (#"
        ),
        "{}",
        finding.detail
    );
    // The request that came in the first one's place is named.
    let first = finding.first_wrong.as_ref().unwrap();
    assert!(
        first.what.starts_with("request ")
            && first.what.contains(" on leg a (#")
            && first.what.contains("READ ")
            && first
                .what
                .contains("in place of writer 1 #1 (array 1000+8, begun #")
            && first.what.ends_with("leg a never got it"),
        "{first:?}"
    );
    assert!(finding.story.iter().any(|line| line.event == first.event));
    let text = render(&history.header, &verdict, Style::Plain);
    assert!(
        text.contains("✗ 64 writes never reached a leg   array 1000+512   legs a, b"),
        "{text}"
    );
}

#[test]
fn a_discard_on_one_leg_only() {
    let mut history = History::new(2, None);
    around(&mut history);
    history.honest(&Load::new(1, 1, 200, 16));
    let discard = Load::new(1, 2, 200, 16).kind(IntentKind::Discard);
    history.begin(&discard);
    history.discard(0, 200, 16);
    history.end(&discard);
    let verdict = finish(&mut history);
    assert_eq!(verdict.outcome, Outcome::Findings);
    assert!(
        verdict
            .findings
            .iter()
            .all(|f| f.check == Check::DiscardAll && f.legs == ["b"]),
        "{:#?}",
        verdict.findings
    );
    assert_eq!(
        verdict.findings[0].array,
        [Range {
            start: 200,
            count: 16
        }]
    );
}

#[test]
fn a_write_without_intents_that_one_leg_never_got() {
    let mut history = History::new(2, None);
    around(&mut history);
    let blocks: Vec<Block> = (0..8).map(garbage).collect();
    history.write(0, 300, &blocks);
    history.write(1, 300, &blocks[..4]);
    let verdict = finish(&mut history);
    only(&verdict, Check::AllLegs, Wrongness::Absent, &["b"], 304, 4);
}

#[test]
fn different_content_without_intents_is_suspect() {
    let mut history = History::new(2, None);
    around(&mut history);
    history.write(0, 300, &[garbage(1)]);
    history.write(1, 300, &[garbage(2)]);
    let verdict = finish(&mut history);
    assert_eq!(verdict.outcome, Outcome::Clean, "{verdict:#?}");
    assert_eq!(verdict.findings[0].check, Check::SameData);
    assert_eq!(verdict.findings[0].confidence, Confidence::Suspect);
    assert_eq!(verdict.strict().exit_code(), 1);
}

#[test]
fn different_content_from_the_same_pages_is_excused() {
    let mut history = History::new(2, None);
    around(&mut history);
    for leg in 0..2 {
        let request = history.arrive_from(
            leg,
            Operation::Write,
            crate::history::data_offset(leg) + 300,
            1,
            0x5000,
        );
        history.fetch(request, &[garbage(leg)]);
        history.complete(request);
    }
    let verdict = finish(&mut history);
    assert!(verdict.findings.is_empty(), "{verdict:#?}");
    assert_eq!(verdict.coverage.excused.get(&12), Some(&1));
    // The requests that brought the different contents are named, in the text too.
    let first = &verdict.coverage.excused_first[&12];
    assert!(
        first.what.starts_with("array sector 300: request ")
            && first.what.contains(" on leg a (#")
            && first.what.contains("; request ")
            && first.what.contains(" on leg b (#"),
        "{first:?}"
    );
    let text = render(&history.header, &verdict, Style::Plain);
    assert!(text.contains(&format!("first: {}", first.what)), "{text}");
}

#[test]
fn a_leg_that_failed_before_md_could_record_it_is_excused() {
    let mut history = History::new(2, None);
    around(&mut history);
    history.superblocks(false);
    let load = Load::new(1, 5, 200, 8);
    history.begin(&load);
    history.write(0, 200, &load.contents());
    history.end(&load);
    history.bump();
    history.superblock(0, false, &[0, 0xfffe]);
    history.failed = Some(1);
    history.honest(&Load::new(1, 6, 300, 8));
    history.bump();
    history.superblock(0, true, &[0, 0xfffe]);
    history.bump();
    history.superblock(0, false, &[0, 0xfffe]);
    let verdict = finish(&mut history);
    assert!(verdict.findings.is_empty(), "{verdict:#?}");
    assert_eq!(verdict.coverage.excused.get(&7), Some(&8));
}

#[test]
fn a_write_that_we_failed_on_one_leg_is_excused() {
    let mut history = History::new(2, None);
    around(&mut history);
    let load = Load::new(1, 5, 200, 8);
    history.begin(&load);
    history.write(0, 200, &load.contents());
    let request = history.arrive(1, Operation::Write, 200, 8);
    let mut other = load.contents();
    other[0] = garbage(1);
    history.fetch(request, &other);
    history.complete_with(request, Status::IoErr, Content::NotTaken);
    history.record_bad(1, crate::history::data_offset(1) + 200, 8);
    history.end(&load);
    let verdict = finish(&mut history);
    assert!(verdict.findings.is_empty(), "{verdict:#?}");
}

#[test]
fn pages_tell_copies_from_the_writers_own() {
    let mut history = History::new(2, None);
    history.mark(Mark::Pages(Pages {
        writer: 1,
        slot: 0,
        first_page: 0,
        pinned: true,
        runs: vec![PageRun {
            frame: 0x700,
            count: 1,
        }],
    }));
    let load = Load::new(1, 1, 200, 8);
    history.begin(&load);
    for (leg, gpa) in [(0, 0x70_0000), (1, 0x90_0000)] {
        let request = history.arrive_from(
            leg,
            Operation::Write,
            crate::history::data_offset(leg) + 200,
            8,
            gpa,
        );
        history.fetch(request, &load.contents());
        history.complete(request);
    }
    history.end(&load);
    let verdict = finish(&mut history);
    assert_eq!(verdict.outcome, Outcome::Clean);
    assert_eq!(
        (
            verdict.coverage.legs[0].pages_own,
            verdict.coverage.legs[0].pages_copied
        ),
        (8, 0)
    );
    assert_eq!(
        (
            verdict.coverage.legs[1].pages_own,
            verdict.coverage.legs[1].pages_copied
        ),
        (0, 8)
    );
}

#[test]
fn reads_instead_of_writes_that_are_overwritten_before_the_lagging_leg_is_judged() {
    let mut history = History::new(2, Some(1));
    around(&mut history);
    for at in 0..64u64 {
        let load = Load::new(1, at + 1, 1000 + 8 * (at % 16), 8);
        history.begin(&load);
        history.read(0, load.sector, 8);
        history.read(1, load.sector, 8);
        history.end(&load);
    }
    let verdict = finish(&mut history);
    let finding = only(
        &verdict,
        Check::Stamp,
        Wrongness::Absent,
        &["a", "b"],
        1000,
        128,
    );
    assert_eq!(finding.headline, "64 writes never reached a leg");
}

#[test]
fn buffered_writes_are_judged_at_the_flush() {
    let buffered = |writer, sequence, sector| {
        let mut load = Load::new(writer, sequence, sector, 8);
        load.flags = IntentFlags {
            buffered: true,
            ..IntentFlags::default()
        };
        load
    };
    let flush = |sequence| Load {
        count: 0,
        ..Load::new(1, sequence, 0, 0).kind(IntentKind::Flush)
    };
    let mut history = History::new(2, None);
    around(&mut history);
    // Two writes to one place, of which the page cache sends the last; and one that leg b never gets.
    let (first, second, lost) = (
        buffered(1, 1, 200),
        buffered(1, 2, 200),
        buffered(1, 3, 300),
    );
    for load in [first, second, lost] {
        history.begin(&load);
        history.end(&load);
    }
    history.begin(&flush(4));
    for leg in 0..2 {
        history.write(leg, 200, &second.contents());
    }
    history.write(0, 300, &lost.contents());
    history.flush(0);
    history.flush(1);
    history.end(&flush(4));
    let found = history.events.len();
    let verdict = finish(&mut history);
    let finding = only(&verdict, Check::Stamp, Wrongness::Absent, &["b"], 300, 8);
    assert_eq!(finding.first, history.events[found - 1].no.0);
}
