//! What there is to run, as text and as the tables of `docs/scenarios.md` and `docs/museum.md`.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::campaign::expectation::Expected;
use crate::campaign::museum::Bug;
use crate::campaign::{RunResult, State, table};
use crate::oracle::Outcome;
use crate::scenario::Scenario;

/// Words that begin the last part of a scenario's `about`: what it holds the kernel to.
const PROMISES: [&str; 2] = ["Promise: ", "Known deviation "];

/// Scenarios and bugs, a line each.
pub(super) fn text<'a>(scenarios: impl Iterator<Item = &'a Scenario>, bugs: &[Bug]) -> String {
    let mut text = String::new();
    for bug in bugs {
        let _ = writeln!(
            text,
            "{:<24} {} on {}, not on {}: {}",
            bug.id,
            bug.on_bad().words(),
            bug.bad,
            bug.good.as_deref().unwrap_or("any that was tried"),
            bug.what
        );
    }
    for scenario in scenarios {
        let tags = scenario.suite.tags.join(" ");
        let _ = writeln!(
            text,
            "{:<24} {tags:<24} {}",
            scenario.name,
            sentence(&one_line(&scenario.about))
        );
    }
    text
}

/// The table of scenarios, Markdown. With results of a campaign the last column tells how long their runs took there.
pub(super) fn scenarios<'a>(
    scenarios: impl Iterator<Item = &'a Scenario>,
    results: &[(&str, &RunResult)],
) -> String {
    let mut times: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for (scenario, result) in results {
        // A run that was not as expected may have ended early, or at a time limit.
        if result.state == State::Passed {
            let (least, most) = times.entry(*scenario).or_insert((result.ms, result.ms));
            *least = result.ms.min(*least);
            *most = result.ms.max(*most);
        }
    }
    let mut out = row(&["scenario", "what it shows", "bug or promise", "run time"]);
    out.push_str(&row(&["---"; 4]));
    for scenario in scenarios {
        let time = match times.get(scenario.name.as_str()) {
            None => "-".to_owned(),
            Some((least, most)) => span(*least, *most),
        };
        out.push_str(&row(&[
            &scenario.name,
            &shows(scenario),
            &promise(scenario),
            &time,
        ]));
    }
    out
}

/// The table of the museum's bugs, Markdown: what each is, and where that stands.
pub(super) fn bugs(bugs: &[Bug]) -> String {
    let mut out = row(&["bug", "what goes wrong", "source"]);
    out.push_str(&row(&["---"; 3]));
    for bug in bugs {
        out.push_str(&row(&[&bug.id, &bug.what, &bug.source]));
    }
    out
}

/// A line of a table. What would end a cell is escaped.
fn row(cells: &[&str]) -> String {
    let cells: Vec<String> = cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
    format!("| {} |\n", cells.join(" | "))
}

/// The comment that the file begins with; without one, the first sentence of `about`.
fn shows(scenario: &Scenario) -> String {
    let comment: Vec<&str> = scenario
        .text
        .lines()
        .map_while(|line| line.strip_prefix('#'))
        .map(str::trim)
        .collect();
    match comment.join(" ").trim() {
        "" => sentence(&one_line(&scenario.about)).to_owned(),
        text => text.to_owned(),
    }
}

/// The promise that `about` ends with, and the kernels that are known to break it.
fn promise(scenario: &Scenario) -> String {
    let about = one_line(&scenario.about);
    let at = PROMISES.iter().filter_map(|word| about.find(word)).min();
    let promise = at.map_or("", |at| &about[at..]);
    let promise = promise
        .strip_prefix(PROMISES[0])
        .unwrap_or(promise)
        .trim_end_matches('.');
    let broken: Vec<String> = scenario
        .suite
        .expect
        .iter()
        .filter(|expected| expected.outcome == Outcome::Findings)
        .map(broken)
        .collect();
    let parts: Vec<&str> = std::iter::once(promise)
        .chain(broken.iter().map(String::as_str))
        .filter(|part| !part.is_empty())
        .collect();
    if parts.is_empty() {
        return "-".into();
    }
    parts.join("; ")
}

fn broken(expected: &Expected) -> String {
    let check = match (expected.check, expected.kind) {
        (Some(check), Some(kind)) => format!(" ({}/{})", check.name(), kind.name()),
        (Some(check), None) => format!(" ({})", check.name()),
        (None, _) => String::new(),
    };
    format!(
        "found on {}{check}: {}",
        expected.kernels.join(", "),
        expected.why
    )
}

fn span(least: u64, most: u64) -> String {
    match (table::seconds(least), table::seconds(most)) {
        (least, most) if least == most => least,
        (least, most) => format!("{least} to {most}"),
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn sentence(text: &str) -> &str {
    text.split_inclusive(". ")
        .next()
        .unwrap_or_default()
        .trim_end()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::campaign::plan::tests::plan;
    use crate::campaign::summary::tests::result;
    use crate::scenario::EMBEDDED;

    fn embedded(name: &str) -> Scenario {
        Scenario::load(std::path::Path::new(name)).unwrap()
    }

    #[test]
    fn every_scenario_says_what_it_shows_and_what_it_is_held_to() {
        for (name, _) in EMBEDDED {
            let scenario = embedded(name);
            assert!(
                scenario.text.starts_with("# "),
                "{name}: no comment at its head"
            );
            assert_ne!(
                promise(&scenario),
                "-",
                "{name}: its `about` names no promise"
            );
        }
    }

    #[test]
    fn a_row_has_the_promise_the_bad_kernels_and_the_times() {
        let scenario = embedded("write-behind");
        let plan = plan(Some(1));
        let cell = plan.cells().next().unwrap();
        let runs = [
            (State::Passed, 9_100),
            (State::Passed, 12_700),
            (State::Failed, 1),
        ]
        .map(|(state, ms)| RunResult {
            state,
            ms,
            ..result(&plan, cell)
        });
        let results: Vec<_> = runs.iter().map(|run| ("write-behind", run)).collect();
        let text = scenarios(std::iter::once(&scenario), &results);
        let row = text.lines().nth(2).unwrap();
        assert!(
            row.starts_with("| write-behind | Write-behind: the array"),
            "{row}"
        );
        assert!(
            row.contains("| alloc_behind_master_bio (drivers/md/raid1.c) copies"),
            "{row}"
        );
        assert!(row.contains("; found on 6.16.3 (stamp/absent): "), "{row}");
        assert!(row.ends_with(" | 9.1 s to 12.7 s |"), "{row}");
    }

    #[test]
    fn a_cell_can_not_end_early() {
        assert_eq!(row(&["a|b", "c"]), "| a\\|b | c |\n");
    }
}
