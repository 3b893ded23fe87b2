//! What a run is: the first record of its journal, and all that the checker is told besides events.
//!
//! Everything a verdict depends on is either here or an event, so that a live run and a check of its journal cannot disagree.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::block::{LegId, Sector, SectorRange};
use crate::config::{LegConfig, Record};
use crate::crypt::Key;
use crate::plan::{Step, StepKind};

/// The run, as known when it starts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunHeader {
    /// The version of the journal's format: [`crate::header::JOURNAL_VERSION`].
    pub version: u32,
    /// The run's number, which is in every stamp.
    pub run: u64,
    /// The seed that all decisions come from.
    pub seed: u64,
    /// The legs, by [`LegId`].
    pub legs: Vec<LegHead>,
    /// The key of dm-crypt devices between the workload and the legs.
    #[serde(default)]
    pub crypt_key: Option<Key>,
    /// The resolved scenario's text; empty for `serve`.
    #[serde(default)]
    pub scenario: String,
    /// The steps of each boot's plan, first boot first; empty without an agent.
    #[serde(default)]
    pub steps: Vec<Vec<StepHead>>,
    /// Which payloads the journal keeps.
    #[serde(default)]
    pub record: Record,
    /// What the scenario asks of the run besides having no findings.
    #[serde(default)]
    pub expect: Expect,
    /// The rules of the scenario, by their numbers.
    #[serde(default)]
    pub rules: Vec<RuleHead>,
    /// Whether all versions that a power cut may leave are kept in mind: there may be a cut, and a boot after it.
    #[serde(default)]
    pub keeps_versions: bool,
    /// The command line that runs it again; empty if there is none.
    #[serde(default)]
    pub reproduce: String,
    /// Options that were in force, as JSON for the reader.
    #[serde(default)]
    pub options: serde_json::Value,
    /// Where it all comes from (kernel, QEMU, mdadm, legwatch, accelerator), as JSON for the reader.
    #[serde(default)]
    pub provenance: serde_json::Value,
}

/// The version of the journal's format that this crate writes and reads.
pub const JOURNAL_VERSION: u32 = 1;

/// One leg.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LegHead {
    /// Its configuration.
    pub config: LegConfig,
    /// Its size in sectors.
    pub sectors: u64,
}

impl LegHead {
    /// The leg has so many sectors now; none gets smaller.
    pub fn grow(&mut self, sectors: u64) {
        self.sectors = self.sectors.max(sectors);
    }

    /// The sectors of the leg that md was given.
    pub fn part(&self) -> SectorRange {
        let whole = SectorRange::new(Sector(0), self.sectors).unwrap_or_default();
        self.config
            .part
            .and_then(|part| part.intersection(whole))
            .unwrap_or(whole)
    }
}

/// One rule, as far as the verdict needs it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleHead {
    /// Its name.
    pub name: String,
    /// Whether the run counts even if it never fires.
    pub may_not_fire: bool,
}

/// One step of a plan, as far as the verdict needs it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepHead {
    /// What its failure means.
    pub kind: StepKind,
    /// Its name.
    pub name: String,
}

impl From<&Step> for StepHead {
    fn from(step: &Step) -> StepHead {
        StepHead {
            kind: step.kind,
            name: step.name.clone(),
        }
    }
}

/// What a scenario demands. Of what a run must have exercised, what is not met makes it inconclusive; of what md or the guest must have done (`legs`,
/// `noticed`, `guest_errors`, `hang`, `facts`), it is a finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Expect {
    /// At least so many writes acknowledged to the workload.
    pub min_writes: u64,
    /// Of the sectors intended, how many percent must have been compared on all active legs, 0 to 100.
    pub compared_percent: u8,
    /// Whether no sector may be excused.
    pub no_excuses: bool,
    /// Whether write-behind must (or must not) have been seen.
    pub write_behind: Option<bool>,
    /// At least so many flushes completed on each leg.
    pub min_flushes: u64,
    /// At least so many discards completed on each leg that takes them.
    pub min_discards: u64,
    /// At least so many writes refused because they would have had to wait (NOWAIT).
    pub min_refused: u64,
    /// On each leg, at least so many requests in flight at once.
    pub min_in_flight: u64,
    /// On each leg, at least so many writes that came while another one of some of their sectors was in flight there.
    pub min_overlaps: u64,
    /// Whether the workload's targets may lie on the array in a way that is not known: legs are then compared with each other, and stamps read back.
    pub unmapped: bool,
    /// Checks that must have had something to judge, by name.
    pub triggered: Vec<String>,
    /// Known deviations that must have been seen, by name (`K2`), on kernels for which `vm/known.toml` lists them as shown.
    pub known: Vec<String>,
    /// What md must have made of legs by the end of the run, by their names.
    pub legs: BTreeMap<String, LegState>,
    /// Rules whose doing md had to notice: nothing of it may be left on a leg that md trusts.
    pub noticed: Vec<String>,
    /// Whether requests of the workload must (or must not) have failed.
    pub guest_errors: Option<bool>,
    /// Whether a resync or a recovery must (or must not) have come to its end.
    pub resync: Option<bool>,
    /// Whether the guest must hang.
    pub hang: bool,
    /// What facts that the guest tells must be, by name: see [`demand`].
    pub facts: BTreeMap<String, String>,
    /// At least so many sectors read back wrong by the guest.
    pub min_bad_reads: u64,
}

/// What md may make of a leg.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LegState {
    /// In sync, and used.
    Active,
    /// Being recovered.
    Recovering,
    /// Marked faulty.
    Faulty,
    /// Not in the array.
    Missing,
    /// Anything but active.
    Out,
}

impl LegState {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            LegState::Active => "active",
            LegState::Recovering => "recovering",
            LegState::Faulty => "faulty",
            LegState::Missing => "missing",
            LegState::Out => "out",
        }
    }
}

/// Whether a value is what is wanted: `0` (the same text), `!=0`, `>0`, `>=1`, `<9`, `<=9` (numbers).
pub fn demand(wanted: &str, value: &str) -> bool {
    let wanted = wanted.trim();
    let number = |text: &str| text.trim().parse::<i64>().ok();
    let compare = |rest: &str, right: fn(i64, i64) -> bool| matches!((number(value), number(rest)), (Some(is), Some(than)) if right(is, than));
    if let Some(rest) = wanted.strip_prefix(">=") {
        compare(rest, |is, than| is >= than)
    } else if let Some(rest) = wanted.strip_prefix("<=") {
        compare(rest, |is, than| is <= than)
    } else if let Some(rest) = wanted.strip_prefix("!=") {
        rest.trim() != value
    } else if let Some(rest) = wanted.strip_prefix('>') {
        compare(rest, |is, than| is > than)
    } else if let Some(rest) = wanted.strip_prefix('<') {
        compare(rest, |is, than| is < than)
    } else {
        wanted == value
    }
}

impl Default for Expect {
    fn default() -> Expect {
        Expect {
            min_writes: 0,
            compared_percent: 100,
            no_excuses: false,
            write_behind: None,
            min_flushes: 0,
            min_discards: 0,
            min_refused: 0,
            min_in_flight: 0,
            min_overlaps: 0,
            unmapped: false,
            triggered: Vec::new(),
            known: Vec::new(),
            legs: BTreeMap::new(),
            noticed: Vec::new(),
            guest_errors: None,
            resync: None,
            hang: false,
            facts: BTreeMap::new(),
            min_bad_reads: 0,
        }
    }
}

impl RunHeader {
    /// A header with the defaults, for legs of the given configurations and sizes in sectors.
    pub fn new(run: u64, seed: u64, legs: Vec<LegHead>) -> RunHeader {
        RunHeader {
            version: JOURNAL_VERSION,
            run,
            seed,
            legs,
            crypt_key: None,
            scenario: String::new(),
            steps: Vec::new(),
            record: Record::default(),
            expect: Expect::default(),
            rules: Vec::new(),
            keeps_versions: false,
            reproduce: String::new(),
            options: serde_json::Value::Null,
            provenance: serde_json::Value::Null,
        }
    }

    /// The leg with a name.
    pub fn leg_named(&self, name: &str) -> Option<LegId> {
        let at = self.legs.iter().position(|head| head.config.name == name)?;
        u8::try_from(at).ok().map(LegId)
    }

    /// A leg's name; `?` for a leg that the run does not have.
    pub fn leg_name(&self, leg: LegId) -> &str {
        if leg == LegId::CONTROL {
            return "control";
        }
        self.legs
            .get(leg.index())
            .map_or("?", |head| head.config.name.as_str())
    }
}
