//! What supervisor and witness say to each other: JSON, a line each, over the witness's standard input and output.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::config::{LegConfig, Record};
use crate::crypt::Key;
use crate::event::GuestEnd;
use crate::fault::Rule;
use crate::header::{Expect, StepHead};
use crate::mark::Mark;
use crate::plan::Plan;

/// What the witness is started with.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WitnessConfig {
    /// The run's number.
    pub run: u64,
    /// The run's seed.
    pub seed: u64,
    /// The legs.
    pub legs: Vec<LegConfig>,
    /// Folder for the sockets; exists.
    pub sockets: PathBuf,
    /// The run's folder; exists.
    pub out: PathBuf,
    /// What the journal keeps.
    pub record: Record,
    /// The scenario's text, empty for `serve`.
    pub scenario: String,
    /// The key of dm-crypt devices between the workload and the legs.
    #[serde(default)]
    pub crypt_key: Option<Key>,
    /// The steps of each boot's plan.
    pub steps: Vec<Vec<StepHead>>,
    /// The rules, checked and named.
    #[serde(default)]
    pub rules: Vec<Rule>,
    /// For every sector so many legs stay good.
    #[serde(default)]
    pub good_legs: u8,
    /// Where `legwatch ctl` is listened to.
    #[serde(default)]
    pub control: Option<PathBuf>,
    /// Where events are kept until the journal has them, so that a killed witness can go on; `None`: it can't.
    #[serde(default)]
    pub ahead: Option<PathBuf>,
    /// The memory files of memory legs, by the legs' places; without one, a leg's memory goes with the witness.
    #[serde(default)]
    pub memory: Vec<Option<PathBuf>>,
    /// What is watched, in the words of `--watch`; empty: everything.
    #[serde(default)]
    pub watch: Vec<String>,
    /// What must come of it.
    pub expect: Expect,
    /// Whether suspect findings decide.
    pub strict: bool,
    /// Whether known deviations of stock kernels decide.
    #[serde(default)]
    pub no_known: bool,
    /// What it runs on: kernel, QEMU, accelerator, versions.
    pub provenance: serde_json::Value,
    /// The command that runs it again.
    pub again: String,
}

/// What a witness has to know that takes up the run of one that was killed.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct GoOn {
    /// Marks, findings and unpluggings that the supervisor heard of.
    pub news: u64,
    /// Witnesses of this run that were killed, as far as is known. One that was killed before it had recorded anything is not in the journal.
    #[serde(default)]
    pub killed: u64,
    /// The plan of the boot that goes on.
    pub plan: Option<Box<Plan>>,
}

/// What the supervisor tells.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Command {
    /// A boot begins; this is its plan.
    Boot {
        /// The boot's number, from 1.
        boot: u32,
        /// The agent's plan.
        plan: Box<Plan>,
    },
    /// A line of the guest's console.
    Console {
        /// The line.
        line: String,
    },
    /// The guest's QEMU ended: say [`Notice::CaughtUp`] once all that it did before was taken, and every notice of it told.
    CatchUp,
    /// Something was done to the guest's devices, as a rule wants it; in words.
    Hand {
        /// What.
        what: String,
    },
    /// A boot's guest is gone.
    GuestEnded {
        /// The boot's number.
        boot: u32,
        /// How.
        how: GuestEnd,
    },
    /// The run is over: give the verdict.
    Finish {
        /// Whether it was interrupted before its end.
        interrupted: bool,
    },
}

impl Command {
    /// Whether it becomes an event, so that the journal tells whether it was heard.
    pub fn is_event(&self) -> bool {
        match self {
            Command::Boot { .. }
            | Command::Console { .. }
            | Command::Hand { .. }
            | Command::GuestEnded { .. } => true,
            Command::CatchUp | Command::Finish { .. } => false,
        }
    }
}

impl Notice {
    /// Whether it follows from the events alone, so that a witness that goes on can tell it again.
    pub fn is_news(&self) -> bool {
        match self {
            Notice::Mark(_) | Notice::Finding(_) | Notice::Unplug { .. } => true,
            Notice::Ready { .. }
            | Notice::Cut
            | Notice::Live(_)
            | Notice::CaughtUp
            | Notice::Done(_)
            | Notice::Failed { .. } => false,
        }
    }
}

/// What the witness tells.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Notice {
    /// All sockets listen.
    Ready {
        /// Each leg's socket, by name, in the legs' order; last the control leg's.
        sockets: Vec<(String, PathBuf)>,
        /// What the supervisor told that is on record, see [`Command::is_event`]; more than nothing if the witness was restarted.
        told: u64,
    },
    /// A mark that is no intent came.
    Mark(Mark),
    /// How far it is; four times a second.
    Live(Live),
    /// The power of all legs is cut: the guest is to be killed.
    Cut,
    /// A rule wants a leg's device taken away from the guest.
    Unplug {
        /// The leg, by its place.
        leg: u8,
        /// So many milliseconds later it is put back; `None`: not in this boot.
        ms: Option<u32>,
    },
    /// All that had its number when [`Command::CatchUp`] was said, and some time after, was taken.
    CaughtUp,
    /// The first thing that is proven to be wrong, in short; the verdict may find more in it.
    Finding(String),
    /// The verdict.
    Done(Summary),
    /// It could not start or go on.
    Failed {
        /// Why, in a sentence.
        message: String,
        /// Whether the user can mend it.
        user: bool,
    },
}

/// Live numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Live {
    /// The last number of the sequence.
    pub events: u64,
    /// Requests completed so far on each leg.
    pub completed: Vec<u64>,
    /// Requests in flight on each leg.
    pub in_flight: Vec<u64>,
    /// Kinds of findings so far that are proven and decide.
    pub findings: u64,
    /// Kinds of findings so far that are suspect.
    #[serde(default)]
    pub suspect: u64,
    /// How often rules fired.
    #[serde(default)]
    pub faults: u64,
    /// Array sectors that differ between legs now, and whether there may be more of them.
    #[serde(default)]
    pub unequal: (u64, bool),
    /// Bytes that the journal has.
    pub journal_bytes: u64,
    /// What the supervisor told and the checker has taken, see [`Command::is_event`].
    #[serde(default)]
    pub told: u64,
}

/// The verdict in short; the whole is in the run's folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// The exit code without `--bisect`.
    pub exit: u8,
    /// The verdict line.
    pub line: String,
}
