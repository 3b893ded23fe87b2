//! One leg's sectors and their versions.

use std::collections::BTreeMap;

use crate::block::{Sector, SectorRange, to_usize};
use crate::event::EventNo;
use crate::shadow::table::Table;
use crate::shadow::tile::{Cell, Layer, TILE, Tile};

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

impl Version {
    /// Whether no request brought it: it is what a leg was found to hold, after a power cut.
    pub fn is_found(&self) -> bool {
        self.request == 0 && self.origin == Origin::Write
    }
}

/// A leg's shadow.
#[derive(Debug)]
pub struct LegShadow {
    /// By sector / [`TILE`].
    tiles: Table<Tile>,
    /// What was zeroed before it had a cell: first sector to (first sector behind, version). A discard of a whole leg costs one entry.
    zeroed: BTreeMap<u64, (u64, Version)>,
    initially_zero: bool,
    durable_before: EventNo,
}

/// A sector's tile, and its place there.
fn tile_of(sector: Sector) -> (Sector, usize) {
    (Sector(sector.0 / TILE), to_usize(sector.0 % TILE))
}

impl LegShadow {
    /// A leg's shadow before the first event; `initially_zero` for a medium that starts as zeros.
    pub fn new(initially_zero: bool) -> LegShadow {
        LegShadow {
            tiles: Table::default(),
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

    /// The base of a whole tile; `None` if its sectors have several.
    fn base_of(&self, tile: Sector) -> Option<Version> {
        let first = tile.0 * TILE;
        let end = first + TILE;
        match self.zeroed.range(..end).next_back() {
            Some((from, (to, version))) if *from <= first && *to >= end => Some(*version),
            Some((_, (to, _))) if *to > first => None,
            Some(_) | None => Some(self.initial()),
        }
    }

    /// The version that the leg holds: the one fetched last.
    pub fn current(&self, sector: Sector) -> Version {
        let (tile, at) = tile_of(sector);
        let held = self.tiles.get(tile).and_then(|tile| tile.current(at));
        held.unwrap_or_else(|| self.base(sector))
    }

    /// The versions of a sector that are remembered, newest first. Initial content is the last one where it is still reached.
    pub fn versions(&self, sector: Sector) -> impl Iterator<Item = Version> + use<> {
        let (tile, at) = tile_of(sector);
        let mut all = [None; HISTORY];
        match self.tiles.get(tile).and_then(|tile| tile.history(at)) {
            Some((current, Some(older))) => {
                all[0] = Some(current);
                all[1..].copy_from_slice(&older);
            }
            // A sector written once keeps no box: what was before it is the base, and before that the initial content.
            Some((current, None)) => {
                all[0] = Some(current);
                if current.origin != Origin::Initial {
                    let base = self.base(sector);
                    all[1] = Some(base);
                    all[2] = (base.origin != Origin::Initial).then(|| self.initial());
                }
            }
            None => {
                let base = self.base(sector);
                all[0] = Some(base);
                all[1] = (base.origin != Origin::Initial).then(|| self.initial());
            }
        }
        all.into_iter().flatten()
    }

    /// The sectors of a range that were ever written, or whose initial content is known.
    pub fn known(&self, range: SectorRange) -> impl Iterator<Item = Sector> {
        self.tiles
            .range(tiles_of(range))
            .flat_map(|(tile, held)| {
                (0..to_usize(TILE))
                    .filter(|at| held.has(*at))
                    .map(move |at| Sector(tile.0 * TILE + at as u64))
            })
            .filter(move |sector| range.contains(*sector))
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

    /// Whether all versions of a sector since an event are remembered.
    pub fn remembers(&self, sector: Sector, since: EventNo) -> bool {
        let oldest = self.versions(sector).last();
        !self.forgotten(sector) || oldest.is_some_and(|oldest| oldest.no < since)
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
        let (tile, at) = tile_of(sector);
        let tile = self.tiles.slot(tile).get_or_insert_with(Tile::empty);
        if !tile.has(at)
            && let Some(cells) = tile.cells()
        {
            cells[at] = Some(Cell {
                current: version,
                older: None,
            });
        }
    }

    /// A read gave this content to the guest. It tells what initial content is, where nothing was written yet.
    pub fn learn(&mut self, range: SectorRange, digests: &[u32]) {
        if self.initially_zero {
            return;
        }
        let initial = self.initial();
        let mut at = 0;
        while let Some((sector, rest)) = range
            .start()
            .checked_add(at as u64)
            .filter(|sector| range.contains(*sector))
            .zip(digests.get(at..).filter(|rest| !rest.is_empty()))
        {
            let (tile, place) = tile_of(sector);
            if let (0, Some(whole)) = (place, whole(range, sector, rest))
                && self.tiles.get(tile).is_none()
                && self
                    .base_of(tile)
                    .is_some_and(|base| base.origin == Origin::Initial)
            {
                *self.tiles.slot(tile) = Some(Tile::Whole {
                    current: Layer::of(initial, whole),
                    older: None,
                });
                at += whole.len();
                continue;
            }
            if self.base(sector).origin == Origin::Initial {
                self.put_initial(sector, rest[0]);
            }
            at += 1;
        }
    }

    /// A write's payload was fetched, by event `no`: a digest and a guest-physical address for each sector of `range`; sectors beyond the shorter
    /// of them are left out.
    pub fn fetched(
        &mut self,
        range: SectorRange,
        no: EventNo,
        request: u64,
        digests: &[u32],
        addresses: &[u64],
    ) {
        let mut version = Version {
            no,
            request,
            ended: EventNo(0),
            gpa: 0,
            digest: None,
            origin: Origin::Write,
            state: State::InFlight,
            changed: false,
        };
        let mut at = 0;
        while let (Some(sector), Some(digest), Some(gpa)) = (
            range
                .start()
                .checked_add(at as u64)
                .filter(|sector| range.contains(*sector)),
            digests.get(at),
            addresses.get(at),
        ) {
            version.gpa = *gpa;
            let (tile, place) = tile_of(sector);
            if let (0, Some(whole)) = (place, whole(range, sector, &digests[at..]))
                && Layer::can_hold(addresses.get(at..at + whole.len()))
            {
                self.push_whole(tile, Layer::of(version, whole));
                at += whole.len();
                continue;
            }
            version.digest = Some(*digest);
            self.push(sector, version);
            at += 1;
        }
    }

    /// A version arrives on top of the others.
    pub fn push(&mut self, sector: Sector, version: Version) {
        let (base, initial) = (self.base(sector), self.initial());
        let (tile, at) = tile_of(sector);
        let tile = self.tiles.slot(tile).get_or_insert_with(Tile::empty);
        let Some(cells) = tile.cells() else {
            return;
        };
        match &mut cells[at] {
            slot @ None => {
                *slot = Some(Cell {
                    current: version,
                    // The base needs no box: `versions` finds it again, until a second version comes.
                    older: None,
                });
            }
            Some(cell) => {
                let before = std::mem::replace(&mut cell.current, version);
                match &mut cell.older {
                    Some(older) => {
                        older.rotate_right(1);
                        older[0] = Some(before);
                    }
                    None => {
                        let before = (before, before.origin);
                        let base = (base, base.origin);
                        cell.older = Some(Box::new(self::older(before, base, initial)));
                    }
                }
            }
        }
    }

    /// A version of a whole tile arrives on top of the others.
    fn push_whole(&mut self, tile: Sector, layer: Layer) {
        let initial = self.initial();
        let base = match self.tiles.get(tile) {
            // Only here is it needed, and only if it is one.
            Some(Tile::Whole { older: None, .. }) => self.base_of(tile),
            Some(_) | None => Some(initial),
        };
        let slot = self.tiles.slot(tile);
        match (slot, base) {
            (slot @ None, _) => {
                *slot = Some(Tile::Whole {
                    current: layer,
                    older: None,
                });
            }
            (Some(Tile::Whole { current, older }), Some(base)) => {
                let before = std::mem::replace(current, layer);
                match older {
                    Some(older) => {
                        older.rotate_right(1);
                        older[0] = Some(before);
                    }
                    None => {
                        let layer = |version: Version| Layer::of(version, [version.digest; 8]);
                        let before = (before, before.lead.origin);
                        let base = (layer(base), base.origin);
                        *older = Some(Box::new(self::older(before, base, layer(initial))));
                    }
                }
            }
            (Some(Tile::Split(_)), _) | (Some(Tile::Whole { .. }), None) => {
                for (at, sector) in (0..).zip(tile_sectors(tile)) {
                    self.push(sector, layer.version(at));
                }
            }
        }
    }

    /// The request of the version that event `no` brought to `range` has ended; `changed` tells of a sector, by its place in the range, whether its
    /// buffer did.
    pub fn end(
        &mut self,
        range: SectorRange,
        no: EventNo,
        ended: EventNo,
        state: State,
        changed: impl Fn(usize) -> bool,
    ) {
        let end = |version: &mut Version, changed: bool| {
            if version.no == no && version.origin != Origin::Initial {
                version.ended = ended;
                version.state = state;
                version.changed |= changed;
            }
        };
        let mut tile = range.start().0 / TILE;
        while tile * TILE < range.end().0 {
            let all = SectorRange::new(Sector(tile * TILE), TILE).unwrap_or_default();
            let here = all.intersection(range).unwrap_or_default();
            if let Some(held) = self.tiles.get_mut(Sector(tile)) {
                let place = |sector: Sector| to_usize(sector.0 - range.start().0);
                match held {
                    Tile::Whole { current, older } if here == all => {
                        let older = older.iter_mut().flat_map(|older| older.iter_mut());
                        for layer in std::iter::once(current).chain(older.flatten()) {
                            if layer.lead.no == no {
                                end(&mut layer.lead, false);
                                for (bit, sector) in (0u8..).zip(all.sectors()) {
                                    layer.changed |= u8::from(changed(place(sector))) << bit;
                                }
                            }
                        }
                    }
                    Tile::Whole { .. } | Tile::Split(_) => {
                        if let Some(cells) = held.cells() {
                            for sector in here.sectors() {
                                let (_, at) = tile_of(sector);
                                for version in cells[at].iter_mut().flat_map(Cell::versions_mut) {
                                    end(version, changed(place(sector)));
                                }
                            }
                        }
                    }
                }
            }
            tile += 1;
        }
    }

    /// A range reads as zeros from event `no` on; its request arrived with `arrived`.
    pub fn zero(&mut self, range: SectorRange, no: EventNo, arrived: EventNo, request: u64) {
        let version = |current: Option<Version>| Version {
            no,
            request,
            ended: no,
            gpa: 0,
            digest: Some(ZERO_DIGEST),
            origin: Origin::Zero,
            state: if current
                .is_some_and(|current| current.no > arrived || current.state == State::InFlight)
            {
                State::InDoubt
            } else {
                State::Acknowledged
            },
            changed: false,
        };
        let tiles: Vec<Sector> = self
            .tiles
            .range(tiles_of(range))
            .map(|(tile, _)| tile)
            .collect();
        for tile in tiles {
            let all = SectorRange::new(Sector(tile.0 * TILE), TILE).unwrap_or_default();
            if let Some(Tile::Whole { current, .. }) = self.tiles.get(tile)
                && all.intersection(range) == Some(all)
            {
                let zeros = version(Some(current.lead));
                self.push_whole(tile, Layer::of(zeros, [zeros.digest; 8]));
                continue;
            }
            for sector in all.intersection(range).unwrap_or_default().sectors() {
                let (_, at) = tile_of(sector);
                let held = self.tiles.get(tile).and_then(|held| held.current(at));
                if held.is_some() {
                    self.push(sector, version(held));
                }
            }
        }
        self.cover(range, version(None));
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

/// What is remembered below a second version: the first, and what was there before it.
fn older<T>(before: (T, Origin), base: (T, Origin), initial: T) -> [Option<T>; HISTORY - 1] {
    let (written, based) = (before.1 != Origin::Initial, base.1 != Origin::Initial);
    [
        Some(before.0),
        written.then_some(base.0),
        (written && based).then_some(initial),
    ]
}

/// The tiles that a range touches, by their numbers.
fn tiles_of(range: SectorRange) -> SectorRange {
    let first = range.start().0 / TILE;
    let count = range.end().0.div_ceil(TILE).saturating_sub(first);
    let count = if range.is_empty() { 0 } else { count };
    SectorRange::new(Sector(first), count).unwrap_or_default()
}

fn tile_sectors(tile: Sector) -> impl Iterator<Item = Sector> {
    (tile.0 * TILE..tile.0 * TILE + TILE).map(Sector)
}

/// The digests of the tile that begins at `sector`, if the range has all of it.
fn whole(range: SectorRange, sector: Sector, digests: &[u32]) -> Option<[Option<u32>; 8]> {
    let whole: &[u32; 8] = digests.first_chunk()?;
    (range.end().0 - sector.0 >= TILE).then(|| whole.map(Some))
}

#[cfg(test)]
#[allow(
    clippy::cast_possible_truncation,
    reason = "numbers of tests are small"
)]
mod tests {
    use super::*;
    use proptest::prelude::*;

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

    /// What happens to a leg in the test below.
    #[derive(Clone, Debug)]
    enum Step {
        Write(u64, u64, u32),
        End(usize, bool),
        Zero(u64, u64),
        Flush,
    }

    fn step() -> impl Strategy<Value = Step> {
        // Whole tiles and parts of some; three tiles in all.
        let range = prop_oneof![
            Just((0, 8)),
            Just((8, 8)),
            Just((0, 24)),
            (0u64..24, 1u64..9).prop_map(|(start, count)| (start, count.min(24 - start)))
        ];
        prop_oneof![
            3 => (range.clone(), any::<u32>()).prop_map(|((start, count), digest)| Step::Write(start, count, digest)),
            3 => (any::<usize>(), any::<bool>()).prop_map(|(which, ok)| Step::End(which, ok)),
            1 => range.prop_map(|(start, count)| Step::Zero(start, count)),
            1 => Just(Step::Flush),
        ]
    }

    fn range(start: u64, count: u64) -> SectorRange {
        SectorRange::new(Sector(start), count).unwrap()
    }

    proptest! {
        #[test]
        fn agrees_with_a_list_of_all_versions(steps in prop::collection::vec(step(), 0..60)) {
            let mut leg = LegShadow::new(true);
            let mut naive: Vec<Naive> = (0..24).map(|_| Naive::default()).collect();
            let mut open: Vec<(u64, SectorRange)> = Vec::new();
            for (no, step) in (1u64..).zip(steps) {
                match step {
                    Step::Write(start, count, seed) => {
                        let digests: Vec<u32> = (0u32..).zip(start..start + count).map(|(at, _)| seed.wrapping_add(at)).collect();
                        // Every other write is of memory that is not in one piece.
                        let step = if no.is_multiple_of(2) { 512 } else { 4096 };
                        let addresses: Vec<u64> = (0..count).map(|at| no << 20 | (at * step)).collect();
                        leg.fetched(range(start, count), EventNo(no), no, &digests, &addresses);
                        for (sector, digest) in range(start, count).sectors().zip(digests) {
                            naive[sector.0 as usize].versions.push((no, Some(digest), State::InFlight, 0));
                        }
                        for (sector, gpa) in range(start, count).sectors().zip(addresses) {
                            prop_assert_eq!(leg.current(sector).gpa, gpa);
                        }
                        open.push((no, range(start, count)));
                    }
                    Step::End(which, ok) => {
                        if !open.is_empty() {
                            let (fetched, range) = open.swap_remove(which % open.len());
                            let state = if ok { State::Acknowledged } else { State::InDoubt };
                            let changed = |at: usize| at as u64 % 3 == fetched % 3;
                            leg.end(range, EventNo(fetched), EventNo(no), state, changed);
                            for (at, sector) in range.sectors().enumerate() {
                                for version in naive[sector.0 as usize].versions.iter_mut().filter(|v| v.0 == fetched) {
                                    (version.2, version.3) = (state, no);
                                }
                                for version in leg.versions(sector).filter(|v| v.no == EventNo(fetched)) {
                                    prop_assert_eq!((version.state, version.ended, version.changed), (state, EventNo(no), changed(at)));
                                }
                            }
                        }
                    }
                    Step::Zero(start, count) => {
                        leg.zero(range(start, count), EventNo(no), EventNo(no), no);
                        for sector in range(start, count).sectors() {
                            let versions = &mut naive[sector.0 as usize].versions;
                            let raced = versions.last().is_some_and(|v| v.2 == State::InFlight);
                            let state = if raced { State::InDoubt } else { State::Acknowledged };
                            versions.push((no, Some(ZERO_DIGEST), state, no));
                        }
                    }
                    Step::Flush => {
                        leg.flushed(EventNo(no));
                        naive.iter_mut().for_each(|naive| naive.durable_before = no);
                    }
                }
                for (naive, sector) in naive.iter().zip((0..).map(Sector)) {
                    prop_assert_eq!(leg.current(sector).digest, naive.versions.last().map_or(Some(ZERO_DIGEST), |v| v.1));
                    let model = naive.possible();
                    let ours: Vec<_> = leg.possible(sector).map(|v| v.digest).collect();
                    prop_assert_eq!(&ours[..], &model[..model.len().min(HISTORY).min(ours.len())]);
                    prop_assert!(ours.len() == model.len() || leg.forgotten(sector));
                    if !leg.forgotten(sector) {
                        prop_assert_eq!(leg.durable(sector).and_then(|v| v.digest), naive.durable());
                    }
                    let written = naive.versions.iter().any(|v| v.1 != Some(ZERO_DIGEST));
                    prop_assert!(!written || leg.known(range(sector.0, 1)).next().is_some());
                }
            }
        }

        #[test]
        fn what_is_read_first_is_initial_content(first in 0u64..16, count in 1u64..16, written in 0u64..24) {
            let mut leg = LegShadow::new(false);
            leg.fetched(range(written, 1), EventNo(1), 1, &[7], &[0]);
            let digests: Vec<u32> = (100..100 + u32::try_from(count).unwrap()).collect();
            leg.learn(range(first, count), &digests);
            for (sector, digest) in range(first, count).sectors().zip(digests) {
                let expected = if sector.0 == written { (7, Origin::Write) } else { (digest, Origin::Initial) };
                let current = leg.current(sector);
                prop_assert_eq!((current.digest, current.origin), (Some(expected.0), expected.1));
            }
            prop_assert_eq!(leg.known(range(0, 64)).count() as u64, count + u64::from(!range(first, count).contains(Sector(written))));
        }
    }
}
