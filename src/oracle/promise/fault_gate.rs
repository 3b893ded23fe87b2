//! `fault-gate`: once a leg is known to be faulty, new writes wait until the legs that are left say so.
//!
//! Covers: after the end mark of `fail LEG`: a stamped write that began after the mark arrives on a leg only when a superblock that calls the leg faulty has
//! completed on every active leg (`raid1.c:raid1_error` sets Blocked, `raid1_write_request` waits). Else a crash could bring the failed leg back as good.
//! Mark and stamp leave no other order of things: proven.
//!
//! Does not cover: writes that began before the mark (they may be past the gate), writes whose content is not known, faults that md finds itself, a leg
//! that returned an error for its superblock.

use std::collections::BTreeMap;

use crate::block::{LegId, RequestId};
use crate::event::EventNo;
use crate::finding::{Check, Wrongness};
use crate::md::ArrayKey;
use crate::oracle::checker::Checker;

/// A leg that was declared faulty, until that is on record.
#[derive(Clone, Copy, Debug)]
struct Gate {
    leg: LegId,
    key: ArrayKey,
    since: EventNo,
}

/// All gates that are down, and writes that passed one.
#[derive(Debug, Default)]
pub(super) struct Gates {
    down: Vec<Gate>,
    passed: BTreeMap<RequestId, (Gate, LegId)>,
}

impl Gates {
    pub(super) fn clear(&mut self) {
        *self = Gates::default();
    }

    pub(super) fn end(&mut self, id: RequestId) {
        self.passed.remove(&id);
    }
}

impl Checker {
    /// The agent's `fail` went well.
    pub(super) fn gate_falls(&mut self, no: EventNo, leg: LegId) {
        if let Some(key) = self.promised(leg).map(|(array, _)| array.key) {
            self.promises.gates.down.push(Gate {
                leg,
                key,
                since: no,
            });
            self.count(Check::FaultGate, 1);
        }
    }

    /// The first active leg that does not yet call the gate's leg faulty.
    fn unaware(&self, gate: Gate) -> Option<LegId> {
        let array = self.world.md.array(gate.key)?;
        let number = self.promises.leg(gate.leg).superblock.as_ref()?.dev_number;
        array
            .active()
            .filter(|member| member.leg != gate.leg)
            .map(|member| member.leg)
            .find(|leg| {
                let wire = self.promises.leg(*leg);
                let refused = wire.failed_since(wire.superblock_place(), wire.kernel);
                !refused && !wire.records_away(number)
            })
    }

    /// A superblock has completed: gates that may open do.
    pub(super) fn gates_open(&mut self) {
        let down = std::mem::take(&mut self.promises.gates.down);
        let still = down
            .into_iter()
            .filter(|gate| self.unaware(*gate).is_some())
            .collect();
        self.promises.gates.down = still;
    }

    /// A normal write arrives while a gate may be down.
    pub(super) fn gate_arrived(&mut self, id: RequestId, key: ArrayKey) {
        let gate = self.promises.gates.down.iter().find(|gate| gate.key == key);
        let Some(gate) = gate.copied() else {
            return;
        };
        if let Some(unaware) = self.unaware(gate) {
            self.promises.gates.passed.insert(id, (gate, unaware));
        }
    }

    /// Its content is known: whether it began behind the gate.
    pub(super) fn gate_fetched(&mut self, no: EventNo, id: RequestId) {
        let Some((gate, unaware)) = self.promises.gates.passed.remove(&id) else {
            return;
        };
        let Some((array, member)) = self
            .promised(id.leg)
            .map(|(array, member)| (array.clone(), member.clone()))
        else {
            return;
        };
        let Some(began) = self
            .began(id, &array, &member)
            .filter(|began| *began > gate.since)
        else {
            return;
        };
        let Some(on_leg) = self
            .world
            .requests
            .open(id)
            .and_then(|open| open.ranges.first().copied())
        else {
            return;
        };
        let on_array = crate::oracle::world::array_range(&member, on_leg).unwrap_or_default();
        let note = format!(
            "leg {} was failed before {}; the write began with {began} and reached leg {} before leg {}'s superblock said so",
            self.world.header.leg_name(gate.leg),
            gate.since,
            self.world.header.leg_name(id.leg),
            self.world.header.leg_name(unaware)
        );
        self.break_promise(
            no,
            Check::FaultGate,
            Wrongness::Early,
            id.leg,
            array.key,
            on_array,
            on_leg,
            note,
        );
    }
}
