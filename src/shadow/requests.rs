//! Requests: those in flight, and a bounded log of the last ones of each leg for the stories that findings tell.

use std::collections::{BTreeMap, VecDeque};

use smallvec::SmallVec;

use crate::block::{LegId, Operation, RequestId, SectorRange, Status};
use crate::event::{Arrived, Digests, EventNo, Segment};

/// Requests that the log keeps a leg.
const LOG_MAX: usize = 16_384;

/// A request that has arrived and not ended.
#[derive(Clone, Debug)]
pub struct Open {
    /// The number of its arrival.
    pub arrived: EventNo,
    /// What it asks for.
    pub operation: Operation,
    /// The leg sectors that it is about.
    pub ranges: SmallVec<[SectorRange; 1]>,
    /// Where its data is in guest memory.
    pub segments: SmallVec<[Segment; 2]>,
    /// The number of its fetch, if its payload was fetched.
    pub fetched: Option<EventNo>,
    /// What was fetched.
    pub digests: Digests,
}

impl Open {
    /// The guest-physical address of each of the request's sectors, in their order; 0 where the segments do not reach.
    pub fn addresses(&self) -> impl Iterator<Item = u64> {
        let mut segments = self.segments.iter();
        let mut current = segments.next().map(|s| (s.gpa, u64::from(s.len)));
        let count: u64 = self.ranges.iter().map(|range| range.count()).sum();
        (0..count).map(move |_| {
            let first = current.map_or(0, |(gpa, _)| gpa);
            let mut left = crate::block::SECTOR_BYTES as u64;
            while let Some((gpa, len)) = current {
                if left < len {
                    current = Some((gpa.wrapping_add(left), len - left));
                    break;
                }
                left -= len;
                current = segments.next().map(|s| (s.gpa, u64::from(s.len)));
                if left == 0 {
                    break;
                }
            }
            first
        })
    }
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It has not.
    Open,
    /// It was answered.
    Answered(Status),
    /// It was abandoned.
    Abandoned,
}

/// A request as the log keeps it.
#[derive(Clone, Debug)]
pub struct Past {
    /// The request.
    pub request: RequestId,
    /// What it asked for.
    pub operation: Operation,
    /// Its ranges.
    pub ranges: SmallVec<[SectorRange; 1]>,
    /// The number of its arrival.
    pub arrived: EventNo,
    /// When it arrived, in microseconds.
    pub arrived_us: u64,
    /// The number of its fetch; 0 for none.
    pub fetched: EventNo,
    /// The number of its end; 0 for none yet.
    pub ended: EventNo,
    /// When it ended, in microseconds.
    pub ended_us: u64,
    /// How it ended.
    pub ending: Ending,
    /// Guest-physical address of its first byte of data; 0 for none.
    pub gpa: u64,
    /// The rule that hit it, if one did.
    pub rule: Option<u16>,
}

/// Requests in flight and the log.
#[derive(Debug, Default)]
pub struct Requests {
    open: BTreeMap<RequestId, Open>,
    log: BTreeMap<LegId, VecDeque<Past>>,
}

impl Requests {
    /// A request arrived. One of the same name that is still open is forgotten.
    pub fn arrive(&mut self, no: EventNo, time_us: u64, arrived: &Arrived) {
        self.open.insert(
            arrived.request,
            Open {
                arrived: no,
                operation: arrived.operation,
                ranges: arrived.ranges.clone(),
                segments: arrived.segments.clone(),
                fetched: None,
                digests: Digests::new(),
            },
        );
        let log = self.log.entry(arrived.request.leg).or_default();
        if log.len() == LOG_MAX {
            log.pop_front();
        }
        log.push_back(Past {
            request: arrived.request,
            operation: arrived.operation,
            ranges: arrived.ranges.clone(),
            arrived: no,
            arrived_us: time_us,
            fetched: EventNo(0),
            ended: EventNo(0),
            ended_us: 0,
            ending: Ending::Open,
            gpa: arrived.segments.first().map_or(0, |segment| segment.gpa),
            rule: None,
        });
    }

    /// A request that is open.
    pub fn open(&self, id: RequestId) -> Option<&Open> {
        self.open.get(&id)
    }

    /// Its payload was fetched.
    pub fn fetch(&mut self, no: EventNo, id: RequestId, digests: &Digests) {
        if let Some(open) = self.open.get_mut(&id) {
            open.fetched = Some(no);
            open.digests = digests.clone();
            if let Some(past) = self.past_mut(id.leg, open_arrived(&self.open, id)) {
                past.fetched = no;
            }
        }
    }

    /// A rule hit it.
    pub fn rule(&mut self, id: RequestId, rule: u16) {
        let arrived = open_arrived(&self.open, id);
        if let Some(past) = self.past_mut(id.leg, arrived) {
            past.rule = Some(rule);
        }
    }

    /// It ended; `None` if it never arrived.
    pub fn end(
        &mut self,
        no: EventNo,
        time_us: u64,
        id: RequestId,
        ending: Ending,
    ) -> Option<Open> {
        let open = self.open.remove(&id)?;
        if let Some(past) = self.past_mut(id.leg, open.arrived) {
            past.ended = no;
            past.ended_us = time_us;
            past.ending = ending;
        }
        Some(open)
    }

    /// The requests in flight on a leg.
    pub fn in_flight(&self, leg: LegId) -> impl Iterator<Item = (&RequestId, &Open)> {
        let first = RequestId { leg, number: 0 };
        let last = RequestId {
            leg,
            number: u64::MAX,
        };
        self.open.range(first..=last)
    }

    /// The logged requests of a leg that touch a range and arrived in `from..=to`, oldest first, at most `most`. The flag tells whether the log
    /// reaches back to `from`.
    pub fn touching(
        &self,
        leg: LegId,
        range: SectorRange,
        from: EventNo,
        to: EventNo,
        most: usize,
    ) -> (Vec<&Past>, bool) {
        let Some(log) = self.log.get(&leg) else {
            return (Vec::new(), true);
        };
        let whole = log.len() < LOG_MAX || log.front().is_some_and(|past| past.arrived <= from);
        let begin = log.partition_point(|past| past.arrived < from);
        let found = log
            .range(begin..)
            .take_while(|past| past.arrived <= to)
            .filter(|past| {
                past.ranges
                    .iter()
                    .any(|one| one.intersection(range).is_some())
            })
            .take(most)
            .collect();
        (found, whole)
    }

    /// The logged request that arrived on a leg with this number of its own.
    pub fn past(&self, id: RequestId) -> Option<&Past> {
        // Numbers of a leg rise with arrivals, or nearly so where several queues take them at the same time.
        let log = self.log.get(&id.leg)?;
        let near = log.partition_point(|past| past.request.number < id.number);
        let from = near.saturating_sub(64);
        log.range(from..(near + 64).min(log.len()))
            .find(|past| past.request == id)
    }

    /// The logged request of a leg that arrived, was fetched or ended with this number, among the last 4,096.
    pub fn with_event(&self, leg: LegId, no: EventNo) -> Option<&Past> {
        let log = self.log.get(&leg)?;
        log.iter()
            .rev()
            .take(4096)
            .find(|past| [past.arrived, past.fetched, past.ended].contains(&no))
    }

    fn past_mut(&mut self, leg: LegId, arrived: EventNo) -> Option<&mut Past> {
        let log = self.log.get_mut(&leg)?;
        let at = log.partition_point(|past| past.arrived < arrived);
        log.get_mut(at).filter(|past| past.arrived == arrived)
    }
}

fn open_arrived(open: &BTreeMap<RequestId, Open>, id: RequestId) -> EventNo {
    open.get(&id).map_or(EventNo(0), |open| open.arrived)
}
