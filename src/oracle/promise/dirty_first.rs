//! `dirty-first`: no data goes to a leg before every active leg says that the array is dirty.
//!
//! Covers: at the arrival of a normal WRITE or DISCARD in the data area: every active leg's last completed superblock has resync offset 0 (0.90: no
//! clean bit). Without the mark a crash would leave legs that differ in an array that md takes for clean (`md.c:md_write_start`, `md_update_sb`).
//!
//! Does not cover: writes of resync, repair and read-fix, retries of failed writes, legs that are not active or suspect, arrays without superblocks, legs
//! that programs write themselves before md runs the array in this boot (case 17).

use crate::block::{RequestId, SectorRange};
use crate::event::EventNo;
use crate::finding::{Check, Wrongness};
use crate::md::{Array, Member};
use crate::oracle::checker::Checker;

impl Checker {
    pub(super) fn dirty_first(
        &mut self,
        no: EventNo,
        id: RequestId,
        array: &Array,
        member: &Member,
        on_array: SectorRange,
        on_leg: SectorRange,
    ) {
        self.count(Check::DirtyFirst, 1);
        for other in array.active() {
            let wire = self.promises.leg(other.leg);
            let Some(superblock) = &wire.superblock else {
                continue;
            };
            if superblock.resync_offset == 0 {
                self.meta_fua(no, array, other, on_array);
                continue;
            }
            let note = format!(
                "request {} of leg {} arrived while leg {}'s superblock (events {}) said that the array is clean",
                id.number,
                self.world.header.leg_name(member.leg),
                self.world.header.leg_name(other.leg),
                superblock.events
            );
            self.break_promise(
                no,
                Check::DirtyFirst,
                Wrongness::Early,
                other.leg,
                array.key,
                on_array,
                on_leg,
                note,
            );
        }
    }
}
