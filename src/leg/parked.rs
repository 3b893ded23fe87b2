//! Requests that wait for something else than a time: a mark, a rule, a hand, others' ends, or nothing at all.

use std::time::Instant;

use super::command::Ending;
use super::disk::{Disk, Job};
use super::worker::Queue;
use crate::fault::{Around, COMPILED_IN, Wait};
use crate::sequence::Tap;

/// A request that waits for something else than a time.
#[derive(Debug)]
pub(super) struct Parked {
    pub(super) wait: Wait,
    /// The latest time.
    pub(super) due: Option<Instant>,
    /// Requests that had ended when it arrived.
    pub(super) ended: u64,
    pub(super) job: Job,
}

impl Disk {
    /// When parked requests must be looked at: at once if something happened, else at their own latest time.
    pub(super) fn next_parked(&self) -> Option<Instant> {
        let faulty = &self.faulty;
        if !COMPILED_IN || faulty.parked.is_empty() {
            return None;
        }
        let ended = self.shared.ended();
        let behind = faulty.parked.iter().any(|parked| match parked.wait {
            Wait::Behind(count) => ended.saturating_sub(parked.ended) >= count,
            Wait::Not | Wait::Forever | Wait::Release { .. } => false,
        });
        if behind || faulty.happened != faulty.faults.happened() {
            return Some(faulty.born);
        }
        faulty.parked.iter().filter_map(|parked| parked.due).min()
    }

    fn is_released(&self, parked: &Parked, now: Instant) -> bool {
        if parked.due.is_some_and(|due| due <= now) {
            return true;
        }
        let faults = &self.faulty.faults;
        match &parked.wait {
            Wait::Not => true,
            Wait::Forever => false,
            Wait::Release {
                mark,
                rule,
                by,
                released,
            } => {
                mark.as_ref().is_some_and(|mark| faults.marked(mark))
                    || rule.is_some_and(|(rule, before)| faults.fired(rule) > before)
                    || faults.releases(*by) > *released
                    || faults.is_gone(*by)
            }
            Wait::Behind(count) => self.shared.ended().saturating_sub(parked.ended) >= *count,
        }
    }

    /// Ends the parked requests that are released.
    pub(super) fn end_parked(&mut self, now: Instant, queues: &mut [Queue], tap: &mut Tap) {
        if self.faulty.parked.is_empty() {
            return;
        }
        self.faulty.happened = self.faulty.faults.happened();
        let mut at = 0usize;
        while let Some(parked) = self.faulty.parked.get(at) {
            if self.is_released(parked, now) {
                let parked = self.faulty.parked.remove(at);
                if let Some(until) = self.stalled_until(parked.job.queue, now) {
                    self.keep(until, parked.job);
                    continue;
                }
                self.end_held(parked.job, queues, Ending::Complete, tap);
            } else {
                at = at.saturating_add(1);
            }
        }
    }

    /// Ends what is parked for a queue that is being stopped. What is never to be answered is abandoned.
    pub(super) fn end_parked_of(
        &mut self,
        queue: Option<u16>,
        queues: &mut [Queue],
        ending: Ending,
        tap: &mut Tap,
    ) {
        let (ours, rest): (Vec<_>, Vec<_>) = std::mem::take(&mut self.faulty.parked)
            .into_iter()
            .partition(|parked| queue.is_none_or(|queue| parked.job.queue == queue));
        self.faulty.parked = rest;
        for parked in ours {
            let ending = if parked.wait == Wait::Forever {
                Ending::Abandon
            } else {
                ending
            };
            self.end_held(parked.job, queues, ending, tap);
        }
    }
}
