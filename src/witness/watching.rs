//! The checker's thread: events out of the sequence, into the journal and the checker, and what comes of them to whoever listens.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::WitnessError;
use super::news::News;
use super::wire::{Live, Notice};
use crate::clock;
use crate::device::Device;
use crate::event::{Event, EventNo, What};
use crate::failure::Failure;
use crate::journal;
use crate::judge::Judge;
use crate::oracle::{Verdict, Wanted};
use crate::sequence::{Collector, NoEvent};

/// How long the checker's thread waits for an event before it looks at the time.
const TICK: Duration = Duration::from_millis(20);
/// Events that are taken between two looks at the time, at most.
const EVENTS_A_LOOK: u32 = 64;
/// How often live numbers are told, and what the checker learnt is handed back.
const LIVE_EVERY: Duration = Duration::from_millis(250);

/// The checker's thread.
pub(super) struct Watching {
    pub(super) collector: Collector,
    pub(super) journal: journal::Writer<File>,
    /// Whether events go to the journal; its header is there in any case.
    pub(super) keeps: bool,
    pub(super) path: PathBuf,
    pub(super) judge: Judge,
    pub(super) device: Arc<Device>,
    pub(super) finishing: Arc<AtomicBool>,
    /// Whether the supervisor waits until all that happened was taken.
    pub(super) catching_up: Arc<AtomicBool>,
    pub(super) news: News,
    pub(super) live: Live,
    /// Whether it was told that the power is off.
    pub(super) cut: bool,
    /// The last event taken.
    pub(super) last: EventNo,
    pub(super) flushed: Instant,
    pub(super) told: Instant,
}

impl Watching {
    /// Watches to the end. A journal that can't be written is told at once: what the guest does from then on would be seen by nobody.
    pub(super) fn run(self) -> Result<Verdict, WitnessError> {
        let notices = self.news.notices();
        self.watch().map_err(|error| {
            let failure = Failure::from(error);
            let _nobody_listens = notices.send(Notice::Failed {
                message: failure.to_string(),
                user: matches!(failure, Failure::User(_)),
            });
            WitnessError::Gone(failure.to_string())
        })
    }

    fn watch(mut self) -> Result<Verdict, WitnessError> {
        let mut taken = 0u32;
        loop {
            match self.collector.next(TICK) {
                Ok(event) => {
                    self.take(&event)?;
                    // A look at the time costs as much as an event; so few of them take no time.
                    taken = taken.wrapping_add(1);
                    if !taken.is_multiple_of(EVENTS_A_LOOK) {
                        continue;
                    }
                }
                Err(NoEvent::Ended) => break,
                Err(NoEvent::TimedOut) => {
                    if self.collector.is_drained() && self.catching_up.swap(false, Ordering::AcqRel)
                    {
                        self.news.tell(Notice::CaughtUp);
                    }
                    if self.finishing.load(Ordering::Acquire) && self.collector.is_drained() {
                        break;
                    }
                }
            }
            self.look_at_the_time()?;
        }
        let path = self.path;
        self.journal
            .finish()
            .map_err(|source| WitnessError::Journal { path, source })?;
        Ok(self.judge.finish())
    }

    fn take(&mut self, event: &Event) -> Result<(), WitnessError> {
        if self.keeps {
            self.journal
                .append(event)
                .map_err(|source| WitnessError::Journal {
                    path: self.path.clone(),
                    source,
                })?;
            if !self.journal.holds_back() {
                self.collector.written(event.no);
            }
        }
        self.judge.apply(event);
        self.last = event.no;
        if matches!(event.what, What::Evidence { .. }) {
            return Ok(());
        }
        self.news.take(&self.judge, event);
        for wanted in self.judge.wanted() {
            show(&self.device, &mut self.collector, wanted);
        }
        self.live.told += u64::from(is_told(&event.what));
        self.live.events = event.no.0;
        Ok(())
    }

    fn look_at_the_time(&mut self) -> Result<(), WitnessError> {
        let cut = self.device.faults().is_cut();
        if cut && !self.cut {
            self.news.tell(Notice::Cut);
        }
        self.cut = cut;
        let now = clock::now();
        if self
            .journal
            .maybe_flush(now - self.flushed)
            .map_err(|source| WitnessError::Journal {
                path: self.path.clone(),
                source,
            })?
        {
            self.flushed = now;
        }
        if !self.journal.holds_back() {
            self.collector.written(self.last);
        }
        if now - self.told < LIVE_EVERY {
            return Ok(());
        }
        self.told = now;
        for (at, stats) in self.device.stats().iter().enumerate() {
            self.live.completed[at] = stats.arrived.saturating_sub(stats.in_flight);
            self.live.in_flight[at] = stats.in_flight;
        }
        let so_far = self.judge.so_far();
        self.live.findings = so_far.proven;
        self.live.suspect = so_far.suspect;
        self.live.faults = so_far.faults;
        self.live.unequal = (so_far.unequal, so_far.unequal_more);
        self.live.journal_bytes = self.journal.bytes();
        self.news.tell(Notice::Live(self.live.clone()));
        Ok(())
    }
}

/// Whether an event is what the supervisor told ([`super::wire::Command::is_event`]).
pub(super) fn is_told(what: &What) -> bool {
    matches!(
        what,
        What::Boot { .. } | What::Console { .. } | What::Hand { .. } | What::GuestEnded { .. }
    )
}

/// Records the content that a finding wants to show: proven by its digest, or not shown, as what a leg holds now may be newer than what the
/// finding speaks of.
pub(super) fn show(device: &Device, collector: &mut Collector, wanted: Wanted) {
    if let Ok(bytes) = device.read_sector(wanted.leg, wanted.sector)
        && crc32fast::hash(&bytes) == wanted.digest
    {
        let (leg, sector, version) = (wanted.leg, wanted.sector, wanted.version);
        collector.record(What::Evidence {
            leg,
            sector,
            version,
            bytes: bytes.to_vec(),
        });
    }
}
