//! One request's way on a leg, from its avail entry to its used entry.
//!
//! An honest disk stores a write's payload when it fetches it, at its arrival; with a delay only the answer waits. Reads, discards and
//! flushes happen just before their answer. A late fetch moves a write's payload there, too.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use smallvec::SmallVec;

use super::areas::Areas;
use super::connection::Connection;
use super::faults::Faults;
use super::faulty::{Fate, Faulty};
use super::held::Held;
use super::plain::Plain;
use super::shared::{LegShared, count};
use super::worker::Queue;
use crate::block::{LegId, Operation, RequestId, Sector, SectorRange, Status, is_commit_block};
use crate::config::{LegConfig, Record};
use crate::cut_short::losses;
use crate::event::{
    Abandoned, Arrived, Completed, Content, Digests, Fetched, FrontendChange, What,
};
use crate::fault::{COMPILED_IN, LegRules};
use crate::medium::{Lies, Medium, MemoryMedium};
use crate::sequence::Tap;
use crate::virtio::defs::{ID_BYTES, REQUEST_BYTES_MAX};
use crate::virtio::{Head, Limits, Pending, parse};
use crate::watch::{Part, Watch};

/// One leg: its medium, its rules, its requests. It outlives every connection.
#[derive(Debug)]
pub struct Disk {
    pub(super) shared: Arc<LegShared>,
    pub(super) medium: Medium,
    pub(super) limits: Limits,
    pub(super) rules: LegRules,
    pub(super) record: Record,
    /// Whether sectors are digested.
    digests: bool,
    /// Whether guest memory is looked at again before completion.
    look_again: bool,
    /// How content is told.
    pub(super) plain: Plain,
    /// Where metadata and data are.
    pub(super) areas: Areas,
    pub(super) held: BinaryHeap<Reverse<Held>>,
    /// Where a file's payload passes through; sparse, page-aligned, as long as the longest request.
    pub(super) scratch: MemoryMedium,
    /// Mappings that had been lost when this leg began: before one more is, nothing is looked at.
    losses: u64,
    /// What rules need; unused without any.
    pub(super) faulty: Faulty,
}

/// A request on its way.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) number: u64,
    pub(super) queue: u16,
    pub(super) operation: Operation,
    pub(super) ranges: SmallVec<[SectorRange; 1]>,
    pub(super) pending: Pending,
    pub(super) step: Step,
    /// What rules do to it.
    pub(super) fate: Option<Box<Fate>>,
}

#[derive(Debug)]
pub(super) enum Step {
    /// Only the answer is left to give.
    Refused(Status),
    /// Nothing has happened yet.
    Todo,
    /// A write was fetched and stored, or storing failed.
    Stored { digests: Digests, status: Status },
}

/// What the work on a request came to.
pub(super) struct Outcome {
    pub(super) status: Status,
    pub(super) content: Content,
    pub(super) written: u32,
}

impl Outcome {
    pub(super) fn plain(status: Status) -> Outcome {
        Outcome {
            status,
            content: Content::NotTaken,
            written: 0,
        }
    }
}

/// Whether the journal gets a payload for what it is: a file system's commit block tells the checker that its write came with PREFLUSH.
pub(super) fn keeps_for_content(record: Record, bytes: &[u8]) -> bool {
    record == Record::Metadata && is_commit_block(bytes)
}

impl Disk {
    /// A leg on its medium.
    ///
    /// # Errors
    /// [`crate::medium::MediumError`], without address space for the scratch memory.
    pub fn new(
        shared: Arc<LegShared>,
        config: &LegConfig,
        medium: Medium,
        faults: Arc<Faults>,
        lies: Arc<Lies>,
        record: Record,
        watch: &Watch,
    ) -> Result<Disk, crate::medium::MediumError> {
        let limits = Limits {
            sectors: medium.sectors(),
            block_sectors: u64::from(config.block_size / 512),
            read_only: config.read_only,
            flush: config.write_cache,
            discard: config.discard && !config.read_only,
            write_zeroes: config.write_zeroes && !config.read_only,
        };
        shared.set_sectors(limits.sectors);
        let mut disk = Disk {
            areas: Areas::new(config, limits.sectors),
            rules: LegRules::new(config, shared.id(), faults.seed()),
            faulty: Faulty::new(faults, lies),
            shared,
            medium,
            limits,
            record,
            digests: watch.has(Part::Crc),
            look_again: watch.has(Part::Buffer),
            plain: Plain::new(config.crypt.as_ref()),
            held: BinaryHeap::new(),
            scratch: MemoryMedium::new(REQUEST_BYTES_MAX)?,
            losses: losses(),
        };
        if let Medium::File(_) = disk.medium {
            disk.read_superblock();
        }
        Ok(disk)
    }

    /// What requests are checked against.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// Whether serving it may have to wait for a disk.
    pub fn waits(&self) -> bool {
        self.medium.waits()
    }

    /// Grows to `sectors`, for requests that come from now on.
    pub(super) fn grow(&mut self, sectors: u64) -> std::io::Result<()> {
        if !sectors.is_multiple_of(self.limits.block_sectors) {
            return Err(std::io::ErrorKind::InvalidInput.into());
        }
        self.medium.grow(sectors)?;
        self.limits.sectors = sectors;
        self.shared.set_sectors(sectors);
        self.areas_grow(sectors);
        Ok(())
    }

    pub(super) fn id(&self, number: u64) -> RequestId {
        RequestId {
            leg: self.shared.id(),
            number,
        }
    }

    pub(super) fn connection(&self) -> Arc<Connection> {
        self.shared.connection()
    }

    pub(super) fn leg(&self) -> LegId {
        self.shared.id()
    }

    /// A chain has just been taken from the ring. Returns the data bytes that were moved.
    pub(super) fn arrive(&mut self, queue: &mut Queue, head: Head, tap: &mut Tap) -> u64 {
        let no = tap.number();
        let number = self.shared.arrive();
        let (operation, ranges, pending, step) = match parse(&queue.ring, head, &self.limits) {
            Ok((request, pending)) => (request.operation, request.ranges, pending, Step::Todo),
            Err(bad) => (
                bad.operation,
                SmallVec::new(),
                bad.pending,
                Step::Refused(bad.why.status()),
            ),
        };
        tap.push(
            no,
            What::Arrived(Arrived {
                request: self.id(number),
                queue: queue.index,
                operation,
                ranges: ranges.clone(),
                segments: pending.data().segments(),
            }),
        );
        let mut job = Job {
            number,
            queue: queue.index,
            operation,
            ranges,
            pending,
            step,
            fate: None,
        };
        let bytes = job.pending.data().bytes();
        if self.is_plain(tap) {
            if operation == Operation::Write && matches!(job.step, Step::Todo) {
                tap.same_moment();
                let outcome = self.write_now(&job, tap);
                self.finish(queue, job, outcome, tap);
            } else {
                let outcome = self.work(&mut job, tap);
                self.finish(queue, job, outcome, tap);
            }
            return bytes;
        }
        self.arrive_faulty(queue, job, tap);
        bytes
    }

    /// Answers: the number, the event, then the used entry, which the driver sees when the queue publishes.
    pub(super) fn finish(&mut self, queue: &mut Queue, job: Job, outcome: Outcome, tap: &mut Tap) {
        let outcome = if losses() != self.losses && queue.ring.memory().is_lost() {
            // What was moved came from, or went to, memory that is no longer the guest's.
            Outcome::plain(Status::IoErr)
        } else {
            outcome
        };
        let counts = self.shared.counts();
        match job.operation {
            Operation::Read => count(&counts.reads, 1),
            Operation::Write => count(&counts.writes, 1),
            Operation::Flush => count(&counts.flushes, 1),
            Operation::Discard | Operation::WriteZeroes | Operation::WriteZeroesUnmap => {
                count(&counts.discards, 1);
            }
            Operation::GetId | Operation::Unsupported(_) => {}
        }
        if outcome.status != Status::Ok {
            count(&counts.errors, 1);
        }
        if job.operation == Operation::Write
            && let Some(range) = job.ranges.first()
            && COMPILED_IN
            && self.faulty.twins
        {
            let id = self.id(job.number);
            let status = Some(outcome.status);
            self.faulty.faults.write_ended(id, *range, status);
        }
        let no = tap.number();
        if COMPILED_IN && self.faulty.volatile.is_some() && self.faulty.faults.is_cut() {
            // The power went between the look at it and this number, which is later than the cut's: it is not answered.
            let applied = outcome.status == Status::Ok;
            tap.push(
                no,
                What::Abandoned(Abandoned {
                    request: self.id(job.number),
                    applied,
                }),
            );
            job.pending.abandon();
            self.shared.end();
            return;
        }
        tap.push(
            no,
            What::Completed(Completed {
                request: self.id(job.number),
                status: outcome.status,
                content: outcome.content,
            }),
        );
        queue
            .ring
            .push(job.pending.complete(outcome.status, outcome.written));
        self.shared.end();
    }

    /// Everything that is left to do before the answer.
    pub(super) fn work(&mut self, job: &mut Job, tap: &mut Tap) -> Outcome {
        if COMPILED_IN && let Some(fate) = job.fate.take() {
            return self.work_faulty(job, *fate, tap);
        }
        self.work_honest(job, tap)
    }

    pub(super) fn work_honest(&mut self, job: &mut Job, tap: &mut Tap) -> Outcome {
        match std::mem::replace(&mut job.step, Step::Todo) {
            Step::Refused(status) => Outcome::plain(status),
            Step::Stored { digests, status } => Outcome {
                status,
                content: self.content_now(job, &digests, status),
                written: 0,
            },
            Step::Todo => match job.operation {
                Operation::Read => self.read(job, tap),
                Operation::Write => self.write_now(job, tap),
                Operation::Flush => {
                    let flushed = self.medium.flush();
                    Outcome::plain(self.answer(flushed, job.number, tap))
                }
                Operation::Discard | Operation::WriteZeroesUnmap => self.zero(job, true, tap),
                Operation::WriteZeroes => self.zero(job, false, tap),
                Operation::GetId => {
                    let mut id = [0; ID_BYTES];
                    for (to, from) in id.iter_mut().zip(self.shared.name().bytes()) {
                        *to = from;
                    }
                    Outcome {
                        status: Status::Ok,
                        content: Content::NotTaken,
                        written: job.pending.data().copy_prefix(&id),
                    }
                }
                Operation::Unsupported(_) => Outcome::plain(Status::Unsupported),
            },
        }
    }

    /// Turns a medium's result into an answer; an error is recorded.
    pub(super) fn answer(&self, result: std::io::Result<()>, number: u64, tap: &mut Tap) -> Status {
        match result {
            Ok(()) => Status::Ok,
            Err(error) => {
                tap.record(What::Frontend {
                    leg: self.leg(),
                    change: FrontendChange::Trouble(format!(
                        "request {number}: the medium failed: {error}"
                    )),
                });
                Status::IoErr
            }
        }
    }

    pub(super) fn zero(&mut self, job: &Job, unmap: bool, tap: &mut Tap) -> Outcome {
        let result = job
            .ranges
            .iter()
            .try_for_each(|range| self.medium.zero(*range, unmap))
            .and_then(|()| self.settle());
        for range in &job.ranges {
            self.changed(*range);
        }
        Outcome::plain(self.answer(result, job.number, tap))
    }

    /// Without a volatile cache, what was written is durable before it is answered (virtio 1.2, 5.2.6.2).
    pub(super) fn settle(&mut self) -> std::io::Result<()> {
        if self.shared.write_through() {
            self.medium.flush()
        } else {
            Ok(())
        }
    }

    pub(super) fn read(&mut self, job: &Job, tap: &mut Tap) -> Outcome {
        let Some(range) = job.ranges.first().copied() else {
            return Outcome::plain(Status::IoErr);
        };
        let data = job.pending.data();
        let mut look = self.plain.look(range.start(), self.digests);
        let direct = self.medium.bytes(range).map(|bytes| {
            data.copy_from_looking(bytes, |part| look.at(part));
        });
        if direct.is_none() || self.medium.was_cut_short() {
            let bytes = self.scratch.bytes_mut(front(range.count()));
            if let Err(error) = self.medium.read(range, bytes) {
                return Outcome::plain(self.answer(Err(error), job.number, tap));
            }
            self.medium.noticed(range, bytes);
            look.again();
            data.copy_from_looking(bytes, |part| look.at(part));
        }
        let digests = look.done();
        count(&self.shared.counts().bytes_read, data.bytes());
        Outcome {
            status: Status::Ok,
            written: u32::try_from(data.bytes()).unwrap_or(u32::MAX),
            content: if self.digests {
                Content::Returned(digests)
            } else {
                Content::NotTaken
            },
        }
    }

    /// Fetches a write's payload and stores it: the number first, then one copy, then the digests of that copy. They go with the event, and
    /// come back as well if they are `wanted` (else: none).
    fn store(&mut self, job: &Job, wanted: bool, tap: &mut Tap) -> (Status, Digests) {
        let Some(range) = job.ranges.first().copied() else {
            return (Status::IoErr, Digests::new());
        };
        let data = job.pending.data();
        let keep = self.keeps_payload(range);
        let no = tap.number();
        let mut look = self.plain.look(range.start(), self.digests);
        let direct = self.medium.bytes_mut(range).map(|bytes| {
            data.copy_to_looking(bytes, |part| look.at(part));
        });
        let stored = if direct.is_none() || self.medium.was_cut_short() {
            let bytes = self.scratch.bytes_mut(front(range.count()));
            look.again();
            data.copy_to_looking(bytes, |part| look.at(part));
            self.medium.write(range, bytes)
        } else {
            Ok(())
        };
        let digests = look.done();
        let bytes = self.fetched(range);
        let kept = keep || keeps_for_content(self.record, bytes);
        let back = if wanted {
            digests.clone()
        } else {
            Digests::new()
        };
        tap.push(
            no,
            What::Fetched(Fetched {
                request: RequestId {
                    leg: self.shared.id(),
                    number: job.number,
                },
                digests,
                payload: kept.then(|| self.plain.bytes(range.start(), bytes)),
            }),
        );
        count(&self.shared.counts().bytes_written, data.bytes());
        self.changed(range);
        let settled = stored.and_then(|()| self.settle());
        (self.answer(settled, job.number, tap), back)
    }

    /// A write that is fetched, stored and answered at once.
    pub(super) fn write_now(&mut self, job: &Job, tap: &mut Tap) -> Outcome {
        let (status, _) = self.store(job, false, tap);
        let mut content = Content::NotTaken;
        if let Some(range) = job.ranges.first()
            && status == Status::Ok
            && self.look_again
        {
            // Nothing else has touched the copy since it was made, so it says what was fetched, and comparing is cheaper than digesting.
            let fetched = self.fetched(*range);
            content = if job.pending.data().equals(fetched) {
                Content::Same
            } else if self.medium.was_cut_short() {
                // The copy went with the image; what this request fetched can't be told any more.
                Content::NotTaken
            } else {
                let fetched = self.fetched(*range);
                let digests = if self.digests {
                    self.plain.digests(range.start(), fetched)
                } else {
                    Digests::new()
                };
                self.content_now(job, &digests, status)
            };
        }
        Outcome {
            status,
            content,
            written: 0,
        }
    }

    /// The copy of what the last write fetched: on the medium, or where it passed through.
    fn fetched(&self, range: SectorRange) -> &[u8] {
        let passed = || self.scratch.bytes(front(range.count()));
        self.medium.bytes(range).unwrap_or_else(passed)
    }

    /// What guest memory holds now, against what was fetched.
    pub(super) fn content_now(&self, job: &Job, fetched: &Digests, status: Status) -> Content {
        if !self.look_again || status != Status::Ok {
            return Content::NotTaken;
        }
        if !self.digests {
            // The caller has compared the bytes, or nobody can tell.
            return Content::NotTaken;
        }
        let now = match job.ranges.first() {
            Some(range) if self.plain.decrypts() => {
                let mut bytes = vec![0; super::faulty::bytes_of(*range)];
                job.pending.data().copy_to(&mut bytes);
                self.plain.digests(range.start(), &bytes)
            }
            Some(_) | None => job.pending.data().digests(),
        };
        if now == *fetched {
            Content::Same
        } else {
            Content::Changed(now)
        }
    }
}

/// The first `count` sectors, of the scratch memory.
pub(super) fn front(count: u64) -> SectorRange {
    SectorRange::new(Sector(0), count).unwrap_or_default()
}
