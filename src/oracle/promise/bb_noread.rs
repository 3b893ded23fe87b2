//! `bb-noread`: what a leg's bad-block list holds is not read from it.
//!
//! Covers: READs in the data area of an active leg, while md runs the array, that touch a range of the leg's bad-block list as completed
//! (`raid1.c:read_balance`, `raid1_sync_request` go round bad blocks).
//!
//! Does not cover: ranges that were written since the list was (md's own list is ahead of the disk), programs that read the leg itself. Suspect, for those.

use crate::block::{LegId, RequestId, SectorRange};
use crate::event::EventNo;
use crate::finding::{Check, Wrongness};
use crate::oracle::checker::Checker;
use crate::oracle::world::array_range;
use crate::shadow::RangeSet;

impl Checker {
    pub(super) fn bb_noread(&mut self, no: EventNo, id: RequestId, range: SectorRange) {
        if self.promises.leg(id.leg).bad.is_empty() {
            return;
        }
        let Some((array, member)) = self
            .promised(id.leg)
            .map(|(array, member)| (array.clone(), member.clone()))
        else {
            return;
        };
        let Some(range) = range
            .intersection(member.data)
            .filter(|_| member.active && self.runs(&array))
        else {
            return;
        };
        self.count(Check::BbNoread, 1);
        let wire = self.promises.leg(id.leg);
        let mut left = RangeSet::default();
        for bad in wire.bad.iter().filter_map(|bad| bad.intersection(range)) {
            left.insert(bad);
        }
        for written in wire.rewritten.ranges() {
            left.remove(written);
        }
        let Some(part) = left.ranges().next() else {
            return;
        };
        let note = format!(
            "request {} read {part} of leg {}, which is in its bad-block list",
            id.number,
            self.world.header.leg_name(id.leg)
        );
        let on_array = array_range(&member, part).unwrap_or_default();
        let (check, key) = (Check::BbNoread, array.key);
        self.break_promise(
            no,
            check,
            Wrongness::Read,
            id.leg,
            key,
            on_array,
            part,
            note,
        );
    }

    /// A write goes to a leg: what it touches may no longer be bad.
    pub(super) fn bad_block_written(&mut self, leg: LegId, range: SectorRange) {
        let wire = &mut self.promises.legs[leg.index()];
        if wire.bad.iter().any(|bad| bad.intersection(range).is_some()) {
            wire.rewritten.insert(range);
        }
    }
}
