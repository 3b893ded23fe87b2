//! The notes of a packed ring: `DescStatePacked` and `QueueRegionPacked` of the vhost-user specification. Descriptors are noted themselves,
//! as used ones are written over them; entries come from a free list in the region.
//!
//! The old positions say what is done, the others what is being done: taking a chain counts once `old_free_head` has moved on, giving one back
//! once its used descriptor's flags are in the ring. Chains are given back one by one, each with its own flags.

use super::defs::{PACKED_AVAIL, PACKED_USED};
use super::inflight::{Inflight, InflightError, Layout, Notes};

const FREE_HEAD: usize = 12;
const OLD_FREE_HEAD: usize = 14;
const USED_INDEX: usize = 16;
const OLD_USED_INDEX: usize = 18;
const USED_WRAP: usize = 20;
const OLD_USED_WRAP: usize = 21;
/// An entry's fields.
const OPEN: usize = 0;
const NEXT: usize = 2;
const LAST: usize = 4;
const COUNT: usize = 6;
const COUNTER: usize = 8;
const ID: usize = 16;
const FLAGS: usize = 18;
const LEN: usize = 20;
const ADDRESS: usize = 24;

/// A packed ring's notes.
#[derive(Debug)]
pub(super) struct PackedNotes {
    notes: Notes,
    counter: u64,
}

/// A chain that was in flight.
#[derive(Debug)]
pub(super) struct Noted {
    pub(super) entry: u16,
    pub(super) id: u16,
    pub(super) descriptors: Vec<[u8; 16]>,
}

/// What a region says of its ring.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) notes: PackedNotes,
    /// The next used descriptor and its wrap counter.
    pub(super) used: (u16, bool),
    /// What must be done again, the oldest first.
    pub(super) again: Vec<Noted>,
}

impl PackedNotes {
    /// The notes of a ring whose next used descriptor is `used`, if the region does not know better. `flags` reads a descriptor's.
    pub(super) fn open(
        inflight: &Inflight,
        queue: u16,
        size: u16,
        used: (u16, bool),
        flags: impl Fn(u16) -> u16,
    ) -> Result<Opened, InflightError> {
        let notes = inflight.notes(Layout::Packed, queue, size)?;
        if !notes.in_use() {
            for entry in 0..size {
                notes.put16(notes.entry(entry, NEXT), entry.saturating_add(1));
            }
            for (index, wrap) in [(USED_INDEX, USED_WRAP), (OLD_USED_INDEX, OLD_USED_WRAP)] {
                notes.put16(index, used.0);
                notes.put8(wrap, u8::from(used.1));
            }
            notes.begin();
        }
        let mut this = PackedNotes { notes, counter: 0 };
        let used = this.settle(flags);
        // A taking that was not finished: its entries are still free.
        let mut free = this.notes.get16(OLD_FREE_HEAD);
        for _ in 0..size {
            if free >= size {
                break;
            }
            this.notes.put8(this.notes.entry(free, OPEN), 0);
            free = this.notes.get16(this.notes.entry(free, NEXT));
        }
        let (open, counter) = this.notes.open_entries();
        this.counter = counter;
        let again = open.into_iter().map(|entry| this.noted(entry)).collect();
        Ok(Opened {
            notes: this,
            used,
            again,
        })
    }

    /// Finishes, or takes back, a giving back that was not finished; the next used descriptor.
    fn settle(&mut self, flags: impl Fn(u16) -> u16) -> (u16, bool) {
        let notes = &self.notes;
        let old = (notes.get16(OLD_USED_INDEX), notes.get8(OLD_USED_WRAP) != 0);
        let new = (notes.get16(USED_INDEX), notes.get8(USED_WRAP) != 0);
        let in_ring = |at: u16| at.min(notes.size().saturating_sub(1));
        if old != new {
            let marks = flags(in_ring(old.0)) & (PACKED_AVAIL | PACKED_USED);
            let available = if old.1 { PACKED_AVAIL } else { PACKED_USED };
            if marks != available {
                self.commit();
                return (in_ring(new.0), new.1);
            }
        }
        notes.put16(FREE_HEAD, notes.get16(OLD_FREE_HEAD));
        notes.put16(USED_INDEX, old.0);
        notes.put8(USED_WRAP, u8::from(old.1));
        (in_ring(old.0), old.1)
    }

    fn commit(&self) {
        let notes = &self.notes;
        notes.put16(OLD_FREE_HEAD, notes.get16(FREE_HEAD));
        notes.put8(OLD_USED_WRAP, notes.get8(USED_WRAP));
        // Last: with it the others are known to be there.
        notes.put16(OLD_USED_INDEX, notes.get16(USED_INDEX));
    }

    fn noted(&self, head: u16) -> Noted {
        let notes = &self.notes;
        let mut noted = Noted {
            entry: head,
            id: 0,
            descriptors: Vec::new(),
        };
        let mut entry = head;
        for _ in 0..notes.get16(notes.entry(head, COUNT)).min(notes.size()) {
            if entry >= notes.size() {
                break;
            }
            noted.id = notes.get16(notes.entry(entry, ID));
            let [a0, a1, a2, a3, a4, a5, a6, a7] =
                notes.get64(notes.entry(entry, ADDRESS)).to_le_bytes();
            let [l0, l1, l2, l3] = notes.get32(notes.entry(entry, LEN)).to_le_bytes();
            let [i0, i1] = noted.id.to_le_bytes();
            let [f0, f1] = notes.get16(notes.entry(entry, FLAGS)).to_le_bytes();
            noted.descriptors.push([
                a0, a1, a2, a3, a4, a5, a6, a7, l0, l1, l2, l3, i0, i1, f0, f1,
            ]);
            entry = notes.get16(notes.entry(entry, NEXT));
        }
        noted
    }

    /// A chain was taken; its entry, or none if the region's list of free ones makes no sense (the frontend changed it).
    pub(super) fn took(&mut self, chain: impl Iterator<Item = [u8; 16]>) -> Option<u16> {
        let notes = &self.notes;
        let head = notes.get16(OLD_FREE_HEAD);
        let (mut free, mut last, mut count) = (head, head, 0u16);
        for raw in chain {
            if free >= notes.size() {
                return None;
            }
            let [
                a0,
                a1,
                a2,
                a3,
                a4,
                a5,
                a6,
                a7,
                l0,
                l1,
                l2,
                l3,
                i0,
                i1,
                f0,
                f1,
            ] = raw;
            let address = u64::from_le_bytes([a0, a1, a2, a3, a4, a5, a6, a7]);
            notes.put64(notes.entry(free, ADDRESS), address);
            notes.put32(notes.entry(free, LEN), u32::from_le_bytes([l0, l1, l2, l3]));
            notes.put16(notes.entry(free, ID), u16::from_le_bytes([i0, i1]));
            notes.put16(notes.entry(free, FLAGS), u16::from_le_bytes([f0, f1]));
            (last, count) = (free, count.saturating_add(1));
            free = notes.get16(notes.entry(free, NEXT));
        }
        notes.put16(notes.entry(head, LAST), last);
        notes.put16(notes.entry(head, COUNT), count);
        notes.put64(notes.entry(head, COUNTER), self.counter);
        self.counter = self.counter.wrapping_add(1);
        notes.put8(notes.entry(head, OPEN), 1);
        notes.put16(FREE_HEAD, free);
        notes.put16(OLD_FREE_HEAD, free);
        Some(head)
    }

    /// A chain is given back: `show` writes the flags that the driver looks at; `used` is the next used descriptor afterwards.
    pub(super) fn gave(&mut self, entry: u16, used: (u16, bool), show: impl FnOnce()) {
        let notes = &self.notes;
        if entry < notes.size() {
            let last = notes.get16(notes.entry(entry, LAST));
            notes.put16(notes.entry(last, NEXT), notes.get16(FREE_HEAD));
            notes.put16(FREE_HEAD, entry);
        }
        notes.put8(USED_WRAP, u8::from(used.1));
        notes.put16(USED_INDEX, used.0);
        show();
        if entry < notes.size() {
            notes.put8(notes.entry(entry, OPEN), 0);
        }
        self.commit();
    }
}
