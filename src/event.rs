//! What happened, in one sequence over all legs: the vocabulary that the device writes and that journal, shadow and oracle read.
//!
//! Numbers are given out by [`crate::sequence`]: an *arrival* takes its number after the avail entry was read, a *fetch* before the copy
//! starts, a *completion* before the used index is published. So "A completed before B arrived" is a fact about the guest.

use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use crate::block::{LegId, Operation, RequestId, Sector, SectorRange, Status};
use crate::mark::Mark;

/// A place in the run's one sequence, from 1.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct EventNo(pub u64);

impl std::fmt::Display for EventNo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "#{}", self.0)
    }
}

/// One event with its number and its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Its number.
    pub no: EventNo,
    /// Microseconds since the run started. For the reader's eyes and for durations; no check depends on it.
    pub time_us: u64,
    /// What happened.
    pub what: What,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// A guest's boot begins, numbered from 1. Requests of the boot before were completed or abandoned before this.
    Boot {
        /// The boot's number.
        boot: u32,
    },
    /// A leg's frontend came, went, or changed a queue.
    Frontend {
        /// The leg.
        leg: LegId,
        /// What it did.
        change: FrontendChange,
    },
    /// A request arrived.
    Arrived(Arrived),
    /// A rule decided something about the request (only requests that a rule hit have this event).
    Decided(Decided),
    /// A write's payload was fetched from guest memory.
    Fetched(Fetched),
    /// A request was answered.
    Completed(Completed),
    /// A request ended without an answer: its queue was stopped, or its frontend went away.
    Abandoned(Abandoned),
    /// A mark arrived on the control leg.
    Mark(Mark),
    /// The host saw the legs at rest, or not, when the agent declared a quiet point; follows its [`Mark::Quiet`].
    Quiet {
        /// The agent's number of the quiet point.
        id: u32,
        /// The requests that were still not ended when waiting was given up; empty: the legs were at rest.
        pending: Vec<RequestId>,
    },
    /// After a power cut: what a leg holds of sectors that its volatile cache lost.
    Lost {
        /// The leg.
        leg: LegId,
        /// Its first sector.
        start: Sector,
        /// CRC-32 of each sector's content now.
        digests: Digests,
        /// The content, outside known data areas.
        payload: Option<Vec<u8>>,
    },
    /// The witness was killed, and goes on. What was in flight is abandoned right after this.
    Restarted {
        /// Events that were not in the journal yet and were kept all the same.
        kept: u64,
        /// Numbers that were given out and whose events are lost: what was being recorded at the moment of the kill.
        missing: u64,
    },
    /// After a restart: what a leg holds of sectors where the events before do not say so.
    Found {
        /// The leg.
        leg: LegId,
        /// Its first sector.
        start: Sector,
        /// CRC-32 of each sector's content now.
        digests: Digests,
        /// The content, outside known data areas.
        payload: Option<Vec<u8>>,
    },
    /// Somebody did something to the legs through `legwatch ctl`.
    Hand {
        /// In words.
        what: String,
        /// The names of rules that were added; their numbers follow those that there were.
        added: Vec<String>,
    },
    /// A line of the guest's console.
    Console {
        /// The line, without control characters, at most 1,000 characters.
        line: String,
    },
    /// What a leg held outside its data area, or anywhere metadata may be, when the run started. All-zero sectors are left out.
    Initial {
        /// The leg.
        leg: LegId,
        /// Its first sector.
        start: Sector,
        /// Whole sectors.
        bytes: Vec<u8>,
    },
    /// The guest of a boot is gone.
    GuestEnded {
        /// The boot's number.
        boot: u32,
        /// How it ended.
        how: GuestEnd,
    },
    /// The content that a finding speaks of, read from the leg when the finding was made and proven by its digest.
    Evidence {
        /// The leg.
        leg: LegId,
        /// The sector.
        sector: Sector,
        /// The fetch (or zeroing completion) that brought the content; 0: initial content.
        version: EventNo,
        /// One sector.
        bytes: Vec<u8>,
    },
    /// The run ended in order; nothing but evidence follows.
    End,
}

/// What a frontend did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FrontendChange {
    /// A connection was accepted.
    Connected,
    /// The driver's features are known (the negotiated bits).
    Features(u64),
    /// A queue was started, with its size.
    QueueStarted {
        /// The queue.
        queue: u16,
        /// Entries.
        size: u16,
    },
    /// A queue was stopped; its requests were completed or abandoned before this.
    QueueStopped {
        /// The queue.
        queue: u16,
    },
    /// The device was reset.
    Reset,
    /// The connection ended; the text says why when it was not the frontend's own wish.
    Disconnected(Option<String>),
    /// Something went wrong that no rule asked for and that is not the end of the connection: a medium's error, a ring that makes no sense,
    /// a batch of marks that is none. In words.
    Trouble(String),
    /// The checker could not keep up, and requests on this leg waited for it (milliseconds in all, at the end of the connection).
    Waited {
        /// How long, in milliseconds.
        ms: u64,
    },
}

/// A piece of guest memory, by guest-physical address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// Guest-physical address of the first byte.
    pub gpa: u64,
    /// Bytes.
    pub len: u32,
}

/// Digests, one a sector.
pub type Digests = SmallVec<[u32; 8]>;

/// A request arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrived {
    /// The request.
    pub request: RequestId,
    /// The queue that it came on.
    pub queue: u16,
    /// What it asks for.
    pub operation: Operation,
    /// The leg sectors that it is about: one range for read and write, one or more for discard and write zeroes, none for the rest.
    /// Empty as well for a request that was refused because its ranges make no sense.
    pub ranges: SmallVec<[SectorRange; 1]>,
    /// Where its data is in guest memory (read and write), in the order of the sectors.
    pub segments: SmallVec<[Segment; 2]>,
}

/// A rule of the scenario decided something about a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decided {
    /// The request.
    pub request: RequestId,
    /// The rule, by its place in the scenario, from 0.
    pub rule: u16,
    /// What was decided.
    pub action: Action,
}

/// What a rule did to a request. Sectors are the leg's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// The answer is held back for this long.
    Delay {
        /// Milliseconds.
        ms: u32,
    },
    /// A write's payload is fetched just before completion, as slow DMA does.
    LateFetch,
    /// Its second half is fetched just before completion.
    SplitFetch {
        /// So many milliseconds later.
        ms: u32,
    },
    /// It is answered with an error.
    Fail {
        /// The answer.
        status: Status,
    },
    /// It is not answered as long as its queue runs.
    NeverAnswer,
    /// It is held until something releases it.
    Hold,
    /// It is answered behind so many requests that arrived later.
    Reorder {
        /// Their number.
        behind: u64,
    },
    /// It is acknowledged, and these sectors stay what they were.
    Lose {
        /// The sectors.
        sectors: Vec<SectorRange>,
    },
    /// These sectors stay what they were.
    Tear {
        /// The sectors that were not stored.
        lost: Vec<SectorRange>,
        /// The answer.
        status: Status,
    },
    /// The leg returns something else for these sectors from now on.
    Corrupt {
        /// The sectors.
        sectors: Vec<SectorRange>,
    },
    /// This read is answered with something else than the leg holds.
    CorruptAnswer,
    /// This read is answered with what was there before.
    Stale,
    /// This read is answered with what is elsewhere, or this write goes elsewhere, and its own sectors stay what they were.
    Misdirect {
        /// The leg that it goes to.
        leg: LegId,
        /// The sectors there.
        to: SectorRange,
        /// The write's own sectors; none for a read.
        lost: Vec<SectorRange>,
    },
    /// This read met what the rule did earlier to some of its sectors.
    Met,
    /// A flush is acknowledged, and nothing was made durable.
    FlushLie,
    /// The leg (or the queue) serves nothing.
    Stall {
        /// For so many milliseconds from now.
        ms: u32,
    },
    /// The leg refuses changes from now on.
    ReadOnly,
    /// These sectors can't be read until they are written again.
    BadSectors {
        /// The sectors.
        sectors: Vec<SectorRange>,
    },
    /// The leg fails everything from now on.
    Dead,
    /// The power of all legs is cut.
    PowerCut,
    /// The leg's socket is closed.
    Disconnect {
        /// Nobody listens for so many milliseconds.
        ms: u32,
    },
    /// QEMU is asked to take the device away from the guest.
    Unplug {
        /// So many milliseconds after its removal it is put back; `None`: not in this boot.
        ms: Option<u32>,
    },
    /// The leg is made larger.
    Resize {
        /// Its new size in sectors.
        sectors: u64,
    },
    /// The rule would have hit, and the budget forbade it.
    Withheld,
}

impl Action {
    /// The sectors of which a leg does not hold, from this request on, what an honest disk would.
    pub fn lies(&self, own: LegId) -> SmallVec<[(LegId, SectorRange); 2]> {
        let here = |sectors: &[SectorRange]| sectors.iter().map(|range| (own, *range)).collect();
        match self {
            Action::Lose { sectors }
            | Action::Corrupt { sectors }
            | Action::BadSectors { sectors } => here(sectors),
            Action::Tear {
                lost,
                status: Status::Ok,
            } => here(lost),
            Action::Misdirect { leg, to, lost } if !lost.is_empty() => {
                let mut lies: SmallVec<[(LegId, SectorRange); 2]> = here(lost);
                lies.push((*leg, *to));
                lies
            }
            Action::Tear { .. }
            | Action::Misdirect { .. }
            | Action::Delay { .. }
            | Action::LateFetch
            | Action::SplitFetch { .. }
            | Action::Fail { .. }
            | Action::NeverAnswer
            | Action::Hold
            | Action::Reorder { .. }
            | Action::CorruptAnswer
            | Action::Stale
            | Action::Met
            | Action::FlushLie
            | Action::Stall { .. }
            | Action::ReadOnly
            | Action::Dead
            | Action::PowerCut
            | Action::Disconnect { .. }
            | Action::Unplug { .. }
            | Action::Resize { .. }
            | Action::Withheld => SmallVec::new(),
        }
    }

    /// Whether a read that it hit was answered with something else than an honest disk would.
    pub fn answers_falsely(&self) -> bool {
        match self {
            Action::CorruptAnswer | Action::Stale | Action::Met => true,
            Action::Misdirect { lost, .. } => lost.is_empty(),
            // A read that makes its own sectors a lie has met it, too.
            Action::Corrupt { .. } | Action::BadSectors { .. } => true,
            Action::Delay { .. }
            | Action::LateFetch
            | Action::SplitFetch { .. }
            | Action::Fail { .. }
            | Action::NeverAnswer
            | Action::Hold
            | Action::Reorder { .. }
            | Action::Lose { .. }
            | Action::Tear { .. }
            | Action::FlushLie
            | Action::Stall { .. }
            | Action::ReadOnly
            | Action::Dead
            | Action::PowerCut
            | Action::Disconnect { .. }
            | Action::Unplug { .. }
            | Action::Resize { .. }
            | Action::Withheld => false,
        }
    }
}

/// A write's payload was fetched. The number was taken before the copy began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// The request.
    pub request: RequestId,
    /// CRC-32 of each sector fetched.
    pub digests: Digests,
    /// The payload itself, where the journal keeps it: outside known data areas, and everywhere if asked for.
    pub payload: Option<Vec<u8>>,
}

/// A request was answered. The number was taken before the used index was published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Completed {
    /// The request.
    pub request: RequestId,
    /// The answer.
    pub status: Status,
    /// What guest memory held just before the answer (writes), or what was given to the guest (reads).
    pub content: Content,
}

/// The buffer's content at completion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// The request carries no data, failed, or the digest is switched off.
    NotTaken,
    /// A write whose buffer still holds what was fetched.
    Same,
    /// A write whose buffer changed after the fetch: CRC-32 of each sector now.
    Changed(Digests),
    /// A read: CRC-32 of each sector given to the guest.
    Returned(Digests),
}

/// A request ended without an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Abandoned {
    /// The request.
    pub request: RequestId,
    /// How much of it happened: whether its effect was applied to the leg.
    pub applied: bool,
}

/// How a boot's guest ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GuestEnd {
    /// It powered off after its plan.
    PoweredOff,
    /// The supervisor ended it as the scenario says (a cut), or because the run was interrupted.
    Killed {
        /// Why.
        why: String,
    },
    /// It ended by itself before its plan was done (reset, triple fault, panic with reboot).
    Lost {
        /// What was seen.
        why: String,
    },
    /// It made no progress for longer than allowed while work was outstanding.
    Hung {
        /// What was awaited.
        why: String,
    },
    /// It was lost before the agent's first word, and so before anything was written, and its boot is made once more.
    Again {
        /// What was seen.
        why: String,
    },
}
