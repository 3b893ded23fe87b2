//! `flush-all`: a flush of the array reaches every leg before it is acknowledged.
//!
//! Covers: between the begin and the end mark of a flush on the array's own device (fsync of the raw device): on each leg with a role, write-mostly and
//! recovering ones included, a FLUSH arrived and ended (`md.c:md_flush_request`, `submit_flushes`). It need not have succeeded: stock md does not
//! look (K5). A leg that md has failed and not yet recorded gets none, so it is told when the leg is next sent a write, or at the end.
//!
//! Does not cover: legs without a write cache, or on which no FLUSH was ever seen; legs that are faulty or suspect; flushes of files (they may need none),
//! of targets that are not the array.

use super::doubt::Missed;
use crate::block::LegId;
use crate::event::EventNo;
use crate::finding::Check;
use crate::mark::Intent;
use crate::md::{Array, ArrayKey};
use crate::oracle::checker::Checker;

impl Checker {
    pub(crate) fn flush_all(&mut self, no: EventNo, intent: &Intent, begin: EventNo) {
        let whole = self
            .guest
            .targets
            .get(&intent.target)
            .filter(|target| target.mapping.at_start())
            .map(|target| target.sectors);
        let mut arrays: Vec<Array> = self.world.md.arrays().to_vec();
        arrays.retain(|array| Some(array.whole_sectors()) == whole);
        // One array, or all mirrors of one raid10.
        let one = arrays.first().map(|array| array.key.uuid);
        if arrays
            .iter()
            .any(|array| Some(array.key.uuid) != one || array.refused.is_some())
        {
            return;
        }
        let legs: Vec<(LegId, ArrayKey)> = arrays
            .iter()
            .flat_map(|array| array.members.iter().map(|member| (member, array.key)))
            .filter(|(member, _)| member.slot.is_some())
            .map(|(member, key)| (member.leg, key))
            .collect();
        for (leg, key) in legs {
            let wire = self.promises.leg(leg);
            if !wire.caches() {
                continue;
            }
            let flushed = wire.flushed;
            self.count(Check::FlushAll, 1);
            if flushed < begin {
                let note = format!(
                    "the flush began with {begin} and was acknowledged before {no}; leg {} ended no FLUSH that arrived in between",
                    self.world.header.leg_name(leg)
                );
                self.promises.doubts.missed.push(Missed {
                    at: no,
                    leg,
                    key,
                    note,
                });
            }
        }
    }
}
