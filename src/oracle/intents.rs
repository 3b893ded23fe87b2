//! What the workload meant: per array sector the set of contents that are acceptable.
//!
//! A write is superseded by one that began after it had ended well. Writes whose times overlap leave either content. A write that failed, or whose
//! guest went away first, leaves its content or what was there before. A discard and an unstamped write leave unknown content.
//! A buffered write supersedes only once a flush that began after it ended has ended: until then a crash may take it back.
//!
//! Memory: an intent is dropped when no sector of it is acceptable any more; a sector keeps the last two that were superseded, for stories. Intents that neither
//! end nor are flushed supersede nothing: where they lie over each other there is room for so many, then anything is acceptable and the run says so.

mod durable;

use std::collections::BTreeMap;

use smallvec::SmallVec;

use super::past::{PastVersions, past_version};
use super::record::{IntentNo, Meant, Part, Record};
use crate::block::{SECTOR_BYTES, Sector, SectorRange, to_usize};
use crate::crypt::{Crypt, Key};
use crate::event::EventNo;
use crate::mark::{Intent, IntentKind};
use crate::md::ArrayKey;
use crate::shadow::{Table, ZERO_DIGEST};

pub(crate) use durable::{DurableVersion, Held};

/// The longest stamped write that is believed, in sectors: 16 times what the agent makes.
const WRITE_MAX: u32 = 1 << 15;
/// The longest other intent that is believed, in sectors.
const OTHER_MAX: u32 = 1 << 21;

/// Intents that a sector has room for.
const CANDIDATES_MAX: usize = 1024;
/// What intents may weigh that lie over others which may still be there: one a sector, and [`OVER_WEIGHT`] each until it is settled.
const WEIGHT_MAX: usize = 1 << 24;
const OVER_WEIGHT: usize = 16;

/// A stamp that was superseded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Old {
    pub(crate) writer: u16,
    pub(crate) sequence: u64,
    pub(crate) digest: u32,
}

/// An array sector.
#[derive(Clone, Debug)]
pub(crate) struct Cell {
    /// Intents whose content is acceptable, oldest first.
    pub(crate) candidates: SmallVec<[IntentNo; 2]>,
    /// What was there before the first intent is acceptable too.
    pub(crate) base: bool,
    /// Legs (a bit each) on which a candidate's content was seen.
    pub(crate) seen: u8,
    /// Legs on which the sector was judged since it was last written.
    pub(crate) judged: u8,
    /// The last ones that were superseded, newest first.
    pub(crate) old: Option<Box<[Option<Old>; 2]>>,
}

/// Whether a content is acceptable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Accept {
    /// It is what this intent meant.
    Yes(IntentNo),
    /// Anything is.
    Any,
    /// It is not.
    No,
}

type OpenKey = (u16, u64, IntentKind, u16);
/// What a request is in the book: one intent, or one for each mirror of a raid10 that it touches.
type Parts = SmallVec<[IntentNo; 1]>;

/// All intents that matter still.
#[derive(Debug, Default)]
pub(crate) struct Book {
    run: u64,
    crypt: Option<Crypt>,
    next: IntentNo,
    records: BTreeMap<IntentNo, Record>,
    open: BTreeMap<OpenKey, Parts>,
    cells: BTreeMap<ArrayKey, Table<Cell>>,
    /// Buffered writes that ended well and wait for a flush.
    unsettled: Vec<IntentNo>,
    flushes: BTreeMap<OpenKey, EventNo>,
    /// By target: the begin of the latest flush that ended well.
    flushed_to: BTreeMap<u16, EventNo>,
    /// What intents weigh that lie over others.
    weight: usize,
    /// Requests for which there was no room.
    crowded: u64,
    /// Superseded versions, where they are kept.
    past: Option<BTreeMap<ArrayKey, Table<PastVersions>>>,
}

impl Book {
    pub(crate) fn new(run: u64, key: Option<&Key>, keeps_versions: bool) -> Book {
        Book {
            run,
            crypt: key.map(Crypt::new),
            past: keeps_versions.then(BTreeMap::new),
            ..Book::default()
        }
    }

    /// The content on the array: the stamp's, encrypted if its target is.
    pub(crate) fn bytes(&self, meant: &Meant) -> [u8; SECTOR_BYTES] {
        let mut bytes = meant.stamp.to_sector();
        if let (Some(crypt), Some(iv)) = (&self.crypt, meant.iv) {
            crypt.encrypt(iv, &mut bytes);
        }
        bytes
    }

    /// What a target that has `iv` there makes of a sector of the array.
    pub(crate) fn plain(&self, iv: Option<Sector>, bytes: &[u8]) -> Vec<u8> {
        let mut plain = bytes.to_vec();
        if let (Some(crypt), Some(iv)) = (&self.crypt, iv)
            && bytes.len() == SECTOR_BYTES
        {
            crypt.decrypt(iv, &mut plain);
        }
        plain
    }

    pub(crate) fn record(&self, no: IntentNo) -> Option<&Record> {
        self.records.get(&no)
    }

    pub(crate) fn cell(&self, key: ArrayKey, sector: Sector) -> Option<&Cell> {
        self.cells.get(&key)?.get(sector)
    }

    pub(crate) fn cell_mut(&mut self, key: ArrayKey, sector: Sector) -> Option<&mut Cell> {
        self.cells.get_mut(&key)?.get_mut(sector)
    }

    pub(crate) fn cells(&self) -> impl Iterator<Item = (ArrayKey, Sector, &Cell)> {
        self.cells
            .iter()
            .flat_map(|(key, table)| table.iter().map(|(sector, cell)| (*key, sector, cell)))
    }

    /// A request begins, with these parts, of which the request's first sector has the IV `iv` if its target is encrypted. Tells whether it is short
    /// enough to be believed.
    pub(crate) fn begin(
        &mut self,
        no: EventNo,
        time_us: u64,
        intent: &Intent,
        parts: &[Part],
        iv: Option<Sector>,
    ) -> bool {
        let most = match intent.kind {
            IntentKind::Write => WRITE_MAX,
            IntentKind::Discard | IntentKind::Unstamped | IntentKind::Flush => OTHER_MAX,
        };
        if intent.count > most {
            return false;
        }
        let begun = parts
            .iter()
            .map(|part| self.begin_part(no, time_us, intent, part, iv))
            .collect();
        self.open.insert(open_key(intent), begun);
        true
    }

    /// As [`Book::begin`], where what is written is not known: anything is legal there, and what was meant before no longer.
    pub(crate) fn begin_unknown(
        &mut self,
        no: EventNo,
        time_us: u64,
        intent: &Intent,
        parts: &[Part],
    ) {
        if parts.is_empty() || intent.count > OTHER_MAX {
            return;
        }
        let unstamped = Intent {
            kind: IntentKind::Unstamped,
            ..*intent
        };
        let begun = parts
            .iter()
            .map(|part| self.begin_part(no, time_us, &unstamped, part, None))
            .collect();
        self.open.insert(open_key(intent), begun);
    }

    fn begin_part(
        &mut self,
        no: EventNo,
        time_us: u64,
        intent: &Intent,
        part: &Part,
        iv: Option<Sector>,
    ) -> IntentNo {
        let id = self.next;
        self.next += 1;
        let mut record = Record {
            no: id,
            intent: *intent,
            key: part.key,
            array: part.array,
            striped: part.striped,
            begin: no,
            begin_us: time_us,
            end: EventNo(0),
            end_us: 0,
            ok: false,
            digests: Box::default(),
            over: false,
            iv,
            cells: u32::try_from(part.array.count()).expect("not more than the request has"),
        };
        let table = self.cells.entry(part.key).or_default();
        let mut over = 0;
        let mut full = false;
        for sector in part.array.sectors() {
            let cell = table.slot(sector).get_or_insert_with(|| Cell {
                candidates: SmallVec::new(),
                base: true,
                seen: 0,
                judged: 0,
                old: None,
            });
            over += usize::from(!cell.candidates.is_empty());
            full |= cell.candidates.len() >= CANDIDATES_MAX;
            cell.seen = 0;
            cell.judged = 0;
        }
        record.over = over > 0;
        full |= record.over && self.weight + over + OVER_WEIGHT > WEIGHT_MAX;
        if !full && record.over {
            self.weight += over + OVER_WEIGHT;
        }
        self.crowded += u64::from(full);
        for sector in part.array.sectors() {
            match table.get_mut(sector) {
                Some(cell) if full => cell.base = true,
                Some(cell) => cell.candidates.push(id),
                None => {}
            }
        }
        if full {
            return id;
        }
        if intent.kind == IntentKind::Write {
            record.digests = part
                .array
                .sectors()
                .filter_map(|sector| record.offset(sector))
                .map(|at| crc32fast::hash(&self.bytes(&record.meant_at(self.run, at))))
                .collect();
        }
        self.records.insert(id, record);
        id
    }

    /// Requests for which there was no room: what they wrote was not judged.
    pub(crate) fn crowded(&self) -> u64 {
        self.crowded
    }

    /// A request ended: its parts. Superseding is [`Book::settle`]'s.
    pub(crate) fn end(
        &mut self,
        no: EventNo,
        time_us: u64,
        intent: &Intent,
        errno: u16,
    ) -> Option<Parts> {
        let parts = self.open.remove(&open_key(intent))?;
        for id in &parts {
            let Some(record) = self.records.get_mut(id) else {
                continue;
            };
            record.end = no;
            record.end_us = time_us;
            record.ok = errno == 0;
            if record.ok && record.intent.flags.buffered {
                self.unsettled.push(*id);
            }
        }
        Some(parts)
    }

    /// The request's content is now sure: what ended before it began is no longer acceptable.
    pub(crate) fn settle(&mut self, id: IntentNo) {
        let Some(record) = self.records.get_mut(&id) else {
            return;
        };
        let (begin, key, array) = (record.begin, record.key, record.array);
        if std::mem::take(&mut record.over) {
            self.weight -= OVER_WEIGHT;
        }
        let mut dropped: Vec<IntentNo> = Vec::new();
        if let Some(table) = self.cells.get_mut(&key) {
            for sector in array.sectors() {
                let Some(cell) = table.get_mut(sector) else {
                    continue;
                };
                if !cell.candidates.contains(&id) {
                    continue;
                }
                cell.base = false;
                let records = &self.records;
                let mut old: SmallVec<[Old; 2]> = SmallVec::new();
                let before = cell.candidates.len();
                cell.candidates.retain(|other| {
                    let Some(record) = records.get(other) else {
                        return false;
                    };
                    let superseded = *other != id && record.ended() && record.end < begin;
                    if superseded {
                        dropped.push(*other);
                        if let Some(past) = &mut self.past {
                            let flushed = &self.flushed_to;
                            let slot = past.entry(key).or_default().slot(sector);
                            let kept = slot.get_or_insert_default();
                            kept.push(past_version(record, sector), flushed);
                        }
                        if let Some(digest) = record.digest(sector) {
                            old.push(Old {
                                writer: record.intent.writer,
                                sequence: record.intent.sequence,
                                digest,
                            });
                        }
                    }
                    !superseded
                });
                // One of a sector's weighs nothing.
                self.weight -= before - cell.candidates.len();
                for one in old {
                    let kept = cell.old.get_or_insert_with(|| Box::new([None; 2]));
                    kept[1] = kept[0];
                    kept[0] = Some(one);
                }
            }
        }
        for other in dropped {
            if let Some(record) = self.records.get_mut(&other) {
                record.cells -= 1;
                if record.cells == 0 {
                    self.weight -= if record.over { OVER_WEIGHT } else { 0 };
                    self.records.remove(&other);
                }
            }
        }
    }

    /// A flush of the workload begins.
    pub(crate) fn flush_begin(&mut self, no: EventNo, intent: &Intent) {
        self.flushes.insert(open_key(intent), no);
    }

    /// A flush ended well: the buffered writes to its target that had ended before it began are settled and given back, to be judged.
    pub(crate) fn flush_end(&mut self, intent: &Intent, errno: u16) -> Vec<IntentNo> {
        let Some(begin) = self.flushes.remove(&open_key(intent)) else {
            return Vec::new();
        };
        if errno != 0 {
            return Vec::new();
        }
        let flushed = self.flushed_to.entry(intent.target).or_default();
        *flushed = begin.max(*flushed);
        self.settle_unsettled(|record| record.intent.target == intent.target && record.end < begin)
    }

    /// The sectors of an array that the workload wrote.
    pub(crate) fn sectors(&self, key: ArrayKey) -> impl Iterator<Item = Sector> {
        let cells = self.cells.get(&key).into_iter();
        cells.flat_map(|table| table.iter().map(|(sector, _)| sector))
    }

    /// When the first of the writes began that an array sector may hold.
    pub(crate) fn begun(&self, key: ArrayKey, sector: Sector) -> Option<EventNo> {
        let cell = self.cell(key, sector)?;
        let records = cell.candidates.iter().filter_map(|id| self.records.get(id));
        records.map(|record| record.begin).min()
    }

    /// The guest synced all: every buffered write that ended is settled and given back.
    pub(crate) fn synced(&mut self) -> Vec<IntentNo> {
        self.settle_unsettled(|_| true)
    }

    fn settle_unsettled(&mut self, which: impl Fn(&Record) -> bool) -> Vec<IntentNo> {
        let (settled, rest): (Vec<_>, Vec<_>) = std::mem::take(&mut self.unsettled)
            .into_iter()
            .filter(|id| self.records.contains_key(id))
            .partition(|id| self.records.get(id).is_some_and(&which));
        self.unsettled = rest;
        for id in &settled {
            self.settle(*id);
        }
        settled
    }

    /// The guest is gone: what is open ends here without success, and buffered writes that no flush covered may be lost.
    pub(crate) fn guest_gone(&mut self, no: EventNo) {
        for id in std::mem::take(&mut self.open).into_values().flatten() {
            if let Some(record) = self.records.get_mut(&id) {
                record.end = no;
                record.ok = false;
            }
        }
        self.flushes.clear();
        for id in std::mem::take(&mut self.unsettled) {
            if let Some(record) = self.records.get_mut(&id) {
                record.ok = false;
            }
        }
    }

    /// Whether a content is acceptable in a cell.
    pub(crate) fn accepts(&self, cell: &Cell, sector: Sector, digest: Option<u32>) -> Accept {
        let mut any = cell.base;
        for id in &cell.candidates {
            let Some(record) = self.records.get(id) else {
                continue;
            };
            match (record.digest(sector), digest) {
                (Some(meant), Some(is)) if meant == is => return Accept::Yes(*id),
                (Some(_), _) => {}
                (None, Some(ZERO_DIGEST)) if record.intent.kind == IntentKind::Discard => {
                    return Accept::Yes(*id);
                }
                (None, _) => any = true,
            }
        }
        if any { Accept::Any } else { Accept::No }
    }

    /// The sectors of a range where a content is not acceptable.
    pub(crate) fn unacceptable(
        &self,
        key: ArrayKey,
        range: SectorRange,
        digest: Option<u32>,
    ) -> Vec<Sector> {
        let Some(table) = self.cells.get(&key) else {
            return Vec::new();
        };
        table
            .range(range)
            .filter(|(sector, cell)| self.accepts(cell, *sector, digest) == Accept::No)
            .map(|(sector, _)| sector)
            .collect()
    }

    /// Whether one of the cell's intents failed, or its guest went away first.
    pub(crate) fn failed(&self, cell: &Cell) -> bool {
        cell.candidates
            .iter()
            .any(|id| self.records.get(id).is_some_and(|r| r.ended() && !r.ok))
    }

    /// The intent that a wrong content is measured against: the newest that ended well, else the newest.
    pub(crate) fn expected(&self, cell: &Cell) -> Option<IntentNo> {
        let newest = |ok: bool| {
            cell.candidates
                .iter()
                .rev()
                .find(|id| self.records.get(id).is_some_and(|r| !ok || r.ok))
                .copied()
        };
        newest(true).or_else(|| newest(false))
    }

    /// Who meant this content, for any sector of any array: looks through all intents that matter still.
    pub(crate) fn whose(&self, digest: u32) -> Option<(IntentNo, Sector)> {
        self.records.iter().find_map(|(id, record)| {
            let at = record.digests.iter().position(|one| *one == digest)?;
            Some((*id, Sector(record.array.start().0 + at as u64)))
        })
    }

    /// Whether anything begun has not ended.
    pub(crate) fn idle(&self) -> bool {
        self.open.is_empty()
    }

    /// Whether the only request in the guest is one that says so, and these sectors are its own.
    pub(crate) fn alone(&self, key: ArrayKey, range: SectorRange) -> bool {
        let mut open = self.open.values();
        let (Some(only), None) = (open.next(), open.next()) else {
            return false;
        };
        only.iter()
            .filter_map(|id| self.records.get(id))
            .any(|part| part.intent.flags.alone && part.key == key && part.array.covers(range))
    }

    /// When an open flush began.
    pub(crate) fn flush_began(&self, intent: &Intent) -> Option<EventNo> {
        self.flushes.get(&open_key(intent)).copied()
    }

    /// Whether an intent on this cell has not ended.
    pub(crate) fn busy(&self, cell: &Cell) -> bool {
        cell.candidates
            .iter()
            .any(|id| self.records.get(id).is_some_and(|r| !r.ended()))
    }

    /// Whether one of the cell's intents is of this kind.
    pub(crate) fn has(&self, cell: &Cell, kind: IntentKind) -> bool {
        cell.candidates
            .iter()
            .any(|id| self.records.get(id).is_some_and(|r| r.intent.kind == kind))
    }

    /// The byte of a buffer where an array sector of an intent lies.
    pub(crate) fn buffer_offset(record: &Record, sector: Sector) -> Option<usize> {
        Some(to_usize(record.offset(sector)?) * crate::block::SECTOR_BYTES)
    }
}

fn open_key(intent: &Intent) -> OpenKey {
    (intent.writer, intent.sequence, intent.kind, intent.target)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mark::{IntentFlags, Phase};
    use crate::md::DECLARED;
    use proptest::prelude::*;

    fn intent(sequence: u64, sector: u64, count: u32) -> Intent {
        Intent {
            phase: Phase::Begin,
            kind: IntentKind::Write,
            target: 1,
            writer: 1,
            sequence,
            sector: Sector(sector),
            count,
            slot: 0,
            flags: IntentFlags::default(),
        }
    }

    proptest! {
        /// What ended well and lies over nothing that may be there weighs nothing, however often its sectors were written before.
        #[test]
        fn only_what_lies_over_others_weighs(steps in prop::collection::vec((0u64..40, 1u32..20, 0u8..4), 0..60)) {
            let mut book = Book::default();
            let mut no = 0;
            let mut write = |book: &mut Book, sector: u64, count: u32, ends: u8| {
                no += 2;
                let array = SectorRange::new(Sector(sector), count.into()).unwrap();
                let part = Part { key: DECLARED, array, striped: None };
                let one = intent(no, sector, count);
                assert!(book.begin(EventNo(no), 0, &one, &[part], None));
                if ends > 0 {
                    let errno = u16::from(ends == 1);
                    let parts = book.end(EventNo(no + 1), 0, &one, errno).unwrap();
                    for id in parts.into_iter().filter(|_| errno == 0) {
                        book.settle(id);
                    }
                }
            };
            for (sector, count, ends) in steps {
                write(&mut book, sector, count, ends);
                let over = |cell: &Cell| cell.candidates.len() - 1;
                let sectors: usize = book.cells().map(|(_, _, cell)| over(cell)).sum();
                let records = book.records.values().filter(|record| record.over).count();
                prop_assert_eq!(book.weight, sectors + OVER_WEIGHT * records);
            }
            let open = book.records.values().any(|record| !record.ended());
            write(&mut book, 0, 64, 2);
            prop_assert!(open || book.weight == 0);
            prop_assert_eq!(book.crowded(), 0);
        }
    }
}
