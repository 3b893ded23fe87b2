//! `events-step`: the update counter goes up by one, or back by one where md may.
//!
//! Covers: at the fetch of each superblock that the kernel writes to an active leg: events rise by one; or stay, with the same content (a rewrite after a
//! failed metadata write); or fall by one, where the new superblock is fully clean, the array is not degraded, and the step before was up
//! (`md.c:md_update_sb`, `can_decrease_events`).
//!
//! Does not cover: the first update of a boot or after somebody read the superblock (perhaps an assembly), superblocks that programs write, other
//! arrays' superblocks.

use crate::block::{LegId, SectorRange};
use crate::event::EventNo;
use crate::finding::{Check, Wrongness};
use crate::md::superblock::unlike;
use crate::md::{Array, IN_SYNC, Superblock};
use crate::oracle::checker::Checker;

impl Checker {
    pub(super) fn events_step(
        &mut self,
        no: EventNo,
        leg: LegId,
        array: &Array,
        new: &Superblock,
        payload: &[u8],
    ) {
        let wire = self.promises.leg(leg);
        let Some(old) = &wire.superblock else {
            return;
        };
        if wire.kernel <= self.guest.boot_began || wire.read_since || old.uuid != new.uuid {
            return;
        }
        let same = || {
            let mut page = payload.to_vec();
            page.resize(4096, 0);
            let before = wire.done.read(old.position, 8);
            unlike(&before, &page).is_none_or(|field| field == "utime")
        };
        let good = if old.events.checked_add(1) == Some(new.events) {
            true
        } else if new.events == old.events {
            same()
        } else {
            new.events.checked_add(1) == Some(old.events)
                && new.resync_offset == IN_SYNC
                && !array.degraded
                && wire.step == 1
        };
        let note = format!("events went from {} to {}", old.events, new.events);
        let place = SectorRange::new(new.position, new.sectors).unwrap_or_default();
        self.count(Check::EventsStep, 1);
        if !good {
            self.break_promise(
                no,
                Check::EventsStep,
                Wrongness::Metadata,
                leg,
                array.key,
                SectorRange::default(),
                place,
                note,
            );
        }
    }
}
