//! A wrong sector looked at closely, at the moment it is found: what each leg holds, and what happened to it.

use super::checker::{Checker, Wanted};
use super::guest::BadLook;
use super::record::{Meant, Record};
use super::world::{leg_range, leg_sector};
use super::wrong::{Detail, Held};
use crate::block::{LegId, Operation, RequestId, Sector, SectorRange, Status};
use crate::event::EventNo;
use crate::finding::{Check, StoryLine, Wrongness};
use crate::md::ArrayKey;
use crate::shadow::{Ending, Past, Version, ZERO_DIGEST};
use crate::stamp::Stamp;

/// Requests that a story tells of a leg at most.
pub(super) const STORY_MAX: usize = 12;

impl Checker {
    /// Looks at an array sector; `since` is where the story begins. `None` once enough of the kind were looked at.
    pub(super) fn detail(
        &mut self,
        check: Check,
        kind: Wrongness,
        leg: LegId,
        key: ArrayKey,
        sector: Sector,
        since: EventNo,
    ) -> Option<Box<Detail>> {
        if !self.wrongs.wants_detail(check, kind, leg) {
            return None;
        }
        let array = self.world.md.array(key)?.clone();
        let run = self.world.header.run;
        let expected = self
            .book
            .cell(key, sector)
            .and_then(|cell| self.book.expected(cell))
            .and_then(|id| self.book.record(id)?.meant(run, sector));
        let whole_write = self
            .book
            .cell(key, sector)
            .and_then(|cell| self.book.expected(cell))
            .and_then(|id| self.book.record(id))
            .map(|record| record.array);
        let mut legs = Vec::new();
        let mut story = Vec::new();
        let mut oldest = self.last;
        for member in &array.members {
            let Some(at) = leg_sector(member, sector) else {
                continue;
            };
            let versions: Vec<Version> = self.world.shadow(member.leg).versions(at).collect();
            let current = self.world.shadow(member.leg).current(at);
            let good = expected.map_or_else(
                || member.leg != leg,
                |meant| current.digest == Some(crc32fast::hash(&self.book.bytes(&meant))),
            );
            let stamp = self.owner(key, sector, current, expected);
            if stamp.is_none()
                && let Some(digest) = current.digest.filter(|d| *d != ZERO_DIGEST)
            {
                self.wanted.push(Wanted {
                    leg: member.leg,
                    sector: at,
                    version: current.no,
                    digest,
                });
            }
            legs.push(Held {
                leg: member.leg,
                sector: at,
                good,
                versions,
                stamp,
            });
            // Without a write to begin with, the story begins where the leg's oldest remembered version came from.
            let from = if since > EventNo(0) {
                since
            } else {
                EventNo(1)
            };
            // The whole write: what a leg got of its other sectors is part of the story.
            let around = whole_write
                .map(|write| leg_range(member, write))
                .filter(|range| range.contains(at))
                .or_else(|| SectorRange::new(at, 1));
            if let Some(one) = around {
                let (requests, whole) =
                    self.world
                        .requests
                        .touching(member.leg, one, from, self.last, usize::MAX);
                let name = self.world.header.leg_name(member.leg);
                oldest = oldest.min(requests.first().map_or(self.last, |past| past.arrived));
                if !whole {
                    story.push(StoryLine {
                        event: from.0,
                        time_us: 0,
                        leg: name.to_owned(),
                        what: "(older requests are no longer remembered)".into(),
                    });
                }
                let skip = requests.len().saturating_sub(STORY_MAX);
                self.tell_requests(
                    member.leg,
                    requests.get(skip..).unwrap_or_default(),
                    &mut story,
                );
            }
        }
        self.tell_intents(key, sector, &mut story);
        let from = if since > EventNo(0) { since } else { oldest };
        let about = |leg: LegId, range: SectorRange| {
            legs.iter()
                .any(|held| held.leg == leg && range.contains(held.sector))
        };
        story.extend(self.moments.between(from, self.last, about));
        story.sort();
        let mut first_wrong = self.first_wrong(kind, leg, key, sector, &legs);
        if check == Check::Durable
            && let Some(first) = &mut first_wrong
        {
            first
                .what
                .push_str("; the workload was told that it is durable");
        }
        Some(Box::new(Detail {
            sector,
            expected,
            legs,
            story,
            first_wrong,
        }))
    }

    /// The request that brought the wrong content to the leg; where none did, the write that never came.
    fn first_wrong(
        &self,
        kind: Wrongness,
        leg: LegId,
        key: ArrayKey,
        sector: Sector,
        legs: &[Held],
    ) -> Option<StoryLine> {
        let name = self.world.header.leg_name(leg);
        let write = self
            .book
            .cell(key, sector)
            .and_then(|cell| self.book.expected(cell))
            .and_then(|id| self.book.record(id));
        let never = match kind {
            Wrongness::Absent => Some("never got it"),
            Wrongness::Torn => Some("got a part of it"),
            Wrongness::Early => Some("had not completed it"),
            Wrongness::Garbage
            | Wrongness::Misplaced
            | Wrongness::Older
            | Wrongness::Differs
            | Wrongness::Changed
            | Wrongness::Metadata
            | Wrongness::Read
            | Wrongness::ReadBack
            | Wrongness::Step
            | Wrongness::Kernel
            | Wrongness::Unmet => None,
        };
        if let (Some(what), Some(record)) = (never, write) {
            let end = if record.end > EventNo(0) {
                format!(", acknowledged {}", record.end)
            } else {
                String::new()
            };
            let told = format!(
                "writer {} #{} (array {}, begun {}{end}): leg {name} {what}",
                record.intent.writer,
                record.intent.sequence,
                record.on_whole(),
                record.begin
            );
            let instead = (kind == Wrongness::Absent)
                .then(|| self.read_instead(leg, key, sector, record))
                .flatten();
            return Some(match instead {
                Some(read) => StoryLine {
                    what: format!("{}, in place of {told}", read.what),
                    ..read
                },
                None => StoryLine {
                    event: record.begin.0,
                    time_us: record.begin_us,
                    leg: name.to_owned(),
                    what: told,
                },
            });
        }
        let held = legs.iter().find(|held| held.leg == leg)?;
        let version = held.versions.first()?;
        if version.is_found() {
            return self.lost_at_cut(held);
        }
        let id = RequestId {
            leg,
            number: version.request,
        };
        Some(self.request_in_words(leg, self.world.requests.past(id)?))
    }

    /// The READ of nothing but the write's own sectors that a leg got while the write, which never came, went on.
    fn read_instead(
        &self,
        leg: LegId,
        key: ArrayKey,
        sector: Sector,
        record: &Record,
    ) -> Option<StoryLine> {
        let array = self.world.md.array(key)?;
        let member = array.members.iter().find(|member| member.leg == leg)?;
        let write = leg_range(member, record.array);
        let one = SectorRange::new(leg_sector(member, sector)?, 1)?;
        let until = if record.end > EventNo(0) {
            record.end
        } else {
            self.last
        };
        let requests = &self.world.requests;
        let (requests, _) = requests.touching(leg, one, record.begin, until, usize::MAX);
        let read = requests.iter().find(|past| {
            past.operation == Operation::Read
                && past.ranges.iter().all(|range| write.covers(*range))
        })?;
        Some(self.request_in_words(leg, read))
    }

    /// The cut of the power that took a sector's content, and the request that had brought it.
    fn lost_at_cut(&self, held: &Held) -> Option<StoryLine> {
        let name = self.world.header.leg_name(held.leg);
        let cut = self.moments.lost(held.leg, held.sector)?;
        let brought = held.versions.iter().find(|version| version.request > 0);
        let brought = brought.map_or_else(String::new, |version| {
            format!(
                ", which request {} ({}) had brought",
                version.request, version.no
            )
        });
        Some(StoryLine {
            what: format!(
                "the power cut (#{}) took sector {} from leg {name}'s cache{brought}",
                cut.event, held.sector
            ),
            ..cut.clone()
        })
    }

    /// A request, and where and when it arrived.
    pub(super) fn request_in_words(&self, leg: LegId, past: &Past) -> StoryLine {
        let name = self.world.header.leg_name(leg);
        let ranges: Vec<String> = past.ranges.iter().map(ToString::to_string).collect();
        let pages = pages(past);
        let pages = pages.map_or_else(String::new, |pages| format!(", {pages}"));
        StoryLine {
            event: past.arrived.0,
            time_us: past.arrived_us,
            leg: name.to_owned(),
            what: format!(
                "request {} on leg {name} ({}): {} {}{pages}",
                past.request.number,
                past.arrived,
                past.operation,
                ranges.join(" ")
            ),
        }
    }

    /// Tells requests of a leg, and what rules did to them.
    pub(super) fn tell_requests(&self, leg: LegId, requests: &[&Past], story: &mut Vec<StoryLine>) {
        let name = self.world.header.leg_name(leg);
        for past in requests {
            story.push(line(name, past));
            if past.rule.is_none() {
                continue;
            }
            for decision in self.moments.about(past.request, past.arrived) {
                story.push(StoryLine {
                    event: decision.no.0,
                    time_us: decision.time_us,
                    leg: name.to_owned(),
                    what: format!(
                        "request {}: fault `{}` {}",
                        past.request.number,
                        self.rule_name(decision.rule),
                        decision.what
                    ),
                });
            }
        }
    }

    /// Looks at a sector of which the guest has just said that it read it wrong; the story begins at `begin`.
    pub(super) fn look_at_bad_read(
        &self,
        begin: EventNo,
        no: EventNo,
        key: Option<ArrayKey>,
        sector: Sector,
        digest: u32,
    ) -> BadLook {
        let array = key.and_then(|key| Some((key, self.world.md.array(key)?)));
        let mut story = self.moments.between(begin, no, |leg, range| {
            let members = array.iter().flat_map(|(_, array)| &array.members);
            let mut own = members.filter(|member| member.leg == leg);
            own.any(|member| leg_sector(member, sector).is_some_and(|at| range.contains(at)))
        });
        let Some((key, array)) = array else {
            return BadLook {
                holders: "its target maps to no array that is known".into(),
                held: false,
                request: None,
                story,
            };
        };
        // The last read of a leg that held it, else the last one of any.
        let (mut holders, mut read): (Vec<&str>, Option<(bool, LegId, &Past)>) = (Vec::new(), None);
        for member in &array.members {
            let Some(at) = leg_sector(member, sector) else {
                continue;
            };
            let holds = self.world.shadow(member.leg).current(at).digest == Some(digest);
            if holds {
                holders.push(self.world.header.leg_name(member.leg));
            }
            if let Some(one) = SectorRange::new(at, 1) {
                let requests = &self.world.requests;
                let (requests, _) = requests.touching(member.leg, one, begin, no, usize::MAX);
                let reads = requests.iter().filter(|past| {
                    past.operation == Operation::Read && past.ending == Ending::Answered(Status::Ok)
                });
                for past in reads {
                    let later = |(held, _, before): (bool, LegId, &Past)| {
                        (held, before.ended) < (holds, past.ended)
                    };
                    if read.is_none_or(later) {
                        read = Some((holds, member.leg, past));
                    }
                }
                let skip = requests.len().saturating_sub(STORY_MAX);
                let told = requests.get(skip..).unwrap_or_default();
                self.tell_requests(member.leg, told, &mut story);
            }
        }
        self.tell_intents(key, sector, &mut story);
        story.sort();
        BadLook {
            holders: match &holders[..] {
                [] => "no leg held what was read".into(),
                [one] => format!("leg {one} held what was read"),
                many => format!("legs {} held what was read", many.join(", ")),
            },
            held: !holders.is_empty(),
            request: read.map(|(_, leg, past)| self.request_in_words(leg, past)),
            story,
        }
    }

    /// Whose stamp a content is, as far as is known without looking at the bytes.
    fn owner(
        &self,
        key: ArrayKey,
        sector: Sector,
        version: Version,
        expected: Option<Meant>,
    ) -> Option<(Meant, Sector)> {
        let digest = version.digest?;
        let run = self.world.header.run;
        let cell = self.book.cell(key, sector)?;
        let shown = self.world.md.on_whole(key, sector);
        for id in &cell.candidates {
            let record = self.book.record(*id)?;
            if record.digest(sector) == Some(digest) {
                return Some((record.meant(run, sector)?, shown));
            }
        }
        let like = expected?;
        for old in cell.old.iter().flat_map(|old| old.iter()).flatten() {
            if old.digest == digest {
                let stamp = Stamp {
                    writer: old.writer,
                    sequence: old.sequence,
                    ..like.stamp
                };
                return Some((Meant { stamp, ..like }, shown));
            }
        }
        let (id, at) = self.book.whose(digest)?;
        let record = self.book.record(id)?;
        let shown = self.world.md.on_whole(record.key, at);
        Some((record.meant(run, at)?, shown))
    }

    pub(super) fn tell_intents(&self, key: ArrayKey, sector: Sector, story: &mut Vec<StoryLine>) {
        let Some(cell) = self.book.cell(key, sector) else {
            return;
        };
        for record in cell
            .candidates
            .iter()
            .filter_map(|id| self.book.record(*id))
        {
            let (writer, sequence) = (record.intent.writer, record.intent.sequence);
            let guest = |no: EventNo, us: u64, what: String| StoryLine {
                event: no.0,
                time_us: us,
                leg: "guest".into(),
                what,
            };
            story.push(guest(
                record.begin,
                record.begin_us,
                format!(
                    "writer {writer} #{sequence} begins: array {}",
                    record.on_whole()
                ),
            ));
            if record.end > EventNo(0) {
                let how = if record.ok {
                    "acknowledged"
                } else {
                    "failed, or never acknowledged"
                };
                story.push(guest(
                    record.end,
                    record.end_us,
                    format!("writer {writer} #{sequence} {how}"),
                ));
            }
        }
    }
}

/// Where its data is in the guest's memory.
fn pages(past: &Past) -> Option<String> {
    let way = if past.operation == Operation::Read {
        "into"
    } else {
        "from"
    };
    (past.gpa > 0).then(|| format!("{way} guest page {:#x}", past.gpa >> 12))
}

fn line(leg: &str, past: &Past) -> StoryLine {
    let ranges: Vec<String> = past.ranges.iter().map(ToString::to_string).collect();
    let fetched = if past.fetched > EventNo(0) {
        format!(", fetched {}", past.fetched)
    } else {
        String::new()
    };
    let pages = pages(past).map_or_else(String::new, |pages| format!(" {pages}"));
    let end = match past.ending {
        Ending::Open => ", still in flight".to_owned(),
        Ending::Answered(Status::Ok) => format!(", completed {}", past.ended),
        Ending::Answered(Status::IoErr) => format!(", answered with an error {}", past.ended),
        Ending::Answered(Status::Unsupported) => format!(", refused {}", past.ended),
        Ending::Abandoned => format!(", abandoned {}", past.ended),
    };
    StoryLine {
        event: past.arrived.0,
        time_us: past.arrived_us,
        leg: leg.to_owned(),
        what: format!(
            "request {}: {} {}{pages}{fetched}{end}",
            past.request.number,
            past.operation,
            ranges.join(" ")
        ),
    }
}
