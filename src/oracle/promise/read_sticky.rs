//! `read-sticky`: before a resync has passed, the guest is not shown two contents of one sector.
//!
//! Covers: in a boot that found or made the array dirty, until it is clean: READs of one array sector, with nothing written to it between them, return one
//! content; and resync does not put another content on the leg that was read (reads come from the leg that resync copies from: `raid1.c:read_balance`,
//! `raid1_sync_request`). Sectors that were written in this run.
//!
//! Does not cover: READs that a write overtakes, what a leg that has left or cannot be read there has shown, what a fault made of an answer, programs that
//! read the legs themselves: suspect; raid10, whose resync reads all copies to compare them (`raid10.c:raid10_sync_request`). On 6.12 reads come from the
//! first leg that is not faulty: K4.

use std::collections::BTreeMap;

use crate::block::{LegId, RequestId, Sector, SectorRange};
use crate::event::{Digests, EventNo};
use crate::finding::{Check, Wrongness};
use crate::md::{Array, ArrayKey, Member};
use crate::oracle::checker::Checker;
use crate::oracle::known::When;
use crate::oracle::world::{array_range, leg_range, leg_sector};
use crate::shadow::Open;

/// Sectors that are remembered.
const READS_MAX: usize = 1 << 16;

/// What the guest was shown before resync passed: leg and content by array sector.
#[derive(Debug, Default)]
pub(super) struct EarlyReads {
    by_sector: BTreeMap<(ArrayKey, Sector), (LegId, u32)>,
}

impl EarlyReads {
    pub(super) fn clear(&mut self) {
        *self = EarlyReads::default();
    }
}

impl Checker {
    /// A leg returned this to the guest.
    pub(super) fn read_early(
        &mut self,
        no: EventNo,
        id: RequestId,
        open: &Open,
        digests: &Digests,
    ) {
        if self.promises.resync_due.is_empty() {
            return;
        }
        let Some(range) = open.ranges.first().copied() else {
            return;
        };
        let Some((array, member)) = self
            .promised(id.leg)
            .map(|(array, member)| (array.clone(), member.clone()))
        else {
            return;
        };
        if array.raid10 || !self.promises.resync_due.contains(&array.key) || !self.may_run(&array) {
            return;
        }
        let mut flipped: Vec<(Sector, LegId)> = Vec::new();
        for (at, digest) in range.sectors().zip(digests) {
            let Some(sector) = at.0.checked_sub(member.data.start().0).map(Sector) else {
                continue;
            };
            let written = self.promises.ever.get(&array.key);
            if !written.is_some_and(|written| written.contains(sector)) {
                continue;
            }
            // What was written since the READ arrived it need not have seen.
            if self.world.shadow(id.leg).current(at).no > open.arrived {
                continue;
            }
            let shown = self
                .promises
                .early_reads
                .by_sector
                .get(&(array.key, sector));
            let other = shown.map(|(leg, _)| *leg);
            // A leg that has left, or cannot be read there, shows nothing any more.
            let stays = other.is_some_and(|leg| {
                array.member(leg).is_some_and(|member| {
                    member.active
                        && leg_sector(member, sector).is_some_and(|there| {
                            !self.world.is_bad(leg, there)
                                && !self.promises.leg(leg).read_errors.contains(there)
                        })
                })
            });
            let reads = &mut self.promises.early_reads.by_sector;
            match reads.get(&(array.key, sector)) {
                Some((leg, shown)) if stays && *leg != id.leg && shown != digest => {
                    flipped.push((sector, *leg));
                }
                Some(_) if stays => {}
                Some(_) => {
                    reads.insert((array.key, sector), (id.leg, *digest));
                }
                None if reads.len() < READS_MAX => {
                    reads.insert((array.key, sector), (id.leg, *digest));
                }
                None => {}
            }
        }
        self.count(Check::ReadSticky, 1);
        for (run, before) in crate::oracle::judge::runs(&flipped) {
            let note = format!(
                "request {} of leg {} returned something else than leg {} did before, and nothing was written in between",
                id.number,
                self.world.header.leg_name(id.leg),
                self.world.header.leg_name(before)
            );
            self.sticky_broken(no, &array, &member, run, note);
        }
    }

    /// Array sectors are discarded.
    pub(super) fn read_discarded(&mut self, key: ArrayKey, on_array: SectorRange) {
        let reads = &mut self.promises.early_reads.by_sector;
        if !reads.is_empty() {
            reads.retain(|(of, sector), _| *of != key || !on_array.contains(*sector));
        }
    }

    /// A write's payload was fetched: what was shown before is no longer what is there.
    pub(super) fn read_over(
        &mut self,
        no: EventNo,
        id: RequestId,
        sync: bool,
        array: &Array,
        member: &Member,
    ) {
        if self.promises.early_reads.by_sector.is_empty() {
            return;
        }
        let Some((range, digests)) = self
            .world
            .requests
            .open(id)
            .and_then(|open| Some((*open.ranges.first()?, open.digests.clone())))
        else {
            return;
        };
        let mut replaced: Vec<(Sector, ())> = Vec::new();
        for (at, digest) in range.sectors().zip(&digests) {
            let Some(sector) = at.0.checked_sub(member.data.start().0).map(Sector) else {
                continue;
            };
            let reads = &mut self.promises.early_reads.by_sector;
            let shown = reads.get(&(array.key, sector)).copied();
            if sync && shown.is_some_and(|(leg, shown)| leg == id.leg && shown != *digest) {
                replaced.push((sector, ()));
            }
            // Resync's write to another leg leaves what was shown.
            if !sync || shown.is_some_and(|(leg, _)| leg == id.leg) {
                reads.remove(&(array.key, sector));
            }
        }
        for (run, ()) in crate::oracle::judge::runs(&replaced) {
            let note = format!(
                "leg {} was read, and then resync put another content there (request {})",
                self.world.header.leg_name(id.leg),
                id.number
            );
            self.sticky_broken(no, array, member, run, note);
        }
    }

    fn sticky_broken(
        &mut self,
        no: EventNo,
        array: &Array,
        member: &Member,
        run: SectorRange,
        note: String,
    ) {
        let on_leg = leg_range(member, run);
        let run = array_range(member, on_leg).unwrap_or_default();
        self.break_promise_when(
            no,
            Check::ReadSticky,
            Wrongness::Read,
            Some(When::BeforeResync),
            member.leg,
            array.key,
            run,
            on_leg,
            note,
        );
    }
}
