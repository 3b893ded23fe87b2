//! What the agent is sure that a target holds: for each sector the version that a read must return.
//!
//! Covered: sectors whose last write was acknowledged without an error and met no other request in flight (exactly that write's stamp), and
//! sectors on which acknowledged writes did meet (some whole stamp of this run for that sector). Not covered, and skipped by a read-back:
//! sectors with a request in flight, sectors whose last write failed (either version is legal), discarded sectors (what they read as is the
//! device's matter), sectors written without stamps, and whatever a shell command wrote.

use std::collections::BTreeMap;

use crate::block::{SectorRange, to_usize};

/// Sectors of one table.
const TABLE: u64 = 256;

/// What is known of one sector.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Known {
    /// Nothing.
    #[default]
    Nothing,
    /// It holds this write's stamp.
    Exactly {
        /// The writer.
        writer: u16,
        /// The write's number within its writer.
        sequence: u32,
    },
    /// It holds a whole stamp of this run for this sector.
    SomeStamp,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Cell {
    known: Known,
    in_flight: u16,
    /// Whether requests in flight met here since the sector was last at rest.
    met: bool,
    /// Whether one of those that met was no stamped write that went well.
    spoiled: bool,
}

/// What a request does to the sectors that it touches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// Stamps, acknowledged.
    Stamped {
        /// The writer.
        writer: u16,
        /// The write's number.
        sequence: u32,
    },
    /// Anything: failed, discarded, unstamped.
    Unknown,
}

/// The model of one target.
#[derive(Debug, Default)]
pub(super) struct Model {
    tables: BTreeMap<u64, Box<[Cell]>>,
}

impl Model {
    fn each(&mut self, range: SectorRange, mut change: impl FnMut(&mut Cell)) {
        let (mut at, end) = (range.start().0, range.end().0);
        while at < end {
            let table = self
                .tables
                .entry(at / TABLE)
                .or_insert_with(|| vec![Cell::default(); to_usize(TABLE)].into_boxed_slice());
            let until = end.min((at / TABLE + 1) * TABLE);
            let from = to_usize(at % TABLE);
            for cell in &mut table[from..from + to_usize(until - at)] {
                change(cell);
            }
            at = until;
        }
    }

    /// A request is about to be submitted.
    pub(super) fn begin(&mut self, range: SectorRange) {
        self.each(range, |cell| {
            if cell.in_flight == 0 {
                (cell.met, cell.spoiled) = (false, false);
            } else {
                cell.met = true;
            }
            cell.in_flight += 1;
        });
    }

    /// It is over.
    pub(super) fn end(&mut self, range: SectorRange, effect: Effect) {
        self.each(range, |cell| {
            cell.in_flight -= 1;
            cell.spoiled |= effect == Effect::Unknown;
            cell.known = match effect {
                _ if cell.spoiled => Known::Nothing,
                Effect::Stamped { .. } if cell.met => Known::SomeStamp,
                Effect::Stamped { writer, sequence } => Known::Exactly { writer, sequence },
                Effect::Unknown => Known::Nothing,
            };
        });
    }

    /// What is known of the sectors of a range, in order; nothing where a request is in flight.
    pub(super) fn known(&self, range: SectorRange) -> Vec<Known> {
        range
            .sectors()
            .map(|sector| {
                self.tables
                    .get(&(sector.0 / TABLE))
                    .map(|table| table[to_usize(sector.0 % TABLE)])
                    .filter(|cell| cell.in_flight == 0)
                    .map_or(Known::Nothing, |cell| cell.known)
            })
            .collect()
    }

    /// Where there may be something known: the first sectors of tables, each of [`Model::TABLE_SECTORS`] sectors.
    pub(super) fn tables(&self) -> Vec<u64> {
        self.tables.keys().map(|table| table * TABLE).collect()
    }

    /// Sectors of one table.
    pub(super) const TABLE_SECTORS: u64 = TABLE;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::Sector;
    use proptest::prelude::*;

    fn range(start: u64, count: u64) -> SectorRange {
        SectorRange::new(Sector(start), count).unwrap()
    }

    fn stamped(writer: u16, sequence: u32) -> Effect {
        Effect::Stamped { writer, sequence }
    }

    #[test]
    fn the_last_write_is_known_and_a_failed_or_met_one_is_not() {
        let mut model = Model::default();
        model.begin(range(250, 10));
        assert_eq!(model.known(range(255, 2)), [Known::Nothing; 2]);
        model.end(range(250, 10), stamped(1, 1));
        let first = Known::Exactly {
            writer: 1,
            sequence: 1,
        };
        assert_eq!(model.known(range(259, 2)), [first, Known::Nothing]);
        model.begin(range(252, 2));
        model.begin(range(253, 2));
        model.end(range(252, 2), stamped(1, 2));
        model.end(range(253, 2), stamped(2, 1));
        let second = Known::Exactly {
            writer: 1,
            sequence: 2,
        };
        let third = Known::Exactly {
            writer: 2,
            sequence: 1,
        };
        assert_eq!(
            model.known(range(252, 3)),
            [second, Known::SomeStamp, third]
        );
        model.begin(range(253, 1));
        model.end(range(253, 1), Effect::Unknown);
        assert_eq!(model.known(range(253, 1)), [Known::Nothing]);
        model.begin(range(253, 1));
        model.end(range(253, 1), stamped(1, 3));
        assert_eq!(
            model.known(range(253, 1)),
            [Known::Exactly {
                writer: 1,
                sequence: 3
            }]
        );
    }

    proptest! {
        /// Whatever order the kernel lets overlapping writes reach the disk in, the model never excludes what is there.
        #[test]
        fn the_model_never_excludes_a_legal_outcome(
            steps in prop::collection::vec((0u64..20, 1u64..6, any::<bool>(), any::<u8>()), 1..80),
        ) {
            let mut model = Model::default();
            let mut disk: BTreeMap<u64, u32> = BTreeMap::new();
            let mut flying: Vec<(SectorRange, u32, Vec<u64>)> = Vec::new();
            for (number, (start, count, land, pick)) in (1u32..).zip(steps) {
                if !land {
                    let range = range(start, count);
                    model.begin(range);
                    flying.push((range, number, range.sectors().map(|s| s.0).collect()));
                    continue;
                }
                if flying.is_empty() { continue; }
                let at = usize::from(pick) % flying.len();
                // Some of its sectors reach the disk now, and the rest when it ends.
                if pick % 3 == 0 {
                    let (_, version, left) = &mut flying[at];
                    if let Some(sector) = left.pop() { disk.insert(sector, *version); }
                    continue;
                }
                let (range, version, left) = flying.swap_remove(at);
                for sector in left { disk.insert(sector, version); }
                let failed = pick % 7 == 0;
                model.end(range, if failed { Effect::Unknown } else { stamped(0, version) });
                for sector in 0..30 {
                    if let [Known::Exactly { sequence, .. }] = model.known(super::tests::range(sector, 1))[..] {
                        prop_assert_eq!(disk.get(&sector), Some(&sequence));
                    }
                }
            }
        }
    }
}
