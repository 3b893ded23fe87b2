//! What the guest's agent is told to do: the plan, as JSON on the control leg ([`crate::mark`]). The scenario's steps are the same types.

use serde::{Deserialize, Serialize};

use crate::crypt::Key;
use crate::mark::{AdminAction, Mapping};

/// The version of the plan that host and agent speak; the agent refuses any other.
pub const PLAN_VERSION: u32 = 1;

/// The whole plan of one boot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// [`PLAN_VERSION`].
    pub version: u32,
    /// The run's number, which goes into every stamp.
    pub run: u64,
    /// The run's seed; each writer of each step makes its own generator from it.
    pub seed: u64,
    /// The boot that this plan is for, from 1.
    pub boot: u32,
    /// The legs' names; the agent links `/dev/legs/NAME` to the disk with that serial before the first step.
    pub legs: Vec<String>,
    /// The scenario's key; shell steps find it in `$CRYPT_KEY`.
    #[serde(default)]
    pub crypt_key: Option<Key>,
    /// What a guest that goes on from a saved boot has to be told before all else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub woken: Option<Woken>,
    /// What to do, in order. A failed setup step or check step ends the plan (a `finish` mark says so); the rest is skipped.
    pub steps: Vec<Step>,
}

/// What passed by a guest that goes on from a saved boot, and what it would else have in common with all others that do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Woken {
    /// The host's clock, in seconds since 1970: the guest's own is the one that was saved.
    pub clock_s: u64,
    /// Goes into the kernel's random numbers, which would else be the same in every such guest: identifiers of arrays are made of them.
    pub noise: [u64; 4],
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// What its failure means.
    pub kind: StepKind,
    /// Shown in progress and report.
    pub name: String,
    /// What to do.
    pub action: StepAction,
    /// Runs beside the steps after it, until it ends or [`StepAction::Join`].
    #[serde(default)]
    pub background: bool,
}

/// What a step's failure means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StepKind {
    /// It could not be tested.
    Setup,
    /// The workload itself.
    Workload,
    /// A finding.
    Check,
}

/// What a step does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StepAction {
    /// A command for `sh -c`; its output goes to the console, line by line.
    Shell {
        /// The command.
        command: String,
        /// The longest it may take, in seconds.
        timeout_s: u32,
    },
    /// Stamped writes.
    Write(Box<WriteLoad>),
    /// Reads back all that this run's workloads wrote to a target and are sure of, and checks the stamps.
    ReadBack {
        /// The device in the guest.
        device: String,
    },
    /// Syncs, waits until md is at rest (sync_action idle, array_state clean or absent), and declares a quiet point.
    Quiet {
        /// The longest to wait for md, in seconds.
        timeout_s: u32,
    },
    /// Reads sectors of a device past the page cache and tells what they hold, whoever wrote it.
    Survey {
        /// The device in the guest.
        device: String,
        /// Its number, as in [`WriteLoad::target`].
        target: u16,
        /// The first sector.
        start: u64,
        /// How many; 0: to the end.
        count: u64,
    },
    /// Waits for all background steps.
    Join,
    /// Does something to an array, between two marks; a check or a repair is waited for.
    Md {
        /// What.
        action: AdminAction,
        /// The array's device in the guest.
        device: String,
        /// The leg that it is about.
        leg: Option<String>,
        /// The longest it may take, in seconds.
        timeout_s: u32,
    },
    /// Tells a file's content (the first line, at most 200 bytes) as a fact.
    Fact {
        /// The fact's name.
        name: String,
        /// The file.
        path: String,
    },
}

/// Stamped writes to one device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WriteLoad {
    /// The device in the guest.
    pub device: String,
    /// Its number in stamps and intents; steps that write to the same device have the same.
    pub target: u16,
    /// How its sectors lie on the array; `None`: the agent finds out.
    #[serde(default)]
    pub mapping: Option<Mapping>,
    /// First writer's number; writers of different steps have different numbers.
    pub first_writer: u16,
    /// Writers, each a thread with a generator and a queue of its own.
    #[serde(default = "one")]
    pub writers: u16,
    /// Writes by all writers together.
    pub writes: u64,
    /// Sizes in bytes, of which each write takes one by chance. Multiples of 512, 512 to 1 MiB; those below the device's logical block are raised to it.
    pub sizes: Vec<u32>,
    /// Where writes go.
    #[serde(default)]
    pub pattern: Pattern,
    /// First sector of the area.
    #[serde(default)]
    pub start: u64,
    /// Sectors of the area; 0: to the end of the device.
    #[serde(default)]
    pub count: u64,
    /// How they are made.
    #[serde(default)]
    pub engine: Engine,
    /// Requests in flight a writer, 1 to 64.
    #[serde(default = "one_u32")]
    pub depth: u32,
    /// What happens to a buffer.
    #[serde(default)]
    pub buffers: Buffers,
    /// O_DSYNC.
    #[serde(default)]
    pub dsync: bool,
    /// An fsync after every so many writes of a writer; 0: none.
    #[serde(default)]
    pub fsync_every: u32,
    /// Of a hundred requests, how many are discards.
    #[serde(default)]
    pub discard_percent: u8,
}

fn one() -> u16 {
    1
}

fn one_u32() -> u32 {
    1
}

/// Where writes go. Except with `overlap`, no two requests in flight touch the same sector.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pattern {
    /// Each writer goes through a part of the area of its own, again from the start at its end.
    #[default]
    Sequential,
    /// Anywhere in a part of the area of its own.
    Random,
    /// Anywhere in the area, writers mixed, but never over a request in flight.
    Shared,
    /// Each writer overlaps its own requests in flight, in a part of the area of its own.
    OverlapOwn,
    /// Anywhere in the area, over one's own and others' requests in flight.
    Overlap,
}

/// How requests are made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Engine {
    /// O_DIRECT through io_uring; libaio if the kernel has no io_uring (the mark says so).
    #[default]
    IoUring,
    /// The same with fixed buffers, whose pages are pinned and are the bio's own.
    IoUringFixed,
    /// io_uring with RWF_NOWAIT: a write that would have to wait is refused, and made again without it, as the same write.
    IoUringNowait,
    /// O_DIRECT through Linux native AIO.
    Libaio,
    /// O_DIRECT pwrite, depth 1 a writer.
    Sync,
    /// pwrite through the page cache.
    Buffered,
}

/// What happens to a writer's buffer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Buffers {
    /// Never touched again after its write was submitted, until the next quiet point or the end of the step: each write has a fresh one.
    #[default]
    Immutable,
    /// Filled with the next write's stamps the moment its write is acknowledged.
    Reuse,
    /// Changed while its write is in flight, as a careless program does: what reaches the legs is unknown (for the tests of the tester).
    Scribble,
}

/// Immutable buffers are a pool that is never refilled within a step: the most memory that one step may take for them, in bytes. A step that
/// needs more waits for a quiet point (declared by the agent itself) and begins the pool anew.
pub const IMMUTABLE_POOL_BYTES: u64 = 96 << 20;
