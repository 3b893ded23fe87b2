//! Packed rings (virtio 1.2, 2.8): one ring of descriptors that driver and device both write; a bit that turns over with every lap says
//! whose a descriptor is.
//!
//! A descriptor is read when its chain is taken (how many there are) and again when the chain is followed. A driver that changes it between
//! the two harms itself alone: the second reading goes no further than the first counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering, fence};

use super::defs::{
    DESC_BYTES, DESC_NEXT, DESC_WRITE, EVENT_DESC, EVENT_DISABLE, EVENT_ENABLE, PACKED_AVAIL,
    PACKED_USED, RING_SIZE_MAX,
};
use super::inflight::{Inflight, InflightError};
use super::inflight_packed::PackedNotes;
use super::memory::Memory;
use super::request::Used;
use super::ring::{Head, RingAddresses, RingFault};

/// Both positions at the start, both wrap counters 1 (2.8.1), in the encoding of [`PackedRing::base`].
pub const FRESH_BASE: u32 = 0x8000_8000;
/// The wrap counter in a position's 16 bits, in event suppression structures as well as in bases.
const WRAP: u16 = 1 << 15;

/// A place in the ring, and the lap's wrap counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Position {
    at: u16,
    wrap: bool,
}

impl Position {
    fn decode(raw: u16) -> Position {
        Position {
            at: raw & !WRAP,
            wrap: raw & WRAP != 0,
        }
    }

    fn encode(self) -> u16 {
        self.at | if self.wrap { WRAP } else { 0 }
    }

    /// `count` descriptors further on; `count` is not more than the ring's size.
    fn advance(self, count: u16, size: u16) -> Position {
        // Both are up to 32768, so the sum needs 17 bits.
        let sum = u32::from(self.at).saturating_add(u32::from(count));
        match sum.checked_sub(u32::from(size)) {
            Some(over) => Position {
                at: u16::try_from(over).unwrap_or(0),
                wrap: !self.wrap,
            },
            None => Position {
                at: u16::try_from(sum).unwrap_or(0),
                wrap: self.wrap,
            },
        }
    }
}

/// A ring that is served.
#[derive(Debug)]
pub struct PackedRing {
    memory: Arc<Memory>,
    addresses: RingAddresses,
    size: u16,
    event_index: bool,
    descriptors: *mut u16,
    driver: *mut u16,
    device: *mut u16,
    /// The next descriptor to take.
    next: Position,
    /// The next descriptor to give back.
    used: Position,
    /// Descriptors that are taken and not given back; never more than `size`.
    taken: u16,
    /// The first descriptor that was given back since the last [`PackedRing::publish`], and its flags, which are written last.
    first: Option<(u16, u16)>,
    /// Descriptors given back since then.
    moved: u16,
    notes: Option<Box<Tracking>>,
}

/// What a ring needs for its notes.
#[derive(Debug)]
struct Tracking {
    notes: PackedNotes,
    /// Chains that must be done again, the oldest last.
    again: Vec<Head>,
    /// Their descriptors.
    noted: Vec<[u8; 16]>,
    /// Given back and not shown: entry, place, flags, and the next used descriptor afterwards.
    batch: Vec<(u16, u16, u16, Position)>,
}

// SAFETY: the pointers are into `memory`, which the ring keeps alive; one worker at a time has the ring.
unsafe impl Send for PackedRing {}

impl PackedRing {
    /// A ring of `size` descriptors, to be served from `base` on: bits 0 to 14 are the next available descriptor, bit 15 its wrap counter, bits
    /// 16 to 31 the same for the next used one (vhost-user specification, "Vring descriptor indices for packed virtqueues").
    ///
    /// Base 0 with a first descriptor that is neither available nor used is a fresh ring of a frontend that forgot the wrap counters: in a
    /// ring that is really in a lap of counter 0, that descriptor was marked in the lap before.
    ///
    /// # Errors
    /// [`RingFault`], if a part is not where it can be used, or the base is not in the ring.
    pub fn new(
        memory: Arc<Memory>,
        addresses: RingAddresses,
        size: u32,
        base: u32,
        event_index: bool,
    ) -> Result<PackedRing, RingFault> {
        // 2.8.10.1: not necessarily a power of two.
        let entries = u16::try_from(size).map_err(|_| RingFault::Size(size))?;
        if size == 0 || size > RING_SIZE_MAX {
            return Err(RingFault::Size(size));
        }
        let parts = Parts::find(&memory, addresses, entries)?;
        // SAFETY: word 7 of the first of at least one aligned descriptors that `Parts::find` has found in the memory.
        let first = unsafe { AtomicU16::from_ptr(parts.descriptors.wrapping_add(7)) };
        let marks = first.load(Ordering::Acquire) & (PACKED_AVAIL | PACKED_USED);
        let base = if base == 0 && marks == 0 {
            FRESH_BASE
        } else {
            base
        };
        let [b0, b1, b2, b3] = base.to_le_bytes();
        let next = Position::decode(u16::from_le_bytes([b0, b1]));
        let used = Position::decode(u16::from_le_bytes([b2, b3]));
        // The driver can have made available at most a lap more than was given back.
        let taken = match (next.wrap == used.wrap, next.at.checked_sub(used.at)) {
            (true, Some(ahead)) => Some(ahead),
            (true, None) => None,
            (false, _) => next
                .at
                .checked_add(entries)
                .and_then(|n| n.checked_sub(used.at)),
        };
        match taken {
            Some(taken) if next.at < entries && used.at < entries && taken <= entries => {
                Ok(PackedRing {
                    memory,
                    addresses,
                    size: entries,
                    event_index,
                    descriptors: parts.descriptors,
                    driver: parts.driver,
                    device: parts.device,
                    next,
                    used,
                    taken,
                    first: None,
                    moved: 0,
                    notes: None,
                })
            }
            Some(_) | None => Err(RingFault::Base {
                base,
                size: entries,
            }),
        }
    }

    /// As [`super::Ring::remap`].
    ///
    /// # Errors
    /// [`RingFault`], if a part is no longer there.
    pub fn remap(&mut self, memory: Arc<Memory>) -> Result<(), RingFault> {
        let parts = Parts::find(&memory, self.addresses, self.size)?;
        self.descriptors = parts.descriptors;
        self.driver = parts.driver;
        self.device = parts.device;
        self.memory = memory;
        Ok(())
    }

    /// As [`super::Ring::track`]. Both positions follow from the region, if it was used before.
    ///
    /// # Errors
    /// [`InflightError`].
    pub fn track(&mut self, inflight: &Inflight, queue: u16) -> Result<usize, InflightError> {
        let used = (self.used.at, self.used.wrap);
        let opened = PackedNotes::open(inflight, queue, self.size, used, |at| {
            self.flags(at).load(Ordering::Acquire)
        })?;
        let (at, wrap) = opened.used;
        let (mut again, mut noted, mut taken) = (Vec::new(), Vec::new(), 0u16);
        for chain in opened.again {
            let descriptors = u16::try_from(chain.descriptors.len()).unwrap_or(u16::MAX);
            // More than the ring holds can't be in flight: the region was changed.
            if descriptors == 0 || descriptors > self.size.saturating_sub(taken) {
                continue;
            }
            again.push(Head {
                at: taken,
                id: chain.id,
                descriptors,
                note: chain.entry,
                again: true,
            });
            taken = taken.saturating_add(descriptors);
            noted.extend(chain.descriptors);
        }
        again.reverse();
        self.used = Position { at, wrap };
        self.next = self.used.advance(taken, self.size);
        self.taken = taken;
        let count = again.len();
        self.notes = Some(Box::new(Tracking {
            notes: opened.notes,
            again,
            noted,
            batch: Vec::with_capacity(usize::from(self.size)),
        }));
        Ok(count)
    }

    /// The memory that the ring and its requests are in.
    pub fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }

    /// Descriptors.
    pub fn size(&self) -> u16 {
        self.size
    }

    /// Where to go on, encoded as [`PackedRing::new`] takes it.
    pub fn base(&self) -> u32 {
        u32::from(self.next.encode()) | u32::from(self.used.encode()).wrapping_shl(16)
    }

    /// The `word`th 16-bit word of the descriptor at `at`, which is in the ring: 4 and 5 are the length, 6 is the id, 7 the flags (2.8.13).
    fn word(&self, at: u16, word: usize) -> &AtomicU16 {
        debug_assert!(at < self.size && word < 8, "in the ring");
        let offset = usize::from(at).wrapping_mul(8).wrapping_add(word);
        // SAFETY: `Parts::find` has checked that the memory has `size` aligned descriptors of 8 words; `at < size` at every caller; the driver's
        // accesses to ids and flags are as wide.
        unsafe { AtomicU16::from_ptr(self.descriptors.wrapping_add(offset)) }
    }

    fn flags(&self, at: u16) -> &AtomicU16 {
        self.word(at, 7)
    }

    /// A word of an event suppression structure: 0 is the position, 1 the flags (2.8.14).
    fn event(&self, part: *mut u16, word: usize) -> &AtomicU16 {
        debug_assert!(word < 2, "two words");
        // SAFETY: `Parts::find` has checked that both structures, of two aligned words, are in the memory; `self` keeps it alive.
        unsafe { AtomicU16::from_ptr(part.wrapping_add(word)) }
    }

    /// Whether these flags say that the driver has made the descriptor available in the lap that we are in (2.8.1).
    fn available(&self, flags: u16) -> bool {
        (flags & PACKED_AVAIL != 0) == self.next.wrap
            && (flags & PACKED_USED != 0) != self.next.wrap
    }

    /// As [`super::Ring::pop`].
    ///
    /// # Errors
    /// [`RingFault::Endless`].
    pub fn pop(&mut self) -> Result<Option<Head>, RingFault> {
        if let Some(tracking) = &mut self.notes
            && let Some(head) = tracking.again.pop()
        {
            return Ok(Some(head));
        }
        let at = self.next.at;
        // What the driver wrote before the first descriptor's flags, the rest of the chain included, is there when they are (2.8.21.1).
        let mut flags = self.flags(at).load(Ordering::Acquire);
        if !self.available(flags) {
            return Ok(None);
        }
        let free = self.size.saturating_sub(self.taken);
        let mut descriptors = 1u16;
        let mut last = self.next;
        loop {
            if descriptors > free {
                return Err(RingFault::Endless {
                    at,
                    size: self.size,
                });
            }
            if flags & DESC_NEXT == 0 {
                break;
            }
            last = last.advance(1, self.size);
            descriptors = descriptors.saturating_add(1);
            flags = self.flags(last.at).load(Ordering::Relaxed);
        }
        // 2.8.6: the id is in the chain's last descriptor.
        let id = self.word(last.at, 6).load(Ordering::Relaxed);
        self.next = last.advance(1, self.size);
        self.taken = self.taken.saturating_add(descriptors);
        let mut head = Head {
            at,
            id,
            descriptors,
            note: Head::NOT_NOTED,
            again: false,
        };
        if let Some(mut tracking) = self.notes.take() {
            let chain = (0..descriptors).map_while(|step| self.descriptor(head, step));
            head.note = tracking.notes.took(chain).unwrap_or(Head::NOT_NOTED);
            self.notes = Some(tracking);
        }
        Ok(Some(head))
    }

    /// Whether a chain is available that was not taken yet.
    fn look(&self) -> bool {
        self.available(self.flags(self.next.at).load(Ordering::Acquire))
    }

    /// The `step`th descriptor of a chain; `None` past its end.
    pub(super) fn descriptor(&self, head: Head, step: u16) -> Option<[u8; 16]> {
        if head.again {
            let at = usize::from(head.at).checked_add(usize::from(step))?;
            let noted = &self.notes.as_ref()?.noted;
            return (step < head.descriptors).then(|| noted.get(at).copied())?;
        }
        if step >= head.descriptors || head.at >= self.size || step >= self.size {
            return None;
        }
        let position = Position {
            at: head.at,
            wrap: false,
        };
        let at = position.advance(step, self.size).at;
        let offset = usize::from(at).checked_mul(8)?;
        // SAFETY: `at < size` descriptors of 16 bytes are in the memory; a copy of bytes may be torn by the driver, but is not unsound.
        Some(unsafe {
            self.descriptors
                .wrapping_add(offset)
                .cast::<[u8; 16]>()
                .read_unaligned()
        })
    }

    /// As [`super::Ring::push`]: writes a used descriptor where the chain that was given back before ended (2.8.6). All flags are written
    /// but the first one's, behind which the driver does not look.
    pub fn push(&mut self, used: Used) {
        let at = self.used.at;
        let descriptors = used.head.descriptors.min(self.taken);
        self.word(at, 6).store(used.head.id, Ordering::Relaxed);
        let [l0, l1, l2, l3] = used.bytes.to_le_bytes();
        self.word(at, 4)
            .store(u16::from_le_bytes([l0, l1]), Ordering::Relaxed);
        self.word(at, 5)
            .store(u16::from_le_bytes([l2, l3]), Ordering::Relaxed);
        let mut flags = if self.used.wrap {
            PACKED_AVAIL | PACKED_USED
        } else {
            0
        };
        if used.bytes > 0 {
            flags |= DESC_WRITE;
        }
        self.used = self.used.advance(descriptors, self.size);
        if let Some(tracking) = &mut self.notes {
            tracking.batch.push((used.head.note, at, flags, self.used));
        } else if self.first.is_none() {
            self.first = Some((at, flags));
        } else {
            self.flags(at).store(flags, Ordering::Release);
        }
        self.taken = self.taken.saturating_sub(descriptors);
        self.moved = self.moved.saturating_add(descriptors);
    }

    /// As [`super::Ring::publish`] (2.8.22).
    pub fn publish(&mut self) -> bool {
        if let Some(mut tracking) = self.notes.take() {
            for (entry, at, flags, used) in tracking.batch.drain(..) {
                let show = || self.flags(at).store(flags, Ordering::Release);
                tracking.notes.gave(entry, (used.at, used.wrap), show);
            }
            self.notes = Some(tracking);
        } else if let Some((at, flags)) = self.first.take() {
            self.flags(at).store(flags, Ordering::Release);
        }
        if self.moved == 0 {
            return false;
        }
        let moved = std::mem::take(&mut self.moved);
        // The driver writes its wish and then looks at the descriptor; we write the descriptor and then look at its wish.
        fence(Ordering::SeqCst);
        match self.event(self.driver, 1).load(Ordering::Acquire) & 3 {
            EVENT_DISABLE => false,
            EVENT_DESC if self.event_index => {
                let raw = self.event(self.driver, 0).load(Ordering::Relaxed);
                self.passed(Position::decode(raw), moved)
            }
            // 2.8.14.1: the rest is reserved, or was not negotiated; a notification too many does no harm.
            _ => true,
        }
    }

    /// Whether `event` is among the last `moved` descriptors before the next used one.
    fn passed(&self, event: Position, moved: u16) -> bool {
        let mut distance = i32::from(self.used.at).wrapping_sub(i32::from(event.at));
        if event.wrap != self.used.wrap {
            distance = distance.wrapping_add(i32::from(self.size));
        }
        (1..=i32::from(moved)).contains(&distance)
    }

    /// As [`super::Ring::kicks_off`].
    pub fn kicks_off(&self) {
        self.event(self.device, 1)
            .store(EVENT_DISABLE, Ordering::Relaxed);
    }

    /// As [`super::Ring::kicks_on`].
    ///
    /// # Errors
    /// None; a packed ring makes no sense only in its chains.
    pub fn kicks_on(&mut self) -> Result<bool, RingFault> {
        if self.event_index {
            self.event(self.device, 0)
                .store(self.next.encode(), Ordering::Relaxed);
            self.event(self.device, 1)
                .store(EVENT_DESC, Ordering::Release);
        } else {
            self.event(self.device, 1)
                .store(EVENT_ENABLE, Ordering::Relaxed);
        }
        fence(Ordering::SeqCst);
        let again = self.notes.as_ref().is_some_and(|t| !t.again.is_empty());
        Ok(again || self.look())
    }
}

struct Parts {
    descriptors: *mut u16,
    driver: *mut u16,
    device: *mut u16,
}

impl Parts {
    /// The parts with the alignments and sizes of 2.8.10.1.
    fn find(memory: &Memory, at: RingAddresses, size: u16) -> Result<Parts, RingFault> {
        let find = |name, user, bytes: u64, align: usize| {
            let host = memory.user(user, bytes).ok_or(RingFault::Outside(name))?;
            if host.align_offset(align) == 0 {
                Ok(host.cast::<u16>())
            } else {
                Err(RingFault::Alignment(name))
            }
        };
        let ring_bytes = u64::from(size).saturating_mul(DESC_BYTES);
        Ok(Parts {
            descriptors: find("descriptor ring", at.descriptors, ring_bytes, 16)?,
            driver: find("driver event suppression", at.available, 4, 4)?,
            device: find("device event suppression", at.used, 4, 4)?,
        })
    }
}
