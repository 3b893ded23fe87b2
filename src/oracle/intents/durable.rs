//! What a cut must leave of what the workload meant: the newest version that it was told is durable, or a later one.

use smallvec::SmallVec;

use super::{Book, Cell};
use crate::block::Sector;
use crate::event::EventNo;
use crate::md::ArrayKey;
use crate::oracle::past::{PastVersion, PastVersions, past_version};
use crate::oracle::record::IntentNo;

/// What a content is for an array sector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Held {
    /// A version that may be there, or anything may.
    Legal,
    /// A version that a later one, which the workload was told is durable, has replaced.
    TooOld,
    /// None of the versions, and the sector must have one.
    Nobodys,
    /// None of the versions; what was there before the first of them (begun at this number) may still be.
    Before(EventNo),
}

/// A version of a sector that the workload was told is durable.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct DurableVersion {
    /// `None`: its content is not known.
    pub(crate) digest: Option<u32>,
    pub(crate) began: EventNo,
    /// When what made it durable began (a flush), or ended (a write of its own).
    pub(crate) told: EventNo,
}

impl Book {
    /// Whether superseded versions are kept.
    pub(crate) fn keeps_versions(&self) -> bool {
        self.past.is_some()
    }

    /// What a content is for an array sector, of all that a cut may leave there.
    pub(crate) fn may_hold(&self, key: ArrayKey, sector: Sector, digest: u32) -> Held {
        let Some(cell) = self.cell(key, sector) else {
            return Held::Legal;
        };
        let past = self.past_of(key, sector);
        if past.is_some_and(|past| past.overflown) {
            return Held::Legal;
        }
        let all = self.all_versions(cell, past, sector);
        let least = self.least_of(&all).map(|version| version.began);
        let is_legal = |version: &PastVersion| least.is_none_or(|least| version.end >= least);
        let mut too_old = false;
        for version in &all {
            match version.digest {
                Some(meant) if meant != digest => {}
                Some(_) | None if is_legal(version) => return Held::Legal,
                Some(_) => too_old = true,
                None => {}
            }
        }
        too_old |= past.is_some_and(|past| past.gone.contains(&digest));
        match (too_old, least) {
            (true, _) => Held::TooOld,
            (false, Some(_)) => Held::Nobodys,
            (false, None) => Held::Before(
                all.iter()
                    .map(|version| version.begin)
                    .min()
                    .unwrap_or_default(),
            ),
        }
    }

    fn past_of(&self, key: ArrayKey, sector: Sector) -> Option<&PastVersions> {
        self.past.as_ref()?.get(&key)?.get(sector)
    }

    /// All versions of a sector that are kept, oldest first.
    fn all_versions(
        &self,
        cell: &Cell,
        past: Option<&PastVersions>,
        sector: Sector,
    ) -> SmallVec<[PastVersion; 4]> {
        let now = cell.candidates.iter().filter_map(|id| {
            let mut version = past_version(self.records.get(id)?, sector);
            if version.end == EventNo(0) {
                version.end = EventNo(u64::MAX);
            }
            Some(version)
        });
        let before = past.iter().flat_map(|past| past.versions.iter().copied());
        before.chain(now).collect()
    }

    /// The newest version that the workload was told is durable.
    fn least_of(&self, all: &[PastVersion]) -> Option<DurableVersion> {
        let durable = all
            .iter()
            .filter(|version| version.durable(&self.flushed_to));
        let newest = durable.max_by_key(|version| version.begin)?;
        Some(DurableVersion {
            digest: newest.digest,
            began: newest.begin,
            told: newest.told(&self.flushed_to),
        })
    }

    /// The newest version of a sector that the workload was told is durable; `None` if none is.
    pub(crate) fn durable_version(&self, key: ArrayKey, sector: Sector) -> Option<DurableVersion> {
        let cell = self.cell(key, sector)?;
        self.least_of(&self.all_versions(cell, self.past_of(key, sector), sector))
    }

    /// The version that must at least be there, if it is still acceptable and so can be named; else the newest.
    pub(crate) fn least(&self, key: ArrayKey, sector: Sector) -> Option<IntentNo> {
        let cell = self.cell(key, sector)?;
        let durable = cell
            .candidates
            .iter()
            .rev()
            .find(|id| self.is_durable(**id));
        durable.copied().or_else(|| self.expected(cell))
    }

    /// Whether the workload was told that a write is durable.
    pub(crate) fn is_durable(&self, id: IntentNo) -> bool {
        self.records.get(&id).is_some_and(|record| {
            let target = record.intent.target;
            let flushed = self.flushed_to.get(&target).copied().unwrap_or_default();
            record.ok && record.ended() && (record.intent.flags.dsync || record.end < flushed)
        })
    }
}
