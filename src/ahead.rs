//! What is ahead of the journal: events that were recorded and that the checker's thread has not written yet, kept in shared memory that outlives
//! this process. A witness that was killed finds there what its journal lacks, and the batches of marks that it had taken.
//!
//! Every [`crate::sequence::Tap`] has a lane: two halves of [`HALF_BYTES`], filled in turn. A half is used anew once all of it is in the journal;
//! one that is not makes its producer wait, as the ring to the checker does. A record is its length (u32, little-endian) and the event as the
//! journal has it; the bytes in use are published after the record. Nothing here is torn by a kill, so there is no checksum.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, compiler_fence};
use std::sync::{Arc, Mutex, PoisonError};

use crate::block::LegId;
use crate::event::{Event, EventNo, Fetched, What};
use crate::journal;

/// The file's first eight bytes; the last two are its version.
const MAGIC: u64 = u64::from_le_bytes(*b"LEGWAH01");
/// Lanes at most: producers at the same time. Far more than workers, connections and hands.
const LANES: usize = 64;
/// Bytes of a half.
pub const HALF_BYTES: usize = 512 << 10;
const LANE_BYTES: usize = 2 * HALF_BYTES;
/// Batches of marks that are remembered; far more than the control leg's queues can have in flight.
const BATCHES: u32 = 4096;

const MAGIC_AT: usize = 0;
/// When the run began, by the monotonic clock, in microseconds.
const BEGAN_AT: usize = 8;
/// The batch that is being recorded, and the number before its first mark.
const BATCH_AT: usize = 16;
const BATCH_AFTER_AT: usize = 24;
/// A bit a leg: the guest has switched its write cache off.
const SWITCHES_AT: usize = 32;
/// Of each lane: the bytes used of both halves.
const LANES_AT: usize = 4096;
const LANE_HEAD_BYTES: usize = 128;
const BATCHES_AT: usize = LANES_AT + LANES * LANE_HEAD_BYTES;
const DATA_AT: usize = (BATCHES_AT + BATCHES as usize * 4).next_multiple_of(4096);
const FILE_BYTES: usize = DATA_AT + LANES * LANE_BYTES;

/// The shared memory.
#[derive(Debug)]
pub struct Ahead {
    at: *mut u8,
    lanes: usize,
    /// Lanes that nobody has, with what they still hold; those behind were never used.
    free: Mutex<(Vec<Place>, usize)>,
}

// SAFETY: the mapping lives as long as the `Ahead`; its header is touched by atomics alone, and a lane's data by the one who has the lane.
unsafe impl Send for Ahead {}
// SAFETY: as above.
unsafe impl Sync for Ahead {}

impl Drop for Ahead {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours; lanes keep the `Ahead` alive.
        unsafe {
            libc::munmap(self.at.cast(), FILE_BYTES);
        }
    }
}

/// What a killed witness left.
#[derive(Debug, Default)]
pub struct Left {
    /// Events by their numbers, some of which the journal may have.
    pub events: Vec<Event>,
    /// Microseconds since the run began.
    pub elapsed_us: u64,
    /// The batch of marks that was recorded last, and the number before its first mark.
    pub batch: (u32, EventNo),
}

fn word(bytes: &[u8], at: usize) -> u64 {
    bytes
        .get(at..at + 8)
        .and_then(|bytes| bytes.try_into().ok())
        .map_or(0, u64::from_le_bytes)
}

/// Microseconds of the monotonic clock, which goes on when the process does not.
fn monotonic_us() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let micros = u64::try_from(now.tv_nsec / 1000).unwrap_or(0);
    seconds * 1_000_000 + micros
}

/// Reads what a killed witness left in `file`.
///
/// # Errors
/// The file's own; `InvalidData` for a file that is no such memory.
pub fn read(file: &Path) -> io::Result<Left> {
    let file = File::open(file)?;
    let mut head = vec![0; DATA_AT];
    file.read_exact_at(&mut head, 0)?;
    if word(&head, MAGIC_AT) != MAGIC {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut events = Vec::new();
    for half in 0..2 * LANES {
        let used_at = LANES_AT + half / 2 * LANE_HEAD_BYTES + half % 2 * 8;
        let used = usize::try_from(word(&head, used_at)).unwrap_or(usize::MAX);
        let mut bytes = vec![0; used.min(HALF_BYTES)];
        file.read_exact_at(&mut bytes, (DATA_AT + half * HALF_BYTES) as u64)?;
        let mut rest = &bytes[..];
        while let Some((len, behind)) = rest.split_first_chunk::<4>()
            && let Some((record, behind)) =
                behind.split_at_checked(crate::block::to_usize(u64::from(u32::from_le_bytes(*len))))
        {
            events.extend(journal::decode(record));
            rest = behind;
        }
    }
    events.sort_unstable_by_key(|event| event.no);
    Ok(Left {
        events,
        elapsed_us: monotonic_us().saturating_sub(word(&head, BEGAN_AT)),
        batch: (
            u32::try_from(word(&head, BATCH_AT)).unwrap_or(0),
            EventNo(word(&head, BATCH_AFTER_AT)),
        ),
    })
}

impl Ahead {
    /// Makes it anew in `file`, which may exist: a run begins. Producers are those of `legs` legs.
    ///
    /// # Errors
    /// The system's; it has no room.
    pub fn create(file: &Path, legs: usize) -> io::Result<Arc<Ahead>> {
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(file)?;
        file.set_len(FILE_BYTES as u64)?;
        let ahead = Ahead::map(file, legs)?;
        ahead
            .word(BEGAN_AT)
            .store(monotonic_us(), Ordering::Relaxed);
        ahead.word(MAGIC_AT).store(MAGIC, Ordering::Release);
        Ok(Arc::new(ahead))
    }

    /// Takes it over, after what it held went to the journal: lanes are empty, batches are still known.
    ///
    /// # Errors
    /// The system's.
    pub fn take_over(file: &Path, legs: usize) -> io::Result<Arc<Ahead>> {
        let file = File::options().read(true).write(true).open(file)?;
        if file.metadata()?.len() != FILE_BYTES as u64 {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let ahead = Ahead::map(file, legs)?;
        for half in 0..2 * LANES {
            ahead.used(half).store(0, Ordering::Relaxed);
        }
        Ok(Arc::new(ahead))
    }

    fn map(file: File, legs: usize) -> io::Result<Ahead> {
        // A worker, a connection and its listener for each leg and the control leg, and the supervisor's and hands' own.
        let lanes = (3 * (legs + 1) + 4).min(LANES);
        // Their room is taken now, so that nothing written to it finds a full disk.
        rustix::fs::fallocate(
            &file,
            rustix::fs::FallocateFlags::empty(),
            0,
            (DATA_AT + lanes * LANE_BYTES) as u64,
        )?;
        // SAFETY: a new shared mapping at an address of the kernel's choice touches nothing that exists.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                FILE_BYTES,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                std::os::fd::AsRawFd::as_raw_fd(&file),
                0,
            )
        };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Ahead {
            at: at.cast(),
            lanes,
            free: Mutex::default(),
        })
    }

    fn word(&self, at: usize) -> &AtomicU64 {
        debug_assert!(at.is_multiple_of(8) && at < DATA_AT, "a word of the header");
        // SAFETY: aligned and in the mapping's header, which is touched by atomics alone.
        unsafe { AtomicU64::from_ptr(self.at.add(at).cast()) }
    }

    fn used(&self, half: usize) -> &AtomicU64 {
        self.word(LANES_AT + half / 2 * LANE_HEAD_BYTES + half % 2 * 8)
    }

    fn batch(&self, batch: u32) -> &AtomicU32 {
        let at = BATCHES_AT + crate::block::to_usize(u64::from(batch % BATCHES)) * 4;
        // SAFETY: aligned and in the mapping's header, which is touched by atomics alone.
        unsafe { AtomicU32::from_ptr(self.at.add(at).cast()) }
    }

    /// The guest has switched a leg's write cache on or off.
    pub fn set_writeback(&self, leg: LegId, on: bool) {
        let bit = 1 << (leg.0 & 63);
        let switches = self.word(SWITCHES_AT);
        if on {
            switches.fetch_and(!bit, Ordering::AcqRel);
        } else {
            switches.fetch_or(bit, Ordering::AcqRel);
        }
    }

    /// Whether a leg's write cache is on, as far as its guest has said.
    pub fn writeback(&self, leg: LegId) -> bool {
        self.word(SWITCHES_AT).load(Ordering::Acquire) & (1 << (leg.0 & 63)) == 0
    }

    /// A boot begins: batches of marks count from 1 again.
    pub fn new_boot(&self) {
        for batch in 0..BATCHES {
            self.batch(batch).store(0, Ordering::Relaxed);
        }
        self.word(BATCH_AT).store(0, Ordering::Release);
    }

    /// The marks of a batch are about to be recorded, with numbers above `after`.
    pub fn begin_batch(&self, batch: u32, after: EventNo) {
        // In this order: a batch that is named has its own number, and the one before has not the next one's.
        self.word(BATCH_AT).store(0, Ordering::Release);
        self.word(BATCH_AFTER_AT).store(after.0, Ordering::Release);
        self.word(BATCH_AT)
            .store(u64::from(batch), Ordering::Release);
        self.batch(batch).store(batch, Ordering::Release);
    }

    /// The batches that were begun in this boot, of the last ones.
    pub fn batches(&self) -> Vec<u32> {
        let mut begun: Vec<u32> = (0..BATCHES)
            .map(|at| self.batch(at).load(Ordering::Acquire))
            .filter(|batch| *batch != 0)
            .collect();
        begun.sort_unstable();
        begun
    }

    /// A lane for a producer.
    ///
    /// # Panics
    /// If there are more producers at a time than a device of so many legs has.
    pub fn lane(self: &Arc<Ahead>) -> Lane {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let place = match free.0.pop() {
            Some(place) => place,
            None => {
                let lane = free.1;
                assert!(lane < self.lanes, "a producer too many");
                free.1 += 1;
                Place {
                    lane,
                    half: 0,
                    used: 0,
                    last: [EventNo(0); 2],
                }
            }
        };
        Lane {
            ahead: Arc::clone(self),
            place,
            record: Vec::new(),
        }
    }
}

/// Where a lane is, and how full.
#[derive(Debug)]
struct Place {
    lane: usize,
    half: usize,
    /// Bytes used of this half.
    used: usize,
    /// The last event in each half.
    last: [EventNo; 2],
}

/// A producer's lane.
#[derive(Debug)]
pub struct Lane {
    ahead: Arc<Ahead>,
    place: Place,
    record: Vec<u8>,
}

impl Drop for Lane {
    fn drop(&mut self) {
        let place = Place { ..self.place };
        let mut free = self
            .ahead
            .free
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        free.0.push(place);
    }
}

impl Lane {
    /// Keeps an event, unless the halves are full of what is not in the journal yet: `false`, and it is to be tried again. The journal has all
    /// events up to `written`.
    ///
    /// What is too large for a half is kept without its payload or not at all (no request of a guest is).
    pub fn keep(&mut self, event: &Event, written: EventNo) -> bool {
        self.encode(event);
        if self.record.len() > HALF_BYTES {
            let What::Fetched(fetched) = &event.what else {
                return true;
            };
            let what = What::Fetched(Fetched {
                payload: None,
                ..fetched.clone()
            });
            self.encode(&Event {
                no: event.no,
                time_us: event.time_us,
                what,
            });
            if self.record.len() > HALF_BYTES {
                return true;
            }
        }
        if !self.has_room(written) {
            return false;
        }
        let Place {
            lane, half, used, ..
        } = self.place;
        let half_at = lane * 2 + half;
        let at = DATA_AT + half_at * HALF_BYTES + used;
        // SAFETY: the half is this lane's alone, `has_room` has checked its end, and the record is no part of it.
        unsafe {
            std::ptr::copy_nonoverlapping(
                self.record.as_ptr(),
                self.ahead.at.add(at),
                self.record.len(),
            );
        }
        self.place.used = used + self.record.len();
        self.place.last[half] = event.no;
        self.ahead
            .used(half_at)
            .store(self.place.used as u64, Ordering::Release);
        true
    }

    fn encode(&mut self, event: &Event) {
        self.record.clear();
        self.record.extend_from_slice(&[0; 4]);
        journal::encode(event, &mut self.record);
        let len = u32::try_from(self.record.len() - 4).expect("a record is far below 4 GiB");
        self.record[..4].copy_from_slice(&len.to_le_bytes());
    }

    fn has_room(&mut self, written: EventNo) -> bool {
        let place = &mut self.place;
        if place.used + self.record.len() > HALF_BYTES && place.last[place.half] > written {
            let other = 1 - place.half;
            if place.last[other] > written {
                return false;
            }
            place.half = other;
        } else if place.last[place.half] > written {
            return true;
        }
        // All of this half is in the journal.
        place.used = 0;
        self.ahead
            .used(place.lane * 2 + place.half)
            .store(0, Ordering::Relaxed);
        // A kill sees this thread's stores in their order, as long as the compiler keeps it: no record is overwritten that still counts.
        compiler_fence(Ordering::SeqCst);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::RequestId;

    fn console(no: u64, bytes: usize) -> Event {
        Event {
            no: EventNo(no),
            time_us: no,
            what: What::Console {
                line: "x".repeat(bytes),
            },
        }
    }

    fn numbers(path: &Path) -> Vec<u64> {
        let left = read(path).unwrap();
        left.events.iter().map(|event| event.no.0).collect()
    }

    #[test]
    fn events_of_all_lanes_are_found_and_what_is_written_makes_room() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ahead");
        let ahead = Ahead::create(&path, 1).unwrap();
        let (mut one, mut other) = (ahead.lane(), ahead.lane());
        assert!(one.keep(&console(1, 10), EventNo(0)));
        assert!(other.keep(&console(2, 10), EventNo(0)));
        assert!(one.keep(&console(3, 10), EventNo(0)));
        assert_eq!(numbers(&path), [1, 2, 3]);
        assert_eq!(read(&path).unwrap().events[1], console(2, 10));
        // A lane that is given back is used again, and what it holds stays.
        drop(other);
        let mut other = ahead.lane();
        assert!(other.keep(&console(4, 10), EventNo(0)));
        assert_eq!(numbers(&path), [1, 2, 3, 4]);
        // Both halves fill up; then there is room only once the older half is written.
        let third = HALF_BYTES / 3;
        for no in 5..=8 {
            assert!(one.keep(&console(no, third), EventNo(0)), "{no}");
        }
        assert!(!one.keep(&console(9, third), EventNo(0)));
        assert!(!one.keep(&console(9, third), EventNo(5)));
        assert_eq!(numbers(&path), [1, 2, 3, 4, 5, 6, 7, 8]);
        assert!(one.keep(&console(9, third), EventNo(6)));
        assert_eq!(numbers(&path), [2, 4, 7, 8, 9]);
        drop((one, other, ahead));
        let ahead = Ahead::take_over(&path, 1).unwrap();
        assert_eq!(numbers(&path), Vec::<u64>::new());
        assert!(ahead.lane().keep(&console(10, 1), EventNo(9)));
        assert_eq!(numbers(&path), [10]);
    }

    #[test]
    fn a_payload_that_is_too_large_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ahead");
        let ahead = Ahead::create(&path, 1).unwrap();
        let mut lane = ahead.lane();
        let fetched = |payload| Event {
            no: EventNo(1),
            time_us: 0,
            what: What::Fetched(Fetched {
                request: RequestId {
                    leg: LegId(0),
                    number: 1,
                },
                digests: [7; 2000].into_iter().collect(),
                payload,
            }),
        };
        assert!(lane.keep(&fetched(Some(vec![1; HALF_BYTES])), EventNo(0)));
        assert_eq!(read(&path).unwrap().events, [fetched(None)]);
        assert!(lane.keep(&console(2, HALF_BYTES), EventNo(0)), "not at all");
        assert_eq!(numbers(&path), [1]);
    }

    #[test]
    fn batches_and_switches_outlive_the_process() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ahead");
        let ahead = Ahead::create(&path, 2).unwrap();
        assert!(ahead.writeback(LegId(1)));
        ahead.set_writeback(LegId(1), false);
        ahead.begin_batch(1, EventNo(10));
        ahead.begin_batch(2, EventNo(20));
        drop(ahead);
        assert_eq!(read(&path).unwrap().batch, (2, EventNo(20)));
        let ahead = Ahead::take_over(&path, 2).unwrap();
        assert_eq!(ahead.batches(), [1, 2]);
        assert!(ahead.writeback(LegId(0)) && !ahead.writeback(LegId(1)));
        ahead.set_writeback(LegId(1), true);
        assert!(ahead.writeback(LegId(1)));
        ahead.begin_batch(BATCHES + 1, EventNo(30));
        assert_eq!(ahead.batches(), [2, BATCHES + 1], "the oldest goes");
        ahead.new_boot();
        assert_eq!(ahead.batches(), Vec::<u32>::new());
    }

    #[test]
    fn what_is_no_such_memory_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ahead");
        read(&path).unwrap_err();
        std::fs::write(&path, vec![0; 1 << 20]).unwrap();
        read(&path).unwrap_err();
        Ahead::take_over(&path, 1).unwrap_err();
    }
}
