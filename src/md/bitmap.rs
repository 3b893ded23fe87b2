//! The write-intent bitmap of a leg: header and bits, out of what was written to it.
//!
//! Layout: `drivers/md/md-bitmap.h:bitmap_super_t`; a 256-byte header, then one bit a chunk, least significant first, chunk `S / chunk` of the
//! leg's data sector `S` (`md-bitmap.c:md_bitmap_file_set_bit`, `md_bitmap_storage_alloc`), Linux 6.12.

use super::superblock::{sixteen, u32_at, u64_at};
use crate::block::{SECTOR_BYTES, Sector, SectorRange, to_usize};
use crate::shadow::Bytes;

const MAGIC: u32 = 0x6d74_6962;
const HEADER_BYTES: usize = 256;
/// Bits of a bitmap that is looked at: 2 MiB of them, sixteen times what mdadm makes room for.
const CHUNKS_MAX: u64 = 2 << 23;

/// What is read of a write-intent bitmap's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BitmapHeader {
    /// 3 and 4: plain; 5: clustered; 6: lockless.
    pub version: u32,
    /// The array.
    pub uuid: [u8; 16],
    /// The update counter.
    pub events: u64,
    /// The update counter up to which cleared bits are good for a leg that comes back.
    pub events_cleared: u64,
    /// Sectors that the bitmap is about.
    pub sync_sectors: u64,
    /// Whether md calls the bitmap stale, or could not write it: its bits promise nothing.
    pub useless: bool,
    /// Bytes of data a bit.
    pub chunk_bytes: u32,
    /// Seconds between sweeps.
    pub daemon_sleep_s: u32,
    /// The most writes behind; 0: write-behind is off.
    pub write_behind: u32,
}

impl BitmapHeader {
    /// Why an array with this bitmap is not checked; `None`: it is.
    pub fn refusal(&self) -> Option<&'static str> {
        match self.version {
            3 | 4 => None,
            5 => Some("a clustered array is not checked"),
            _ => Some("an array with a lockless bitmap is not checked"),
        }
    }
}

/// Reads a bitmap's header out of the first sector of the bitmap; `None` without the magic or with a version that is not 3 to 6.
pub fn bitmap_header(bytes: &[u8]) -> Option<BitmapHeader> {
    let version = (bytes.len() >= HEADER_BYTES).then(|| u32_at(bytes, 4))?;
    if u32_at(bytes, 0) != MAGIC || !(3..=6).contains(&version) {
        return None;
    }
    Some(BitmapHeader {
        version,
        uuid: sixteen(bytes, 8),
        events: u64_at(bytes, 24),
        events_cleared: u64_at(bytes, 32),
        sync_sectors: u64_at(bytes, 40),
        // State bits 1 (stale) and 2 (write error).
        useless: u32_at(bytes, 48) & 0b110 != 0,
        chunk_bytes: u32_at(bytes, 52),
        daemon_sleep_s: u32_at(bytes, 56),
        write_behind: u32_at(bytes, 60),
    })
}

/// Why a leg has no bitmap to go by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadBitmap {
    /// No plain bitmap is there.
    #[error("no bitmap")]
    None,
    /// Its header contradicts itself or the leg, or asks for too much.
    #[error("its bitmap is not looked at: {0}")]
    Refused(&'static str),
}

/// One leg's copy of the bitmap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BitmapCopy {
    place: Sector,
    header: BitmapHeader,
    chunks: u64,
    bits: Vec<u8>,
}

impl BitmapCopy {
    /// Reads a leg's copy, of an array that can have `most` sectors.
    ///
    /// # Errors
    /// [`BadBitmap`].
    pub fn read(place: Sector, most: u64, bytes: &Bytes) -> Result<BitmapCopy, BadBitmap> {
        let header = bitmap_header(&bytes.read(place, 1)).ok_or(BadBitmap::None)?;
        BitmapCopy::laid(place, header, most, bytes)
    }

    /// The same, with a header that is on its way to the leg.
    fn laid(
        place: Sector,
        header: BitmapHeader,
        most: u64,
        bytes: &Bytes,
    ) -> Result<BitmapCopy, BadBitmap> {
        let chunk_sectors = u64::from(header.chunk_bytes) / SECTOR_BYTES as u64;
        if header.refusal().is_some() {
            return Err(BadBitmap::None);
        }
        if !header.chunk_bytes.is_power_of_two() || chunk_sectors == 0 {
            return Err(BadBitmap::Refused("its chunks are no power of two"));
        }
        if header.sync_sectors > most {
            return Err(BadBitmap::Refused(
                "it is about more sectors than the legs have",
            ));
        }
        let chunks = header.sync_sectors.div_ceil(chunk_sectors);
        if chunks > CHUNKS_MAX {
            return Err(BadBitmap::Refused("it has more than 16777216 bits"));
        }
        let used = HEADER_BYTES + to_usize(chunks.div_ceil(8));
        let sectors = used.div_ceil(SECTOR_BYTES) as u64;
        place
            .checked_add(sectors)
            .ok_or(BadBitmap::Refused("it lies behind the last sector"))?;
        let mut bits = bytes.read(place, sectors);
        bits.drain(..HEADER_BYTES);
        Ok(BitmapCopy {
            place,
            header,
            chunks,
            bits,
        })
    }

    /// Whether a write brings a header by which the bits lie otherwise, as when the array is resized (`md-bitmap.c:__bitmap_resize`): the copy is to be
    /// read anew.
    pub fn is_laid_anew(&self, start: Sector, payload: &[u8]) -> bool {
        self.header_in(start, payload)
            .is_some_and(|header| header.refusal().is_none() && !self.lies_as(&header))
    }

    /// What the leg is sent once this write is, which lays the bits anew: `bytes` under the pages that are on their way, the oldest first, this one the last.
    ///
    /// # Errors
    /// [`BadBitmap`].
    pub fn anew<'a>(
        &self,
        most: u64,
        bytes: &Bytes,
        pages: impl Iterator<Item = (Sector, &'a [u8])> + Clone,
    ) -> Result<BitmapCopy, BadBitmap> {
        let headers = pages.clone();
        let header = headers
            .filter_map(|(start, payload)| self.header_in(start, payload))
            .last()
            .ok_or(BadBitmap::None)?;
        let mut copy = BitmapCopy::laid(self.place, header, most, bytes)?;
        for (start, payload) in pages {
            copy.put(start, payload);
        }
        Ok(copy)
    }

    fn header_in(&self, start: Sector, payload: &[u8]) -> Option<BitmapHeader> {
        let at = to_usize(self.place.0.checked_sub(start.0)?);
        bitmap_header(payload.chunks_exact(SECTOR_BYTES).nth(at)?)
    }

    fn lies_as(&self, header: &BitmapHeader) -> bool {
        let of = |header: &BitmapHeader| (header.chunk_bytes, header.sync_sectors);
        of(header) == of(&self.header)
    }

    /// The header as read last.
    pub fn header(&self) -> &BitmapHeader {
        &self.header
    }

    /// The leg sectors that hold header and bits.
    pub fn area(&self) -> SectorRange {
        let sectors = (self.bits.len() + HEADER_BYTES) / SECTOR_BYTES;
        SectorRange::new(self.place, sectors as u64).unwrap_or_default()
    }

    /// Sectors of data a bit.
    pub fn chunk_sectors(&self) -> u64 {
        u64::from(self.header.chunk_bytes) / SECTOR_BYTES as u64
    }

    /// The sectors that it is about, whole chunks.
    pub fn all(&self) -> SectorRange {
        let sectors = self.chunks.saturating_mul(self.chunk_sectors());
        SectorRange::new(Sector(0), sectors).unwrap_or_default()
    }

    /// The sectors that it is about and another one is not.
    pub fn behind(&self, other: &BitmapCopy) -> SectorRange {
        let start = other.all().end();
        let count = self.all().end().0.saturating_sub(start.0);
        SectorRange::new(start, count).unwrap_or_default()
    }

    /// The chunks that a range of array sectors touches.
    pub fn chunks(&self, array: SectorRange) -> std::ops::Range<u64> {
        let size = self.chunk_sectors();
        let end = array.end().0.div_ceil(size).min(self.chunks);
        (array.start().0 / size).min(end)..end
    }

    /// The array sectors of a chunk.
    pub fn sectors(&self, chunk: u64) -> SectorRange {
        let size = self.chunk_sectors();
        let start = chunk.saturating_mul(size);
        let end = start.saturating_add(size).min(self.header.sync_sectors);
        SectorRange::new(Sector(start), end.saturating_sub(start)).unwrap_or_default()
    }

    /// Whether a chunk's bit is set.
    pub fn is_set(&self, chunk: u64) -> bool {
        self.bits
            .get(to_usize(chunk / 8))
            .is_some_and(|byte| byte >> (chunk % 8) & 1 == 1)
    }

    /// How many bits are set.
    pub fn set(&self) -> u64 {
        (0..self.chunks).filter(|chunk| self.is_set(*chunk)).count() as u64
    }

    /// Takes a write of whole sectors from `start` on. Tells the bits that changed: (chunk, whether it is set now).
    pub fn apply(&mut self, start: Sector, payload: &[u8]) -> Vec<(u64, bool)> {
        let mut changed = Vec::new();
        self.take(start, payload, |chunk, set| changed.push((chunk, set)));
        changed
    }

    fn put(&mut self, start: Sector, payload: &[u8]) {
        self.take(start, payload, |_, _| {});
    }

    fn take(&mut self, start: Sector, payload: &[u8], mut changed: impl FnMut(u64, bool)) {
        let area = self.area();
        for (at, sector) in payload.chunks_exact(SECTOR_BYTES).enumerate() {
            let Some(here) = start.checked_add(at as u64).filter(|at| area.contains(*at)) else {
                continue;
            };
            if here == self.place
                && let Some(header) = bitmap_header(sector)
                && self.lies_as(&header)
            {
                self.header = header;
            }
            let file = to_usize(here.0 - self.place.0) * SECTOR_BYTES;
            for (offset, new) in sector.iter().enumerate() {
                let Some(byte) = (file + offset).checked_sub(HEADER_BYTES) else {
                    continue;
                };
                let Some(old) = self.bits.get_mut(byte) else {
                    break;
                };
                let differ = *old ^ new;
                *old = *new;
                for bit in (0..8).filter(|bit| differ >> bit & 1 == 1) {
                    let chunk = byte as u64 * 8 + bit;
                    if chunk < self.chunks {
                        changed(chunk, new >> bit & 1 == 1);
                    }
                }
            }
        }
    }
}

/// A leg's bad-block log: the ranges in sectors of the leg. Entries are `sector << 10 | length`, both shifted left by `shift`, all ones where unused
/// (`md.c:super_1_load`, `super_1_sync`).
pub fn bad_blocks(bytes: &[u8], shift: u8) -> Vec<SectorRange> {
    let mut found = Vec::new();
    for entry in bytes.chunks_exact(8).take(512) {
        let entry = u64_at(entry, 0);
        if entry == u64::MAX {
            break;
        }
        let (sector, count) = (entry >> 10, entry & 0x3ff);
        let whole = sector
            .checked_shl(u32::from(shift))
            .zip(count.checked_shl(u32::from(shift)))
            .filter(|(start, _)| start >> (shift & 63) == sector)
            .and_then(|(start, count)| SectorRange::new(Sector(start), count));
        found.extend(whole.filter(|range| !range.is_empty()));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A bitmap of 64 chunks of 64 KiB.
    pub(crate) fn page(events: u64, bits: u64) -> Vec<u8> {
        let mut raw = vec![0; SECTOR_BYTES];
        raw[0..4].copy_from_slice(&MAGIC.to_le_bytes());
        raw[4] = 4;
        raw[24..32].copy_from_slice(&events.to_le_bytes());
        raw[40..48].copy_from_slice(&(64 * 128u64).to_le_bytes());
        raw[52..56].copy_from_slice(&65536u32.to_le_bytes());
        raw[256..264].copy_from_slice(&bits.to_le_bytes());
        raw
    }

    fn copy(bits: u64) -> BitmapCopy {
        let mut bytes = Bytes::default();
        bytes.put(Sector(16), &page(3, bits));
        BitmapCopy::read(Sector(16), 8192, &bytes).unwrap()
    }

    #[test]
    fn bits_belong_to_chunks_least_significant_first() {
        let mut copy = copy(0b1010);
        assert!(copy.is_set(1) && copy.is_set(3) && !copy.is_set(0));
        assert_eq!(copy.set(), 2);
        assert_eq!(copy.sectors(1), SectorRange::new(Sector(128), 128).unwrap());
        let across = SectorRange::new(Sector(120), 16).unwrap();
        assert_eq!(copy.chunks(across), 0..2);
        let mut changed = copy.apply(Sector(16), &page(4, 0b0011));
        changed.sort_unstable();
        assert_eq!(changed, [(0, true), (3, false)]);
        assert_eq!(copy.header().events, 4);
    }

    #[test]
    fn other_bitmaps_are_refused() {
        for (version, why) in [(5, "clustered"), (6, "lockless")] {
            let mut raw = page(1, 0);
            raw[4] = version;
            let header = bitmap_header(&raw).unwrap();
            assert!(header.refusal().is_some_and(|said| said.contains(why)));
            let mut bytes = Bytes::default();
            bytes.put(Sector(16), &raw);
            let read = BitmapCopy::read(Sector(16), 8192, &bytes);
            assert_eq!(read, Err(BadBitmap::None));
        }
    }

    /// A header may ask for anything: what the legs can't need is not allocated.
    #[test]
    fn more_bits_than_the_legs_need_are_refused() {
        let refused = |sync: u64, chunk: u32, most| {
            let mut raw = page(1, 0);
            raw[40..48].copy_from_slice(&sync.to_le_bytes());
            raw[52..56].copy_from_slice(&chunk.to_le_bytes());
            let mut bytes = Bytes::default();
            bytes.put(Sector(16), &raw);
            matches!(
                BitmapCopy::read(Sector(16), most, &bytes),
                Err(BadBitmap::Refused(_))
            )
        };
        assert!(!refused(8192, 512, 8192));
        assert!(refused(8193, 512, 8192), "larger than the legs");
        assert!(refused(8192, 1536, 8192), "no power of two");
        assert!(refused(8192, 256, 8192), "less than a sector");
        assert!(!refused(CHUNKS_MAX, 512, u64::MAX));
        assert!(refused(CHUNKS_MAX + 1, 512, u64::MAX), "too many");
        assert!(refused(u64::MAX, 1 << 31, u64::MAX), "too many");
    }

    /// A header by which the bits lie otherwise: the copy is read anew, from what is there and what is on its way.
    #[test]
    fn bits_that_are_laid_anew_are_read_by_the_new_header() {
        let old = copy(0b1);
        let mut wider = page(5, 0b110);
        wider[52..56].copy_from_slice(&131_072u32.to_le_bytes());
        let mut more = page(5, 0b110);
        more[40..48].copy_from_slice(&(8192u64 * 128).to_le_bytes());
        assert!(!old.is_laid_anew(Sector(16), &page(9, 0b11)));
        assert!(!old.is_laid_anew(Sector(17), &wider));
        let mut bytes = Bytes::default();
        bytes.put(Sector(17), &[0xff; SECTOR_BYTES]);
        for (raw, chunk) in [(&wider, 256), (&more, 128)] {
            assert!(old.is_laid_anew(Sector(16), raw));
            let pages = [(Sector(16), &raw[..])];
            let new = old.anew(1 << 20, &bytes, pages.into_iter()).unwrap();
            assert_eq!((new.header().events, new.chunk_sectors()), (5, chunk));
            assert!(!new.is_set(0) && new.is_set(1) && new.is_set(2));
            assert!(!new.is_laid_anew(Sector(16), raw));
            // Of the bits behind the first sector, those that the leg holds; none are left of a bitmap that has fewer.
            assert_eq!(new.is_set(2048), chunk == 128);
            let none = old.anew(8192 / 2, &bytes, pages.into_iter());
            assert!(matches!(none, Err(BadBitmap::Refused(_))));
        }
    }

    #[test]
    fn bad_blocks_end_at_the_first_unused_entry() {
        let mut raw = vec![0xff; 4096];
        raw[0..8].copy_from_slice(&((2048u64 << 10) | 8).to_le_bytes());
        assert_eq!(
            bad_blocks(&raw, 0),
            [SectorRange::new(Sector(2048), 8).unwrap()]
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(mut raw in prop::collection::vec(any::<u8>(), 1024), sealed: bool, chunk in 0u32..40, shift: u8, start in 0u64..40) {
            if sealed {
                raw[0..4].copy_from_slice(&MAGIC.to_le_bytes());
                raw[4..8].copy_from_slice(&4u32.to_le_bytes());
                raw[40..48].copy_from_slice(&8192u64.to_le_bytes());
                raw[52..56].copy_from_slice(&1u32.checked_shl(chunk).unwrap_or(0).to_le_bytes());
            }
            let mut bytes = Bytes::default();
            bytes.put(Sector(16), &raw);
            if let Ok(mut copy) = BitmapCopy::read(Sector(16), 8192, &bytes) {
                let before = copy.clone();
                for (chunk, set) in copy.apply(Sector(start), &raw) {
                    prop_assert!(set != before.is_set(chunk));
                }
                prop_assert!(copy.chunks(SectorRange::new(Sector(start), 900).unwrap()).end <= copy.chunks);
                let _free = copy.set();
            }
            for range in bad_blocks(&raw, shift) {
                prop_assert!(range.end() > range.start());
            }
        }
    }
}
