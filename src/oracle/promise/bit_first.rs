//! `bit-first`: a chunk's bit is sent to every active leg before, or with, the data.
//!
//! Covers: at the arrival of a normal WRITE or DISCARD: the bit of each chunk it touches is set in what every active leg was sent, or a page with it is sent
//! within twice the longest metadata write seen, and 2 s, beside what is in flight since before (`md-bitmap.c:md_bitmap_startwrite`, `md_bitmap_unplug`). *Strict*, where the agent says that its
//! request is the only one in the guest: the bit is set in each active leg's copy as completed, and flushed, before the data arrives.
//!
//! Does not cover: the order of the two under concurrency: stock kernels let a second writer pass while the page is in flight (K1). Legs that are being recovered,
//! stale bitmaps, what was held against a leg between the pages that a resize lays anew and the header that says so (it is taken back), chunks of a grown array
//! whose bit was never set since (K10). A sweep of md's daemon within the time hides a page that was never meant to be sent (`daemon_sleep` is 5 s).

use crate::block::{LegId, RequestId, SectorRange};
use crate::event::EventNo;
use crate::finding::{Check, Wrongness};
use crate::md::{Array, ArrayKey};
use crate::oracle::checker::Checker;
use crate::oracle::known::When;

/// Added to twice the longest metadata write.
const GRACE_US: u64 = 2_000_000;
/// Bits that are waited for at most.
const LATE_MAX: usize = 10_000;

/// A bit that a leg must be sent soon.
#[derive(Clone, Copy, Debug)]
pub(super) struct Late {
    pub(super) leg: LegId,
    pub(super) chunk: u64,
    key: ArrayKey,
    since: EventNo,
    array: SectorRange,
    deadline_us: u64,
}

impl Checker {
    pub(super) fn bit_first(
        &mut self,
        no: EventNo,
        us: u64,
        id: RequestId,
        array: &Array,
        on_array: SectorRange,
    ) {
        let alone = self.book.alone(array.key, on_array);
        for member in array.active() {
            let wire = self.promises.leg(member.leg);
            let (Some(sent), Some(held)) = (wire.sent_bitmap(), wire.bitmap()) else {
                continue;
            };
            let durable = self.world.shadow(member.leg).durable_before();
            let mut strict: Option<u64> = None;
            let mut late: Option<u64> = None;
            for chunk in array.chunks(sent, on_array) {
                let flushed = !wire.caches()
                    || wire
                        .set_at
                        .get(chunk)
                        .is_none_or(|set| set < durable || wire.flush_failed > set);
                // One that is not known tells more than one that is.
                let first = |had: Option<u64>| had.filter(|had| !wire.is_grown(*had));
                if alone && !(held.is_set(chunk) && flushed) {
                    strict = first(strict).or(Some(chunk));
                } else if !sent.is_set(chunk) {
                    late = first(late).or(Some(chunk));
                }
            }
            let deadline_us = us
                .saturating_add(wire.slowest_us.saturating_mul(2))
                .saturating_add(GRACE_US);
            let place = held.area();
            let grown = strict.is_some_and(|chunk| wire.is_grown(chunk));
            self.count(Check::BitFirst, 1);
            if let Some(chunk) = strict {
                let note = format!(
                    "request {} of leg {}, the only one in the guest, arrived before the bit of chunk {chunk} was durable on leg {}",
                    id.number,
                    self.world.header.leg_name(id.leg),
                    self.world.header.leg_name(member.leg)
                );
                self.break_promise_when(
                    no,
                    Check::BitFirst,
                    Wrongness::Early,
                    grown.then_some(When::Grown),
                    member.leg,
                    array.key,
                    on_array,
                    place,
                    note,
                );
            }
            if let Some(chunk) = late
                && self.promises.late_bits.len() < LATE_MAX
                && !self
                    .promises
                    .late_bits
                    .iter()
                    .any(|late| (late.leg, late.chunk) == (member.leg, chunk))
            {
                self.promises.late_bits.push(Late {
                    leg: member.leg,
                    chunk,
                    key: array.key,
                    since: no,
                    array: on_array,
                    deadline_us,
                });
            }
        }
    }

    /// Bits whose time is over.
    pub(super) fn bits_overdue(&mut self, no: EventNo, us: u64) {
        if self
            .promises
            .late_bits
            .iter()
            .all(|late| late.deadline_us >= us)
        {
            return;
        }
        let all = std::mem::take(&mut self.promises.late_bits);
        for mut late in all {
            if late.deadline_us >= us {
                self.promises.late_bits.push(late);
                continue;
            }
            let active = self
                .world
                .md
                .array(late.key)
                .and_then(|array| array.member(late.leg))
                .is_some_and(|member| member.active);
            let wire = self.promises.leg(late.leg);
            let Some(area) = wire
                .sent_bitmap()
                .map(|copy| copy.area())
                .filter(|_| active)
            else {
                continue;
            };
            if self.page_waits(no, &late) {
                late.deadline_us = us.saturating_add(GRACE_US);
                self.promises.late_bits.push(late);
                continue;
            }
            let grown = self.promises.leg(late.leg).is_grown(late.chunk);
            let note = format!(
                "data for chunk {} arrived with {}; leg {} was never sent its bit",
                late.chunk,
                late.since,
                self.world.header.leg_name(late.leg)
            );
            self.break_promise_when(
                no,
                Check::BitFirst,
                Wrongness::Absent,
                grown.then_some(When::Grown),
                late.leg,
                late.key,
                late.array,
                area,
                note,
            );
        }
    }

    /// Whether the page may not have been sent yet: it is on its way to an active leg, or one still has not answered what it was given before the data came. md
    /// waits for all legs' pages before it writes the next one (`md-bitmap.c:md_bitmap_wait_writes`), and the guest's queue may have no room.
    fn page_waits(&self, no: EventNo, late: &Late) -> bool {
        let Some(array) = self.world.md.array(late.key) else {
            return false;
        };
        array.active().any(|member| {
            let sent = self.promises.leg(member.leg).sent_bitmap();
            let area = sent.map(|copy| copy.area()).unwrap_or_default();
            let on_bitmap = |range: &SectorRange| range.intersection(area).is_some();
            self.world.requests.in_flight(member.leg).any(|(_, open)| {
                open.arrived < late.since
                    || open.ranges.iter().any(on_bitmap)
                        && (member.leg == late.leg || open.arrived < no)
            })
        })
    }

    /// A metadata write was fetched: takes the bits that it brings, and judges those that it clears.
    pub(super) fn bits_fetched(
        &mut self,
        no: EventNo,
        id: RequestId,
        range: SectorRange,
        payload: &[u8],
    ) {
        let promises = &mut self.promises;
        let wire = &mut promises.legs[id.leg.index()];
        let area = wire.sent.as_ref().map(|sent| sent.area());
        if area.is_none_or(|area| area.intersection(range).is_none()) {
            return;
        }
        // Pages on their way: md waits for all before it lays the bits anew.
        let open = &self.world.requests;
        let before = promises.payloads.iter().filter_map(|(other, payload)| {
            let range = *open.open(*other)?.ranges.first()?;
            (other.leg == id.leg).then_some((range.start(), &payload[..]))
        });
        let changes = wire.bits_sent(range.start(), payload, before);
        let set = |late: &Late| {
            wire.sent
                .as_ref()
                .is_some_and(|sent| sent.is_set(late.chunk))
        };
        let anew = changes.is_none();
        if anew {
            self.wrongs.laid_anew(id.leg, wire.kernel);
        }
        promises
            .late_bits
            .retain(|late| late.leg != id.leg || !(anew || set(late)));
        let Some((array, member)) = self
            .promised(id.leg)
            .map(|(array, member)| (array.clone(), member.clone()))
        else {
            return;
        };
        let Some(sent) = self.promises.leg(id.leg).sent_bitmap() else {
            return;
        };
        if !member.active {
            return;
        }
        let cleared: Vec<_> = changes
            .into_iter()
            .flatten()
            .filter(|(_, set)| !set)
            .map(|(chunk, _)| (chunk, array.of_chunk(sent, chunk)))
            .filter(|(_, sectors)| !sectors.is_empty())
            .collect();
        for (chunk, sectors) in cleared {
            self.bit_clear_eq(no, id, &array, chunk, sectors);
            self.bit_degraded(no, id, &array, chunk, sectors);
        }
    }
}
