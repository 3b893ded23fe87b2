//! What others may know of a leg while its worker runs.

use std::collections::BTreeSet;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::sync::{Arc, Mutex, OnceLock};

use super::command::Bell;
use super::connection::Connection;
use super::lock;
use crate::ahead::Ahead;
use crate::block::{LegId, RequestId, SectorRange};
use crate::md::OnLeg;

/// A leg, as others see it. Counters have one writer, the leg's worker.
#[derive(Debug)]
pub struct LegShared {
    id: LegId,
    name: String,
    arrived: AtomicU64,
    ended: AtomicU64,
    /// The request that is being worked on this moment, or 0.
    current: AtomicU64,
    /// Requests that wait for their time.
    held: Mutex<BTreeSet<u64>>,
    array: Mutex<Option<OnLeg>>,
    write_through: AtomicBool,
    writeback: AtomicBool,
    /// Where the switch is kept as well, if it has to outlive the process.
    ahead: OnceLock<Arc<Ahead>>,
    sectors: AtomicU64,
    /// Where the frontend is told that the config space has changed.
    channel: Mutex<Option<(UnixStream, Teller)>>,
    connection: Arc<Connection>,
    /// What another process left, if not all of it has come again.
    left: Mutex<Left>,
    counts: Counts,
}

/// What a leg was doing when its process was killed.
#[derive(Clone, Debug, Default)]
pub struct Left {
    /// The last request.
    pub request: u64,
    /// Queues that were served: until each of them was looked at again, nobody knows what they hold.
    pub queues: BTreeSet<u16>,
    /// Requests that were in flight, which come again under new numbers.
    pub in_flight: BTreeSet<u64>,
}

/// Tells a frontend, over its channel, that the config space has changed.
pub type Teller = fn(&UnixStream) -> std::io::Result<()>;

#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) reads: AtomicU64,
    pub(super) writes: AtomicU64,
    pub(super) flushes: AtomicU64,
    pub(super) discards: AtomicU64,
    pub(super) bytes_read: AtomicU64,
    pub(super) bytes_written: AtomicU64,
    pub(super) errors: AtomicU64,
}

/// A leg's live numbers, since the start of the witness.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LegStats {
    /// Reads answered.
    pub reads: u64,
    /// Writes answered.
    pub writes: u64,
    /// Flushes answered.
    pub flushes: u64,
    /// Discards and write zeroes answered.
    pub discards: u64,
    /// Bytes given to the guest.
    pub bytes_read: u64,
    /// Bytes fetched from the guest.
    pub bytes_written: u64,
    /// Requests answered with an error, malformed ones among them.
    pub errors: u64,
    /// Requests that have arrived.
    pub arrived: u64,
    /// Requests that have arrived and not ended.
    pub in_flight: u64,
}

/// Adds to a counter that only the caller writes: no locked instruction.
pub(super) fn count(counter: &AtomicU64, more: u64) {
    counter.store(
        counter.load(Ordering::Relaxed).wrapping_add(more),
        Ordering::Release,
    );
}

impl LegShared {
    /// A leg to which nothing has happened yet.
    pub fn new(id: LegId, name: &str, array: Option<SectorRange>) -> LegShared {
        LegShared {
            id,
            name: name.to_owned(),
            arrived: AtomicU64::new(0),
            ended: AtomicU64::new(0),
            current: AtomicU64::new(0),
            held: Mutex::default(),
            array: Mutex::new(array.map(OnLeg::whole)),
            write_through: AtomicBool::new(false),
            writeback: AtomicBool::new(true),
            ahead: OnceLock::new(),
            sectors: AtomicU64::new(0),
            channel: Mutex::default(),
            connection: Arc::default(),
            left: Mutex::default(),
            counts: Counts::default(),
        }
    }

    /// Keeps the guest's write-cache switch where it outlives the process, and takes it from there.
    pub fn keep_switch(&self, ahead: Arc<Ahead>) {
        self.writeback
            .store(ahead.writeback(self.id), Ordering::Release);
        self.ahead.get_or_init(|| ahead);
    }

    /// Requests so far came and ended in another process.
    pub fn goes_on_after(&self, left: Left) {
        self.arrived.store(left.request, Ordering::Release);
        self.ended.store(left.request, Ordering::Release);
        *lock(&self.left) = left;
    }

    /// All that a queue holds was taken for the first time. Whether it was the last one that another process had left.
    pub(super) fn came_again(&self, queue: u16) -> bool {
        let mut left = lock(&self.left);
        left.queues.remove(&queue) && left.queues.is_empty()
    }

    /// A boot begins: what another process left does not come again.
    pub fn new_boot(&self) {
        lock(&self.left).queues.clear();
    }

    fn is_left(&self) -> bool {
        !lock(&self.left).queues.is_empty()
    }

    /// The leg's size, which can grow.
    pub fn sectors(&self) -> u64 {
        self.sectors.load(Ordering::Acquire)
    }

    pub(super) fn set_sectors(&self, sectors: u64) {
        self.sectors.store(sectors, Ordering::Release);
    }

    /// Sets or forgets the connection's way back to its frontend.
    pub fn set_channel(&self, channel: Option<(UnixStream, Teller)>) {
        *lock(&self.channel) = channel;
    }

    /// Tells the frontend that the config space has changed; `false` if there is no way to.
    pub fn tell_config_changed(&self) -> bool {
        lock(&self.channel)
            .as_ref()
            .is_some_and(|(channel, tell)| tell(channel).is_ok())
    }

    /// The leg's connection.
    pub fn connection(&self) -> Arc<Connection> {
        Arc::clone(&self.connection)
    }

    /// Which leg.
    pub fn id(&self) -> LegId {
        self.id
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn set_array(&self, array: Option<OnLeg>) {
        *lock(&self.array) = array;
    }

    /// Where the array lies on it, as its superblock or the user says it; `None`: neither does.
    pub fn array(&self) -> Option<OnLeg> {
        *lock(&self.array)
    }

    /// Throws the guest's write-cache switch, which outlives connections.
    pub fn set_writeback(&self, on: bool) {
        if let Some(ahead) = self.ahead.get() {
            ahead.set_writeback(self.id, on);
        }
        self.writeback.store(on, Ordering::Release);
    }

    /// Where the guest's write-cache switch stands: on at first.
    pub fn writeback(&self) -> bool {
        self.writeback.load(Ordering::Acquire)
    }

    /// Whether every write is durable when it is answered: the switch is off, or the driver does not know how to flush.
    pub fn set_write_through(&self, on: bool) {
        self.write_through.store(on, Ordering::Release);
    }

    pub(super) fn write_through(&self) -> bool {
        self.write_through.load(Ordering::Relaxed)
    }

    pub(super) fn counts(&self) -> &Counts {
        &self.counts
    }

    /// One more request has arrived; its number.
    pub(super) fn arrive(&self) -> u64 {
        let number = self.arrived.load(Ordering::Relaxed).wrapping_add(1);
        self.current.store(number, Ordering::Relaxed);
        self.arrived.store(number, Ordering::Release);
        number
    }

    pub(super) fn hold(&self, number: u64) {
        lock(&self.held).insert(number);
    }

    pub(super) fn release(&self, number: u64) {
        lock(&self.held).remove(&number);
    }

    pub(super) fn end(&self) {
        self.current.store(0, Ordering::Relaxed);
        count(&self.ended, 1);
    }

    /// Requests that have ended.
    pub(super) fn ended(&self) -> u64 {
        self.ended.load(Ordering::Relaxed)
    }

    /// Requests that have arrived and not ended.
    pub(super) fn depth(&self) -> u64 {
        let ended = self.ended.load(Ordering::Relaxed);
        self.arrived.load(Ordering::Relaxed).saturating_sub(ended)
    }

    /// Whether every request that has arrived has ended.
    pub fn at_rest(&self) -> bool {
        // In this order: an arrival between the two looks like a request in flight, which it is.
        let ended = self.ended.load(Ordering::Acquire);
        ended == self.arrived.load(Ordering::Acquire)
    }

    /// Requests that have arrived and not ended, and those that another process had in flight as long as they have not come again.
    pub fn in_flight(&self) -> Vec<RequestId> {
        let mut numbers = BTreeSet::new();
        let left = lock(&self.left);
        if !left.queues.is_empty() {
            // Without any, the last one stands for those that nobody has seen yet.
            numbers.clone_from(&left.in_flight);
            if numbers.is_empty() {
                numbers.insert(left.request);
            }
        }
        drop(left);
        if self.at_rest() {
            return self.ids(numbers);
        }
        let current = self.current.load(Ordering::Relaxed);
        numbers.extend(lock(&self.held).iter());
        if current != 0 {
            numbers.insert(current);
        }
        self.ids(numbers)
    }

    fn ids(&self, numbers: BTreeSet<u64>) -> Vec<RequestId> {
        numbers
            .into_iter()
            .map(|number| RequestId {
                leg: self.id,
                number,
            })
            .collect()
    }

    /// The leg's live numbers.
    pub fn stats(&self) -> LegStats {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let ended = self.ended.load(Ordering::Acquire);
        let arrived = self.arrived.load(Ordering::Acquire);
        LegStats {
            reads: get(&self.counts.reads),
            writes: get(&self.counts.writes),
            flushes: get(&self.counts.flushes),
            discards: get(&self.counts.discards),
            bytes_read: get(&self.counts.bytes_read),
            bytes_written: get(&self.counts.bytes_written),
            errors: get(&self.counts.errors),
            arrived,
            in_flight: arrived.saturating_sub(ended),
        }
    }
}

/// Whether all legs are at rest, for the control leg to wait for.
#[derive(Debug)]
pub struct Rest {
    legs: Vec<Arc<LegShared>>,
    waiting: AtomicBool,
    bell: Arc<Bell>,
}

impl Rest {
    /// Of these legs; `bell` wakes the worker that waits.
    pub fn new(legs: Vec<Arc<LegShared>>, bell: Arc<Bell>) -> Rest {
        Rest {
            legs,
            waiting: AtomicBool::new(false),
            bell,
        }
    }

    /// Announces that somebody waits for rest, or does no longer.
    pub(super) fn wait(&self, waiting: bool) {
        self.waiting.store(waiting, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }

    /// Whether all legs are at rest, and what another process had left has come again.
    pub fn is(&self) -> bool {
        self.legs.iter().all(|leg| leg.at_rest() && !leg.is_left())
    }

    /// Requests in flight on all legs; of a leg that another process had left and whose queues did not come again, those that were.
    pub fn pending(&self) -> Vec<RequestId> {
        self.legs.iter().flat_map(|leg| leg.in_flight()).collect()
    }

    /// A worker has ended requests: wakes whoever waits, if that was all.
    pub(super) fn ended_some(&self) {
        // Either the waiter's look at the counters sees our ends, or we see that it waits.
        fence(Ordering::SeqCst);
        if self.waiting.load(Ordering::Relaxed) && self.is() {
            self.bell.ring();
        }
    }
}
