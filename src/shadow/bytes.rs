//! The bytes of sectors that hold metadata: what the legs held at first, and what was written where no data area is known.

use crate::block::{SECTOR_BYTES, Sector, SectorRange, to_usize};
use crate::shadow::table::Table;

/// The most bytes kept a leg; what comes later is not kept, and [`Bytes::refused`] tells.
const BYTES_MAX: u64 = 64 << 20;

/// One leg's metadata bytes. They survive boots.
#[derive(Debug, Default)]
pub struct Bytes {
    sectors: Table<Box<[u8; SECTOR_BYTES]>>,
    held: u64,
    refused: u64,
}

impl Bytes {
    /// Puts whole sectors; a tail that is no whole sector is left out.
    pub fn put(&mut self, start: Sector, bytes: &[u8]) {
        for (at, whole) in bytes.chunks_exact(SECTOR_BYTES).enumerate() {
            let Some(sector) = start.checked_add(at as u64) else {
                return;
            };
            let Ok(whole) = <[u8; SECTOR_BYTES]>::try_from(whole) else {
                return;
            };
            let full = self.held * SECTOR_BYTES as u64 >= BYTES_MAX;
            let slot = self.sectors.slot(sector);
            if slot.is_none() {
                if full {
                    self.refused += 1;
                    continue;
                }
                self.held += 1;
            }
            *slot = Some(Box::new(whole));
        }
    }

    /// Makes a range zero, which is what a sector that is not kept is taken for.
    pub fn zero(&mut self, range: SectorRange) {
        let held: Vec<Sector> = self
            .sectors
            .range(range)
            .map(|(sector, _)| sector)
            .collect();
        for sector in held {
            self.sectors.remove(sector);
            self.held -= 1;
        }
    }

    /// Forgets everything in a range that turned out to be data.
    pub fn release(&mut self, range: SectorRange) {
        self.zero(range);
    }

    /// Reads `count` sectors; sectors not kept read as zeros.
    pub fn read(&self, start: Sector, count: u64) -> Vec<u8> {
        let mut out = vec![0; to_usize(count) * SECTOR_BYTES];
        for (at, to) in out.chunks_exact_mut(SECTOR_BYTES).enumerate() {
            if let Some(bytes) = start
                .checked_add(at as u64)
                .and_then(|sector| self.sectors.get(sector))
            {
                to.copy_from_slice(&bytes[..]);
            }
        }
        out
    }

    /// Sectors that were not kept for lack of room.
    pub fn refused(&self) -> u64 {
        self.refused
    }
}
