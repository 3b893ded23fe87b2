//! Split rings (virtio 1.2, 2.7): which chains are available, which are used, and when either side wants to be told.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering, fence};

use super::defs::{AVAIL_NO_INTERRUPT, DESC_BYTES, RING_SIZE_MAX, USED_NO_NOTIFY};
use super::inflight::{Inflight, InflightError};
use super::inflight_split::SplitNotes;
use super::memory::Memory;
use super::request::Used;
use super::ring::{Head, RingAddresses, RingFault};

/// A ring that is served.
#[derive(Debug)]
pub struct SplitRing {
    memory: Arc<Memory>,
    addresses: RingAddresses,
    size: u16,
    event_index: bool,
    descriptors: *const u8,
    available: *mut u16,
    used: *mut u16,
    /// The next available entry to take.
    next: u16,
    /// The available index as last seen.
    seen: u16,
    /// The next used entry to fill.
    filled: u16,
    /// The used index as the driver knows it.
    published: u16,
    /// What is in flight, noted for whoever comes after us.
    notes: Option<Box<SplitNotes>>,
    /// Heads that must be done again, the oldest last.
    again: Vec<u16>,
}

// SAFETY: the pointers are into `memory`, which the ring keeps alive; one worker at a time has the ring.
unsafe impl Send for SplitRing {}

impl SplitRing {
    /// A ring of `size` entries, to be served from available index `base` on. The used index is taken from the ring, where an earlier
    /// connection may have left it.
    ///
    /// # Errors
    /// [`RingFault`], if a part is not where it can be used.
    pub fn new(
        memory: Arc<Memory>,
        addresses: RingAddresses,
        size: u32,
        base: u16,
        event_index: bool,
    ) -> Result<SplitRing, RingFault> {
        if !size.is_power_of_two() || size > RING_SIZE_MAX {
            return Err(RingFault::Size(size));
        }
        let entries = u16::try_from(size).map_err(|_| RingFault::Size(size))?;
        let parts = Parts::find(&memory, addresses, entries)?;
        let mut ring = SplitRing {
            memory,
            addresses,
            size: entries,
            event_index,
            descriptors: parts.descriptors,
            available: parts.available,
            used: parts.used,
            next: base,
            seen: base,
            filled: 0,
            published: 0,
            notes: None,
            again: Vec::new(),
        };
        ring.filled = ring.atomic(ring.used, 1).load(Ordering::Acquire);
        ring.published = ring.filled;
        Ok(ring)
    }

    /// Finds the ring again in a new table of memory. The old one is kept if that fails.
    ///
    /// # Errors
    /// [`RingFault`], if a part is no longer there.
    pub fn remap(&mut self, memory: Arc<Memory>) -> Result<(), RingFault> {
        let parts = Parts::find(&memory, self.addresses, self.size)?;
        self.descriptors = parts.descriptors;
        self.available = parts.available;
        self.used = parts.used;
        self.memory = memory;
        Ok(())
    }

    /// As [`super::Ring::track`]. The next available entry follows from the used index and what is in flight.
    ///
    /// # Errors
    /// [`InflightError`].
    pub fn track(&mut self, inflight: &Inflight, queue: u16) -> Result<usize, InflightError> {
        let (notes, mut again) = SplitNotes::open(inflight, queue, self.size, self.published)?;
        again.reverse();
        if !again.is_empty() {
            let count = u16::try_from(again.len()).unwrap_or(self.size);
            self.next = self.published.wrapping_add(count);
            self.seen = self.next;
        }
        self.notes = Some(Box::new(notes));
        self.again = again;
        Ok(self.again.len())
    }

    /// The memory that the ring and its requests are in.
    pub fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }

    /// Entries.
    pub fn size(&self) -> u16 {
        self.size
    }

    /// The next available entry: what `VHOST_USER_GET_VRING_BASE` wants to know.
    pub fn base(&self) -> u16 {
        self.next
    }

    /// As [`super::Ring::is_fresh`].
    pub fn is_fresh(&self) -> bool {
        self.next == 0 && self.filled == 0
    }

    /// The `at`th 16-bit word of a ring part that has at least so many (see [`Parts::find`]).
    fn atomic(&self, part: *mut u16, at: usize) -> &AtomicU16 {
        // SAFETY: `Parts::find` has checked that the part lies in the memory with room for flags, index, all entries and the event word, and
        // that it is 2-aligned; the driver's accesses are as wide and untorn; `self` keeps the memory alive.
        unsafe { AtomicU16::from_ptr(part.wrapping_add(at)) }
    }

    /// Where an index falls in the ring; its size is a power of two.
    fn slot(&self, index: u16) -> usize {
        usize::from(index & self.size.wrapping_sub(1))
    }

    /// The first descriptor of the next chain, if the driver has made one available.
    ///
    /// # Errors
    /// [`RingFault`]: the ring makes no sense any more (2.7.6) and must be stopped.
    pub fn pop(&mut self) -> Result<Option<Head>, RingFault> {
        if let Some(head) = self.again.pop() {
            return Ok(Some(Head::split(head)));
        }
        if self.next == self.seen && !self.look()? {
            return Ok(None);
        }
        let at = self.slot(self.next).wrapping_add(2);
        let head = self.atomic(self.available, at).load(Ordering::Relaxed);
        if head >= self.size {
            return Err(RingFault::Head {
                head,
                size: self.size,
            });
        }
        if let Some(notes) = &mut self.notes {
            notes.took(head);
        }
        self.next = self.next.wrapping_add(1);
        Ok(Some(Head::split(head)))
    }

    /// Whether a chain is available that was not taken yet.
    ///
    /// # Errors
    /// [`RingFault::Jump`].
    pub fn look(&mut self) -> Result<bool, RingFault> {
        let index = self.atomic(self.available, 1).load(Ordering::Acquire);
        if index.wrapping_sub(self.next) > self.size {
            return Err(RingFault::Jump {
                from: self.next,
                to: index,
                size: self.size,
            });
        }
        self.seen = index;
        Ok(index != self.next)
    }

    /// One descriptor of the ring's own table; `None` past its end.
    pub(super) fn descriptor(&self, at: u16) -> Option<[u8; 16]> {
        if at >= self.size {
            return None;
        }
        let offset = usize::from(at).checked_mul(16)?;
        // SAFETY: the table has `size` descriptors of 16 bytes in the memory; a copy of bytes may be torn by the driver, but is not unsound.
        Some(unsafe {
            self.descriptors
                .wrapping_add(offset)
                .cast::<[u8; 16]>()
                .read_unaligned()
        })
    }

    /// Puts a used entry into the ring; the driver sees it after [`SplitRing::publish`].
    pub fn push(&mut self, used: Used) {
        // Two words of flags and index (4 bytes), then 8 bytes an entry.
        let at = self.slot(self.filled).wrapping_mul(4).wrapping_add(2);
        let entry = self.used.wrapping_add(at).cast::<u32>();
        // SAFETY: entry `slot < size` of the used ring, which is 4-aligned and in the memory (`Parts::find`).
        unsafe {
            entry.write_volatile(u32::from(used.head.id));
            entry.wrapping_add(1).write_volatile(used.bytes);
        }
        self.filled = self.filled.wrapping_add(1);
        if let Some(notes) = &mut self.notes {
            notes.gave(used.head.id);
        }
    }

    /// Shows the driver all used entries (2.7.8.2). Returns whether it wants to be notified (2.7.7, 2.7.10).
    pub fn publish(&mut self) -> bool {
        let old = self.published;
        if old == self.filled {
            return false;
        }
        self.atomic(self.used, 1)
            .store(self.filled, Ordering::Release);
        self.published = self.filled;
        if let Some(notes) = &mut self.notes {
            notes.published(self.filled);
        }
        // The driver writes its wish and then looks at the index; we write the index and then look at its wish.
        fence(Ordering::SeqCst);
        if self.event_index {
            let at = usize::from(self.size).wrapping_add(2);
            let event = self.atomic(self.available, at).load(Ordering::Relaxed);
            let new = self.filled;
            new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
        } else {
            self.atomic(self.available, 0).load(Ordering::Relaxed) & AVAIL_NO_INTERRUPT == 0
        }
    }

    /// Tells the driver that it need not kick: we are looking. A hint (2.7.10); with the event index nothing is needed, as the index that
    /// was asked for last has passed.
    pub fn kicks_off(&mut self) {
        if !self.event_index {
            self.atomic(self.used, 0)
                .store(USED_NO_NOTIFY, Ordering::Relaxed);
        }
    }

    /// Asks the driver to kick for the next chain, and looks once more: `true` if one came meanwhile, for which there may be no kick.
    ///
    /// # Errors
    /// [`RingFault::Jump`].
    pub fn kicks_on(&mut self) -> Result<bool, RingFault> {
        if self.event_index {
            let at = usize::from(self.size).wrapping_mul(4).wrapping_add(2);
            self.atomic(self.used, at)
                .store(self.next, Ordering::Relaxed);
        } else {
            self.atomic(self.used, 0).store(0, Ordering::Relaxed);
        }
        fence(Ordering::SeqCst);
        Ok(self.look()? || !self.again.is_empty())
    }
}

struct Parts {
    descriptors: *const u8,
    available: *mut u16,
    used: *mut u16,
}

impl Parts {
    fn find(memory: &Memory, at: RingAddresses, size: u16) -> Result<Parts, RingFault> {
        let size = u64::from(size);
        let find = |name, user, bytes: u64, align: usize| {
            let host = memory.user(user, bytes).ok_or(RingFault::Outside(name))?;
            if host.align_offset(align) == 0 {
                Ok(host)
            } else {
                Err(RingFault::Alignment(name))
            }
        };
        // Flags, index, entries, event word (2.7.6, 2.7.8). Alignments of 2.7 are 16, 2 and 4; descriptors are read as bytes.
        Ok(Parts {
            descriptors: find(
                "descriptor table",
                at.descriptors,
                size.saturating_mul(DESC_BYTES),
                1,
            )?,
            available: find(
                "available ring",
                at.available,
                size.saturating_mul(2).saturating_add(6),
                2,
            )?
            .cast(),
            used: find(
                "used ring",
                at.used,
                size.saturating_mul(8).saturating_add(6),
                4,
            )?
            .cast(),
        })
    }
}
