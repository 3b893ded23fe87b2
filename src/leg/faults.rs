//! What the rules of all legs share: what has fired, marks, twins, the budget, the power.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::command::Bell;
use super::lock;
use super::shared::LegShared;
use super::twins::Twins;
use crate::block::{LegId, RequestId, SectorRange, Status};
use crate::clock;
use crate::fault::{self, Around, Do, Rule, TwinIs};
use crate::mark::Mark;
use crate::md::OnLeg;
use crate::medium::{Lies, MediumView};
use crate::shadow::RangeSet;

/// The rules of a run, what they may use, and how they may be changed while it goes on.
#[derive(Debug)]
pub struct Faults {
    seed: u64,
    legs: Vec<String>,
    begun: Instant,
    /// Counts changes of the rules, lies that came, and cuts: a leg whose version this is and that had no rule then has none now.
    version: AtomicU64,
    /// Counts what may release a held request.
    happened: AtomicU64,
    boot: AtomicU32,
    cut: AtomicBool,
    cuts: AtomicU64,
    volatile: AtomicBool,
    inner: Mutex<Inner>,
    twins: Mutex<Twins>,
    twins_wanted: AtomicBool,
    bells: Mutex<Vec<Arc<Bell>>>,
    parts: Mutex<Vec<LegParts>>,
}

/// A leg, as other legs' rules need it.
#[derive(Clone, Debug)]
pub struct LegParts {
    /// Its live state.
    pub shared: Arc<LegShared>,
    /// Its lies.
    pub lies: Arc<Lies>,
    /// Its bytes.
    pub view: MediumView,
}

#[derive(Debug, Default)]
struct Inner {
    rules: Vec<Entry>,
    marks: BTreeSet<String>,
    running: BTreeMap<u32, String>,
    steps: Vec<Vec<String>>,
    released: BTreeMap<u16, u64>,
    released_all: u64,
    /// What was healed, in order: a leg's place, or all; a rule's lies, or all.
    healed: Vec<(Option<usize>, Option<u16>)>,
    /// For every sector at least so many legs must stay good.
    good_legs: u8,
    damaged: Vec<RangeSet>,
    withheld: u64,
}

#[derive(Debug)]
struct Entry {
    rule: Rule,
    fired: u64,
    gone: bool,
}

/// A rule and how often it hit.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct RuleState {
    /// Its number in the journal.
    pub number: u16,
    /// How often it has fired.
    pub fired: u64,
    /// The rule.
    pub rule: Rule,
}

impl Faults {
    /// The rules of a run over these legs. They were checked.
    pub fn new(seed: u64, legs: Vec<String>, rules: Vec<Rule>, good_legs: u8) -> Faults {
        let wanted = rules.iter().any(|rule| rule.twin.is_some());
        let volatile = rules.iter().any(loses);
        Faults {
            seed,
            begun: clock::now(),
            version: AtomicU64::new(1),
            happened: AtomicU64::new(0),
            boot: AtomicU32::new(0),
            cut: AtomicBool::new(false),
            cuts: AtomicU64::new(0),
            volatile: AtomicBool::new(volatile),
            twins: Mutex::new(Twins::new(legs.len())),
            twins_wanted: AtomicBool::new(wanted),
            inner: Mutex::new(Inner {
                damaged: vec![RangeSet::default(); legs.len()],
                rules: rules
                    .into_iter()
                    .map(|rule| Entry {
                        rule,
                        fired: 0,
                        gone: false,
                    })
                    .collect(),
                good_legs,
                ..Inner::default()
            }),
            legs,
            bells: Mutex::default(),
            parts: Mutex::default(),
        }
    }

    /// The run's seed.
    pub(super) fn seed(&self) -> u64 {
        self.seed
    }

    pub(super) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    pub(super) fn happened(&self) -> u64 {
        self.happened.load(Ordering::Acquire)
    }

    /// Lies, rules or power have changed: every leg looks again.
    pub(super) fn changed(&self) {
        self.version.fetch_add(1, Ordering::AcqRel);
        self.something_happened();
    }

    fn something_happened(&self) {
        self.happened.fetch_add(1, Ordering::AcqRel);
        for bell in lock(&self.bells).iter() {
            bell.ring();
        }
    }

    /// Whose bells are rung when something happens, and what the legs are.
    pub fn connect(&self, bells: Vec<Arc<Bell>>, parts: Vec<LegParts>) {
        *lock(&self.bells) = bells;
        *lock(&self.parts) = parts;
    }

    pub(super) fn part(&self, leg: LegId) -> Option<LegParts> {
        lock(&self.parts).get(leg.index()).cloned()
    }

    /// Whether volatile caches are modelled.
    pub(super) fn volatile(&self) -> bool {
        self.volatile.load(Ordering::Acquire)
    }

    /// Models volatile caches from now on, so that the power can be cut by hand.
    pub fn model_caches(&self) {
        self.volatile.store(true, Ordering::Release);
        self.changed();
    }

    /// Whether the power is off.
    pub fn is_cut(&self) -> bool {
        self.cut.load(Ordering::Acquire)
    }

    /// Cuts the power of all legs until the next boot.
    pub fn cut(&self) {
        if !self.cut.swap(true, Ordering::AcqRel) {
            self.cuts.fetch_add(1, Ordering::AcqRel);
            self.changed();
        }
    }

    /// Power cuts so far.
    pub(super) fn cuts(&self) -> u64 {
        self.cuts.load(Ordering::Acquire)
    }

    /// Calls `add` with every rule that there is: number, rule, names of the legs, names of all rules.
    pub(super) fn each_rule(&self, mut add: impl FnMut(u16, &Rule, &[String], &[String])) {
        let inner = lock(&self.inner);
        // A rule that is gone keeps its number, and gives up its name.
        let name = |entry: &Entry| match entry.gone {
            true => String::new(),
            false => entry.rule.name.clone(),
        };
        let names: Vec<String> = inner.rules.iter().map(name).collect();
        for (number, entry) in (0u16..).zip(&inner.rules) {
            if !entry.gone {
                add(number, &entry.rule, &self.legs, &names);
            }
        }
    }

    /// What was healed of a leg after the first `seen` heals, each time a rule or all of them; and how many heals there were.
    pub(super) fn healed(&self, leg: LegId, seen: usize) -> (Vec<Option<u16>>, usize) {
        let inner = lock(&self.inner);
        let new = inner.healed.iter().skip(seen);
        let ours = new.filter(|(of, _)| of.is_none_or(|of| of == leg.index()));
        (ours.map(|(_, rule)| *rule).collect(), inner.healed.len())
    }

    /// The steps' names of every boot, so that rules can speak of them.
    pub fn set_steps(&self, steps: Vec<Vec<String>>) {
        lock(&self.inner).steps = steps;
    }

    /// A boot begins: the power is on again.
    pub fn new_boot(&self, boot: u32) {
        self.boot.store(boot, Ordering::Release);
        lock(&self.inner).running.clear();
        self.cut.store(false, Ordering::Release);
        self.changed();
    }

    /// A mark came over the control leg.
    pub(super) fn see(&self, mark: &Mark) {
        let boot = usize::try_from(self.boot.load(Ordering::Acquire)).unwrap_or(usize::MAX);
        let mut inner = lock(&self.inner);
        match mark {
            Mark::StepBegin { step, .. } => {
                let name = inner
                    .steps
                    .get(boot.saturating_sub(1))
                    .and_then(|steps| steps.get(usize::try_from(*step).ok()?))
                    .cloned();
                if let Some(name) = name {
                    inner.marks.insert(name.clone());
                    inner.running.insert(*step, name);
                }
            }
            Mark::StepEnd { step, .. } => {
                inner.running.remove(step);
            }
            Mark::Hello(_)
            | Mark::Target(_)
            | Mark::Intent(_)
            | Mark::Pages(_)
            | Mark::WorkloadEnd { .. }
            | Mark::ReadBackEnd { .. }
            | Mark::BadRead { .. }
            | Mark::Survey { .. }
            | Mark::Quiet { .. }
            | Mark::Fact { .. }
            | Mark::Admin(_)
            | Mark::Sync(_)
            | Mark::Finish { .. } => return,
        }
        drop(inner);
        self.something_happened();
    }

    /// Sets a mark by hand.
    pub fn mark(&self, name: &str) {
        lock(&self.inner).marks.insert(name.to_owned());
        self.something_happened();
    }

    /// Releases what a rule holds, or what all rules hold.
    ///
    /// # Errors
    /// If there is no such rule, or it holds nothing.
    pub fn release(&self, rule: Option<&str>) -> Result<(), String> {
        let mut inner = lock(&self.inner);
        match rule {
            None => inner.released_all = inner.released_all.saturating_add(1),
            Some(name) => {
                let number = number_of(&inner, name)?;
                let held = inner.rules.get(usize::from(number)).map(|e| &e.rule.action);
                if let Some(action) = held.filter(|action| !matches!(action, Do::Hold(_))) {
                    let what = action.name();
                    return Err(format!("rule `{name}` holds nothing: it is {what}"));
                }
                let count = inner.released.entry(number).or_default();
                *count = count.saturating_add(1);
            }
        }
        drop(inner);
        self.something_happened();
        Ok(())
    }

    /// Whether a rule was taken away: nobody can release what it holds any more.
    pub(super) fn is_gone(&self, rule: u16) -> bool {
        let inner = lock(&self.inner);
        inner.rules.get(usize::from(rule)).is_none_or(|e| e.gone)
    }

    /// Adds rules, which are checked together with those that there are.
    ///
    /// # Errors
    /// The place in `more` of the rule at fault, and one sentence.
    pub fn add(
        &self,
        mut more: Vec<Rule>,
        legs: &[crate::config::LegConfig],
    ) -> Result<Vec<String>, (usize, String)> {
        let mut inner = lock(&self.inner);
        let live = inner.rules.iter().filter(|entry| !entry.gone);
        let mut all: Vec<Rule> = live.map(|entry| entry.rule.clone()).collect();
        let first = all.len();
        all.append(&mut more);
        fault::name_all(&mut all);
        fault::check(&all, legs).map_err(|(at, why)| (at.saturating_sub(first), why))?;
        let new = all.split_off(first);
        if !inner.steps.is_empty() {
            fault::check_steps(&new, &inner.steps)?;
        }
        let names = new.iter().map(|rule| rule.name.clone()).collect();
        for rule in new {
            if rule.twin.is_some() {
                self.twins_wanted.store(true, Ordering::Release);
            }
            if loses(&rule) {
                self.volatile.store(true, Ordering::Release);
            }
            inner.rules.push(Entry {
                rule,
                fired: 0,
                gone: false,
            });
        }
        drop(inner);
        self.changed();
        Ok(names)
    }

    /// Takes a rule away. What it holds goes on; its lies stay until they are healed.
    ///
    /// # Errors
    /// If there is no such rule.
    pub fn remove(&self, name: &str) -> Result<(), String> {
        let mut inner = lock(&self.inner);
        let number = number_of(&inner, name)?;
        if let Some(entry) = inner.rules.get_mut(usize::from(number)) {
            entry.gone = true;
        }
        drop(inner);
        self.changed();
        Ok(())
    }

    /// Lifts lies: all, or those of a leg, of a rule. Legs that these rules made dead or read-only live again. Returns the sectors that were
    /// healed.
    ///
    /// # Errors
    /// If there is no such leg or rule.
    pub fn heal(&self, leg: Option<&str>, rule: Option<&str>) -> Result<u64, String> {
        let number = match rule {
            Some(name) => Some(number_of(&lock(&self.inner), name)?),
            None => None,
        };
        let chosen = match leg {
            None => None,
            Some(name) => Some(self.legs.iter().position(|l| l == name).ok_or_else(|| {
                format!(
                    "unknown leg `{name}`; the legs are {}",
                    self.legs.join(", ")
                )
            })?),
        };
        let parts = lock(&self.parts).clone();
        let mut healed = 0u64;
        for (at, part) in parts.iter().enumerate() {
            if chosen.is_none_or(|chosen| chosen == at) {
                healed = healed.saturating_add(part.lies.with(|lies| lies.heal(number)));
                // What other rules have damaged is damaged still.
                if rule.is_none()
                    && let Some(damaged) = lock(&self.inner).damaged.get_mut(at)
                {
                    *damaged = RangeSet::default();
                }
            }
        }
        lock(&self.inner).healed.push((chosen, number));
        self.changed();
        Ok(healed)
    }

    /// All rules with their hits.
    pub fn rules(&self) -> Vec<RuleState> {
        let inner = lock(&self.inner);
        (0u16..)
            .zip(&inner.rules)
            .filter(|(_, entry)| !entry.gone)
            .map(|(number, entry)| RuleState {
                number,
                fired: entry.fired,
                rule: entry.rule.clone(),
            })
            .collect()
    }

    /// Decisions that the budget withheld.
    pub fn withheld(&self) -> u64 {
        lock(&self.inner).withheld
    }

    /// Sectors of each leg that are lies.
    pub fn lies(&self) -> Vec<u64> {
        let parts = lock(&self.parts);
        parts
            .iter()
            .map(|part| part.lies.with(|lies| lies.count()))
            .collect()
    }

    /// Where the array lies on a leg, if that is known.
    fn array_on(&self, leg: LegId) -> Option<OnLeg> {
        self.part(leg)?.shared.array()
    }

    /// A write arrived on a leg: a digest a sector.
    pub(super) fn write_arrived(&self, id: RequestId, range: SectorRange, digests: &[u32]) {
        for (part, from) in self.twins_of(id.leg, range) {
            let digests = digests.get(from..).unwrap_or_default();
            lock(&self.twins).arrived(id.leg, id.number, part, digests);
        }
    }

    /// A write ended on a leg: with its answer, or abandoned.
    pub(super) fn write_ended(&self, id: RequestId, range: SectorRange, status: Option<Status>) {
        for (part, _) in self.twins_of(id.leg, range) {
            let ok = status == Some(Status::Ok);
            lock(&self.twins).ended(id.leg, id.number, part, ok);
        }
    }

    /// The parts of a write that lie on the array, as the array's sectors, and which of the write's sectors the first of each is.
    fn twins_of(
        &self,
        leg: LegId,
        range: SectorRange,
    ) -> impl Iterator<Item = (SectorRange, usize)> {
        let array = self.array_on(leg).filter(|_| self.watches_twins());
        let before = array.map_or(0, |array| {
            array.data().start().0.saturating_sub(range.start().0)
        });
        let parts = array.into_iter().flat_map(move |on| on.on_array(range));
        parts.scan(before, |next, part| {
            let from = *next;
            *next = next.saturating_add(part.count());
            Some((part, usize::try_from(from).unwrap_or(usize::MAX)))
        })
    }

    pub(super) fn watches_twins(&self) -> bool {
        self.twins_wanted.load(Ordering::Acquire)
    }
}

fn loses(rule: &Rule) -> bool {
    matches!(rule.action, Do::PowerCut | Do::FlushLie)
}

fn number_of(inner: &Inner, name: &str) -> Result<u16, String> {
    (0u16..)
        .zip(&inner.rules)
        .find(|(_, entry)| !entry.gone && entry.rule.name == name)
        .map(|(number, _)| number)
        .ok_or_else(|| format!("there is no rule `{name}`; `rules list` names them"))
}

impl Around for Faults {
    fn boot(&self) -> u32 {
        self.boot.load(Ordering::Acquire)
    }

    fn elapsed_ms(&self) -> u64 {
        let gone = clock::now().saturating_duration_since(self.begun);
        u64::try_from(gone.as_millis()).unwrap_or(u64::MAX)
    }

    fn marked(&self, mark: &str) -> bool {
        lock(&self.inner).marks.contains(mark)
    }

    fn runs(&self, step: &str) -> bool {
        lock(&self.inner).running.values().any(|name| name == step)
    }

    fn fired(&self, rule: u16) -> u64 {
        let inner = lock(&self.inner);
        inner.rules.get(usize::from(rule)).map_or(0, |e| e.fired)
    }

    fn releases(&self, rule: u16) -> u64 {
        let inner = lock(&self.inner);
        let own = inner.released.get(&rule).copied().unwrap_or(0);
        own.saturating_add(inner.released_all)
    }

    fn fire(&self, rule: u16) {
        if let Some(entry) = lock(&self.inner).rules.get_mut(usize::from(rule)) {
            entry.fired = entry.fired.saturating_add(1);
        }
        self.something_happened();
    }

    fn of_array(&self, leg: LegId, array: SectorRange) -> Option<SectorRange> {
        self.array_on(leg)?.of_array(array)
    }

    fn twin(&self, leg: LegId, range: SectorRange, digest: u32, other: LegId) -> Option<TwinIs> {
        let first = self.array_on(leg)?.on_array(range).next()?.start();
        Some(lock(&self.twins).is(leg, first, digest, other))
    }

    fn in_flight(&self, leg: LegId) -> u64 {
        self.part(leg).map_or(0, |part| part.shared.depth())
    }

    fn sectors(&self, leg: LegId) -> Option<u64> {
        Some(self.part(leg)?.shared.sectors())
    }

    fn may_damage(&self, leg: LegId, ranges: &[SectorRange]) -> bool {
        let mut inner = lock(&self.inner);
        let good = usize::from(inner.good_legs);
        if good == 0 {
            return true;
        }
        // Sectors of legs with different data offsets are compared as they lie on the array, where that is known.
        let array = self.array_on(leg).filter(|array| {
            let mut ranges = ranges.iter().flat_map(|range| array.on_array(*range));
            ranges.next().is_some()
        });
        let placed: Vec<SectorRange> = match &array {
            Some(array) => ranges
                .iter()
                .flat_map(|range| array.on_array(*range))
                .collect(),
            None => ranges.to_vec(),
        };
        // The legs of a raid10's other mirrors have none of them.
        let has_them = |at: usize| {
            let other = u8::try_from(at)
                .ok()
                .and_then(|at| self.array_on(LegId(at)));
            let (Some(_), Some(other)) = (&array, other) else {
                return true;
            };
            placed.iter().any(|range| other.of_array(*range).is_some())
        };
        let bad_elsewhere = |at: usize| {
            let damaged = inner.damaged.get(at);
            damaged.is_some_and(|damaged| {
                damaged
                    .ranges()
                    .any(|bad| placed.iter().any(|range| range.intersection(bad).is_some()))
            })
        };
        let left = (0..self.legs.len())
            .filter(|at| *at != leg.index() && has_them(*at) && !bad_elsewhere(*at))
            .count();
        if left < good {
            inner.withheld = inner.withheld.saturating_add(1);
            return false;
        }
        if let Some(damaged) = inner.damaged.get_mut(leg.index()) {
            for range in placed {
                damaged.insert(range);
            }
        }
        true
    }
}
