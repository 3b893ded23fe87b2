//! What `legwatch ctl` and a backend say to each other.

use serde::{Deserialize, Serialize};

use crate::leg::RuleState;

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// Live numbers.
    Status,
    /// All rules with their hits.
    Rules,
    /// More rules.
    Add {
        /// `[[fault]]` tables, as in a scenario.
        toml: String,
    },
    /// A rule less; its lies stay.
    Remove {
        /// Its name.
        name: String,
    },
    /// All requests of a leg that arrive from now on are held.
    Hold {
        /// The leg.
        leg: String,
    },
    /// What is held goes on.
    Release {
        /// By this rule alone.
        rule: Option<String>,
    },
    /// Lies are lifted.
    Heal {
        /// Of this leg alone.
        leg: Option<String>,
        /// Of this rule alone.
        rule: Option<String>,
    },
    /// A mark is set.
    Mark {
        /// Its name.
        name: String,
    },
    /// The power of all legs is cut.
    Cut,
    /// The power is on again; caches have lost what they lose.
    PowerOn,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// It was done.
    Done(Done),
    /// It was not; why, in a sentence.
    Refused(String),
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Done {
    /// In words.
    Said(String),
    /// The rules.
    Rules(Vec<RuleState>),
    /// Live numbers.
    Status(Status),
}

/// Live numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// A leg each.
    pub legs: Vec<LegStatus>,
    /// Rules that there are.
    pub rules: u64,
    /// Decisions that the budget withheld.
    pub withheld: u64,
    /// Whether the power is on.
    pub power: bool,
}

/// One leg.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LegStatus {
    /// Its name.
    pub name: String,
    /// Reads answered.
    pub reads: u64,
    /// Writes answered.
    pub writes: u64,
    /// Flushes answered.
    pub flushes: u64,
    /// Discards answered.
    pub discards: u64,
    /// Bytes given to the guest.
    pub bytes_read: u64,
    /// Bytes fetched from the guest.
    pub bytes_written: u64,
    /// Requests answered with an error.
    pub errors: u64,
    /// Requests that have arrived and not ended.
    pub in_flight: u64,
    /// Sectors that are not what they should be.
    pub lies: u64,
}
