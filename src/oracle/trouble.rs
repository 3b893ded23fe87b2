//! Why a leg that the array trusts may lack what the workload was told is durable, as its own answers have it; and when that is over.
//!
//! | answer | what md makes of it | what it explains | until |
//! | --- | --- | --- | --- |
//! | an error for a write | writes the sectors again, without FUA (`raid1.c:narrow_write_error`) | these sectors, of versions that began before | a FLUSH that arrived after they were written well |
//! | the same | a bad block, or the write passes the leg by | these sectors | they are off the list, or written well (`World::bad`) |
//! | an error for a flush, or a lie | nothing (K5) | all that began before | the next honest FLUSH |
//! | an error that may make md fail the leg, or none though the guest goes on | a superblock, for which what ends meanwhile does not wait (K6) | all of the leg | see below |
//!
//! The last one is over at the next point of rest at which the leg is active, and when md calls the leg recovering. Nor does it explain what the leg had stored and
//! flushed, or what the workload was told before the error, or before a write began that reached the leg: a faulty leg gets none. A leg of an array that
//! the user declared has no superblock that could call it faulty: its errors are never over.

use std::collections::{BTreeMap, BTreeSet};

use super::checker::Checker;
use super::excuse::Excuse;
use super::intents::DurableVersion;
use crate::block::{LegId, Operation, RequestId, Sector, SectorRange, Status};
use crate::event::{Action, Decided, EventNo};
use crate::md::{Array, Member};
use crate::shadow::{Open, State};

/// Failed sectors that are remembered one by one, a leg; with more, all of the leg counts as failed.
const FAILED_MAX: usize = 1 << 16;

/// A sector that a leg failed to write.
#[derive(Clone, Copy, Debug)]
struct Failed {
    at: EventNo,
    /// When it was written well since; 0: not yet.
    well: EventNo,
}

#[derive(Debug, Default)]
struct Trouble {
    failed: BTreeMap<Sector, Failed>,
    /// The last error that was not remembered by its sectors.
    more: EventNo,
    /// The last FLUSH that made nothing durable, and was followed by none that did.
    unflushed: EventNo,
    /// The first error since md has last made up its mind.
    pending: Option<EventNo>,
    /// A request that was never answered, which is an error too if its guest goes on.
    unanswered: Option<EventNo>,
}

impl Trouble {
    fn write_failed(&mut self, no: EventNo, range: SectorRange) {
        for sector in range.sectors() {
            if self.failed.len() >= FAILED_MAX {
                self.more = no;
                return;
            }
            let well = EventNo(0);
            self.failed.insert(sector, Failed { at: no, well });
        }
    }

    fn written(&mut self, no: EventNo, range: SectorRange) {
        if self.failed.is_empty() {
            return;
        }
        let past = Sector(range.end().0);
        for (_, failed) in self.failed.range_mut(range.start()..past) {
            failed.well = no;
        }
    }

    /// A FLUSH that arrived then made durable what had been written well before.
    fn flushed(&mut self, arrived: EventNo) {
        if self.unflushed < arrived {
            self.unflushed = EventNo(0);
        }
        self.failed
            .retain(|_, failed| failed.well == EventNo(0) || failed.well > arrived);
    }
}

/// Of all legs.
#[derive(Debug, Default)]
pub(super) struct Troubles {
    legs: BTreeMap<LegId, Trouble>,
    /// FLUSHes that are answered with a lie.
    lies: BTreeSet<RequestId>,
}

impl Troubles {
    pub(super) fn decided(&mut self, decided: &Decided) {
        if decided.action == Action::FlushLie {
            self.lies.insert(decided.request);
        }
    }

    /// Whether a FLUSH after this number failed or lied, and no other has made good for it.
    pub(super) fn unflushed_since(&self, leg: LegId, began: EventNo) -> bool {
        let trouble = self.legs.get(&leg);
        trouble.is_some_and(|trouble| trouble.unflushed > began)
    }

    /// The first error of a leg of which md has not yet made up its mind.
    pub(super) fn pending(&self, leg: LegId) -> Option<EventNo> {
        self.legs.get(&leg)?.pending
    }

    /// The guest has ended: what it was never told it does not act on.
    pub(super) fn guest_ended(&mut self) {
        for trouble in self.legs.values_mut() {
            trouble.unanswered = None;
        }
    }

    /// The guest says something: it goes on.
    pub(super) fn guest_goes_on(&mut self) {
        for trouble in self.legs.values_mut() {
            let unanswered = trouble.unanswered.take();
            trouble.pending = trouble.pending.or(unanswered);
        }
    }

    /// md is done with what the leg answered, and did not fail it; or it did, and the leg is on its way back.
    pub(super) fn made_up(&mut self, leg: LegId) {
        if let Some(trouble) = self.legs.get_mut(&leg) {
            trouble.pending = None;
        }
    }

    /// What these legs were sent and lost is settled.
    pub(super) fn forget(&mut self, keep: impl Fn(LegId) -> bool) {
        self.legs.retain(|leg, _| keep(*leg));
        self.lies.clear();
    }
}

impl Checker {
    /// A request of a leg was answered.
    pub(super) fn trouble_answered(
        &mut self,
        no: EventNo,
        id: RequestId,
        open: &Open,
        status: Status,
    ) {
        let lied = self.durable.troubles.lies.remove(&id);
        let ok = status == Status::Ok;
        if ok && !lied && !self.durable.troubles.legs.contains_key(&id.leg) {
            return;
        }
        let trouble = self.durable.troubles.legs.entry(id.leg).or_default();
        match (open.operation, ok) {
            (Operation::Flush, true) if !lied => trouble.flushed(open.arrived),
            (Operation::Flush, _) => trouble.unflushed = no,
            (Operation::Write, true) => {
                for range in &open.ranges {
                    trouble.written(no, *range);
                }
            }
            (Operation::Write, false) => {
                for range in &open.ranges {
                    trouble.write_failed(no, *range);
                }
                trouble.pending.get_or_insert(no);
            }
            (Operation::Read, false) => {
                trouble.pending.get_or_insert(no);
            }
            // A discard that fails counts as done.
            (
                Operation::Read
                | Operation::Discard
                | Operation::WriteZeroes
                | Operation::WriteZeroesUnmap
                | Operation::GetId
                | Operation::Unsupported(_),
                _,
            ) => {}
        }
    }

    /// A request of a leg was given up: if its guest is still there, it is an error as others are.
    pub(super) fn trouble_unanswered(&mut self, no: EventNo, id: RequestId, open: &Open) {
        if matches!(open.operation, Operation::Write | Operation::Read) {
            let trouble = self.durable.troubles.legs.entry(id.leg).or_default();
            trouble.unanswered.get_or_insert(no);
        }
    }

    /// The guest is cut off: md may have failed a leg, and not told yet. What it lacks since, and what is then copied from it, is case 7.
    pub(super) fn trouble_at_cut(&mut self) {
        let pending: Vec<(LegId, EventNo)> = self
            .durable
            .troubles
            .legs
            .iter()
            .filter_map(|(leg, trouble)| Some((*leg, trouble.pending?)))
            .collect();
        for (leg, first) in pending {
            let Some(key) = self.world.checked(leg).map(|(array, _)| array.key) else {
                continue;
            };
            let (since, _) = self.was_good(key, leg);
            // What else is held against it is none of a failed leg's.
            let all = EventNo(u64::MAX);
            for (key, range) in self.wrongs.forgive(leg, since.max(first), all) {
                self.excuse(key, range, Excuse::LegFailed);
                for sector in range.sectors() {
                    if let Some(cell) = self.book.cell_mut(key, sector) {
                        cell.base = true;
                    }
                }
            }
        }
    }

    /// The array is at rest: of a leg that is active md has made up its mind.
    pub(super) fn trouble_at_rest(&mut self, array: &Array) {
        for member in array.active().filter(|_| !array.declared) {
            self.durable.troubles.made_up(member.leg);
        }
    }

    /// What explains that a leg lacks, in one of its sectors, a version that the workload was told is durable: a case of the md reference its excuse, a FLUSH
    /// that failed or lied none.
    pub(super) fn explained(
        &self,
        member: &Member,
        at: Sector,
        version: DurableVersion,
    ) -> Option<Option<Excuse>> {
        if self.world.is_bad(member.leg, at) {
            return Some(Some(Excuse::BadBlock));
        }
        let trouble = self.durable.troubles.legs.get(&member.leg)?;
        let failed = trouble.failed.get(&at);
        let sent = self.begun.get(&member.leg).copied().unwrap_or_default();
        let shadow = self.world.shadow(member.leg);
        let flushed = shadow.durable_before();
        let stored = || {
            shadow.versions(at).any(|had| {
                had.state == State::Acknowledged
                    && had.digest == version.digest
                    && had.ended < flushed
            })
        };
        if trouble.more > version.began || failed.is_some_and(|failed| failed.at > version.began) {
            Some(Some(Excuse::WriteFailed))
        } else if let Some(first) = trouble.pending
            && version.told > first.max(sent)
            && !stored()
        {
            Some(Some(Excuse::LegFailed))
        } else {
            (trouble.unflushed > version.began).then_some(None)
        }
    }
}
