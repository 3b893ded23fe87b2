//! `bit-clear-eq`: a bit that goes clear promises that all active legs agree on its chunk.
//!
//! Covers: at the fetch of a bitmap page in which a bit goes from 1 to 0 on an active leg: no normal write to the chunk is in flight that arrived earlier,
//! and the legs' shadows are equal over what was written there since it was last found equal (`md-bitmap.c:md_bitmap_endwrite`,
//! `md_bitmap_daemon_work`).
//!
//! Does not cover: what a numbered excuse explains (2, 9 to 14), whether the other legs' caches are flushed (K8), sectors that `stamp` has judged already.
//! Since bits are counted at md's own clone of a request they may go clear while a write-mostly leg is behind: K2.

use crate::block::{LegId, RequestId, SectorRange};
use crate::event::EventNo;
use crate::finding::{Check, Wrongness};
use crate::md::Array;
use crate::oracle::checker::Checker;
use crate::oracle::clean_eq::{self, Compared};
use crate::oracle::excuse::Excuse;
use crate::oracle::intents::Accept;
use crate::oracle::world::{array_range, bit, leg_range, leg_sector};
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
        self.break_promise(
            no,
            Check::BitClearEq,
            kind,
            leg,
            array.key,
            run,
            on_leg,
            note,
        );
    }

    /// The sectors of a range, of those written since they were last found equal, in which active legs differ without an excuse.
    fn unequal(
        &mut self,
        array: &Array,
        range: SectorRange,
    ) -> Vec<(SectorRange, (u8, Wrongness))> {
        let unproven = self.promises.unproven.entry(array.key).or_default();
        let parts: Vec<SectorRange> = unproven
            .ranges()
            .filter_map(|part| part.intersection(range))
            .collect();
        for part in &parts {
            unproven.remove(*part);
        }
        let mut keep = RangeSet::default();
        let mut found = Vec::new();
        for sector in parts.into_iter().flat_map(SectorRange::sectors) {
            match clean_eq::compare(&self.world, &self.book, array, sector) {
                Compared::Equal => {}
                Compared::Excused(Excuse::InFlight) => {
                    if let Some(one) = SectorRange::new(sector, 1) {
                        keep.insert(one);
                    }
                }
                Compared::Excused(_) => {}
                Compared::Different(_, kind, _, leg) => found.push((sector, (leg.0, kind))),
                Compared::Judged => {
                    let wrong = array.active().find(|member| {
                        let content = leg_sector(member, sector)
                            .map(|at| self.world.shadow(member.leg).current(at));
                        self.book.cell(array.key, sector).is_some_and(|cell| {
                            cell.judged & bit(member.leg) == 0
                                && content.is_some_and(|version| {
                                    self.book.accepts(cell, sector, version.digest) == Accept::No
                                })
                        })
                    });
                    found.extend(wrong.map(|member| (sector, (member.leg.0, Wrongness::Absent))));
                }
            }
        }
        for part in keep.ranges() {
            self.promises
                .unproven
                .entry(array.key)
                .or_default()
                .insert(part);
        }
        crate::oracle::judge::runs(&found)
    }
}
