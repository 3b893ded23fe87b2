//! The fold itself: which event goes where.

use std::collections::{BTreeMap, BTreeSet};

use super::injected::Injected;
use super::intents::Book;
use super::legs::Note;
use super::rounds::Rounds;
use super::same_pages::{Announced, Buffer};
use super::verdict::Coverage;
use super::world::World;
use super::wrong::Wrongs;
use crate::block::{LegId, RequestId, Sector, SectorRange};
use crate::event::{Action, Event, EventNo, FrontendChange, GuestEnd, What};
use crate::header::RunHeader;
use crate::md::{ArrayKey, never_metadata};
use crate::shadow::{RangeSet, Table};
use crate::watch::Watch;

/// A sector that the live side should read from the medium and record as [`What::Evidence`], if its CRC-32 is still `digest`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Wanted {
    /// The leg.
    pub leg: LegId,
    /// The sector on the leg.
    pub sector: Sector,
    /// The version, for the event.
    pub version: EventNo,
    /// The content's CRC-32.
    pub digest: u32,
}

/// The checker.
#[derive(Debug)]
pub struct Checker {
    pub(super) world: World,
    pub(super) book: Book,
    pub(super) wrongs: Wrongs,
    pub(super) injected: Injected,
    pub(super) durable: super::durable::Durable,
    pub(super) coverage: Coverage,
    pub(super) announced: Announced,
    /// Buffers of immutable writes, and the last event at which the promise about them ended.
    pub(super) immutable: BTreeMap<Buffer, (u16, u64)>,
    pub(super) released: EventNo,
    pub(super) notes: BTreeMap<RequestId, Note>,
    /// Array sectors written since the last comparison, and ever.
    pub(super) touched: BTreeMap<ArrayKey, RangeSet>,
    pub(super) written: BTreeMap<ArrayKey, RangeSet>,
    /// Array sectors that wait to be judged at rest.
    pub(super) pending: BTreeMap<ArrayKey, RangeSet>,
    pub(super) excused: BTreeMap<ArrayKey, Table<u8>>,
    /// READs that a lagging leg got in the time of a write, by the write.
    pub(super) lagged: BTreeMap<(super::record::IntentNo, LegId), super::wrong::Instead>,
    /// Writes that were acknowledged and that a lagging leg had not completed then, with the time of the acknowledgement.
    pub(super) behind: BTreeMap<(super::record::IntentNo, LegId), u64>,
    pub(super) metadata_seen: EventNo,
    /// The last quiet point that was reached: md was at rest, and what it knew of its legs was on record.
    pub(super) quiet_at: EventNo,
    /// Legs that left a metadata write unanswered, as long as nothing shows that their guest goes on.
    pub(super) unanswered: BTreeSet<LegId>,
    /// The newest begin of a write of the workload that a leg was sent.
    pub(super) begun: BTreeMap<LegId, EventNo>,
    /// Since when a leg is active in an array.
    pub(super) active_since: BTreeMap<(ArrayKey, LegId), EventNo>,
    /// When each array's superblocks were written.
    pub(super) rounds: BTreeMap<ArrayKey, Rounds>,
    pub(super) wanted: Vec<Wanted>,
    pub(super) evidence: BTreeMap<(LegId, Sector, EventNo), Vec<u8>>,
    pub(super) guest: super::guest::Guest,
    pub(super) promises: super::promise::Promises,
    pub(super) moments: super::moments::Moments,
    pub(super) lags: super::lag::Lags,
    pub(super) scans_left: u32,
    /// How long requests have waited for us, in milliseconds.
    pub(super) waited_ms: u64,
    pub(super) last: EventNo,
}

/// Searches for the owner of a stray content, in a whole run. Each looks through everything the workload meant.
const SCANS_MAX: u32 = 256;

/// Evidence that is kept, in sectors.
const EVIDENCE_MAX: usize = 4096;

impl Checker {
    /// A checker for the run that the header describes.
    pub fn new(header: &RunHeader) -> Checker {
        let mut coverage = Coverage::default();
        for leg in &header.legs {
            coverage.legs.push(super::verdict::LegCoverage {
                name: leg.config.name.clone(),
                ..Default::default()
            });
        }
        Checker {
            world: World::new(header),
            book: Book::new(header.run, header.crypt_key.as_ref(), header.keeps_versions),
            wrongs: Wrongs::new(
                Watch::of(&header.options),
                header
                    .options
                    .get("no_known")
                    .and_then(serde_json::Value::as_bool)
                    .unwrap_or(false),
            ),
            injected: Injected::default(),
            durable: super::durable::Durable::default(),
            coverage,
            announced: Announced::default(),
            immutable: BTreeMap::new(),
            released: EventNo(0),
            notes: BTreeMap::new(),
            touched: BTreeMap::new(),
            written: BTreeMap::new(),
            pending: BTreeMap::new(),
            excused: BTreeMap::new(),
            lagged: BTreeMap::new(),
            behind: BTreeMap::new(),
            metadata_seen: EventNo(0),
            quiet_at: EventNo(0),
            unanswered: BTreeSet::new(),
            begun: BTreeMap::new(),
            active_since: BTreeMap::new(),
            rounds: BTreeMap::new(),
            wanted: Vec::new(),
            evidence: BTreeMap::new(),
            guest: super::guest::Guest::default(),
            promises: super::promise::Promises::new(header),
            moments: super::moments::Moments::default(),
            lags: super::lag::Lags::default(),
            scans_left: SCANS_MAX,
            waited_ms: 0,
            last: EventNo(0),
        }
    }

    /// Takes the next event. Events come in the order of their numbers.
    pub fn apply(&mut self, event: &Event) {
        self.last = event.no;
        self.coverage.events += 1;
        self.moments.take(&self.world.header, event);
        let (no, us) = (event.no, event.time_us);
        if matches!(event.what, What::Boot { .. } | What::GuestEnded { .. }) {
            self.unanswered.clear();
            self.durable.troubles.guest_ended();
        } else if matches!(
            event.what,
            What::Arrived(_) | What::Mark(_) | What::Quiet { .. }
        ) {
            self.guest_goes_on(no);
        }
        match &event.what {
            What::Boot { boot } => {
                self.coverage.boots = self.coverage.boots.max(*boot);
                self.guest_gone(no);
                self.promise_boot();
                self.durable.boot();
                self.injected.boot();
                self.guest.boot(no, *boot);
            }
            What::Frontend {
                change: FrontendChange::Waited { ms },
                ..
            } => self.waited_ms += ms,
            What::Frontend { .. } => {}
            What::Arrived(arrived) => self.arrived(no, us, arrived),
            What::Decided(decided) => {
                self.world.requests.rule(decided.request, decided.rule);
                self.injected.decided(decided);
                self.durable.troubles.decided(decided);
                if let Action::Resize { sectors } = decided.action {
                    self.grew(decided.request.leg, sectors);
                }
            }
            What::Fetched(fetched) => self.fetched(no, fetched),
            What::Completed(completed) => self.completed(no, us, completed),
            What::Abandoned(abandoned) => self.abandoned(no, us, abandoned),
            What::Mark(mark) => self.mark(no, us, mark),
            What::Quiet { id, pending } => self.quiet(no, *id, pending),
            What::Console { .. } => {}
            What::Lost {
                leg,
                start,
                digests,
                payload,
            } => self.lost(no, *leg, *start, digests, payload.as_deref()),
            What::Found {
                leg,
                start,
                digests,
                payload,
            } => self.found(no, *leg, *start, digests, payload.as_deref()),
            What::Restarted { missing, .. } => {
                self.coverage.restarts += 1;
                self.coverage.events_missing += missing;
            }
            What::Hand { added, .. } => self.injected.added(added),
            What::Initial { leg, start, bytes } => self.initial(*leg, *start, bytes),
            What::GuestEnded { how, .. } => {
                if *how == GuestEnd::PoweredOff {
                    self.resolve_doubts(no);
                    self.at_power_off(no);
                } else {
                    self.crash_covered(no);
                    self.trouble_at_cut();
                    self.tell_new_to_the_gone();
                }
                self.guest.ended(how);
                self.guest_gone(no);
            }
            What::Evidence {
                leg,
                sector,
                version,
                bytes,
            } => {
                if self.evidence.len() < EVIDENCE_MAX {
                    self.evidence
                        .insert((*leg, *sector, *version), bytes.clone());
                }
            }
            What::End => {
                self.guest.in_order = true;
                if self.guest.may_judge_end() {
                    self.at_power_off(no);
                }
            }
        }
    }

    /// Takes the next event of a run whose checks are switched off: what it was is counted, and that the run ended.
    pub fn skip(&mut self, event: &Event) {
        self.last = event.no;
        self.coverage.events += 1;
        self.guest.in_order |= event.what == What::End;
        if let What::Restarted { missing, .. } = event.what {
            self.coverage.restarts += 1;
            self.coverage.events_missing += missing;
        }
    }

    /// CRC-32 of what a leg holds in a sector, as far as it is known.
    pub fn holds(&self, leg: LegId, sector: Sector) -> Option<u32> {
        let known = self.world.has(leg);
        known.then(|| self.world.shadow(leg).current(sector).digest)?
    }

    /// The sectors of a leg that were ever written, or whose first content is known; ranges in their order.
    pub fn known(&self, leg: LegId) -> Vec<SectorRange> {
        let whole = self.world.header.legs.get(leg.index());
        let whole = whole.and_then(|head| SectorRange::new(Sector(0), head.sectors));
        let Some(whole) = whole else {
            return Vec::new();
        };
        let mut runs: Vec<(Sector, u64)> = Vec::new();
        for sector in self.world.shadow(leg).known(whole) {
            match runs.last_mut() {
                Some((start, count)) if start.0 + *count == sector.0 => *count += 1,
                Some(_) | None => runs.push((sector, 1)),
            }
        }
        runs.into_iter()
            .filter_map(|(start, count)| SectorRange::new(start, count))
            .collect()
    }

    /// Sectors to read from the media, since the last call. Reading is best done at once: a version that was overwritten is lost.
    pub fn wanted(&mut self) -> Vec<Wanted> {
        std::mem::take(&mut self.wanted)
    }

    /// Leg ranges that hold array data and never metadata: what they hold need not be known.
    pub fn data_areas(&self) -> Vec<(LegId, SectorRange)> {
        let mut areas = Vec::new();
        for array in self.world.md.arrays() {
            for member in &array.members {
                let head = self.world.header.legs.get(member.leg.index());
                if let Some(area) = head.and_then(|head| never_metadata(member.data, head.part())) {
                    areas.push((member.leg, area));
                }
            }
        }
        areas
    }

    fn guest_gone(&mut self, no: EventNo) {
        self.book.guest_gone(no);
        self.announced.clear();
        self.immutable.clear();
        self.notes.clear();
    }
}
