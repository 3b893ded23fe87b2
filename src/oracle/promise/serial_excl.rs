//! `serial-excl`: with `serialize_policy` on, overlapping writes go to a leg one after the other.
//!
//! Covers: from the step `md = "serialize"` on: no normal WRITE or DISCARD arrives on a leg while one that overlaps it, and that arrived since, too, is in flight
//! there (`raid1.c:wait_for_serialization`, `check_and_add_serial`, `remove_serial`). Else legs may put them on top of each other in different orders, for good.
//!
//! Does not cover: policies that a command sets, in which order md wakes those that wait, reads that overtake a write. A command may also turn the policy off,
//! or stop the array: so the agent looks once more before each point of rest, and only then it is told.

use std::collections::BTreeMap;

use crate::block::{LegId, RequestId, SectorRange};
use crate::event::EventNo;
use crate::finding::{Check, Wrongness};
use crate::md::{Array, ArrayKey};
use crate::oracle::checker::Checker;
use crate::oracle::world::array_range;

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
}

/// Arrays whose writes are serialised, since when; and those that were not.
#[derive(Debug, Default)]
pub(super) struct Serial {
    since: BTreeMap<ArrayKey, EventNo>,
    passed: Vec<Passed>,
}

impl Serial {
    pub(super) fn begins(&mut self, no: EventNo, key: ArrayKey) {
        self.since.entry(key).or_insert(no);
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
        range: SectorRange,
    ) {
        let Some(since) = self.promises.serial.since.get(&array.key).copied() else {
            return;
        };
        self.count(Check::SerialExcl, 1);
        let Some(member) = array.member(id.leg).filter(|member| member.active) else {
            return;
        };
        let mut open = self.world.requests.in_flight(id.leg);
        let passed = open.find_map(|(other, open)| {
            let counts = *other != id
                && open.arrived > since
                && open.operation.modifies()
                && self.promises.normal(*other);
            let both = |one: &SectorRange| one.intersection(range);
            let on_leg = open.ranges.iter().filter(|_| counts).find_map(both)?;
            Some((*other, on_leg, array_range(member, on_leg)?))
        });
        if let Some((other, on_leg, on_array)) = passed
            && self.promises.serial.passed.len() < PASSED_MAX
        {
            self.promises.serial.passed.push(Passed {
                at: no,
                leg: id.leg,
                key: array.key,
                array: on_array,
                on_leg,
                other,
            });
        }
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
            self.break_promise(
                passed.at,
                Check::SerialExcl,
                Wrongness::Early,
                passed.leg,
                passed.key,
                passed.array,
                passed.on_leg,
                note,
            );
        }
    }
}
