//! Requests: those in flight, and a bounded log of the last ones of each leg for the stories that findings tell.

use std::collections::VecDeque;

use smallvec::SmallVec;

use crate::block::{LegId, Operation, RequestId, Sector, SectorRange, Status};
use crate::event::{Arrived, Digests, EventNo, Segment};
use crate::shadow::RangeSet;

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
    /// Its place in the log, counted from the run's first request on the leg.
    logged: u64,
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

/// One leg's requests.
#[derive(Debug, Default)]
struct Lane {
    /// Those in flight, by their numbers; places of ended ones are taken away when they come first, or are many.
    open: VecDeque<(RequestId, Option<Open>)>,
    in_flight: usize,
    log: VecDeque<Past>,
    /// Requests that the log has dropped.
    dropped: u64,
    /// What READs asked for, as long as the log has them all.
    read: RangeSet,
}

/// Places of ended requests that are no reason to tidy up.
const HOLES: usize = 64;

impl Lane {
    /// The place of a request, if it has one.
    fn place(&self, number: u64) -> Result<usize, usize> {
        let first = self.open.front().map_or(0, |(id, _)| id.number);
        // Numbers follow each other, but for journals that somebody made by hand.
        let guess = crate::block::to_usize(number.wrapping_sub(first));
        match self.open.get(guess) {
            Some((id, _)) if id.number == number => Ok(guess),
            Some(_) | None => self.open.binary_search_by_key(&number, |(id, _)| id.number),
        }
    }

    fn open(&self, number: u64) -> Option<&Open> {
        let place = self.place(number).ok()?;
        self.open.get(place)?.1.as_ref()
    }

    fn open_mut(&mut self, number: u64) -> Option<&mut Open> {
        let place = self.place(number).ok()?;
        self.open.get_mut(place)?.1.as_mut()
    }

    fn insert(&mut self, id: RequestId, open: Open) {
        let last = self.open.back().map_or(0, |(id, _)| id.number);
        self.in_flight += 1;
        if self.open.is_empty() || last < id.number {
            self.open.push_back((id, Some(open)));
            return;
        }
        match self.place(id.number) {
            Ok(place) => {
                let before = self.open[place].1.replace(open);
                self.in_flight -= usize::from(before.is_some());
            }
            Err(place) => self.open.insert(place, (id, Some(open))),
        }
    }

    fn take(&mut self, number: u64) -> Option<Open> {
        let place = self.place(number).ok()?;
        let open = self.open.get_mut(place)?.1.take()?;
        self.in_flight -= 1;
        while self.open.front().is_some_and(|(_, open)| open.is_none()) {
            self.open.pop_front();
        }
        if self.open.len() > HOLES + 4 * self.in_flight {
            self.open.retain(|(_, open)| open.is_some());
        }
        Some(open)
    }

    fn logged(&mut self, number: u64) -> Option<&mut Past> {
        let at = self.open(number)?.logged.checked_sub(self.dropped)?;
        self.log.get_mut(crate::block::to_usize(at))
    }
}

/// Requests in flight and the log.
#[derive(Debug, Default)]
pub struct Requests {
    /// By [`LegId::index`].
    legs: Vec<Lane>,
}

impl Requests {
    fn lane(&self, leg: LegId) -> Option<&Lane> {
        self.legs.get(leg.index())
    }

    fn lane_mut(&mut self, leg: LegId) -> Option<&mut Lane> {
        self.legs.get_mut(leg.index())
    }

    /// A request arrived. One of the same name that is still open is forgotten.
    pub fn arrive(&mut self, no: EventNo, time_us: u64, arrived: &Arrived) {
        let at = arrived.request.leg.index();
        if self.legs.len() <= at {
            self.legs.resize_with(at + 1, Lane::default);
        }
        let lane = &mut self.legs[at];
        if lane.log.len() == LOG_MAX {
            lane.log.pop_front();
            lane.dropped += 1;
        }
        lane.insert(
            arrived.request,
            Open {
                arrived: no,
                operation: arrived.operation,
                ranges: arrived.ranges.clone(),
                segments: arrived.segments.clone(),
                fetched: None,
                digests: Digests::new(),
                logged: lane.dropped + lane.log.len() as u64,
            },
        );
        if arrived.operation == Operation::Read && lane.dropped == 0 {
            for range in &arrived.ranges {
                lane.read.insert(*range);
            }
        }
        lane.log.push_back(Past {
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
        self.lane(id.leg)?.open(id.number)
    }

    /// Its payload was fetched.
    pub fn fetch(&mut self, no: EventNo, id: RequestId, digests: &Digests) {
        let Some(lane) = self.lane_mut(id.leg) else {
            return;
        };
        if let Some(open) = lane.open_mut(id.number) {
            open.fetched = Some(no);
            open.digests = digests.clone();
            if let Some(past) = lane.logged(id.number) {
                past.fetched = no;
            }
        }
    }

    /// A rule hit it.
    pub fn rule(&mut self, id: RequestId, rule: u16) {
        if let Some(past) = self
            .lane_mut(id.leg)
            .and_then(|lane| lane.logged(id.number))
        {
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
        let lane = self.lane_mut(id.leg)?;
        if let Some(past) = lane.logged(id.number) {
            past.ended = no;
            past.ended_us = time_us;
            past.ending = ending;
        }
        lane.take(id.number)
    }

    /// The requests in flight on a leg, by their numbers.
    pub fn in_flight(&self, leg: LegId) -> impl Iterator<Item = (&RequestId, &Open)> {
        self.lane(leg)
            .into_iter()
            .flat_map(|lane| lane.open.iter())
            .filter_map(|(id, open)| Some((id, open.as_ref()?)))
    }

    /// How many requests are in flight on a leg.
    pub fn count(&self, leg: LegId) -> u64 {
        self.lane(leg).map_or(0, |lane| lane.in_flight as u64)
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
        let Some(Lane { log, .. }) = self.lane(leg) else {
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

    /// Whether a sector of a leg may have been read: it was, or the log no longer has all requests.
    pub fn may_have_read(&self, leg: LegId, sector: Sector) -> bool {
        self.lane(leg)
            .is_some_and(|lane| lane.log.len() == LOG_MAX || lane.read.contains(sector))
    }

    /// The logged request that arrived on a leg with this number of its own.
    pub fn past(&self, id: RequestId) -> Option<&Past> {
        // Numbers of a leg rise with arrivals, or nearly so in a journal that somebody made by hand.
        let Lane { log, .. } = self.lane(id.leg)?;
        let near = log.partition_point(|past| past.request.number < id.number);
        let from = near.saturating_sub(64);
        log.range(from..(near + 64).min(log.len()))
            .find(|past| past.request == id)
    }

    /// When the last logged request of a leg arrived before an event, in microseconds; 0 if none is logged.
    pub fn time_of(&self, leg: LegId, no: EventNo) -> u64 {
        let log = self.lane(leg).map(|lane| &lane.log);
        log.and_then(|log| {
            let before = log
                .partition_point(|past| past.arrived <= no)
                .checked_sub(1)?;
            log.get(before)
        })
        .map_or(0, |past| past.arrived_us)
    }

    /// The logged request of a leg that arrived, was fetched or ended with this number, among the last 4,096.
    pub fn with_event(&self, leg: LegId, no: EventNo) -> Option<&Past> {
        let Lane { log, .. } = self.lane(leg)?;
        log.iter()
            .rev()
            .take(4096)
            .find(|past| [past.arrived, past.fetched, past.ended].contains(&no))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        /// Whatever the order of numbers: in flight is what arrived and has not ended, each with its own place in the log.
        #[test]
        fn agrees_with_a_map(steps in prop::collection::vec((0u8..3, 0u8..2, 0u64..200), 0..400)) {
            let (mut requests, mut model) = (Requests::default(), BTreeMap::new());
            for (no, (step, leg, number)) in (1u64..).zip(steps) {
                let id = RequestId { leg: LegId(leg), number };
                if step == 0 {
                    let ended = requests.end(EventNo(no), no, id, Ending::Abandoned).map(|open| open.arrived);
                    prop_assert_eq!(ended, model.remove(&id));
                } else {
                    // Mostly as the device does it: one after the other.
                    let id = if step == 1 { RequestId { number: no * 2, ..id } } else { id };
                    requests.arrive(EventNo(no), no, &Arrived {
                        request: id,
                        queue: 0,
                        operation: Operation::Flush,
                        ranges: SmallVec::new(),
                        segments: SmallVec::new(),
                    });
                    requests.rule(id, 7);
                    model.insert(id, EventNo(no));
                }
                for leg in [LegId(0), LegId(1)] {
                    let ours: Vec<_> = requests.in_flight(leg).map(|(id, open)| (*id, open.arrived)).collect();
                    let theirs: Vec<_> = model.iter().filter(|(id, _)| id.leg == leg).map(|(id, no)| (*id, *no)).collect();
                    prop_assert_eq!(requests.count(leg), theirs.len() as u64);
                    prop_assert_eq!(ours, theirs);
                    let log = &requests.legs.get(leg.index()).unwrap_or(&Lane::default()).log.clone();
                    for past in log {
                        let open = model.get(&past.request) == Some(&past.arrived);
                        prop_assert_eq!(past.rule, Some(7));
                        prop_assert!(!open || past.ending == Ending::Open);
                    }
                }
            }
        }
    }
}
