//! A request's way where rules or lies are about. What the medium holds stays what an honest disk would; lies go over it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use super::command::Ending;
use super::disk::{Disk, Job, Outcome, Step};
use super::faults::Faults;
use super::shared::count;
use super::worker::Queue;
use crate::block::{
    Operation, RequestId, SECTOR_BYTES, Sector, SectorRange, Status, sector_digests, to_usize,
};
use crate::clock;
use crate::event::{Action, Content, Decided, Digests, Fetched, What};
use crate::fault::{Decision, Seen, Stage, Store, Wait, chance, damage};
use crate::medium::{Kept, Lie, Lies, Volatile};
use crate::sequence::Tap;
use crate::stamp::SplitMix64;

/// What a leg needs for its rules.
#[derive(Debug)]
pub(super) struct Faulty {
    pub(super) faults: Arc<Faults>,
    lies: Arc<Lies>,
    kept: Kept,
    volatile: Option<Volatile>,
    /// The version of the rules that this leg follows.
    version: u64,
    /// The version at which nothing was to be done; 0: none.
    plain_at: u64,
    healed: u64,
    cuts: u64,
    /// Whether twins are counted.
    pub(super) twins: bool,
    parked: Vec<Parked>,
    /// What had happened when the parked requests were last looked at.
    happened: u64,
    stalled: Vec<(Option<u16>, Instant)>,
    born: Instant,
}

/// What rules do to a request that is on its way.
#[derive(Debug, Default)]
pub(super) struct Fate {
    decision: Decision,
    /// The first half of a split fetch.
    half: Vec<u8>,
}

/// A request that waits for something else than a time.
#[derive(Debug)]
struct Parked {
    wait: Wait,
    due: Option<Instant>,
    /// Requests that had ended when it arrived.
    ended: u64,
    /// Releases by hand that there had been.
    released: u64,
    job: Job,
}

impl Faulty {
    pub(super) fn new(faults: Arc<Faults>, lies: Arc<Lies>) -> Faulty {
        Faulty {
            faults,
            lies,
            kept: Kept::default(),
            volatile: None,
            version: 0,
            plain_at: 0,
            healed: 0,
            cuts: 0,
            twins: false,
            parked: Vec::new(),
            happened: 0,
            stalled: Vec::new(),
            born: clock::now(),
        }
    }
}

fn bytes_of(range: SectorRange) -> usize {
    to_usize(range.count()).saturating_mul(SECTOR_BYTES)
}

impl Disk {
    /// Whether there is nothing to do but what an honest disk does. One load and one comparison where that has not changed.
    pub(super) fn is_plain(&mut self, tap: &mut Tap) -> bool {
        let version = self.faulty.faults.version();
        if version == self.faulty.plain_at {
            return true;
        }
        if version != self.faulty.version {
            self.follow(version, tap);
        }
        let plain = self.rules.is_empty()
            && !self.faulty.lies.any()
            && self.faulty.volatile.is_none()
            && self.faulty.stalled.is_empty()
            && !self.faulty.twins
            && !self.faulty.faults.is_cut();
        self.faulty.plain_at = if plain { version } else { 0 };
        plain
    }

    /// Rules, lies or the power have changed.
    fn follow(&mut self, version: u64, tap: &mut Tap) {
        self.faulty.version = version;
        let faults = Arc::clone(&self.faulty.faults);
        let rules = &mut self.rules;
        let mut there = Vec::new();
        faults.each_rule(|number, rule, legs, names| {
            there.push(number);
            if !rules.knows(number) {
                rules.add(number, rule, legs, names);
            }
        });
        rules.keep_only(&there);
        let healed = faults.healed();
        if healed != self.faulty.healed {
            self.faulty.healed = healed;
            rules.heal();
        }
        self.faulty.kept.watch(rules.versions_kept());
        self.faulty.twins = faults.watches_twins();
        if faults.volatile() && self.faulty.volatile.is_none() {
            self.faulty.volatile = Some(Volatile::default());
        }
        let cuts = faults.cuts();
        if cuts != self.faulty.cuts && !faults.is_cut() {
            self.faulty.cuts = cuts;
            self.lose_cache(cuts, tap);
        }
    }

    /// The power was cut, and a new boot begins: what was not flushed may be gone.
    fn lose_cache(&mut self, cuts: u64, tap: &mut Tap) {
        let Some(volatile) = &mut self.faulty.volatile else {
            return;
        };
        let leg = self.shared.id();
        let id = RequestId { leg, number: cuts };
        let lost = volatile.cut(chance(self.faulty.faults.seed(), "power-cut", id));
        let mut runs: Vec<(Sector, Vec<u8>)> = Vec::new();
        for (sector, block) in lost {
            let Some(one) = SectorRange::new(sector, 1) else {
                continue;
            };
            self.faulty.lies.with(|lies| lies.take(one));
            // A medium that fails here failed before; its own requests tell.
            let _told_elsewhere = self.medium.write(one, &block[..]);
            match runs.last_mut() {
                Some((start, bytes))
                    if start.checked_add((bytes.len() / SECTOR_BYTES) as u64) == Some(sector) =>
                {
                    bytes.extend_from_slice(&block[..]);
                }
                Some(_) | None => runs.push((sector, block.to_vec())),
            }
        }
        for (start, bytes) in runs {
            let count = (bytes.len() / SECTOR_BYTES) as u64;
            let range = SectorRange::new(start, count).unwrap_or_default();
            tap.record(What::Lost {
                leg,
                start,
                digests: sector_digests(&bytes).collect(),
                payload: self.keeps_payload(range).then_some(bytes),
            });
        }
    }

    /// Whether the power is off.
    pub(super) fn is_dark(&self) -> bool {
        self.faulty.faults.is_cut()
    }

    /// A request has arrived where rules or lies are about.
    pub(super) fn arrive_faulty(&mut self, queue: &mut Queue, mut job: Job, tap: &mut Tap) {
        let refused = matches!(job.step, Step::Refused(_));
        let mut decision = Decision::default();
        if !refused {
            let seen = Seen {
                request: self.id(job.number),
                operation: job.operation,
                ranges: &job.ranges,
                in_flight: self.shared.depth(),
                sectors: self.limits.sectors,
            };
            decision = self.rules.decide(&seen, &*self.faulty.faults);
        }
        if job.operation == Operation::Write
            && self.faulty.twins
            && let Some(range) = job.ranges.first()
        {
            let leg = self.leg();
            self.faulty.faults.write_arrived(leg, *range);
        }
        for decided in std::mem::take(&mut decision.decided) {
            tap.record(What::Decided(decided));
        }
        if decision.cut {
            self.faulty.faults.cut();
        }
        if self.is_dark() {
            // Nothing is fetched any more, and nothing answered.
            decision.wait = Wait::Forever;
            decision.late_fetch = true;
        }
        let now = clock::now();
        let mut due = now.checked_add(decision.delay).unwrap_or(now);
        if let Some((long, queue_only)) = decision.stall {
            let until = now.checked_add(long).unwrap_or(now);
            let which = queue_only.then_some(queue.index);
            self.faulty.stalled.push((which, until));
        }
        self.faulty.stalled.retain(|(_, until)| *until > now);
        for (which, until) in &self.faulty.stalled {
            if which.is_none_or(|which| which == queue.index) {
                due = due.max(*until);
            }
        }
        if let Some((status, Stage::BeforeFetch)) = decision.fail
            && !refused
        {
            job.step = Step::Refused(status);
        }
        let wait = std::mem::take(&mut decision.wait);
        let wait_most = decision.wait_most;
        let late = decision.late_fetch || decision.split_fetch;
        let mut fate = Fate {
            decision,
            half: Vec::new(),
        };
        if job.operation == Operation::Write && matches!(job.step, Step::Todo) {
            if !late {
                let (status, digests) = self.store_faulty(&job, &fate, tap);
                job.step = Step::Stored { digests, status };
            } else if fate.decision.split_fetch
                && let Some(range) = job.ranges.first()
            {
                let mut all = vec![0; bytes_of(*range)];
                job.pending.data().copy_to(&mut all);
                all.truncate(all.len() / 2);
                fate.half = all;
            }
        }
        job.fate = Some(Box::new(fate));
        match wait {
            Wait::Not if due <= now => {
                let outcome = self.work(&mut job, tap);
                self.finish(queue, job, outcome, tap);
            }
            Wait::Not => self.keep(due, job),
            Wait::Forever | Wait::Release { .. } | Wait::Behind(_) => {
                self.shared.hold(job.number);
                let released = match &wait {
                    Wait::Release { by, .. } => self.faulty.faults.releases(*by),
                    Wait::Not | Wait::Forever | Wait::Behind(_) => 0,
                };
                self.faulty.parked.push(Parked {
                    wait,
                    due: wait_most.and_then(|most| now.checked_add(most)),
                    ended: self.shared.ended(),
                    released,
                    job,
                });
                // What releases it may have happened while it was decided about.
                self.faulty.happened = self.faulty.happened.wrapping_sub(1);
            }
        }
    }

    /// When parked requests must be looked at: at once if something happened, else at their own latest time.
    pub(super) fn next_parked(&self) -> Option<Instant> {
        let faulty = &self.faulty;
        if faulty.parked.is_empty() {
            return None;
        }
        let ended = self.shared.ended();
        let behind = faulty.parked.iter().any(|parked| match parked.wait {
            Wait::Behind(count) => ended.saturating_sub(parked.ended) >= count,
            Wait::Not | Wait::Forever | Wait::Release { .. } => false,
        });
        if behind || faulty.happened != faulty.faults.happened() {
            return Some(faulty.born);
        }
        faulty.parked.iter().filter_map(|parked| parked.due).min()
    }

    fn is_released(&self, parked: &Parked, now: Instant) -> bool {
        use crate::fault::Around;
        if parked.due.is_some_and(|due| due <= now) {
            return true;
        }
        let faults = &self.faulty.faults;
        match &parked.wait {
            Wait::Not => true,
            Wait::Forever => false,
            Wait::Release { mark, rule, by } => {
                mark.as_ref().is_some_and(|mark| faults.marked(mark))
                    || rule.is_some_and(|(rule, before)| faults.fired(rule) > before)
                    || faults.releases(*by) > parked.released
            }
            Wait::Behind(count) => self.shared.ended().saturating_sub(parked.ended) >= *count,
        }
    }

    /// Ends the parked requests that are released.
    pub(super) fn end_parked(&mut self, now: Instant, queues: &mut [Queue], tap: &mut Tap) {
        if self.faulty.parked.is_empty() {
            return;
        }
        self.faulty.happened = self.faulty.faults.happened();
        let mut at = 0usize;
        while let Some(parked) = self.faulty.parked.get(at) {
            if self.is_released(parked, now) {
                let parked = self.faulty.parked.remove(at);
                self.end_held(parked.job, queues, Ending::Complete, tap);
            } else {
                at = at.saturating_add(1);
            }
        }
    }

    /// Ends what is parked for a queue that is being stopped. What is never to be answered is abandoned.
    pub(super) fn end_parked_of(
        &mut self,
        queue: Option<u16>,
        queues: &mut [Queue],
        ending: Ending,
        tap: &mut Tap,
    ) {
        let (ours, rest): (Vec<_>, Vec<_>) = std::mem::take(&mut self.faulty.parked)
            .into_iter()
            .partition(|parked| queue.is_none_or(|queue| parked.job.queue == queue));
        self.faulty.parked = rest;
        for parked in ours {
            let ending = if parked.wait == Wait::Forever {
                Ending::Abandon
            } else {
                ending
            };
            self.end_held(parked.job, queues, ending, tap);
        }
    }

    /// Everything that is left to do before the answer, as rules have it.
    pub(super) fn work_faulty(&mut self, job: &mut Job, fate: Fate, tap: &mut Tap) -> Outcome {
        let todo = matches!(job.step, Step::Todo);
        let outcome = match job.operation {
            Operation::Read if todo && fate.decision.fail.is_none() => {
                return self.read_faulty(job, &fate.decision, tap);
            }
            Operation::Read if todo => Outcome::plain(Status::Ok),
            Operation::Write if todo => {
                let (status, digests) = self.store_faulty(job, &fate, tap);
                Outcome {
                    status,
                    content: self.content_now(job, &digests, status),
                    written: 0,
                }
            }
            Operation::Flush if todo && fate.decision.flush_lie => Outcome::plain(Status::Ok),
            Operation::Flush if todo => {
                let outcome = self.work_honest(job, tap);
                if outcome.status == Status::Ok
                    && let Some(volatile) = &mut self.faulty.volatile
                {
                    volatile.flushed();
                }
                outcome
            }
            Operation::Discard | Operation::WriteZeroes | Operation::WriteZeroesUnmap if todo => {
                self.zero_faulty(job, &fate.decision, tap)
            }
            Operation::Read
            | Operation::Write
            | Operation::Flush
            | Operation::Discard
            | Operation::WriteZeroes
            | Operation::WriteZeroesUnmap
            | Operation::GetId
            | Operation::Unsupported(_) => self.work_honest(job, tap),
        };
        match fate.decision.fail {
            Some((status, _)) if outcome.status == Status::Ok => Outcome::plain(status),
            Some(_) | None => outcome,
        }
    }

    /// What the leg returns for a range.
    fn returned(&self, range: SectorRange) -> std::io::Result<Vec<u8>> {
        let mut bytes = vec![0; bytes_of(range)];
        self.medium.read(range, &mut bytes)?;
        self.faulty.lies.with(|lies| lies.apply(range, &mut bytes));
        Ok(bytes)
    }

    /// Honest content is about to change: keeps what caches, stale reads and lost writes may need. Returns the lies that lay over it.
    fn overwrite(&mut self, range: SectorRange) -> std::io::Result<(Vec<u8>, BTreeMap<u64, Lie>)> {
        let mut old = vec![0; bytes_of(range)];
        self.medium.read(range, &mut old)?;
        if let Some(volatile) = &mut self.faulty.volatile
            && !self.shared.write_through()
        {
            volatile.overwritten(range, &old);
        }
        let lies = self.faulty.lies.with(|lies| {
            lies.apply(range, &mut old);
            lies.take(range)
        });
        self.faulty.kept.overwritten(range, &old);
        Ok((old, lies))
    }

    /// Makes a sector stay what it was, over what the medium holds now.
    fn stay(&self, range: SectorRange, old: &[u8], lies: &BTreeMap<u64, Lie>, rule: u16) {
        self.faulty.lies.with(|overlay| {
            for (sector, block) in range.sectors().zip(old.as_chunks::<SECTOR_BYTES>().0) {
                let unreadable = lies.get(&sector.0).is_some_and(|lie| lie.bytes.is_none());
                let bytes = (!unreadable).then(|| Box::new(*block));
                overlay.put(sector, rule, bytes);
            }
        });
    }

    /// Fetches a write's payload and stores what rules let through.
    fn store_faulty(&mut self, job: &Job, fate: &Fate, tap: &mut Tap) -> (Status, Digests) {
        let Some(range) = job.ranges.first().copied() else {
            return (Status::IoErr, Digests::new());
        };
        let decision = &fate.decision;
        let keep = self.keeps_payload(range);
        let no = tap.number();
        let mut new = vec![0; bytes_of(range)];
        job.pending.data().copy_to(&mut new);
        if let Some(first) = new.get_mut(..fate.half.len()) {
            first.copy_from_slice(&fate.half);
        }
        let digests: Digests = sector_digests(&new).collect();
        tap.push(
            no,
            What::Fetched(Fetched {
                request: self.id(job.number),
                digests: digests.clone(),
                payload: keep.then(|| new.clone()),
            }),
        );
        count(&self.shared.counts().bytes_written, new.len() as u64);
        if let Some((_, Stage::BeforeStore)) = decision.fail {
            return (Status::Ok, digests);
        }
        let stored = self.put(range, &new, decision);
        let settled = stored.and_then(|()| self.settle());
        (self.answer(settled, job.number, tap), digests)
    }

    fn put(&mut self, range: SectorRange, new: &[u8], decision: &Decision) -> std::io::Result<()> {
        let (old, lies) = self.overwrite(range)?;
        let failed = decision
            .fail
            .is_some_and(|(status, _)| status != Status::Ok);
        if let (true, Store::Part(kept)) = (failed, &decision.store) {
            // A torn write that is not acknowledged is no lie: an honest disk may do that.
            for (at, sector) in range.sectors().enumerate() {
                let from = at.saturating_mul(SECTOR_BYTES);
                if kept.get(at) == Some(&true)
                    && let Some(one) = SectorRange::new(sector, 1)
                    && let Some(block) = new.get(from..from.saturating_add(SECTOR_BYTES))
                {
                    self.medium.write(one, block)?;
                }
            }
            return Ok(());
        }
        self.medium.write(range, new)?;
        if let Some((rule, leg, there)) = decision.misdirect {
            self.stay(range, &old, &lies, rule);
            if let Some(part) = self.faulty.faults.part(leg) {
                let fits = there.end().0 <= part.view.sectors();
                if fits {
                    part.lies.with(|lies| lies.put_range(there, rule, new));
                }
            }
        }
        match &decision.store {
            Store::Whole => {}
            Store::Nothing => self.stay(range, &old, &lies, decision.lost_by),
            Store::Part(kept) => {
                for (at, sector) in range.sectors().enumerate() {
                    let from = at.saturating_mul(SECTOR_BYTES);
                    if kept.get(at) == Some(&false)
                        && let Some(one) = SectorRange::new(sector, 1)
                        && let Some(block) = old.get(from..from.saturating_add(SECTOR_BYTES))
                    {
                        self.stay(one, block, &lies, decision.lost_by);
                    }
                }
            }
        }
        for (rule, corrupt, dice) in &decision.corrupt {
            let mut bytes = match corrupt.from_sector.and_then(|at| self.elsewhere(at, range)) {
                Some(from) => self.returned(from)?,
                None => new.to_vec(),
            };
            damage(corrupt, SplitMix64(dice.0), &mut bytes);
            let rule = *rule;
            self.faulty
                .lies
                .with(|lies| lies.put_range(range, rule, &bytes));
        }
        if let Some(rule) = decision.bad {
            self.faulty.lies.with(|lies| {
                for sector in range.sectors() {
                    lies.put(sector, rule, None);
                }
            });
        }
        if self.faulty.lies.any() {
            self.faulty.faults.changed();
        }
        Ok(())
    }

    /// As many sectors as `range` has, from `start` on, or up to the leg's end.
    fn elsewhere(&self, start: u64, range: SectorRange) -> Option<SectorRange> {
        let last = self.limits.sectors.checked_sub(range.count())?;
        SectorRange::new(Sector(start.min(last)), range.count())
    }

    fn zero_faulty(&mut self, job: &Job, decision: &Decision, tap: &mut Tap) -> Outcome {
        let mut over = Vec::new();
        for range in &job.ranges {
            match self.overwrite(*range) {
                Ok((old, lies)) => over.push((*range, old, lies)),
                Err(error) => {
                    return Outcome::plain(self.answer(Err(error), job.number, tap));
                }
            }
        }
        let unmap = job.operation != Operation::WriteZeroes;
        let outcome = self.zero(job, unmap, tap);
        if decision.store == Store::Nothing && outcome.status == Status::Ok {
            for (range, old, lies) in over {
                self.stay(range, &old, &lies, decision.lost_by);
            }
            self.faulty.faults.changed();
        }
        outcome
    }

    fn read_faulty(&mut self, job: &Job, decision: &Decision, tap: &mut Tap) -> Outcome {
        let Some(range) = job.ranges.first().copied() else {
            return Outcome::plain(Status::IoErr);
        };
        let (leg, from) = match decision.misdirect {
            Some((_, leg, there)) => (leg, there),
            None => (self.leg(), range),
        };
        let mut bytes = vec![0; bytes_of(range)];
        let own = leg == self.leg();
        let part = if own {
            None
        } else {
            self.faulty.faults.part(leg)
        };
        let read = match &part {
            None => self.medium.read(from, &mut bytes),
            Some(part) => part.view.read(from.start(), &mut bytes),
        };
        if let Err(error) = read {
            return Outcome::plain(self.answer(Err(error), job.number, tap));
        }
        let lies = part.map_or_else(|| Arc::clone(&self.faulty.lies), |part| part.lies);
        let met = lies.with(|lies| lies.apply(from, &mut bytes));
        for rule in met.rules {
            tap.record(What::Decided(Decided {
                request: self.id(job.number),
                rule,
                action: Action::Met,
            }));
        }
        if let Some(rule) = decision.bad {
            self.faulty.lies.with(|lies| {
                for sector in range.sectors() {
                    lies.put(sector, rule, None);
                }
            });
            self.faulty.faults.changed();
        }
        if met.bad || decision.bad.is_some() {
            return Outcome::plain(Status::IoErr);
        }
        if let Some((_, versions)) = decision.stale {
            self.faulty.kept.recall(range, versions, &mut bytes);
        }
        for (rule, corrupt, dice) in &decision.corrupt {
            if let Some(from) = corrupt.from_sector.and_then(|at| self.elsewhere(at, range))
                && let Ok(other) = self.returned(from)
            {
                bytes = other;
            }
            damage(corrupt, SplitMix64(dice.0), &mut bytes);
            if corrupt.sticky {
                let rule = *rule;
                self.faulty
                    .lies
                    .with(|lies| lies.put_range(range, rule, &bytes));
                self.faulty.faults.changed();
            }
        }
        let data = job.pending.data();
        data.copy_from(&bytes);
        count(&self.shared.counts().bytes_read, data.bytes());
        Outcome {
            status: Status::Ok,
            written: u32::try_from(data.bytes()).unwrap_or(u32::MAX),
            content: Content::Returned(sector_digests(&bytes).collect()),
        }
    }
}
