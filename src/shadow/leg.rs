//! One leg's sectors and their versions.

use std::collections::BTreeMap;

use crate::block::{Sector, SectorRange};
use crate::event::EventNo;
use crate::shadow::table::Table;

/// Versions of a sector that are remembered, the current one included.
pub const HISTORY: usize = 4;

/// CRC-32 of 512 zero bytes.
pub const ZERO_DIGEST: u32 = 0xb2aa_7578;

/// Where a version comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// It was there when the run began.
    Initial,
    /// A write's payload.
    Write,
    /// A discard or write zeroes.
    Zero,
}

/// How sure a version is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The request is in flight: this or what was before it.
    InFlight,
    /// Answered OK.
    Acknowledged,
    /// Answered with an error, or abandoned: this or what was before it, for good.
    InDoubt,
}

/// One version of a sector on a leg.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    /// The fetch, or the zeroing completion, that brought it; 0 for initial content.
    pub no: EventNo,
    /// The number of its request on the leg; 0 for initial content.
    pub request: u64,
    /// The end of its request; 0 while it is in flight.
    pub ended: EventNo,
    /// Guest-physical address that it was fetched from; 0 for none.
    pub gpa: u64,
    /// Its CRC-32; `None`: not known (initial content that nobody has read yet).
    pub digest: Option<u32>,
    /// Where it comes from.
    pub origin: Origin,
    /// How sure it is.
    pub state: State,
    /// Whether the guest's buffer held something else just before completion.
    pub changed: bool,
}

/// A sector: its current version and up to [`HISTORY`] - 1 older ones, newest first. A sector written once costs no second allocation.
#[derive(Clone, Debug)]
struct Cell {
    current: Version,
    older: Option<Box<[Option<Version>; HISTORY - 1]>>,
}

/// A leg's shadow.
#[derive(Debug)]
pub struct LegShadow {
    cells: Table<Cell>,
    /// What was zeroed before it had a cell: first sector to (first sector behind, version). A discard of a whole leg costs one entry.
    zeroed: BTreeMap<u64, (u64, Version)>,
    initially_zero: bool,
    durable_before: EventNo,
}

impl LegShadow {
    /// A leg's shadow before the first event; `initially_zero` for a medium that starts as zeros.
    pub fn new(initially_zero: bool) -> LegShadow {
        LegShadow {
            cells: Table::default(),
            zeroed: BTreeMap::new(),
            initially_zero,
            durable_before: EventNo(0),
        }
    }

    fn initial(&self) -> Version {
        Version {
            no: EventNo(0),
            request: 0,
            ended: EventNo(0),
            gpa: 0,
            digest: self.initially_zero.then_some(ZERO_DIGEST),
            origin: Origin::Initial,
            state: State::Acknowledged,
            changed: false,
        }
    }

    /// What a sector without a cell holds, or held when its cell was made.
    fn base(&self, sector: Sector) -> Version {
        match self.zeroed.range(..=sector.0).next_back() {
            Some((_, (end, version))) if sector.0 < *end => *version,
            Some(_) | None => self.initial(),
        }
    }

    /// The version that the leg holds: the one fetched last.
    pub fn current(&self, sector: Sector) -> Version {
        self.cells
            .get(sector)
            .map_or_else(|| self.base(sector), |cell| cell.current)
    }

    /// The versions of a sector that are remembered, newest first. Initial content is the last one where it is still reached.
    pub fn versions(&self, sector: Sector) -> impl Iterator<Item = Version> {
        let cell = self.cells.get(sector);
        let base = self.base(sector);
        let current = cell.map_or(base, |cell| cell.current);
        let older = cell.and_then(|cell| cell.older.as_deref());
        // A sector written once keeps no box: what was before it is the base, and before that the initial content.
        let boxless = older.is_none();
        let before =
            (cell.is_some() && boxless && current.origin != Origin::Initial).then_some(base);
        let first = (boxless && current.origin != Origin::Initial)
            .then(|| self.initial())
            .filter(|_| before.is_none_or(|before| before.origin != Origin::Initial));
        std::iter::once(current)
            .chain(older.into_iter().flatten().filter_map(|version| *version))
            .chain(before)
            .chain(first)
    }

    /// The sectors of a range that were ever written, or whose initial content is known.
    pub fn known(&self, range: SectorRange) -> impl Iterator<Item = Sector> {
        self.cells.range(range).map(|(sector, _)| sector)
    }

    /// Whether the medium began as zeros.
    pub fn initially_zero(&self) -> bool {
        self.initially_zero
    }

    /// Whether the history of a sector may have lost versions.
    pub fn forgotten(&self, sector: Sector) -> bool {
        self.versions(sector).count() == HISTORY
            && self
                .versions(sector)
                .last()
                .is_some_and(|version| version.origin != Origin::Initial)
    }

    /// The versions that an honest disk may return: the newest, and while that is not acknowledged the one before it, and so on.
    pub fn possible(&self, sector: Sector) -> impl Iterator<Item = Version> {
        let mut sure = false;
        self.versions(sector).take_while(move |version| {
            let go = !sure;
            sure = version.state == State::Acknowledged;
            go
        })
    }

    /// The newest version that is durable; `None` if none that is remembered is.
    pub fn durable(&self, sector: Sector) -> Option<Version> {
        self.versions(sector).find(|version| {
            version.origin == Origin::Initial
                || (version.state == State::Acknowledged && version.ended < self.durable_before)
        })
    }

    /// Content that a leg held at first, by its digest.
    pub fn put_initial(&mut self, sector: Sector, digest: u32) {
        let version = Version {
            digest: Some(digest),
            ..self.initial()
        };
        let slot = self.cells.slot(sector);
        if slot.is_none() {
            *slot = Some(Cell {
                current: version,
                older: None,
            });
        }
    }

    /// A read gave this content to the guest. It tells what initial content is, where nothing was written yet.
    pub fn learn(&mut self, sector: Sector, digest: u32) {
        if !self.initially_zero && self.base(sector).origin == Origin::Initial {
            self.put_initial(sector, digest);
        }
    }

    /// A version arrives on top of the others.
    pub fn push(&mut self, sector: Sector, version: Version) {
        let (base, initial) = (self.base(sector), self.initial());
        let slot = self.cells.slot(sector);
        match slot {
            None => {
                *slot = Some(Cell {
                    current: version,
                    // The base needs no box: `versions` finds it again, until a second version comes.
                    older: None,
                });
            }
            Some(cell) => {
                let before = cell.current;
                cell.current = version;
                match &mut cell.older {
                    Some(older) => {
                        older.rotate_right(1);
                        older[0] = Some(before);
                    }
                    None => {
                        let mut older = Box::new([None; HISTORY - 1]);
                        older[0] = Some(before);
                        if before.origin != Origin::Initial {
                            older[1] = Some(base);
                            if base.origin != Origin::Initial {
                                older[2] = Some(initial);
                            }
                        }
                        cell.older = Some(older);
                    }
                }
            }
        }
    }

    /// The request of the version that event `no` brought has ended.
    pub fn end(
        &mut self,
        sector: Sector,
        no: EventNo,
        ended: EventNo,
        state: State,
        changed: bool,
    ) {
        if let Some(cell) = self.cells.get_mut(sector) {
            let older = cell.older.iter_mut().flat_map(|older| older.iter_mut());
            for version in std::iter::once(&mut cell.current).chain(older.flatten()) {
                if version.no == no && version.origin != Origin::Initial {
                    version.ended = ended;
                    version.state = state;
                    version.changed |= changed;
                }
            }
        }
    }

    /// A range reads as zeros from event `no` on; its request arrived with `arrived`.
    pub fn zero(&mut self, range: SectorRange, no: EventNo, arrived: EventNo, request: u64) {
        let version = |raced: bool| Version {
            no,
            request,
            ended: no,
            gpa: 0,
            digest: Some(ZERO_DIGEST),
            origin: Origin::Zero,
            state: if raced {
                State::InDoubt
            } else {
                State::Acknowledged
            },
            changed: false,
        };
        let cells: Vec<(Sector, Version)> = self
            .cells
            .range(range)
            .map(|(sector, cell)| (sector, cell.current))
            .collect();
        for (sector, current) in cells {
            let raced = current.no > arrived || current.state == State::InFlight;
            self.push(sector, version(raced));
        }
        self.cover(range, version(false));
    }

    /// Puts a zeroed range over those that were there.
    fn cover(&mut self, range: SectorRange, version: Version) {
        if range.is_empty() {
            return;
        }
        let (start, end) = (range.start().0, range.end().0);
        while let Some((&first, &(last, old))) = self.zeroed.range(..end).next_back() {
            if last <= start {
                break;
            }
            self.zeroed.remove(&first);
            if end < last {
                self.zeroed.insert(end, (last, old));
            }
            if first < start {
                self.zeroed.insert(first, (start, old));
            }
        }
        self.zeroed.insert(start, (end, version));
    }

    /// A FLUSH that arrived with this number completed well.
    pub fn flushed(&mut self, arrived: EventNo) {
        self.durable_before = self.durable_before.max(arrived);
    }

    /// The arrival of the last FLUSH that completed well; 0 for none.
    pub fn durable_before(&self) -> EventNo {
        self.durable_before
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn write(no: u64, digest: u32) -> Version {
        Version {
            no: EventNo(no),
            request: no,
            ended: EventNo(0),
            gpa: 0,
            digest: Some(digest),
            origin: Origin::Write,
            state: State::InFlight,
            changed: false,
        }
    }

    #[test]
    fn zeros_have_the_digest_that_is_said() {
        assert_eq!(crc32fast::hash(&[0; 512]), ZERO_DIGEST);
    }

    /// The naive model: every version that there ever was, in a list.
    #[derive(Default)]
    struct Naive {
        versions: Vec<(u64, Option<u32>, State, u64)>,
        durable_before: u64,
    }

    impl Naive {
        fn possible(&self) -> Vec<Option<u32>> {
            let mut out = Vec::new();
            for (_, digest, state, _) in self.versions.iter().rev() {
                out.push(*digest);
                if *state == State::Acknowledged {
                    return out;
                }
            }
            out.push(Some(ZERO_DIGEST));
            out
        }

        fn durable(&self) -> Option<u32> {
            self.versions
                .iter()
                .rev()
                .find(|(_, _, state, ended)| {
                    *state == State::Acknowledged && *ended < self.durable_before
                })
                .map_or(Some(ZERO_DIGEST), |version| version.1)
        }
    }

    proptest! {
        #[test]
        fn agrees_with_a_list_of_all_versions(steps in prop::collection::vec((0u8..5, any::<u32>()), 0..40)) {
            let mut leg = LegShadow::new(true);
            let mut naive = Naive::default();
            let sector = Sector(77);
            for (no, (step, digest)) in (1u64..).zip(steps) {
                match step {
                    0 => {
                        leg.push(sector, write(no, digest));
                        naive.versions.push((no, Some(digest), State::InFlight, 0));
                    }
                    1 | 2 => {
                        let open: Vec<usize> = (0..naive.versions.len()).filter(|at| naive.versions[*at].2 == State::InFlight).collect();
                        if let Some(at) = open.get(digest as usize % open.len().max(1)) {
                            let state = if step == 1 { State::Acknowledged } else { State::InDoubt };
                            naive.versions[*at].2 = state;
                            naive.versions[*at].3 = no;
                            leg.end(sector, EventNo(naive.versions[*at].0), EventNo(no), state, false);
                        }
                    }
                    3 => {
                        let raced = naive.versions.last().is_some_and(|v| v.2 == State::InFlight);
                        leg.zero(SectorRange::new(sector, 1).unwrap(), EventNo(no), EventNo(no), no);
                        let state = if raced { State::InDoubt } else { State::Acknowledged };
                        naive.versions.push((no, Some(ZERO_DIGEST), state, no));
                    }
                    _ => {
                        leg.flushed(EventNo(no));
                        naive.durable_before = no;
                    }
                }
                prop_assert_eq!(leg.current(sector).digest, naive.versions.last().map_or(Some(ZERO_DIGEST), |v| v.1));
                let model = naive.possible();
                let ours: Vec<_> = leg.possible(sector).map(|v| v.digest).collect();
                prop_assert_eq!(&ours[..], &model[..model.len().min(HISTORY).min(ours.len())]);
                prop_assert!(ours.len() == model.len() || leg.forgotten(sector));
                if !leg.forgotten(sector) {
                    prop_assert_eq!(leg.durable(sector).and_then(|v| v.digest), naive.durable());
                }
            }
        }
    }
}
