//! What came of one run, as a line of `results.jsonl`.

use serde::{Deserialize, Serialize};

use super::expectation::Comparison;
use super::plan::{Cell, Plan};
use crate::finding::{Cause, Confidence};
use crate::oracle::Outcome;
use crate::oracle::lost::lost;
use crate::report::json::Report;

/// How a run stands against what was expected of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// As expected.
    Passed,
    /// Not as expected.
    Failed,
    /// It could not be told.
    Inconclusive,
    /// The guest was lost, twice: neither passed nor failed.
    Lost,
    /// The scenario is not for this kernel.
    Skipped,
    /// It can't run like this: the user's to mend.
    Refused,
    /// A fault of legwatch's own.
    Broken,
}

impl State {
    /// All states, in the order of reports.
    pub const ALL: [State; 7] = [
        State::Passed,
        State::Failed,
        State::Inconclusive,
        State::Lost,
        State::Skipped,
        State::Refused,
        State::Broken,
    ];

    /// Its word.
    pub fn word(self) -> &'static str {
        match self {
            State::Passed => "passed",
            State::Failed => "failed",
            State::Inconclusive => "inconclusive",
            State::Lost => "lost guest",
            State::Skipped => "skipped",
            State::Refused => "refused",
            State::Broken => "broken",
        }
    }

    /// Whether it ends a campaign that goes on for a time: it is not as expected, or more seeds would go the same way. What could not be told does not.
    pub fn ends(self) -> bool {
        match self {
            State::Failed | State::Refused | State::Broken => true,
            State::Passed | State::Inconclusive | State::Lost | State::Skipped => false,
        }
    }

    /// Its mark in tables.
    pub fn mark(self) -> &'static str {
        match self {
            State::Passed => "✓",
            State::Failed => "✗",
            State::Inconclusive | State::Lost => "?",
            State::Skipped => "-",
            State::Refused | State::Broken => "!",
        }
    }
}

/// A finding in short.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// Its id.
    pub id: String,
    /// Check and kind: `stamp/absent`.
    pub what: String,
    /// Whether it decides.
    pub decides: bool,
    /// Its headline.
    pub headline: String,
}

/// What came of one run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunResult {
    /// Names the run in its campaign.
    pub key: String,
    /// The row's key.
    pub row: String,
    /// The seed that the state is about.
    pub seed: u64,
    /// How it stands.
    pub state: State,
    /// In words, one line.
    pub detail: String,
    /// The run's own outcome, where it has one.
    pub outcome: Option<Outcome>,
    /// `uname -r` of the guest, where it told.
    pub release: Option<String>,
    /// Findings.
    pub findings: Vec<Found>,
    /// Known deviations that were seen, each once.
    pub known: Vec<String>,
    /// Milliseconds, the tries before it included.
    pub ms: u64,
    /// Seeds that were tried.
    pub tries: u32,
    /// Why the guest was lost the first time, if it was.
    pub lost_before: Option<String>,
    /// The run's folder, below that of the campaign.
    pub folder: Option<String>,
    /// The command that runs it again.
    pub again: String,
}

/// How the process of a run ended.
#[derive(Clone, Debug, PartialEq)]
pub struct RunEnd {
    /// Its exit code; `None`: a signal ended it.
    pub code: Option<i32>,
    /// Its report, if it left one.
    pub report: Option<Report>,
    /// The last line that it said.
    pub last_words: String,
    /// How long it took, in milliseconds.
    pub ms: u64,
    /// Its folder, below that of the campaign.
    pub folder: String,
}

impl RunEnd {
    /// Why the guest was lost, if it was: such a run is made once more.
    pub fn lost(&self) -> Option<&str> {
        let report = self.report.as_ref()?;
        (report.outcome == Outcome::Inconclusive)
            .then(|| lost(&report.reasons))
            .flatten()
    }
}

impl RunResult {
    /// The seed that the plan has for it; [`RunResult::seed`] may be that of a later try.
    pub fn planned_seed(&self) -> u64 {
        let seed = self.key.rsplit_once('@');
        seed.and_then(|(_, seed)| seed.parse().ok())
            .unwrap_or(self.seed)
    }

    /// Whether it only says that its kernel could not be had.
    pub fn is_unavailable(&self) -> bool {
        self.state == State::Inconclusive && self.tries == 0
    }

    /// A run that was not made: its row says why.
    pub fn not_run(plan: &Plan, cell: Cell) -> RunResult {
        let row = &plan.rows[cell.row];
        let (state, detail) = match (&row.skip, &row.unavailable) {
            (Some(why), _) => (State::Skipped, why.clone()),
            (None, Some(why)) => (State::Inconclusive, why.clone()),
            (None, None) => unreachable!("a row that runs was asked why it does not"),
        };
        RunResult {
            key: plan.key(cell),
            row: row.key.clone(),
            seed: cell.seed,
            state,
            detail,
            outcome: None,
            release: None,
            findings: Vec::new(),
            known: Vec::new(),
            ms: 0,
            tries: 0,
            lost_before: None,
            folder: None,
            again: String::new(),
        }
    }

    /// A run that ended; `seed` is the one that it had.
    pub fn ended(plan: &Plan, cell: Cell, seed: u64, end: &RunEnd) -> RunResult {
        let row = &plan.rows[cell.row];
        let report = match end.code {
            Some(0 | 1 | 125) => end.report.as_ref(),
            _ => None,
        };
        let (state, detail) = match (report, end.code) {
            (Some(report), _) => match (row.expect.compare(report), end.lost()) {
                (Comparison::Open(_), Some(why)) => (State::Lost, why.to_owned()),
                (Comparison::Open(why), None) => (State::Inconclusive, why),
                (Comparison::Met, _) => (State::Passed, row.expect.words()),
                (Comparison::Unmet(what), _) => (State::Failed, what),
            },
            (None, Some(2)) => (State::Refused, end.last_words.clone()),
            (None, Some(125)) => (State::Inconclusive, end.last_words.clone()),
            (None, Some(code)) => (
                State::Broken,
                format!("exit code {code}: {}", end.last_words),
            ),
            (None, None) => (
                State::Broken,
                format!("ended by a signal: {}", end.last_words),
            ),
        };
        let mut known: Vec<String> = report
            .iter()
            .flat_map(|report| &report.known)
            .filter_map(|finding| finding.known.clone())
            .collect();
        known.sort();
        known.dedup();
        RunResult {
            key: plan.key(cell),
            row: row.key.clone(),
            seed,
            state,
            detail,
            outcome: report.map(|report| report.outcome),
            release: report.and_then(|report| report.coverage.facts.get("kernel.release").cloned()),
            findings: report
                .iter()
                .flat_map(|report| &report.findings)
                .map(|finding| Found {
                    id: finding.id.clone(),
                    what: format!("{}/{}", finding.check.name(), finding.kind.name()),
                    decides: finding.confidence == Confidence::Proven
                        && finding.cause != Cause::Injected,
                    headline: finding.headline.clone(),
                })
                .collect(),
            known,
            ms: end.ms,
            tries: 1,
            lost_before: None,
            folder: Some(end.folder.clone()),
            again: report.map_or_else(String::new, |report| report.reproduce.clone()),
        }
    }
}
