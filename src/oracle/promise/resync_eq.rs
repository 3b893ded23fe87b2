//! `resync-eq`: legs that differed after a cut, or as the array was made, agree when md says that the resync is over.
//!
//! Covers: after a boot that left the array dirty, or a program that made it to be resynced (`mdadm --create` without `--assume-clean`): when all active legs
//! have completed a superblock that is fully clean in that boot, they are equal wherever the array was written in this run (`md.c:md_do_sync`,
//! `raid1.c:raid1_sync_request`); writes that a leg had not stored at the cut are `cut_short`'s. On the way, when a superblock has a checkpoint: what differs
//! below it is not copied by resync afterwards (the checkpoint would be early; a write whose other half the guest holds back comes from other pages).
//!
//! Does not cover: a checkpoint that a program set, what a numbered excuse explains, sectors never written in this run. `stamp` says the same of stamped
//! sectors at the next point of rest.

use crate::block::LegId;
use crate::event::EventNo;
use crate::finding::Check;
use crate::md::IN_SYNC;
use crate::oracle::checker::Checker;

impl Checker {
    pub(super) fn resync_eq(&mut self, no: EventNo, leg: LegId) {
        let Some(array) = self.promised(leg).map(|(array, _)| array.clone()) else {
            return;
        };
        let clean = array.active().all(|member| {
            let wire = self.promises.leg(member.leg);
            wire.kernel > self.guest.boot_began
                && wire
                    .superblock
                    .as_ref()
                    .is_some_and(|superblock| superblock.resync_offset == IN_SYNC)
        });
        if !clean || array.active().count() < 2 || !self.promises.resync_due.remove(&array.key) {
            return;
        }
        self.promises.early_reads.clear();
        self.count(Check::ResyncEq, 1);
        let ever = self.promises.ever.get(&array.key).cloned();
        let found = self.differences(&array, &ever.unwrap_or_default());
        for (run, _) in &found {
            // Said once is enough.
            if let Some(touched) = self.touched.get_mut(&array.key) {
                touched.remove(*run);
            }
        }
        let note = "a resync was due, as the array was made or left dirty; now md calls it clean";
        self.break_where(no, Check::ResyncEq, &array, found, note);
        self.cut_short_eq(no, &array);
    }

    /// The resync is past here: legs are equal below it. How many sectors are not.
    pub(super) fn resync_ckpt(&mut self, no: EventNo, leg: LegId, offset: u64) -> u64 {
        let Some(array) = self.promised(leg).map(|(array, _)| array.clone()) else {
            return 0;
        };
        // It counts the sectors of the whole (`raid10.c:raid10_sync_request`).
        let offset = array.below(offset);
        if offset == 0 || offset >= array.sectors || !self.promises.resync_due.contains(&array.key)
        {
            return 0;
        }
        if array.active().count() < 2 {
            return 0;
        }
        self.checkpoint(no, Check::ResyncEq, &array, None, offset)
    }
}
