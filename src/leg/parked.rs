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
    /// What it waits for, each not longer than until then.
    pub(super) waits: Vec<(Wait, Option<Instant>)>,
    /// It is never answered.
    pub(super) never: bool,
    /// Not before this, whatever releases it.
    pub(super) due: Instant,
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
        let parked = || faulty.parked.iter().filter(|parked| !parked.never);
        let behind = parked().any(|parked| {
            parked.waits.iter().any(|(wait, _)| match wait {
                Wait::Behind(count) => ended.saturating_sub(parked.ended) >= *count,
                Wait::Release { .. } => false,
            })
        });
        if behind || faulty.happened != faulty.faults.happened() {
            return Some(faulty.born);
        }
        parked()
            .flat_map(|parked| &parked.waits)
            .filter_map(|(_, most)| *most)
            .min()
    }

    /// Whether one thing that a request waits for, which arrived when `before` had ended, has come.
    fn has_come(&self, wait: &Wait, before: u64) -> bool {
        let faults = &self.faulty.faults;
        match wait {
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
            Wait::Behind(count) => self.shared.ended().saturating_sub(before) >= *count,
        }
    }

    /// Strikes out what has come; whether that was all.
    fn is_released(&self, parked: &mut Parked, now: Instant) -> bool {
        let before = parked.ended;
        parked.waits.retain(|(wait, most)| {
            most.is_none_or(|most| most > now) && !self.has_come(wait, before)
        });
        parked.waits.is_empty() && !parked.never
    }

    /// Ends the parked requests that are released.
    pub(super) fn end_parked(&mut self, now: Instant, queues: &mut [Queue], tap: &mut Tap) {
        if self.faulty.parked.is_empty() {
            return;
        }
        self.faulty.happened = self.faulty.faults.happened();
        let mut waiting = std::mem::take(&mut self.faulty.parked);
        let released: Vec<Parked> = waiting
            .extract_if(.., |parked| self.is_released(parked, now))
            .collect();
        self.faulty.parked = waiting;
        for parked in released {
            let due = self
                .stalled_until(parked.job.queue, now)
                .map_or(parked.due, |until| until.max(parked.due));
            if due > now {
                self.keep(due, parked.job);
            } else {
                self.end_held(parked.job, queues, Ending::Complete, tap);
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
            let ending = if parked.never {
                Ending::Abandon
            } else {
                ending
            };
            self.end_held(parked.job, queues, ending, tap);
        }
    }
}
