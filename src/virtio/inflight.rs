//! What is in flight, noted in memory that the frontend keeps (vhost-user specification, "Inflight I/O tracking"): whoever serves the ring
//! after a crash does again what was taken and not given back, in the order in which it was taken, and nothing else.
//!
//! The region is as hostile as guest memory: what it says is checked against the ring's size wherever it is used.

use std::fs::File;
use std::os::fd::FromRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

use super::defs::RING_SIZE_MAX;
use super::memory::{Memory, MemoryError, Region};

/// Every queue's part begins at a multiple of so many bytes.
const ALIGN: u64 = 64;
/// The largest ring that QEMU has (`VIRTQUEUE_MAX_SIZE`).
const RING_SIZE_QEMU: u16 = 1024;
/// What the region's version field says once it is in use.
const VERSION: u16 = 1;

/// Why a region is refused.
#[derive(Debug, thiserror::Error)]
pub enum InflightError {
    /// Too many queues or entries, or none.
    #[error("an in-flight region for {queues} queues of {size} entries")]
    Shape {
        /// Queues.
        queues: u16,
        /// Entries of each.
        size: u16,
    },
    /// It can't be mapped.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// A queue's part is not in it.
    #[error("queue {queue} of {size} entries has no room in the in-flight region")]
    Room {
        /// Which queue.
        queue: u16,
        /// Its entries.
        size: u16,
    },
    /// It was used for another ring.
    #[error("the in-flight region is version {version} for {entries} entries, the ring has {size}")]
    Other {
        /// The region's version.
        version: u16,
        /// The region's entries.
        entries: u16,
        /// The ring's.
        size: u16,
    },
    /// No new one.
    #[error("making an in-flight region")]
    Make(#[source] std::io::Error),
}

/// The layout of a queue's part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// `QueueRegionSplit`: 16 bytes, and 16 an entry.
    Split,
    /// `QueueRegionPacked`: 32 bytes, and 32 an entry.
    Packed,
}

impl Layout {
    fn unit(self) -> u64 {
        match self {
            Layout::Split => 16,
            Layout::Packed => 32,
        }
    }

    /// Bytes of one queue's part.
    fn bytes(self, size: u16) -> u64 {
        u64::from(size)
            .saturating_add(1)
            .saturating_mul(self.unit())
            .next_multiple_of(ALIGN)
    }
}

/// Makes an empty region; its size in bytes.
///
/// Each queue has room for [`RING_SIZE_QEMU`] entries at least: QEMU 10.0.13 asks for 256 and, once the guest has reset the device, starts rings of 1024.
///
/// # Errors
/// [`InflightError`], for a shape that can't be, or when the system has no descriptors left.
pub fn make(layout: Layout, queues: u16, size: u16) -> Result<(File, u64), InflightError> {
    if queues == 0 || size == 0 || u32::from(size) > RING_SIZE_MAX {
        return Err(InflightError::Shape { queues, size });
    }
    let stride = layout.bytes(size.max(RING_SIZE_QEMU));
    let bytes = stride.saturating_mul(u64::from(queues));
    // SAFETY: a plain system call with a constant name.
    let fd = unsafe { libc::memfd_create(c"legwatch-inflight".as_ptr(), libc::MFD_CLOEXEC) };
    if fd < 0 {
        return Err(InflightError::Make(std::io::Error::last_os_error()));
    }
    // SAFETY: the descriptor is new and ours.
    let file = unsafe { File::from_raw_fd(fd) };
    file.set_len(bytes).map_err(InflightError::Make)?;
    Ok((file, bytes))
}

/// A region that a frontend has handed over.
#[derive(Clone, Debug)]
pub struct Inflight {
    /// One region, by its offset.
    memory: Arc<Memory>,
    /// Bytes from one queue's part to the next.
    stride: u64,
}

impl Inflight {
    /// Maps a region that `queues` queues share in equal parts.
    ///
    /// # Errors
    /// [`InflightError`].
    pub fn map(
        file: &File,
        offset: u64,
        bytes: u64,
        queues: u16,
    ) -> Result<Inflight, InflightError> {
        let size = 0;
        let share = bytes.checked_div(u64::from(queues));
        let share = share.ok_or(InflightError::Shape { queues, size })?;
        let region = Region::map(file, offset, 0, 0, bytes)?;
        Ok(Inflight {
            memory: Arc::new(Memory::new(vec![Arc::new(region)])?),
            stride: share.saturating_sub(share % ALIGN),
        })
    }

    /// The notes of one queue.
    ///
    /// # Errors
    /// [`InflightError`], if the region has no room for it or was used for another ring.
    pub(super) fn notes(
        &self,
        layout: Layout,
        queue: u16,
        size: u16,
    ) -> Result<Notes, InflightError> {
        let room = InflightError::Room { queue, size };
        let bytes = layout.bytes(size);
        let at = self.stride.checked_mul(u64::from(queue));
        let (Some(at), true) = (at, bytes <= self.stride) else {
            return Err(room);
        };
        let place = self.memory.user(at, bytes).ok_or(room)?;
        if place.align_offset(8) != 0 {
            return Err(InflightError::Room { queue, size });
        }
        let notes = Notes {
            _memory: Arc::clone(&self.memory),
            place,
            size,
            unit: usize::try_from(layout.unit()).unwrap_or(32),
        };
        let (version, entries) = (notes.get16(VERSION_AT), notes.get16(ENTRIES_AT));
        if version > VERSION || (version == VERSION && entries != size) {
            return Err(InflightError::Other {
                version,
                entries,
                size,
            });
        }
        Ok(notes)
    }
}

const VERSION_AT: usize = 8;
const ENTRIES_AT: usize = 10;

/// One queue's part: a header and an entry for each descriptor. Offsets are the callers' own constants; entries are checked.
#[derive(Debug)]
pub(super) struct Notes {
    /// What `place` points into.
    _memory: Arc<Memory>,
    place: *mut u8,
    size: u16,
    unit: usize,
}

// SAFETY: the pointer is into memory that the notes keep alive, and access is by atomics alone.
unsafe impl Send for Notes {}

impl Notes {
    /// `false` for a region that nobody has used yet.
    pub(super) fn in_use(&self) -> bool {
        self.get16(VERSION_AT) == VERSION
    }

    /// Marks the region as used, after everything in it was set.
    pub(super) fn begin(&self) {
        self.put16(ENTRIES_AT, self.size);
        self.put16(VERSION_AT, VERSION);
    }

    pub(super) fn size(&self) -> u16 {
        self.size
    }

    /// Where a field of an entry is; of the last one, if there is no such entry.
    pub(super) fn entry(&self, entry: u16, field: usize) -> usize {
        let entry = usize::from(entry.min(self.size.saturating_sub(1)));
        entry
            .wrapping_add(1)
            .wrapping_mul(self.unit)
            .wrapping_add(field)
    }

    fn at(&self, at: usize, bytes: usize) -> *mut u8 {
        debug_assert!(
            at.is_multiple_of(bytes)
                && at
                    < usize::from(self.size)
                        .wrapping_add(1)
                        .wrapping_mul(self.unit),
            "a field of the header or of an entry"
        );
        self.place.wrapping_add(at)
    }

    pub(super) fn get8(&self, at: usize) -> u8 {
        // SAFETY: `Inflight::notes` has checked that header and all entries are in the memory, 8-aligned; fields have their own alignment.
        unsafe { AtomicU8::from_ptr(self.at(at, 1)) }.load(Ordering::Acquire)
    }

    pub(super) fn put8(&self, at: usize, value: u8) {
        // SAFETY: as in `get8`.
        unsafe { AtomicU8::from_ptr(self.at(at, 1)) }.store(value, Ordering::Release);
    }

    pub(super) fn get16(&self, at: usize) -> u16 {
        // SAFETY: as in `get8`.
        unsafe { AtomicU16::from_ptr(self.at(at, 2).cast()) }.load(Ordering::Acquire)
    }

    pub(super) fn put16(&self, at: usize, value: u16) {
        // SAFETY: as in `get8`.
        unsafe { AtomicU16::from_ptr(self.at(at, 2).cast()) }.store(value, Ordering::Release);
    }

    pub(super) fn get32(&self, at: usize) -> u32 {
        // SAFETY: as in `get8`.
        unsafe { AtomicU32::from_ptr(self.at(at, 4).cast()) }.load(Ordering::Acquire)
    }

    pub(super) fn put32(&self, at: usize, value: u32) {
        // SAFETY: as in `get8`.
        unsafe { AtomicU32::from_ptr(self.at(at, 4).cast()) }.store(value, Ordering::Release);
    }

    pub(super) fn get64(&self, at: usize) -> u64 {
        // SAFETY: as in `get8`.
        unsafe { AtomicU64::from_ptr(self.at(at, 8).cast()) }.load(Ordering::Acquire)
    }

    pub(super) fn put64(&self, at: usize, value: u64) {
        // SAFETY: as in `get8`.
        unsafe { AtomicU64::from_ptr(self.at(at, 8).cast()) }.store(value, Ordering::Release);
    }

    /// Entries whose first byte says that they are in flight, oldest first (their counter is at byte 8), and the next counter.
    pub(super) fn open_entries(&self) -> (Vec<u16>, u64) {
        let mut open: Vec<(u64, u16)> = (0..self.size)
            .filter(|entry| self.get8(self.entry(*entry, 0)) == 1)
            .map(|entry| (self.get64(self.entry(entry, 8)), entry))
            .collect();
        open.sort_unstable();
        let next = open.last().map_or(0, |(last, _)| last.wrapping_add(1));
        (open.into_iter().map(|(_, entry)| entry).collect(), next)
    }
}
