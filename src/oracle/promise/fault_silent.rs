//! `fault-silent`: a leg that is recorded as faulty gets no more data.
//!
//! Covers: WRITEs and DISCARDs in the data area of a leg that is away for sure (see `gone`), where the guest cannot have had them on their way before: their
//! content is a stamp of a write that began after the fault was on record (told at the next point of rest; proven if the leg is still away then), or nothing had
//! touched the leg for five seconds (suspect). `raid1.c:raid1_write_request` skips faulty legs.
//!
//! Does not cover: what the guest still held back when the leg failed, legs that somebody looked at since (`mdadm --add` and `--zero-superblock` do),
//! programs that write to the leg themselves (case 17).

use crate::block::{RequestId, SectorRange};
use crate::event::EventNo;
use crate::finding::{Check, Confidence, Wrongness};
use crate::md::{Array, ArrayKey, Member};
use crate::oracle::checker::Checker;
use crate::oracle::intents::Accept;
use crate::oracle::world::leg_range;

use super::entry::Broken;

/// For so long nothing of the guest's is on its way to a leg that was idle.
const IDLE_US: u64 = 5_000_000;

/// A request to a leg that is away.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sent {
    since: EventNo,
    on_array: SectorRange,
}

/// A stamped write to a leg that was away when it began.
#[derive(Clone, Copy, Debug)]
pub(super) struct New {
    no: EventNo,
    id: RequestId,
    key: ArrayKey,
    sent: Sent,
}

/// Such writes that are kept until the array is at rest.
const NEW_MAX: usize = 1000;

impl Checker {
    /// A normal write arrived on an active leg: here one that is away might get its own.
    pub(super) fn fault_silent_trigger(&mut self, array: &Array) {
        if self.one_gone(array) {
            self.count(Check::FaultSilent, 1);
        }
    }

    /// A write arrived on a leg without a slot.
    pub(super) fn fault_silent(
        &mut self,
        no: EventNo,
        us: u64,
        id: RequestId,
        array: &Array,
        member: &Member,
        on_array: SectorRange,
    ) {
        let wire = self.promises.leg(id.leg);
        let Some(since) = wire.gone.since else {
            return;
        };
        let quiet = us.saturating_sub(wire.last_end_us.max(wire.gone.since_us));
        let others = self.world.requests.in_flight(id.leg).take(2).count();
        if quiet >= IDLE_US && others < 2 {
            let sent = Sent { since, on_array };
            self.silent_broken(no, id, array.key, member, sent, Confidence::Suspect);
        } else {
            self.promises
                .to_the_gone
                .insert(id, Sent { since, on_array });
        }
    }

    /// Its payload was fetched: whose it is.
    pub(super) fn fault_silent_fetched(&mut self, no: EventNo, id: RequestId) {
        let Some(sent) = self.promises.to_the_gone.remove(&id) else {
            return;
        };
        let Some((array, member)) = self
            .promised(id.leg)
            .map(|(array, member)| (array.clone(), member.clone()))
        else {
            return;
        };
        let began = self.began(id, &array, &member);
        let new = &mut self.promises.doubts.new_to_the_gone;
        if began.is_some_and(|began| began > sent.since) && new.len() < NEW_MAX {
            let key = array.key;
            new.push(New { no, id, key, sent });
        }
    }

    /// The guest went away before the array was at rest: a leg that got new writes may have been coming back.
    pub(crate) fn tell_new_to_the_gone(&mut self) {
        for array in self.world.md.arrays().to_vec() {
            self.resolve_new_to_the_gone(&array, false);
        }
    }

    /// `rest`: the array is at rest, and a leg that was coming back has come by now.
    pub(super) fn resolve_new_to_the_gone(&mut self, array: &Array, rest: bool) {
        let (mine, others): (Vec<New>, Vec<New>) =
            std::mem::take(&mut self.promises.doubts.new_to_the_gone)
                .into_iter()
                .partition(|new| new.key == array.key);
        self.promises.doubts.new_to_the_gone = others;
        for new in mine {
            let Some(member) = array.member(new.id.leg).cloned() else {
                continue;
            };
            let still = self.promises.leg(new.id.leg).gone.since == Some(new.sent.since);
            let confidence = if still && rest {
                Confidence::Proven
            } else {
                Confidence::Suspect
            };
            self.silent_broken(new.no, new.id, array.key, &member, new.sent, confidence);
        }
    }

    /// When the workload's write began whose content a request in flight carries, by its first sector that is known.
    pub(super) fn began(&self, id: RequestId, array: &Array, member: &Member) -> Option<EventNo> {
        let open = self.world.requests.open(id)?;
        let range = open.ranges.first()?;
        range.sectors().zip(&open.digests).find_map(|(at, digest)| {
            let at = at.0.checked_sub(member.data.start().0)?;
            let sector = crate::block::Sector(at);
            let cell = self.book.cell(array.key, sector)?;
            match self.book.accepts(cell, sector, Some(*digest)) {
                Accept::Yes(intent) => Some(self.book.record(intent)?.begin),
                Accept::Any | Accept::No => None,
            }
        })
    }

    fn silent_broken(
        &mut self,
        no: EventNo,
        id: RequestId,
        key: ArrayKey,
        member: &Member,
        sent: Sent,
        confidence: Confidence,
    ) {
        let note = format!(
            "request {} came to leg {}, which the others call faulty since {}",
            id.number,
            self.world.header.leg_name(id.leg),
            sent.since
        );
        let broken = Broken {
            no,
            check: Check::FaultSilent,
            kind: Wrongness::Early,
            leg: id.leg,
            key,
            array: sent.on_array,
            on_leg: leg_range(member, sent.on_array),
        };
        self.break_with(broken, None, confidence, note);
    }
}
