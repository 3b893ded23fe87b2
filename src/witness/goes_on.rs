//! A witness that was killed goes on: the journal is read to its torn tail and folded again, what was kept ahead of it is written behind it, and
//! then what nobody recorded is: that the witness was killed, what was in flight then, and what the legs hold that no event speaks of.
//!
//! Nothing that the guest was told is missing after that: an event is kept before its answer is published. What can be missing was being
//! recorded at the moment of the kill: a request that came and was not begun, a payload of which a part is on the medium (found by reading it),
//! an answer that was not given. Each of these requests comes again with the in-flight region, or its frontend is gone.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, BufReader, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;

use crate::ahead::{self, Ahead};
use crate::block::{LegId, Operation, RequestId, SECTOR_BYTES, Sector, SectorRange, to_usize};
use crate::config::{LegConfig, MediumConfig, Record};
use crate::device::GoesOn;
use crate::event::{Abandoned, Event, EventNo, FrontendChange, What};
use crate::header::RunHeader;
use crate::journal::{self, ReadError};
use crate::judge::Judge;
use crate::leg::{ControlState, Left, Plain};
use crate::mark::Mark;
use crate::oracle::Wanted;
use crate::shadow::RangeSet;
use crate::watch::{Part, Watch};
use crate::witness::wire::WitnessConfig;
use crate::witness::{News, is_told};

/// Sectors that are read from a leg at a time, and that one event tells of at most.
const CHUNK_SECTORS: u64 = 256;

/// Why a witness can't go on.
#[derive(Debug, thiserror::Error)]
pub enum GoOnError {
    /// The journal can't be read.
    #[error("the journal {} can't be read", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: ReadError,
    },
    /// A file that is needed can't be read or written.
    #[error("{} can't be used", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another witness is at it.
    #[error("the journal {} is in use: another legwatch goes on with this run", .0.display())]
    InUse(PathBuf),
    /// The run can't go on at all.
    #[error("this run can't go on: {0}; `legwatch check` judges its journal")]
    Can(&'static str),
}

/// A run that goes on.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) header: RunHeader,
    pub(super) judge: Judge,
    pub(super) journal: journal::Writer<File>,
    pub(super) ahead: Arc<Ahead>,
    pub(super) last: EventNo,
    pub(super) elapsed: Duration,
    pub(super) device: GoesOn,
    /// The boot whose guest has not ended, if there is one.
    pub(super) guest: Option<u32>,
    /// What the supervisor told that is on record.
    pub(super) told: u64,
    /// Whether the run's end is on record.
    pub(super) ended: bool,
    /// What findings want to show and is not on record.
    pub(super) wanted: BTreeSet<Wanted>,
    /// How many events were kept, and how many are missing.
    pub(super) kept: u64,
    pub(super) missing: u64,
}

/// What is in flight, as the journal has it.
#[derive(Debug)]
struct Open {
    operation: Operation,
    ranges: SmallVec<[SectorRange; 1]>,
    fetched: bool,
}

/// What one fold over the events brings to light.
#[derive(Debug, Default)]
struct Seen {
    last: EventNo,
    time_us: u64,
    open: BTreeMap<RequestId, Open>,
    legs: BTreeMap<LegId, Left>,
    boot: u32,
    guest: Option<u32>,
    told: u64,
    unanswered: BTreeSet<u32>,
    /// The numbers of this boot's marks, the last ones.
    marks: Vec<EventNo>,
    hands: bool,
    ended: bool,
    restarts: u64,
    /// Numbers without an event, since the last restart that is on record.
    missing: u64,
    wanted: BTreeSet<Wanted>,
}

/// Marks of which the numbers are kept; more than a batch has.
const MARKS_MAX: usize = 4096;

impl Seen {
    fn take(&mut self, event: &Event) {
        self.missing += event.no.0.saturating_sub(self.last.0 + 1);
        self.last = event.no;
        self.time_us = event.time_us;
        self.told += u64::from(is_told(&event.what));
        match &event.what {
            What::Boot { boot } => {
                self.boot = *boot;
                self.guest = Some(*boot);
                self.unanswered.clear();
                self.marks.clear();
                self.no_frontends();
            }
            What::Hand { .. } => self.hands = true,
            What::GuestEnded { .. } => {
                self.guest = None;
                self.no_frontends();
            }
            What::Arrived(arrived) => {
                let id = arrived.request;
                let left = self.legs.entry(id.leg).or_default();
                left.request = id.number.max(left.request);
                let open = Open {
                    operation: arrived.operation,
                    ranges: arrived.ranges.clone(),
                    fetched: false,
                };
                self.open.insert(id, open);
            }
            What::Fetched(fetched) => {
                if let Some(open) = self.open.get_mut(&fetched.request) {
                    open.fetched = true;
                }
            }
            What::Completed(completed) => {
                self.open.remove(&completed.request);
            }
            What::Abandoned(abandoned) => {
                self.open.remove(&abandoned.request);
            }
            What::Mark(mark) => {
                if let Mark::Quiet { id, .. } = mark {
                    self.unanswered.insert(*id);
                }
                if self.marks.len() == MARKS_MAX {
                    self.marks.drain(..MARKS_MAX / 2);
                }
                self.marks.push(event.no);
            }
            What::Quiet { id, .. } => {
                self.unanswered.remove(id);
            }
            What::Evidence {
                leg,
                sector,
                version,
                ..
            } => self.wanted.retain(|wanted| {
                (wanted.leg, wanted.sector, wanted.version) != (*leg, *sector, *version)
            }),
            What::End => self.ended = true,
            What::Frontend { leg, change } => self.frontend(*leg, change),
            What::Console { .. }
            | What::Decided(_)
            | What::Initial { .. }
            | What::Lost { .. }
            | What::Found { .. } => {}
            What::Restarted { .. } => {
                self.restarts += 1;
                self.missing = 0;
            }
        }
    }

    fn frontend(&mut self, leg: LegId, change: &FrontendChange) {
        let left = self.legs.entry(leg).or_default();
        match change {
            FrontendChange::QueueStarted { queue, .. } => {
                left.queues.insert(*queue);
            }
            FrontendChange::QueueStopped { queue } => {
                left.queues.remove(queue);
            }
            FrontendChange::Connected
            | FrontendChange::Features(_)
            | FrontendChange::Reset
            | FrontendChange::Trouble(_)
            | FrontendChange::Waited { .. }
            | FrontendChange::Disconnected(_) => {}
        }
    }

    fn no_frontends(&mut self) {
        for left in self.legs.values_mut() {
            left.queues.clear();
        }
    }
}

/// Everything that takes an event of the run.
struct Fold<'a> {
    seen: Seen,
    judge: Judge,
    news: &'a mut News,
    journal: Option<journal::Writer<File>>,
}

impl Fold<'_> {
    fn take(&mut self, event: &Event) -> io::Result<()> {
        if let Some(journal) = &mut self.journal {
            journal.append(event)?;
        }
        self.judge.apply(event);
        self.seen.wanted.extend(self.judge.wanted());
        self.seen.take(event);
        self.news.take(&self.judge, event);
        Ok(())
    }

    /// Takes an event that nobody has recorded.
    fn add(&mut self, time_us: u64, what: What) -> io::Result<()> {
        let no = EventNo(self.seen.last.0 + 1);
        self.take(&Event { no, time_us, what })
    }
}

/// Whether a run of this configuration could go on.
///
/// # Errors
/// [`GoOnError::Can`]: why not.
pub fn can(config: &WitnessConfig) -> Result<&Path, GoOnError> {
    let watch = Watch::parse(&config.watch).unwrap_or_default();
    if !watch.has(Part::Journal) {
        return Err(GoOnError::Can("it keeps no journal"));
    }
    if !config.rules.is_empty() {
        return Err(GoOnError::Can(
            "what its fault rules had done was lost with the witness",
        ));
    }
    let lost = |(at, leg): (usize, &LegConfig)| {
        matches!(leg.medium, MediumConfig::Mem { .. })
            && config.memory.get(at).is_none_or(Option::is_none)
    };
    if config.legs.iter().enumerate().any(lost) {
        return Err(GoOnError::Can(
            "it has memory legs, and their content was lost with the process",
        ));
    }
    config
        .ahead
        .as_deref()
        .ok_or(GoOnError::Can("its events were not kept"))
}

/// Locks a journal for this process.
///
/// # Errors
/// The system's; `WouldBlock` if another process has it.
pub(super) fn lock(file: &File) -> io::Result<()> {
    rustix::fs::flock(file, rustix::fs::FlockOperation::NonBlockingLockExclusive)
        .map_err(Into::into)
}

/// Takes up the run whose witness was killed; `killed` were, as far as is known, this one's predecessor at least.
pub(super) fn take_up(
    config: &WitnessConfig,
    path: &Path,
    killed: u64,
    news: &mut News,
) -> Result<Found, GoOnError> {
    let kept_in = can(config)?;
    let io_error = |path: &Path| {
        let path = path.to_owned();
        move |source| GoOnError::Io { path, source }
    };
    let file = File::options()
        .read(true)
        .write(true)
        .open(path)
        .map_err(io_error(path))?;
    lock(&file).map_err(|error| {
        if error.kind() == io::ErrorKind::WouldBlock {
            GoOnError::InUse(path.to_owned())
        } else {
            io_error(path)(error)
        }
    })?;
    let input = BufReader::with_capacity(1 << 20, file.try_clone().map_err(io_error(path))?);
    let mut reader = journal::Reader::new(input).map_err(|source| GoOnError::Read {
        path: path.to_owned(),
        source,
    })?;
    let header = reader.header().clone();
    let mut fold = Fold {
        seen: Seen::default(),
        judge: Judge::new(&header, config.strict),
        news,
        journal: None,
    };
    while let Some(event) = reader.next_event().map_err(io_error(path))? {
        fold.take(&event).map_err(io_error(path))?;
    }
    let left = ahead::read(kept_in).map_err(io_error(kept_in))?;
    let by_hand = |event: &Event| matches!(event.what, What::Hand { .. });
    if fold.seen.hands || left.events.iter().any(by_hand) {
        return Err(GoOnError::Can(
            "what hands had done to its legs (`legwatch ctl`) was lost with the witness",
        ));
    }
    if let Some(tail) = reader.tail() {
        file.set_len(tail.at).map_err(io_error(path))?;
    }
    let bytes = (&file).seek(SeekFrom::End(0)).map_err(io_error(path))?;
    fold.journal = Some(journal::Writer::go_on(file, bytes));

    let journaled = fold.seen.last;
    let mut kept = 0;
    for event in left.events.iter().filter(|event| event.no > journaled) {
        kept += 1;
        fold.take(event).map_err(io_error(path))?;
    }
    // Those too that a witness has found missing which was killed before it said so.
    let missing = fold.seen.missing;
    let elapsed_us = left.elapsed_us.max(fold.seen.time_us);
    let batch = Some(left.batch).filter(|(batch, _)| *batch != 0);
    let marks = &fold.seen.marks;
    let begun = batch.map(|(batch, after)| {
        let recorded = marks.iter().filter(|no| **no > after).count();
        (batch, recorded)
    });
    if !fold.seen.ended {
        let restarted = What::Restarted { kept, missing };
        fold.add(elapsed_us, restarted).map_err(io_error(path))?;
        // Those that were killed while they took the run up had recorded nothing, and nothing is missing for them.
        while fold.seen.restarts < killed {
            let (kept, missing) = (0, 0);
            let restarted = What::Restarted { kept, missing };
            fold.add(elapsed_us, restarted).map_err(io_error(path))?;
        }
        let open = std::mem::take(&mut fold.seen.open);
        for (request, open) in &open {
            let applied = open.fetched;
            let request = *request;
            let left = fold.seen.legs.entry(request.leg).or_default();
            left.in_flight.insert(request.number);
            fold.add(elapsed_us, What::Abandoned(Abandoned { request, applied }))
                .map_err(io_error(path))?;
        }
        for (at, leg) in config.legs.iter().enumerate() {
            compare(config, at, leg, &open, &mut fold, elapsed_us)?;
        }
    }
    let Fold {
        seen,
        judge,
        journal,
        ..
    } = fold;
    let mut journal = journal.expect("it goes on");
    journal.flush().map_err(io_error(path))?;
    let ahead = Ahead::take_over(kept_in, config.legs.len()).map_err(io_error(kept_in))?;
    let legs = (0..).take(config.legs.len());
    Ok(Found {
        device: GoesOn {
            legs: legs
                .map(|leg| seen.legs.get(&LegId(leg)).cloned().unwrap_or_default())
                .collect(),
            boot: seen.boot,
            control: ControlState {
                batches: ahead.batches(),
                begun,
                unanswered: seen.unanswered,
            },
        },
        header,
        judge,
        journal,
        ahead,
        last: seen.last,
        elapsed: Duration::from_micros(elapsed_us),
        guest: seen.guest,
        told: seen.told,
        ended: seen.ended,
        wanted: seen.wanted,
        kept,
        missing,
    })
}

/// Reads of a leg what the shadow knows, and what requests in flight may have changed; what is not as the events have it becomes an event.
fn compare(
    config: &WitnessConfig,
    at: usize,
    leg: &LegConfig,
    open: &BTreeMap<RequestId, Open>,
    fold: &mut Fold<'_>,
    time_us: u64,
) -> Result<(), GoOnError> {
    let watch = Watch::parse(&config.watch).unwrap_or_default();
    if !(watch.has(Part::Shadow) && watch.has(Part::Crc)) {
        return Ok(());
    }
    let path = match &leg.medium {
        MediumConfig::File { path } => path.as_path(),
        MediumConfig::Mem { .. } => config
            .memory
            .get(at)
            .and_then(Option::as_deref)
            .expect("`can` has looked"),
    };
    let failed = |source| GoOnError::Io {
        path: path.to_owned(),
        source,
    };
    let file = File::open(path).map_err(failed)?;
    let id = LegId(u8::try_from(at).expect("a few legs"));
    let plain = Plain::new(leg.crypt.as_ref());
    let mut in_doubt = RangeSet::default();
    for (request, open) in open {
        if request.leg == id && (open.operation == Operation::Write || open.operation.zeroes()) {
            for range in &open.ranges {
                in_doubt.insert(*range);
            }
        }
    }
    let mut wanted = in_doubt.clone();
    for range in fold.judge.known(id) {
        wanted.insert(range);
    }
    let data: Vec<SectorRange> = fold
        .judge
        .data_areas()
        .into_iter()
        .filter(|(of, _)| *of == id)
        .map(|(_, range)| range)
        .chain(leg.data)
        .collect();
    let mut buffer = vec![0; to_usize(CHUNK_SECTORS) * SECTOR_BYTES];
    for range in wanted.ranges() {
        let mut start = range.start().0;
        while start < range.end().0 {
            let count = CHUNK_SECTORS.min(range.end().0 - start);
            let bytes = &mut buffer[..to_usize(count) * SECTOR_BYTES];
            file.read_exact_at(bytes, start * SECTOR_BYTES as u64)
                .map_err(failed)?;
            let digests = plain.digests(Sector(start), bytes);
            let differs: Vec<bool> = digests
                .iter()
                .zip(start..)
                .map(|(now, sector)| match fold.judge.holds(id, Sector(sector)) {
                    Some(before) => before != *now,
                    None => in_doubt.contains(Sector(sector)),
                })
                .collect();
            let mut from = 0;
            for run in differs.chunk_by(|a, b| a == b) {
                let to = from + run.len();
                if run[0] {
                    let part = SectorRange::new(Sector(start + from as u64), run.len() as u64)
                        .unwrap_or_default();
                    let keep = match config.record {
                        Record::All => true,
                        Record::Metadata => !data.iter().any(|area| area.covers(part)),
                        Record::None => false,
                    };
                    let content = &bytes[from * SECTOR_BYTES..to * SECTOR_BYTES];
                    let what = What::Found {
                        leg: id,
                        start: part.start(),
                        digests: digests[from..to].iter().copied().collect(),
                        payload: keep.then(|| plain.bytes(part.start(), content)),
                    };
                    fold.add(time_us, what).map_err(failed)?;
                }
                from = to;
            }
            start += count;
        }
    }
    Ok(())
}
