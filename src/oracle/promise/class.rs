//! Whose a data-area write is.
//!
//! It counts as *normal* (the array's own) unless it comes from guest pages that a READ of the same array sectors went to before
//! (`raid1.c:sync_request_write` writes the pages that it read), or touches sectors for which the leg returned an error that nothing has made good since (read-fix
//! and retries, `raid1.c:fix_read_error`, `narrow_write_error`), or goes to a leg without a slot, or goes out before md runs the array. In doubt a write
//! is not normal, and the checks leave it alone.

use std::collections::{BTreeMap, VecDeque};

use crate::block::{LegId, RequestId, SECTOR_BYTES, Sector};
use crate::event::Segment;
use crate::md::ArrayKey;

/// Pieces of memory that READs went to and that are remembered.
const PAGES_MAX: usize = 16_384;

/// Whose a write in flight is, if it is not normal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// Perhaps resync's: from pages that this leg was read into.
    Sync(LegId),
    /// A read error's repair.
    ReadFix,
    /// A failed write's retry.
    Retry,
    /// It cannot be told.
    Other,
}

#[derive(Clone, Copy, Debug)]
struct Page {
    end: u64,
    key: ArrayKey,
    sector: Sector,
    leg: LegId,
}

/// Writes in flight that are not normal, and where READs went to.
#[derive(Debug, Default)]
pub(super) struct Classes {
    special: BTreeMap<RequestId, Class>,
    /// By guest-physical address.
    pages: BTreeMap<u64, Page>,
    in_order: VecDeque<u64>,
}

impl Classes {
    pub(super) fn normal(&self, id: RequestId) -> bool {
        !self.special.contains_key(&id)
    }

    pub(super) fn of(&self, id: RequestId) -> Option<Class> {
        self.special.get(&id).copied()
    }

    pub(super) fn set(&mut self, id: RequestId, class: Class) {
        self.special.insert(id, class);
    }

    pub(super) fn end(&mut self, id: RequestId) -> Option<Class> {
        self.special.remove(&id)
    }

    pub(super) fn clear(&mut self) {
        *self = Classes::default();
    }

    /// A READ of a leg goes to these pieces of memory.
    pub(super) fn remember(
        &mut self,
        leg: LegId,
        segments: &[Segment],
        key: ArrayKey,
        first: Sector,
    ) {
        let mut sector = first;
        for segment in segments {
            let len = u64::from(segment.len);
            let Some(end) = segment.gpa.checked_add(len) else {
                return;
            };
            let inside: Vec<u64> = self
                .pages
                .range(segment.gpa..end)
                .map(|(at, _)| *at)
                .collect();
            for at in inside {
                self.pages.remove(&at);
            }
            let page = Page {
                end,
                key,
                sector,
                leg,
            };
            self.pages.insert(segment.gpa, page);
            self.in_order.push_back(segment.gpa);
            if self.in_order.len() > PAGES_MAX
                && let Some(old) = self.in_order.pop_front()
            {
                self.pages.remove(&old);
            }
            let Some(next) = sector.checked_add(len / SECTOR_BYTES as u64) else {
                return;
            };
            sector = next;
        }
    }

    /// The leg whose READ of this array sector went to this address.
    pub(super) fn read_into(&self, gpa: u64, key: ArrayKey, sector: Sector) -> Option<LegId> {
        let (start, page) = self.pages.range(..=gpa).next_back()?;
        let at = (gpa - start) / SECTOR_BYTES as u64;
        (gpa < page.end && page.key == key && page.sector.checked_add(at) == Some(sector))
            .then_some(page.leg)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_from_the_middle_of_what_was_read_is_known() {
        let mut classes = Classes::default();
        let segments = [(0x10_000, 4096), (0x50_000, 8192)].map(|(gpa, len)| Segment { gpa, len });
        classes.remember(LegId(1), &segments, [7; 16], Sector(100));
        let ask = |gpa, sector| classes.read_into(gpa, [7; 16], Sector(sector));
        assert_eq!(ask(0x10_000, 100), Some(LegId(1)));
        assert_eq!(ask(0x10_200, 101), Some(LegId(1)));
        assert_eq!(ask(0x50_000, 108), Some(LegId(1)));
        assert_eq!(ask(0x51_000, 116), Some(LegId(1)));
        assert_eq!(ask(0x51_000, 117), None);
        assert_eq!(ask(0x52_000, 124), None);
        assert_eq!(classes.read_into(0x10_000, [8; 16], Sector(100)), None);
    }

    #[test]
    fn memory_that_is_read_into_again_is_the_new_reads() {
        let mut classes = Classes::default();
        let at = |gpa| [Segment { gpa, len: 8192 }];
        classes.remember(LegId(0), &at(0x11_000), [7; 16], Sector(0));
        classes.remember(LegId(1), &at(0x10_000), [7; 16], Sector(50));
        assert_eq!(
            classes.read_into(0x11_000, [7; 16], Sector(58)),
            Some(LegId(1))
        );
        assert_eq!(classes.read_into(0x11_000, [7; 16], Sector(0)), None);
    }
}
