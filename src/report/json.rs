//! The report for programs. Its schema is `docs/report.schema.json`; a change that breaks readers raises [`VERSION`].

use serde::{Deserialize, Serialize};

use crate::finding::Finding;
use crate::header::RunHeader;
use crate::oracle::{Coverage, Outcome, Verdict};

/// The schema's version.
pub const VERSION: u32 = 1;

/// The whole report.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`VERSION`].
    pub version: u32,
    /// How the run came out.
    pub outcome: Outcome,
    /// The exit code that goes with it: 0, 1 or 125.
    pub exit_code: u8,
    /// The run's number, as in its stamps.
    pub run: u64,
    /// Its seed.
    pub seed: u64,
    /// The findings, in the order of the sequence.
    pub findings: Vec<Finding>,
    /// Findings that a known deviation of stock kernels explains.
    #[serde(default)]
    pub known: Vec<Finding>,
    /// Why it is inconclusive, or would be.
    pub reasons: Vec<String>,
    /// What was exercised and compared.
    pub coverage: Coverage,
    /// What a reader should know besides.
    pub notes: Vec<String>,
    /// The command line that runs it again; empty if there is none.
    pub reproduce: String,
    /// Where everything comes from.
    pub provenance: serde_json::Value,
}

impl Report {
    /// Puts a run's report together.
    pub fn new(header: &RunHeader, verdict: &Verdict) -> Report {
        Report {
            version: VERSION,
            outcome: verdict.outcome,
            exit_code: verdict.exit_code(),
            run: header.run,
            seed: header.seed,
            findings: verdict.findings.clone(),
            known: verdict.known.clone(),
            reasons: verdict.reasons.clone(),
            coverage: verdict.coverage.clone(),
            notes: verdict.notes.clone(),
            reproduce: header.reproduce.clone(),
            provenance: provenance(header, &verdict.coverage),
        }
    }

    /// The report as indented JSON with a line break at its end.
    pub fn render(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).expect("a report is plain data");
        text.push('\n');
        text
    }
}

/// What the host knew when the run began, and what the guest told of itself: kernel, configuration, command line, taint, modules.
pub(super) fn provenance(header: &RunHeader, coverage: &Coverage) -> serde_json::Value {
    let mut all = header.provenance.as_object().cloned().unwrap_or_default();
    let mut guest = serde_json::Map::new();
    let mut modules = serde_json::Map::new();
    for (name, value) in &coverage.facts {
        if let Some(name) = name.strip_prefix(KERNEL) {
            guest.insert(name.to_owned(), value.clone().into());
        } else if let Some(name) = module(name) {
            modules.insert(name.to_owned(), value.clone().into());
        }
    }
    if !modules.is_empty() {
        guest.insert("modules".into(), modules.into());
    }
    all.insert("guest".into(), guest.into());
    all.into()
}

/// How facts about the guest's kernel begin.
const KERNEL: &str = "kernel.";

/// The module that a fact is the build-id of.
fn module(fact: &str) -> Option<&str> {
    fact.strip_prefix("module.")?.strip_suffix(".build-id")
}

/// Whether a fact stands in the provenance.
pub(super) fn is_provenance(fact: &str) -> bool {
    fact.starts_with(KERNEL) || module(fact).is_some()
}
