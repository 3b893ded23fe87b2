//! A run as a picture: what a timeline, histograms and maps are drawn from. A second fold over the journal, when the findings are known; pure, and
//! of bounded size whatever the run's length: rates are binned, and single requests are kept where findings are near (or all of them, where they
//! are few).

mod bins;
mod lag;
mod metadata;

use std::collections::BTreeMap;

use serde::Serialize;
use smallvec::SmallVec;

pub use bins::{Bins, Track};
pub use lag::Histogram;

use crate::block::{LegId, Operation, RequestId, Status};
use crate::event::{Action, Event, What};
use crate::header::RunHeader;
use crate::mark::Mark;
use crate::oracle::Verdict;
use lag::Lags;
use metadata::Metadata;

/// Single requests that are kept.
const REQUESTS_MAX: usize = 20_000;
/// Events before and behind a number that a finding names whose requests are kept.
const NEAR: u64 = 400;
/// From this number on, rules are what a leg's own configuration does (docs/journal.md).
const OWN_RULES: u16 = 65_000;
/// Findings whose neighbourhoods are kept.
const FINDINGS_MAX: usize = 200;
/// Moments of one kind that are kept away from findings.
const MOMENTS_MAX: u32 = 1000;
/// Characters of a moment's text.
const TEXT_MAX: usize = 240;
/// Moments that are kept in all.
const MOMENTS_ALL_MAX: usize = 12_000;

/// The picture. Times are microseconds since the run began.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Picture {
    /// The time of the last event.
    pub span_us: u64,
    /// Events.
    pub events: u64,
    /// Rates over time.
    pub bins: Bins,
    /// Single requests, in the order of their ends.
    pub requests: Vec<Row>,
    /// Whether every request is there.
    pub whole: bool,
    /// Everything that is no request, in order.
    pub moments: Vec<Moment>,
    /// Moments that were left out.
    pub moments_more: u64,
    /// A leg each: how long reads, writes and the rest took.
    pub latency: Vec<[Histogram; 3]>,
    /// A leg each: how much later than on the first leg a write was completed.
    pub lag: Vec<Histogram>,
    /// How far resync or recovery was, by the superblocks and by the guest's sysfs.
    pub resync: Vec<Progress>,
    /// When each finding first and last showed, in the verdict's order.
    pub found_us: Vec<(u64, u64)>,
}

/// A request: leg, arrived, took (µs, -1: never ended), operation (0 read, 1 write, 2 flush, 3 discard or zeroes, 4 else), first sector, sectors,
/// status (0 OK, 1 error, 2 refused, 3 abandoned, 4 open), number on its leg, event of its arrival, whether a rule hit it.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Row(
    pub u8,
    pub u64,
    pub i64,
    pub u8,
    pub u64,
    pub u64,
    pub u8,
    pub u64,
    pub u64,
    pub u8,
);

/// What a moment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum MomentKind {
    /// A boot begins or ends.
    Boot,
    /// A mark of the agent.
    Mark,
    /// A console line.
    Console,
    /// A rule did something.
    Fault,
    /// A superblock was written that says something new.
    Superblock,
    /// Bits of the bitmap were set or cleared.
    Bitmap,
    /// A connection, a reset, trouble, somebody's hand.
    Device,
}

/// Something that is no request.
#[derive(Clone, Debug, Serialize)]
pub struct Moment {
    /// When.
    pub us: u64,
    /// Its number.
    pub event: u64,
    /// What it is.
    pub kind: MomentKind,
    /// The leg, or -1 for the guest.
    pub leg: i16,
    /// In words.
    pub text: String,
}

/// A checkpoint of resync or recovery.
#[derive(Clone, Debug, Serialize)]
pub struct Progress {
    /// When.
    pub us: u64,
    /// The leg whose superblock says so; -1: the guest's sysfs does.
    pub leg: i16,
    /// Sectors that are done.
    pub done: u64,
    /// Sectors in all.
    pub all: u64,
}

/// A request in flight.
#[derive(Debug)]
struct Open {
    arrived_us: u64,
    event: u64,
    operation: Operation,
    start: u64,
    count: u64,
    hit: bool,
    samples: SmallVec<[(u64, u32); 2]>,
}

/// The fold.
#[derive(Debug)]
pub struct Painter<'a> {
    header: &'a RunHeader,
    picture: Picture,
    /// Numbers near which everything is kept, in order, without overlaps.
    near: Vec<(u64, u64)>,
    open: BTreeMap<RequestId, Open>,
    lags: Lags,
    metadata: Metadata,
    counts: BTreeMap<MomentKind, u32>,
    /// Numbers whose time is wanted.
    times: BTreeMap<u64, u64>,
    wanted: Vec<(u64, u64)>,
}

impl<'a> Painter<'a> {
    /// A painter for the run of this header and verdict.
    pub fn new(header: &'a RunHeader, verdict: &Verdict) -> Painter<'a> {
        let legs = header.legs.len();
        let requests: u64 = verdict
            .coverage
            .legs
            .iter()
            .map(|leg| {
                leg.reads + leg.writes + leg.flushes + leg.discards + leg.errors + leg.abandoned
            })
            .sum();
        let mut near = Vec::new();
        let mut wanted = Vec::new();
        let mut times = BTreeMap::new();
        for finding in verdict.findings.iter().chain(&verdict.known) {
            wanted.push((finding.first, finding.last));
            times.insert(finding.first, 0);
            times.insert(finding.last, 0);
        }
        for finding in verdict.findings.iter().take(FINDINGS_MAX) {
            let first = finding.first_wrong.as_ref().map(|first| first.event);
            for no in first.into_iter().chain([finding.first]) {
                near.push((no.saturating_sub(NEAR), no.saturating_add(NEAR)));
            }
            for line in &finding.story {
                near.push((line.event.saturating_sub(4), line.event.saturating_add(4)));
            }
        }
        let few = usize::try_from(requests).is_ok_and(|count| count < REQUESTS_MAX);
        if few {
            near = vec![(0, u64::MAX)];
        }
        Painter {
            header,
            picture: Picture {
                bins: Bins::new(legs),
                whole: few,
                latency: vec![<[Histogram; 3]>::default(); legs],
                lag: vec![Histogram::default(); legs],
                ..Picture::default()
            },
            near: join(near),
            open: BTreeMap::new(),
            lags: Lags::default(),
            metadata: Metadata::new(header),
            counts: BTreeMap::new(),
            times,
            wanted,
        }
    }

    fn is_near(&self, no: u64) -> bool {
        let at = self.near.partition_point(|(from, _)| *from <= no);
        at > 0 && self.near[at - 1].1 >= no
    }

    fn is_leg(&self, leg: LegId) -> bool {
        leg.index() < self.header.legs.len()
    }

    /// Takes the next event.
    pub fn apply(&mut self, event: &Event) {
        let (no, us) = (event.no.0, event.time_us);
        self.picture.span_us = self.picture.span_us.max(us);
        self.picture.events += 1;
        if let Some(time) = self.times.get_mut(&no) {
            *time = us;
        }
        match &event.what {
            What::Arrived(arrived) if self.is_leg(arrived.request.leg) => {
                let leg = arrived.request.leg.index();
                let count = arrived.ranges.iter().map(|range| range.count()).sum();
                self.open.insert(
                    arrived.request,
                    Open {
                        arrived_us: us,
                        event: no,
                        operation: arrived.operation,
                        start: arrived.ranges.first().map_or(0, |range| range.start().0),
                        count,
                        hit: false,
                        samples: SmallVec::new(),
                    },
                );
                self.picture.bins.arrived(leg, us);
            }
            // A leg's own delays hit every request, and are no news.
            What::Decided(decided) if decided.rule < OWN_RULES => {
                let leg = decided.request.leg;
                if let Action::Resize { sectors } = decided.action
                    && let Some(mut head) = self.header.legs.get(leg.index()).cloned()
                {
                    head.grow(sectors);
                    self.metadata.grew(leg, head.part());
                }
                if let Some(open) = self.open.get_mut(&decided.request) {
                    open.hit = true;
                }
                if decided.action != Action::Withheld {
                    let rule = self
                        .header
                        .rules
                        .get(usize::from(decided.rule))
                        .map_or_else(
                            || format!("rule {}", decided.rule),
                            |rule| rule.name.clone(),
                        );
                    let text = format!(
                        "{rule}: request {} {}",
                        decided.request.number,
                        crate::oracle::action_in_words(&decided.action)
                    );
                    self.moment(
                        event,
                        MomentKind::Fault,
                        leg_number(decided.request.leg),
                        text,
                    );
                }
            }
            What::Fetched(fetched) => {
                if let Some(open) = self.open.get_mut(&fetched.request) {
                    let leg = fetched.request.leg;
                    let start = open.start;
                    if let Some(data) = self.metadata.data_start(leg) {
                        open.samples = lag::samples(start, data, &fetched.digests);
                    }
                    if let Some(payload) = &fetched.payload {
                        let news = self.metadata.wrote(leg, start, payload);
                        self.news(event, leg, news);
                    }
                }
            }
            What::Completed(completed) => {
                let status = match completed.status {
                    Status::Ok => 0,
                    Status::IoErr => 1,
                    Status::Unsupported => 2,
                };
                self.ended(completed.request, us, status);
            }
            What::Abandoned(abandoned) => self.ended(abandoned.request, us, 3),
            What::Initial { leg, start, bytes } => {
                let news = self.metadata.wrote(*leg, start.0, bytes);
                self.news(event, *leg, news);
            }
            What::Mark(Mark::Sync(look)) => {
                if look.all > 0 && self.picture.resync.len() < REQUESTS_MAX {
                    self.picture.resync.push(Progress {
                        us,
                        leg: -1,
                        done: look.done,
                        all: look.all,
                    });
                }
            }
            What::Mark(mark) => {
                if let Some(text) = mark_in_words(mark, self.header) {
                    self.moment(event, MomentKind::Mark, -1, text);
                }
            }
            What::Console { line } => {
                self.moment(event, MomentKind::Console, -1, line.clone());
            }
            What::Boot { .. }
            | What::GuestEnded { .. }
            | What::Quiet { .. }
            | What::Lost { .. }
            | What::Found { .. }
            | What::Restarted { .. }
            | What::Hand { .. }
            | What::Frontend { .. } => {
                if let Some((who, text)) = crate::oracle::moment_in_words(self.header, event) {
                    let boot = matches!(&event.what, What::Boot { .. } | What::GuestEnded { .. });
                    let kind = if boot {
                        MomentKind::Boot
                    } else if matches!(&event.what, What::Quiet { .. }) {
                        MomentKind::Mark
                    } else if matches!(&event.what, What::Lost { .. } | What::Restarted { .. }) {
                        MomentKind::Fault
                    } else {
                        MomentKind::Device
                    };
                    let leg = self
                        .header
                        .legs
                        .iter()
                        .position(|leg| leg.config.name == who);
                    let leg = leg.and_then(|leg| i16::try_from(leg).ok()).unwrap_or(-1);
                    self.moment(event, kind, leg, text);
                }
            }
            What::Arrived(_) | What::Decided(_) | What::Evidence { .. } | What::End => {}
        }
    }

    fn news(&mut self, event: &Event, leg: LegId, news: metadata::News) {
        if let Some((done, all)) = news.progress
            && self.picture.resync.len() < REQUESTS_MAX
        {
            self.picture.resync.push(Progress {
                us: event.time_us,
                leg: leg_number(leg),
                done,
                all,
            });
        }
        if let Some(text) = news.superblock {
            self.moment(event, MomentKind::Superblock, leg_number(leg), text);
        }
        if let Some(text) = news.bitmap {
            self.moment(event, MomentKind::Bitmap, leg_number(leg), text);
        }
    }

    fn moment(&mut self, event: &Event, kind: MomentKind, leg: i16, text: String) {
        let count = self.counts.entry(kind).or_default();
        *count += 1;
        let wanted = *count <= MOMENTS_MAX || (!self.picture.whole && self.is_near(event.no.0));
        if wanted && self.picture.moments.len() < MOMENTS_ALL_MAX {
            self.picture.moments.push(Moment {
                us: event.time_us,
                event: event.no.0,
                kind,
                leg,
                text: text.chars().take(TEXT_MAX).collect(),
            });
        } else {
            self.picture.moments_more += 1;
        }
    }

    fn ended(&mut self, request: RequestId, us: u64, status: u8) {
        let Some(open) = self.open.remove(&request) else {
            return;
        };
        let leg = request.leg.index();
        let took = us.saturating_sub(open.arrived_us);
        let class = class(open.operation);
        self.picture
            .bins
            .ended(leg, us, class, open.count, status != 0);
        let histogram = match class {
            0 => 0,
            1 => 1,
            _ => 2,
        };
        if status == 0 {
            self.picture.latency[leg][histogram].put(took);
            for (sector, digest) in &open.samples {
                if let Some(lag) = self.lags.completed(leg, *sector, *digest, us) {
                    self.picture.lag[leg].put(lag);
                }
            }
        }
        self.keep(
            request,
            &open,
            i64::try_from(took).unwrap_or(i64::MAX),
            status,
        );
    }

    fn keep(&mut self, request: RequestId, open: &Open, took: i64, status: u8) {
        if self.picture.requests.len() < REQUESTS_MAX && self.is_near(open.event) {
            self.picture.requests.push(Row(
                request.leg.0,
                open.arrived_us,
                took,
                class(open.operation),
                open.start,
                open.count,
                status,
                request.number,
                open.event,
                u8::from(open.hit),
            ));
        }
    }

    /// The picture.
    pub fn finish(mut self) -> Picture {
        for (request, open) in std::mem::take(&mut self.open) {
            self.keep(request, &open, -1, 4);
        }
        self.picture.bins.finish(self.picture.span_us);
        let time = |no: &u64| self.times.get(no).copied().unwrap_or(0);
        self.picture.found_us = self
            .wanted
            .iter()
            .map(|(first, last)| (time(first), time(last)))
            .collect();
        self.picture
    }
}

/// Overlapping and touching ranges become one.
fn join(mut ranges: Vec<(u64, u64)>) -> Vec<(u64, u64)> {
    ranges.sort_unstable();
    let mut out: Vec<(u64, u64)> = Vec::new();
    for (from, to) in ranges {
        match out.last_mut() {
            Some(last) if from <= last.1.saturating_add(1) => last.1 = last.1.max(to),
            Some(_) | None => out.push((from, to)),
        }
    }
    out
}

fn leg_number(leg: LegId) -> i16 {
    if leg == LegId::CONTROL {
        -1
    } else {
        i16::from(leg.0)
    }
}

fn class(operation: Operation) -> u8 {
    match operation {
        Operation::Read => 0,
        Operation::Write => 1,
        Operation::Flush => 2,
        Operation::Discard | Operation::WriteZeroes | Operation::WriteZeroesUnmap => 3,
        Operation::GetId | Operation::Unsupported(_) => 4,
    }
}

/// Marks that a timeline shows.
fn mark_in_words(mark: &Mark, header: &RunHeader) -> Option<String> {
    let name = |step: u32| {
        let at = usize::try_from(step).unwrap_or(usize::MAX);
        header
            .steps
            .iter()
            .find_map(|boot| Some(boot.get(at)?.name.clone()))
            .unwrap_or_else(|| step.to_string())
    };
    match mark {
        Mark::Intent(_)
        | Mark::Pages(_)
        | Mark::Survey { .. }
        | Mark::Fact { .. }
        | Mark::Sync(_) => None,
        Mark::Hello(hello) => Some(format!("the agent runs, kernel {}", hello.release)),
        Mark::Target(target) => Some(format!(
            "target {} is {} ({} sectors)",
            target.target, target.device, target.sectors
        )),
        Mark::StepBegin { step } => Some(format!("step `{}` begins", name(*step))),
        Mark::StepEnd { step, ok, detail } => Some(format!(
            "step `{}` {}: {detail}",
            name(*step),
            if *ok { "done" } else { "failed" }
        )),
        Mark::WorkloadEnd { acked, failed, .. } => {
            Some(format!("workload: {acked} acknowledged, {failed} failed"))
        }
        Mark::ReadBackEnd { good, bad, .. } => {
            Some(format!("read back: {good} sectors right, {bad} wrong"))
        }
        Mark::BadRead { sector, .. } => Some(format!("target sector {sector} read back wrong")),
        Mark::Quiet { id, .. } => Some(format!("quiet point {id} asked for")),
        Mark::Admin(admin) => Some(admin.to_string()),
        Mark::Finish { ok } => Some(format!("plan done{}", if *ok { "" } else { ", not well" })),
    }
}
