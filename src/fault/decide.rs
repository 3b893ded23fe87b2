//! From a request to its fate.

use std::time::Duration;

use smallvec::SmallVec;

use super::chance::chance;
use super::rule::{Corrupt, Do, Op, Rule, Stage, TwinIs};
use crate::block::{LegId, Operation, RequestId, Sector, SectorRange, Status};
use crate::config::LegConfig;
use crate::event::{Action, Decided};

/// The numbers of what a leg's own configuration does: `delay_ms`, `write_delay_ms`, `late_fetch`.
pub const LEG_DELAY: u16 = u16::MAX;
/// See [`LEG_DELAY`].
pub const LEG_WRITE_DELAY: u16 = u16::MAX - 1;
/// See [`LEG_DELAY`].
pub const LEG_LATE_FETCH: u16 = u16::MAX - 2;

/// What a rule may know besides the request itself.
pub trait Around {
    /// The boot, from 1; 0 before the first.
    fn boot(&self) -> u32;
    /// Milliseconds since the legs started.
    fn elapsed_ms(&self) -> u64;
    /// Whether a mark was set.
    fn marked(&self, mark: &str) -> bool;
    /// Whether a step of this name runs.
    fn runs(&self, step: &str) -> bool;
    /// How often a rule has fired on all legs.
    fn fired(&self, rule: u16) -> u64;
    /// How often a hand has released what a rule holds.
    fn releases(&self, rule: u16) -> u64;
    /// A rule fires now.
    fn fire(&self, rule: u16);
    /// The leg's sectors that a range of the array is, if it has any and that is known.
    fn of_array(&self, leg: LegId, array: SectorRange) -> Option<SectorRange>;
    /// Requests in flight on a leg.
    fn in_flight(&self, leg: LegId) -> u64;
    /// Another leg's size in sectors, if that is known.
    fn sectors(&self, leg: LegId) -> Option<u64>;
    /// How far another leg is with the twin of a write to `range` of `leg`, whose first sector's content has this CRC-32.
    fn twin(&self, leg: LegId, range: SectorRange, digest: u32, other: LegId) -> Option<TwinIs>;
    /// Whether the budget allows damage to these sectors; if so, it counts as done.
    fn may_damage(&self, leg: LegId, ranges: &[SectorRange]) -> bool;
}

/// Nothing around: one leg, no marks, no budget.
#[derive(Clone, Copy, Debug, Default)]
pub struct Nothing;

impl Around for Nothing {
    fn boot(&self) -> u32 {
        1
    }
    fn elapsed_ms(&self) -> u64 {
        0
    }
    fn marked(&self, _mark: &str) -> bool {
        false
    }
    fn runs(&self, _step: &str) -> bool {
        false
    }
    fn fired(&self, _rule: u16) -> u64 {
        0
    }
    fn releases(&self, _rule: u16) -> u64 {
        0
    }
    fn fire(&self, _rule: u16) {}
    fn of_array(&self, _leg: LegId, _array: SectorRange) -> Option<SectorRange> {
        None
    }
    fn in_flight(&self, _leg: LegId) -> u64 {
        0
    }
    fn sectors(&self, _leg: LegId) -> Option<u64> {
        None
    }
    fn twin(
        &self,
        _leg: LegId,
        _range: SectorRange,
        _digest: u32,
        _other: LegId,
    ) -> Option<TwinIs> {
        None
    }
    fn may_damage(&self, _leg: LegId, _ranges: &[SectorRange]) -> bool {
        true
    }
}

/// A request as rules see it.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// The request.
    pub request: RequestId,
    /// What it asks for.
    pub operation: Operation,
    /// Its sectors.
    pub ranges: &'a [SectorRange],
    /// Requests in flight on the leg, this one included.
    pub in_flight: u64,
    /// The leg's size in sectors.
    pub sectors: u64,
    /// CRC-32 of a write's first sector, where rules look at twins.
    pub digest: Option<u32>,
}

/// The rules of one leg, and how often they have matched.
#[derive(Clone, Debug)]
pub struct LegRules {
    leg: LegId,
    seed: u64,
    delay_ms: u32,
    write_delay_ms: u32,
    late_fetch: bool,
    rules: Vec<Known>,
    dead: Option<u16>,
    read_only: Option<u16>,
}

/// A rule with its names looked up.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) number: u16,
    pub(super) rule: Rule,
    after: Option<(u16, u64)>,
    twin: Option<(LegId, TwinIs)>,
    beside: Option<(LegId, u64)>,
    pub(super) until_rule: Option<u16>,
    pub(super) to_leg: Option<LegId>,
    matched: u64,
    fired: u64,
}

/// What becomes of a write's payload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Store {
    /// It is stored.
    #[default]
    Whole,
    /// It is fetched, and nothing is stored.
    Nothing,
    /// The sectors whose place in the request is `true` are stored.
    Part(Vec<bool>),
}

/// What a request waits for besides its delay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wait {
    /// A mark, a rule that has fired more often than this, or a hand.
    Release {
        /// The mark.
        mark: Option<String>,
        /// The rule, and how often it had fired.
        rule: Option<(u16, u64)>,
        /// The rule that holds it, for a hand to name.
        by: u16,
        /// How often a hand had released what it holds: whoever sees the decision may release at once.
        released: u64,
    },
    /// The ends of so many other requests.
    Behind(u64),
}

/// What happens to one request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// How long its answer is held back, from its arrival.
    pub delay: Duration,
    /// What it waits for in addition, each not longer than that: all of it.
    pub waits: SmallVec<[(Wait, Option<Duration>); 1]>,
    /// Whether it is never answered, whatever else it waits for.
    pub never: bool,
    /// Whether a write's payload is fetched just before completion.
    pub late_fetch: bool,
    /// Whether it is fetched at its arrival and stored just before completion.
    pub late_store: bool,
    /// Whether the second half is.
    pub split_fetch: bool,
    /// The error that it is answered with, and when it comes.
    pub fail: Option<(Status, Stage)>,
    /// What is stored of a write.
    pub store: Store,
    /// What becomes of the bytes, by which rule.
    pub corrupt: SmallVec<[(u16, Corrupt, Chance); 1]>,
    /// Where it goes instead, by which rule.
    pub misdirect: Option<(u16, LegId, SectorRange)>,
    /// How many versions back a read is answered, by which rule.
    pub stale: Option<(u16, u8)>,
    /// Whether a flush makes nothing durable.
    pub flush_lie: bool,
    /// Which rule makes its sectors unreadable.
    pub bad: Option<u16>,
    /// The leg serves nothing for so long; `true`: only this queue.
    pub stall: Option<(Duration, bool)>,
    /// Whether the power is cut.
    pub cut: bool,
    /// The leg's socket is closed, and nobody listens for so long.
    pub disconnect: Option<Duration>,
    /// The leg's new size in sectors.
    pub resize: Option<u64>,
    /// The rule whose lie it is when sectors are lost.
    pub lost_by: u16,
    /// Which rules did that, to be recorded.
    pub decided: SmallVec<[Decided; 2]>,
}

/// A generator's state, to be compared and copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chance(pub u64);

impl LegRules {
    /// The rules of a leg's own configuration.
    pub fn new(config: &LegConfig, leg: LegId, seed: u64) -> LegRules {
        LegRules {
            leg,
            seed,
            delay_ms: config.delay_ms,
            write_delay_ms: config.write_delay_ms,
            late_fetch: config.late_fetch,
            rules: Vec::new(),
            dead: None,
            read_only: None,
        }
    }

    /// Adds a rule by its number, if it is about this leg. `legs` are the names of all legs, `rules` those of all rules, each in order.
    pub fn add(&mut self, number: u16, rule: &Rule, legs: &[String], rules: &[String]) {
        let leg = |name: &String| {
            let at = legs.iter().position(|known| known == name)?;
            u8::try_from(at).ok().map(LegId)
        };
        if !rule.legs.is_empty() && !rule.legs.iter().any(|name| leg(name) == Some(self.leg)) {
            return;
        }
        let known = |name: &String| {
            let at = rules.iter().position(|known| known == name)?;
            u16::try_from(at).ok()
        };
        let (mut until_rule, mut to_leg) = (None, None);
        if let Do::Hold(hold) = &rule.action {
            until_rule = hold.until_rule.as_ref().and_then(known);
        }
        if let Do::Misdirect(misdirect) = &rule.action {
            to_leg = misdirect.to_leg.as_ref().and_then(leg);
        }
        self.rules.push(Known {
            number,
            after: rule
                .after
                .as_ref()
                .and_then(|after| Some((known(&after.rule)?, after.times))),
            twin: rule
                .twin
                .as_ref()
                .and_then(|twin| Some((leg(&twin.leg)?, twin.is))),
            beside: rule
                .beside
                .as_ref()
                .and_then(|beside| Some((leg(&beside.leg)?, beside.in_flight))),
            until_rule,
            to_leg,
            rule: rule.clone(),
            matched: 0,
            fired: 0,
        });
    }

    /// Whether a rule of this number was added.
    pub fn knows(&self, number: u16) -> bool {
        self.rules.iter().any(|known| known.number == number)
    }

    /// Takes all other rules away; what they made last for ever (dead, read-only) ends.
    pub fn keep_only(&mut self, numbers: &[u16]) {
        self.rules.retain(|known| numbers.contains(&known.number));
        let gone = |rule: &u16| numbers.contains(rule);
        self.dead = self.dead.filter(gone);
        self.read_only = self.read_only.filter(gone);
    }

    /// Ends what rules, or this one, made last for ever.
    pub fn heal(&mut self, rule: Option<u16>) {
        let others = |by: &u16| rule.is_some_and(|rule| rule != *by);
        self.dead = self.dead.filter(others);
        self.read_only = self.read_only.filter(others);
    }

    /// Whether no request can be hit.
    pub fn is_empty(&self) -> bool {
        self.delay_ms == 0
            && self.write_delay_ms == 0
            && !self.late_fetch
            && self.rules.is_empty()
            && self.dead.is_none()
            && self.read_only.is_none()
    }

    /// The sectors of which old versions must be kept, and how many.
    pub fn versions_kept(&self) -> Vec<(SectorRange, u8)> {
        let kept = |known: &Known| match (&known.rule.action, known.rule.sectors) {
            (Do::Stale(stale), Some(span)) => Some((span.0, stale.versions)),
            _ => None,
        };
        self.rules.iter().filter_map(kept).collect()
    }

    /// Decides about a request.
    pub fn decide(&mut self, seen: &Seen<'_>, around: &dyn Around) -> Decision {
        let mut decision = Decision::default();
        self.own(seen, &mut decision);
        self.end_lasting(seen, around);
        if let Some(rule) = self.dead.or(self
            .read_only
            .filter(|_| seen.operation.modifies() && !seen.ranges.is_empty()))
        {
            let action = if self.dead.is_some() {
                Action::Dead
            } else {
                Action::ReadOnly
            };
            decision.hit(seen, rule, action);
            decision.fail = Some((Status::IoErr, Stage::BeforeFetch));
            return decision;
        }
        let Some(op) = op_of(seen.operation) else {
            return decision;
        };
        for at in 0..self.rules.len() {
            let Some(known) = self.rules.get_mut(at) else {
                break;
            };
            if !known.hits(seen, op, self.seed, around) {
                continue;
            }
            let number = known.number;
            let whole = [SectorRange::new(Sector(0), seen.sectors).unwrap_or_default()];
            // What hits one request, and takes the leg.
            let all = matches!(
                known.rule.action,
                Do::Dead | Do::ReadOnly | Do::Unplug(_) | Do::FlushLie
            );
            let damaged: &[SectorRange] = if all { &whole } else { seen.ranges };
            if known.rule.damages() && !around.may_damage(seen.request.leg, damaged) {
                decision.hit(seen, number, Action::Withheld);
                continue;
            }
            known.fired += 1;
            around.fire(number);
            known.act(seen, op, self.seed, around, &mut decision);
            if known.rule.action == Do::Dead {
                self.dead = Some(number);
            } else if known.rule.action == Do::ReadOnly {
                self.read_only = Some(number);
            }
        }
        decision
    }

    /// What a rule made last ends where the rule's own boots, numbers, times and marks do.
    fn end_lasting(&mut self, seen: &Seen<'_>, around: &dyn Around) {
        for lasting in [&mut self.dead, &mut self.read_only] {
            let rule = lasting.and_then(|number| self.rules.iter().find(|k| k.number == number));
            if rule.is_some_and(|known| !known.in_time(seen.request.number, around)) {
                *lasting = None;
            }
        }
    }

    /// What the leg's own configuration does.
    fn own(&self, seen: &Seen<'_>, decision: &mut Decision) {
        let write = seen.operation == Operation::Write;
        for (number, ms) in [
            (LEG_DELAY, self.delay_ms),
            (LEG_WRITE_DELAY, if write { self.write_delay_ms } else { 0 }),
        ] {
            if ms > 0 {
                decision.hit(seen, number, Action::Delay { ms });
                decision.delay += Duration::from_millis(u64::from(ms));
            }
        }
        if write && self.late_fetch {
            decision.hit(seen, LEG_LATE_FETCH, Action::LateFetch);
            decision.late_fetch = true;
        }
    }
}

impl Decision {
    pub(super) fn hit(&mut self, seen: &Seen<'_>, rule: u16, action: Action) {
        self.decided.push(Decided {
            request: seen.request,
            rule,
            action,
        });
    }
}

fn op_of(operation: Operation) -> Option<Op> {
    match operation {
        Operation::Read => Some(Op::Read),
        Operation::Write => Some(Op::Write),
        Operation::Flush => Some(Op::Flush),
        Operation::Discard => Some(Op::Discard),
        Operation::WriteZeroes | Operation::WriteZeroesUnmap => Some(Op::WriteZeroes),
        Operation::GetId | Operation::Unsupported(_) => None,
    }
}

impl Known {
    /// Whether the rule hits this request; counts the match.
    fn hits(&mut self, seen: &Seen<'_>, op: Op, seed: u64, around: &dyn Around) -> bool {
        if !self.matches(seen, op, around) {
            return false;
        }
        self.matched += 1;
        let rule = &self.rule;
        if rule.nth.is_some_and(|nth| nth != self.matched)
            || rule
                .every
                .is_some_and(|every| every == 0 || !self.matched.is_multiple_of(every))
            || rule.at_most.is_some_and(|most| self.fired >= most)
        {
            return false;
        }
        rule.probability.is_none_or(|probability| {
            let mut chance = chance(seed, &rule.name, seen.request);
            // 53 bits: what a double can tell apart.
            let drawn = chance.next_u64() >> 11;
            #[allow(clippy::cast_precision_loss, reason = "53 bits are exact in a double")]
            let drawn = drawn as f64 / (1u64 << 53) as f64;
            drawn < probability
        })
    }

    /// Whether the rule's boots, numbers, times and marks are now.
    fn in_time(&self, number: u64, around: &dyn Around) -> bool {
        let rule = &self.rule;
        if rule.from_request.is_some_and(|from| number < from)
            || rule.to_request.is_some_and(|to| number > to)
            || !(rule.boots.is_empty() || rule.boots.contains(&around.boot()))
        {
            return false;
        }
        if rule.from_ms.is_some() || rule.to_ms.is_some() {
            let now = around.elapsed_ms();
            if rule.from_ms.is_some_and(|from| now < from) || rule.to_ms.is_some_and(|to| now > to)
            {
                return false;
            }
        }
        rule.from_mark.as_ref().is_none_or(|m| around.marked(m))
            && rule.to_mark.as_ref().is_none_or(|m| !around.marked(m))
            && rule.during.as_ref().is_none_or(|step| around.runs(step))
    }

    fn matches(&self, seen: &Seen<'_>, op: Op, around: &dyn Around) -> bool {
        let rule = &self.rule;
        if !rule.operations().contains(&op)
            || (op != Op::Flush && seen.ranges.is_empty())
            || rule.depth.is_some_and(|depth| seen.in_flight < depth)
            || !self.in_time(seen.request.number, around)
        {
            return false;
        }
        let touches =
            |span: SectorRange| seen.ranges.iter().any(|r| r.intersection(span).is_some());
        if rule.sectors.is_some_and(|span| !touches(span.0)) {
            return false;
        }
        if let Some(span) = rule.array {
            let on_leg = around.of_array(seen.request.leg, span.0);
            if !on_leg.is_some_and(touches) {
                return false;
            }
        }
        if self
            .after
            .is_some_and(|(rule, times)| around.fired(rule) < times)
            || self.beside.is_some_and(|(leg, least)| {
                leg == seen.request.leg || around.in_flight(leg) < least
            })
        {
            return false;
        }
        if let Do::Misdirect(to) = &rule.action {
            let own = (seen.request.leg, seen.ranges.first().copied());
            let (leg, there) = self.misdirected(to, seen, around);
            if there.is_none() || (leg, there) == own {
                return false;
            }
        }
        self.twin.is_none_or(|(other, is)| {
            let twin =
                |range: &SectorRange| around.twin(seen.request.leg, *range, seen.digest?, other);
            seen.request.leg != other && seen.ranges.first().and_then(twin) == Some(is)
        })
    }
}
