//! Eight neighbouring sectors. Nearly all of a mirror's requests are made of whole 4 KiB pages: where every request so far touched all eight or none, what is the
//! same for all is kept once. The first request that does otherwise splits the tile, for good.

use crate::shadow::leg::{HISTORY, Version};

/// Sectors in a tile.
pub(super) const TILE: u64 = 8;

/// Eight sectors with their versions.
#[derive(Clone, Debug)]
pub(super) enum Tile {
    /// All have the same history.
    Whole {
        /// The newest version.
        current: Layer,
        /// Older ones, newest first. A tile written once has none, and costs no second allocation.
        older: Option<Box<[Option<Layer>; HISTORY - 1]>>,
    },
    /// Each has its own.
    Split(Box<[Option<Cell>; 8]>),
}

/// A sector: its current version and up to [`HISTORY`] - 1 older ones, newest first. A sector written once costs no second allocation.
#[derive(Clone, Debug)]
pub(super) struct Cell {
    pub(super) current: Version,
    pub(super) older: Option<Box<Older>>,
}

/// Older versions of a sector, newest first.
pub(super) type Older = [Option<Version>; HISTORY - 1];

/// One version of a whole tile.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layer {
    /// The first sector's version; its digest is only told to be known or not.
    pub(super) lead: Version,
    digests: [u32; 8],
    /// A bit for each sector whose buffer changed in flight.
    pub(super) changed: u8,
}

impl Layer {
    /// A tile's version from its first sector's, and all digests. Either all are known or none is.
    pub(super) fn of(lead: Version, digests: [Option<u32>; 8]) -> Layer {
        Layer {
            lead: Version {
                digest: digests[0],
                ..lead
            },
            digests: digests.map(Option::unwrap_or_default),
            changed: 0,
        }
    }

    /// Whether sectors at these guest-physical addresses are one piece of memory.
    pub(super) fn can_hold(addresses: Option<&[u64]>) -> bool {
        addresses.is_some_and(|all| match all {
            [0, rest @ ..] => rest.iter().all(|gpa| *gpa == 0),
            [first, rest @ ..] => (1u64..)
                .zip(rest)
                .all(|(at, gpa)| first.checked_add(at * 512) == Some(*gpa)),
            [] => false,
        })
    }

    /// The version of the sector at a place.
    pub(super) fn version(&self, at: usize) -> Version {
        Version {
            gpa: match self.lead.gpa {
                0 => 0,
                first => first + at as u64 * 512,
            },
            digest: self.lead.digest.map(|_| self.digests[at]),
            changed: self.changed >> at & 1 == 1,
            ..self.lead
        }
    }
}

impl Cell {
    pub(super) fn versions_mut(&mut self) -> impl Iterator<Item = &mut Version> {
        let older = self.older.iter_mut().flat_map(|older| older.iter_mut());
        std::iter::once(&mut self.current).chain(older.flatten())
    }
}

impl Tile {
    /// No sector has anything.
    pub(super) fn empty() -> Tile {
        Tile::Split(Box::new([const { None }; 8]))
    }

    /// Whether the sector at a place has anything.
    pub(super) fn has(&self, at: usize) -> bool {
        match self {
            Tile::Whole { .. } => true,
            Tile::Split(cells) => cells[at].is_some(),
        }
    }

    /// The newest version of the sector at a place.
    pub(super) fn current(&self, at: usize) -> Option<Version> {
        match self {
            Tile::Whole { current, .. } => Some(current.version(at)),
            Tile::Split(cells) => cells[at].as_ref().map(|cell| cell.current),
        }
    }

    /// The versions of the sector at a place: the newest, and the older ones if it was written more than once.
    pub(super) fn history(&self, at: usize) -> Option<(Version, Option<Older>)> {
        match self {
            Tile::Whole { current, older } => {
                let older = older
                    .as_deref()
                    .map(|older| older.map(|layer| layer.map(|layer| layer.version(at))));
                Some((current.version(at), older))
            }
            Tile::Split(cells) => cells[at]
                .as_ref()
                .map(|cell| (cell.current, cell.older.as_deref().copied())),
        }
    }

    /// The sectors apart, to be changed one by one. There are always some; a tile that is whole is split.
    pub(super) fn cells(&mut self) -> Option<&mut [Option<Cell>; 8]> {
        if let Tile::Whole { .. } = self {
            let cells = std::array::from_fn(|at| {
                self.history(at).map(|(current, older)| Cell {
                    current,
                    older: older.map(Box::new),
                })
            });
            *self = Tile::Split(Box::new(cells));
        }
        match self {
            Tile::Split(cells) => Some(cells),
            Tile::Whole { .. } => None,
        }
    }
}
