//! What changed a leg, in the order in which the leg took it.

use std::collections::BTreeMap;

use crate::block::{LegId, Operation, RequestId, SECTOR_BYTES, Sector, SectorRange, Status};
use crate::event::{Action, Event, What};
use crate::shadow::RangeSet;

/// As an honest disk that gave the same answers would be, or as the leg really was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// An honest disk: lies of rules are left out.
    Shadow,
    /// The leg: what rules lost, tore or misdirected is as they made it.
    Medium,
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Bytes are there from now on.
    Bytes {
        /// First sector.
        start: Sector,
        /// Whole sectors.
        bytes: Vec<u8>,
    },
    /// Zeros are there from now on.
    Zeros(SectorRange),
    /// Something is there that the journal does not have.
    Missing(SectorRange),
    /// The leg has so many sectors from now on.
    Size(u64),
}

/// A request in flight that may change a leg.
#[derive(Debug)]
struct Open {
    operation: Operation,
    ranges: Vec<SectorRange>,
    actions: Vec<Action>,
    fetched: bool,
}

/// The fold over events; a write takes effect with its fetch, zeroing with its completion (src/shadow).
#[derive(Debug)]
pub struct Effects {
    leg: LegId,
    side: Side,
    open: BTreeMap<RequestId, Open>,
    /// Where the leg returns something else than an honest disk would.
    lied: RangeSet,
}

impl Effects {
    /// The changes of one leg.
    pub fn new(leg: LegId, side: Side) -> Effects {
        Effects {
            leg,
            side,
            open: BTreeMap::new(),
            lied: RangeSet::default(),
        }
    }

    /// What an event changed.
    pub fn of(&mut self, event: &Event) -> Vec<Effect> {
        let mut out = Vec::new();
        self.lies(event);
        match &event.what {
            What::Arrived(arrived) if arrived.operation.modifies() => {
                self.open.insert(
                    arrived.request,
                    Open {
                        operation: arrived.operation,
                        ranges: arrived.ranges.to_vec(),
                        actions: Vec::new(),
                        fetched: false,
                    },
                );
            }
            What::Decided(decided) => {
                if let Action::Resize { sectors } = decided.action
                    && decided.request.leg == self.leg
                {
                    out.push(Effect::Size(sectors));
                }
                if let Some(open) = self.open.get_mut(&decided.request) {
                    open.actions.push(decided.action.clone());
                }
            }
            What::Fetched(fetched) => {
                if let Some(open) = self.open.get_mut(&fetched.request) {
                    let bytes = fetched.payload.as_deref();
                    open.fetched = true;
                    let open = &*open;
                    stored(
                        self.leg,
                        self.side,
                        fetched.request.leg,
                        open,
                        bytes,
                        &mut out,
                    );
                }
            }
            What::Completed(completed) => {
                if let Some(open) = self.open.remove(&completed.request)
                    && completed.request.leg == self.leg
                {
                    self.answered(&open, completed.status == Status::Ok, &mut out);
                }
            }
            What::Abandoned(abandoned) => {
                if let Some(open) = self.open.remove(&abandoned.request)
                    && abandoned.request.leg == self.leg
                    && open.operation.zeroes()
                {
                    self.answered(&open, abandoned.applied, &mut out);
                }
            }
            // Which lies were lifted is not on record.
            What::Hand { what, .. } if self.side == Side::Medium && heals(what) => {
                out.extend(self.lied.ranges().map(Effect::Missing));
            }
            What::Initial { leg, start, bytes } if *leg == self.leg => out.push(Effect::Bytes {
                start: *start,
                bytes: bytes.clone(),
            }),
            What::Lost {
                leg,
                start,
                digests,
                payload,
            }
            | What::Found {
                leg,
                start,
                digests,
                payload,
            } if *leg == self.leg => match (payload, range(*start, digests.len())) {
                (Some(bytes), _) => out.push(Effect::Bytes {
                    start: *start,
                    bytes: bytes.clone(),
                }),
                (None, Some(range)) if digests.iter().all(|d| *d == crate::shadow::ZERO_DIGEST) => {
                    out.push(Effect::Zeros(range));
                }
                (None, range) => out.extend(range.map(Effect::Missing)),
            },
            What::Arrived(_)
            | What::Boot { .. }
            | What::Frontend { .. }
            | What::Mark(_)
            | What::Quiet { .. }
            | What::Lost { .. }
            | What::Found { .. }
            | What::Restarted { .. }
            | What::Hand { .. }
            | What::Console { .. }
            | What::Initial { .. }
            | What::GuestEnded { .. }
            | What::Evidence { .. }
            | What::End => {}
        }
        out
    }

    /// Where the leg lies from this event on, and where it does no longer.
    fn lies(&mut self, event: &Event) {
        let (request, effective) = match &event.what {
            What::Fetched(fetched) => (fetched.request, true),
            What::Completed(done) => (done.request, done.status == Status::Ok),
            What::Lost {
                leg,
                start,
                digests,
                ..
            } if *leg == self.leg => {
                range(*start, digests.len())
                    .iter()
                    .for_each(|range| self.lied.remove(*range));
                return;
            }
            What::Lost { .. }
            | What::Found { .. }
            | What::Restarted { .. }
            | What::Boot { .. }
            | What::Frontend { .. }
            | What::Arrived(_)
            | What::Decided(_)
            | What::Abandoned(_)
            | What::Mark(_)
            | What::Quiet { .. }
            | What::Hand { .. }
            | What::Console { .. }
            | What::Initial { .. }
            | What::GuestEnded { .. }
            | What::Evidence { .. }
            | What::End => return,
        };
        let Some(open) = self.open.get(&request) else {
            return;
        };
        let is_fetch = matches!(event.what, What::Fetched(_));
        if !effective || is_fetch == open.operation.zeroes() {
            return;
        }
        if request.leg == self.leg {
            open.ranges
                .iter()
                .for_each(|range| self.lied.remove(*range));
        }
        for action in &open.actions {
            for (leg, range) in action.lies(request.leg) {
                if leg == self.leg {
                    self.lied.insert(range);
                }
            }
        }
    }

    /// A request of this leg ended, well or not.
    fn answered(&self, open: &Open, well: bool, out: &mut Vec<Effect>) {
        if open.operation.zeroes() {
            let mut zeroed = RangeSet::default();
            if well {
                open.ranges.iter().for_each(|range| zeroed.insert(*range));
            }
            if self.side == Side::Medium {
                for action in &open.actions {
                    if let Action::Lose { sectors } = action {
                        sectors.iter().for_each(|range| zeroed.remove(*range));
                    }
                }
            }
            out.extend(zeroed.ranges().map(Effect::Zeros));
        } else if !well && open.fetched && self.side == Side::Medium {
            // A rule may fail a write before it is stored or afterwards; which it was is not on record. What a torn one stored is.
            let torn = open
                .actions
                .iter()
                .any(|action| matches!(action, Action::Tear { .. }));
            if !torn {
                out.extend(open.ranges.iter().copied().map(Effect::Missing));
            }
        }
    }
}

/// What a write's payload, which reached `leg`, does to the leg `of`.
fn stored(
    of: LegId,
    side: Side,
    leg: LegId,
    open: &Open,
    bytes: Option<&[u8]>,
    out: &mut Vec<Effect>,
) {
    let Some(own) = open.ranges.first().copied() else {
        return;
    };
    let mut lost: Vec<SectorRange> = Vec::new();
    if side == Side::Medium {
        for action in &open.actions {
            match action {
                Action::Lose { sectors } => lost.extend(sectors),
                Action::Tear { lost: torn, .. } => lost.extend(torn),
                Action::Misdirect {
                    leg: to_leg,
                    to,
                    lost: own,
                } => {
                    lost.extend(own);
                    if *to_leg == of {
                        put(*to, *to, &[], bytes, out);
                    }
                }
                Action::Corrupt { sectors } if leg == of => {
                    lost.extend(sectors);
                    out.extend(sectors.iter().copied().map(Effect::Missing));
                }
                Action::Delay { .. }
                | Action::LateFetch
                | Action::SplitFetch { .. }
                | Action::Fail { .. }
                | Action::NeverAnswer
                | Action::Hold
                | Action::Reorder { .. }
                | Action::Corrupt { .. }
                | Action::CorruptAnswer
                | Action::Stale
                | Action::Met
                | Action::FlushLie
                | Action::Stall { .. }
                | Action::ReadOnly
                | Action::BadSectors { .. }
                | Action::Dead
                | Action::PowerCut
                | Action::Disconnect { .. }
                | Action::Unplug { .. }
                | Action::Resize { .. }
                | Action::Withheld => {}
            }
        }
    }
    if leg == of {
        put(own, own, &lost, bytes, out);
    }
}

/// Whether these words of `legwatch ctl` tell that lies were lifted.
fn heals(what: &str) -> bool {
    what.ends_with(" sectors healed") && !what.starts_with("0 ")
}

fn range(start: Sector, count: usize) -> Option<SectorRange> {
    SectorRange::new(start, count as u64)
}

/// The payload of `own` at `at`, without the sectors of `own` that are lost.
fn put(
    own: SectorRange,
    at: SectorRange,
    lost: &[SectorRange],
    bytes: Option<&[u8]>,
    out: &mut Vec<Effect>,
) {
    let mut run: Option<(u64, u64)> = None;
    let mut flush = |run: &mut Option<(u64, u64)>| {
        let Some((from, to)) = run.take() else { return };
        let (skip, count) = (from - own.start().0, to - from);
        let Some(place) = at.start().checked_add(skip) else {
            return;
        };
        let part = bytes.and_then(|bytes| {
            let first = crate::block::to_usize(skip) * SECTOR_BYTES;
            bytes.get(first..first + crate::block::to_usize(count) * SECTOR_BYTES)
        });
        match part {
            Some(part) => out.push(Effect::Bytes {
                start: place,
                bytes: part.to_vec(),
            }),
            None => out.extend(SectorRange::new(place, count).map(Effect::Missing)),
        }
    };
    for sector in own.sectors() {
        if lost.iter().any(|range| range.contains(sector)) {
            flush(&mut run);
        } else {
            let from = run.map_or(sector.0, |(from, _)| from);
            run = Some((from, sector.0 + 1));
        }
    }
    flush(&mut run);
}
