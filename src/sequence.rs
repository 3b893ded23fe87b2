//! The one sequence over all legs: it gives out numbers, and brings the events back in their order.
//!
//! Every producer (a queue's worker, the control leg, the supervisor's wire) has a [`Tap`] of its own. A number is taken and its event pushed
//! before the same tap takes the next one, and no wait for anything but room lies between. So the [`Collector`] can wait for the next number in
//! order, and never waits for ever; what it holds back meanwhile is at most one event a tap.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use crate::clock;
use crate::event::{Event, EventNo, What};

/// Events on their way to the checker before producers wait for it.
const ROOM_EVENTS: usize = 16_384;

/// The source of numbers. When the last clone and the last tap are gone, the collector ends.
#[derive(Clone, Debug)]
pub struct Sequence {
    last: Arc<AtomicU64>,
    started: Instant,
    events: SyncSender<Event>,
}

/// A producer's end.
#[derive(Debug)]
pub struct Tap {
    sequence: Sequence,
    owed: Option<EventNo>,
    waited: Duration,
}

/// The consumer's end.
#[derive(Debug)]
pub struct Collector {
    last: Arc<AtomicU64>,
    started: Instant,
    events: Receiver<Event>,
    early: BTreeMap<EventNo, Event>,
    next: EventNo,
}

/// Why there is no event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoEvent {
    /// None came in time.
    TimedOut,
    /// All producers are gone.
    Ended,
}

impl Sequence {
    /// A new sequence whose first number is `last + 1`, and its consumer's end.
    pub fn new(last: EventNo) -> (Sequence, Collector) {
        let (send, events) = sync_channel(ROOM_EVENTS);
        let last_given = Arc::new(AtomicU64::new(last.0));
        let started = clock::now();
        let sequence = Sequence {
            last: last_given.clone(),
            started,
            events: send,
        };
        let collector = Collector {
            last: last_given,
            started,
            events,
            early: BTreeMap::new(),
            next: EventNo(last.0 + 1),
        };
        (sequence, collector)
    }

    /// A producer's end.
    pub fn tap(&self) -> Tap {
        Tap {
            sequence: self.clone(),
            owed: None,
            waited: Duration::ZERO,
        }
    }

    /// The last number given out so far.
    pub fn last(&self) -> EventNo {
        EventNo(self.last.load(Ordering::Acquire))
    }
}

impl Tap {
    /// The next number. The event for it must be pushed before the next one is taken.
    ///
    /// # Panics
    /// If the event of the number before was not pushed: that would stop the run's sequence.
    pub fn number(&mut self) -> EventNo {
        assert_eq!(self.owed, None, "an event is owed before the next number");
        // The guest's own ring operations order two numbers that it can tell apart; the counter itself needs no more than being one location.
        let no = EventNo(self.sequence.last.fetch_add(1, Ordering::AcqRel) + 1);
        self.owed = Some(no);
        no
    }

    /// Hands over the event of the number taken last; waits while the checker has no room.
    ///
    /// # Panics
    /// If `no` is not that number.
    pub fn push(&mut self, no: EventNo, what: What) {
        assert_eq!(
            self.owed.take(),
            Some(no),
            "the event of the number taken last is pushed"
        );
        let now = clock::now();
        let time_us = micros(now.duration_since(self.sequence.started));
        match self.sequence.events.try_send(Event { no, time_us, what }) {
            Ok(()) | Err(TrySendError::Disconnected(_)) => {}
            Err(TrySendError::Full(event)) => {
                // A send to a consumer that is gone is lost with it: the process is ending.
                let _gone = self.sequence.events.send(event);
                self.waited += clock::now().duration_since(now);
            }
        }
    }

    /// Takes a number and hands over its event.
    pub fn record(&mut self, what: What) -> EventNo {
        let no = self.number();
        self.push(no, what);
        no
    }

    /// How long this producer has waited for the checker.
    pub fn waited(&self) -> Duration {
        self.waited
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert_eq!(self.owed, None, "a tap goes away with an event owed");
        }
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

impl Collector {
    /// Records an event of the consumer's own; it comes in its place, after those that have lower numbers. A tap would not do: its room
    /// may be full, and nobody but the consumer makes room.
    pub fn record(&mut self, what: What) -> EventNo {
        let no = EventNo(self.last.fetch_add(1, Ordering::AcqRel) + 1);
        let time_us = micros(clock::now().duration_since(self.started));
        self.early.insert(no, Event { no, time_us, what });
        no
    }

    /// Whether every number that was given out has come.
    pub fn is_drained(&self) -> bool {
        self.next.0 > self.last.load(Ordering::Acquire)
    }

    /// The next event in the order of the numbers.
    ///
    /// # Errors
    /// [`NoEvent`], when there is none within `timeout` or ever again.
    pub fn next(&mut self, timeout: Duration) -> Result<Event, NoEvent> {
        loop {
            if let Some(event) = self.early.remove(&self.next) {
                self.next.0 += 1;
                return Ok(event);
            }
            match self.events.recv_timeout(timeout) {
                Ok(event) if event.no == self.next => {
                    self.next.0 += 1;
                    return Ok(event);
                }
                Ok(event) => {
                    let no = event.no;
                    assert!(no > self.next, "a number comes once");
                    self.early.insert(no, event);
                }
                Err(RecvTimeoutError::Timeout) => return Err(NoEvent::TimedOut),
                Err(RecvTimeoutError::Disconnected) => return Err(NoEvent::Ended),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_of_many_producers_come_in_order() {
        let (sequence, mut collector) = Sequence::new(EventNo(0));
        let producers: Vec<_> = (0..4)
            .map(|boot| {
                let mut tap = sequence.tap();
                std::thread::spawn(move || {
                    for _ in 0..20_000 {
                        tap.record(What::Boot { boot });
                    }
                })
            })
            .collect();
        drop(sequence);
        for expected in 1..=80_000 {
            assert_eq!(
                collector.next(Duration::from_secs(60)).unwrap().no,
                EventNo(expected)
            );
        }
        assert_eq!(collector.next(Duration::from_secs(60)), Err(NoEvent::Ended));
        for producer in producers {
            producer.join().unwrap();
        }
    }

    #[test]
    fn the_consumers_own_events_come_in_their_place() {
        let (sequence, mut collector) = Sequence::new(EventNo(0));
        let mut tap = sequence.tap();
        tap.record(What::Boot { boot: 1 });
        assert_eq!(collector.record(What::End), EventNo(2));
        tap.record(What::Boot { boot: 2 });
        let order: Vec<_> = (0..3)
            .map(|_| collector.next(Duration::ZERO).unwrap().what)
            .collect();
        assert_eq!(
            order,
            [What::Boot { boot: 1 }, What::End, What::Boot { boot: 2 }]
        );
        assert!(collector.is_drained());
    }

    #[test]
    #[should_panic(expected = "an event is owed")]
    fn a_forgotten_event_is_loud() {
        let (sequence, _collector) = Sequence::new(EventNo(0));
        let mut tap = sequence.tap();
        tap.number();
        tap.number();
    }
}
