//! What rules did: which sectors of a leg return something else than an honest disk would, and which contents the guest got that way.
//!
//! A lie is never a finding. What the guest's kernel reads from it and writes elsewhere (a resync that copies a corrupted sector) is listed with
//! [`crate::finding::Cause::Injected`], and does not decide.

use std::collections::BTreeMap;

use super::checker::Checker;
use super::story::STORY_MAX;
use super::verdict::FaultCoverage;
use super::world::{array_range, leg_range, leg_sector};
use crate::block::{LegId, RequestId, Sector, SectorRange};
use crate::event::{Action, Decided, Digests, EventNo};
use crate::finding::{Finding, LegRange, RANGES_MAX, Range, StoryLine};
use crate::md::ArrayKey;
use crate::shadow::{Origin, Past, RangeSet, State, Version, ZERO_DIGEST};

/// Contents that are remembered.
const CONTENTS_MAX: usize = 1 << 20;

/// What rules did so far.
#[derive(Debug, Default)]
pub(crate) struct Injected {
    /// Lies by leg and rule.
    lies: BTreeMap<(LegId, u16), RangeSet>,
    /// Lies that a write in flight will leave.
    coming: BTreeMap<RequestId, Vec<(LegId, SectorRange, u16)>>,
    /// Reads that are answered falsely, by which rule.
    answers: BTreeMap<RequestId, u16>,
    /// Contents that the guest got from lies.
    contents: BTreeMap<u32, u16>,
    /// Where the guest got zeros from a lie, by leg and rule, until the leg is written there again. Zeros are everywhere, so their place counts too.
    zeros: BTreeMap<(LegId, u16), RangeSet>,
    rules: BTreeMap<u16, Hits>,
    /// Requests that are held, by which rule; and how many ended unanswered in this boot.
    holding: BTreeMap<RequestId, u16>,
    was_held: BTreeMap<u16, u64>,
    /// Names of rules that came while the run went on.
    late: Vec<String>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Hits {
    fired: u64,
    met: u64,
    withheld: u64,
}

impl Injected {
    pub(super) fn decided(&mut self, decided: &Decided) {
        let (request, rule) = (decided.request, decided.rule);
        let hits = self.rules.entry(rule).or_default();
        if decided.action == Action::Met {
            hits.met += 1;
        } else if decided.action == Action::Withheld {
            hits.withheld += 1;
        } else {
            hits.fired += 1;
        }
        if matches!(decided.action, Action::Hold | Action::NeverAnswer) {
            self.holding.insert(request, rule);
        }
        if decided.action.answers_falsely() {
            self.answers.insert(request, rule);
        }
        for (leg, range) in decided.action.lies(request.leg) {
            self.coming
                .entry(request)
                .or_default()
                .push((leg, range, rule));
        }
    }

    /// How often rules fired.
    pub(super) fn fired(&self) -> u64 {
        self.rules.values().map(|hits| hits.fired).sum()
    }

    pub(super) fn added(&mut self, names: &[String]) {
        self.late.extend_from_slice(names);
    }

    /// A range of a leg was written or zeroed, by a request whose own lies begin now.
    pub(super) fn changed(&mut self, request: RequestId, range: SectorRange) {
        if self.lies.is_empty() && self.coming.is_empty() {
            return;
        }
        for ((leg, _), lies) in self.lies.iter_mut().chain(&mut self.zeros) {
            if *leg == request.leg {
                lies.remove(range);
            }
        }
        self.begin(request);
    }

    fn begin(&mut self, request: RequestId) {
        for (leg, range, rule) in self.coming.remove(&request).unwrap_or_default() {
            self.lies.entry((leg, rule)).or_default().insert(range);
        }
    }

    /// A read was answered; `true` if the answer is what an honest disk would give.
    pub(super) fn answered(
        &mut self,
        request: RequestId,
        range: SectorRange,
        digests: &Digests,
    ) -> bool {
        self.begin(request);
        let Some(rule) = self.answers.remove(&request) else {
            return true;
        };
        for (sector, digest) in range.sectors().zip(digests) {
            if self.contents.len() < CONTENTS_MAX {
                self.contents.entry(*digest).or_insert(rule);
            }
            if *digest == ZERO_DIGEST
                && let Some(one) = SectorRange::new(sector, 1)
            {
                let zeros = self.zeros.entry((request.leg, rule)).or_default();
                zeros.insert(one);
            }
        }
        false
    }

    /// Where a leg returns something else than an honest disk would, by whatever rule.
    pub(super) fn lies_of(&self, leg: LegId) -> RangeSet {
        let mut all = RangeSet::default();
        for ((_, _), lies) in self.lies.iter().filter(|((on, _), _)| *on == leg) {
            for range in lies.ranges() {
                all.insert(range);
            }
        }
        all
    }

    /// A request was answered: nothing holds it any more.
    pub(super) fn let_go(&mut self, request: RequestId) {
        self.holding.remove(&request);
    }

    /// A request ended without an answer.
    pub(super) fn abandoned(&mut self, request: RequestId) {
        self.answers.remove(&request);
        self.coming.remove(&request);
        if let Some(rule) = self.holding.remove(&request) {
            *self.was_held.entry(rule).or_default() += 1;
        }
    }

    pub(super) fn boot(&mut self) {
        self.was_held.clear();
    }

    /// The rules that held requests to the end of their boot, and how many.
    pub(super) fn was_held(&self) -> impl Iterator<Item = (u16, u64)> {
        self.was_held.iter().map(|(rule, count)| (*rule, *count))
    }

    /// Lies that are still on the legs: leg, rule, sectors.
    pub(super) fn left(&self) -> impl Iterator<Item = (LegId, u16, u64)> {
        self.lies
            .iter()
            .map(|((leg, rule), ranges)| (*leg, *rule, ranges.count()))
            .filter(|(_, _, count)| *count > 0)
    }

    /// The rule from whose lie the guest got zeros for a sector of a leg.
    fn zeros_from(&self, leg: LegId, sector: Sector) -> Option<u16> {
        self.zeros
            .iter()
            .find(|((on, _), ranges)| *on == leg && ranges.contains(sector))
            .map(|((_, rule), _)| *rule)
    }

    /// The rule from whose lie a content came.
    pub(super) fn source(&self, digest: Option<u32>) -> Option<u16> {
        self.contents.get(&digest?).copied()
    }
}

impl Checker {
    /// The rule whose lie explains what is wrong with array sectors: every one of them has, on some leg, a content that the guest got from a lie.
    pub(super) fn injected_by(&self, key: ArrayKey, range: SectorRange) -> Option<u16> {
        if self.injected.contents.is_empty() {
            return None;
        }
        let array = self.world.md.array(key)?;
        let mut by = None;
        for sector in range.sectors() {
            by = array.active().find_map(|member| {
                let at = leg_sector(member, sector)?;
                let current = self.world.shadow(member.leg).current(at);
                if current.origin == Origin::Initial {
                    return None;
                }
                if current.digest == Some(ZERO_DIGEST) {
                    return array.active().find_map(|from| {
                        let at = leg_sector(from, sector)?;
                        self.injected.zeros_from(from.leg, at)
                    });
                }
                self.injected.source(current.digest)
            });
            by?;
        }
        by
    }

    /// A write that was answered with an error before its payload was fetched: either its content or what was there, and nobody knows its content.
    pub(super) fn failed_unfetched(&mut self, no: EventNo, id: RequestId, range: SectorRange) {
        let shadow = self.world.shadow_mut(id.leg);
        for sector in range.sectors() {
            let current = shadow.current(sector);
            shadow.push(
                sector,
                Version {
                    no,
                    request: id.number,
                    ended: no,
                    gpa: 0,
                    digest: current.digest,
                    origin: Origin::Write,
                    state: State::InDoubt,
                    changed: false,
                },
            );
        }
    }

    /// After a power cut: what a leg has now, of which nothing was promised.
    pub(super) fn lost(
        &mut self,
        no: EventNo,
        leg: LegId,
        start: Sector,
        digests: &Digests,
        payload: Option<&[u8]>,
    ) {
        if !self.world.has(leg) {
            return;
        }
        if let Some(range) = SectorRange::new(start, digests.len() as u64) {
            self.forget_volatile(leg, range);
            self.promise_lost(leg, range, payload);
        }
        self.found(no, leg, start, digests, payload);
    }

    /// What a leg was found to hold, and why is not on record: the content is sure, who brought it is not.
    pub(super) fn found(
        &mut self,
        no: EventNo,
        leg: LegId,
        start: Sector,
        digests: &Digests,
        payload: Option<&[u8]>,
    ) {
        if !self.world.has(leg) {
            return;
        }
        if let Some(range) = SectorRange::new(start, digests.len() as u64) {
            self.promises.cut_short.over(leg, range);
        }
        let shadow = self.world.shadow_mut(leg);
        for (at, digest) in digests.iter().enumerate() {
            let Some(sector) = start.checked_add(at as u64) else {
                return;
            };
            shadow.push(
                sector,
                Version {
                    no,
                    request: 0,
                    ended: no,
                    gpa: 0,
                    digest: Some(*digest),
                    origin: Origin::Write,
                    state: State::InDoubt,
                    changed: false,
                },
            );
        }
        if let (Some(payload), Some(range)) =
            (payload, SectorRange::new(start, digests.len() as u64))
        {
            self.put_bytes(leg, range, payload);
            self.metadata_ended(no, leg, range, true);
        }
    }

    /// What a cache lost need no longer be there, unless the workload was told that it is durable (O_DSYNC, or a flush that began after the write
    /// had ended) and no flush of the leg has failed or was a lie since.
    fn forget_volatile(&mut self, leg: LegId, range: SectorRange) {
        let Some((key, array)) = self
            .world
            .checked(leg)
            .and_then(|(array, member)| Some((array.key, array_range(member, range)?)))
        else {
            return;
        };
        for sector in array.sectors() {
            let durable = self
                .book
                .cell(key, sector)
                .and_then(|cell| self.book.expected(cell))
                .filter(|id| self.book.is_durable(*id))
                .and_then(|id| self.book.record(id))
                .is_some_and(|record| !self.durable.troubles.unflushed_since(leg, record.begin));
            if !durable && let Some(cell) = self.book.cell_mut(key, sector) {
                cell.base = true;
            }
        }
    }

    /// Where a rule's lies are left on a leg; the first request among those that left them, and what happened to its first sector since.
    pub(super) fn tell_lies(&self, finding: &mut Finding, leg: LegId, rule: u16) {
        let Some(lies) = self.injected.lies.get(&(leg, rule)) else {
            return;
        };
        let of = self.world.md.of(leg);
        let shadow = self.world.shadow(leg);
        let mut first: Option<(&Past, Sector)> = None;
        for range in lies.ranges() {
            if finding.leg_ranges.len() < RANGES_MAX {
                finding.leg_ranges.push(LegRange {
                    leg: self.world.header.leg_name(leg).to_owned(),
                    start: range.start().0,
                    count: range.count(),
                });
                let parts = of.and_then(|(array, member)| {
                    let own = array_range(member, range)?;
                    Some(array.on_whole(own))
                });
                let left = RANGES_MAX.saturating_sub(finding.array.len());
                let parts = parts.into_iter().flatten().take(left);
                finding.array.extend(parts.map(|part| Range {
                    start: part.start().0,
                    count: part.count(),
                }));
            }
            // What an honest disk would hold there came with the request that the rule hit.
            let number = shadow.current(range.start()).request;
            let past = self.world.requests.past(RequestId { leg, number });
            if let Some(past) = past.filter(|past| past.rule == Some(rule))
                && first.is_none_or(|(before, _)| past.arrived < before.arrived)
            {
                first = Some((past, range.start()));
            }
        }
        let Some((past, sector)) = first else {
            return;
        };
        let line = self.request_in_words(leg, past);
        finding.first_wrong = Some(StoryLine {
            what: format!("{}; fault `{}` hit it", line.what, self.rule_name(rule)),
            ..line
        });
        let Some(one) = SectorRange::new(sector, 1) else {
            return;
        };
        let place = of.and_then(|(array, member)| Some((array, array_range(member, one)?)));
        let mut story = Vec::new();
        if let Some((array, at)) = place {
            self.tell_intents(array.key, at.start(), &mut story);
        }
        let begun = story.iter().map(|line: &StoryLine| EventNo(line.event));
        let from = begun.min().map_or(past.arrived, |no| no.min(past.arrived));
        let mut tell = |leg: LegId, place: SectorRange| {
            let requests = &self.world.requests;
            let (requests, _) = requests.touching(leg, place, from, self.last, STORY_MAX);
            self.tell_requests(leg, &requests, &mut story);
        };
        match place {
            Some((array, at)) => {
                for member in &array.members {
                    tell(member.leg, leg_range(member, at));
                }
            }
            None => tell(leg, one),
        }
        story.sort();
        finding.story = story;
    }

    /// A rule's name for people.
    pub(super) fn rule_name(&self, rule: u16) -> String {
        match rule {
            65_535 => return "delay_ms".into(),
            65_534 => return "write_delay_ms".into(),
            65_533 => return "late_fetch".into(),
            _ => {}
        }
        let at = usize::from(rule);
        let rules = &self.world.header.rules;
        let late = || {
            self.injected
                .late
                .get(at.checked_sub(rules.len())?)
                .cloned()
        };
        let named = rules.get(at).map(|head| head.name.clone());
        named
            .or_else(late)
            .unwrap_or_else(|| format!("rule {rule}"))
    }

    /// What every rule did, for the report; and the rules of the scenario that never fired, for the verdict.
    pub(super) fn fault_coverage(&mut self, reasons: &mut Vec<String>) {
        let mut faults: Vec<FaultCoverage> = Vec::new();
        let known = 0..u16::try_from(self.world.header.rules.len()).unwrap_or(u16::MAX);
        // The numbers of what a leg's own configuration does are beyond 65000.
        let others = self.injected.rules.keys().copied().filter(|n| *n < 65_000);
        let mut numbers: Vec<u16> = known.chain(others).collect();
        numbers.sort_unstable();
        numbers.dedup();
        for number in numbers {
            let hits = self
                .injected
                .rules
                .get(&number)
                .copied()
                .unwrap_or_default();
            let name = self.rule_name(number);
            let head = self.world.header.rules.get(usize::from(number));
            if hits.fired == 0 && head.is_some_and(|head| !head.may_not_fire) {
                let withheld = if hits.withheld > 0 {
                    format!(" (the budget withheld it {} times)", hits.withheld)
                } else {
                    String::new()
                };
                reasons.push(format!(
                    "fault `{name}` never fired{withheld}; say may_not_fire = true if that is fine"
                ));
            }
            let left = self
                .injected
                .lies
                .iter()
                .filter(|((_, rule), _)| *rule == number)
                .map(|(_, ranges)| ranges.count())
                .sum();
            faults.push(FaultCoverage {
                name,
                fired: hits.fired,
                met: hits.met,
                withheld: hits.withheld,
                sectors_left: left,
            });
        }
        self.coverage.faults = faults;
    }
}
