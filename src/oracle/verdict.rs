//! The verdict, and what the run exercised.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::finding::{Cause, Confidence, Finding, StoryLine};

/// How a run came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Everything that was demanded was compared, and nothing is wrong.
    Clean,
    /// At least one proven finding.
    Findings,
    /// It could not be told.
    Inconclusive,
}

/// Everything that a report needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// How it came out.
    pub outcome: Outcome,
    /// The findings: those that decide, then suspect ones, then what rules caused; each in the order of the sequence.
    pub findings: Vec<Finding>,
    /// Findings that a known deviation of stock kernels explains. They do not decide.
    pub known: Vec<Finding>,
    /// Why it is inconclusive, or would be if there were no findings.
    pub reasons: Vec<String>,
    /// What the run exercised.
    pub coverage: Coverage,
    /// What a reader should know besides: checks that were off, quiet points that were missed.
    pub notes: Vec<String>,
    /// What each leg holds at the end. For pictures; no report for programs has it.
    #[serde(skip)]
    pub maps: Vec<super::map::LegMap>,
}

impl Verdict {
    /// The process's exit code: 0 clean, 1 findings, 125 inconclusive. The same with `--bisect`; other ends are the command line's.
    pub fn exit_code(&self) -> u8 {
        match self.outcome {
            Outcome::Clean => 0,
            Outcome::Findings => 1,
            Outcome::Inconclusive => 125,
        }
    }

    /// The verdict when suspect findings decide too.
    #[must_use]
    pub fn strict(mut self) -> Verdict {
        if self.findings.iter().any(|f| f.cause != Cause::Injected) {
            self.outcome = Outcome::Findings;
        }
        self
    }

    /// The verdict when known deviations decide as if nobody knew them.
    #[must_use]
    pub fn without_known(mut self) -> Verdict {
        self.findings.append(&mut self.known);
        in_order(&mut self.findings);
        self.decide();
        self
    }

    pub(crate) fn decide(&mut self) {
        let proven = |finding: &Finding| {
            finding.confidence == Confidence::Proven && finding.cause != Cause::Injected
        };
        self.outcome = if self.findings.iter().any(proven) {
            Outcome::Findings
        } else if !self.reasons.is_empty() {
            Outcome::Inconclusive
        } else {
            Outcome::Clean
        };
    }
}

/// Puts what decides before what is suspect, and that before what rules caused; each in the order of the sequence.
pub(crate) fn in_order(findings: &mut [Finding]) {
    let rank = |one: &Finding| (one.cause == Cause::Injected, one.confidence, one.first);
    findings.sort_by(|one, other| (rank(one), &one.id).cmp(&(rank(other), &other.id)));
}

/// What the caller knows about the run's end that is no event.
#[derive(Clone, Debug, Default)]
pub struct EndState {
    /// Why the run could not be tested, as far as the caller knows (lost guest, no accelerator, torn journal).
    pub reasons: Vec<String>,
    /// Findings of others: a panic's trace, an expectation of the scenario.
    pub findings: Vec<Finding>,
}

/// Counts of what was exercised and compared.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Coverage {
    /// Writes that the workload began.
    pub writes_begun: u64,
    /// Writes acknowledged without an error.
    pub writes_acknowledged: u64,
    /// Writes that failed.
    pub writes_failed: u64,
    /// Writes refused because they would have had to wait (NOWAIT), and made again.
    #[serde(default, skip_serializing_if = "is_none")]
    pub writes_refused: u64,
    /// Discards acknowledged to the workload.
    pub discards_acknowledged: u64,
    /// Flushes acknowledged to the workload.
    pub flushes_acknowledged: u64,
    /// Requests of the workload whose target maps to no array that is known.
    pub intents_unmapped: u64,
    /// Different sectors that the workload wrote with stamps.
    pub sectors_intended: u64,
    /// Of these, how many were compared on all active legs since they were last written.
    pub sectors_compared: u64,
    /// Of these, how many could be anything: their last write failed, was not stamped, or was a discard.
    pub sectors_open: u64,
    /// Array sectors compared between legs, stamped or not, added up over all comparisons.
    pub twins_compared: u64,
    /// Array sectors excused at the end, by case of the md reference.
    pub excused: BTreeMap<u8, u64>,
    /// The first of them by case: an array sector, and the requests that brought what the legs hold there. None where they are no longer remembered.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub excused_first: BTreeMap<u8, StoryLine>,
    /// How often each check was triggered (sectors, or requests for buf-stable).
    pub triggered: BTreeMap<String, u64>,
    /// Write-behind: writes that the array acknowledged before a write-mostly leg had completed them.
    pub writes_behind: u64,
    /// The longest that a leg lagged behind an acknowledgement, in microseconds.
    pub behind_longest_us: u64,
    /// How long legs were apart, a pair each.
    #[serde(default)]
    pub lag: Vec<super::lag::PairLag>,
    /// What the guest's sysfs told of resyncs, recoveries, checks and repairs, and what the legs showed of them; at most 256.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sync_passes: Vec<SyncPass>,
    /// How many more there were.
    #[serde(default, skip_serializing_if = "is_none")]
    pub sync_passes_more: u64,
    /// Quiet points that were reached.
    pub quiet_reached: u64,
    /// Quiet points that were missed, and what was pending.
    pub quiet_missed: Vec<String>,
    /// Sectors that the guest read back and found right.
    pub read_back_good: u64,
    /// Sectors that the guest read back and found wrong.
    pub read_back_bad: u64,
    /// Sectors that surveys read through the array and that were judged.
    #[serde(default)]
    pub sectors_surveyed: u64,
    /// How often the witness was killed and went on.
    #[serde(default, skip_serializing_if = "is_none")]
    pub restarts: u64,
    /// Events that are missing for that.
    #[serde(default, skip_serializing_if = "is_none")]
    pub events_missing: u64,
    /// Boots.
    pub boots: u32,
    /// Events.
    pub events: u64,
    /// A leg each.
    pub legs: Vec<LegCoverage>,
    /// Facts that the guest told, by name.
    pub facts: BTreeMap<String, String>,
    /// Checks that saw nothing, as they or what they need were switched off (`--watch`), by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub blind: Vec<String>,
    /// What each rule of the scenario did.
    #[serde(default)]
    pub faults: Vec<FaultCoverage>,
}

#[allow(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde's skip_serializing_if hands over a reference"
)]
fn is_none(count: &u64) -> bool {
    *count == 0
}

/// A resync, recovery, check or repair, as the guest's sysfs told of it and as the legs showed it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncPass {
    /// `sync_action`.
    pub action: String,
    /// The array's legs.
    pub legs: Vec<String>,
    /// In which boot.
    pub boot: u32,
    /// How often the guest was looked at.
    pub looks: u64,
    /// Sectors that were done, by sysfs, at the last look.
    pub done: u64,
    /// Sectors in all, by sysfs.
    pub all: u64,
    /// Sectors of writes that came from pages which another leg had been read into, since the first look: a resync's or recovery's copies, to each leg. A
    /// repair's, and those of a raid10's resync, come from the leg's own pages and are not among them; what a file system wrote back may be.
    pub copied: u64,
    /// Sectors that sysfs called done while they differed between legs: writes that were under way, or a promise broken.
    pub apart: u64,
}

/// What one rule did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaultCoverage {
    /// Its name.
    pub name: String,
    /// Requests that it hit.
    pub fired: u64,
    /// Reads that met later what it had done.
    pub met: u64,
    /// Requests that it would have hit, had the budget let it.
    pub withheld: u64,
    /// Sectors that are still not what an honest disk would hold.
    pub sectors_left: u64,
}

/// What one leg saw.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LegCoverage {
    /// Its name.
    pub name: String,
    /// Whether it was an active leg of a checked array at the end.
    pub active: bool,
    /// Of the sectors intended, how many it was seen to get.
    pub sectors_seen: u64,
    /// READs completed.
    pub reads: u64,
    /// WRITEs completed.
    pub writes: u64,
    /// FLUSHes completed well.
    pub flushes: u64,
    /// DISCARDs completed well.
    pub discards: u64,
    /// Requests answered with an error.
    pub errors: u64,
    /// Requests abandoned.
    pub abandoned: u64,
    /// The most requests in flight.
    pub in_flight_max: u64,
    /// WRITEs to the data that came while another one of some of their sectors was in flight.
    #[serde(default)]
    pub overlaps: u64,
    /// Sectors fetched from the writer's own pages.
    pub pages_own: u64,
    /// Sectors fetched from a copy.
    pub pages_copied: u64,
    /// Sectors whose pages are not known.
    pub pages_unknown: u64,
    /// Whether it may lag behind an acknowledgement.
    pub may_lag: bool,
}
