//! What the agent does to an array by a step of its own, so that the checker knows when.

use serde::{Deserialize, Serialize};

/// What the agent does to an array, at its begin or at its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Admin {
    /// What it does.
    pub action: AdminAction,
    /// Begin or end.
    pub phase: AdminPhase,
    /// The names of the legs that it is about: for a check or a repair all that the array has.
    pub legs: Vec<String>,
}

impl std::fmt::Display for Admin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} ", self.action.name(), self.legs.join(" "))?;
        match self.phase {
            AdminPhase::Begin => f.write_str("begins"),
            AdminPhase::End { ok: false, .. } => f.write_str("failed"),
            AdminPhase::End {
                mismatches: Some(count),
                ..
            } => write!(f, "done, mismatch_cnt {count}"),
            AdminPhase::End { .. } => f.write_str("done"),
        }
    }
}

/// Something that is done to an array.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AdminAction {
    /// A leg is declared faulty.
    Fail,
    /// A faulty leg or a spare is taken out.
    Remove,
    /// A leg is added as new.
    Add,
    /// A leg that was taken out comes back.
    ReAdd,
    /// All legs are read and compared.
    Check,
    /// All legs are read, and made equal.
    Repair,
    /// Overlapping writes wait for each other on each leg (`serialize_policy`). An end that is not well, without a begin: the agent found it off.
    Serialize,
    /// They need not any more.
    Unserialize,
}

impl AdminAction {
    /// All of them.
    pub const ALL: [AdminAction; 8] = [
        AdminAction::Fail,
        AdminAction::Remove,
        AdminAction::Add,
        AdminAction::ReAdd,
        AdminAction::Check,
        AdminAction::Repair,
        AdminAction::Serialize,
        AdminAction::Unserialize,
    ];

    /// Its name in scenarios.
    pub fn name(self) -> &'static str {
        match self {
            AdminAction::Fail => "fail",
            AdminAction::Remove => "remove",
            AdminAction::Add => "add",
            AdminAction::ReAdd => "re-add",
            AdminAction::Check => "check",
            AdminAction::Repair => "repair",
            AdminAction::Serialize => "serialize",
            AdminAction::Unserialize => "unserialize",
        }
    }

    /// Whether it is about one leg, and not about the whole array.
    pub fn of_leg(self) -> bool {
        match self {
            AdminAction::Fail | AdminAction::Remove | AdminAction::Add | AdminAction::ReAdd => true,
            AdminAction::Check
            | AdminAction::Repair
            | AdminAction::Serialize
            | AdminAction::Unserialize => false,
        }
    }
}

/// Where in it the agent is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AdminPhase {
    /// About to be asked for.
    Begin,
    /// The kernel has answered; a check or a repair is over.
    End {
        /// Whether it went well.
        ok: bool,
        /// After a check or a repair: sectors that md counted as different.
        mismatches: Option<u64>,
    },
}
