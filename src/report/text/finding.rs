//! One finding, laid out as a compiler's diagnostic: headline, place, the story with the sequence's numbers in the gutter, the bytes, the reasoning.

use std::fmt::Write as _;

use super::style::Style;
use super::{decides, line, printable, seconds};
use crate::finding::{Confidence, Example, Finding, Holding, RANGES_MAX, StoryLine};
use crate::report::hexdump;

/// Lines of a story that are shown.
const STORY_MAX: usize = 32;
/// Ranges that are shown.
const RANGES_SHOWN: usize = 8;

/// A finding in one line: what, where, on which legs.
pub fn summary(finding: &Finding, style: Style) -> String {
    let mut text = style.red(&format!("✗ {}", printable(&finding.headline)));
    let place = place(finding);
    if !place.is_empty() {
        write!(text, "   {place}").expect("a string takes everything");
    }
    if !finding.detail.is_empty() {
        write!(text, "   {}", printable(&finding.detail)).expect("a string takes everything");
    }
    text
}

/// The array sectors in short; empty for a finding that is about none.
pub fn place(finding: &Finding) -> String {
    match (finding.array.as_slice(), finding.array.last()) {
        ([], _) | (_, None) => String::new(),
        ([only], _) => format!("array {}+{}", only.start, only.count),
        ([first, ..], _) if finding.array.len() >= RANGES_MAX => format!(
            "array from {} on ({} sectors in {RANGES_MAX} places or more)",
            first.start, finding.sectors
        ),
        ([first, ..], Some(last)) => format!(
            "array {}…{} ({} sectors in {} places)",
            first.start,
            last.start + last.count - 1,
            finding.sectors,
            finding.array.len()
        ),
    }
}

/// The gutter: numbers of the sequence to the left of a bar.
struct Gutter {
    width: usize,
    style: Style,
}

impl Gutter {
    fn of(finding: &Finding, style: Style) -> Gutter {
        let most = finding.story.iter().map(|line| line.event).max();
        Gutter {
            width: most.unwrap_or(0).to_string().len().max(4),
            style,
        }
    }

    fn bar(&self, out: &mut String, text: &str) {
        let bar = self.style.faint(&format!("{:>1$} |", "", self.width));
        line(out, format!("{bar} {text}").trim_end());
    }

    fn numbered(&self, out: &mut String, number: u64, text: &str) {
        let bar = self.style.faint(&format!("{number:>0$} |", self.width));
        line(out, format!("{bar} {text}").trim_end());
    }

    fn note(&self, out: &mut String, name: &str, text: &str) {
        let bar = self.style.faint(&format!("{:>1$} =", "", self.width));
        let name = self.style.bold(&format!("{name}:"));
        line(out, &format!("{bar} {name} {text}"));
    }
}

/// The whole of it; `again` is the command that runs it again, empty if there is none.
pub(super) fn full(out: &mut String, finding: &Finding, again: &str, style: Style) {
    let gutter = Gutter::of(finding, style);
    line(out, &summary(finding, style));
    let sure = match finding.confidence {
        Confidence::Proven => "proven",
        Confidence::Suspect => "suspect",
    };
    line(
        out,
        &style.faint(&format!(
            "{:>width$}--> {} · {} · {sure} · #{} … #{} · {}",
            "",
            finding.check.name(),
            finding.kind.name(),
            finding.first,
            finding.last,
            finding.id,
            width = gutter.width
        )),
    );
    if let Some(first) = &finding.first_wrong {
        gutter.note(out, "first wrong", &first.what);
    }
    if let Some(ranges) = ranges(finding) {
        gutter.note(out, "array", &ranges);
    }
    if let Some(first) = finding.leg_ranges.first() {
        let place = format!("leg {} sector {}+{}", first.leg, first.start, first.count);
        gutter.note(out, "first on", &place);
    }
    if !finding.story.is_empty() {
        gutter.bar(out, "");
        story(out, finding, &gutter);
    }
    if let Some(example) = &finding.example {
        gutter.bar(out, "");
        show_example(out, example, &gutter);
    }
    gutter.bar(out, "");
    let injected = if decides(finding) { "" } else { "injected: " };
    gutter.note(out, "cause", &format!("{injected}{}", finding.reason));
    gutter.note(out, "promise", &finding.promise);
    for note in &finding.notes {
        gutter.note(out, "note", note);
    }
    gutter.note(
        out,
        "explain",
        &format!("legwatch explain {}", finding.check.name()),
    );
    if !again.is_empty() {
        gutter.note(out, "again", again);
    }
}

/// All ranges, where the headline could not hold them.
fn ranges(finding: &Finding) -> Option<String> {
    if finding.array.len() < 2 {
        return None;
    }
    let shown: Vec<String> = finding
        .array
        .iter()
        .take(RANGES_SHOWN)
        .map(|range| format!("{}+{}", range.start, range.count))
        .collect();
    let more = match finding.array.len().saturating_sub(RANGES_SHOWN) {
        0 => String::new(),
        _ if finding.array.len() >= RANGES_MAX => " and more".to_owned(),
        more => format!(" and {more} more"),
    };
    Some(format!(
        "{}{more} ({} sectors)",
        shown.join(" "),
        finding.sectors
    ))
}

/// The timeline over all legs. Where it is too long, what is nearest to the first wrong request is shown.
fn story(out: &mut String, finding: &Finding, gutter: &Gutter) {
    let story = &finding.story;
    let first = finding.first_wrong.as_ref();
    let centre = first.map_or(0, |first| {
        story.partition_point(|one| one.event < first.event)
    });
    let begin = centre
        .saturating_sub(STORY_MAX / 3)
        .min(story.len().saturating_sub(STORY_MAX));
    let end = (begin + STORY_MAX).min(story.len());
    if begin > 0 {
        gutter.bar(out, &format!("… {begin} before"));
    }
    let shown = &story[begin..end];
    let widest = shown.iter().map(|one| who(one).chars().count()).max();
    let who_width = widest.unwrap_or(0);
    for one in shown {
        let text = format!(
            "{:>11.6} s  {:<who_width$}  {}",
            seconds(one.time_us),
            who(one),
            one.what
        );
        gutter.numbered(out, one.event, &text);
        if first.is_some_and(|first| first.event == one.event) {
            let mark = format!("{:>1$}^ the first wrong one", "", 11 + 4 + who_width + 2);
            gutter.bar(out, &gutter.style.red(&mark));
        }
    }
    if end < story.len() {
        gutter.bar(out, &format!("… and {} more", story.len() - end));
    }
}

/// Who did it: a leg by its name, or what is none.
pub(in crate::report) fn who(one: &StoryLine) -> String {
    match one.leg.as_str() {
        other @ ("guest" | "console" | "ctl") => other.to_owned(),
        leg => format!("leg {leg}"),
    }
}

fn show_example(out: &mut String, example: &Example, gutter: &Gutter) {
    let style = gutter.style;
    let title = format!("array sector {}", example.array_sector);
    gutter.bar(out, &style.bold(&title));
    let expected = example
        .expected
        .as_ref()
        .map_or_else(String::new, |expected| {
            format!("; expected {}", expected.what)
        });
    for leg in &example.legs {
        let tail = if leg.good { "" } else { expected.as_str() };
        gutter.bar(
            out,
            &format!(
                "  leg {} sector {} holds {}{tail}",
                leg.leg, leg.sector, leg.what
            ),
        );
        if leg.good {
            continue;
        }
        if let Some(nature) = &leg.nature {
            gutter.bar(
                out,
                &format!(
                    "    looks like {}; {:.2} bits of entropy a byte",
                    nature.what,
                    f64::from(nature.entropy_millibits) / 1000.0
                ),
            );
        }
        for version in &leg.history {
            let from = match (version.event, version.request) {
                (0, _) => String::new(),
                (event, 0) => format!("#{event}: "),
                (event, request) => format!("#{event} request {request}: "),
            };
            gutter.bar(out, &format!("    {from}{}", version.what));
        }
    }
    show_diff(out, example, gutter);
}

/// Expected against the first leg that is wrong; without an expectation, the first two legs that differ.
fn show_diff(out: &mut String, example: &Example, gutter: &Gutter) {
    let Some((name, wrong, lines)) = diff(example) else {
        return;
    };
    gutter.bar(out, &format!("  - {name}   + leg {wrong}"));
    for text in lines {
        let text = match text.as_bytes().first() {
            Some(b'-') => gutter.style.green(&text),
            Some(b'+') => gutter.style.red(&text),
            _ => text,
        };
        gutter.bar(out, &format!("  {text}"));
    }
}

/// What the good side is called, the wrong leg's name, and the lines around the first byte that differs.
pub(in crate::report) fn diff(example: &Example) -> Option<(String, &str, Vec<String>)> {
    let bytes = |leg: &Holding| leg.bytes.as_deref().and_then(hexdump::unhex);
    let wrong = example
        .legs
        .iter()
        .find(|leg| !leg.good && leg.bytes.is_some())?;
    let (name, want) = match &example.expected {
        Some(expected) => ("expected".to_owned(), hexdump::unhex(&expected.bytes)?),
        None => {
            let good = example.legs.iter().find(|leg| leg.good)?;
            (format!("leg {}", good.leg), bytes(good)?)
        }
    };
    let lines = hexdump::diff(&want, &bytes(wrong)?);
    (!lines.is_empty()).then_some((name, wrong.leg.as_str(), lines))
}
