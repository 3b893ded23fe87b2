//! `preflush-order`: what a file system commits is durable before the commit block is written.
//!
//! Covers: commit blocks of ext4's journal, which are known by their content (`fs/jbd2/commit.c:journal_submit_commit_record` writes them with PREFLUSH and FUA
//! when the blocks before have ended): on each leg with a write cache a FLUSH arrived after the block before the commit block had completed on every leg,
//! and ended before the commit block arrived (`md.c:md_flush_request`).
//!
//! Does not cover: file systems other than ext4, mounts without barriers or with asynchronous commits (so it is suspect), the first block of a journal,
//! blocks before at the end of another chunk of a raid10 or in flight on any leg, commit blocks that md writes once more (resync's, a repair's, a retry's).
//! A sector before that was written once more with the same content counts from when it was there first. Since 6.12 a PREFLUSH does not order the data behind it: K3.

use crate::block::{RequestId, Sector, SectorRange, is_commit_block};
use crate::event::EventNo;
use crate::finding::{Check, Wrongness};
use crate::oracle::checker::Checker;
use crate::oracle::known::When;
use crate::oracle::world::{array_range, leg_sector};
use crate::shadow::{Origin, State, Version};

impl Checker {
    pub(super) fn preflush_order(
        &mut self,
        no: EventNo,
        id: RequestId,
        range: SectorRange,
        payload: &[u8],
    ) {
        if !is_commit_block(payload) {
            return;
        }
        let Some((array, member)) = self
            .promised(id.leg)
            .map(|(array, member)| (array.clone(), member.clone()))
        else {
            return;
        };
        let Some(on_array) = array_range(&member, range) else {
            return;
        };
        let Some(arrived) = self.world.requests.open(id).map(|open| open.arrived) else {
            return;
        };
        let caches = self.promises.leg(id.leg).caches();
        if !member.active || !caches || !self.promises.normal(id) {
            return;
        }
        // A commit block is one block of the file system, and the journal's block before is as long. Some of its sectors may hold what was there already.
        let (start, sectors) = (on_array.start().0, on_array.count());
        let Some(before) = start
            .checked_sub(sectors)
            .and_then(|first| SectorRange::new(Sector(first), sectors))
        else {
            return;
        };
        // Where a chunk of a raid10 begins, the block before is on another mirror.
        let on_whole = |sector| self.world.md.on_whole(array.key, sector).0;
        if on_whole(before.start()) + sectors != on_whole(on_array.start()) {
            return;
        }
        let mut ended = EventNo(0);
        for other in array.active().filter(|other| !array.may_lag(other)) {
            let shadow = self.world.shadow(other.leg);
            for sector in before.sectors() {
                let Some(at) = leg_sector(other, sector) else {
                    return;
                };
                let current = shadow.current(at);
                if current.origin != Origin::Write || current.state != State::Acknowledged {
                    return;
                }
                let same = |version: &Version| {
                    version.state == State::Acknowledged && version.digest == current.digest
                };
                let first = shadow.versions(at).take_while(same).last();
                ended = ended.max(first.map_or(current.ended, |version| version.ended));
            }
        }
        self.count(Check::PreflushOrder, 1);
        if ended == EventNo(0) || self.promises.leg(id.leg).flushed_between(ended, arrived) {
            return;
        }
        let note = format!(
            "the block before this commit block completed with {ended}; no FLUSH of leg {} lies between that and {arrived}",
            self.world.header.leg_name(id.leg)
        );
        self.break_promise_when(
            no,
            Check::PreflushOrder,
            Wrongness::Early,
            Some(When::Preflush),
            id.leg,
            array.key,
            on_array,
            range,
            note,
        );
    }
}
