//! What a scenario is for and what it has to show on which kernel: the `[suite]` table of a scenario.

use serde::{Deserialize, Serialize};

use crate::finding::{Cause, Check, Confidence, Finding, Wrongness};
use crate::oracle::Outcome;
use crate::release::{self, Numbers};
use crate::report::json::Report;

/// The `[suite]` table of a scenario's file: what `legwatch test` has to know, and `legwatch run` does not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SuiteTable {
    /// Words to choose by (`--tag`).
    pub tags: Vec<String>,
    /// Kernels that it is not for.
    pub skip: Vec<Skip>,
    /// What it has to show on some kernels; on all others: clean.
    pub expect: Vec<Expected>,
}

/// Kernels that a scenario is not for.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Skip {
    /// Releases and ranges of them; see [`release`].
    pub kernels: Vec<String>,
    /// Why.
    pub why: String,
}

/// What a scenario has to show on some kernels.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expected {
    /// Releases and ranges of them; see [`release`].
    pub kernels: Vec<String>,
    /// The outcome.
    pub outcome: Outcome,
    /// The check that finds it.
    pub check: Option<Check>,
    /// The kind of what it finds.
    pub kind: Option<Wrongness>,
    /// A part of its headline or detail: the step's name, a function of the trace.
    pub says: Option<String>,
    /// A known deviation that has to be seen.
    pub known: Option<String>,
    /// A part of the reason for which it is inconclusive.
    pub because: Option<String>,
    /// Why.
    pub why: String,
}

/// What one run has to show.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expectation {
    /// The outcome.
    pub outcome: Outcome,
    /// The check of a proven finding that has to be there.
    pub check: Option<Check>,
    /// Its kind.
    pub kind: Option<Wrongness>,
    /// A part of its headline or detail.
    #[serde(default)]
    pub says: Option<String>,
    /// A known deviation that has to be seen.
    pub known: Option<String>,
    /// A known deviation that must not be seen.
    pub not_known: Option<String>,
    /// A part of the reason for which it is inconclusive.
    pub because: Option<String>,
}

/// How a run's report compares with what was expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// As expected.
    Met,
    /// It says something else, in words.
    Unmet(String),
    /// It can't be told, and why.
    Open(String),
}

impl SuiteTable {
    /// Whether its parts make sense.
    ///
    /// # Errors
    /// One sentence that names the part.
    pub fn check(&self) -> Result<(), String> {
        let kernels = |place: &str, bounds: &[String]| {
            if bounds.is_empty() {
                return Err(format!("{place}: no kernels; write `..` for all of them"));
            }
            bounds.iter().try_for_each(|bound| {
                release::check(bound).map_err(|why| format!("{place}: {why}"))
            })
        };
        for tag in &self.tags {
            if tag.is_empty() || tag.contains(char::is_whitespace) {
                return Err(format!("[suite] tags: `{tag}` is no word"));
            }
        }
        for skip in &self.skip {
            kernels("[[suite.skip]]", &skip.kernels)?;
            if skip.why.is_empty() {
                return Err("[[suite.skip]]: say why".into());
            }
        }
        for expected in &self.expect {
            kernels("[[suite.expect]]", &expected.kernels)?;
            if expected.why.is_empty() {
                return Err("[[suite.expect]]: say why".into());
            }
            let found = expected.check.is_some() || expected.kind.is_some();
            if found != (expected.outcome == Outcome::Findings) {
                return Err(
                    "[[suite.expect]]: check (and kind) go with outcome = \"findings\", and it with them"
                        .into(),
                );
            }
            check_says(expected.check, expected.says.as_deref())
                .map_err(|why| format!("[[suite.expect]]: {why}"))?;
            if expected.because.is_some() != (expected.outcome == Outcome::Inconclusive) {
                return Err(
                    "[[suite.expect]]: because goes with outcome = \"inconclusive\", and it with because"
                        .into(),
                );
            }
        }
        Ok(())
    }

    /// Why the scenario is not for this release, if it is not.
    pub fn skips(&self, release: Numbers) -> Option<&str> {
        let skip = self.skip.iter().find(|skip| among(&skip.kernels, release));
        skip.map(|skip| skip.why.as_str())
    }

    /// What the scenario has to show on this release: the first entry that names it, else a clean run.
    pub fn expects(&self, release: Numbers) -> Expectation {
        match self
            .expect
            .iter()
            .find(|expected| among(&expected.kernels, release))
        {
            None => Expectation::clean(),
            Some(expected) => Expectation {
                outcome: expected.outcome,
                check: expected.check,
                kind: expected.kind,
                says: expected.says.clone(),
                known: expected.known.clone(),
                not_known: None,
                because: expected.because.clone(),
            },
        }
    }
}

/// Whether it is said which finding of a check is meant, where its name does not tell: of steps, demands and traces there are many.
///
/// # Errors
/// One sentence.
pub(super) fn check_says(check: Option<Check>, says: Option<&str>) -> Result<(), String> {
    let Some(check) = check else {
        return match says {
            Some(_) => Err("says goes with check".into()),
            None => Ok(()),
        };
    };
    let many = [
        (Check::CheckStep, "the step's name"),
        (Check::Expect, "the demand"),
        (Check::Guest, "a function of the trace"),
    ];
    let what = many.iter().find(|(one, _)| *one == check);
    match (says, what) {
        (Some(says), _) if says.trim().is_empty() => {
            Err("says is empty; give a part of the finding's headline or detail".into())
        }
        (None, Some((_, what))) => Err(format!(
            "check = \"{}\" does not tell which one is meant; add says = \"…\", {what} as the finding has it",
            check.name()
        )),
        (Some(_) | None, _) => Ok(()),
    }
}

fn among(bounds: &[String], release: Numbers) -> bool {
    bounds.iter().any(|bound| release::within(bound, release))
}

/// Whether a finding decides a verdict.
fn decides(finding: &Finding) -> bool {
    finding.confidence == Confidence::Proven && finding.cause != Cause::Injected
}

impl Expectation {
    /// A clean run.
    pub fn clean() -> Expectation {
        Expectation {
            outcome: Outcome::Clean,
            check: None,
            kind: None,
            says: None,
            known: None,
            not_known: None,
            because: None,
        }
    }

    /// What has to be found.
    pub fn found(check: Check, kind: Option<Wrongness>, says: Option<String>) -> Expectation {
        Expectation {
            outcome: Outcome::Findings,
            check: Some(check),
            kind,
            says,
            ..Expectation::clean()
        }
    }

    /// In few words: `clean`, `stamp/absent`, `check-step: the reads end`, `clean with K2`.
    pub fn words(&self) -> String {
        let what = match self.outcome {
            Outcome::Clean => "clean".to_owned(),
            Outcome::Inconclusive => "inconclusive".to_owned(),
            Outcome::Findings => {
                let check = self.check.map_or("any check", Check::name);
                let found = match self.kind {
                    Some(kind) => format!("{check}/{}", kind.name()),
                    None => check.to_owned(),
                };
                match &self.says {
                    Some(says) => format!("{found}: {says}"),
                    None => found,
                }
            }
        };
        match (&self.known, &self.not_known) {
            (Some(known), _) => format!("{what} with {known}"),
            (None, Some(not)) => format!("{what} without {not}"),
            (None, None) => what,
        }
    }

    /// Compares a run's report with it.
    pub fn compare(&self, report: &Report) -> Comparison {
        let reason = || {
            report
                .reasons
                .first()
                .map_or("no reason is given", String::as_str)
        };
        let headline = || {
            let first = report.findings.iter().find(|finding| decides(finding));
            // With --strict a suspect one decides.
            let first = first.or_else(|| {
                report
                    .findings
                    .iter()
                    .find(|finding| finding.cause != Cause::Injected)
            });
            first.map_or_else(String::new, |finding| {
                format!(
                    "{}/{}: {}",
                    finding.check.name(),
                    finding.kind.name(),
                    finding.headline
                )
            })
        };
        match (self.outcome, report.outcome) {
            (Outcome::Clean, Outcome::Findings) => return Comparison::Unmet(headline()),
            (Outcome::Clean | Outcome::Findings, Outcome::Inconclusive) => {
                return Comparison::Open(reason().to_owned());
            }
            (Outcome::Findings, Outcome::Clean) => {
                return Comparison::Unmet(format!(
                    "{} was expected, and nothing was found",
                    self.words()
                ));
            }
            (Outcome::Findings, Outcome::Findings) => {
                let says = |finding: &Finding| {
                    self.says.as_deref().is_none_or(|says| {
                        finding.headline.contains(says) || finding.detail.contains(says)
                    })
                };
                let like = |finding: &Finding| {
                    decides(finding)
                        && says(finding)
                        && self.check.is_none_or(|check| finding.check == check)
                        && self.kind.is_none_or(|kind| finding.kind == kind)
                };
                if !report.findings.iter().any(like) {
                    return Comparison::Unmet(format!(
                        "{} was expected; found was {}",
                        self.words(),
                        headline()
                    ));
                }
            }
            (Outcome::Inconclusive, Outcome::Inconclusive) => {
                let because = self.because.as_deref().unwrap_or_default();
                if !report.reasons.iter().any(|reason| reason.contains(because)) {
                    return Comparison::Open(reason().to_owned());
                }
            }
            (Outcome::Inconclusive, Outcome::Findings) => return Comparison::Unmet(headline()),
            (Outcome::Inconclusive, Outcome::Clean) => {
                return Comparison::Unmet(format!(
                    "an inconclusive run was expected ({}), and it was clean",
                    self.because.as_deref().unwrap_or_default()
                ));
            }
            (Outcome::Clean, Outcome::Clean) => {}
        }
        let seen = |id: &str| {
            report
                .known
                .iter()
                .any(|finding| finding.known.as_deref() == Some(id))
        };
        if let Some(id) = self.known.as_deref().filter(|id| !seen(id)) {
            return Comparison::Unmet(format!("{id} was expected to be seen, and was not"));
        }
        if let Some(id) = self.not_known.as_deref().filter(|id| seen(id)) {
            return Comparison::Unmet(format!("{id} was seen where it must not be"));
        }
        Comparison::Met
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = r#"
tags = ["quick", "write-behind"]
[[skip]]
kernels = ["..6.2"]
why = "K7"
[[expect]]
kernels = ["6.16.3", "6.15"]
outcome = "findings"
check = "stamp"
kind = "absent"
why = "e879a0d9cb08"
"#;

    #[test]
    fn kernels_are_skipped_and_expected_by_release() {
        let table: SuiteTable = toml::from_str(TABLE).unwrap();
        table.check().unwrap();
        assert_eq!(table.skips([6, 1, 192]), Some("K7"));
        assert_eq!(table.skips([6, 3, 0]), None);
        assert_eq!(table.expects([6, 12, 117]), Expectation::clean());
        assert_eq!(
            table.expects([6, 15, 9]),
            Expectation::found(Check::Stamp, Some(Wrongness::Absent), None)
        );
        assert_eq!(table.expects([6, 16, 4]), Expectation::clean());
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (from, to, words) in [
            ("..6.2", "six", "no kernel release"),
            ("why = \"K7\"", "why = \"\"", "say why"),
            ("[\"..6.2\"]", "[]", "no kernels"),
            ("\"findings\"", "\"clean\"", "go with outcome"),
            (
                "check = \"stamp\"\nkind = \"absent\"\n",
                "",
                "go with outcome",
            ),
            (
                "\"stamp\"",
                "\"check-step\"",
                "does not tell which one is meant; add says = \"…\", the step's name",
            ),
            ("\"stamp\"", "\"guest\"", "a function of the trace"),
            ("\"stamp\"", "\"expect\"", "the demand"),
            ("\"stamp\"", "\"stamp\"\nsays = \" \"", "says is empty"),
            ("check = \"stamp\"", "says = \"x\"", "says goes with check"),
            ("\"quick\"", "\"two words\"", "no word"),
        ] {
            let text = TABLE.replace(from, to);
            assert_ne!(text, TABLE);
            let table: SuiteTable = toml::from_str(&text).unwrap();
            let why = table.check().unwrap_err();
            assert!(why.contains(words), "{why}");
        }
        toml::from_str::<SuiteTable>("tag = []").unwrap_err();
    }

    /// A run with one proven finding.
    fn report(check: Check, headline: &str, detail: &str) -> Report {
        let finding = crate::oracle::plain(
            check,
            Wrongness::Step,
            "1/2",
            crate::event::EventNo(1),
            headline.into(),
            detail.into(),
        );
        let verdict = crate::oracle::Verdict {
            outcome: Outcome::Findings,
            findings: vec![finding],
            known: Vec::new(),
            reasons: Vec::new(),
            coverage: crate::oracle::Coverage::default(),
            notes: Vec::new(),
            maps: Vec::new(),
        };
        let header = crate::header::RunHeader::new(1, 1, Vec::new());
        Report::new(&header, &verdict)
    }

    #[test]
    fn another_step_that_fails_is_not_the_one_that_was_meant() {
        let says = |says: &str| Expectation::found(Check::CheckStep, None, Some(says.into()));
        let met = report(
            Check::CheckStep,
            "check `the reads end` failed",
            "exit code 1",
        );
        assert_eq!(says("the reads end").compare(&met), Comparison::Met);
        let other = report(Check::CheckStep, "check `read back` failed", "exit code 1");
        let Comparison::Unmet(why) = says("the reads end").compare(&other) else {
            panic!("any step counted");
        };
        assert_eq!(
            why,
            "check-step: the reads end was expected; found was check-step/step failed: check `read back` failed"
        );
        // A trace stands in the detail.
        let crash = |trace: &str| report(Check::Guest, "the guest's kernel failed", trace);
        let wanted = Expectation::found(Check::Guest, None, Some("check_and_add_serial".into()));
        assert_eq!(
            wanted.compare(&crash("trace: check_and_add_serial [raid1]")),
            Comparison::Met
        );
        assert!(matches!(
            wanted.compare(&crash("trace: raid1_end_write_request [raid1]")),
            Comparison::Unmet(_)
        ));
    }
}
