//! Whose a data-area write is.
//!
//! It counts as *normal* (the array's own) unless it comes, if in part, from guest pages that a READ of the same array sectors went to before
//! (`raid1.c:sync_request_write` writes the pages that it read), or touches sectors for which the leg returned an error that nothing has made good since (read-fix
//! and retries, `raid1.c:fix_read_error`, `narrow_write_error`), or goes to a leg without a slot, or goes out before md runs the array. In doubt a write
//! is not normal, and the checks leave it alone.

use std::collections::{BTreeMap, VecDeque};

use crate::block::{LegId, RequestId, SECTOR_BYTES, Sector};
use crate::event::{EventNo, Segment};
use crate::md::ArrayKey;

/// Pieces of memory that READs went to and that are remembered: more than are in flight at once, so that none is forgotten between a read of resync's and the
/// write of it.
const PAGES_MAX: usize = 65_536;

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
    read: EventNo,
    /// Its number in `in_order`.
    serial: u64,
}

/// Writes in flight that are not normal, and where READs went to.
#[derive(Debug, Default)]
pub(super) struct Classes {
    special: BTreeMap<RequestId, Class>,
    /// By guest-physical address.
    pages: BTreeMap<u64, Page>,
    /// Where pieces begin and their numbers, the oldest first; those that are gone since too.
    in_order: VecDeque<(u64, u64)>,
    serial: u64,
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

    /// A READ of a leg, which arrived with `read`, goes to these pieces of memory.
    pub(super) fn remember(
        &mut self,
        read: EventNo,
        leg: LegId,
        segments: &[Segment],
        key: ArrayKey,
        first: Sector,
    ) {
        let mut sector = first;
        for segment in segments {
            let len = u64::from(segment.len);
            if len == 0 {
                continue;
            }
            let Some(end) = segment.gpa.checked_add(len) else {
                return;
            };
            self.carve(segment.gpa, end);
            let page = Page {
                end,
                key,
                sector,
                leg,
                read,
                serial: 0,
            };
            self.put(segment.gpa, page);
            let Some(next) = sector.checked_add(len / SECTOR_BYTES as u64) else {
                return;
            };
            sector = next;
        }
    }

    /// Whether a WRITE from these pieces of memory to this array sector and on has any that READs of the same sectors went to: the block layer may join one of
    /// the array's own with one of resync's.
    pub(super) fn any_read_into(&self, segments: &[Segment], key: ArrayKey, first: Sector) -> bool {
        let mut bytes = 0;
        !self.pages.is_empty()
            && segments.iter().any(|segment| {
                let sector = first.checked_add(bytes / SECTOR_BYTES as u64);
                bytes += u64::from(segment.len);
                sector.is_some_and(|sector| self.read_into(segment.gpa, key, sector).is_some())
            })
    }

    /// Forgets what went to this memory, and keeps what lies before and behind it: resync reads into several buffers with one request and has each back for
    /// the next read as soon as its own write is done.
    fn carve(&mut self, start: u64, end: u64) {
        while let Some((&at, &page)) = self.pages.range(..end).next_back() {
            if page.end <= start {
                return;
            }
            self.pages.remove(&at);
            let behind = (end - at) / SECTOR_BYTES as u64;
            if end < page.end
                && let Some(sector) = page.sector.checked_add(behind)
            {
                self.put(end, Page { sector, ..page });
            }
            if at < start {
                self.put(at, Page { end: start, ..page });
            }
        }
    }

    fn put(&mut self, gpa: u64, page: Page) {
        self.serial += 1;
        let serial = self.serial;
        self.pages.insert(gpa, Page { serial, ..page });
        self.in_order.push_back((gpa, serial));
        if self.in_order.len() > PAGES_MAX
            && let Some((old, serial)) = self.in_order.pop_front()
            && self
                .pages
                .get(&old)
                .is_some_and(|page| page.serial == serial)
        {
            self.pages.remove(&old);
        }
    }

    /// The leg whose READ of this array sector went to this address, and with which event it arrived.
    pub(super) fn read_into(
        &self,
        gpa: u64,
        key: ArrayKey,
        sector: Sector,
    ) -> Option<(LegId, EventNo)> {
        let (start, page) = self.pages.range(..=gpa).next_back()?;
        let at = (gpa - start) / SECTOR_BYTES as u64;
        (gpa < page.end && page.key == key && page.sector.checked_add(at) == Some(sector))
            .then_some((page.leg, page.read))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(uuid: u8) -> ArrayKey {
        ArrayKey {
            uuid: [uuid; 16],
            mirror: 0,
        }
    }

    #[test]
    fn a_write_from_the_middle_of_what_was_read_is_known() {
        let mut classes = Classes::default();
        let segments = [(0x10_000, 4096), (0x50_000, 8192)].map(|(gpa, len)| Segment { gpa, len });
        classes.remember(EventNo(3), LegId(1), &segments, key(7), Sector(100));
        let ask = |gpa, sector| classes.read_into(gpa, key(7), Sector(sector));
        assert_eq!(ask(0x10_000, 100), Some((LegId(1), EventNo(3))));
        assert_eq!(ask(0x10_200, 101), Some((LegId(1), EventNo(3))));
        assert_eq!(ask(0x50_000, 108), Some((LegId(1), EventNo(3))));
        assert_eq!(ask(0x51_000, 116), Some((LegId(1), EventNo(3))));
        assert_eq!(ask(0x51_000, 117), None);
        assert_eq!(ask(0x52_000, 124), None);
        assert_eq!(classes.read_into(0x10_000, key(8), Sector(100)), None);
    }

    #[test]
    fn memory_that_is_read_into_again_is_the_new_reads() {
        let mut classes = Classes::default();
        let at = |gpa| [Segment { gpa, len: 8192 }];
        classes.remember(EventNo(3), LegId(0), &at(0x11_000), key(7), Sector(0));
        classes.remember(EventNo(5), LegId(1), &at(0x10_000), key(7), Sector(50));
        assert_eq!(
            classes.read_into(0x11_000, key(7), Sector(58)),
            Some((LegId(1), EventNo(5)))
        );
        assert_eq!(classes.read_into(0x11_000, key(7), Sector(0)), None);
    }

    #[test]
    fn what_is_read_into_again_in_part_keeps_the_rest() {
        let mut classes = Classes::default();
        let at = |gpa, len| [Segment { gpa, len }];
        classes.remember(
            EventNo(3),
            LegId(0),
            &at(0x10_000, 0x6000),
            key(7),
            Sector(800),
        );
        classes.remember(
            EventNo(3),
            LegId(0),
            &at(0x10_000, 0x1000),
            key(7),
            Sector(2000),
        );
        classes.remember(
            EventNo(3),
            LegId(1),
            &at(0x13_000, 0x1000),
            key(7),
            Sector(3000),
        );
        let ask = |gpa, sector| classes.read_into(gpa, key(7), Sector(sector));
        assert_eq!(ask(0x10_000, 800), None);
        assert_eq!(ask(0x10_000, 2000), Some((LegId(0), EventNo(3))));
        assert_eq!(ask(0x11_000, 808), Some((LegId(0), EventNo(3))));
        assert_eq!(ask(0x12_e00, 823), Some((LegId(0), EventNo(3))));
        assert_eq!(ask(0x13_000, 824), None);
        assert_eq!(ask(0x13_000, 3000), Some((LegId(1), EventNo(3))));
        assert_eq!(ask(0x14_000, 832), Some((LegId(0), EventNo(3))));
        assert_eq!(ask(0x15_e00, 847), Some((LegId(0), EventNo(3))));
        assert_eq!(ask(0x16_000, 848), None);
        let write = [(0x90_000, 512), (0x11_200, 4096)].map(|(gpa, len)| Segment { gpa, len });
        assert!(classes.any_read_into(&write, key(7), Sector(808)));
        assert!(!classes.any_read_into(&write, key(7), Sector(809)));
    }

    #[test]
    fn only_the_oldest_are_forgotten() {
        let mut classes = Classes::default();
        let buffer = [Segment {
            gpa: 0x10_000,
            len: 4096,
        }];
        for sector in 0..=PAGES_MAX as u64 {
            classes.remember(EventNo(3), LegId(0), &buffer, key(7), Sector(sector));
        }
        let last = PAGES_MAX as u64;
        assert_eq!(
            classes.read_into(0x10_000, key(7), Sector(last)),
            Some((LegId(0), EventNo(3)))
        );
        assert!(classes.in_order.len() <= PAGES_MAX);
    }
}
