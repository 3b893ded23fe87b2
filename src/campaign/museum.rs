//! The museum: real bugs of kernels that anyone can fetch, each with the kernel that has it, one that has not, and what has to be found. `vm/museum.toml`,
//! embedded.

use serde::Deserialize;

use super::expectation::Expectation;
use super::plan::{Plan, Row};
use super::result::{RunResult, State};
use super::summary::Summary;
use super::table::{columns, seconds};
use crate::finding::{Check, Wrongness};
use crate::oracle::Outcome;

const TEXT: &str = include_str!("../../vm/museum.toml");

/// The file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    bug: Vec<Bug>,
}

/// One bug.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bug {
    /// Its name.
    pub id: String,
    /// What goes wrong, in a sentence, with the kernel's file and function.
    pub what: String,
    /// The commits that brought and mended it, or where else it stands.
    pub source: String,
    /// The scenario that shows it.
    pub scenario: String,
    /// A kernel that has it, as `--kernel` takes it.
    pub bad: String,
    /// A kernel that has not; nothing where all that can be fetched have it.
    pub good: Option<String>,
    /// The check that finds it.
    pub check: Option<Check>,
    /// In which way.
    pub kind: Option<Wrongness>,
    /// A part of the finding's headline or detail: the step's name, a function of the trace.
    pub says: Option<String>,
    /// The known deviation that it is; then it does not decide, and has to be seen all the same.
    pub known: Option<String>,
    /// Seeds that a run on the bad kernel tries until it is found.
    #[serde(default = "one")]
    pub tries: u32,
}

fn one() -> u32 {
    1
}

/// All bugs, in the file's order.
///
/// # Panics
/// If the embedded file is broken, which a test rules out.
pub fn bugs() -> Vec<Bug> {
    let file: File = toml::from_str(TEXT).expect("the embedded file is tested");
    file.bug
}

impl Bug {
    /// What a run on the bad kernel has to show.
    pub fn on_bad(&self) -> Expectation {
        match (&self.known, self.check) {
            (None, Some(check)) => Expectation::found(check, self.kind, self.says.clone()),
            (known, _) => Expectation {
                known: known.clone(),
                ..Expectation::clean()
            },
        }
    }

    /// What a run on the good kernel has to show.
    pub fn on_good(&self) -> Expectation {
        Expectation {
            not_known: self.known.clone(),
            ..Expectation::clean()
        }
    }

    /// Its kernels.
    pub fn kernels(&self) -> impl Iterator<Item = &String> {
        std::iter::once(&self.bad).chain(&self.good)
    }

    /// Its rows, one or two; kernels have their versions still to come.
    pub fn rows(&self) -> Vec<Row> {
        let row = |side: &str, kernel: &str, expect: Expectation, tries: u32| Row {
            key: format!("{}:{side}@{kernel}", self.id),
            scenario: self.scenario.clone(),
            path: self.scenario.clone(),
            kernel: kernel.to_owned(),
            version: String::new(),
            text_crc32: None,
            expect,
            skip: None,
            unavailable: None,
            tries,
        };
        let bad = row(BAD, &self.bad, self.on_bad(), self.tries);
        let good = self.good.as_ref();
        let good = good.map(|kernel| row(GOOD, kernel, self.on_good(), 1));
        std::iter::once(bad).chain(good).collect()
    }
}

const BAD: &str = "bad";
const GOOD: &str = "good";

/// The bug and the side that a row stands for, if it is the museum's.
fn side(row: &Row) -> Option<(&str, &str)> {
    let (id, rest) = row.key.split_once(':')?;
    let side = rest.split('@').next()?;
    ([BAD, GOOD].contains(&side) && !id.contains('@')).then_some((id, side))
}

/// What a row's tests are called beside others of its kernel: the scenario, and in the museum the bug and the side, which several may have in common.
pub fn title(row: &Row) -> String {
    match side(row) {
        Some((id, side)) => format!("{id}:{side} {}", row.scenario),
        None => row.scenario.clone(),
    }
}

/// Whether a campaign is the museum's.
pub fn is_museum(plan: &Plan) -> bool {
    !plan.rows.is_empty() && plan.rows.iter().all(|row| side(row).is_some())
}

/// The museum's table, Markdown: a line a bug. Empty for other campaigns.
pub fn table(summary: &Summary) -> String {
    let cell =
        |words: &[&str]| -> Vec<String> { words.iter().map(|word| format!("| {word}")).collect() };
    let mut lines = vec![
        cell(&[
            "bug",
            "scenario",
            "bad kernel",
            "found",
            "time",
            "good kernel",
            "verdict",
            "time",
            "",
        ]),
        cell(&["---", "---", "---", "---", "---", "---", "---", "---", ""]),
    ];
    let rows = &summary.plan.rows;
    for bad in rows {
        let Some((id, BAD)) = side(bad) else {
            continue;
        };
        let good = rows.iter().find(|row| side(row) == Some((id, GOOD)));
        let of = |row: Option<&Row>| -> (String, String, String) {
            let Some(row) = row else {
                return ("-".into(), "-".into(), "-".into());
            };
            let result = summary.results.iter().find(|result| result.row == row.key);
            (
                row.version.clone(),
                result.map_or_else(|| "not run".into(), words),
                result.map_or_else(String::new, |result| seconds(result.ms)),
            )
        };
        let (bad_kernel, found, bad_time) = of(Some(bad));
        let (good_kernel, verdict, good_time) = of(good);
        lines.push(cell(&[
            id,
            &bad.scenario,
            &bad_kernel,
            &found,
            &bad_time,
            &good_kernel,
            &verdict,
            &good_time,
            "",
        ]));
    }
    columns(&lines)
}

/// What came of a run, in few words.
fn words(result: &RunResult) -> String {
    match result.state {
        State::Passed => {
            let tries = match result.tries {
                0 | 1 => String::new(),
                many => format!(" (seed {many})"),
            };
            let what = match result.outcome {
                Some(Outcome::Clean) if result.known.is_empty() => "clean".to_owned(),
                Some(Outcome::Clean) => format!("known {}", result.known.join(" ")),
                _ => result.detail.clone(),
            };
            format!("✓ {what}{tries}")
        }
        State::Failed
        | State::Inconclusive
        | State::Lost
        | State::Skipped
        | State::Refused
        | State::Broken => {
            format!(
                "{} {}: {}",
                result.state.mark(),
                result.state.word(),
                result.detail
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::expectation::check_says;
    use super::*;

    #[test]
    fn the_embedded_file_is_good() {
        let bugs = bugs();
        let ids: BTreeSet<_> = bugs.iter().map(|bug| &bug.id).collect();
        assert_eq!(ids.len(), bugs.len());
        for bug in &bugs {
            assert!(!bug.id.contains([':', '@', '/']), "{bug:?}");
            assert!(!bug.what.is_empty() && !bug.source.is_empty(), "{bug:?}");
            assert!(
                bug.check.is_some() != bug.known.is_some(),
                "{bug:?}: check or known"
            );
            check_says(bug.check, bug.says.as_deref())
                .unwrap_or_else(|why| panic!("{}: {why}", bug.id));
            assert!(
                bug.good.as_ref() != Some(&bug.bad) && bug.tries >= 1,
                "{bug:?}"
            );
        }
        let first = &bugs[0].rows();
        assert_eq!(side(&first[0]), Some((bugs[0].id.as_str(), "bad")));
        assert_eq!(side(&first[1]), Some((bugs[0].id.as_str(), "good")));
        assert_eq!(
            title(&first[1]),
            format!("{}:good {}", bugs[0].id, bugs[0].scenario)
        );
        let other = crate::campaign::plan::tests::row("quick", "/linux:bad@home");
        assert_eq!((side(&other), title(&other)), (None, "quick".into()));
    }

    #[test]
    fn a_table_has_a_line_a_bug() {
        let rows: Vec<Row> = bugs().iter().flat_map(Bug::rows).collect();
        let plan = Plan {
            version: crate::campaign::plan::VERSION,
            legwatch: None,
            rows,
            seed: 1,
            repeat: Some(1),
            options: Vec::new(),
        };
        assert!(is_museum(&plan));
        let summary = Summary::new(plan, Vec::new(), None);
        let text = table(&summary);
        assert_eq!(text.lines().count(), 2 + bugs().len());
        assert!(
            text.lines()
                .all(|line| line.starts_with('|') && line.ends_with('|'))
        );
        assert!(text.contains("not run"));
    }
}
