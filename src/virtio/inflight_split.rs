//! The notes of a split ring: `DescStateSplit` and `QueueRegionSplit` of the vhost-user specification. An entry is a head's.

use super::inflight::{Inflight, InflightError, Layout, Notes};

const LAST_BATCH_HEAD: usize = 12;
const USED_INDEX: usize = 14;
/// An entry's fields.
const OPEN: usize = 0;
const NEXT: usize = 6;
const COUNTER: usize = 8;

/// A split ring's notes.
#[derive(Debug)]
pub(super) struct SplitNotes {
    notes: Notes,
    counter: u64,
    /// Heads that were given back and not published.
    batch: Vec<u16>,
}

impl SplitNotes {
    /// The notes, and the heads that must be done again, the oldest first. `used` is the ring's used index, which tells how much of the last
    /// batch the driver was shown.
    pub(super) fn open(
        inflight: &Inflight,
        queue: u16,
        size: u16,
        used: u16,
    ) -> Result<(SplitNotes, Vec<u16>), InflightError> {
        let notes = inflight.notes(Layout::Split, queue, size)?;
        if notes.in_use() {
            let mut head = notes.get16(LAST_BATCH_HEAD);
            for _ in 0..used.wrapping_sub(notes.get16(USED_INDEX)).min(size) {
                if head >= size {
                    break;
                }
                notes.put8(notes.entry(head, OPEN), 0);
                head = notes.get16(notes.entry(head, NEXT));
            }
        }
        notes.put16(USED_INDEX, used);
        notes.begin();
        let (again, counter) = notes.open_entries();
        Ok((
            SplitNotes {
                notes,
                counter,
                batch: Vec::with_capacity(usize::from(size)),
            },
            again,
        ))
    }

    /// A chain was taken, for the first time.
    pub(super) fn took(&mut self, head: u16) {
        let counter = self.notes.entry(head, COUNTER);
        self.notes.put64(counter, self.counter);
        self.counter = self.counter.wrapping_add(1);
        self.notes.put8(self.notes.entry(head, OPEN), 1);
    }

    /// A chain was given back; the driver does not see it yet.
    pub(super) fn gave(&mut self, head: u16) {
        let last = self.notes.get16(LAST_BATCH_HEAD);
        self.notes.put16(self.notes.entry(head, NEXT), last);
        self.notes.put16(LAST_BATCH_HEAD, head);
        self.batch.push(head);
    }

    /// The driver sees it all.
    pub(super) fn published(&mut self, used: u16) {
        for head in self.batch.drain(..) {
            self.notes.put8(self.notes.entry(head, OPEN), 0);
        }
        self.notes.put16(USED_INDEX, used);
    }
}
