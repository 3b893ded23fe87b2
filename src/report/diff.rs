//! Two reports side by side: which findings are new, which are gone, which are the same.
//!
//! Findings with the same identifier are the same. What is left is paired by check, kind, legs, cause and known deviation, in the order of the sequence:
//! the same kind of thing elsewhere, as another seed brings it.

use std::collections::BTreeMap;

use serde::Serialize;

use super::json::Report;
use super::text::{Style, printable, summary};
use crate::finding::{Cause, Confidence, Finding};
use crate::oracle::Outcome;

/// The comparison of an earlier report with a later one.
#[derive(Clone, Debug, Serialize)]
pub struct Difference {
    /// Outcomes, earlier and later.
    pub outcomes: [Outcome; 2],
    /// Findings of the later one alone.
    pub new: Vec<Finding>,
    /// Findings of the earlier one alone.
    pub gone: Vec<Finding>,
    /// Findings of both.
    pub same: Vec<Pair>,
}

/// A finding that both reports have.
#[derive(Clone, Debug, Serialize)]
pub struct Pair {
    /// Its identifiers, earlier and later; equal unless it is elsewhere.
    pub ids: [String; 2],
    /// Sectors, earlier and later.
    pub sectors: [u64; 2],
    /// As the later one has it.
    pub finding: Finding,
}

impl Difference {
    /// Compares; known deviations take part as findings do.
    pub fn of(earlier: &Report, later: &Report) -> Difference {
        let all = |report: &Report| -> Vec<Finding> {
            report
                .findings
                .iter()
                .chain(&report.known)
                .cloned()
                .collect()
        };
        let (mut old, mut new) = (all(earlier), all(later));
        let mut same = pairs(&mut old, &mut new, |finding| finding.id.clone());
        same.extend(pairs(&mut old, &mut new, |finding| {
            (
                finding.check,
                finding.kind,
                finding.confidence,
                finding.cause,
                finding.legs.clone(),
                finding.known.clone(),
            )
        }));
        same.sort_by(|one, other| {
            (one.finding.first, &one.finding.id).cmp(&(other.finding.first, &other.finding.id))
        });
        Difference {
            outcomes: [earlier.outcome, later.outcome],
            new,
            gone: old,
            same,
        }
    }

    /// The exit code: 1 if something new decides, 125 if the later run could not tell and the earlier one could, else 0.
    pub fn exit_code(&self) -> u8 {
        let decides = |finding: &Finding| {
            finding.confidence == Confidence::Proven
                && finding.cause != Cause::Injected
                && finding.known.is_none()
        };
        if self.new.iter().any(decides) {
            1
        } else if self.outcomes[1] == Outcome::Inconclusive
            && self.outcomes[0] != Outcome::Inconclusive
        {
            125
        } else {
            0
        }
    }

    /// For people.
    pub fn render(&self, style: Style) -> String {
        let mut text = format!(
            "{} new, {} gone, {} the same; {} before, {} now\n",
            self.new.len(),
            self.gone.len(),
            self.same.len(),
            outcome(self.outcomes[0]),
            outcome(self.outcomes[1])
        );
        for finding in &self.new {
            text.push_str(&format!(
                "new   {}   {}\n",
                summary(finding, style),
                printable(&finding.id)
            ));
        }
        for finding in &self.gone {
            text.push_str(&format!(
                "gone  {}   {}\n",
                summary(finding, Style::Plain),
                printable(&finding.id)
            ));
        }
        for pair in &self.same {
            let elsewhere = if pair.ids[0] == pair.ids[1] {
                String::new()
            } else {
                format!(", elsewhere before ({})", printable(&pair.ids[0]))
            };
            let sectors = if pair.sectors[0] == pair.sectors[1] {
                String::new()
            } else {
                format!(", {} sectors before", pair.sectors[0])
            };
            text.push_str(&format!(
                "same  {}   {}{elsewhere}{sectors}\n",
                summary(&pair.finding, Style::Plain),
                printable(&pair.ids[1])
            ));
        }
        text
    }
}

fn outcome(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Clean => "clean",
        Outcome::Findings => "findings",
        Outcome::Inconclusive => "inconclusive",
    }
}

/// Takes out of both lists what has the same key, pair by pair.
fn pairs<K: Ord>(
    old: &mut Vec<Finding>,
    new: &mut Vec<Finding>,
    key: impl Fn(&Finding) -> K,
) -> Vec<Pair> {
    let mut waiting: BTreeMap<K, Vec<Finding>> = BTreeMap::new();
    for finding in std::mem::take(old).into_iter().rev() {
        waiting.entry(key(&finding)).or_default().push(finding);
    }
    let mut found = Vec::new();
    for finding in std::mem::take(new) {
        match waiting.get_mut(&key(&finding)).and_then(Vec::pop) {
            Some(before) => found.push(Pair {
                ids: [before.id, finding.id.clone()],
                sectors: [before.sectors, finding.sectors],
                finding,
            }),
            None => new.push(finding),
        }
    }
    *old = waiting.into_values().flatten().collect();
    old.sort_by(|one, other| (one.first, &one.id).cmp(&(other.first, &other.id)));
    found
}
