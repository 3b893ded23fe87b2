//! `crash-covered` once more, of what volatile caches lost at a power cut: where legs agreed before it and do not any more, a mark says so.
//!
//! Covers: when the next boot's first step begins (md has not touched the legs yet): data sectors that a cache lost, whose newest write had completed with the
//! same content on active legs, and that are no longer the same: the freshest superblock is dirty, and with a bitmap the chunk's bit is set in every active
//! leg's copy. md sends a FLUSH ahead of each mark (`md.c:md_super_write`), to each leg on its own: another leg may say "clean" while this one still holds the
//! data in its cache and its own mark says "dirty" (K8). Where the leg's own mark is gone too, the flush ahead of it was left out.
//!
//! Does not cover: legs that may lag (K2), bad blocks, buffers that changed, legs of which a FLUSH has failed or lied since, arrays without superblocks.

use crate::block::{LegId, Sector, SectorRange};
use crate::event::EventNo;
use crate::finding::{Check, Wrongness};
use crate::md::{Array, Member};
use crate::oracle::checker::Checker;
use crate::oracle::known::When;
use crate::oracle::world::{array_range, leg_range, leg_sector};
use crate::shadow::{Origin, State, Version};

impl Checker {
    /// A power cut took this from a leg's cache.
    pub(super) fn cache_lost(&mut self, leg: LegId, range: SectorRange) {
        let lost = self
            .promised(leg)
            .and_then(|(array, member)| Some((array.key, array_range(member, range)?)));
        if let Some((key, on_array)) = lost {
            self.promises.lost.entry(key).or_default().insert(on_array);
        }
    }

    /// The first step of a boot begins, and nothing has changed since the cut.
    pub(crate) fn lost_covered(&mut self, no: EventNo) {
        for (key, lost) in std::mem::take(&mut self.promises.lost) {
            let Some(array) = self.world.md.array(key).cloned() else {
                continue;
            };
            if array.refused.is_some() || array.active().count() < 2 {
                continue;
            }
            let mut looked = 0;
            let mut found: Vec<(Sector, (u8, bool))> = Vec::new();
            for sector in lost.ranges().flat_map(SectorRange::sectors) {
                let losers = self.lost_by(&array, sector);
                let Some(leg) = losers.last().copied() else {
                    continue;
                };
                looked += 1;
                if let Some(member) = array.member(leg)
                    && !self.covered(&array, sector)
                {
                    let own = self.own_mark(&array, member, sector);
                    found.push((sector, (leg.0, own)));
                }
                for leg in losers {
                    self.lost_alone(&array, leg, sector);
                }
            }
            self.count(Check::CrashCovered, looked);
            for (run, (leg, own)) in crate::oracle::judge::runs(&found) {
                let leg = LegId(leg);
                let Some(member) = array.member(leg) else {
                    continue;
                };
                let note = format!(
                    "leg {}'s cache lost what another leg kept, and no dirty mark or bit says so",
                    self.world.header.leg_name(leg)
                );
                self.break_promise_when(
                    no,
                    Check::CrashCovered,
                    Wrongness::Differs,
                    own.then_some(When::CacheLost),
                    leg,
                    key,
                    run,
                    leg_range(member, run),
                    note,
                );
            }
        }
    }

    /// The active legs that lost a sector which they had, and another one has still.
    fn lost_by(&self, array: &Array, sector: Sector) -> Vec<LegId> {
        let mut before: Option<Version> = None;
        let mut kept = false;
        let mut lost = Vec::new();
        for member in array.active() {
            let Some(at) = leg_sector(member, sector) else {
                return Vec::new();
            };
            let flushed = !self
                .durable
                .troubles
                .unflushed_since(member.leg, EventNo(0));
            if !flushed || array.may_lag(member) || self.world.is_bad(member.leg, at) {
                continue;
            }
            let mut versions = self.world.shadow(member.leg).versions(at);
            let Some(now) = versions.next() else {
                return Vec::new();
            };
            let had = if now.is_found() {
                versions.next()
            } else {
                Some(now)
            };
            let Some(had) = had else {
                return Vec::new();
            };
            let sure = had.state == State::Acknowledged && had.origin == Origin::Write;
            let same = before.is_none_or(|before| before.digest == had.digest);
            if !sure || had.changed || !same {
                return Vec::new();
            }
            before = Some(had);
            if now.digest == had.digest {
                kept = true;
            } else {
                lost.push(member.leg);
            }
        }
        if kept { lost } else { Vec::new() }
    }

    /// Whether a leg's own superblock and bitmap still say that a sector may differ.
    fn own_mark(&self, array: &Array, member: &Member, sector: Sector) -> bool {
        let wire = self.promises.leg(member.leg);
        let one = SectorRange::new(sector, 1).unwrap_or_default();
        let bit = wire
            .bitmap()
            .is_none_or(|held| array.chunks(held, one).all(|chunk| held.is_set(chunk)));
        let superblock = wire.superblock.as_ref();
        bit && superblock.is_some_and(|own| array.below(own.resync_offset) <= sector.0)
    }
}
