//! `bm-before-sb`: the bitmap's header says a new update counter before the superblock does.
//!
//! Covers: at the fetch of a superblock that the kernel writes to an active leg: when it arrived, the leg held a bitmap header with its events
//! or later ones (`md.c:md_update_sb` runs `md_bitmap_update_sb` first and waits for it). Else a crash between the two would make
//! a stale bitmap look fresh.
//!
//! Does not cover: arrays without an internal bitmap, bitmaps just added, stale or failed, legs that are being recovered, superblocks that programs write.

use crate::block::{RequestId, SectorRange};
use crate::event::EventNo;
use crate::finding::{Check, Wrongness};
use crate::md::{Array, Member, Superblock};
use crate::oracle::checker::Checker;

impl Checker {
    pub(super) fn bm_before_sb(
        &mut self,
        no: EventNo,
        id: RequestId,
        array: &Array,
        member: &Member,
        new: &Superblock,
    ) {
        let wire = self.promises.leg(member.leg);
        let had = wire
            .superblock
            .as_ref()
            .is_some_and(|old| old.bitmap.is_some() && old.bitmap == new.bitmap);
        let Some(Some(events)) = wire.header_at_arrival.get(&id).copied() else {
            return;
        };
        if !had {
            return;
        }
        self.count(Check::BmBeforeSb, 1);
        if events >= new.events {
            return;
        }
        let place = SectorRange::new(new.position, new.sectors).unwrap_or_default();
        let note = format!(
            "a superblock with events {} arrived when the bitmap's header had {events}",
            new.events
        );
        self.break_promise(
            no,
            Check::BmBeforeSb,
            Wrongness::Early,
            member.leg,
            array.key,
            SectorRange::default(),
            place,
            note,
        );
    }
}
