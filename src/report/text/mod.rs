//! The report for people: verdict line, findings in the order of the sequence, then what was exercised.

mod coverage;
mod finding;
mod printable;
mod style;

pub(crate) use coverage::passes;
pub(super) use finding::{diff, who};
pub use finding::{place, summary};
pub use printable::printable;
pub use style::Style;

use crate::finding::{Cause, Confidence, Finding};
use crate::header::RunHeader;
use crate::oracle::{Outcome, Verdict};

/// Findings that are laid out in full; more are told in a line each.
const FULL_MAX: usize = 20;
/// Findings that are told at all; `report.json` has all of them.
const LINES_MAX: usize = 200;

/// The whole report.
pub fn render(header: &RunHeader, verdict: &Verdict, style: Style) -> String {
    let mut out = String::new();
    line(&mut out, &verdict_line(verdict, style));
    if let Some((_, first)) = first_wrong(verdict) {
        line(&mut out, &format!("  first wrong: {first}"));
    }
    if let Some(earlier) = earlier_suspect(verdict) {
        line(&mut out, &format!("  before it, suspect: {earlier}"));
    }
    for (at, finding) in verdict.findings.iter().take(LINES_MAX).enumerate() {
        if at < FULL_MAX {
            out.push('\n');
            finding::full(&mut out, finding, &header.reproduce, style);
        } else {
            line(&mut out, &summary(finding, style));
        }
    }
    if verdict.findings.len() > LINES_MAX {
        let more = verdict.findings.len() - LINES_MAX;
        line(
            &mut out,
            &format!("… and {more} more; report.json has them all"),
        );
    }
    if !verdict.known.is_empty() {
        out.push('\n');
        line(
            &mut out,
            &style.bold("known of this kernel, not counted (--no-known counts it)"),
        );
        for finding in verdict.known.iter().take(LINES_MAX) {
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
    coverage::coverage(&mut out, &verdict.coverage, style);
    for note in &verdict.notes {
        line(&mut out, &format!("  note: {note}"));
    }
    coverage::provenance(&mut out, header, verdict, style);
    match style {
        Style::Colour => out,
        // Colours that are not ours.
        Style::Plain => out.replace('\u{1b}', "\\u{1b}"),
    }
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
            blind(verdict) + &suspects(verdict)
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
            printable(
                verdict
                    .reasons
                    .first()
                    .map_or("no reason known", String::as_str)
            ),
            suspects(verdict)
        )),
    }
}

/// What was switched off, next to the word `clean`.
fn blind(verdict: &Verdict) -> String {
    match &verdict.coverage.blind[..] {
        [] => String::new(),
        checks => format!(", NOT WATCHED: {}", checks.join(", ")),
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

/// The first wrong request: of the first finding that decides and knows it, or where none decides of the first injected one; what the first finding says
/// where none knows a request; with the finding's place.
pub(super) fn first_wrong(verdict: &Verdict) -> Option<(usize, String)> {
    let any_decides = verdict.findings.iter().any(decides);
    let (at, finding) = verdict
        .findings
        .iter()
        .enumerate()
        .filter(|(_, finding)| decides(finding) == any_decides)
        .min_by_key(|(_, finding)| {
            let unknown = finding.first_wrong.is_none();
            (finding.confidence, unknown, finding.first)
        })?;
    let what = match &finding.first_wrong {
        Some(first) => first.what.clone(),
        None => format!("{}, found at #{}", finding.headline, finding.first),
    };
    Some((at, what))
}

/// What is suspect and came before everything that decides.
fn earlier_suspect(verdict: &Verdict) -> Option<String> {
    let kernel = || verdict.findings.iter().filter(|one| decides(one));
    let proven = kernel().find(|one| one.confidence == Confidence::Proven)?;
    let earlier = kernel()
        .filter(|one| one.confidence == Confidence::Suspect && one.first < proven.first)
        .min_by_key(|one| one.first)?;
    let first = earlier.first_wrong.as_ref()?;
    Some(format!("{} ({})", first.what, earlier.check.name()))
}

/// What a rule caused does not decide.
fn decides(finding: &Finding) -> bool {
    finding.cause != Cause::Injected
}

fn line(out: &mut String, text: &str) {
    out.push_str(&printable::coloured(text));
    out.push('\n');
}

fn seconds(us: u64) -> f64 {
    std::time::Duration::from_micros(us).as_secs_f64()
}
