//! The control leg: the agent reads its plan from it and writes marks to it (see [`crate::mark`]).
//!
//! A mark's number is taken right after its chain was, as an arrival's is; several marks in one request take numbers one after the other. The
//! write of a [`Mark::Quiet`] waits until no leg has a request in flight, or until the limit.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::command::Ending;
use super::faults::Faults;
use super::lock;
use super::shared::Rest;
use super::worker::Queue;
use crate::block::{LegId, Operation, SECTOR_BYTES, SectorRange, Status};
use crate::clock;
use crate::event::{FrontendChange, What};
use crate::mark::{CONTROL_SECTORS, MARKS_START, Mark, SERIAL, decode, encode_plan};
use crate::sequence::Tap;
use crate::virtio::defs::ID_BYTES;
use crate::virtio::{Head, Limits, Pending, parse};

/// What the control leg shares with who runs it.
#[derive(Debug, Default)]
pub struct ControlShared {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// The plan area's content, from its first byte; zeros behind it.
    plan: Vec<u8>,
    seen: Batches,
    /// A batch of which only some marks were recorded before the witness was killed.
    begun: Option<(u32, usize)>,
    /// Quiet points that were declared and not answered before the witness was killed.
    unanswered: BTreeSet<u32>,
}

/// What a control leg had taken when its process was killed.
#[derive(Clone, Debug, Default)]
pub struct ControlState {
    /// The batches of marks of this boot, of the last ones; rising.
    pub batches: Vec<u32>,
    /// The batch that came last, and how many of its marks are on record.
    pub begun: Option<(u32, usize)>,
    /// Quiet points of this boot that are on record and whose answer is not.
    pub unanswered: BTreeSet<u32>,
}

/// Batch numbers that have come: all up to one, and some behind it.
#[derive(Debug, Default)]
struct Batches {
    all_to: u32,
    others: BTreeSet<u32>,
}

impl Batches {
    /// `true` the first time.
    fn first_time(&mut self, batch: u32) -> bool {
        if batch <= self.all_to || !self.others.insert(batch) {
            return false;
        }
        while let Some(next) = self.all_to.checked_add(1)
            && self.others.remove(&next)
        {
            self.all_to = next;
        }
        true
    }
}

impl ControlShared {
    /// Sets the plan that the next reads see; `false` if it is larger than its area.
    pub fn set_plan(&self, json: &[u8]) -> bool {
        let Some(plan) = encode_plan(json) else {
            return false;
        };
        lock(&self.inner).plan = plan;
        true
    }

    /// A boot begins: batches count from 1 again.
    pub fn new_boot(&self) {
        let mut inner = lock(&self.inner);
        inner.seen = Batches::default();
        inner.begun = None;
        inner.unanswered.clear();
    }

    /// A boot goes on, in which all this has come already.
    pub fn go_on(&self, state: ControlState) {
        let mut seen = Batches::default();
        if let Some(first) = state.batches.first() {
            seen.all_to = first.saturating_sub(1);
        }
        for batch in state.batches {
            seen.first_time(batch);
        }
        let mut inner = lock(&self.inner);
        inner.seen = seen;
        inner.begun = state.begun;
        inner.unanswered = state.unanswered;
    }

    /// A batch has come: how many of its marks are on record already; all, if it came before.
    fn recorded(&self, batch: u32) -> usize {
        let mut inner = lock(&self.inner);
        let begun = inner.begun.take_if(|(begun, _)| *begun == batch);
        let first_time = inner.seen.first_time(batch);
        match begun {
            // It came again, or its answer was on its way: whatever is not on record is recorded now.
            Some((_, marks)) => marks,
            None if first_time => 0,
            None => usize::MAX,
        }
    }
}

/// The control leg.
#[derive(Debug)]
pub struct Control {
    shared: Arc<ControlShared>,
    rest: Arc<Rest>,
    faults: Arc<Faults>,
    limit: Duration,
    waiting: Vec<Waiting>,
}

/// The write of quiet points.
#[derive(Debug)]
struct Waiting {
    ids: Vec<u32>,
    queue: u16,
    until: Instant,
    pending: Pending,
}

/// The control leg's limits.
pub const LIMITS: Limits = Limits {
    sectors: CONTROL_SECTORS,
    block_sectors: 1,
    read_only: false,
    flush: false,
    discard: false,
    write_zeroes: false,
};

impl Control {
    /// A control leg that waits for `rest` at quiet points, `limit` at most.
    pub fn new(
        shared: Arc<ControlShared>,
        rest: Arc<Rest>,
        faults: Arc<Faults>,
        limit: Duration,
    ) -> Control {
        Control {
            shared,
            rest,
            faults,
            limit,
            waiting: Vec::new(),
        }
    }

    /// A chain has just been taken from the ring.
    pub(super) fn arrive(&mut self, queue: &mut Queue, head: Head, tap: &mut Tap) {
        let (request, pending) = match parse(&queue.ring, head, &LIMITS) {
            Ok(both) => both,
            Err(bad) => {
                let status = bad.why.status();
                if !matches!(bad.operation, Operation::Unsupported(_)) {
                    trouble(tap, format!("{}: {}", bad.operation, bad.why));
                }
                queue.ring.push(bad.pending.complete(status, 0));
                return;
            }
        };
        let range = request.ranges.first().copied().unwrap_or_default();
        let (status, written) = match request.operation {
            Operation::Read => (Status::Ok, self.read(range, &pending)),
            Operation::GetId => {
                let mut id = [0; ID_BYTES];
                for (to, from) in id.iter_mut().zip(SERIAL.bytes()) {
                    *to = from;
                }
                (Status::Ok, pending.data().copy_prefix(&id))
            }
            Operation::Write => match self.write(range, &pending, tap) {
                Ok(ids) if ids.is_empty() => (Status::Ok, 0),
                Ok(ids) => {
                    let now = clock::now();
                    self.waiting.push(Waiting {
                        ids,
                        queue: queue.index,
                        until: now.checked_add(self.limit).unwrap_or(now),
                        pending,
                    });
                    self.rest.wait(true);
                    return;
                }
                Err(why) => {
                    trouble(tap, why);
                    (Status::IoErr, 0)
                }
            },
            Operation::Flush => (Status::Ok, 0),
            Operation::Discard
            | Operation::WriteZeroes
            | Operation::WriteZeroesUnmap
            | Operation::Unsupported(_) => (Status::Unsupported, 0),
        };
        queue.ring.push(pending.complete(status, written));
    }

    fn read(&self, range: SectorRange, pending: &Pending) -> u32 {
        let bytes = |sectors: u64| {
            usize::try_from(sectors)
                .unwrap_or(usize::MAX)
                .saturating_mul(SECTOR_BYTES)
        };
        let mut out = vec![0; bytes(range.count())];
        let inner = lock(&self.shared.inner);
        let plan = inner.plan.get(bytes(range.start().0)..).unwrap_or(&[]);
        for (to, from) in out.iter_mut().zip(plan) {
            *to = *from;
        }
        drop(inner);
        pending.data().copy_prefix(&out)
    }

    /// Records the marks of every sector; the quiet points among them are returned.
    fn write(
        &self,
        range: SectorRange,
        pending: &Pending,
        tap: &mut Tap,
    ) -> Result<Vec<u32>, String> {
        if range.start().0 < MARKS_START {
            return Err("a write outside the marks area".into());
        }
        let mut bytes = vec![0; usize::try_from(pending.data().bytes()).unwrap_or(0)];
        pending.data().copy_to(&mut bytes);
        let mut quiet = Vec::new();
        let mut bad = None;
        let (sectors, _) = bytes.as_chunks::<SECTOR_BYTES>();
        for sector in sectors {
            match decode(sector) {
                Ok((batch, marks)) => {
                    let recorded = self.shared.recorded(batch);
                    if recorded == 0
                        && let Some(ahead) = tap.ahead()
                    {
                        ahead.begin_batch(batch, tap.last());
                    }
                    for (at, mark) in marks.into_iter().enumerate() {
                        if let Mark::Quiet { id, .. } = &mark
                            && (at >= recorded || lock(&self.shared.inner).unanswered.remove(id))
                        {
                            quiet.push(*id);
                        }
                        if at >= recorded {
                            self.faults.see(&mark);
                            tap.record(What::Mark(mark));
                        }
                    }
                }
                Err(why) => bad = Some(why.to_string()),
            }
        }
        match bad {
            Some(why) if quiet.is_empty() => Err(why),
            // A quiet point is answered whatever came beside it.
            Some(_) | None => Ok(quiet),
        }
    }

    /// When waiting for a quiet point ends at the latest.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.waiting.iter().map(|waiting| waiting.until).min()
    }

    /// Answers quiet points whose time has come; `true` if there were any.
    pub(super) fn end_due(&mut self, queues: &mut [Queue], tap: &mut Tap) -> bool {
        if self.waiting.is_empty() {
            return false;
        }
        let rest = self.rest.is();
        let now = clock::now();
        let (done, waiting): (Vec<_>, Vec<_>) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition(|waiting| rest || waiting.until <= now);
        self.waiting = waiting;
        let some = !done.is_empty();
        for waiting in done {
            let pending = if rest {
                Vec::new()
            } else {
                self.rest.pending()
            };
            self.end(waiting, &pending, queues, Ending::Complete, tap);
        }
        if self.waiting.is_empty() {
            self.rest.wait(false);
        }
        some
    }

    /// Ends what waits on `queue`, or on all queues, which are being stopped.
    pub(super) fn end_held_of(
        &mut self,
        queue: Option<u16>,
        queues: &mut [Queue],
        ending: Ending,
        tap: &mut Tap,
    ) {
        let (done, waiting): (Vec<_>, Vec<_>) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition(|waiting| queue.is_none_or(|queue| waiting.queue == queue));
        self.waiting = waiting;
        for waiting in done {
            let pending = self.rest.pending();
            self.end(waiting, &pending, queues, ending, tap);
        }
        if self.waiting.is_empty() {
            self.rest.wait(false);
        }
    }

    fn end(
        &self,
        waiting: Waiting,
        pending: &[crate::block::RequestId],
        queues: &mut [Queue],
        ending: Ending,
        tap: &mut Tap,
    ) {
        for id in waiting.ids {
            tap.record(What::Quiet {
                id,
                pending: pending.to_vec(),
            });
        }
        let queue = queues.iter_mut().find(|queue| queue.index == waiting.queue);
        match (queue, ending) {
            (Some(queue), Ending::Complete) => {
                queue.ring.push(waiting.pending.complete(Status::Ok, 0));
            }
            (None, _) | (Some(_), Ending::Abandon) => waiting.pending.abandon(),
        }
    }
}

fn trouble(tap: &mut Tap, text: String) {
    tap.record(What::Frontend {
        leg: LegId::CONTROL,
        change: FrontendChange::Trouble(text),
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_counts_once_in_any_order() {
        let mut seen = Batches::default();
        for batch in [3, 1, 2, 5] {
            assert!(seen.first_time(batch), "{batch}");
        }
        for batch in [1, 2, 3, 5, 0] {
            assert!(!seen.first_time(batch), "{batch}");
        }
        assert!(seen.first_time(4));
        assert_eq!((seen.all_to, seen.others.len()), (5, 0));
        assert!(seen.first_time(u32::MAX));
    }

    #[test]
    fn a_batch_that_was_begun_before_a_kill_goes_on_where_it_stopped() {
        let control = ControlShared::default();
        control.go_on(ControlState {
            batches: vec![5, 6, 8],
            begun: Some((8, 3)),
            unanswered: BTreeSet::new(),
        });
        for seen in [1, 4, 5, 6] {
            assert_eq!(control.recorded(seen), usize::MAX, "{seen}");
        }
        assert_eq!(control.recorded(8), 3, "three of its marks are on record");
        assert_eq!(control.recorded(8), usize::MAX);
        assert_eq!(control.recorded(7), 0);
        assert_eq!(control.recorded(7), usize::MAX);
        assert_eq!(control.recorded(9), 0);
        // Killed before any of its marks, and before it was noted as one that came.
        control.go_on(ControlState {
            batches: vec![5],
            begun: Some((6, 0)),
            unanswered: BTreeSet::new(),
        });
        assert_eq!(control.recorded(6), 0);
        assert_eq!(control.recorded(6), usize::MAX, "once");
        control.new_boot();
        assert_eq!(control.recorded(1), 0);
    }
}
