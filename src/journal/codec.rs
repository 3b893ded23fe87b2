//! Events to bytes and back, written by hand: this is on every request's way. Layout: `docs/journal.md`.

use smallvec::SmallVec;

use crate::block::{LegId, Operation, RequestId, SECTOR_BYTES, Sector, SectorRange, Status};
use crate::event::{
    Abandoned, Arrived, Completed, Content, Decided, Digests, Event, EventNo, Fetched, Segment,
    What,
};
use crate::mark::{Intent, IntentFlags, IntentKind, Mark, PageRun, Pages, Phase};

/// The kind of the header record; events begin at 1.
pub(super) const HEADER: u8 = 0;
const BOOT: u8 = 1;
const FRONTEND: u8 = 2;
const ARRIVED: u8 = 3;
const DECIDED: u8 = 4;
const FETCHED: u8 = 5;
const COMPLETED: u8 = 6;
const ABANDONED: u8 = 7;
const MARK_INTENT: u8 = 8;
const MARK_PAGES: u8 = 9;
const MARK_OTHER: u8 = 10;
const QUIET: u8 = 11;
const CONSOLE: u8 = 12;
const INITIAL: u8 = 13;
const GUEST_ENDED: u8 = 14;
const EVIDENCE: u8 = 15;
const END: u8 = 16;
const LOST: u8 = 17;
const HAND: u8 = 18;
const RESTARTED: u8 = 19;
const FOUND: u8 = 20;

/// Appends one event's payload.
pub fn encode(event: &Event, out: &mut Vec<u8>) {
    out.push(kind(&event.what));
    varint(event.no.0, out);
    varint(event.time_us, out);
    match &event.what {
        What::Boot { boot } => varint(u64::from(*boot), out),
        What::Frontend { leg, change } => {
            out.push(leg.0);
            json(change, out);
        }
        What::Arrived(arrived) => put_arrived(arrived, out),
        What::Decided(decided) => {
            request(decided.request, out);
            varint(u64::from(decided.rule), out);
            json(&decided.action, out);
        }
        What::Fetched(fetched) => {
            request(fetched.request, out);
            digests(&fetched.digests, out);
            optional(fetched.payload.as_deref(), out);
        }
        What::Completed(completed) => put_completed(completed, out),
        What::Abandoned(abandoned) => {
            request(abandoned.request, out);
            out.push(u8::from(abandoned.applied));
        }
        What::Mark(Mark::Intent(intent)) => put_intent(intent, out),
        What::Mark(Mark::Pages(pages)) => {
            varint(u64::from(pages.writer), out);
            varint(u64::from(pages.slot), out);
            varint(u64::from(pages.first_page), out);
            out.push(u8::from(pages.pinned));
            varint(pages.runs.len() as u64, out);
            for run in &pages.runs {
                varint(run.frame, out);
                varint(u64::from(run.count), out);
            }
        }
        What::Mark(mark) => json(mark, out),
        What::Quiet { id, pending } => {
            varint(u64::from(*id), out);
            varint(pending.len() as u64, out);
            for id in pending {
                request(*id, out);
            }
        }
        What::Console { line } => blob(line.as_bytes(), out),
        What::Initial { leg, start, bytes } => {
            out.push(leg.0);
            varint(start.0, out);
            blob(bytes, out);
        }
        What::Lost {
            leg,
            start,
            digests: now,
            payload,
        }
        | What::Found {
            leg,
            start,
            digests: now,
            payload,
        } => {
            out.push(leg.0);
            varint(start.0, out);
            digests(now, out);
            optional(payload.as_deref(), out);
        }
        What::Restarted { kept, missing } => {
            varint(*kept, out);
            varint(*missing, out);
        }
        What::Hand { what, added } => {
            blob(what.as_bytes(), out);
            json(added, out);
        }
        What::GuestEnded { boot, how } => {
            varint(u64::from(*boot), out);
            json(how, out);
        }
        What::Evidence {
            leg,
            sector,
            version,
            bytes,
        } => {
            out.push(leg.0);
            varint(sector.0, out);
            varint(version.0, out);
            blob(bytes, out);
        }
        What::End => {}
    }
}

fn kind(what: &What) -> u8 {
    match what {
        What::Boot { .. } => BOOT,
        What::Frontend { .. } => FRONTEND,
        What::Arrived(_) => ARRIVED,
        What::Decided(_) => DECIDED,
        What::Fetched(_) => FETCHED,
        What::Completed(_) => COMPLETED,
        What::Abandoned(_) => ABANDONED,
        What::Mark(Mark::Intent(_)) => MARK_INTENT,
        What::Mark(Mark::Pages(_)) => MARK_PAGES,
        What::Mark(_) => MARK_OTHER,
        What::Quiet { .. } => QUIET,
        What::Console { .. } => CONSOLE,
        What::Initial { .. } => INITIAL,
        What::GuestEnded { .. } => GUEST_ENDED,
        What::Evidence { .. } => EVIDENCE,
        What::End => END,
        What::Lost { .. } => LOST,
        What::Hand { .. } => HAND,
        What::Restarted { .. } => RESTARTED,
        What::Found { .. } => FOUND,
    }
}

fn varint(mut value: u64, out: &mut Vec<u8>) {
    loop {
        // The low seven bits fit a byte.
        let low = value.to_le_bytes()[0] & 0x7f;
        value >>= 7;
        if value == 0 {
            out.push(low);
            return;
        }
        out.push(low | 0x80);
    }
}

fn blob(bytes: &[u8], out: &mut Vec<u8>) {
    varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

fn optional(bytes: Option<&[u8]>, out: &mut Vec<u8>) {
    out.push(u8::from(bytes.is_some()));
    if let Some(bytes) = bytes {
        blob(bytes, out);
    }
}

fn json<T: serde::Serialize>(value: &T, out: &mut Vec<u8>) {
    let bytes = serde_json::to_vec(value).expect("plain data");
    blob(&bytes, out);
}

fn request(id: RequestId, out: &mut Vec<u8>) {
    out.push(id.leg.0);
    varint(id.number, out);
}

fn digests(digests: &[u32], out: &mut Vec<u8>) {
    varint(digests.len() as u64, out);
    out.reserve(digests.len() * 4);
    for digest in digests {
        out.extend_from_slice(&digest.to_le_bytes());
    }
}

fn put_arrived(arrived: &Arrived, out: &mut Vec<u8>) {
    request(arrived.request, out);
    varint(u64::from(arrived.queue), out);
    let (code, number) = match arrived.operation {
        Operation::Read => (0, None),
        Operation::Write => (1, None),
        Operation::Flush => (2, None),
        Operation::Discard => (3, None),
        Operation::WriteZeroes => (4, None),
        Operation::WriteZeroesUnmap => (5, None),
        Operation::GetId => (6, None),
        Operation::Unsupported(number) => (7, Some(number)),
    };
    out.push(code);
    if let Some(number) = number {
        varint(u64::from(number), out);
    }
    varint(arrived.ranges.len() as u64, out);
    for range in &arrived.ranges {
        varint(range.start().0, out);
        varint(range.count(), out);
    }
    varint(arrived.segments.len() as u64, out);
    for segment in &arrived.segments {
        varint(segment.gpa, out);
        varint(u64::from(segment.len), out);
    }
}

fn put_completed(completed: &Completed, out: &mut Vec<u8>) {
    request(completed.request, out);
    let status = match completed.status {
        Status::Ok => 0,
        Status::IoErr => 1,
        Status::Unsupported => 2,
    };
    match &completed.content {
        Content::NotTaken => out.push(status),
        Content::Same => out.push(status | 1 << 4),
        Content::Changed(now) => {
            out.push(status | 2 << 4);
            digests(now, out);
        }
        Content::Returned(given) => {
            out.push(status | 3 << 4);
            digests(given, out);
        }
    }
}

fn put_intent(intent: &Intent, out: &mut Vec<u8>) {
    let (ended, errno) = match intent.phase {
        Phase::Begin => (0, 0),
        Phase::End { errno } => (1, errno),
    };
    let kind = match intent.kind {
        IntentKind::Write => 0,
        IntentKind::Discard => 1,
        IntentKind::Flush => 2,
        IntentKind::Unstamped => 3,
    };
    out.push(ended | kind << 1);
    let flags = intent.flags;
    out.push(
        u8::from(flags.immutable)
            | u8::from(flags.dsync) << 1
            | u8::from(flags.buffered) << 2
            | u8::from(flags.pinned) << 3
            | u8::from(flags.alone) << 4,
    );
    for value in [errno, intent.target, intent.writer, intent.slot] {
        varint(u64::from(value), out);
    }
    varint(intent.sequence, out);
    varint(intent.sector.0, out);
    varint(u64::from(intent.count), out);
}

/// Reads one event's payload; `None` for anything that [`encode`] did not make.
pub fn decode(payload: &[u8]) -> Option<Event> {
    let mut from = Bytes(payload);
    let kind = from.byte()?;
    let no = EventNo(from.varint()?);
    let time_us = from.varint()?;
    let what = from.what(kind)?;
    from.0.is_empty().then_some(Event { no, time_us, what })
}

/// What is left to read.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (&first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(first)
    }

    fn flag(&mut self) -> Option<bool> {
        match self.byte()? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return None;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn u16(&mut self) -> Option<u16> {
        u16::try_from(self.varint()?).ok()
    }

    fn u32(&mut self) -> Option<u32> {
        u32::try_from(self.varint()?).ok()
    }

    fn take(&mut self, count: u64) -> Option<&'a [u8]> {
        let count = usize::try_from(count).ok()?;
        if count > self.0.len() {
            return None;
        }
        let (head, rest) = self.0.split_at(count);
        self.0 = rest;
        Some(head)
    }

    fn blob(&mut self) -> Option<&'a [u8]> {
        let count = self.varint()?;
        self.take(count)
    }

    fn json<T: serde::de::DeserializeOwned>(&mut self) -> Option<T> {
        serde_json::from_slice(self.blob()?).ok()
    }

    fn leg(&mut self) -> Option<LegId> {
        self.byte().map(LegId)
    }

    fn request(&mut self) -> Option<RequestId> {
        Some(RequestId {
            leg: self.leg()?,
            number: self.varint()?,
        })
    }

    fn digests(&mut self) -> Option<Digests> {
        let count = self.varint()?;
        let bytes = self.take(count.checked_mul(4)?)?;
        Some(
            bytes
                .chunks_exact(4)
                .map(|four| u32::from_le_bytes([four[0], four[1], four[2], four[3]]))
                .collect(),
        )
    }

    /// A count of things of at least `each` bytes, which therefore cannot be more than the bytes left.
    fn count(&mut self, each: usize) -> Option<usize> {
        let count = usize::try_from(self.varint()?).ok()?;
        (count <= self.0.len() / each).then_some(count)
    }

    fn what(&mut self, kind: u8) -> Option<What> {
        Some(match kind {
            BOOT => What::Boot { boot: self.u32()? },
            FRONTEND => What::Frontend {
                leg: self.leg()?,
                change: self.json()?,
            },
            ARRIVED => What::Arrived(self.arrived()?),
            DECIDED => What::Decided(Decided {
                request: self.request()?,
                rule: self.u16()?,
                action: self.json()?,
            }),
            FETCHED => What::Fetched(Fetched {
                request: self.request()?,
                digests: self.digests()?,
                payload: if self.flag()? {
                    Some(self.blob()?.to_vec())
                } else {
                    None
                },
            }),
            COMPLETED => What::Completed(self.completed()?),
            ABANDONED => What::Abandoned(Abandoned {
                request: self.request()?,
                applied: self.flag()?,
            }),
            MARK_INTENT => What::Mark(Mark::Intent(self.intent()?)),
            MARK_PAGES => What::Mark(Mark::Pages(self.pages()?)),
            MARK_OTHER => match self.json()? {
                Mark::Intent(_) | Mark::Pages(_) => return None,
                mark @ (Mark::Hello(_)
                | Mark::Target(_)
                | Mark::StepBegin { .. }
                | Mark::StepEnd { .. }
                | Mark::WorkloadEnd { .. }
                | Mark::ReadBackEnd { .. }
                | Mark::BadRead { .. }
                | Mark::Survey { .. }
                | Mark::Quiet { .. }
                | Mark::Fact { .. }
                | Mark::Admin(_)
                | Mark::Sync(_)
                | Mark::Finish { .. }) => What::Mark(mark),
            },
            QUIET => {
                let id = self.u32()?;
                let count = self.count(2)?;
                let pending = (0..count).map(|_| self.request()).collect::<Option<_>>()?;
                What::Quiet { id, pending }
            }
            CONSOLE => What::Console {
                line: String::from_utf8(self.blob()?.to_vec()).ok()?,
            },
            INITIAL => {
                let (leg, start) = (self.leg()?, Sector(self.varint()?));
                let bytes = self.blob()?.to_vec();
                if !bytes.len().is_multiple_of(SECTOR_BYTES) {
                    return None;
                }
                start.checked_add((bytes.len() / SECTOR_BYTES) as u64)?;
                What::Initial { leg, start, bytes }
            }
            LOST | FOUND => {
                let (leg, start) = (self.leg()?, Sector(self.varint()?));
                let digests = self.digests()?;
                start.checked_add(digests.len() as u64)?;
                let payload = if self.flag()? {
                    Some(self.blob()?.to_vec())
                } else {
                    None
                };
                if kind == LOST {
                    What::Lost {
                        leg,
                        start,
                        digests,
                        payload,
                    }
                } else {
                    What::Found {
                        leg,
                        start,
                        digests,
                        payload,
                    }
                }
            }
            RESTARTED => What::Restarted {
                kept: self.varint()?,
                missing: self.varint()?,
            },
            HAND => What::Hand {
                what: String::from_utf8(self.blob()?.to_vec()).ok()?,
                added: self.json()?,
            },
            GUEST_ENDED => What::GuestEnded {
                boot: self.u32()?,
                how: self.json()?,
            },
            EVIDENCE => What::Evidence {
                leg: self.leg()?,
                sector: Sector(self.varint()?),
                version: EventNo(self.varint()?),
                bytes: self.blob()?.to_vec(),
            },
            END => What::End,
            _ => return None,
        })
    }

    fn arrived(&mut self) -> Option<Arrived> {
        let request = self.request()?;
        let queue = self.u16()?;
        let operation = match self.byte()? {
            0 => Operation::Read,
            1 => Operation::Write,
            2 => Operation::Flush,
            3 => Operation::Discard,
            4 => Operation::WriteZeroes,
            5 => Operation::WriteZeroesUnmap,
            6 => Operation::GetId,
            7 => Operation::Unsupported(self.u32()?),
            _ => return None,
        };
        let count = self.count(2)?;
        let mut ranges = SmallVec::with_capacity(count);
        for _ in 0..count {
            let start = Sector(self.varint()?);
            ranges.push(SectorRange::new(start, self.varint()?)?);
        }
        let count = self.count(2)?;
        let mut segments = SmallVec::with_capacity(count);
        for _ in 0..count {
            segments.push(Segment {
                gpa: self.varint()?,
                len: self.u32()?,
            });
        }
        Some(Arrived {
            request,
            queue,
            operation,
            ranges,
            segments,
        })
    }

    fn completed(&mut self) -> Option<Completed> {
        let request = self.request()?;
        let byte = self.byte()?;
        let status = match byte & 0xf {
            0 => Status::Ok,
            1 => Status::IoErr,
            2 => Status::Unsupported,
            _ => return None,
        };
        let content = match byte >> 4 {
            0 => Content::NotTaken,
            1 => Content::Same,
            2 => Content::Changed(self.digests()?),
            3 => Content::Returned(self.digests()?),
            _ => return None,
        };
        Some(Completed {
            request,
            status,
            content,
        })
    }

    fn intent(&mut self) -> Option<Intent> {
        let (first, bits) = (self.byte()?, self.byte()?);
        let kind = match first >> 1 {
            0 => IntentKind::Write,
            1 => IntentKind::Discard,
            2 => IntentKind::Flush,
            3 => IntentKind::Unstamped,
            _ => return None,
        };
        if bits >= 1 << 5 {
            return None;
        }
        let (errno, target, writer, slot) = (self.u16()?, self.u16()?, self.u16()?, self.u16()?);
        let (sequence, sector, count) = (self.varint()?, Sector(self.varint()?), self.u32()?);
        sector.checked_add(u64::from(count))?;
        Some(Intent {
            phase: if first & 1 == 0 {
                Phase::Begin
            } else {
                Phase::End { errno }
            },
            kind,
            target,
            writer,
            sequence,
            sector,
            count,
            slot,
            flags: IntentFlags {
                immutable: bits & 1 != 0,
                dsync: bits & 2 != 0,
                buffered: bits & 4 != 0,
                pinned: bits & 8 != 0,
                alone: bits & 16 != 0,
            },
        })
    }

    fn pages(&mut self) -> Option<Pages> {
        let (writer, slot, first_page) = (self.u16()?, self.u16()?, self.u32()?);
        let pinned = self.flag()?;
        let count = self.count(2)?;
        let mut runs = Vec::with_capacity(count);
        for _ in 0..count {
            runs.push(PageRun {
                frame: self.varint()?,
                count: self.u32()?,
            });
        }
        Some(Pages {
            writer,
            slot,
            first_page,
            pinned,
            runs,
        })
    }
}
