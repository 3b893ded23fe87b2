//! `rec-eq`: a leg that md calls recovered holds what the others hold.
//!
//! Covers: when a leg's own superblock drops its recovery offset and keeps a role: the leg equals the active legs wherever the array was written in this
//! run (`raid1.c:raid1_spare_active`, `md.c:md_do_sync`).
//!
//! Does not cover: the recovered part of a leg that still has an offset (REC-CKPT), sectors in flight, what a numbered excuse explains, sectors never
//! written in this run. `stamp` says the same of stamped sectors at the next point of rest.

use super::Difference;
use crate::block::LegId;
use crate::event::EventNo;
use crate::finding::Check;
use crate::oracle::checker::Checker;

impl Checker {
    pub(super) fn rec_eq(&mut self, no: EventNo, leg: LegId) {
        let Some(array) = self.promised(leg).map(|(array, _)| array.clone()) else {
            return;
        };
        if !array.member(leg).is_some_and(|member| member.active) || array.active().count() < 2 {
            return;
        }
        let ever = self.promises.ever.get(&array.key).cloned();
        let found: Vec<Difference> = self
            .differences(&array, &ever.unwrap_or_default())
            .into_iter()
            .filter(|(_, (other, _))| *other == leg.0)
            .collect();
        self.count(Check::RecEq, 1);
        let note = format!(
            "leg {} was called recovered with {no}",
            self.world.header.leg_name(leg)
        );
        self.break_where(no, Check::RecEq, &array, found, &note);
    }
}
