//! A campaign for people: the table, what did not pass, and the line that says it all.

use std::fmt::Write as _;

use super::result::{RunResult, State};
use super::summary::Summary;
use crate::oracle::Outcome;

/// Runs that are told one by one; more are counted.
const TOLD_MAX: usize = 100;

/// The whole text.
pub fn render(summary: &Summary) -> String {
    let mut out = String::new();
    if summary.is_empty_part() {
        put(&mut out, "✓ no run falls into this part");
        return out;
    }
    out.push_str(&matrix(summary));
    let told: Vec<&RunResult> = summary
        .results
        .iter()
        .filter(|result| {
            !matches!(result.state, State::Passed | State::Skipped) || result.lost_before.is_some()
        })
        .collect();
    if !told.is_empty() {
        out.push('\n');
    }
    for result in told.iter().take(TOLD_MAX) {
        put(&mut out, &line(result));
        if let Some(folder) = &result.folder {
            put(&mut out, &format!("    {folder}"));
        }
        if !result.again.is_empty() {
            put(&mut out, &format!("    again: {}", result.again));
        }
    }
    if told.len() > TOLD_MAX {
        put(&mut out, &format!("… and {} more", told.len() - TOLD_MAX));
    }
    out.push('\n');
    put(&mut out, &tally(summary));
    out
}

fn put(out: &mut String, text: &str) {
    out.push_str(text);
    out.push('\n');
}

/// One run in one line.
pub fn line(result: &RunResult) -> String {
    let mut text = format!(
        "{} {}: {}",
        result.state.mark(),
        result.key,
        result.state.word()
    );
    if !result.detail.is_empty() {
        write!(text, ": {}", result.detail).expect("a string takes everything");
    }
    if result.ms > 0 {
        write!(text, " ({})", seconds(result.ms)).expect("a string takes everything");
    }
    if let Some(why) = &result.lost_before {
        write!(text, " (second try; the first: {why})").expect("a string takes everything");
    }
    text
}

/// Milliseconds as people read them: `6.1 s`, `4 m 03 s`.
pub fn seconds(ms: u64) -> String {
    match ms {
        ..60_000 => format!("{}.{} s", ms / 1000, ms % 1000 / 100),
        _ => format!("{} m {:02} s", ms / 60_000, ms % 60_000 / 1000),
    }
}

/// The line that says it all.
pub fn tally(summary: &Summary) -> String {
    let tally = &summary.tally;
    let runs = summary.results.len();
    let time: u64 = summary.results.iter().map(|result| result.ms).sum();
    let counts = [
        (tally.passed, "as expected"),
        (tally.failed, "failed"),
        (tally.inconclusive, "inconclusive"),
        (tally.lost, "lost their guest twice"),
        (tally.refused, "refused"),
        (tally.broken, "broken by our own fault"),
        (tally.skipped, "skipped"),
        (tally.missing, "not run"),
        (tally.lost_once, "lost their guest once"),
    ];
    let counts: Vec<String> = counts
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, word)| format!("{count} {word}"))
        .collect();
    format!(
        "{} {runs} {}: {}; {} of runs",
        if summary.exit_code == 0 { "✓" } else { "✗" },
        if runs == 1 { "run" } else { "runs" },
        counts.join(", "),
        seconds(time)
    )
}

/// How often runs found something: what one wants to know of a race.
pub fn rate<'a>(results: impl Iterator<Item = &'a RunResult>, ms: u64) -> String {
    let (mut runs, mut found) = (0_u64, 0_u64);
    for result in results.filter(|result| result.tries > 0) {
        runs += 1;
        found += u64::from(result.outcome == Some(Outcome::Findings));
    }
    let word = if runs == 1 { "run" } else { "runs" };
    let in_runs = format!("in {runs} {word}");
    match found {
        0 => format!("no finding {in_runs}"),
        1 => format!("1 finding {in_runs}, one in {}", seconds(ms)),
        many => format!(
            "findings in {many} of {runs} runs, one in {} runs, one in {}",
            runs / many,
            seconds(ms / many)
        ),
    }
}

/// Scenarios down, kernels across.
fn matrix(summary: &Summary) -> String {
    let mut kernels: Vec<&str> = Vec::new();
    let mut scenarios: Vec<&str> = Vec::new();
    for row in &summary.plan.rows {
        if !kernels.contains(&row.kernel.as_str()) {
            kernels.push(&row.kernel);
        }
        if !scenarios.contains(&row.scenario.as_str()) {
            scenarios.push(&row.scenario);
        }
    }
    let mut lines = vec![
        std::iter::once("scenario".to_owned())
            .chain(kernels.iter().map(|kernel| (*kernel).to_owned()))
            .collect::<Vec<_>>(),
    ];
    for scenario in scenarios {
        let cells = kernels.iter().map(|kernel| {
            let mut rows: Vec<&str> = Vec::new();
            let mut missing = 0;
            for row in &summary.plan.rows {
                if row.scenario == scenario && row.kernel == *kernel {
                    rows.push(&row.key);
                    missing += summary.missing_by_row.get(&row.key).unwrap_or(&0);
                }
            }
            let results: Vec<&RunResult> = summary
                .results
                .iter()
                .filter(|result| rows.contains(&result.row.as_str()))
                .collect();
            match (rows.is_empty(), results.is_empty(), missing) {
                (true, ..) => String::new(),
                (false, true, _) | (false, false, 0) => cell(&results),
                (false, false, missing) => format!("{}, {missing} not run", cell(&results)),
            }
        });
        lines.push(std::iter::once(scenario.to_owned()).chain(cells).collect());
    }
    columns(&lines)
}

/// What a table says of the runs of one row.
fn cell(results: &[&RunResult]) -> String {
    match results {
        [] => "· not run".into(),
        [one] => {
            let word = match one.state {
                State::Passed => one.detail.as_str(),
                State::Failed => one
                    .findings
                    .iter()
                    .find(|found| found.decides)
                    .map_or("failed", |found| found.what.as_str()),
                State::Inconclusive
                | State::Lost
                | State::Skipped
                | State::Refused
                | State::Broken => one.state.word(),
            };
            let known = one.known.join(" ");
            let known = if known.is_empty() || word.contains(&known) {
                String::new()
            } else {
                format!(" ({known})")
            };
            format!("{} {word}{known}", one.state.mark())
        }
        many => {
            let passed = many.iter().filter(|one| one.state == State::Passed).count();
            let worst = State::ALL
                .iter()
                .rev()
                .find(|state| {
                    !matches!(state, State::Passed | State::Skipped)
                        && many.iter().any(|one| one.state == **state)
                })
                .unwrap_or(&State::Passed);
            // A failure outranks what could not be told.
            let failed = many.iter().any(|one| one.state == State::Failed);
            let mark = if failed { State::Failed } else { *worst }.mark();
            format!("{mark} {passed}/{}", many.len())
        }
    }
}

/// Columns as wide as their widest cell.
pub(super) fn columns(lines: &[Vec<String>]) -> String {
    let count = lines.iter().map(Vec::len).max().unwrap_or(0);
    let width = |at: usize| {
        lines
            .iter()
            .filter_map(|line| line.get(at))
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..count).map(width).collect();
    let mut out = String::new();
    for line in lines {
        let text: String = line
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}  "))
            .collect();
        put(&mut out, text.trim_end());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::campaign::plan::tests::plan;
    use crate::campaign::summary::tests::result;

    #[test]
    fn a_table_has_a_mark_for_every_row() {
        let plan = plan(Some(1));
        let results = plan
            .cells()
            .take(3)
            .map(|cell| result(&plan, cell))
            .collect();
        let summary = Summary::new(plan, results, None);
        let text = render(&summary);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "scenario  pinned:6.1    pinned:6.12");
        assert_eq!(lines[1], "quick     ✗ failed      ? inconclusive");
        assert_eq!(lines[2], "behind    ? lost guest  · not run");
        assert!(
            text.contains("✗ quick@pinned:6.1@1: failed: <failed>"),
            "{text}"
        );
        assert!(text.contains("    again: legwatch run x"), "{text}");
        assert!(
            text.ends_with(
                "✗ 3 runs: 1 failed, 1 inconclusive, 1 lost their guest twice, 1 not run; 3.0 s of runs\n"
            ),
            "{text}"
        );
        assert_eq!(seconds(243_900), "4 m 03 s");
    }

    #[test]
    fn how_often_a_race_was_met_is_told() {
        let plan = plan(Some(25));
        let told = |found: usize| {
            let mut results: Vec<RunResult> =
                plan.cells().map(|cell| result(&plan, cell)).collect();
            for result in &mut results[..found] {
                result.outcome = Some(Outcome::Findings);
            }
            // Nothing was started for this one.
            results[99].tries = 0;
            rate(results.iter(), 600_000)
        };
        assert_eq!(told(0), "no finding in 99 runs");
        assert_eq!(told(1), "1 finding in 99 runs, one in 10 m 00 s");
        assert_eq!(
            told(4),
            "findings in 4 of 99 runs, one in 24 runs, one in 2 m 30 s"
        );
    }

    #[test]
    fn many_seeds_are_counted() {
        let plan = plan(Some(7));
        let results = plan.cells().map(|cell| result(&plan, cell)).collect();
        let text = render(&Summary::new(plan, results, None));
        assert!(text.lines().nth(1).unwrap().contains("✗ 1/7"), "{text}");
    }
}
