//! `meta-fua`: a dirty mark is durable before the first write that depends on it.
//!
//! Covers: at the arrival of a normal write that `dirty-first` finds in order: on every active leg a FLUSH arrived after the completion of the superblock
//! that made the array dirty, and completed. md writes metadata with PREFLUSH and FUA; virtio-blk has no FUA, so a FLUSH follows
//! (`md.c:md_super_write`, `block/blk-flush.c`).
//!
//! Does not cover: bits (under concurrency other writers' bits race, K1), legs without a write cache or on which no FLUSH was ever seen.

use crate::block::SectorRange;
use crate::event::EventNo;
use crate::finding::{Check, Wrongness};
use crate::md::{Array, Member};
use crate::oracle::checker::Checker;

impl Checker {
    pub(super) fn meta_fua(
        &mut self,
        no: EventNo,
        array: &Array,
        member: &Member,
        on_array: SectorRange,
    ) {
        let wire = self.promises.leg(member.leg);
        let since = wire.dirty_since;
        if !wire.caches() || since <= self.guest.boot_began || wire.said == since
            // A failed FLUSH fails the leg, which md has not recorded yet.
            || wire.flush_failed > since
        {
            return;
        }
        let place = wire.superblock_place();
        let durable = self.world.shadow(member.leg).durable_before() > since;
        self.promises.legs[member.leg.index()].said = since;
        self.count(Check::MetaFua, 1);
        if durable {
            return;
        }
        let note = format!(
            "the superblock that made the array dirty completed with {since}; no FLUSH followed before the write arrived"
        );
        self.break_promise(
            no,
            Check::MetaFua,
            Wrongness::Early,
            member.leg,
            array.key,
            on_array,
            place,
            note,
        );
    }
}
