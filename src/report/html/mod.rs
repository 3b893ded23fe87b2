//! The report for a browser: one file with everything in it, no network. The page is readable without its script; timeline, maps and histograms
//! are drawn by it from the data in the page. The template escapes whatever it is given, and so does [`embedded`].

use serde::Serialize;
use serde_json::{Value, json};

use crate::finding::{Cause, Confidence, Finding, Range, StoryLine};
use crate::header::RunHeader;
use crate::oracle::excuse::Excuse;
use crate::oracle::{Layer, LegMap, Verdict};
use crate::picture::Picture;
use crate::report::facts;
use crate::report::json::Report;
use crate::report::text::{self, Style};

/// Findings that have a card of their own.
const CARDS_MAX: usize = 150;
/// More findings that have a line.
const LINES_MAX: usize = 1500;
/// Lines of a story in a card.
const STORY_MAX: usize = 48;
/// Ranges of a finding that the script knows.
const RANGES_MAX: usize = 400;

const PAGE: &str = include_str!("page.html");
const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("page.js");

/// A finding's card.
#[derive(Debug, Serialize)]
struct Card<'a> {
    at: usize,
    finding: &'a Finding,
    check: &'a str,
    kind: &'a str,
    sure: &'a str,
    place: String,
    injected: bool,
    known: Option<&'a str>,
    story: Vec<Told<'a>>,
    story_more: usize,
    diff: Vec<Hex>,
}

#[derive(Debug, Serialize)]
struct Told<'a> {
    event: u64,
    time: String,
    who: String,
    class: &'a str,
    what: &'a str,
    hit: bool,
}

#[derive(Debug, Serialize)]
struct Hex {
    class: &'static str,
    text: String,
}

/// The whole page.
///
/// # Panics
/// If the page's own template is broken.
pub fn render(header: &RunHeader, verdict: &Verdict, picture: &Picture) -> String {
    let report = Report::new(header, verdict);
    let all = || verdict.findings.iter().chain(&verdict.known);
    let count = verdict.findings.len() + verdict.known.len();
    let cards: Vec<Card<'_>> = all()
        .enumerate()
        .take(CARDS_MAX)
        .map(|(at, finding)| card(at, finding))
        .collect();
    let lines: Vec<Value> = all()
        .enumerate()
        .skip(CARDS_MAX)
        .take(LINES_MAX)
        .map(|(at, finding)| {
            json!({ "at": at, "first": finding.first, "text": text::summary(finding, Style::Plain) })
        })
        .collect();
    let coverage = &verdict.coverage;
    let excuses: Vec<Value> = coverage
        .excused
        .iter()
        .map(|(case, count)| {
            let first = coverage.excused_first.get(case).map(|first| &first.what);
            json!({ "case": case, "count": count, "why": Excuse::why(*case), "first": first })
        })
        .collect();
    let release = header.provenance.get("release").and_then(Value::as_str);
    let context = json!({
        "style": STYLE,
        "script": SCRIPT,
        "data": embedded(&data(header, verdict, picture)),
        "verdict": text::verdict_line(verdict, Style::Plain),
        "first": text::first_wrong(verdict).map(|(at, first)| json!({ "at": at, "what": first })),
        "scenario_name": scenario_name(header),
        "scenario": header.scenario,
        "release": release,
        "report": slim(&report),
        "cards": cards,
        "cards_more": count.saturating_sub(CARDS_MAX),
        "lines": lines,
        "lines_more": count.saturating_sub(CARDS_MAX + LINES_MAX),
        "tiles": tiles(verdict),
        "excuses": excuses,
        "passes": text::passes(&verdict.coverage),
        "checks": verdict.coverage.triggered.iter().collect::<Vec<_>>(),
        "facts": facts::provenance(header, &verdict.coverage),
        "others": facts::others(&verdict.coverage).collect::<Vec<_>>(),
    });
    let mut environment = minijinja::Environment::new();
    environment.add_filter("bits", |millibits: u32| {
        format!("{:.2}", f64::from(millibits) / 1000.0)
    });
    environment
        .add_template("page.html", PAGE)
        .expect("the page's template is in the program");
    environment
        .get_template("page.html")
        .and_then(|page| page.render(minijinja::value::Serde(&context)))
        .expect("the page's template fits its data")
}

/// The report without what the cards have.
fn slim(report: &Report) -> Value {
    json!({
        "outcome": report.outcome,
        "seed": report.seed.to_string(),
        "reproduce": report.reproduce,
        "reasons": report.reasons,
        "notes": report.notes,
        "coverage": report.coverage,
        "findings": vec![0; report.findings.len()],
    })
}

fn card(at: usize, finding: &Finding) -> Card<'_> {
    let first = finding.first_wrong.as_ref().map(|first| first.event);
    let centre = finding
        .story
        .partition_point(|line| first.is_some_and(|first| line.event < first));
    let begin = centre
        .saturating_sub(STORY_MAX / 3)
        .min(finding.story.len().saturating_sub(STORY_MAX));
    let told = |line: &'_ StoryLine| -> (bool, String) {
        (
            Some(line.event) == first,
            format!(
                "{:.6} s",
                std::time::Duration::from_micros(line.time_us).as_secs_f64()
            ),
        )
    };
    let story = finding.story[begin..]
        .iter()
        .take(STORY_MAX)
        .map(|line| {
            let (hit, time) = told(line);
            Told {
                event: line.event,
                time,
                who: text::who(line),
                class: match line.leg.as_str() {
                    "console" => "console",
                    "guest" | "ctl" => "guest",
                    _ => "leg",
                },
                what: &line.what,
                hit,
            }
        })
        .collect::<Vec<_>>();
    let diff = finding.example.as_ref().and_then(text::diff).map_or_else(
        Vec::new,
        |(good, wrong, lines)| {
            let title = Hex {
                class: "faint",
                text: format!("- {good}   + leg {wrong}"),
            };
            let line = |text: String| Hex {
                class: match text.as_bytes().first() {
                    Some(b'-') => "del",
                    Some(b'+') => "add",
                    _ => "",
                },
                text,
            };
            std::iter::once(title)
                .chain(lines.into_iter().map(line))
                .collect()
        },
    );
    Card {
        at,
        finding,
        check: finding.check.name(),
        kind: finding.kind.name(),
        sure: match finding.confidence {
            Confidence::Proven => "proven",
            Confidence::Suspect => "suspect",
        },
        place: text::place(finding),
        injected: finding.cause == Cause::Injected,
        known: finding.known.as_deref(),
        story_more: finding.story.len() - story.len(),
        story,
        diff,
    }
}

/// What the script draws from.
fn data(header: &RunHeader, verdict: &Verdict, picture: &Picture) -> Value {
    let leg_at = |name: &str| header.legs.iter().position(|leg| leg.config.name == name);
    let findings: Vec<Value> = verdict
        .findings
        .iter()
        .chain(&verdict.known)
        .zip(&picture.found_us)
        .take(CARDS_MAX + LINES_MAX)
        .enumerate()
        .map(|(at, (finding, found))| {
            let first = finding.first_wrong.as_ref();
            let us = first.map_or(found.0, |first| first.time_us);
            let most = if at < CARDS_MAX { RANGES_MAX } else { 4 };
            let legs: Vec<(usize, u64, u64)> = finding
                .leg_ranges
                .iter()
                .filter_map(|range| Some((leg_at(&range.leg)?, range.start, range.count)))
                .take(most)
                .collect();
            let story_us = finding
                .story
                .iter()
                .map(|line| line.time_us.abs_diff(us))
                .max();
            json!({
                "headline": finding.headline,
                "us": us,
                "event": first.map_or(finding.first, |first| first.event),
                "first": finding.first,
                "around": story_us.unwrap_or(0),
                "suspect": finding.confidence == Confidence::Suspect,
                "known": finding.known.is_some(),
                "legs": legs,
            })
        })
        .collect();
    let maps: Vec<Value> = verdict.maps.iter().map(map).collect();
    json!({ "picture": picture, "maps": maps, "findings": findings })
}

fn map(map: &LegMap) -> Value {
    let pair = |range: &Range| (range.start, range.count);
    let layer = |layer: &Layer| {
        let ranges: Vec<(u64, u64)> = layer.ranges.iter().map(pair).collect();
        json!({ "ranges": ranges, "sectors": layer.sectors, "closed": layer.closed })
    };
    json!({
        "name": map.name,
        "sectors": map.sectors,
        "data": map.data.as_ref().map(pair),
        "metadata": layer(&map.metadata),
        "written": layer(&map.written),
        "equal": layer(&map.equal),
        "different": layer(&map.different),
        "excused": layer(&map.excused),
        "faulted": layer(&map.faulted),
        "wrong": layer(&map.wrong),
    })
}

/// JSON that can stand in a script element, whatever its strings hold: outside strings JSON has none of these characters.
fn embedded(value: &Value) -> String {
    let json = value.to_string();
    let mut out = String::with_capacity(json.len() + json.len() / 16);
    for c in json.chars() {
        match c {
            '<' => out.push_str("\\u003c"),
            '>' => out.push_str("\\u003e"),
            '&' => out.push_str("\\u0026"),
            '\u{2028}' => out.push_str("\\u2028"),
            '\u{2029}' => out.push_str("\\u2029"),
            other => out.push(other),
        }
    }
    out
}

fn tiles(verdict: &Verdict) -> Vec<Value> {
    let coverage = &verdict.coverage;
    let tile = |name: &str, value: String| json!({ "name": name, "value": value });
    let behind = if coverage.writes_behind > 0 {
        coverage.writes_behind.to_string()
    } else {
        "none".into()
    };
    vec![
        tile(
            "writes acknowledged",
            coverage.writes_acknowledged.to_string(),
        ),
        tile(
            "sectors compared on all legs",
            format!(
                "{} of {}",
                coverage.sectors_compared, coverage.sectors_intended
            ),
        ),
        tile("twins compared", coverage.twins_compared.to_string()),
        tile(
            "sectors excused",
            coverage.excused.values().sum::<u64>().to_string(),
        ),
        tile("writes left behind", behind),
        tile(
            "quiet points reached, missed",
            format!(
                "{} · {}",
                coverage.quiet_reached,
                coverage.quiet_missed.len()
            ),
        ),
        tile(
            "sectors read back right, wrong",
            format!("{} · {}", coverage.read_back_good, coverage.read_back_bad),
        ),
        tile(
            "flushes, discards",
            format!(
                "{} · {}",
                coverage.flushes_acknowledged, coverage.discards_acknowledged
            ),
        ),
        tile("events", coverage.events.to_string()),
        tile("boots", coverage.boots.to_string()),
    ]
}

/// The scenario's own name; `serve` without one.
fn scenario_name(header: &RunHeader) -> String {
    let name = header.scenario.lines().find_map(|line| {
        let value = line
            .trim()
            .strip_prefix("name")?
            .trim_start()
            .strip_prefix('=')?;
        Some(value.trim().trim_matches('"').to_owned())
    });
    name.unwrap_or_else(|| "serve".into())
}
