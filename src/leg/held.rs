//! Requests that wait for their time: a leg's delays, and rules that hold an answer back.

use std::cmp::Reverse;
use std::time::Instant;

use super::command::Ending;
use super::disk::{Disk, Job, Step};
use super::worker::Queue;
use crate::block::Status;
use crate::clock;
use crate::event::{Abandoned, What};
use crate::sequence::Tap;

/// A request that waits for its time.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) due: Instant,
    pub(super) job: Job,
}

impl Held {
    fn key(&self) -> (Instant, u64) {
        (self.due, self.job.number)
    }
}

impl PartialEq for Held {
    fn eq(&self, other: &Held) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Held {}

impl PartialOrd for Held {
    fn partial_cmp(&self, other: &Held) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Held {
    fn cmp(&self, other: &Held) -> std::cmp::Ordering {
        self.key().cmp(&other.key())
    }
}

impl Disk {
    /// Keeps a request until its time.
    pub(super) fn keep(&mut self, due: Instant, job: Job) {
        self.shared.hold(job.number);
        self.held.push(Reverse(Held { due, job }));
    }

    /// When the next held request is due.
    pub(super) fn next_due(&self) -> Option<Instant> {
        let held = self.held.peek().map(|Reverse(held)| held.due);
        match (held, self.next_parked()) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// Ends the held requests that are due; `true` if there were any.
    pub(super) fn end_due(&mut self, queues: &mut [Queue], tap: &mut Tap) -> bool {
        let Some(first) = self.next_due() else {
            return false;
        };
        let now = clock::now();
        if first > now {
            return false;
        }
        self.end_parked(now, queues, tap);
        while let Some(Reverse(held)) = self.held.peek() {
            if held.due > now {
                break;
            }
            if let Some(Reverse(held)) = self.held.pop() {
                self.end_held(held.job, queues, Ending::Complete, tap);
            }
        }
        true
    }

    /// Ends everything that is held for `queue`, or for all queues.
    pub(super) fn end_held_of(
        &mut self,
        queue: Option<u16>,
        queues: &mut [Queue],
        ending: Ending,
        tap: &mut Tap,
    ) {
        let (mut ours, rest): (Vec<_>, Vec<_>) = std::mem::take(&mut self.held)
            .into_iter()
            .partition(|Reverse(held)| queue.is_none_or(|queue| held.job.queue == queue));
        self.held = rest.into();
        ours.sort_unstable_by(|Reverse(a), Reverse(b)| a.cmp(b));
        for Reverse(held) in ours {
            self.end_held(held.job, queues, ending, tap);
        }
        self.end_parked_of(queue, queues, ending, tap);
    }

    pub(super) fn end_held(
        &mut self,
        mut job: Job,
        queues: &mut [Queue],
        ending: Ending,
        tap: &mut Tap,
    ) {
        self.shared.release(job.number);
        let ending = if self.is_dark() {
            Ending::Abandon
        } else {
            ending
        };
        let queue = queues.iter_mut().find(|queue| queue.index == job.queue);
        match (queue, ending) {
            (Some(queue), Ending::Complete) => {
                let outcome = self.work(&mut job, tap);
                self.finish(queue, job, outcome, tap);
            }
            (None, _) | (Some(_), Ending::Abandon) => {
                let applied = matches!(
                    job.step,
                    Step::Stored {
                        status: Status::Ok,
                        ..
                    }
                );
                self.forget_faulty(&job);
                job.pending.abandon();
                tap.record(What::Abandoned(Abandoned {
                    request: self.id(job.number),
                    applied,
                }));
                self.shared.end();
            }
        }
    }
}
