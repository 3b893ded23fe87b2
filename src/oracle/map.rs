//! What each leg holds at the end, as ranges: for the maps of a report.

use super::checker::Checker;
use super::world::leg_range;
use crate::block::{LegId, Sector, SectorRange};
use crate::finding::Range;
use crate::shadow::RangeSet;

/// Ranges that one layer of a map keeps; where there are more, ranges that lie close together become one.
pub(super) const MAP_RANGES_MAX: usize = 2048;

/// One leg's map. Ranges are the leg's sectors, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LegMap {
    /// The leg's name.
    pub name: String,
    /// Its size in sectors.
    pub sectors: u64,
    /// Where the array's data lies; `None` for a leg of no array.
    pub data: Option<Range>,
    /// Written outside the data area: superblocks, bitmaps.
    pub metadata: Layer,
    /// Written, and there is no other leg to compare with.
    pub written: Layer,
    /// The same as every active leg.
    pub equal: Layer,
    /// Not the same as every active leg.
    pub different: Layer,
    /// Different for a reason that md may have.
    pub excused: Layer,
    /// Where the leg returns what a rule made of it.
    pub faulted: Layer,
    /// What findings speak of.
    pub wrong: Layer,
}

/// One kind of sectors.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layer {
    /// The ranges.
    pub ranges: Vec<Range>,
    /// Sectors in all, exactly.
    pub sectors: u64,
    /// Gaps up to this size were closed to keep the list short; 0: the ranges are exact.
    pub closed: u64,
}

impl Layer {
    fn of(set: &RangeSet) -> Layer {
        let mut ranges: Vec<Range> = set.ranges().map(range).collect();
        let mut closed = 0;
        while ranges.len() > MAP_RANGES_MAX {
            closed = (closed * 2).max(8);
            let mut fewer: Vec<Range> = Vec::with_capacity(ranges.len());
            for one in ranges {
                match fewer.last_mut() {
                    Some(last) if one.start - (last.start + last.count) <= closed => {
                        last.count = one.start + one.count - last.start;
                    }
                    Some(_) | None => fewer.push(one),
                }
            }
            ranges = fewer;
        }
        Layer {
            ranges,
            sectors: set.count(),
            closed,
        }
    }
}

fn range(range: SectorRange) -> Range {
    Range {
        start: range.start().0,
        count: range.count(),
    }
}

/// Sectors in order, gathered into ranges as they come.
#[derive(Default)]
struct Gather {
    set: RangeSet,
    run: Option<(u64, u64)>,
}

impl Gather {
    fn put(&mut self, sector: Sector) {
        match &mut self.run {
            Some((_, end)) if *end == sector.0 => *end += 1,
            _ => {
                self.close();
                self.run = Some((sector.0, sector.0 + 1));
            }
        }
    }

    fn close(&mut self) {
        if let Some((start, end)) = self.run.take()
            && let Some(range) = SectorRange::new(Sector(start), end - start)
        {
            self.set.insert(range);
        }
    }

    fn layer(mut self) -> Layer {
        self.close();
        Layer::of(&self.set)
    }
}

impl Checker {
    /// The map of every leg.
    pub(super) fn leg_maps(&self) -> Vec<LegMap> {
        (0..)
            .zip(&self.world.header.legs)
            .map(|(at, head)| self.leg_map(LegId(at), &head.config.name, head.sectors))
            .collect()
    }

    fn leg_map(&self, leg: LegId, name: &str, sectors: u64) -> LegMap {
        let found = self.world.md.of(leg);
        let data = found.map(|(_, member)| member.data);
        let (mut metadata, mut written) = (Gather::default(), Gather::default());
        let (mut equal, mut different) = (Gather::default(), Gather::default());
        let shadow = self.world.shadow(leg);
        let whole = SectorRange::new(Sector(0), sectors).unwrap_or_default();
        let twins: Vec<(LegId, u64)> = found
            .map(|(array, member)| {
                array
                    .active()
                    .filter(|twin| twin.leg != leg && member.active)
                    .map(|twin| (twin.leg, twin.data.start().0))
                    .collect()
            })
            .unwrap_or_default();
        for sector in shadow.known(whole) {
            let Some(data) = data.filter(|data| data.contains(sector)) else {
                metadata.put(sector);
                continue;
            };
            let at = sector.0 - data.start().0;
            let digest = shadow.current(sector).digest;
            let same = twins.iter().all(|(twin, start)| {
                self.world.shadow(*twin).current(Sector(start + at)).digest == digest
            });
            match (twins.is_empty(), same) {
                (true, _) => written.put(sector),
                (false, true) => equal.put(sector),
                (false, false) => different.put(sector),
            }
        }
        let mut excused = Gather::default();
        if let Some((array, member)) = found
            && let Some(table) = self.excused.get(&array.key)
        {
            for (sector, _) in table.iter() {
                if let Some(at) = super::world::leg_sector(member, sector) {
                    excused.put(at);
                }
            }
        }
        let mut wrong = RangeSet::default();
        for entry in self.wrongs.entries().iter().filter(|one| one.leg == leg) {
            let on_leg = if entry.on_leg.is_empty() {
                found.map_or_else(SectorRange::default, |(_, member)| {
                    leg_range(member, entry.array)
                })
            } else {
                entry.on_leg
            };
            wrong.insert(on_leg);
        }
        LegMap {
            name: name.to_owned(),
            sectors,
            data: data.map(range),
            metadata: metadata.layer(),
            written: written.layer(),
            equal: equal.layer(),
            different: different.layer(),
            excused: excused.layer(),
            faulted: Layer::of(&self.injected.lies_of(leg)),
            wrong: Layer::of(&wrong),
        }
    }
}
