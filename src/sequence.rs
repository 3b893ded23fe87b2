//! The one sequence over all legs: it gives out numbers, and brings the events back in their order.
//!
//! Every producer (a queue's worker, the control leg, the supervisor's wire) has a [`Tap`] of its own. A number is taken and its event pushed
//! before the same tap takes the next one, and no wait for anything but room lies between. So the [`Collector`] can wait for the next number in
//! order, and never waits for ever.
//!
//! A tap is a ring that was allocated before, with one writer and one reader: pushing takes no lock, no allocation and no system call. The
//! collector looks for events and sleeps between looks when there are none, at most [`LOOK_MOST`]; a producer wakes it only when its ring is
//! half full. Within a ring numbers rise, so the next number, if it is there, is at the front of one of them.

use std::cell::UnsafeCell;
use std::collections::VecDeque;
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::Thread;
use std::time::{Duration, Instant};

use crate::ahead::{Ahead, Lane};
use crate::clock;
use crate::event::{Event, EventNo, What};

/// Events that one tap can be ahead of the checker before its producer waits. A power of two.
const ROOM_EVENTS: usize = 8_192;
/// How long the collector sleeps between looks: from a moment after the last event up to this.
const LOOK_MOST: Duration = Duration::from_millis(2);
const LOOK_LEAST: Duration = Duration::from_micros(250);
/// How long a producer without room sleeps before it looks again.
const FULL_WAIT: Duration = Duration::from_micros(50);

/// The source of numbers. When the last clone and the last tap are gone, the collector ends.
#[derive(Clone, Debug)]
pub struct Sequence {
    common: Arc<Common>,
    alive: Arc<Alive>,
}

/// A producer's end.
#[derive(Debug)]
pub struct Tap {
    common: Arc<Common>,
    ring: Arc<Ring>,
    /// Where events are kept that the journal does not have yet.
    lane: Option<Lane>,
    owed: Option<EventNo>,
    waited: Duration,
    /// The time of the last event.
    time_us: u64,
    /// Whether the next event has that time, too.
    same_moment: bool,
    _alive: Arc<Alive>,
}

/// The consumer's end.
#[derive(Debug)]
pub struct Collector {
    common: Arc<Common>,
    alive: Weak<Alive>,
    rings: Vec<Arc<Ring>>,
    rings_version: usize,
    /// Where the last event came from: the next one is likely there.
    last_ring: usize,
    /// Events of the consumer's own that wait for their place.
    own: VecDeque<Event>,
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

/// Kept by everyone who can still produce.
#[derive(Debug)]
struct Alive;

#[derive(Debug)]
struct Common {
    last: AtomicU64,
    /// The last event that the journal has.
    written: AtomicU64,
    ahead: Option<Arc<Ahead>>,
    started: Instant,
    new_rings: Mutex<Vec<Arc<Ring>>>,
    rings_version: AtomicUsize,
    sleeper: Mutex<Option<Thread>>,
    sleeping: AtomicBool,
    collector_gone: AtomicBool,
}

impl Common {
    /// Wakes the collector if it sleeps.
    fn wake(&self) {
        if self.sleeping.swap(false, Ordering::AcqRel)
            && let Some(thread) = &*lock(&self.sleeper)
        {
            thread.unpark();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A place of its own for a counter that one side writes all the time.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Apart(AtomicUsize);

/// A bounded ring with one writer (its tap) and one reader (the collector).
#[derive(Debug)]
struct Ring {
    slots: Box<[UnsafeCell<MaybeUninit<Event>>]>,
    /// Events ever written; the writer's.
    written: Apart,
    /// Events ever read; the reader's.
    read: Apart,
    closed: AtomicBool,
}

// SAFETY: a slot is written by the tap alone while it is not between `read` and `written`, and read by the collector alone while it is; both
// counters are published with release and taken with acquire. There is one tap a ring (it is not `Clone`) and one collector.
unsafe impl Sync for Ring {}
// SAFETY: events are `Send`.
unsafe impl Send for Ring {}

impl Ring {
    fn new() -> Ring {
        Ring {
            slots: (0..ROOM_EVENTS)
                .map(|_| UnsafeCell::new(MaybeUninit::uninit()))
                .collect(),
            written: Apart::default(),
            read: Apart::default(),
            closed: AtomicBool::new(false),
        }
    }

    fn slot(&self, at: usize) -> *mut MaybeUninit<Event> {
        self.slots[at % ROOM_EVENTS].get()
    }

    /// The writer's: how many events wait.
    fn waiting(&self) -> usize {
        self.written.0.load(Ordering::Relaxed) - self.read.0.load(Ordering::Acquire)
    }

    /// The writer's: adds an event. There is room.
    fn push(&self, event: Event) {
        let at = self.written.0.load(Ordering::Relaxed);
        debug_assert!(self.waiting() < ROOM_EVENTS, "room was awaited");
        // SAFETY: the slot is free (there is room) and only this tap writes.
        unsafe { (*self.slot(at)).write(event) };
        self.written.0.store(at + 1, Ordering::Release);
    }

    /// The reader's: the first event, if it is number `no`.
    fn take(&self, no: EventNo) -> Option<Event> {
        let at = self.read.0.load(Ordering::Relaxed);
        if at == self.written.0.load(Ordering::Acquire) {
            return None;
        }
        // SAFETY: the slot was written before `written` was published, and only the collector reads.
        let first = unsafe { (*self.slot(at)).assume_init_ref().no };
        assert!(first >= no, "a number comes once");
        if first != no {
            return None;
        }
        // SAFETY: as above; it is read once, as `read` moves on.
        let event = unsafe { (*self.slot(at)).assume_init_read() };
        self.read.0.store(at + 1, Ordering::Release);
        Some(event)
    }

    fn empty(&self) -> bool {
        self.read.0.load(Ordering::Relaxed) == self.written.0.load(Ordering::Acquire)
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        for at in *self.read.0.get_mut()..*self.written.0.get_mut() {
            // SAFETY: written and never read; nobody else has the ring any more.
            unsafe { (*self.slot(at)).assume_init_drop() };
        }
    }
}

impl Sequence {
    /// A new sequence whose first number is `last + 1`, and its consumer's end.
    pub fn new(last: EventNo) -> (Sequence, Collector) {
        Sequence::going_on(last, Duration::ZERO, None)
    }

    /// As [`Sequence::new`], for a run that began `elapsed` ago. Events are kept in `ahead` until the journal has them, see
    /// [`Collector::written`].
    pub fn going_on(
        last: EventNo,
        elapsed: Duration,
        ahead: Option<Arc<Ahead>>,
    ) -> (Sequence, Collector) {
        let now = clock::now();
        let common = Arc::new(Common {
            last: AtomicU64::new(last.0),
            written: AtomicU64::new(last.0),
            ahead,
            started: now.checked_sub(elapsed).unwrap_or(now),
            new_rings: Mutex::default(),
            rings_version: AtomicUsize::new(0),
            sleeper: Mutex::default(),
            sleeping: AtomicBool::new(false),
            collector_gone: AtomicBool::new(false),
        });
        let alive = Arc::new(Alive);
        let collector = Collector {
            common: Arc::clone(&common),
            alive: Arc::downgrade(&alive),
            rings: Vec::new(),
            rings_version: 0,
            last_ring: 0,
            own: VecDeque::new(),
            next: EventNo(last.0 + 1),
        };
        (Sequence { common, alive }, collector)
    }

    /// A producer's end.
    ///
    /// # Panics
    /// If events are kept and there are more producers than a device has.
    pub fn tap(&self) -> Tap {
        let lane = self.common.ahead.as_ref().map(Ahead::lane);
        let ring = Arc::new(Ring::new());
        lock(&self.common.new_rings).push(Arc::clone(&ring));
        self.common.rings_version.fetch_add(1, Ordering::Release);
        Tap {
            common: Arc::clone(&self.common),
            ring,
            lane,
            owed: None,
            waited: Duration::ZERO,
            time_us: 0,
            same_moment: false,
            _alive: Arc::clone(&self.alive),
        }
    }

    /// The last number given out so far.
    pub fn last(&self) -> EventNo {
        EventNo(self.common.last.load(Ordering::Acquire))
    }

    /// The memory that outlives the process, if events are kept there.
    pub fn ahead(&self) -> Option<&Arc<Ahead>> {
        self.common.ahead.as_ref()
    }
}

impl Tap {
    /// The memory that outlives the process, if events are kept there.
    pub fn ahead(&self) -> Option<&Arc<Ahead>> {
        self.common.ahead.as_ref()
    }

    /// The next number. The event for it must be pushed before the next one is taken.
    ///
    /// # Panics
    /// If the event of the number before was not pushed: that would stop the run's sequence.
    pub fn number(&mut self) -> EventNo {
        assert_eq!(self.owed, None, "an event is owed before the next number");
        // The guest's own ring operations order two numbers that it can tell apart; the counter itself needs no more than being one location.
        let no = EventNo(self.common.last.fetch_add(1, Ordering::AcqRel) + 1);
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
        if !std::mem::take(&mut self.same_moment) {
            self.time_us = micros(clock::now().duration_since(self.common.started));
        }
        let time_us = self.time_us;
        let event = Event { no, time_us, what };
        if !self.keep(&event) {
            return;
        }
        let waiting = self.ring.waiting();
        if waiting >= ROOM_EVENTS / 2 {
            self.common.wake();
            if waiting == ROOM_EVENTS && !self.await_room() {
                // A consumer that is gone: the process is ending, and the event is lost with it.
                return;
            }
        }
        self.ring.push(event);
    }

    /// Keeps an event where a kill does not reach it; waits while what is kept there is not in the journal yet. `false` if it never will be.
    fn keep(&mut self, event: &Event) -> bool {
        let Some(lane) = &mut self.lane else {
            return true;
        };
        let written = |common: &Common| EventNo(common.written.load(Ordering::Acquire));
        if lane.keep(event, written(&self.common)) {
            return true;
        }
        let since = clock::now();
        loop {
            self.common.wake();
            std::thread::sleep(FULL_WAIT);
            if self.common.collector_gone.load(Ordering::Acquire) {
                return false;
            }
            if lane.keep(event, written(&self.common)) {
                break;
            }
        }
        self.waited += clock::now().duration_since(since);
        true
    }

    /// The last number given out so far.
    pub fn last(&self) -> EventNo {
        EventNo(self.common.last.load(Ordering::Acquire))
    }

    /// The next event follows the last one at once, and is given its time: the clock costs more than the rest of a push.
    pub fn same_moment(&mut self) {
        self.same_moment = true;
    }

    /// Waits for room; `false` if nobody will ever make any.
    fn await_room(&mut self) -> bool {
        let since = clock::now();
        while self.ring.waiting() == ROOM_EVENTS {
            if self.common.collector_gone.load(Ordering::Acquire) {
                return false;
            }
            self.common.wake();
            std::thread::sleep(FULL_WAIT);
        }
        self.waited += clock::now().duration_since(since);
        true
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
        self.ring.closed.store(true, Ordering::Release);
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
        let no = EventNo(self.common.last.fetch_add(1, Ordering::AcqRel) + 1);
        let time_us = micros(clock::now().duration_since(self.common.started));
        self.own.push_back(Event { no, time_us, what });
        no
    }

    /// The journal has all events up to this one: they need not be kept any more.
    pub fn written(&self, no: EventNo) {
        self.common.written.store(no.0, Ordering::Release);
    }

    /// Whether every number that was given out has come.
    pub fn is_drained(&self) -> bool {
        self.next.0 > self.common.last.load(Ordering::Acquire)
    }

    /// The next event in the order of the numbers.
    ///
    /// # Errors
    /// [`NoEvent`], when there is none within `timeout` or ever again.
    pub fn next(&mut self, timeout: Duration) -> Result<Event, NoEvent> {
        if let Some(event) = self.look() {
            return Ok(event);
        }
        let begun = clock::now();
        let mut nap = LOOK_LEAST;
        loop {
            // First whether anybody is left, then a last look: who is gone has pushed before.
            let ended = self.alive.strong_count() == 0;
            if let Some(event) = self.look() {
                return Ok(event);
            }
            if ended {
                return Err(NoEvent::Ended);
            }
            let Some(left) = timeout.checked_sub(clock::now().duration_since(begun)) else {
                return Err(NoEvent::TimedOut);
            };
            self.sleep(nap.min(left));
            nap = (nap * 2).min(LOOK_MOST);
        }
    }

    fn sleep(&mut self, nap: Duration) {
        let me = std::thread::current();
        let mut sleeper = lock(&self.common.sleeper);
        if sleeper.as_ref().is_none_or(|other| other.id() != me.id()) {
            *sleeper = Some(me);
        }
        drop(sleeper);
        self.common.sleeping.store(true, Ordering::Release);
        // A producer that misses the flag is found at the end of the nap.
        std::thread::park_timeout(nap);
        self.common.sleeping.store(false, Ordering::Release);
    }

    /// The next event, if it is there.
    fn look(&mut self) -> Option<Event> {
        if self.own.front().is_some_and(|event| event.no == self.next) {
            self.next.0 += 1;
            return self.own.pop_front();
        }
        if let Some(event) = self
            .rings
            .get(self.last_ring)
            .and_then(|ring| ring.take(self.next))
        {
            self.next.0 += 1;
            return Some(event);
        }
        let version = self.common.rings_version.load(Ordering::Acquire);
        if version != self.rings_version {
            self.rings_version = version;
            self.rings.append(&mut lock(&self.common.new_rings));
        }
        for (at, ring) in self.rings.iter().enumerate() {
            if let Some(event) = ring.take(self.next) {
                self.last_ring = at;
                self.next.0 += 1;
                return Some(event);
            }
        }
        // Nothing: a good time to forget taps that are gone. Closed first, then empty: what was pushed before the close is seen.
        self.rings
            .retain(|ring| !ring.closed.load(Ordering::Acquire) || !ring.empty());
        None
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.common.collector_gone.store(true, Ordering::Release);
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
    fn a_slow_collector_makes_producers_wait_and_loses_nothing() {
        let (sequence, mut collector) = Sequence::new(EventNo(5));
        let mut tap = sequence.tap();
        let producer = std::thread::spawn(move || {
            for boot in 0..30_000 {
                tap.record(What::Boot { boot });
            }
            tap.waited()
        });
        // Taken only once the ring must be full.
        while sequence.last() < EventNo(5 + ROOM_EVENTS as u64 + 1) {
            std::thread::yield_now();
        }
        for boot in 0..30_000 {
            let event = collector.next(Duration::from_secs(60)).unwrap();
            assert_eq!(event.what, What::Boot { boot });
            assert_eq!(event.no, EventNo(6 + u64::from(boot)));
        }
        assert!(producer.join().unwrap() > Duration::ZERO);
        assert_eq!(
            collector.next(Duration::from_millis(1)),
            Err(NoEvent::TimedOut)
        );
        drop(sequence);
        assert_eq!(collector.next(Duration::from_secs(60)), Err(NoEvent::Ended));
    }

    #[test]
    fn without_a_collector_nobody_waits() {
        let (sequence, collector) = Sequence::new(EventNo(0));
        let mut tap = sequence.tap();
        drop(collector);
        for boot in 0..20_000 {
            tap.record(What::Boot { boot });
        }
    }

    #[test]
    fn taps_come_and_go() {
        let (sequence, mut collector) = Sequence::new(EventNo(0));
        for boot in 0..1000 {
            sequence.tap().record(What::Boot { boot });
        }
        drop(sequence);
        for no in 1..=1000 {
            assert_eq!(
                collector.next(Duration::from_secs(60)).unwrap().no,
                EventNo(no)
            );
        }
        assert_eq!(collector.next(Duration::ZERO), Err(NoEvent::Ended));
        assert!(
            collector.rings.is_empty(),
            "taps that are gone are forgotten"
        );
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
