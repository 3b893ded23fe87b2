//! The report for people: verdict line, findings in the order of the sequence, then what was exercised.

use std::fmt::Write as _;

use super::hexdump;
use crate::finding::{Cause, Confidence, Example, Finding, Holding, StoryLine};
use crate::header::RunHeader;
use crate::oracle::excuse::Excuse;
use crate::oracle::{Coverage, FaultCoverage, LegCoverage, Outcome, Verdict};

/// Findings that are laid out in full; more are told in a line each.
const FULL_MAX: usize = 20;
/// Lines of a story that are shown.
const STORY_MAX: usize = 32;
/// Ranges that are shown.
const RANGES_MAX: usize = 8;

/// Colours, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Plain text.
    Plain,
    /// ANSI colours.
    Colour,
}

impl Style {
    fn paint(self, code: &str, text: &str) -> String {
        match self {
            Style::Plain => text.to_owned(),
            Style::Colour => format!("\x1b[{code}m{text}\x1b[0m"),
        }
    }

    fn bold(self, text: &str) -> String {
        self.paint("1", text)
    }

    fn red(self, text: &str) -> String {
        self.paint("1;31", text)
    }

    fn green(self, text: &str) -> String {
        self.paint("1;32", text)
    }

    fn yellow(self, text: &str) -> String {
        self.paint("1;33", text)
    }

    fn faint(self, text: &str) -> String {
        self.paint("2", text)
    }
}

/// The whole report.
pub fn render(header: &RunHeader, verdict: &Verdict, style: Style) -> String {
    let mut out = String::new();
    out.push_str(&verdict_line(verdict, style));
    out.push('\n');
    for (at, finding) in verdict.findings.iter().enumerate() {
        if at < FULL_MAX {
            out.push('\n');
            full(&mut out, finding, style);
        } else {
            line(&mut out, &summary(finding, style));
        }
    }
    if !verdict.known.is_empty() {
        out.push('\n');
        line(
            &mut out,
            &style.bold("known of this kernel, not counted (--no-known counts it)"),
        );
        for finding in &verdict.known {
            let id = finding.known.as_deref().unwrap_or("?");
            line(&mut out, &format!("  {id}: {}", summary(finding, style)));
            for note in finding.notes.iter().take(1) {
                line(&mut out, &format!("    {note}"));
            }
        }
    }
    if !verdict.reasons.is_empty() {
        out.push('\n');
        let title = if verdict.outcome == Outcome::Findings {
            "besides"
        } else {
            "why it cannot be told"
        };
        line(&mut out, &style.bold(title));
        for reason in &verdict.reasons {
            line(&mut out, &format!("  - {reason}"));
        }
    }
    out.push('\n');
    coverage(&mut out, &verdict.coverage, style);
    for note in &verdict.notes {
        line(&mut out, &format!("  note: {note}"));
    }
    provenance(&mut out, header, style);
    out
}

/// The one line that says it all.
pub fn verdict_line(verdict: &Verdict, style: Style) -> String {
    let coverage = &verdict.coverage;
    match verdict.outcome {
        Outcome::Clean => style.green(&format!(
            "✓ clean: {} writes, {} of {} sectors compared on all legs{}",
            coverage.writes_acknowledged,
            coverage.sectors_compared,
            coverage.sectors_intended,
            suspects(verdict)
        )),
        Outcome::Findings => {
            let proven = verdict
                .findings
                .iter()
                .filter(|finding| finding.confidence == Confidence::Proven && decides(finding))
                .count();
            let decided = if proven > 0 {
                proven
            } else {
                verdict.findings.iter().filter(|one| decides(one)).count()
            };
            style.red(&format!(
                "✗ {decided} {}{}",
                if decided == 1 { "finding" } else { "findings" },
                if proven > 0 {
                    suspects(verdict)
                } else {
                    String::new()
                }
            ))
        }
        Outcome::Inconclusive => style.yellow(&format!(
            "? inconclusive: {}{}",
            verdict
                .reasons
                .first()
                .map_or("no reason known", String::as_str),
            suspects(verdict)
        )),
    }
}

fn suspects(verdict: &Verdict) -> String {
    let count = verdict
        .findings
        .iter()
        .filter(|finding| finding.confidence == Confidence::Suspect && decides(finding))
        .count();
    let injected = verdict.findings.iter().filter(|one| !decides(one)).count();
    let suspects = match count {
        0 => String::new(),
        1 => " (and 1 suspect, which does not decide)".into(),
        many => format!(" (and {many} suspects, which do not decide)"),
    };
    match injected {
        0 => suspects,
        many => format!("{suspects} (and {many} injected)"),
    }
}

/// What a rule caused does not decide.
fn decides(finding: &Finding) -> bool {
    finding.cause != Cause::Injected
}

fn fault_line(fault: &FaultCoverage) -> String {
    let mut text = format!("  injected `{}`: {} requests", fault.name, fault.fired);
    for (count, what) in [
        (fault.met, "reads met it later"),
        (
            fault.sectors_left,
            "sectors are still not what they should be",
        ),
        (fault.withheld, "withheld by the budget"),
    ] {
        if count > 0 {
            write!(text, "; {count} {what}").expect("a string takes everything");
        }
    }
    text
}

fn line(out: &mut String, text: &str) {
    out.push_str(text);
    out.push('\n');
}

/// A finding in one line: what, where, on which legs.
pub fn summary(finding: &Finding, style: Style) -> String {
    let mut text = style.red(&format!("✗ {}", finding.headline));
    match (finding.array.as_slice(), finding.array.last()) {
        ([], _) | (_, None) => {}
        ([only], _) => write!(text, "   array {}+{}", only.start, only.count)
            .expect("a string takes everything"),
        ([first, ..], Some(last)) => write!(
            text,
            "   array {}…{} ({} sectors in {} places)",
            first.start,
            last.start + last.count - 1,
            finding.sectors,
            finding.array.len()
        )
        .expect("a string takes everything"),
    }
    if !finding.detail.is_empty() {
        write!(text, "   {}", finding.detail).expect("a string takes everything");
    }
    text
}

fn full(out: &mut String, finding: &Finding, style: Style) {
    line(out, &summary(finding, style));
    let sure = match finding.confidence {
        Confidence::Proven => "proven",
        Confidence::Suspect => "suspect",
    };
    line(
        out,
        &style.faint(&format!(
            "  --> {} · {} · {sure} · #{} … #{} · {}",
            finding.check.name(),
            finding.kind.name(),
            finding.first,
            finding.last,
            finding.id
        )),
    );
    if finding.array.len() > 1 || finding.leg_ranges.len() > 1 {
        let ranges: Vec<String> = finding
            .array
            .iter()
            .take(RANGES_MAX)
            .map(|range| format!("{}+{}", range.start, range.count))
            .collect();
        let more = finding.array.len().saturating_sub(RANGES_MAX);
        let more = match more {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        line(
            out,
            &format!(
                "  array: {}{more} ({} sectors)",
                ranges.join(" "),
                finding.sectors
            ),
        );
    }
    if let Some(first) = finding.leg_ranges.first() {
        line(
            out,
            &format!(
                "  first on leg {}: sector {}+{}",
                first.leg, first.start, first.count
            ),
        );
    }
    if let Some(example) = &finding.example {
        show_example(out, example, style);
    }
    if !finding.story.is_empty() {
        line(out, &format!("  {}", style.bold("what happened")));
        show_story(out, &finding.story);
    }
    let injected = if decides(finding) { "" } else { "injected: " };
    line(out, &format!("  cause: {injected}{}", finding.reason));
    line(out, &format!("  promise: {}", finding.promise));
    for note in &finding.notes {
        line(out, &format!("  note: {note}"));
    }
}

fn show_example(out: &mut String, example: &Example, style: Style) {
    line(
        out,
        &format!(
            "  {}",
            style.bold(&format!("array sector {}", example.array_sector))
        ),
    );
    let expected = example
        .expected
        .as_ref()
        .map_or_else(String::new, |expected| {
            format!("; expected {}", expected.what)
        });
    for leg in &example.legs {
        let tail = if leg.good { "" } else { expected.as_str() };
        line(
            out,
            &format!(
                "    leg {} sector {} holds {}{tail}",
                leg.leg, leg.sector, leg.what
            ),
        );
        if !leg.good {
            for version in &leg.history {
                let from = if version.event == 0 {
                    String::new()
                } else {
                    format!("#{} request {}: ", version.event, version.request)
                };
                line(out, &format!("      {from}{}", version.what));
            }
        }
    }
    show_diff(out, example);
}

/// Expected against the first leg that is wrong; without an expectation, the first two legs that differ.
fn show_diff(out: &mut String, example: &Example) {
    let bytes = |leg: &Holding| leg.bytes.as_deref().and_then(hexdump::unhex);
    let wrong = example
        .legs
        .iter()
        .find(|leg| !leg.good && leg.bytes.is_some());
    let Some(wrong) = wrong else {
        return;
    };
    let measure = match &example.expected {
        Some(expected) => hexdump::unhex(&expected.bytes).map(|bytes| ("expected".into(), bytes)),
        None => example
            .legs
            .iter()
            .find(|leg| leg.good)
            .and_then(|leg| Some((format!("leg {}", leg.leg), bytes(leg)?))),
    };
    let (Some((name, want)), Some(have)) = (measure, bytes(wrong)) else {
        return;
    };
    let lines = hexdump::diff(&want, &have);
    if !lines.is_empty() {
        line(out, &format!("    - {name}   + leg {}", wrong.leg));
        for text in lines {
            line(out, &format!("    {text}"));
        }
    }
}

fn show_story(out: &mut String, story: &[StoryLine]) {
    let hidden = story.len().saturating_sub(STORY_MAX);
    for one in story.iter().take(STORY_MAX) {
        line(
            out,
            &format!(
                "    #{:<8} {:>12.6} s  {:<6} {}",
                one.event,
                seconds(one.time_us),
                one.leg,
                one.what
            ),
        );
    }
    if hidden > 0 {
        line(out, &format!("    … and {hidden} more"));
    }
}

fn seconds(us: u64) -> f64 {
    std::time::Duration::from_micros(us).as_secs_f64()
}

fn coverage(out: &mut String, coverage: &Coverage, style: Style) {
    line(out, &style.bold("exercised"));
    line(
        out,
        &format!(
            "  writes {} (failed {}), discards {}, flushes {}; {} events, {} {}",
            coverage.writes_acknowledged,
            coverage.writes_failed,
            coverage.discards_acknowledged,
            coverage.flushes_acknowledged,
            coverage.events,
            coverage.boots,
            if coverage.boots == 1 { "boot" } else { "boots" }
        ),
    );
    let percent = (coverage.sectors_compared * 100)
        .checked_div(coverage.sectors_intended)
        .map_or_else(String::new, |percent| format!(" ({percent} %)"));
    line(
        out,
        &format!(
            "  sectors intended {}, compared on all legs {}{percent}, open {}; twins compared {}",
            coverage.sectors_intended,
            coverage.sectors_compared,
            coverage.sectors_open,
            coverage.twins_compared
        ),
    );
    for (case, count) in &coverage.excused {
        line(
            out,
            &format!("  excused {count} by case {case}: {}", Excuse::why(*case)),
        );
    }
    if coverage.excused.is_empty() {
        line(out, "  excused 0");
    }
    let behind = if coverage.writes_behind > 0 {
        format!(
            "seen: {} writes, the longest {:.3} s behind",
            coverage.writes_behind,
            seconds(coverage.behind_longest_us)
        )
    } else {
        "not seen".into()
    };
    line(out, &format!("  write-behind {behind}"));
    line(
        out,
        &format!(
            "  quiet points reached {}, missed {}",
            coverage.quiet_reached,
            coverage.quiet_missed.len()
        ),
    );
    if coverage.read_back_good + coverage.read_back_bad > 0 {
        line(
            out,
            &format!(
                "  read back {} sectors right, {} wrong",
                coverage.read_back_good, coverage.read_back_bad
            ),
        );
    }
    for leg in &coverage.legs {
        line(out, &leg_line(leg));
    }
    for fault in &coverage.faults {
        line(out, &fault_line(fault));
    }
    let triggered: Vec<String> = coverage
        .triggered
        .iter()
        .map(|(check, count)| format!("{check} {count}"))
        .collect();
    if !triggered.is_empty() {
        line(out, &format!("  checks: {}", triggered.join(", ")));
    }
}

fn leg_line(leg: &LegCoverage) -> String {
    let mut text = format!(
        "  leg {}{}: seen {} sectors; reads {}, writes {}, flushes {}, discards {}; {} in flight at most",
        leg.name,
        if leg.active { "" } else { " (not active)" },
        leg.sectors_seen,
        leg.reads,
        leg.writes,
        leg.flushes,
        leg.discards,
        leg.in_flight_max
    );
    if leg.errors + leg.abandoned > 0 {
        write!(text, "; {} errors, {} abandoned", leg.errors, leg.abandoned)
            .expect("a string takes everything");
    }
    if leg.pages_own + leg.pages_copied > 0 {
        write!(
            text,
            "; {} sectors from the writer's own pages, {} from copies",
            leg.pages_own, leg.pages_copied
        )
        .expect("a string takes everything");
    }
    text
}

fn provenance(out: &mut String, header: &RunHeader, style: Style) {
    out.push('\n');
    line(out, &style.bold("provenance"));
    line(out, &format!("  run {}, seed {}", header.run, header.seed));
    if let serde_json::Value::Object(fields) = &header.provenance {
        for (name, value) in fields {
            let value = value
                .as_str()
                .map_or_else(|| value.to_string(), str::to_owned);
            line(out, &format!("  {name}: {value}"));
        }
    }
    if !header.reproduce.is_empty() {
        line(out, &format!("  again: {}", header.reproduce));
    }
}
