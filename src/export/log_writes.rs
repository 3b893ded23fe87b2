//! A leg's log in the format of dm-log-writes, for `replay-log` and everything built on it.
//!
//! Layout (`drivers/md/dm-log-writes.c`, Linux 6.12), little-endian, one log sector of 512 bytes each for the superblock and for every entry: magic u64,
//! version u64, entries u64, sector size u32; then entry (sector u64, sectors u64, flags u64, bytes of text u64) and its data behind it. A mark's text
//! follows its entry in the same sector. As there, a write is logged when it is completed. Where two writes of the same sectors were in flight together,
//! the log keeps what the leg kept.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Seek, SeekFrom, Write};

use super::{Effect, Effects, Side, each};
use crate::block::{
    LegId, Operation, RequestId, SECTOR_BYTES, Sector, SectorRange, Status, to_usize,
};
use crate::event::{Event, EventNo, What};
use crate::journal::Reader;
use crate::mark::Mark;
use crate::shadow::RangeSet;

const MAGIC: u64 = 0x006a_7366_7773_6872;
const VERSION: u64 = 1;
const FLAG_FLUSH: u64 = 1;
const FLAG_DISCARD: u64 = 1 << 2;
const FLAG_MARK: u64 = 1 << 3;
/// Sectors of one discard at most: on a file, replay-log leaves out those above 128 MiB.
const DISCARD_MAX: u64 = (64 << 20) / SECTOR_BYTES as u64;
const ENTRY_BYTES: usize = 32;
/// Bytes of a mark's text, which ends with a NUL.
const MARK_MAX: usize = SECTOR_BYTES - ENTRY_BYTES - 1;

/// What was logged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Logged {
    /// Entries.
    pub entries: u64,
    /// Sectors whose content the journal does not have.
    pub missing: u64,
    /// The first event of which the journal does not have the payload.
    pub first_missing: Option<EventNo>,
}

/// What was stored and not completed yet, by request, with the number at which it was stored.
type Waiting = BTreeMap<RequestId, (EventNo, Vec<Effect>)>;

struct Log<'a, W> {
    out: &'a mut W,
    logged: Logged,
}

impl<W: Write> Log<'_, W> {
    fn entry(&mut self, range: SectorRange, flags: u64, text: &[u8]) -> io::Result<()> {
        let mut sector = [0; SECTOR_BYTES];
        for (at, value) in [range.start().0, range.count(), flags, text.len() as u64]
            .into_iter()
            .enumerate()
        {
            sector[at * 8..at * 8 + 8].copy_from_slice(&value.to_le_bytes());
        }
        sector[ENTRY_BYTES..ENTRY_BYTES + text.len()].copy_from_slice(text);
        self.logged.entries += 1;
        self.out.write_all(&sector)
    }

    fn mark(&mut self, text: &str) -> io::Result<()> {
        let mut bytes: Vec<u8> = text.bytes().filter(|byte| *byte > b' ').collect();
        bytes.truncate(MARK_MAX);
        bytes.push(0);
        self.entry(SectorRange::default(), FLAG_MARK, &bytes)
    }

    fn zeros(&mut self, range: SectorRange) -> io::Result<()> {
        let (mut at, end) = (range.start().0, range.end().0);
        while at < end {
            let count = (end - at).min(DISCARD_MAX);
            let part = SectorRange::new(Sector(at), count).unwrap_or_default();
            self.entry(part, FLAG_DISCARD, &[])?;
            at += count;
        }
        Ok(())
    }

    fn bytes(&mut self, start: Sector, bytes: &[u8]) -> io::Result<()> {
        let count = (bytes.len() / SECTOR_BYTES) as u64;
        let Some(range) = SectorRange::new(start, count) else {
            return Ok(());
        };
        self.entry(range, 0, &[])?;
        self.out.write_all(bytes)
    }
}

/// Writes a leg's log.
///
/// # Errors
/// The journal's and the output's own.
pub fn log_writes<R: Read, W: Write + Seek>(
    reader: &mut Reader<R>,
    leg: LegId,
    side: Side,
    out: &mut W,
) -> io::Result<Logged> {
    let mut head = [0; SECTOR_BYTES];
    head[0..8].copy_from_slice(&MAGIC.to_le_bytes());
    head[8..16].copy_from_slice(&VERSION.to_le_bytes());
    head[24..28].copy_from_slice(&512u32.to_le_bytes());
    out.write_all(&head)?;
    let mut log = Log {
        out,
        logged: Logged::default(),
    };
    let mut effects = Effects::new(leg, side);
    let mut waiting = Waiting::new();
    let mut flushes: BTreeSet<RequestId> = BTreeSet::new();
    each(reader, |event| {
        let changed = effects.of(event);
        match &event.what {
            What::Arrived(arrived)
                if arrived.operation == Operation::Flush && arrived.request.leg == leg =>
            {
                flushes.insert(arrived.request);
            }
            What::Fetched(fetched) => {
                if !changed.is_empty() {
                    waiting.insert(fetched.request, (event.no, changed));
                }
            }
            What::Completed(completed) => {
                if let Some((no, stored)) = waiting.remove(&completed.request) {
                    put(&mut log, &mut waiting, no, event.no, stored)?;
                }
                put(&mut log, &mut waiting, event.no, event.no, changed)?;
                if flushes.remove(&completed.request) && completed.status == Status::Ok {
                    log.entry(SectorRange::default(), FLAG_FLUSH, &[])?;
                }
            }
            What::Abandoned(abandoned) => {
                if let Some((no, stored)) = waiting.remove(&abandoned.request) {
                    put(&mut log, &mut waiting, no, event.no, stored)?;
                }
                flushes.remove(&abandoned.request);
                put(&mut log, &mut waiting, event.no, event.no, changed)?;
            }
            What::Boot { .. }
            | What::Frontend { .. }
            | What::Arrived(_)
            | What::Decided(_)
            | What::Mark(_)
            | What::Quiet { .. }
            | What::Lost { .. }
            | What::Found { .. }
            | What::Restarted { .. }
            | What::Hand { .. }
            | What::Console { .. }
            | What::Initial { .. }
            | What::GuestEnded { .. }
            | What::Evidence { .. }
            | What::End => {
                put(&mut log, &mut waiting, event.no, event.no, changed)?;
                if let Some(text) = mark(event) {
                    log.mark(&text)?;
                }
            }
        }
        Ok(())
    })?;
    let done = log.logged;
    out.seek(SeekFrom::Start(16))?;
    out.write_all(&done.entries.to_le_bytes())?;
    out.flush()?;
    Ok(done)
}

/// Logs changes that the leg took at the number `no`, and cuts them out of older ones that are not logged yet.
fn put<W: Write>(
    log: &mut Log<'_, W>,
    waiting: &mut Waiting,
    no: EventNo,
    now: EventNo,
    changes: Vec<Effect>,
) -> io::Result<()> {
    for change in changes {
        let over = match &change {
            Effect::Bytes { start, bytes } => {
                SectorRange::new(*start, (bytes.len() / SECTOR_BYTES) as u64)
            }
            Effect::Zeros(range) | Effect::Missing(range) => Some(*range),
            Effect::Size(_) => None,
        };
        if let Some(over) = over {
            for (_, changes) in waiting.values_mut().filter(|(older, _)| *older < no) {
                *changes = changes
                    .drain(..)
                    .flat_map(|one| without(one, over))
                    .collect();
            }
        }
        match change {
            Effect::Bytes { start, bytes } => log.bytes(start, &bytes)?,
            Effect::Zeros(range) => log.zeros(range)?,
            Effect::Missing(range) => {
                log.logged.missing += range.count();
                log.logged.first_missing.get_or_insert(now);
            }
            Effect::Size(sectors) => log.mark(&format!("size-{sectors}-#{}", now.0))?,
        }
    }
    Ok(())
}

/// What is left of a change without a range.
fn without(change: Effect, over: SectorRange) -> Vec<Effect> {
    let cut = |range: SectorRange| {
        let mut left = RangeSet::default();
        left.insert(range);
        left.remove(over);
        left.ranges().collect::<Vec<_>>()
    };
    match change {
        Effect::Bytes { start, bytes } => {
            let Some(whole) = SectorRange::new(start, (bytes.len() / SECTOR_BYTES) as u64) else {
                return Vec::new();
            };
            if whole.intersection(over).is_none() {
                return vec![Effect::Bytes { start, bytes }];
            }
            cut(whole)
                .into_iter()
                .map(|part| {
                    let from = to_usize(part.start().0 - start.0) * SECTOR_BYTES;
                    let to = from + to_usize(part.count()) * SECTOR_BYTES;
                    Effect::Bytes {
                        start: part.start(),
                        bytes: bytes[from..to].to_vec(),
                    }
                })
                .collect()
        }
        Effect::Zeros(range) => cut(range).into_iter().map(Effect::Zeros).collect(),
        Effect::Missing(range) => cut(range).into_iter().map(Effect::Missing).collect(),
        Effect::Size(_) => vec![change],
    }
}

/// The name of a mark in the log: no blanks, so that it can be an argument.
fn mark(event: &Event) -> Option<String> {
    let what = match &event.what {
        What::Boot { boot } => format!("boot-{boot}"),
        What::GuestEnded { boot, .. } => format!("boot-{boot}-ended"),
        What::Quiet { id, .. } => format!("quiet-{id}"),
        What::Mark(Mark::StepBegin { step }) => format!("step-{step}-begins"),
        What::Mark(Mark::StepEnd { step, .. }) => format!("step-{step}-ends"),
        What::End => "end".to_owned(),
        What::Frontend { .. }
        | What::Arrived(_)
        | What::Decided(_)
        | What::Fetched(_)
        | What::Completed(_)
        | What::Abandoned(_)
        | What::Mark(_)
        | What::Lost { .. }
        | What::Found { .. }
        | What::Restarted { .. }
        | What::Hand { .. }
        | What::Console { .. }
        | What::Initial { .. }
        | What::Evidence { .. } => return None,
    };
    Some(format!("{what}-#{}", event.no.0))
}
