//! One slice: the requests of one case on one backend for a while, or a fixed number of them.

use std::sync::atomic::{AtomicU8, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use legwatch::clock;

use crate::case::{Case, Walk};
use crate::failure::Failure;
use crate::lane::Lane;
use crate::process::{self, Process};
use crate::session::Session;
use crate::stats::{Slice, percentiles};

/// How long a slice lasts.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Length {
    /// So long, after a tenth of it that is not counted.
    Time(Duration),
    /// So many operations, all counted.
    Count(u64),
}

// Set by the main thread, read by the lanes between batches.
const WARMING: u8 = 0;
const COUNTING: u8 = 1;
const OVER: u8 = 2;

/// What one lane did while operations were counted.
struct Done {
    operations: u64,
    latency_ns: Histogram<u64>,
}

/// The clocks at one moment.
struct Reading {
    time: Instant,
    backend: Option<f64>,
    client: f64,
}

impl Reading {
    fn take(backend: Option<&Process>) -> Reading {
        Reading {
            time: clock::now(),
            backend: backend.and_then(Process::cpu_seconds),
            client: process::own_cpu_seconds(),
        }
    }
}

/// Runs one slice. The walks go on where the slice before left them.
pub(crate) fn slice(
    session: &mut Session,
    case: &Case,
    walks: &mut [Walk],
    length: Length,
    backend: Option<&Process>,
) -> Result<Slice, Failure> {
    let (time, count) = match length {
        Length::Time(time) => (Some(time), u64::MAX),
        Length::Count(count) => (None, count),
    };
    let phase = &AtomicU8::new(if time.is_some() { WARMING } else { COUNTING });
    let mut before = Reading::take(backend);
    thread::scope(|scope| {
        let lanes = session.lanes.len();
        let mut threads = Vec::new();
        for (index, (lane, walk)) in session.lanes.iter_mut().zip(walks).enumerate() {
            let limit = share(count, lanes, index);
            threads.push(scope.spawn(move || drive(lane, walk, case, phase, limit)));
        }
        if let Some(time) = time {
            thread::sleep(time / 10);
            before = Reading::take(backend);
            phase.store(COUNTING, Ordering::Relaxed);
            thread::sleep(time);
            phase.store(OVER, Ordering::Relaxed);
        }
        let timed = Reading::take(backend);
        let mut operations = 0;
        let mut latency_ns = histogram()?;
        for thread in threads {
            let done = thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            operations += done.operations;
            latency_ns += done.latency_ns;
        }
        let after = if time.is_some() {
            timed
        } else {
            Reading::take(backend)
        };
        let (p50_us, p99_us) = percentiles(&latency_ns);
        Ok(Slice {
            operations,
            seconds: after.time.duration_since(before.time).as_secs_f64(),
            backend_cpu: before
                .backend
                .zip(after.backend)
                .map(|(before, after)| after - before),
            client_cpu: after.client - before.client,
            p50_us,
            p99_us,
        })
    })
}

/// One lane's part of a number of operations.
fn share(count: u64, lanes: usize, index: usize) -> u64 {
    let (lanes, index) = (lanes as u64, index as u64);
    count / lanes + u64::from(index < count % lanes)
}

/// One minute is the longest latency that is told apart; three digits.
fn histogram() -> Result<Histogram<u64>, Failure> {
    Histogram::new_with_bounds(1, 60_000_000_000, 3)
        .map_err(|error| Failure::Usage(error.to_string()))
}

/// Keeps a lane's slots full: takes completions, puts as many new requests, one kick, then sleeps.
fn drive(
    lane: &mut Lane,
    walk: &mut Walk,
    case: &Case,
    phase: &AtomicU8,
    limit: u64,
) -> Result<Done, Failure> {
    struct Slot {
        since: Instant,
        legs_left: usize,
    }
    let legs = lane.legs();
    let mut now = clock::now();
    let mut slots: Vec<Slot> = (0..case.depth_each())
        .map(|_| Slot {
            since: now,
            legs_left: 0,
        })
        .collect();
    let mut free: Vec<usize> = (0..slots.len()).rev().collect();
    let mut latency_ns = histogram()?;
    let (mut issued, mut operations) = (0, 0);
    loop {
        let current = phase.load(Ordering::Relaxed);
        if !free.is_empty() && current != OVER && issued < limit {
            now = clock::now();
            while issued < limit
                && let Some(slot) = free.pop()
            {
                let (operation, offset) = walk.step();
                slots[slot] = Slot {
                    since: now,
                    legs_left: legs,
                };
                for leg in 0..legs {
                    lane.submit(leg, operation, offset, case.block_bytes, slot)?;
                }
                issued += 1;
            }
            lane.ring()?;
        } else if lane.outstanding() == 0 {
            return Ok(Done {
                operations,
                latency_ns,
            });
        }
        now = clock::now();
        let reaped = lane.reap(|_leg, index| {
            let slot = &mut slots[index];
            slot.legs_left -= 1;
            if slot.legs_left == 0 {
                free.push(index);
                if current == COUNTING {
                    operations += 1;
                    let ns = now.duration_since(slot.since).as_nanos();
                    latency_ns.saturating_record(u64::try_from(ns).unwrap_or(u64::MAX));
                }
            }
        })?;
        if reaped == 0 {
            lane.wait()?;
        }
    }
}

/// Fills the buffers of a session, so that nothing is measured on pages that were never touched.
pub(crate) fn fill_buffers(session: &mut Session) {
    for (index, lane) in session.lanes.iter_mut().enumerate() {
        let bytes = lane.arena_bytes();
        for (number, word) in lane.buffer(0, bytes).chunks_exact_mut(8).enumerate() {
            let number = (number as u64) << 8 | index as u64;
            word.copy_from_slice(&crate::case::mix(number).to_le_bytes());
        }
    }
}
