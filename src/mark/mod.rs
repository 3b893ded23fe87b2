//! Marks: what the guest's agent says, as requests to the control leg, so that marks get their place in the one sequence.
//!
//! The control leg is a small disk (serial [`SERIAL`]) with two areas, both in sectors of 512 bytes:
//!
//! | sectors | what |
//! | --- | --- |
//! | [`PLAN_START`] + [`PLAN_COUNT`] | the plan, to be read: header (`LEGPLAN1`, u32 bytes, u32 CRC-32, both little-endian), then JSON ([`crate::plan`]) |
//! | [`MARKS_START`] + [`MARKS_COUNT`] | written by the agent: every sector is a batch of marks of its own, whatever sector it is written to; reads as zeros |
//!
//! A *begin* has completed before the agent goes on, so what it announces lies after its number. An *end* is late by nature: only
//! "not done when the end arrived" is proof. The write of a [`Mark::Quiet`] is answered when the legs are at rest, and not before.

mod admin;
mod codec;

use serde::{Deserialize, Serialize};

pub use admin::{Admin, AdminAction, AdminPhase};
pub use codec::{
    BadBatch, INTENTS_MAX, JSON_MAX, PAGE_RUNS_MAX, SURVEY_MAX, decode, decode_plan,
    encode_intents, encode_mark, encode_pages, encode_plan,
};

#[cfg(test)]
pub(crate) use codec::tests::any_intent;

use crate::block::Sector;

/// The control leg's name, as get-id tells it.
pub const SERIAL: &str = "legwatch-control";
/// First sector of the plan.
pub const PLAN_START: u64 = 0;
/// Sectors of the plan: 4 MiB.
pub const PLAN_COUNT: u64 = 8192;
/// First sector of the marks.
pub const MARKS_START: u64 = PLAN_START + PLAN_COUNT;
/// Sectors of the marks: 1 MiB.
pub const MARKS_COUNT: u64 = 2048;
/// Size of the control leg in sectors.
pub const CONTROL_SECTORS: u64 = MARKS_START + MARKS_COUNT;
/// One mark.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mark {
    /// A request of the workload to its target begins or has ended.
    Intent(Intent),
    /// The guest-physical pages of one of a writer's buffers, known to stay where they are (`pinned`) or as read from pagemap.
    Pages(Pages),
    /// The agent runs.
    Hello(Hello),
    /// A device that the workload writes to.
    Target(Target),
    /// A step of the plan begins.
    StepBegin {
        /// The step's place in the plan, from 0.
        step: u32,
    },
    /// A step of the plan has ended.
    StepEnd {
        /// The step's place in the plan, from 0.
        step: u32,
        /// Whether it went well.
        ok: bool,
        /// The exit code of a command, or what went wrong, in words.
        detail: String,
    },
    /// The workload of a step is done: how many requests were made and acknowledged.
    WorkloadEnd {
        /// The step.
        step: u32,
        /// Requests acknowledged without an error.
        acked: u64,
        /// Requests that failed.
        failed: u64,
        /// Writes that were refused because they would have had to wait (NOWAIT), and were made again.
        #[serde(default)]
        refused: u64,
        /// What the guest had to make do with (an engine that its kernel lacks, say), else empty.
        note: String,
    },
    /// A read-back is done.
    ReadBackEnd {
        /// The step.
        step: u32,
        /// Sectors read and found as they should be.
        good: u64,
        /// Sectors that were not; each of the first ones has a [`Mark::BadRead`].
        bad: u64,
    },
    /// The guest read a sector of its target that does not hold what it wrote.
    BadRead {
        /// The target.
        target: u16,
        /// The sector on the target.
        sector: Sector,
        /// The first 48 bytes that were read, in hexadecimal.
        head: String,
        /// CRC-32 of the sector as read.
        digest: u32,
    },
    /// What the guest read in a survey of a target, a run of sectors.
    Survey {
        /// The target.
        target: u16,
        /// The first sector on the target.
        sector: Sector,
        /// CRC-32 of each sector as read, at most [`SURVEY_MAX`].
        digests: Vec<u32>,
    },
    /// The agent declares a quiet point: synced, idle, md's own work done. The host answers when it sees nothing in flight.
    Quiet {
        /// The quiet point's number, from 1 within the run's boot.
        id: u32,
        /// What was not at rest in the guest when waiting was given up (sync_action, array_state), else empty.
        pending: String,
    },
    /// A fact from the guest that reports show or expectations ask for, by a dotted name (`md0.mismatch_cnt`).
    Fact {
        /// Its name.
        name: String,
        /// Its value.
        value: String,
    },
    /// The agent does something to an array that its kernel answers on the legs: a leg fails, a check runs.
    Admin(Admin),
    /// How far the kernel says that a resync, recovery, check or repair is (`sync_completed`). The agent reads it after its mark before this one of the same
    /// array was taken.
    Sync(SyncLook),
    /// The plan is done; the guest powers off next.
    Finish {
        /// Whether all steps went well.
        ok: bool,
    },
}

/// What an array's sysfs says of a pass over its legs (`md.c:sync_completed_show`, `action_show`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncLook {
    /// `sync_action`; `idle`: the pass is over.
    pub action: String,
    /// The names of the array's legs.
    pub legs: Vec<String>,
    /// Sectors that are done.
    pub done: u64,
    /// Sectors in all; 0 where it is not told.
    pub all: u64,
}

/// Who the agent is and what it runs on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// legwatch's version.
    pub agent: String,
    /// `uname -r`.
    pub release: String,
    /// The boot's number, from the plan.
    pub boot: u32,
    /// Whether the agent is init (else a program in somebody's own guest).
    pub init: bool,
    /// `/proc/sys/kernel/tainted`.
    pub tainted: u64,
}

/// A device that the workload writes to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// Its number in stamps and intents, unique in the run.
    pub target: u16,
    /// Its path in the guest.
    pub device: String,
    /// Its size in sectors.
    pub sectors: u64,
    /// How its sectors map to the array's.
    pub mapping: Mapping,
}

/// How a target's sectors lie on the array.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mapping {
    /// The target is the array.
    Identity,
    /// Target sector 0 is this array sector.
    Offset(u64),
    /// The target is, or lies on, a dm-crypt device with the scenario's key: target sector 0 is array sector `offset`, and the IV of target
    /// sector 0 is `iv` (sectors).
    Crypt {
        /// Array sector of target sector 0.
        offset: u64,
        /// IV of target sector 0.
        iv: u64,
    },
    /// Nothing is known; intents are not checked on the legs.
    Unknown,
}

impl Mapping {
    /// The array sector of target sector 0, and the IV of it where the array holds ciphertext; `None` for [`Mapping::Unknown`].
    pub fn place(self) -> Option<(u64, Option<Sector>)> {
        match self {
            Mapping::Identity => Some((0, None)),
            Mapping::Offset(offset) => Some((offset, None)),
            Mapping::Crypt { offset, iv } => Some((offset, Some(Sector(iv)))),
            Mapping::Unknown => None,
        }
    }

    /// Whether target sector 0 is array sector 0.
    pub fn at_start(self) -> bool {
        self.place().is_some_and(|(offset, _)| offset == 0)
    }
}

/// What happens to an intent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// About to be submitted.
    Begin,
    /// Acknowledged; errno 0, or the error.
    End {
        /// The error number, 0 for none.
        errno: u16,
    },
}

/// What an intent is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IntentKind {
    /// A write of stamped sectors.
    Write,
    /// A discard.
    Discard,
    /// A flush of the whole target (fsync); range empty.
    Flush,
    /// A write of sectors that carry no stamp: their content is unknown from here on.
    Unstamped,
}

/// One request of the workload, at its begin or at its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent {
    /// Begin or end.
    pub phase: Phase,
    /// What it is.
    pub kind: IntentKind,
    /// The device.
    pub target: u16,
    /// The writer within the run.
    pub writer: u16,
    /// Its number within its writer, from 1: the stamps' sequence.
    pub sequence: u64,
    /// First sector on the target.
    pub sector: Sector,
    /// Sectors.
    pub count: u32,
    /// The writer's buffer that holds its data, see [`Pages`].
    pub slot: u16,
    /// How it is made.
    pub flags: IntentFlags,
}

/// How a request of the workload is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IntentFlags {
    /// The buffer is not touched until the request *and all legs' requests for it* must be over: never written to again in the run.
    pub immutable: bool,
    /// O_DSYNC: acknowledged when durable.
    pub dsync: bool,
    /// Through the page cache: the legs see it later, or merged, or not before the next flush.
    pub buffered: bool,
    /// The buffer's pages are pinned (an io_uring fixed buffer).
    pub pinned: bool,
    /// The only request in the guest: one writer, depth 1.
    pub alone: bool,
}

/// A run of guest-physical pages of 4096 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageRun {
    /// The first page's frame number.
    pub frame: u64,
    /// Pages.
    pub count: u32,
}

/// Where one of a writer's buffers lies in guest-physical memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pages {
    /// The writer.
    pub writer: u16,
    /// The buffer within the writer.
    pub slot: u16,
    /// The buffer page that the first run is about (long lists come in several batches).
    pub first_page: u32,
    /// Whether the pages are pinned; else they were read from pagemap and may move.
    pub pinned: bool,
    /// The runs, in the buffer's order.
    pub runs: Vec<PageRun>,
}
