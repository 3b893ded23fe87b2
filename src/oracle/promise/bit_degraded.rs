//! `bit-degraded`: while a leg is away no bit is forgotten whose chunk was written meanwhile.
//!
//! Covers: at the fetch of a bitmap page in which a bit goes from 1 to 0 on an active leg while the array has fewer active legs than it should and one is away
//! for sure (see `gone`): no normal write to the chunk arrived since that was on record (`md-bitmap.c:md_bitmap_endwrite` keeps the bit needed). Else
//! the leg would be added again without what it missed.
//!
//! Does not cover: writes between the fault and its record, legs that somebody looked at while they were away (they may be coming back), arrays that
//! were made smaller.

use crate::block::{RequestId, SectorRange};
use crate::event::EventNo;
use crate::finding::{Check, Wrongness};
use crate::md::Array;
use crate::oracle::checker::Checker;
use crate::oracle::world::leg_range;

impl Checker {
    /// A normal write arrived for array sectors.
    pub(super) fn written_without(&mut self, array: &Array, on_array: SectorRange) {
        if self.one_gone(array) {
            let written = self.promises.degraded.entry(array.key).or_default();
            written.insert(on_array);
        }
    }

    /// A bit goes clear on a leg.
    pub(super) fn bit_degraded(
        &mut self,
        no: EventNo,
        id: RequestId,
        array: &Array,
        chunk: u64,
        sectors: SectorRange,
    ) {
        if !array.degraded || !self.one_gone(array) {
            return;
        }
        self.count(Check::BitDegraded, 1);
        let written = self.promises.degraded.get(&array.key);
        let Some(part) = written.and_then(|written| written.first_in(sectors)) else {
            return;
        };
        let away = array
            .members
            .iter()
            .find(|member| self.promises.leg(member.leg).gone.since.is_some());
        let Some(away) = away else {
            return;
        };
        let note = format!(
            "the bit of chunk {chunk} went clear on leg {}; its sectors were written while leg {} was away",
            self.world.header.leg_name(id.leg),
            self.world.header.leg_name(away.leg)
        );
        let on_leg = leg_range(away, part);
        let (leg, key, check) = (away.leg, array.key, Check::BitDegraded);
        self.break_promise(no, check, Wrongness::Absent, leg, key, part, on_leg, note);
    }
}
