//! `no-stale-read`: a leg is not read where it is not up to date.
//!
//! Covers: READs of a leg that is away, or that is being recovered and was read beyond the recovery offset in its superblock, or that is behind, while md runs
//! the array: what they returned is what the active legs hold (`raid1.c:read_balance`). Only sectors that were written in this run and about which the other
//! legs agree.
//!
//! Does not cover: sectors in flight or in doubt, what a fault made of the answer, programs that read the leg itself: suspect, until the guest itself finds
//! the same content wrong. On 6.12 reads during a resync come from the first leg that is not faulty: K4.

use crate::block::{RequestId, Sector, SectorRange};
use crate::event::{Digests, EventNo};
use crate::finding::{Check, Wrongness};
use crate::md::{Array, Member};
use crate::oracle::checker::Checker;
use crate::oracle::clean_eq::{Compared, compare};
use crate::oracle::excuse::Excuse;
use crate::oracle::known::When;
use crate::oracle::world::{leg_range, leg_sector};
use crate::shadow::{Open, Origin, State};

impl Checker {
    pub(super) fn no_stale_read(
        &mut self,
        no: EventNo,
        id: RequestId,
        open: &Open,
        digests: &Digests,
    ) {
        let Some(range) = open.ranges.first().copied() else {
            return;
        };
        let Some((array, member)) = self.promised(id.leg) else {
            return;
        };
        let lags = array.may_lag(member);
        if (member.active && !lags) || !self.may_run(array) {
            return;
        }
        let (array, member) = (array.clone(), member.clone());
        let Some(stale) = self.stale_part(&array, &member, range) else {
            return;
        };
        self.count(Check::NoStaleRead, 1);
        let skip = stale.start().0 - range.start().0;
        let mut found: Vec<(Sector, ())> = Vec::new();
        for (at, digest) in stale
            .sectors()
            .zip(digests.iter().skip(crate::block::to_usize(skip)))
        {
            let sector = Sector(at.0 - member.data.start().0);
            if self.is_stale(&array, &member, sector, *digest, open.arrived) {
                found.push((sector, ()));
            }
        }
        let when = self
            .promises
            .resync_due
            .contains(&array.key)
            .then_some(When::BeforeResync);
        for (run, ()) in crate::oracle::judge::runs(&found) {
            let note = format!(
                "request {} of leg {} returned what the active legs no longer hold",
                id.number,
                self.world.header.leg_name(id.leg)
            );
            let on_leg = leg_range(&member, run);
            self.break_promise_when(
                no,
                Check::NoStaleRead,
                Wrongness::Read,
                when,
                id.leg,
                array.key,
                run,
                on_leg,
                note,
            );
        }
    }

    /// The part of a range in which the leg may hold something old.
    fn stale_part(
        &self,
        array: &Array,
        member: &Member,
        range: SectorRange,
    ) -> Option<SectorRange> {
        let range = range.intersection(member.data)?;
        let wire = self.promises.leg(member.leg);
        if member.active {
            return array.may_lag(member).then_some(range);
        }
        if wire.gone.since.is_some() {
            return Some(range);
        }
        let recovered = wire.superblock.as_ref()?.recovery_offset?;
        let from = Sector(member.data.start().0.checked_add(recovered)?);
        let left = range.end().0.checked_sub(from.0.max(range.start().0))?;
        SectorRange::new(from.max(range.start()), left).filter(|part| !part.is_empty())
    }

    /// Whether a leg returned something that the other legs, which agree, do not hold since before the READ arrived.
    fn is_stale(
        &self,
        array: &Array,
        member: &Member,
        sector: Sector,
        digest: u32,
        arrived: EventNo,
    ) -> bool {
        let written = self.promises.ever.get(&array.key);
        if !written.is_some_and(|written| written.contains(sector)) {
            return false;
        }
        let own = leg_sector(member, sector).map(|at| self.world.shadow(member.leg).current(at));
        if own.is_some_and(|own| own.state == State::InFlight || own.no > arrived) {
            return false;
        }
        // An active leg may hold something else, too.
        if member.active
            && let Compared::Excused(Excuse::Overlap | Excuse::BufferChanged) =
                compare(&self.world, &self.book, array, sector, false)
        {
            return false;
        }
        let mut others = array
            .active()
            .filter(|other| other.leg != member.leg && !array.may_lag(other))
            .filter_map(|other| {
                let at = leg_sector(other, sector)?;
                Some(self.world.shadow(other.leg).current(at))
            })
            .peekable();
        let agreed = others.peek().and_then(|first| first.digest);
        agreed.is_some_and(|agreed| {
            agreed != digest
                && others.all(|other| {
                    other.digest == Some(agreed)
                        && other.state == State::Acknowledged
                        && !other.changed
                        && other.origin != Origin::Initial
                        && other.ended < arrived
                })
        })
    }
}
