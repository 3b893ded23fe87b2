//! A request's way where rules or lies are about. What the medium holds stays what an honest disk would; lies go over it.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::disk::{Disk, Job, Outcome, Step};
use super::faults::Faults;
use super::held::Held;
use super::parked::Parked;
use super::shared::count;
use super::worker::Queue;
use crate::block::{Operation, RequestId, SECTOR_BYTES, Sector, SectorRange, Status, to_usize};
use crate::clock;
use crate::event::{Action, Content, Decided, Digests, FrontendChange, What};
use crate::fault::{COMPILED_IN, Decision, Seen, Stage, chance, damage};
use crate::medium::{Kept, Lies, Volatile};
use crate::sequence::Tap;
use crate::shadow::RangeSet;
use crate::stamp::SplitMix64;

/// What a leg needs for its rules.
#[derive(Debug)]
pub(super) struct Faulty {
    pub(super) faults: Arc<Faults>,
    pub(super) lies: Arc<Lies>,
    pub(super) kept: Kept,
    pub(super) volatile: Option<Volatile>,
    /// The version of the rules that this leg follows.
    version: u64,
    /// The version at which nothing was to be done; 0: none.
    plain_at: u64,
    /// Heals that were seen.
    healed: usize,
    cuts: u64,
    /// Whether twins are counted.
    pub(super) twins: bool,
    pub(super) parked: Vec<Parked>,
    /// What had happened when the parked requests were last looked at.
    pub(super) happened: u64,
    stalled: Vec<(Option<u16>, Instant)>,
    pub(super) born: Instant,
    /// A rule has closed the leg's socket, and no queue was started since.
    away: bool,
    /// A rule wants the connection closed, for so long, once what was answered before has been shown to the driver.
    hangs_up: Option<Duration>,
    /// Writes that were fetched and not stored yet, and what was stored since by requests that were fetched later.
    pub(super) unstored: Vec<(u64, RangeSet)>,
}

/// What rules do to a request that is on its way.
#[derive(Debug, Default)]
pub(super) struct Fate {
    pub(super) decision: Decision,
    /// The first half of a split fetch.
    pub(super) half: Vec<u8>,
    /// What was fetched and is to be stored later.
    pub(super) fetched: Option<(Vec<u8>, Digests)>,
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
            away: false,
            hangs_up: None,
            unstored: Vec::new(),
        }
    }
}

pub(super) fn bytes_of(range: SectorRange) -> usize {
    to_usize(range.count()).saturating_mul(SECTOR_BYTES)
}

impl Disk {
    /// Whether there is nothing to do but what an honest disk does. One load and one comparison where that has not changed.
    pub(super) fn is_plain(&mut self, tap: &mut Tap) -> bool {
        if !COMPILED_IN {
            return true;
        }
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
            && !self.faulty.away
            && self.faulty.unstored.is_empty()
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
        let (healed, seen) = faults.healed(self.shared.id(), self.faulty.healed);
        self.faulty.healed = seen;
        for rule in healed {
            rules.heal(rule);
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
        let dice = chance(self.faulty.faults.seed(), "power-cut", id);
        let lost = volatile.cut(dice, self.limits.block_sectors);
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
            self.changed(range);
            tap.record(What::Lost {
                leg,
                start,
                digests: self.plain.digests(start, &bytes),
                payload: self
                    .keeps_payload(range)
                    .then(|| self.plain.bytes(start, &bytes)),
            });
        }
    }

    /// Whether nothing is answered: the power is off, or a rule has closed the socket.
    pub(super) fn is_dark(&self) -> bool {
        self.faulty.faults.is_cut() || self.faulty.away
    }

    /// Closes the connection if a rule wants it. Who learns of the end must find in the ring what was answered before.
    pub(super) fn hang_up(&mut self) {
        if COMPILED_IN && let Some(away) = self.faulty.hangs_up.take() {
            self.shared.connection().hang_up(away);
        }
    }

    /// A frontend is there again.
    pub(super) fn is_back(&mut self) {
        self.faulty.away = false;
    }

    /// Until when nothing of a queue is served, if a stall goes on.
    pub(super) fn stalled_until(&self, queue: u16, now: Instant) -> Option<Instant> {
        let of = |which: Option<u16>| which.is_none_or(|which| which == queue);
        let stalls = self.faulty.stalled.iter().filter(|(which, _)| of(*which));
        stalls
            .map(|(_, until)| *until)
            .max()
            .filter(|until| *until > now)
    }

    /// A request is abandoned.
    pub(super) fn forget_faulty(&mut self, job: &Job) {
        self.faulty
            .unstored
            .retain(|(number, _)| *number != job.number);
        if job.operation == Operation::Write
            && self.faulty.twins
            && let Some(range) = job.ranges.first()
        {
            let id = self.id(job.number);
            self.faulty.faults.write_ended(id, *range, None);
        }
    }

    /// What lasts longer than the request that begins it.
    fn begin_lasting(&mut self, decision: &Decision, queue: u16, now: Instant, tap: &mut Tap) {
        if let Some(away) = decision.disconnect {
            self.faulty.away = true;
            self.faulty.hangs_up = Some(away);
        }
        if let Some(sectors) = decision.resize {
            match self.grow(sectors) {
                Ok(()) => {
                    // Who has no channel sees the size when he connects again.
                    let _told = self.shared.tell_config_changed();
                }
                Err(error) => {
                    let text = format!("a rule can't make it {sectors} sectors large: {error}");
                    let change = FrontendChange::Trouble(text);
                    let leg = self.leg();
                    tap.record(What::Frontend { leg, change });
                }
            }
        }
        if let Some((long, queue_only)) = decision.stall {
            let until = now.checked_add(long).unwrap_or(now);
            let which = queue_only.then_some(queue);
            self.faulty.stalled.push((which, until));
            // What was held already waits too.
            let held = std::mem::take(&mut self.held);
            self.held = held
                .into_iter()
                .map(|Reverse(Held { due, job })| {
                    let stalled = which.is_none_or(|which| which == job.queue);
                    let due = if stalled { due.max(until) } else { due };
                    Reverse(Held { due, job })
                })
                .collect();
        }
        self.faulty.stalled.retain(|(_, until)| *until > now);
    }

    /// What a write will bring, looked at before it is fetched; nothing where no rule looks at twins.
    fn digests_for_twins(&self, job: &Job) -> Digests {
        match job.ranges.first() {
            Some(range) if self.faulty.twins && job.operation == Operation::Write => {
                let mut bytes = vec![0; bytes_of(*range)];
                job.pending.data().copy_to(&mut bytes);
                self.plain.digests(range.start(), &bytes)
            }
            Some(_) | None => Digests::new(),
        }
    }

    /// A request has arrived where rules or lies are about.
    pub(super) fn arrive_faulty(&mut self, queue: &mut Queue, mut job: Job, tap: &mut Tap) {
        let refused = matches!(job.step, Step::Refused(_));
        let mut decision = Decision::default();
        let digests = self.digests_for_twins(&job);
        if !refused {
            let seen = Seen {
                digest: digests.first().copied(),
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
            let id = self.id(job.number);
            self.faulty.faults.write_arrived(id, *range, &digests);
        }
        if decision.cut {
            // Before its number is taken: whoever takes a later one sees it, and answers nothing.
            self.faulty.faults.cut();
        }
        for decided in std::mem::take(&mut decision.decided) {
            tap.record(What::Decided(decided));
        }
        let now = clock::now();
        self.begin_lasting(&decision, queue.index, now, tap);
        if self.is_dark() {
            // Nothing is fetched any more, and nothing answered.
            decision.never = true;
            decision.late_fetch = true;
        }
        let mut due = now.checked_add(decision.delay).unwrap_or(now);
        if let Some(until) = self.stalled_until(queue.index, now) {
            due = due.max(until);
        }
        if let Some((status, Stage::BeforeFetch)) = decision.fail
            && !refused
        {
            job.step = Step::Refused(status);
        }
        let (waits, never) = (std::mem::take(&mut decision.waits), decision.never);
        let late = decision.late_fetch || decision.split_fetch;
        let mut fate = Fate {
            decision,
            ..Fate::default()
        };
        if job.operation == Operation::Write && matches!(job.step, Step::Todo) {
            if !late && fate.decision.late_store {
                fate.fetched = Some(self.fetch(&job, &fate, tap));
                self.faulty.unstored.push((job.number, RangeSet::default()));
            } else if !late {
                let (status, digests) = self.store_faulty(&job, &mut fate, tap);
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
        if never || !waits.is_empty() {
            self.shared.hold(job.number);
            let until = |(wait, most): (_, Option<Duration>)| {
                (wait, most.and_then(|most| now.checked_add(most)))
            };
            self.faulty.parked.push(Parked {
                waits: waits.into_iter().map(until).collect(),
                never,
                due,
                ended: self.shared.ended(),
                job,
            });
            // What releases it may have happened while it was decided about.
            self.faulty.happened = self.faulty.happened.wrapping_sub(1);
        } else if due <= now {
            let outcome = self.work(&mut job, tap);
            self.finish(queue, job, outcome, tap);
        } else {
            self.keep(due, job);
        }
    }

    /// Everything that is left to do before the answer, as rules have it.
    pub(super) fn work_faulty(&mut self, job: &mut Job, mut fate: Fate, tap: &mut Tap) -> Outcome {
        let todo = matches!(job.step, Step::Todo);
        let not_done = matches!(fate.decision.fail, Some((_, Stage::BeforeStore)));
        let outcome = match job.operation {
            Operation::Read if todo && fate.decision.fail.is_none() => {
                return self.read_faulty(job, &fate.decision, tap);
            }
            Operation::Read if todo => Outcome::plain(Status::Ok),
            Operation::Write if todo => {
                let (status, digests) = self.store_faulty(job, &mut fate, tap);
                Outcome {
                    status,
                    content: self.content_now(job, &digests, status),
                    written: 0,
                }
            }
            Operation::Flush if todo && (fate.decision.flush_lie || not_done) => {
                Outcome::plain(Status::Ok)
            }
            Operation::Flush if todo => {
                let outcome = self.work_honest(job, tap);
                if outcome.status == Status::Ok
                    && let Some(volatile) = &mut self.faulty.volatile
                {
                    volatile.flushed();
                }
                outcome
            }
            Operation::Discard | Operation::WriteZeroes | Operation::WriteZeroesUnmap
                if todo && not_done =>
            {
                Outcome::plain(Status::Ok)
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
            content: Content::Returned(self.plain.digests(range.start(), &bytes)),
        }
    }
}
