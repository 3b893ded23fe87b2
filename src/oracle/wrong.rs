//! What checks have found wrong, one entry a write and leg, until it is folded into findings.

use std::collections::{BTreeMap, BTreeSet};

use super::record::Meant;
use crate::block::{LegId, Sector, SectorRange};
use crate::event::EventNo;
use crate::finding::{Check, Confidence, StoryLine, Wrongness};
use crate::md::ArrayKey;
use crate::shadow::Version;
use crate::watch::Watch;

/// Entries that are kept; more are counted.
const WRONGS_MAX: usize = 100_000;
/// Entries of one check, kind and leg that are looked at closely.
const DETAILS_MAX: u32 = 4;

/// The write of the workload that an entry is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Write {
    pub(crate) begin: EventNo,
    pub(crate) end: EventNo,
    pub(crate) writer: u16,
    pub(crate) sequence: u64,
    pub(crate) array: SectorRange,
}

/// What a leg got in the time of a write that it never got.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Instead {
    /// READs of these sectors, and the first and last of their arrivals.
    pub(crate) reads: u64,
    pub(crate) first: EventNo,
    pub(crate) last: EventNo,
    /// Whether every sector was read.
    pub(crate) all: bool,
}

/// One entry.
#[derive(Clone, Debug)]
pub(crate) struct Wrong {
    pub(crate) check: Check,
    pub(crate) kind: Wrongness,
    pub(crate) confidence: Confidence,
    pub(crate) leg: LegId,
    pub(crate) key: ArrayKey,
    pub(crate) write: Option<Write>,
    pub(crate) array: SectorRange,
    pub(crate) on_leg: SectorRange,
    pub(crate) at: EventNo,
    pub(crate) instead: Option<Instead>,
    /// The known deviation that it is.
    pub(crate) known: Option<&'static str>,
    /// What the check has to say besides.
    pub(crate) note: Option<String>,
    /// The rule from whose lie the wrong content came.
    pub(crate) injected: Option<u16>,
    pub(crate) detail: Option<Box<Detail>>,
}

/// A sector looked at closely when it was found wrong.
#[derive(Clone, Debug)]
pub(crate) struct Detail {
    pub(crate) sector: Sector,
    pub(crate) expected: Option<Meant>,
    pub(crate) legs: Vec<Held>,
    pub(crate) story: Vec<StoryLine>,
    /// The first wrong request, or the write that never came.
    pub(crate) first_wrong: Option<StoryLine>,
}

/// What a leg held.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    pub(crate) leg: LegId,
    pub(crate) sector: Sector,
    pub(crate) good: bool,
    pub(crate) versions: Vec<Version>,
    /// What the current content was meant to be, and for which array sector, as the guest numbers it.
    pub(crate) stamp: Option<(Meant, Sector)>,
}

/// Entries that are the same bug over and over, as far as can be told: check, way, confidence, the known deviation and the rule that explain it.
pub(crate) type Kind = (
    Check,
    Wrongness,
    Confidence,
    Option<&'static str>,
    Option<u16>,
);

/// All entries.
#[derive(Debug, Default)]
pub(crate) struct Wrongs {
    /// What is not watched makes no entries.
    watch: Watch,
    entries: Vec<Wrong>,
    details: BTreeMap<(Check, Wrongness, LegId), u32>,
    pub(crate) uncounted: u64,
    /// Whether known deviations decide like any other finding.
    known_decide: bool,
    /// How many entries there are of each kind.
    counts: BTreeMap<Kind, u64>,
}

impl Wrongs {
    /// None yet; `known_decide`: known deviations decide like any other finding.
    pub(crate) fn new(watch: Watch, known_decide: bool) -> Wrongs {
        Wrongs {
            watch,
            known_decide,
            ..Wrongs::default()
        }
    }

    /// What the run watches.
    pub(crate) fn watch(&self) -> &Watch {
        &self.watch
    }

    /// Whether the next entry of this kind is to be looked at closely.
    pub(crate) fn wants_detail(&mut self, check: Check, kind: Wrongness, leg: LegId) -> bool {
        let have = self.details.entry((check, kind, leg)).or_default();
        *have += 1;
        // Later ones too, ever more rarely: they may end in another finding than the first ones.
        *have <= DETAILS_MAX || have.is_power_of_two()
    }

    pub(crate) fn put(&mut self, wrong: Wrong) {
        if self.watch.is_blind(wrong.check) {
            return;
        }
        // What is explained leaves room for what is not.
        let explained = !is_open(&kind(&wrong), self.known_decide);
        let most = if explained {
            WRONGS_MAX / 2
        } else {
            WRONGS_MAX
        };
        if self.entries.len() < most {
            *self.counts.entry(kind(&wrong)).or_default() += 1;
            self.entries.push(wrong);
        } else {
            self.uncounted += 1;
        }
    }

    /// How many entries of a kind there are.
    pub(crate) fn count(&self, kind: &Kind) -> u64 {
        self.counts.get(kind).copied().unwrap_or_default()
    }

    pub(crate) fn entries(&self) -> &[Wrong] {
        &self.entries
    }

    /// Kinds of suspicions so far.
    pub(crate) fn suspect_kinds(&self) -> u64 {
        let suspect = |(kind, count): &(&Kind, &u64)| {
            kind.2 == Confidence::Suspect && **count > 0 && is_open(kind, self.known_decide)
        };
        let of = |((check, way, ..), _): (&Kind, &u64)| (*check, *way);
        let kinds: BTreeSet<(Check, Wrongness)> =
            self.counts.iter().filter(suspect).map(of).collect();
        kinds.len() as u64
    }

    /// Whether there is an entry that decides, unless it is taken back.
    pub(crate) fn has_proven(&self) -> bool {
        self.counts
            .iter()
            .any(|(kind, count)| *count > 0 && self.decides(kind))
    }

    /// The entries that decide, and of which `stays` says that nothing takes them back; it is given those of the same event, too.
    pub(crate) fn proven<'a>(
        &'a self,
        stays: impl Fn(&Wrong, &[Wrong]) -> bool + 'a,
    ) -> impl Iterator<Item = &'a Wrong> {
        self.entries
            .chunk_by(|a, b| a.at == b.at)
            .flat_map(|same| same.iter().map(move |wrong| (wrong, same)))
            .filter(move |(wrong, same)| self.decides(&kind(wrong)) && stays(wrong, same))
            .map(|(wrong, _)| wrong)
    }

    fn decides(&self, kind: &Kind) -> bool {
        kind.2 == Confidence::Proven && is_open(kind, self.known_decide)
    }

    /// The guest itself found a sector wrong: what was suspected of reads of it is proven.
    pub(crate) fn prove_read(&mut self, key: ArrayKey, sector: Sector) {
        for wrong in &mut self.entries {
            if wrong.kind != Wrongness::Read
                || wrong.key != key
                || !wrong.array.contains(sector)
                || wrong.confidence == Confidence::Proven
            {
                continue;
            }
            if let Some(count) = self.counts.get_mut(&kind(wrong)) {
                *count = count.saturating_sub(1);
            }
            wrong.confidence = Confidence::Proven;
            *self.counts.entry(kind(wrong)).or_default() += 1;
        }
    }

    /// A leg's bitmap turns out to lie otherwise, at the latest since the superblock before (`since`): what was told of its bits is taken back.
    pub(crate) fn laid_anew(&mut self, leg: LegId, since: EventNo) {
        self.entries.retain(|wrong| {
            let bits = matches!(wrong.check, Check::BitFirst | Check::BitDegraded);
            let keep = !bits || wrong.leg != leg || wrong.at <= since;
            if !keep && let Some(count) = self.counts.get_mut(&kind(wrong)) {
                *count = count.saturating_sub(1);
            }
            keep
        });
    }

    /// A leg turns out to have failed (case 7): what it lacks since `since`, and what else was held against it since `seen`, is taken back. Tells the sectors.
    pub(crate) fn forgive(
        &mut self,
        leg: LegId,
        since: EventNo,
        seen: EventNo,
    ) -> Vec<(ArrayKey, SectorRange)> {
        let mut forgiven = Vec::new();
        self.entries.retain(|wrong| {
            let keep = wrong.leg != leg || wrong.stays(since, seen);
            if !keep {
                if let Some(count) = self.counts.get_mut(&kind(wrong)) {
                    *count = count.saturating_sub(1);
                }
                forgiven.push((wrong.key, wrong.array));
            }
            keep
        });
        forgiven
    }
}

impl Wrong {
    /// Whether it is held against its leg though that turns out to have failed, having been good up to `since` and its metadata up to `seen`.
    pub(crate) fn stays(&self, since: EventNo, seen: EventNo) -> bool {
        let lacks = matches!(
            self.check,
            Check::Stamp | Check::AllLegs | Check::DiscardAll
        );
        // That a leg failed explains what it lacks, and not what it was sent: another content, or one for another sector. It gets no superblocks: what was
        // wrong with one stays so, and may be why the leg is no member. That a write was acknowledged before the failure was on record is no less so once
        // it is.
        let whatever = matches!(self.check, Check::BufStable | Check::SameData)
            || matches!(
                (self.check, self.kind),
                (Check::Stamp, Wrongness::Garbage | Wrongness::Misplaced)
                    | (Check::SbPeer, Wrongness::Metadata)
                    | (Check::ErrRecord, Wrongness::Early)
            );
        self.at <= if lacks { since } else { seen } || whatever
    }
}

fn kind(wrong: &Wrong) -> Kind {
    (
        wrong.check,
        wrong.kind,
        wrong.confidence,
        wrong.known,
        wrong.injected,
    )
}

/// Whether entries of a kind are shown while the run goes on: neither injected nor known.
fn is_open((_, _, _, known, injected): &Kind, known_decide: bool) -> bool {
    injected.is_none() && (known_decide || known.is_none())
}
