//! `rec-eq`: a leg that md calls recovered holds what the others hold.
//!
//! Covers: when a leg's own superblock drops its recovery offset and keeps a role: the leg equals the active legs wherever the array was written in this
//! run (`raid1.c:raid1_spare_active`, `md.c:md_do_sync`). Differences are told when the array is next at rest and the leg was not sent the
//! content that it lacked then since: the guest may have held its half of a write back. On the way, while the leg has a recovery offset: what differs below it is not
//! copied by the recovery afterwards. A leg that comes into a running array (it was away, or a spare) and has no recovery offset in its first superblock is
//! called recovered from the start, and held to the same.
//!
//! Does not cover: sectors in flight, what a numbered excuse explains, sectors never
//! written in this run. `stamp` says the same of stamped sectors at the next point of rest.

use super::doubt::Lacks;
use crate::block::LegId;
use crate::event::EventNo;
use crate::finding::Check;
use crate::oracle::checker::Checker;
use crate::oracle::world::leg_sector;

impl Checker {
    pub(super) fn rec_eq(&mut self, no: EventNo, leg: LegId) {
        let Some(array) = self.promised(leg).map(|(array, _)| array.clone()) else {
            return;
        };
        if !array.member(leg).is_some_and(|member| member.active) || array.active().count() < 2 {
            return;
        }
        self.count(Check::RecEq, 1);
        let ever = self.promises.ever.get(&array.key).cloned();
        for (run, (other, kind)) in self.differences(&array, &ever.unwrap_or_default()) {
            if other != leg.0 {
                continue;
            }
            for sector in run.sectors() {
                let digest = array
                    .active()
                    .find(|member| member.leg != leg)
                    .and_then(|member| {
                        let at = leg_sector(member, sector)?;
                        self.world.shadow(member.leg).current(at).digest
                    });
                self.promises.doubts.lack(Lacks {
                    at: no,
                    leg,
                    key: array.key,
                    sector,
                    kind,
                    digest,
                });
            }
        }
    }

    /// A leg came into the array and does not say that it has to be recovered.
    pub(super) fn rec_none(&mut self, no: EventNo, leg: LegId) {
        let Some(array) = self.promised(leg).map(|(array, _)| array.clone()) else {
            return;
        };
        let runs = array.active().any(|other| {
            other.leg != leg && self.promises.leg(other.leg).kernel > self.guest.boot_began
        });
        if !runs || !array.member(leg).is_some_and(|member| member.active) {
            return;
        }
        self.promises.legs[leg.index()].out = false;
        self.rec_eq(no, leg);
        self.promises.checkpoints.anew(Check::RecEq, array.key);
        self.checkpoint(no, Check::RecEq, &array, Some(leg), array.sectors);
    }

    /// A leg is recovered up to here. How many sectors it lacks.
    pub(super) fn rec_ckpt(&mut self, no: EventNo, leg: LegId, offset: u64) -> u64 {
        let Some(mut array) = self.promised(leg).map(|(array, _)| array.clone()) else {
            return 0;
        };
        let slot = array
            .members
            .iter_mut()
            .find(|member| member.leg == leg && member.slot.is_some());
        let Some(member) = slot.filter(|_| offset > 0) else {
            return 0;
        };
        // Below the offset it is held to what active legs are held to.
        member.active = true;
        if array.active().count() < 2 {
            return 0;
        }
        self.checkpoint(
            no,
            Check::RecEq,
            &array,
            Some(leg),
            offset.min(array.sectors),
        )
    }
}
