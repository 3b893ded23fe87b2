//! Legs that are away, as md has it on record: faulty, removed or never there in the superblock of every active leg.
//!
//! A leg is no longer away when a superblock gives it a slot again. When somebody reads or writes its superblock it may be on its way back before any leg
//! says so; from then on nothing is held against md until it had a slot.

use crate::block::{LegId, SectorRange};
use crate::event::EventNo;
use crate::md::Array;
use crate::oracle::checker::Checker;

/// What is known of a leg's absence.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Gone {
    /// Since when it is away, for sure.
    pub(super) since: Option<EventNo>,
    /// The same in microseconds.
    pub(super) since_us: u64,
    /// Somebody looked at it meanwhile.
    stirred: bool,
}

impl Checker {
    /// A superblock of the kernel's has completed: which legs it calls away.
    pub(super) fn see_gone(&mut self, no: EventNo, us: u64, array: &Array) {
        let mut any = false;
        for member in &array.members {
            let away = member.slot.is_none() && {
                let number = self
                    .promises
                    .leg(member.leg)
                    .superblock
                    .as_ref()
                    .map(|own| own.dev_number);
                number.is_some_and(|number| {
                    array
                        .active()
                        .all(|other| self.promises.leg(other.leg).records_away(number))
                })
            };
            let wire = &mut self.promises.legs[member.leg.index()];
            wire.out |= member.slot.is_none();
            if member.slot.is_none() {
                self.promises.checkpoints.away(member.leg);
                self.promises.cut_short.away(member.leg);
                // What it missed it may have missed because it was faulty.
                let missed = &mut self.promises.doubts.missed;
                missed.retain(|missed| missed.leg != member.leg);
            }
            let gone = &mut wire.gone;
            if away {
                if gone.since.is_none() && !gone.stirred {
                    gone.since = Some(no);
                    gone.since_us = us;
                }
            } else if member.slot.is_some() {
                *gone = Gone::default();
            }
            any |= gone.since.is_some();
        }
        if !any {
            self.promises.degraded.remove(&array.key);
        }
    }

    /// Whether a request for this may be somebody's who looks for the leg's superblock. Where another version would have its superblock this one may have data.
    pub(super) fn looks_at_superblock(&self, leg: LegId, range: SectorRange) -> bool {
        let data = self.world.md.of(leg).map(|(_, member)| member.data);
        let wire = self.promises.leg(leg);
        wire.touches_superblock(range)
            && (data.is_none_or(|data| !data.covers(range))
                || wire.superblock_place().intersection(range).is_some())
    }

    /// Somebody reads or writes a range of a leg outside its data area.
    pub(super) fn stir_gone(&mut self, leg: LegId, range: SectorRange) {
        let looked = self.looks_at_superblock(leg, range);
        let wire = &mut self.promises.legs[leg.index()];
        if wire.gone.since.is_some() && looked {
            wire.gone.since = None;
            wire.gone.stirred = true;
        }
    }

    /// A new boot: whoever assembles the array looks at all legs.
    pub(super) fn boot_gone(&mut self) {
        for wire in &mut self.promises.legs {
            wire.gone.stirred |= wire.gone.since.take().is_some();
        }
        self.promises.degraded.clear();
    }

    /// Whether a leg of the array is away for sure.
    pub(super) fn one_gone(&self, array: &Array) -> bool {
        array
            .members
            .iter()
            .any(|member| self.promises.leg(member.leg).gone.since.is_some())
    }
}
