//! report.html of large runs: it stays small, keeps what is near a finding, and escapes what the guest says.

use crate::history::{History, Load};
use legwatch::event::What;
use legwatch::mark::Mark;
use legwatch::oracle::Verdict;
use legwatch::picture::{Painter, Picture};
use legwatch::report::html;
use legwatch::report::json::Report;
use legwatch::report::text::{Style, render};

fn picture(history: &History, verdict: &Verdict) -> Picture {
    let mut painter = Painter::new(&history.header, verdict);
    for event in &history.events {
        painter.apply(event);
    }
    painter.finish()
}

/// More than 20,000 requests, with one write lost in the middle.
fn long() -> (History, Verdict) {
    let mut history = History::with_bitmap(2, None);
    for at in 0..12_000u64 {
        let load = Load::new(1, at + 1, at * 8 % 8000, 8);
        if at == 7000 {
            history.begin(&load);
            history.write(0, load.sector, &load.contents());
            history.end(&load);
            history.quiet();
        } else {
            history.honest(&load);
        }
    }
    history.superblocks(true);
    history.quiet();
    history.power_off();
    let verdict = history.verdict();
    (history, verdict)
}

#[test]
fn a_long_run_is_binned_and_the_neighbourhood_of_its_finding_is_whole() {
    let (history, verdict) = long();
    let finding = verdict.findings.first().expect("a lost write is found");
    let first = finding.first_wrong.as_ref().unwrap();
    let picture = picture(&history, &verdict);
    assert!(!picture.whole && picture.requests.len() < 20_000);
    let ended: u32 = picture.bins.legs[0].writes.iter().sum();
    assert!(ended >= 12_000, "every write is in a bin, {ended}");
    assert!(picture.bins.used <= 2048);
    // The four requests that follow the lost write's begin are all there.
    let near = picture
        .requests
        .iter()
        .filter(|row| row.8.abs_diff(first.event) <= 400)
        .count();
    assert!(near >= 1, "{near}");
    let found = picture.found_us.first().unwrap();
    assert!(found.0 > 0 && found.0 <= picture.span_us);
    // Leg b got the same data later, mostly.
    assert!(picture.lag[1].buckets.iter().sum::<u64>() > 10_000);
    assert!(
        picture
            .moments
            .iter()
            .any(|moment| moment.text.contains("bits set"))
    );
    assert!(
        picture
            .moments
            .iter()
            .any(|moment| moment.text.contains("superblock: events"))
    );
    let page = html::render(&history.header, &verdict, &picture);
    assert!(page.len() < 5 << 20, "{} bytes", page.len());
}

#[test]
fn ten_thousand_findings_fit_into_a_page() {
    let (history, mut verdict) = long();
    let one = verdict.findings[0].clone();
    verdict.findings = (0..10_000)
        .map(|at| {
            let mut finding = one.clone();
            finding.id = format!("{}-{at}", one.id);
            finding
        })
        .collect();
    let picture = picture(&history, &verdict);
    let page = html::render(&history.header, &verdict, &picture);
    assert!(page.len() < 5 << 20, "{} bytes", page.len());
    assert!(page.contains("more in report.json"));
    let text = legwatch::report::text::render(
        &history.header,
        &verdict,
        legwatch::report::text::Style::Plain,
    );
    assert!(text.contains("and 9800 more; report.json has them all"));
}

#[test]
fn maps_tell_what_the_legs_hold() {
    let (_, verdict) = long();
    let [a, b] = &verdict.maps[..] else {
        panic!("two legs have two maps");
    };
    assert_eq!((a.name.as_str(), b.name.as_str()), ("a", "b"));
    assert!(a.metadata.sectors > 0 && a.data.is_some());
    assert_eq!(a.wrong.sectors, 0);
    // Seven thousand writes later its place was written again, on both legs: the finding stays, the content is equal.
    assert_eq!(b.wrong.sectors, 8);
    assert_eq!(a.equal.sectors, 8000);
}

#[test]
fn what_the_guest_says_is_escaped() {
    let mut history = History::new(2, None);
    let hostile = "</script><script>alert(1)</script><b>&\u{2028}";
    history.push(What::Console {
        line: hostile.into(),
    });
    history.header.scenario = format!("name = \"{hostile}\"");
    history.honest(&Load::new(1, 1, 8, 8));
    history.quiet();
    history.power_off();
    let mut verdict = history.verdict();
    verdict.notes.push(hostile.into());
    let page = html::render(&history.header, &verdict, &picture(&history, &verdict));
    assert_eq!(page.matches("<script").count(), 2);
    assert!(!page.contains("<b>&") && page.contains("&lt;b&gt;&amp;"));
    assert!(page.contains("\\u003c/script\\u003e") && !page.contains("\u{2028}\""));
    for word in ["http://", "https://", "src="] {
        // The one address in the page is the name of SVG's elements.
        let found = page.matches(word).count();
        assert!(found == usize::from(word == "http://"), "{word}: {found}");
    }
}

/// Text that a guest, or whoever hands a journal on, has a say in never moves a terminal's cursor, ends a line, or turns its direction.
#[test]
fn report_txt_spells_out_what_would_steer_a_terminal() {
    const HOSTILE: &str = "a\u{1b}[2J\u{1b}[1;32m\u{9b}H\n✓ clean\r\u{202e}\u{2028}\u{7}b";
    let mut history = History::with_bitmap(2, None);
    history.header.reproduce = HOSTILE.into();
    history.header.provenance = serde_json::json!({ HOSTILE: HOSTILE });
    history.push(What::Console {
        line: HOSTILE.into(),
    });
    for name in ["kernel.cmdline", HOSTILE] {
        history.mark(Mark::Fact {
            name: name.into(),
            value: HOSTILE.into(),
        });
    }
    let lost = Load::new(1, 1, 800, 8);
    history.begin(&lost);
    history.write(0, 800, &lost.contents());
    history.push(What::Hand {
        what: HOSTILE.into(),
        added: Vec::new(),
    });
    history.mark(Mark::StepEnd {
        step: 0,
        ok: false,
        detail: HOSTILE.into(),
    });
    history.end(&lost);
    // A leg that holds text.
    let odd = Load::new(1, 2, 1600, 1);
    history.begin(&odd);
    let mut held = [b' '; 512];
    held[..HOSTILE.len()].copy_from_slice(HOSTILE.as_bytes());
    history.write(0, 1600, &odd.contents());
    history.write(1, 1600, &[held]);
    history.end(&odd);
    history.quiet();
    history.superblocks(true);
    history.power_off();
    let mut verdict = history.verdict();
    verdict.notes.push(HOSTILE.into());
    verdict.reasons.push(HOSTILE.into());
    assert!(verdict.findings.len() >= 2, "{verdict:#?}");
    verdict.findings[0].headline.push_str(HOSTILE);
    verdict.findings[0].notes.push(HOSTILE.into());
    for style in [Style::Plain, Style::Colour] {
        let text = render(&history.header, &verdict, style);
        assert!(
            text.contains("a\\u{1b}[2J") && text.contains("\\u{202e}"),
            "{text}"
        );
        for line in text.lines() {
            let own = [
                "\u{1b}[0m",
                "\u{1b}[1m",
                "\u{1b}[2m",
                "\u{1b}[1;31m",
                "\u{1b}[1;32m",
            ];
            let rest = match style {
                Style::Plain => line.to_owned(),
                Style::Colour => own
                    .iter()
                    .fold(line.to_owned(), |line, code| line.replace(code, "")),
            };
            let steers = |c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{202e}');
            assert!(!rest.contains(steers), "{line:?}");
            assert!(!rest.starts_with('✓'), "{line:?}");
        }
    }
    let json = Report::new(&history.header, &verdict).render();
    assert!(
        !json.contains(['\u{1b}', '\u{7}', '\r']),
        "JSON spells them out itself"
    );
}
