//! `bit-clear-eq`: a bit that goes clear promises that all active legs agree on its chunk.
//!
//! Covers: at the fetch of a bitmap page in which a bit goes from 1 to 0 on an active leg: no normal write to the chunk is in flight that arrived earlier,
//! and the legs' shadows are equal over what was written there since it was last found equal (`md-bitmap.c:md_bitmap_endwrite`,
//! `md_bitmap_daemon_work`).
//!
//! Does not cover: what a numbered excuse explains (2, 9 to 14), whether the other legs' caches are flushed (K8), sectors that `stamp` has judged already.
//! Since bits are counted at md's own clone of a request they may go clear while a write-mostly leg is behind: K2.

use super::Difference;
use crate::block::{LegId, RequestId, SectorRange};
use crate::event::EventNo;
use crate::finding::{Check, Wrongness};
use crate::md::Array;
use crate::oracle::checker::Checker;
use crate::oracle::known::When;
use crate::oracle::world::{array_range, leg_range};
use crate::shadow::RangeSet;

impl Checker {
    pub(super) fn bit_clear_eq(
        &mut self,
        no: EventNo,
        id: RequestId,
        array: &Array,
        chunk: u64,
        sectors: SectorRange,
    ) {
        self.count(Check::BitClearEq, 1);
        let mut open: Vec<(RequestId, SectorRange)> = Vec::new();
        for member in array.active() {
            let pending = self
                .world
                .requests
                .in_flight(member.leg)
                .filter(|(id, open)| open.operation.modifies() && self.promises.normal(**id))
                .filter_map(|(id, open)| {
                    let on_array = array_range(member, *open.ranges.first()?)?;
                    Some((*id, on_array.intersection(sectors)?))
                });
            open.extend(pending);
        }
        let who = self.world.header.leg_name(id.leg).to_owned();
        for (other, part) in open {
            let note = format!(
                "the bit of chunk {chunk} went clear on leg {who} while request {} was in flight",
                other.number
            );
            self.break_bit(no, array, other.leg, part, Wrongness::Early, note);
        }
        for (run, (leg, kind)) in self.unequal(array, sectors) {
            let note = format!("the bit of chunk {chunk} went clear on leg {who}");
            self.break_bit(no, array, LegId(leg), run, kind, note);
        }
    }

    fn break_bit(
        &mut self,
        no: EventNo,
        array: &Array,
        leg: LegId,
        run: SectorRange,
        kind: Wrongness,
        note: String,
    ) {
        let Some(member) = array.member(leg) else {
            return;
        };
        let on_leg = leg_range(member, run);
        let when = array.may_lag(member).then_some(When::Behind);
        let (check, key) = (Check::BitClearEq, array.key);
        self.break_promise_when(no, check, kind, when, leg, key, run, on_leg, note);
    }

    /// The sectors of a range, of those written since they were last found equal, in which active legs differ without an excuse.
    fn unequal(&mut self, array: &Array, range: SectorRange) -> Vec<Difference> {
        let unproven = self.promises.unproven.entry(array.key).or_default();
        let parts: RangeSet = unproven.within(range).collect();
        unproven.remove(range);
        self.differences(array, &parts)
    }
}
