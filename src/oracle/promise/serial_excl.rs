//! `serial-excl`: with `serialize_policy` on, overlapping writes go to a leg one after the other.
//!
//! Covers: from the step `md = "serialize"` on: no normal WRITE or DISCARD arrives on a leg while one that overlaps it, and that arrived since, too, is in flight
//! there (`raid1.c:wait_for_serialization`, `check_and_add_serial`, `remove_serial`). Else legs may put them on top of each other in different orders, for good.
//!
//! Counted are those that arrive on any leg while one that overlaps them is in flight on any.
//!
//! Does not cover: policies that a command sets, in which order md wakes those that wait, reads that overtake a write, places where the leg failed a write
//! (md writes piece by piece then, without waiting; `raid1.c:narrow_write_error`). A command may also turn the policy off, or stop the array: so the agent looks
//! once more before each point of rest, and only then it is told. One that turns it off and on again between two looks is not seen.

use std::collections::BTreeMap;

use crate::block::{LegId, RequestId, SectorRange};
use crate::event::EventNo;
use crate::finding::{Check, Wrongness};
use crate::md::{Array, ArrayKey, Member};
use crate::oracle::checker::Checker;
use crate::oracle::known::When;
use crate::oracle::world::{array_range, leg_range};

/// Violations that wait to be told.
const PASSED_MAX: usize = 1000;

/// A write that did not wait for another one.
#[derive(Clone, Debug)]
struct Passed {
    at: EventNo,
    leg: LegId,
    key: ArrayKey,
    /// What both write, in array sectors and on the leg.
    array: SectorRange,
    on_leg: SectorRange,
    other: RequestId,
    when: Option<When>,
}

/// Arrays whose writes are serialised, since when; and writes that were not.
#[derive(Debug, Default)]
pub(super) struct Serial {
    since: BTreeMap<ArrayKey, EventNo>,
    passed: Vec<Passed>,
}

impl Serial {
    /// The policy is on.
    pub(super) fn begins(&mut self, no: EventNo, key: ArrayKey) {
        self.since.insert(key, no);
    }

    /// The policy is turned off.
    pub(super) fn ends(&mut self, key: ArrayKey) {
        self.since.remove(&key);
    }

    /// The policy is off, and has been for nobody knows how long.
    pub(super) fn never_was(&mut self, key: ArrayKey) {
        self.since.remove(&key);
        self.passed.retain(|passed| passed.key != key);
    }

    pub(super) fn clear(&mut self) {
        *self = Serial::default();
    }
}

impl Checker {
    /// A normal WRITE or DISCARD of a leg's range arrived.
    pub(super) fn serial_excl(
        &mut self,
        no: EventNo,
        id: RequestId,
        array: &Array,
        on_array: SectorRange,
    ) {
        let Some(since) = self.promises.serial.since.get(&array.key).copied() else {
            return;
        };
        let overlaps = |member: &Member| {
            let range = leg_range(member, on_array);
            let mut open = self.world.requests.in_flight(member.leg);
            open.find_map(|(other, open)| {
                let counts = *other != id
                    && open.arrived > since
                    && open.operation.modifies()
                    && self.promises.normal(*other);
                let both = |one: &SectorRange| one.intersection(range);
                let on_leg = open.ranges.iter().filter(|_| counts).find_map(both)?;
                Some((*other, open.arrived, on_leg))
            })
        };
        // The same write on another leg comes from the same pages.
        let first = |id| self.world.requests.open(id)?.addresses().next();
        let another = |member: &Member| {
            overlaps(member).is_some_and(|(other, _, _)| {
                other.leg == id.leg || first(other).is_none_or(|page| first(id) != Some(page))
            })
        };
        if !array.active().any(another) {
            return;
        }
        let passed = array
            .member(id.leg)
            .filter(|member| member.active)
            .and_then(|member| {
                let (other, arrived, on_leg) = overlaps(member)?;
                let failed = self.promises.leg(id.leg).failed_since(on_leg, since);
                let array_part = array_range(member, on_leg).filter(|_| !failed)?;
                let range = leg_range(member, on_array);
                Some(Passed {
                    at: no,
                    leg: id.leg,
                    key: array.key,
                    array: array_part,
                    on_leg,
                    other,
                    when: self
                        .woken(no, id.leg, range, arrived)
                        .then_some(When::Woken),
                })
            });
        self.count(Check::SerialExcl, 1);
        let waiting = &mut self.promises.serial.passed;
        waiting.extend(passed.filter(|_| waiting.len() < PASSED_MAX));
    }

    /// Whether another write of these sectors ended on the leg while one that arrived then was in flight.
    fn woken(&self, no: EventNo, leg: LegId, range: SectorRange, arrived: EventNo) -> bool {
        let requests = &self.world.requests;
        let (past, _) = requests.touching(leg, range, EventNo(0), no, usize::MAX);
        let mut past = past.into_iter();
        past.any(|one| one.operation.modifies() && one.ended > arrived)
    }

    /// A point of rest: the policy is still on.
    pub(super) fn resolve_passed(&mut self, array: &Array) {
        let (mine, others): (Vec<Passed>, Vec<Passed>) =
            std::mem::take(&mut self.promises.serial.passed)
                .into_iter()
                .partition(|passed| passed.key == array.key);
        self.promises.serial.passed = others;
        for passed in mine {
            let note = format!(
                "leg {} was sent this while its request {}, which overlaps it, was in flight; serialize_policy was on",
                self.world.header.leg_name(passed.leg),
                passed.other.number,
            );
            self.break_promise_when(
                passed.at,
                Check::SerialExcl,
                Wrongness::Early,
                passed.when,
                passed.leg,
                passed.key,
                passed.array,
                passed.on_leg,
                note,
            );
        }
    }
}
