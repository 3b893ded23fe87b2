//! What is wrong: findings, and the words they are made of. Everything here is plain data; `report` lays it out.

use serde::{Deserialize, Serialize};

/// A check, by its name in the md reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Check {
    /// What the workload meant to be on the array is on every leg.
    Stamp,
    /// No write is acknowledged before every leg has it.
    AckAll,
    /// A write seen on one leg is seen on every leg.
    AllLegs,
    /// The same write has the same content on every leg.
    SameData,
    /// A discard seen on one leg is seen on every leg.
    DiscardAll,
    /// Legs that md calls clean hold the same bytes.
    CleanEq,
    /// A buffer does not change while a leg's request reads from it.
    BufStable,
    /// Whether a leg's request points at the writer's own pages.
    SamePages,
    /// Superblocks with the same update counter say the same.
    SbPeer,
    /// The update counter goes up by one, or back where it may.
    EventsStep,
    /// The bitmap's header is updated before the superblock.
    BmBeforeSb,
    /// No data before the dirty mark.
    DirtyFirst,
    /// No clean mark while a write is under way.
    CleanQuiet,
    /// A dirty mark is durable before the write that depends on it.
    MetaFua,
    /// The array's data stays in the data area.
    Bounds,
    /// A chunk's bit is sent to every leg before its data.
    BitFirst,
    /// A bit that goes clear promises that legs agree on its chunk.
    BitClearEq,
    /// What a cut leaves different is marked.
    CrashCovered,
    /// A flush of the array reaches every leg.
    FlushAll,
    /// A durable write is durable on every leg when it is acknowledged.
    FuaTail,
    /// Legs agree when md says that a resync is over.
    ResyncEq,
    /// A recovered leg holds what the others hold.
    RecEq,
    /// What was told to be durable is there after a cut.
    Durable,
    /// No bit is forgotten while a leg is away.
    BitDegraded,
    /// An error that a leg gave for a write is made good, or recorded.
    ErrRecord,
    /// No new write before a fault is recorded.
    FaultGate,
    /// A failed leg gets no more writes.
    FaultSilent,
    /// Bad blocks are not read.
    BbNoread,
    /// A leg that is not up to date is not read.
    NoStaleRead,
    /// Before a resync has passed, reads do not flip between legs.
    ReadSticky,
    /// Resync and writes keep out of each other's way.
    SyncExcl,
    /// A read error is repaired with what another leg holds.
    RepairData,
    /// What comes before a flush is durable before what comes behind it.
    PreflushOrder,
    /// A check only reads, a repair makes equal, and both count right.
    Scrub,
    /// Overlapping writes that md serialises go to a leg one after the other.
    SerialExcl,
    /// A check step of the scenario.
    CheckStep,
    /// What the scenario expects of the run's end.
    Expect,
    /// The guest's kernel itself: panic, oops, hang.
    Guest,
}

impl Check {
    /// All checks that look at legs, in the order of reports.
    pub const LEGS: [Check; 35] = [
        Check::Stamp,
        Check::AckAll,
        Check::AllLegs,
        Check::SameData,
        Check::DiscardAll,
        Check::CleanEq,
        Check::BufStable,
        Check::SamePages,
        Check::SbPeer,
        Check::EventsStep,
        Check::BmBeforeSb,
        Check::DirtyFirst,
        Check::CleanQuiet,
        Check::MetaFua,
        Check::Bounds,
        Check::BitFirst,
        Check::BitClearEq,
        Check::CrashCovered,
        Check::FlushAll,
        Check::FuaTail,
        Check::ResyncEq,
        Check::RecEq,
        Check::Durable,
        Check::BitDegraded,
        Check::ErrRecord,
        Check::FaultGate,
        Check::FaultSilent,
        Check::BbNoread,
        Check::NoStaleRead,
        Check::ReadSticky,
        Check::SyncExcl,
        Check::RepairData,
        Check::PreflushOrder,
        Check::Scrub,
        Check::SerialExcl,
    ];

    /// How sure a finding of the check is where nothing else speaks for it or against it: "H" of the md reference is proven, "M" and "L" are suspect.
    pub fn confidence(self) -> Confidence {
        match self {
            Check::BitDegraded
            | Check::FaultSilent
            | Check::BbNoread
            | Check::NoStaleRead
            | Check::ReadSticky
            | Check::SyncExcl
            | Check::PreflushOrder
            | Check::SamePages => Confidence::Suspect,
            Check::Stamp
            | Check::AckAll
            | Check::AllLegs
            | Check::SameData
            | Check::DiscardAll
            | Check::CleanEq
            | Check::BufStable
            | Check::SbPeer
            | Check::EventsStep
            | Check::BmBeforeSb
            | Check::DirtyFirst
            | Check::CleanQuiet
            | Check::MetaFua
            | Check::Bounds
            | Check::BitFirst
            | Check::BitClearEq
            | Check::CrashCovered
            | Check::FlushAll
            | Check::FuaTail
            | Check::ResyncEq
            | Check::RecEq
            | Check::ErrRecord
            | Check::FaultGate
            | Check::RepairData
            | Check::Scrub
            | Check::SerialExcl
            | Check::Durable
            | Check::CheckStep
            | Check::Expect
            | Check::Guest => Confidence::Proven,
        }
    }

    /// The check's name.
    pub fn name(self) -> &'static str {
        match self {
            Check::Stamp => "stamp",
            Check::AckAll => "ack-all",
            Check::AllLegs => "all-legs",
            Check::SameData => "same-data",
            Check::DiscardAll => "discard-all",
            Check::CleanEq => "clean-eq",
            Check::BufStable => "buf-stable",
            Check::SamePages => "same-pages",
            Check::SbPeer => "sb-peer",
            Check::EventsStep => "events-step",
            Check::BmBeforeSb => "bm-before-sb",
            Check::DirtyFirst => "dirty-first",
            Check::CleanQuiet => "clean-quiet",
            Check::MetaFua => "meta-fua",
            Check::Bounds => "bounds",
            Check::BitFirst => "bit-first",
            Check::BitClearEq => "bit-clear-eq",
            Check::CrashCovered => "crash-covered",
            Check::FlushAll => "flush-all",
            Check::FuaTail => "fua-tail",
            Check::ResyncEq => "resync-eq",
            Check::RecEq => "rec-eq",
            Check::Durable => "durable",
            Check::BitDegraded => "bit-degraded",
            Check::ErrRecord => "err-record",
            Check::FaultGate => "fault-gate",
            Check::FaultSilent => "fault-silent",
            Check::BbNoread => "bb-noread",
            Check::NoStaleRead => "no-stale-read",
            Check::ReadSticky => "read-sticky",
            Check::SyncExcl => "sync-excl",
            Check::RepairData => "repair-data",
            Check::PreflushOrder => "preflush-order",
            Check::Scrub => "scrub",
            Check::SerialExcl => "serial-excl",
            Check::CheckStep => "check-step",
            Check::Expect => "expect",
            Check::Guest => "guest",
        }
    }

    /// What md promises, with the kernel's file and function.
    pub fn promise(self) -> &'static str {
        match self {
            Check::Stamp => {
                "a write that md acknowledges is on every active leg as it was given to md (drivers/md/raid1.c:raid1_write_request, raid1_end_write_request)"
            }
            Check::AckAll => {
                "md acknowledges a write when every active leg that is not behind has completed it (drivers/md/raid1.c:raid1_end_write_request, r1_bio_write_done)"
            }
            Check::AllLegs => {
                "every write goes to every leg that is not faulty (drivers/md/raid1.c:raid1_write_request)"
            }
            Check::SameData => {
                "all legs' requests of one write are made from the same pages (drivers/md/raid1.c:raid1_write_request, alloc_behind_master_bio)"
            }
            Check::DiscardAll => {
                "a discard goes to every leg that offers it (drivers/md/raid1.c:raid1_write_request, raid1_submit_write)"
            }
            Check::CleanEq => {
                "legs of an array that md calls clean hold the same data (drivers/md/md.c:set_in_sync, super_1_sync)"
            }
            Check::BufStable => {
                "pages stay what they are until the leg's request is over, or are copied first (drivers/md/raid1.c:alloc_behind_master_bio)"
            }
            Check::SamePages => {
                "diagnostic: which pages a leg's request is made from (drivers/md/raid1.c:alloc_behind_master_bio)"
            }
            Check::SbPeer => {
                "superblocks that are written together say the same (drivers/md/md.c:md_update_sb, super_1_sync)"
            }
            Check::EventsStep => {
                "each metadata update counts events up by one, or back by one to the clean state before (drivers/md/md.c:md_update_sb)"
            }
            Check::BmBeforeSb => {
                "the bitmap's header has the update counter before the superblock has (drivers/md/md.c:md_update_sb, md_bitmap_update_sb)"
            }
            Check::DirtyFirst => {
                "no data goes out before every active leg says that the array is dirty (drivers/md/md.c:md_write_start)"
            }
            Check::CleanQuiet => {
                "the array is called clean when no write is pending, writes behind included (drivers/md/md.c:set_in_sync)"
            }
            Check::MetaFua => {
                "metadata is written with PREFLUSH and FUA, and waited for (drivers/md/md.c:md_super_write, md_super_wait)"
            }
            Check::Bounds => {
                "data goes to data_offset and up to the size of the array, nowhere else (drivers/md/raid1.c:raid1_write_request)"
            }
            Check::BitFirst => {
                "a chunk's bit is set on every active leg before its data is written (drivers/md/md-bitmap.c:md_bitmap_startwrite, md_bitmap_unplug)"
            }
            Check::BitClearEq => {
                "a bit is cleared when no write to its chunk is pending and no leg missed one (drivers/md/md-bitmap.c:md_bitmap_endwrite, md_bitmap_daemon_work)"
            }
            Check::CrashCovered => {
                "where legs may differ the array is dirty and the bit is set, on every active leg (drivers/md/md-bitmap.c:md_bitmap_init_from_disk)"
            }
            Check::FlushAll => {
                "a flush is acknowledged when every leg has ended its own (drivers/md/md.c:md_flush_request)"
            }
            Check::FuaTail => {
                "a FUA write is FUA on every leg (drivers/md/raid1.c:raid1_write_request)"
            }
            Check::ResyncEq => {
                "after a resync legs are equal (drivers/md/md.c:md_do_sync, drivers/md/raid1.c:raid1_sync_request)"
            }
            Check::RecEq => {
                "a leg is called recovered when it holds what the others hold (drivers/md/raid1.c:raid1_spare_active)"
            }
            Check::Durable => {
                "what is acknowledged under fsync, O_DSYNC or FUA is on every active leg's stable storage (drivers/md/md.c:md_flush_request, drivers/md/raid1.c:raid1_write_request)"
            }
            Check::BitDegraded => {
                "what was written while a leg is away stays marked until that leg has it (drivers/md/md-bitmap.c:md_bitmap_endwrite)"
            }
            Check::ErrRecord => {
                "a write that a leg fails is written again, recorded as bad blocks, or fails the leg (drivers/md/raid1.c:handle_write_finished, narrow_write_error)"
            }
            Check::FaultGate => {
                "new writes wait until a fault is recorded on the legs that are left (drivers/md/raid1.c:raid1_error, wait_blocked_rdev)"
            }
            Check::FaultSilent => {
                "a leg that is recorded as faulty gets no more writes (drivers/md/raid1.c:raid1_write_request)"
            }
            Check::BbNoread => {
                "a range in a leg's bad-block list is read from another leg (drivers/md/raid1.c:read_balance)"
            }
            Check::NoStaleRead => {
                "a leg is read only where it is in sync or recovered (drivers/md/raid1.c:read_balance)"
            }
            Check::ReadSticky => {
                "until a resync has passed, reads come from the leg that it copies from (drivers/md/raid1.c:read_balance, raid1_sync_request)"
            }
            Check::SyncExcl => {
                "no write is under way where a resync reads and writes (drivers/md/raid1.c:raise_barrier, wait_barrier)"
            }
            Check::RepairData => {
                "sectors that could not be read are written again with what another leg holds (drivers/md/raid1.c:fix_read_error)"
            }
            Check::PreflushOrder => {
                "a write with PREFLUSH goes out when every leg has ended its flush (drivers/md/md.c:md_flush_request)"
            }
            Check::Scrub => {
                "a check writes nothing, a repair makes legs equal, and mismatch_cnt counts what differs (drivers/md/raid1.c:process_checks, sync_request_write)"
            }
            Check::SerialExcl => {
                "with serialize_policy a write waits until no other one that overlaps it is in flight on the leg (drivers/md/raid1.c:wait_for_serialization, check_and_add_serial)"
            }
            Check::CheckStep | Check::Expect => "the scenario demands it",
            Check::Guest => "the kernel survives the workload",
        }
    }
}

/// In which way something is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Wrongness {
    /// The leg never got it.
    Absent,
    /// The leg got a part of it.
    Torn,
    /// The leg holds what nobody wrote.
    Garbage,
    /// The leg holds what belongs to another sector.
    Misplaced,
    /// The leg holds what was overwritten before.
    Older,
    /// Acknowledged before the leg had it.
    Early,
    /// The legs hold different contents.
    Differs,
    /// The buffer changed in flight.
    Changed,
    /// md's metadata is wrong.
    Metadata,
    /// The guest's kernel read from where it may not.
    Read,
    /// The guest read something else than what it wrote.
    ReadBack,
    /// A step failed.
    Step,
    /// The guest's kernel failed.
    Kernel,
    /// The scenario expected something else.
    Unmet,
}

impl Wrongness {
    /// One word.
    pub fn name(self) -> &'static str {
        match self {
            Wrongness::Absent => "absent",
            Wrongness::Torn => "torn",
            Wrongness::Garbage => "garbage",
            Wrongness::Misplaced => "misplaced",
            Wrongness::Older => "older version",
            Wrongness::Early => "early",
            Wrongness::Differs => "differs",
            Wrongness::Changed => "changed",
            Wrongness::Metadata => "metadata",
            Wrongness::Read => "read",
            Wrongness::ReadBack => "read back wrong",
            Wrongness::Step => "step failed",
            Wrongness::Kernel => "kernel failed",
            Wrongness::Unmet => "unmet",
        }
    }
}

/// How sure a finding is. Only proven ones decide a verdict, unless asked otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Confidence {
    /// There is no innocent explanation that legwatch knows of.
    Proven,
    /// There may be one.
    Suspect,
}

/// Who did it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// The guest's kernel.
    Kernel,
    /// A rule of the scenario.
    Injected,
    /// The guest's program changed the buffer.
    GuestChangedBuffer,
    /// It was in flight when the run ended.
    InFlightAtEnd,
}

/// A run of sectors, in units of 512 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Range {
    /// First sector.
    pub start: u64,
    /// Sectors.
    pub count: u64,
}

/// A finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Stable over runs of the same scenario: made of check, kind, legs and first sector, not of timing.
    pub id: String,
    /// The check.
    pub check: Check,
    /// In which way it is wrong.
    pub kind: Wrongness,
    /// How sure it is.
    pub confidence: Confidence,
    /// What is wrong, in one short sentence.
    pub headline: String,
    /// On which legs, and what they got instead.
    pub detail: String,
    /// The legs' names.
    pub legs: Vec<String>,
    /// The array sectors, at most [`RANGES_MAX`] runs.
    pub array: Vec<Range>,
    /// The sectors on each leg, at most [`RANGES_MAX`] runs a leg.
    pub leg_ranges: Vec<LegRange>,
    /// Sectors in all, counted once however many legs.
    pub sectors: u64,
    /// Writes of the workload that are hit; 0 where none are known.
    pub writes: u64,
    /// The first wrong request, or the write that never came; `None` where none is known.
    #[serde(default)]
    pub first_wrong: Option<StoryLine>,
    /// The event at which it first showed.
    pub first: u64,
    /// The event at which it last showed.
    pub last: u64,
    /// Who did it.
    pub cause: Cause,
    /// Why that is the cause.
    pub reason: String,
    /// Which promise is broken.
    pub promise: String,
    /// The first wrong sector, looked at closely.
    pub example: Option<Example>,
    /// The requests and marks that touched it, in the order of the sequence.
    pub story: Vec<StoryLine>,
    /// More that is known.
    pub notes: Vec<String>,
    /// The known deviation of stock kernels that explains it, by its name in docs/checks.md.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub known: Option<String>,
}

/// Runs of sectors that a finding lists at most.
pub const RANGES_MAX: usize = 1000;

/// Sectors of a leg.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LegRange {
    /// The leg's name.
    pub leg: String,
    /// First sector on the leg.
    pub start: u64,
    /// Sectors.
    pub count: u64,
}

/// One wrong sector.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Example {
    /// The array sector.
    pub array_sector: u64,
    /// What should be there.
    pub expected: Option<Expected>,
    /// What each leg holds.
    pub legs: Vec<Holding>,
}

/// What should be in a sector.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expected {
    /// In words: `writer 3 #119`.
    pub what: String,
    /// CRC-32 of the content.
    pub digest: u32,
    /// The content in hexadecimal, made again from the stamp.
    pub bytes: String,
}

/// What a leg holds in a sector.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holding {
    /// The leg's name.
    pub leg: String,
    /// The sector on the leg.
    pub sector: u64,
    /// Whether it is as it should be.
    pub good: bool,
    /// In words: `writer 3 #118 of array sector 8200`, `zeros`, `unknown content`.
    pub what: String,
    /// The content in hexadecimal, where it was read and its digest proves it.
    pub bytes: Option<String>,
    /// What a wrong content looks like, where its bytes are known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nature: Option<Nature>,
    /// The sector's versions on this leg, newest first.
    pub history: Vec<VersionLine>,
}

/// What a content looks like.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nature {
    /// What it most likely is, in words.
    pub what: String,
    /// Its entropy in thousandths of a bit a byte, 0 to 8000.
    pub entropy_millibits: u32,
}

/// A version of a sector.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionLine {
    /// The event that brought it; 0 for initial content.
    pub event: u64,
    /// The number of the request on the leg; 0 for initial content.
    pub request: u64,
    /// CRC-32; `None`: not known.
    pub digest: Option<u32>,
    /// Guest-physical address that it came from; 0 for none.
    pub gpa: u64,
    /// In words: where it comes from and how sure it is.
    pub what: String,
}

/// One line of a story.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct StoryLine {
    /// The event.
    pub event: u64,
    /// Microseconds since the run began.
    pub time_us: u64,
    /// The leg's name, or `guest`, `console`, `ctl`.
    pub leg: String,
    /// What happened.
    pub what: String,
}
