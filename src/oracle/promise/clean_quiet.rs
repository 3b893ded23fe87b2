//! `clean-quiet`: md does not call the array clean while a write is under way.
//!
//! Covers: at the fetch of a superblock that is fully clean: no normal WRITE or DISCARD of the array is in flight on any leg that arrived before
//! the fetch; writes behind count (`md.c:set_in_sync` waits for `writes_pending`, which a write-mostly leg's write holds until
//! `raid1.c:close_write`).
//!
//! Does not cover: resync, repair and read-fix writes, superblocks that programs write, a clean mark with a checkpoint (resync interrupted).

use crate::block::{LegId, RequestId, SectorRange};
use crate::event::EventNo;
use crate::finding::{Check, Wrongness};
use crate::md::{Array, IN_SYNC, Superblock};
use crate::oracle::checker::Checker;
use crate::oracle::world::array_range;

impl Checker {
    pub(super) fn clean_quiet(&mut self, no: EventNo, leg: LegId, array: &Array, new: &Superblock) {
        if new.resync_offset != IN_SYNC {
            return;
        }
        self.count(Check::CleanQuiet, 1);
        let pending: Vec<(RequestId, SectorRange, SectorRange)> = array
            .members
            .iter()
            .flat_map(|other| {
                self.world
                    .requests
                    .in_flight(other.leg)
                    .filter(|(id, open)| open.operation.modifies() && self.promises.normal(**id))
                    .filter_map(move |(id, open)| {
                        let range = open.ranges.first().copied()?;
                        Some((*id, array_range(other, range)?, range))
                    })
            })
            .collect();
        for (id, on_array, on_leg) in pending {
            let note = format!(
                "leg {} was sent a clean superblock (events {}) while request {} was in flight",
                self.world.header.leg_name(leg),
                new.events,
                id.number
            );
            self.break_promise(
                no,
                Check::CleanQuiet,
                Wrongness::Early,
                id.leg,
                array.key,
                on_array,
                on_leg,
                note,
            );
        }
    }
}
