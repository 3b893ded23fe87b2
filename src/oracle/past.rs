//! Versions of a sector that were superseded: what a power cut may bring back, and what it may not.

use std::collections::{BTreeMap, VecDeque};

use super::record::Record;
use crate::block::Sector;
use crate::event::EventNo;

/// A version that was superseded, and that a power cut may bring back.
#[derive(Clone, Copy, Debug)]
pub(super) struct PastVersion {
    pub(super) digest: Option<u32>,
    pub(super) begin: EventNo,
    pub(super) end: EventNo,
    pub(super) durable_by: DurableBy,
}

/// What makes a version durable.
#[derive(Clone, Copy, Debug)]
pub(super) enum DurableBy {
    Itself,
    /// A flush of this target that began after the version's end.
    Flush(u16),
    Nothing,
}

/// Superseded versions of a sector, oldest first.
#[derive(Clone, Debug, Default)]
pub(super) struct PastVersions {
    pub(super) versions: Vec<PastVersion>,
    /// Contents of those that are too old to come back, newest last.
    pub(super) gone: VecDeque<u32>,
    /// There were more than are kept: nothing can be said.
    pub(super) overflown: bool,
}

/// Superseded versions of a sector that are kept at most.
const PAST_MAX: usize = 64;

impl PastVersion {
    pub(super) fn durable(&self, flushed_to: &BTreeMap<u16, EventNo>) -> bool {
        match self.durable_by {
            DurableBy::Itself => true,
            DurableBy::Flush(target) => flushed_to
                .get(&target)
                .is_some_and(|begin| self.end < *begin),
            DurableBy::Nothing => false,
        }
    }

    /// When it was made durable, as the workload was told: its end, or the begin of the latest flush.
    pub(super) fn told(&self, flushed_to: &BTreeMap<u16, EventNo>) -> EventNo {
        match self.durable_by {
            DurableBy::Flush(target) => {
                let flushed = flushed_to.get(&target).copied();
                self.end.max(flushed.unwrap_or_default())
            }
            DurableBy::Itself | DurableBy::Nothing => self.end,
        }
    }
}

impl PastVersions {
    pub(super) fn push(&mut self, version: PastVersion, flushed_to: &BTreeMap<u16, EventNo>) {
        let durable = self.versions.iter().filter(|one| one.durable(flushed_to));
        if let Some(least) = durable.map(|one| one.begin).max() {
            // Of one that is too old the content stays, so that it can be told from what nobody wrote.
            let gone = &mut self.gone;
            self.versions.retain(|one| {
                let old = one.end < least;
                if old && let Some(digest) = one.digest {
                    if gone.len() == PAST_MAX {
                        gone.pop_front();
                    }
                    gone.push_back(digest);
                }
                !old
            });
        }
        if self.versions.len() >= PAST_MAX {
            self.overflown = true;
        } else {
            self.versions.push(version);
        }
    }
}

/// What an intent makes of a sector.
pub(super) fn past_version(record: &Record, sector: Sector) -> PastVersion {
    PastVersion {
        digest: record.digest(sector),
        begin: record.begin,
        end: record.end,
        durable_by: if !record.ok {
            DurableBy::Nothing
        } else if record.intent.flags.dsync {
            DurableBy::Itself
        } else {
            DurableBy::Flush(record.intent.target)
        },
    }
}
