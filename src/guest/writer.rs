//! One writer of a load: a thread that makes its generator's requests, and tells each one's begin and end.
//!
//! ```text
//!   plan ──▶ fill ──▶ tell ends of earlier ones + begins ──▶ submit ──▶ discards, flushes ──▶ reap ──┐
//!     ▲                (one control write for up to 15)                                              │
//!     └──────────────────────────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! Ends come before begins in a batch and are told as soon as they were reaped, with the next begins if these are ready or quickly made
//! ready ([`FILL_BYTES_MAX`]): an end mark that is late proves less. With immutable buffers one request is made ready in advance. A range is given back to other writers only when its end was told, so where the pattern forbids overlaps, marks never overlap either.

use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use super::buffers::{Buffers, Place};
use super::control::Marker;
use super::engine::{self, Done, Engine, WriteRequest};
use super::gate::Pass;
use super::generator::{Busy, Generator, Kind, Planned};
use super::model::Effect;
use super::target::Target;
use super::{Error, Shared, context, quiet, sys};
use crate::block::{SECTOR_BYTES, SectorRange, to_usize};
use crate::mark::{INTENTS_MAX, Intent, IntentFlags, IntentKind, Phase};
use crate::plan::{self, Pattern, WriteLoad};
use crate::stamp::Stamp;

/// The longest that a writer with used-up immutable buffers waits for md to come to rest.
const QUIET: Duration = Duration::from_secs(120);

/// The most bytes that are filled with stamps while ends wait to be told.
const FILL_BYTES_MAX: usize = 32 << 10;

/// What a writer did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    /// Requests acknowledged without an error.
    pub(super) acked: u64,
    /// Requests that failed.
    pub(super) failed: u64,
    /// Writes that were refused because they would have had to wait, and were made again.
    pub(super) refused: u64,
    /// What had to be made do with.
    pub(super) notes: Vec<&'static str>,
}

/// What a writer is given.
#[derive(Debug)]
pub(super) struct Order<'a> {
    /// Of the whole agent.
    pub(super) shared: &'a Shared,
    /// The load.
    pub(super) load: &'a WriteLoad,
    /// The device.
    pub(super) target: &'a Target,
    /// The device, open as the engine wants it.
    pub(super) file: Arc<File>,
    /// The writer's number.
    pub(super) writer: u16,
    /// Its requests.
    pub(super) generator: Generator,
    /// The ranges in flight that it must keep clear of; `None` if overlaps are wanted.
    pub(super) busy: Option<Arc<Busy>>,
    /// Its share of the memory for buffers, in bytes.
    pub(super) pool_bytes: usize,
    /// Whether no other request of the agent is made meanwhile (by other writers or in the background).
    pub(super) only_one: bool,
    /// Whether discards can be made at all.
    pub(super) discards: bool,
}

/// A request that was begun.
#[derive(Clone, Copy, Debug)]
struct Flight {
    intent: Intent,
    range: SectorRange,
    /// Where its data is; none for discards and flushes.
    place: Option<Place>,
}

struct Writer<'a> {
    order: Order<'a>,
    marker: Marker,
    buffers: Buffers,
    engine: Box<dyn Engine>,
    flags: IntentFlags,
    /// The next request, while it waits for its sectors or its buffer.
    next: Option<Planned>,
    /// Its buffer, filled.
    ready: Option<Place>,
    /// By token.
    flights: Vec<Option<Flight>>,
    in_flight: usize,
    /// Ended, and not told yet.
    ended: Vec<Flight>,
    tally: Tally,
    scribbles: usize,
}

/// Why no request could be begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    /// As many as fit are on the way.
    Full,
    /// The next one's sectors are in use.
    Sectors,
    /// The immutable buffers are used up.
    Buffers,
    /// The gate is closed.
    Gate,
    /// There is no more to do.
    End,
}

/// Makes all requests of a writer.
pub(super) fn run(order: Order<'_>) -> Result<Tally, Error> {
    let mut pass = order.shared.gate.enter();
    let mut writer = Writer::new(order)?;
    writer.run(&mut pass)?;
    writer.tally.refused = writer.engine.refused();
    Ok(writer.tally)
}

/// The depth that an engine has.
pub(super) fn depth_of(load: &WriteLoad) -> u32 {
    match load.engine {
        plan::Engine::IoUring
        | plan::Engine::IoUringFixed
        | plan::Engine::IoUringNowait
        | plan::Engine::Libaio => load.depth,
        plan::Engine::Sync | plan::Engine::Buffered => 1,
    }
}

impl<'a> Writer<'a> {
    fn new(order: Order<'a>) -> Result<Writer<'a>, Error> {
        let mut tally = Tally::default();
        let largest = sys::sectors_len(order.generator.largest());
        let place_bytes = largest.next_multiple_of(sys::PAGE_BYTES);
        let mut depth = to_usize(u64::from(depth_of(order.load)));
        let buffers = match order.load.buffers {
            plan::Buffers::Immutable => {
                // No more than the requests need, found by making them in advance.
                let mut need = 0;
                let cap = order.pool_bytes.max(place_bytes);
                for request in order.generator.clone() {
                    need +=
                        sys::sectors_len(request.range.count()).next_multiple_of(sys::PAGE_BYTES);
                    if need >= cap {
                        break;
                    }
                }
                Buffers::immutable(need.clamp(place_bytes, cap))?
            }
            plan::Buffers::Reuse | plan::Buffers::Scribble => {
                let fit = (order.pool_bytes / place_bytes).max(1);
                if fit < depth {
                    depth = fit;
                    tally.notes.push("memory is short: a smaller depth");
                }
                Buffers::reused(depth, place_bytes)?
            }
        };
        let on_the_way = u32::try_from(depth).expect("a depth of at most 64");
        let (engine, note) =
            engine::open(order.load.engine, &order.file, on_the_way, buffers.memory()).map_err(
                context(format!(
                    "setting up {:?} for {}",
                    order.load.engine, order.load.device
                )),
            )?;
        tally.notes.extend(note);
        let buffered = order.load.engine == plan::Engine::Buffered;
        let scribbles = order.load.buffers == plan::Buffers::Scribble;
        if scribbles
            && depth_of(order.load) == 1
            && !matches!(
                order.load.engine,
                plan::Engine::IoUring
                    | plan::Engine::IoUringFixed
                    | plan::Engine::IoUringNowait
                    | plan::Engine::Libaio
            )
        {
            tally
                .notes
                .push("buffers cannot be changed in flight with a synchronous engine");
        }
        let flags = IntentFlags {
            immutable: order.load.buffers == plan::Buffers::Immutable && !buffered,
            dsync: order.load.dsync,
            buffered,
            pinned: engine.pinned(),
            alone: order.only_one && depth == 1 && !buffered,
        };
        Ok(Writer {
            marker: order.shared.control.marker()?,
            buffers,
            engine,
            flags,
            next: None,
            ready: None,
            flights: vec![None; depth],
            in_flight: 0,
            ended: Vec::new(),
            tally,
            scribbles: 0,
            order,
        })
    }

    fn run(&mut self, pass: &mut Pass<'_>) -> Result<(), Error> {
        loop {
            let mut begun = Vec::new();
            let stop = self.begin(&mut begun)?;
            self.tell(&begun)?;
            self.submit(&begun)?;
            if self.in_flight > 0 {
                if self.flags.immutable && stop == Stop::Full {
                    self.prepare();
                }
                self.reap()?;
                continue;
            }
            if !self.ended.is_empty() {
                continue;
            }
            match stop {
                Stop::End => return Ok(()),
                Stop::Full => {}
                Stop::Sectors => {
                    if let (Some(busy), Some(next)) = (&self.order.busy, &self.next) {
                        busy.wait(next.range);
                    }
                }
                Stop::Gate => {
                    if pass.park() {
                        self.renew_buffers();
                    }
                }
                Stop::Buffers => self.renew(pass)?,
            }
        }
    }

    /// Plans requests until none can be begun, and fills their buffers.
    fn begin(&mut self, begun: &mut Vec<usize>) -> Result<Stop, Error> {
        let mut filled = 0;
        loop {
            if self.order.shared.stops() {
                return Ok(Stop::End);
            }
            if self.order.shared.gate.is_closed() {
                return Ok(Stop::Gate);
            }
            // A begin that waits for a second control write would only keep its buffer longer out of the kernel.
            if begun.len() >= INTENTS_MAX {
                return Ok(Stop::Full);
            }
            let Some(token) = self.flights.iter().position(Option::is_none) else {
                return Ok(Stop::Full);
            };
            let Some(planned) = self.plan() else {
                return Ok(Stop::End);
            };
            if planned.kind == Kind::Write && self.ready.is_none() {
                filled += sys::sectors_len(planned.range.count());
                if !self.ended.is_empty() && filled > FILL_BYTES_MAX {
                    return Ok(Stop::Full);
                }
                if !self.prepare() {
                    return Ok(Stop::Buffers);
                }
            }
            if let Some(busy) = &self.order.busy
                && planned.kind != Kind::Flush
                && !busy.take(planned.range)
            {
                return Ok(Stop::Sectors);
            }
            self.next = None;
            let place = self.ready.take();
            let flight = self.take_off(planned, place)?;
            self.flights[token] = Some(flight);
            begun.push(token);
        }
    }

    /// The next request.
    fn plan(&mut self) -> Option<Planned> {
        if self.next.is_none() {
            self.next = self.order.generator.next();
            if let Some(planned) = &mut self.next
                && planned.kind == Kind::Discard
                && !self.order.discards
            {
                planned.kind = Kind::Write;
            }
        }
        self.next
    }

    /// Fills a buffer for the next request, if it is a write and that was not done yet. False if there is no buffer.
    fn prepare(&mut self) -> bool {
        let Some(planned) = self.plan() else {
            return true;
        };
        if planned.kind != Kind::Write || self.ready.is_some() {
            return true;
        }
        let len = sys::sectors_len(planned.range.count());
        let Some(place) = self.buffers.take(len) else {
            return false;
        };
        let bytes = self.buffers.bytes_mut(place);
        for (sector, out) in planned
            .range
            .sectors()
            .zip(bytes.chunks_exact_mut(SECTOR_BYTES))
        {
            let stamp = Stamp {
                run: self.order.shared.run,
                target: self.order.load.target,
                sector,
                writer: self.order.writer,
                sequence: planned.sequence,
            };
            stamp.write(out);
        }
        self.ready = Some(place);
        true
    }

    /// Makes a request ready to be told and submitted.
    fn take_off(&mut self, planned: Planned, place: Option<Place>) -> Result<Flight, Error> {
        let Order { load, writer, .. } = self.order;
        if let Some(place) = place
            && !self.flags.buffered
            && let Some(pages) = self.buffers.news(writer, place, self.flags.pinned)
        {
            self.marker.tell_pages(&pages)?;
        }
        let kind = match planned.kind {
            Kind::Write if load.buffers == plan::Buffers::Scribble => IntentKind::Unstamped,
            Kind::Write => IntentKind::Write,
            Kind::Discard => IntentKind::Discard,
            Kind::Flush => IntentKind::Flush,
        };
        let write = planned.kind == Kind::Write;
        let intent = Intent {
            phase: Phase::Begin,
            kind,
            target: load.target,
            writer,
            sequence: planned.sequence,
            sector: planned.range.start(),
            count: u32::try_from(planned.range.count()).expect("at most 2048 sectors"),
            slot: place.map_or(0, Place::slot),
            flags: IntentFlags {
                immutable: self.flags.immutable && write,
                dsync: self.flags.dsync && write,
                buffered: self.flags.buffered && write,
                pinned: self.flags.pinned && write,
                alone: self.flags.alone,
            },
        };
        Ok(Flight {
            intent,
            range: planned.range,
            place,
        })
    }

    /// Tells the ends that wait to be told, then the begins; gives the ended ones' sectors back.
    fn tell(&mut self, begun: &[usize]) -> Result<(), Error> {
        let begins = begun
            .iter()
            .filter_map(|token| self.flights[*token].as_ref());
        let intents: Vec<Intent> = self
            .ended
            .iter()
            .chain(begins)
            .map(|flight| flight.intent)
            .collect();
        self.marker.tell_intents(&intents)?;
        for flight in self.ended.drain(..) {
            if let Some(busy) = &self.order.busy
                && flight.intent.kind != IntentKind::Flush
            {
                busy.free(flight.range);
            }
        }
        Ok(())
    }

    /// Submits the writes among the begun requests, then makes the others here and now.
    fn submit(&mut self, begun: &[usize]) -> Result<(), Error> {
        let mut others = Vec::new();
        let mut model = self.order.target.model();
        for token in begun {
            let flight = self.flights[*token].expect("it was begun");
            model.begin(flight.range);
            self.in_flight += 1;
            match flight.place {
                None => others.push((*token, flight)),
                Some(place) => self.engine.push(
                    self.buffers.memory(),
                    WriteRequest {
                        token: u32::try_from(*token).expect("at most 64"),
                        offset_bytes: flight.range.start().0 * SECTOR_BYTES as u64,
                        pool_at: place.at,
                        len: place.len,
                    },
                ),
            }
        }
        drop(model);
        let what = || format!("submitting writes to {}", self.order.load.device);
        self.engine.submit().map_err(context(what()))?;
        for (token, flight) in others {
            let offset_bytes = flight.range.start().0 * SECTOR_BYTES as u64;
            let len_bytes = flight.range.count() * SECTOR_BYTES as u64;
            let outcome = if flight.intent.kind == IntentKind::Discard {
                let block_device = self.order.target.geometry.block_device;
                sys::discard(&self.order.file, block_device, offset_bytes, len_bytes)
            } else {
                self.order.file.sync_all()
            };
            let errno = outcome.err().map_or(0, |error| engine::errno(&error));
            let token = u32::try_from(token).expect("at most 64");
            self.end(Done { token, errno })?;
        }
        Ok(())
    }

    /// Waits for at least one write that is on the way, and takes all that have ended.
    fn reap(&mut self) -> Result<(), Error> {
        let mut done = Vec::new();
        let failed = context(format!("waiting for writes to {}", self.order.load.device));
        if self.order.load.buffers == plan::Buffers::Scribble {
            loop {
                self.engine.reap(false, &mut done).map_err(&failed)?;
                if !done.is_empty() {
                    break;
                }
                self.scribbles += 1;
                for flight in self.flights.iter().flatten() {
                    if let Some(place) = flight.place {
                        self.buffers.scribble(place, self.scribbles);
                    }
                }
                std::thread::yield_now();
            }
        } else {
            self.engine.reap(true, &mut done).map_err(&failed)?;
        }
        done.into_iter().try_for_each(|done| self.end(done))
    }

    /// A request has ended.
    fn end(&mut self, done: Done) -> Result<(), Error> {
        let token = to_usize(u64::from(done.token));
        let mut flight = self.flights[token]
            .take()
            .expect("a request ends exactly once");
        self.in_flight -= 1;
        let Intent {
            writer, sequence, ..
        } = flight.intent;
        let effect = match flight.intent.kind {
            IntentKind::Write if done.errno == 0 => Effect::Stamped {
                writer,
                sequence: u32::try_from(sequence).expect("the generator counts no further"),
            },
            IntentKind::Write | IntentKind::Discard | IntentKind::Flush | IntentKind::Unstamped => {
                Effect::Unknown
            }
        };
        self.order.target.model().end(flight.range, effect);
        if done.errno == 0 {
            self.tally.acked += 1;
        } else {
            self.tally.failed += 1;
        }
        flight.intent.phase = Phase::End { errno: done.errno };
        if let Some(place) = flight.place {
            // Pages that moved while the write was on the way are told again before its end: what the host thought of them is void.
            if !self.flags.pinned
                && !self.flags.buffered
                && let Some(pages) = self.buffers.moved(writer, place)
            {
                self.marker.tell_pages(&pages)?;
            }
            self.buffers.give_back(place);
        }
        self.ended.push(flight);
        Ok(())
    }

    /// Has a quiet point declared, so that the immutable buffers can be written to again.
    fn renew(&mut self, pass: &mut Pass<'_>) -> Result<(), Error> {
        let (shared, marker) = (self.order.shared, &mut self.marker);
        let fresh = pass.park_for_quiet(|| {
            let pending = quiet::declare(shared, marker, QUIET)?;
            if pending.is_empty() {
                return Ok(());
            }
            Err(Error::new(format!(
                "the immutable buffers are used up, and no quiet point came within {} s to renew them: {pending}",
                QUIET.as_secs()
            )))
        })?;
        if fresh {
            self.renew_buffers();
        }
        Ok(())
    }

    fn renew_buffers(&mut self) {
        // Filled and never submitted: its place belongs to the pool again.
        self.ready = None;
        self.buffers.renew();
    }
}

/// The ranges that a load's writers keep clear of, as its pattern wants it: `None` for none, one for all writers, or one each.
pub(super) fn busy_of(pattern: Pattern, writers: u16) -> Vec<Option<Arc<Busy>>> {
    let writers = usize::from(writers);
    match pattern {
        Pattern::Sequential | Pattern::Random => {
            (0..writers).map(|_| Some(Arc::default())).collect()
        }
        Pattern::Shared => vec![Some(Arc::default()); writers],
        Pattern::OverlapOwn | Pattern::Overlap => vec![None; writers],
    }
}
