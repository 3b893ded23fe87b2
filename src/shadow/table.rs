//! A sparse table of sectors: a tree of chunks, so that a leg of 64 GiB costs what was written to it.

use std::collections::BTreeMap;

use crate::block::{Sector, SectorRange, to_usize};

/// Sectors in a chunk.
const CHUNK: u64 = 64;

/// Something a sector. A sector that was never touched has none.
#[derive(Clone, Debug)]
pub struct Table<T> {
    chunks: BTreeMap<u64, Box<[Option<T>]>>,
}

impl<T> Default for Table<T> {
    fn default() -> Table<T> {
        Table {
            chunks: BTreeMap::new(),
        }
    }
}

impl<T> Table<T> {
    /// What a sector has.
    pub fn get(&self, sector: Sector) -> Option<&T> {
        self.chunks.get(&(sector.0 / CHUNK))?[to_usize(sector.0 % CHUNK)].as_ref()
    }

    /// What a sector has, to be changed.
    pub fn get_mut(&mut self, sector: Sector) -> Option<&mut T> {
        self.chunks.get_mut(&(sector.0 / CHUNK))?[to_usize(sector.0 % CHUNK)].as_mut()
    }

    /// A sector's place, made if there is none.
    pub fn slot(&mut self, sector: Sector) -> &mut Option<T> {
        let chunk = self
            .chunks
            .entry(sector.0 / CHUNK)
            .or_insert_with(|| (0..CHUNK).map(|_| None).collect());
        &mut chunk[to_usize(sector.0 % CHUNK)]
    }

    /// Takes away what a sector has.
    pub fn remove(&mut self, sector: Sector) -> Option<T> {
        self.chunks.get_mut(&(sector.0 / CHUNK))?[to_usize(sector.0 % CHUNK)].take()
    }

    /// The sectors of a range that have something, in order. Costs what is there, not what the range spans.
    pub fn range(&self, range: SectorRange) -> impl Iterator<Item = (Sector, &T)> {
        let chunks = range.start().0 / CHUNK..range.end().0.div_ceil(CHUNK);
        let chunks = if chunks.start < chunks.end {
            chunks
        } else {
            0..0
        };
        self.chunks
            .range(chunks)
            .flat_map(|(chunk, slots)| {
                slots.iter().enumerate().filter_map(move |(at, slot)| {
                    slot.as_ref()
                        .map(|value| (Sector(chunk * CHUNK + at as u64), value))
                })
            })
            .filter(move |(sector, _)| range.contains(*sector))
    }

    /// All sectors that have something, in order.
    pub fn iter(&self) -> impl Iterator<Item = (Sector, &T)> {
        self.chunks.iter().flat_map(|(chunk, slots)| {
            slots.iter().enumerate().filter_map(move |(at, slot)| {
                slot.as_ref()
                    .map(|value| (Sector(chunk * CHUNK + at as u64), value))
            })
        })
    }
}
