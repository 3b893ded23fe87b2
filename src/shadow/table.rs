//! A sparse table by number: chunks of slots in folders of chunks, so that a leg of 64 GiB costs what was written to it, and finding a slot costs
//! three steps, however much that was.

use std::collections::BTreeMap;

use crate::block::{Sector, SectorRange, to_usize};

/// Slots in a chunk: what a single touched slot costs. Few, as writes here and there are what makes a shadow large.
const CHUNK_SLOTS: usize = 8;
const CHUNK: u64 = CHUNK_SLOTS as u64;
/// Chunks in a folder.
const FOLDER: u64 = 8192;
const FOLDER_SLOTS: u64 = CHUNK * FOLDER;
/// Folders found by their place; those behind, on a leg of more than 4 TiB, are searched for.
const NEAR: u64 = 1 << 17;

type Chunk<T> = Box<[Option<T>; CHUNK_SLOTS]>;

/// Something a sector. A sector that was never touched has none.
#[derive(Clone, Debug)]
pub struct Table<T> {
    near: Vec<Option<Folder<T>>>,
    far: BTreeMap<u64, Folder<T>>,
}

#[derive(Clone, Debug)]
struct Folder<T> {
    chunks: Box<[Option<Chunk<T>>]>,
}

impl<T> Folder<T> {
    fn new() -> Folder<T> {
        Folder {
            chunks: (0..FOLDER).map(|_| None).collect(),
        }
    }

    /// The slots from `from` up to `to` (in the folder) that have something.
    fn range(&self, from: u64, to: u64) -> impl Iterator<Item = (u64, &T)> {
        let chunks = to_usize(from / CHUNK)..to_usize(to.div_ceil(CHUNK));
        let first = chunks.start as u64;
        let held = self.chunks.get(chunks).unwrap_or_default();
        (first..)
            .zip(held)
            .filter_map(|(at, chunk)| Some((at * CHUNK, chunk.as_ref()?)))
            .flat_map(|(at, chunk)| (at..).zip(chunk.iter()))
            .filter_map(|(at, slot)| Some((at, slot.as_ref()?)))
            .filter(move |(at, _)| (from..to).contains(at))
    }
}

impl<T> Default for Table<T> {
    fn default() -> Table<T> {
        Table {
            near: Vec::new(),
            far: BTreeMap::new(),
        }
    }
}

fn place(sector: Sector) -> (u64, usize, usize) {
    (
        sector.0 / FOLDER_SLOTS,
        to_usize(sector.0 / CHUNK % FOLDER),
        to_usize(sector.0 % CHUNK),
    )
}

impl<T> Table<T> {
    fn folder(&self, at: u64) -> Option<&Folder<T>> {
        if at < NEAR {
            self.near.get(to_usize(at))?.as_ref()
        } else {
            self.far.get(&at)
        }
    }

    fn folder_mut(&mut self, at: u64) -> Option<&mut Folder<T>> {
        if at < NEAR {
            self.near.get_mut(to_usize(at))?.as_mut()
        } else {
            self.far.get_mut(&at)
        }
    }

    /// What a sector has.
    pub fn get(&self, sector: Sector) -> Option<&T> {
        let (folder, chunk, slot) = place(sector);
        self.folder(folder)?.chunks[chunk].as_ref()?[slot].as_ref()
    }

    /// What a sector has, to be changed.
    pub fn get_mut(&mut self, sector: Sector) -> Option<&mut T> {
        let (folder, chunk, slot) = place(sector);
        self.folder_mut(folder)?.chunks[chunk].as_mut()?[slot].as_mut()
    }

    /// A sector's place, made if there is none.
    pub fn slot(&mut self, sector: Sector) -> &mut Option<T> {
        let (at, chunk, slot) = place(sector);
        let folder = if at < NEAR {
            let at = to_usize(at);
            if self.near.len() <= at {
                self.near.resize_with(at + 1, || None);
            }
            self.near[at].get_or_insert_with(Folder::new)
        } else {
            self.far.entry(at).or_insert_with(Folder::new)
        };
        let chunk =
            folder.chunks[chunk].get_or_insert_with(|| Box::new([const { None }; CHUNK_SLOTS]));
        &mut chunk[slot]
    }

    /// Takes away what a sector has.
    pub fn remove(&mut self, sector: Sector) -> Option<T> {
        let (folder, chunk, slot) = place(sector);
        self.folder_mut(folder)?.chunks[chunk].as_mut()?[slot].take()
    }

    /// All folders, in order.
    fn folders(&self) -> impl Iterator<Item = (u64, &Folder<T>)> {
        let near = (0..).zip(&self.near);
        near.filter_map(|(at, folder)| Some((at, folder.as_ref()?)))
            .chain(self.far.iter().map(|(at, folder)| (*at, folder)))
    }

    /// The sectors of a range that have something, in order. Costs what is there, not what the range spans.
    pub fn range(&self, range: SectorRange) -> impl Iterator<Item = (Sector, &T)> {
        let (start, end) = (range.start().0, range.end().0);
        let (first, last) = (start / FOLDER_SLOTS, end.div_ceil(FOLDER_SLOTS));
        let (first, last) = if start < end { (first, last) } else { (0, 0) };
        let count = self.near.len() as u64;
        let near = first.min(count)..last.min(count);
        let held = &self.near[to_usize(near.start)..to_usize(near.end)];
        (near.start..)
            .zip(held)
            .filter_map(|(at, folder)| Some((at, folder.as_ref()?)))
            .chain(
                self.far
                    .range(first..last)
                    .map(|(at, folder)| (*at, folder)),
            )
            .flat_map(move |(at, folder)| {
                let base = at * FOLDER_SLOTS;
                let from = start.saturating_sub(base);
                let to = (end - base).min(FOLDER_SLOTS);
                folder
                    .range(from, to)
                    .map(move |(slot, value)| (Sector(base + slot), value))
            })
    }

    /// All sectors that have something, in order.
    pub fn iter(&self) -> impl Iterator<Item = (Sector, &T)> {
        self.folders().flat_map(|(at, folder)| {
            let base = at * FOLDER_SLOTS;
            folder
                .range(0, FOLDER_SLOTS)
                .map(move |(slot, value)| (Sector(base + slot), value))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Sectors around every edge that the table has.
    fn sector() -> impl Strategy<Value = u64> {
        let edges = prop::sample::select(vec![
            0,
            CHUNK,
            FOLDER_SLOTS,
            NEAR * FOLDER_SLOTS,
            NEAR * FOLDER_SLOTS * 7,
        ]);
        (edges, 0u64..40).prop_map(|(edge, off)| (edge + off).saturating_sub(20))
    }

    proptest! {
        #[test]
        fn agrees_with_a_map(steps in prop::collection::vec((0u8..3, sector(), any::<u8>()), 0..60), from in sector(), to in sector()) {
            let (mut table, mut model) = (Table::default(), BTreeMap::new());
            for (step, at, value) in steps {
                if step == 0 {
                    prop_assert_eq!(table.remove(Sector(at)), model.remove(&at));
                } else {
                    *table.slot(Sector(at)) = Some(value);
                    model.insert(at, value);
                }
                prop_assert_eq!(table.get(Sector(at)), model.get(&at));
                prop_assert_eq!(table.get_mut(Sector(at)), model.get_mut(&at));
            }
            let all: Vec<_> = table.iter().map(|(at, value)| (at.0, *value)).collect();
            prop_assert_eq!(&all, &model.iter().map(|(at, value)| (*at, *value)).collect::<Vec<_>>());
            let (from, to) = (from.min(to), from.max(to));
            let range = SectorRange::new(Sector(from), to - from).unwrap();
            let part: Vec<_> = table.range(range).map(|(at, value)| (at.0, *value)).collect();
            prop_assert_eq!(part, model.range(from..to).map(|(at, value)| (*at, *value)).collect::<Vec<_>>());
        }
    }
}
