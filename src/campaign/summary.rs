//! All results of a campaign together: the same whether one machine ran it, or many, or one with interruptions.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::expectation::Expectation;
use super::plan::{Cell, Partition, Plan, Row};
use super::result::{RunEnd, RunResult, State};
use super::same;
use crate::report::json::Report;

/// The version of `report.json` of a campaign.
pub const VERSION: u32 = 1;
/// Runs without a result that are named; more are counted.
const MISSING_MAX: usize = 1000;

/// How many runs stand how.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// As expected.
    pub passed: u64,
    /// Not as expected.
    pub failed: u64,
    /// It could not be told.
    pub inconclusive: u64,
    /// The guest was lost twice.
    pub lost: u64,
    /// Guests that were lost once, and whose run was made again.
    pub lost_once: u64,
    /// Not for this kernel.
    pub skipped: u64,
    /// They can't run like this.
    pub refused: u64,
    /// Faults of our own.
    pub broken: u64,
    /// Without a result.
    pub missing: u64,
}

/// A campaign's report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// [`VERSION`].
    pub version: u32,
    /// What was to be run.
    pub plan: Plan,
    /// A run each, in the plan's order.
    pub results: Vec<RunResult>,
    /// Runs of the plan without a result, by name: it ended early, or parts are missing. The first ones; the counts are whole.
    pub missing: Vec<String>,
    /// How many each row has of them, by its key; rows that have none are left out.
    pub missing_by_row: BTreeMap<String, u64>,
    /// Counts.
    pub tally: Tally,
    /// The exit code that goes with it (130, an interrupt, is the command's).
    pub exit_code: u8,
}

/// What can't be one campaign.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MergeError {
    /// Nothing to merge.
    #[error("nothing to merge; name the folders of the parts")]
    Nothing,
    /// Their plans differ.
    #[error("{0} and {1} are of different campaigns: {2}; merge parts of one")]
    Different(String, String, String),
    /// One run twice.
    #[error("run {0} is in {1} and in {2}; name every part once")]
    Twice(String, String, String),
}

impl Summary {
    /// Puts results in order and counts them; `part`: that of the runs that were to be made here, if not all were.
    pub fn new(plan: Plan, results: Vec<RunResult>, part: Option<Partition>) -> Summary {
        let rows: BTreeMap<&str, usize> = (0..)
            .zip(&plan.rows)
            .map(|(at, row)| (row.key.as_str(), at))
            .collect();
        let mut placed: BTreeMap<(usize, u64), RunResult> = BTreeMap::new();
        // What no row has is kept, behind all others.
        let mut astray = Vec::new();
        for result in results {
            match rows.get(result.row.as_str()) {
                Some(row) => {
                    placed.insert((*row, result.planned_seed()), result);
                }
                None => astray.push(result),
            }
        }
        let mut tally = Tally::default();
        let mut missing = Vec::new();
        let mut missing_by_row = BTreeMap::new();
        // A campaign without an end lacks nothing.
        let bounded = !plan.is_endless();
        let mine = |cell: &Cell| part.is_none_or(|part| part.has(&plan.key(*cell)));
        for cell in plan.cells().take_while(|_| bounded).filter(mine) {
            if placed.contains_key(&(cell.row, cell.seed)) {
                continue;
            }
            tally.missing += 1;
            *missing_by_row
                .entry(plan.rows[cell.row].key.clone())
                .or_default() += 1;
            if missing.len() < MISSING_MAX {
                missing.push(plan.key(cell));
            }
        }
        let results: Vec<RunResult> = placed.into_values().chain(astray).collect();
        for result in &results {
            tally.add(result);
        }
        // Without results and without missing ones, no run falls into this part.
        let nothing = part.is_some() && bounded && results.is_empty() && tally.missing == 0;
        let exit_code = if nothing { 0 } else { tally.exit_code() };
        Summary {
            version: VERSION,
            plan,
            results,
            missing,
            missing_by_row,
            tally,
            exit_code,
        }
    }

    /// Whether it is of a part of a campaign into which no run falls.
    pub fn is_empty_part(&self) -> bool {
        self.results.is_empty() && self.exit_code == 0
    }

    /// How many runs of a row were not made, if there are such: `3 runs not run`.
    pub fn missing_words(&self, row: &Row) -> Option<String> {
        let missing = self.missing_by_row.get(&row.key)?;
        let runs = if *missing == 1 { "run" } else { "runs" };
        Some(format!("{missing} {runs} not run"))
    }

    /// One run that has ended in order, held to nothing but its own verdict.
    pub fn of_run(scenario: &str, kernel: &str, report: Report) -> Summary {
        let row = Row {
            key: format!("{scenario}@{kernel}"),
            scenario: scenario.to_owned(),
            path: scenario.to_owned(),
            kernel: kernel.to_owned(),
            version: String::new(),
            text_crc32: None,
            expect: Expectation::clean(),
            skip: None,
            unavailable: None,
            tries: 1,
        };
        let plan = Plan {
            version: super::plan::VERSION,
            legwatch: None,
            rows: vec![row],
            seed: report.seed,
            repeat: Some(1),
            options: Vec::new(),
        };
        let cell = Cell {
            row: 0,
            seed: report.seed,
        };
        let end = RunEnd {
            code: Some(i32::from(report.exit_code)),
            report: Some(report),
            last_words: String::new(),
            ms: 0,
            folder: String::new(),
        };
        let mut result = RunResult::ended(&plan, cell, cell.seed, &end);
        result.folder = None;
        Summary::new(plan, vec![result], None)
    }

    /// Parts of one campaign, each with the name of its folder, as the whole.
    ///
    /// # Errors
    /// [`MergeError`].
    pub fn merge(parts: Vec<(String, Plan, Vec<RunResult>)>) -> Result<Summary, MergeError> {
        let (_, first, _) = parts.first().ok_or(MergeError::Nothing)?;
        let mut whole = first.clone();
        for (at, (name, plan, _)) in parts.iter().enumerate() {
            // Each with each: what one could not have of a kernel, two others may have in two ways.
            for (before, other, _) in &parts[..at] {
                if let Some(why) = same::differs(other, plan) {
                    return Err(MergeError::Different(before.clone(), name.clone(), why));
                }
            }
            same::join(&mut whole, plan);
        }
        let mut from: BTreeMap<String, String> = BTreeMap::new();
        let mut all = Vec::new();
        for (name, _, results) in parts {
            for result in results {
                if let Some(before) = from.insert(result.key.clone(), name.clone()) {
                    return Err(MergeError::Twice(result.key, before, name));
                }
                all.push(result);
            }
        }
        Ok(Summary::new(whole, all, None))
    }

    /// The results of one row, by seed.
    pub fn of_row<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a RunResult> {
        self.results.iter().filter(move |result| result.row == key)
    }

    /// As indented JSON with a line break at its end.
    pub fn json(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).expect("a summary is plain data");
        text.push('\n');
        text
    }
}

impl Tally {
    fn add(&mut self, result: &RunResult) {
        let count = match result.state {
            State::Passed => &mut self.passed,
            State::Failed => &mut self.failed,
            State::Inconclusive => &mut self.inconclusive,
            State::Lost => &mut self.lost,
            State::Skipped => &mut self.skipped,
            State::Refused => &mut self.refused,
            State::Broken => &mut self.broken,
        };
        *count += 1;
        self.lost_once += u64::from(result.lost_before.is_some());
    }

    /// The design's exit codes: our own fault, then findings, then the user's mistake, then whatever could not be told; nothing run has not passed.
    pub fn exit_code(&self) -> u8 {
        if self.broken > 0 {
            70
        } else if self.failed > 0 {
            1
        } else if self.refused > 0 {
            2
        } else if self.inconclusive + self.lost + self.missing > 0 || self.passed == 0 {
            125
        } else {
            0
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::campaign::plan::tests::plan;

    /// Every state there is, by the run's place.
    pub(crate) fn result(plan: &Plan, cell: Cell) -> RunResult {
        let at = cell.row + usize::try_from(cell.seed).unwrap();
        let state = State::ALL[at % State::ALL.len()];
        RunResult {
            key: plan.key(cell),
            row: plan.rows[cell.row].key.clone(),
            seed: cell.seed,
            state,
            detail: format!("<{}> & \"so\"", state.word()),
            outcome: None,
            release: None,
            findings: Vec::new(),
            known: Vec::new(),
            ms: 1000 + 10 * u64::try_from(at).unwrap(),
            tries: 1,
            lost_before: at.is_multiple_of(5).then(|| "gone".into()),
            folder: Some(format!("runs/{at}")),
            again: "legwatch run x".into(),
        }
    }

    #[test]
    fn a_partitioned_campaign_merges_to_the_whole() {
        for repeat in [Some(5), None] {
            let plan = plan(repeat);
            let all: Vec<_> = plan.cells().take(20).collect();
            let results = |filter: &dyn Fn(&str) -> bool| -> Vec<RunResult> {
                let mine = all.iter().filter(|cell| filter(&plan.key(**cell)));
                mine.map(|cell| result(&plan, *cell)).collect()
            };
            let whole = Summary::new(plan.clone(), results(&|_| true), None);
            assert_eq!(whole.results.len(), 20);
            let parts: Vec<_> = (1..=3)
                .rev()
                .map(|k| {
                    let part = Partition { k, n: 3 };
                    let mut mine = results(&|key| part.has(key));
                    mine.reverse();
                    let alone = Summary::new(plan.clone(), mine.clone(), Some(part));
                    assert_eq!(alone.tally.missing, 0);
                    (format!("part-{k}"), plan.clone(), mine)
                })
                .collect();
            let merged = Summary::merge(parts.clone()).unwrap();
            assert_eq!(merged.json(), whole.json());
            let twice = Summary::merge(vec![parts[0].clone(), parts[0].clone()]).unwrap_err();
            assert!(
                twice.to_string().contains("name every part once"),
                "{twice}"
            );
            if repeat.is_some() {
                let partial = Summary::merge(parts[1..].to_vec()).unwrap();
                assert!(partial.tally.missing > 0 && !partial.missing.is_empty());
            }
        }
        let mut other = plan(None);
        other.seed = 9;
        let parts = vec![
            ("a".into(), plan(None), vec![]),
            ("b".into(), other, vec![]),
        ];
        let different = Summary::merge(parts).unwrap_err().to_string();
        assert!(different.contains("a and b") && different.contains("the seeds differ"));
        assert_eq!(Summary::merge(vec![]), Err(MergeError::Nothing));
    }

    #[test]
    fn a_result_without_a_place_is_kept() {
        for repeat in [Some(1), None] {
            let mut plan = plan(repeat);
            plan.rows[1].unavailable = Some("it can't be had".into());
            let beyond = result(&plan, Cell { row: 1, seed: 5 });
            let astray = RunResult {
                row: "no row".into(),
                ..beyond.clone()
            };
            let results = vec![astray.clone(), beyond.clone()];
            let summary = Summary::new(plan, results, None);
            assert_eq!(summary.results, [beyond, astray]);
            assert_eq!(summary.tally.broken, 2);
            assert_eq!(summary.exit_code, 70);
        }
    }

    #[test]
    fn missing_runs_are_counted_by_row() {
        let plan = plan(Some(900));
        let results = (0..4).map(|row| result(&plan, Cell { row, seed: 3 }));
        let summary = Summary::new(plan.clone(), results.collect(), None);
        assert_eq!(summary.missing.len(), MISSING_MAX);
        assert_eq!(summary.tally.missing, 4 * 899);
        for row in &plan.rows {
            assert_eq!(summary.missing_by_row[&row.key], 899);
        }
    }

    #[test]
    fn exit_codes_have_their_order() {
        let exit = |change: &dyn Fn(&mut Tally)| {
            let mut tally = Tally {
                passed: 3,
                ..Tally::default()
            };
            change(&mut tally);
            tally.exit_code()
        };
        assert_eq!(exit(&|_| ()), 0);
        assert_eq!(exit(&|tally| tally.skipped = 1), 0);
        assert_eq!(exit(&|tally| tally.lost_once = 1), 0);
        assert_eq!(exit(&|tally| tally.lost = 1), 125);
        assert_eq!(exit(&|tally| tally.missing = 1), 125);
        assert_eq!(exit(&|tally| tally.inconclusive = 1), 125);
        assert_eq!(
            exit(&|tally| (tally.inconclusive, tally.refused) = (1, 1)),
            2
        );
        assert_eq!(exit(&|tally| (tally.refused, tally.failed) = (1, 1)), 1);
        assert_eq!(exit(&|tally| (tally.failed, tally.broken) = (1, 1)), 70);
        // Skipped through and through: nothing was tested.
        assert_eq!(exit(&|tally| (tally.passed, tally.skipped) = (0, 4)), 125);
    }
}
