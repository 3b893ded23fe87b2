//! report.html of large runs: it stays small, keeps what is near a finding, and escapes what the guest says.

use crate::history::{History, Load};
use legwatch::event::What;
use legwatch::oracle::Verdict;
use legwatch::picture::{Painter, Picture};
use legwatch::report::html;

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
