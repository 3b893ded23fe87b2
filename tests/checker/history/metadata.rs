//! What md writes about its data: superblocks, bitmap, bad blocks.

use legwatch::block::{Operation, SECTOR_BYTES};
use legwatch::md::superblock::checksum_1;

use super::{Block, History, data_offset};

impl History {
    /// What md does before data goes out: the dirty mark, and the bits.
    pub(super) fn before_data(&mut self, leg: u8, sector: u64, count: u64) {
        if !self.dirty {
            self.superblocks(false);
        }
        let mut bits = self.bits;
        for at in sector..sector + count {
            bits |= 1 << (self.on_array(leg, at) / self.chunk);
        }
        if self.bitmap && bits != self.bits {
            self.set_bits(bits);
        }
    }

    /// md writes the bitmap's page with these bits to all legs.
    pub fn set_bits(&mut self, bits: u128) {
        self.bits = bits;
        for leg in 0..self.legs() {
            if self.failed != Some(leg) {
                self.bitmap_page(leg, bits);
            }
        }
    }

    pub fn bitmap_page(&mut self, leg: u8, bits: u128) {
        let block = self.bitmap_block(bits);
        self.metadata(leg, 16, &[block]);
    }

    pub fn bitmap_block(&self, bits: u128) -> Block {
        let mut bitmap = [0u8; SECTOR_BYTES];
        bitmap[0..4].copy_from_slice(b"bitm");
        bitmap[4] = 4;
        bitmap[8..24].copy_from_slice(&[7; 16]);
        bitmap[24..32].copy_from_slice(&self.md_events.to_le_bytes());
        bitmap[40..48].copy_from_slice(&self.sectors().to_le_bytes());
        bitmap[52..56].copy_from_slice(&(u32::try_from(self.chunk).unwrap() * 512).to_le_bytes());
        bitmap[56] = 5;
        bitmap[60] = if self.write_mostly.is_some() { 255 } else { 0 };
        bitmap[256..272].copy_from_slice(&bits.to_le_bytes());
        bitmap
    }

    /// A leg failed, and md has it on record.
    pub fn fail(&mut self, leg: u8) {
        self.failed = Some(leg);
        self.superblocks(false);
    }

    /// The leg that failed is back, and md has it on record that this leg is to be recovered.
    pub fn recovery_to(&mut self, leg: u8) {
        self.failed = None;
        self.recovering = Some(leg);
        self.superblocks(false);
    }

    /// md writes all superblocks, clean or dirty, and the bitmap's header.
    pub fn superblocks(&mut self, clean: bool) {
        self.md_events += 1;
        self.dirty = !clean;
        let roles: Vec<u16> = (0..self.legs())
            .map(|leg| {
                if self.failed == Some(leg) {
                    0xfffe
                } else {
                    self.roles.get(&leg).copied().unwrap_or(u16::from(leg))
                }
            })
            .collect();
        for leg in 0..self.legs() {
            if self.failed == Some(leg) {
                continue;
            }
            if self.bitmap {
                self.bitmap_page(leg, self.bits);
            }
            let recovered = (self.recovering == Some(leg)).then_some(self.recovered);
            self.superblock_with(leg, clean, &roles, 0, recovered);
        }
    }

    /// The array is resized, and its bitmap laid anew: first the pages go out as they are now, under the header as it was (`md-bitmap.c:__bitmap_resize`).
    pub fn resize(&mut self, size: u64, chunk: u64) {
        self.set_bits(0);
        self.resized(size, chunk);
    }

    /// Then headers and superblocks say so (`md.c:size_store`).
    pub fn resized(&mut self, size: u64, chunk: u64) {
        (self.size, self.chunk) = (size, chunk);
        self.superblocks(false);
    }

    /// The next update, of which leg a gets the superblock before the bitmap's header.
    pub fn header_late(&mut self) {
        self.bump();
        self.superblock(0, false, &[0, 1]);
        self.bitmap_page(0, self.bits);
        self.bitmap_page(1, self.bits);
        self.superblock(1, false, &[0, 1]);
    }

    /// md goes back to the clean state before.
    pub fn superblocks_back(&mut self) {
        self.md_events -= 2;
        self.superblocks(true);
    }

    pub fn superblock(&mut self, leg: u8, clean: bool, roles: &[u16]) {
        self.superblock_with(leg, clean, roles, 0, None);
    }

    /// With another creation time, and while a leg is being recovered.
    pub fn superblock_with(
        &mut self,
        leg: u8,
        clean: bool,
        roles: &[u16],
        ctime: u8,
        recovered: Option<u64>,
    ) {
        let block = self.superblock_block(leg, clean, roles, ctime, recovered);
        self.last.insert(leg, block);
        self.metadata(leg, 8, &[block]);
    }

    fn superblock_block(
        &self,
        leg: u8,
        clean: bool,
        roles: &[u16],
        ctime: u8,
        recovered: Option<u64>,
    ) -> Block {
        let mut raw = vec![0u8; 4096];
        let mut put = |at: usize, bytes: &[u8]| raw[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &0xa92b_4efcu32.to_le_bytes());
        put(4, &1u32.to_le_bytes());
        let bad = self.bad.get(&leg).is_some_and(|bad| !bad.is_empty());
        let features = u32::from(self.bitmap)
            | if recovered.is_some() { 2 } else { 0 }
            | if bad { 8 } else { 0 }
            | self.features.get(&leg).copied().unwrap_or(0);
        put(8, &features.to_le_bytes());
        put(64, &[ctime]);
        put(152, &recovered.unwrap_or(0).to_le_bytes());
        put(16, &[7; 16]);
        let (level, layout) = match self.raid10_chunk {
            Some(_) => (10u32, 0x102u32),
            None => (1, 0),
        };
        put(72, &level.to_le_bytes());
        put(76, &layout.to_le_bytes());
        let chunk = u32::try_from(self.raid10_chunk.unwrap_or(0)).unwrap();
        put(88, &chunk.to_le_bytes());
        put(80, &self.size.to_le_bytes());
        put(92, &u32::from(self.legs()).to_le_bytes());
        put(96, &8u32.to_le_bytes());
        put(128, &data_offset(leg).to_le_bytes());
        put(144, &8u64.to_le_bytes());
        put(160, &u32::from(leg).to_le_bytes());
        put(184, &[u8::from(self.write_mostly == Some(leg))]);
        put(186, &8u16.to_le_bytes());
        put(188, &24u32.to_le_bytes());
        put(200, &self.md_events.to_le_bytes());
        let resync = if clean { u64::MAX } else { self.checkpoint };
        put(208, &resync.to_le_bytes());
        let max = u32::try_from(roles.len()).unwrap();
        put(220, &max.to_le_bytes());
        for (at, role) in roles.iter().enumerate() {
            put(256 + 2 * at, &role.to_le_bytes());
        }
        let sum = checksum_1(&raw, max);
        raw[216..220].copy_from_slice(&sum.to_le_bytes());
        // The kernel writes as much as the role table needs.
        raw[..SECTOR_BYTES].try_into().unwrap()
    }

    /// `mdadm --create` has made an array of the legs, which is to be resynced; it writes more than the kernel does.
    pub(super) fn create(&mut self) {
        for leg in 0..self.legs() {
            let roles: Vec<u16> = (0..self.legs()).map(u16::from).collect();
            let mut whole = [[0; SECTOR_BYTES]; 8];
            whole[0] = self.superblock_block(leg, false, &roles, 0, None);
            self.metadata(leg, 8, &whole);
        }
    }

    pub fn last_superblock(&self, leg: u8) -> &Block {
        &self.last[&leg]
    }

    /// md records a bad block of a leg, in its own sectors.
    pub fn record_bad(&mut self, leg: u8, start: u64, count: u64) {
        let bad = self.bad.entry(leg).or_default();
        bad.push((start, count));
        let mut block: Block = [0xff; SECTOR_BYTES];
        for (entry, (start, count)) in block.chunks_exact_mut(8).zip(bad) {
            entry.copy_from_slice(&(*start << 10 | *count).to_le_bytes());
        }
        self.metadata(leg, 32, &[block]);
        self.superblocks(false);
    }

    pub fn bump(&mut self) {
        self.md_events += 1;
    }

    pub fn metadata(&mut self, leg: u8, at: u64, blocks: &[Block]) {
        self.flush(leg);
        let request = self.arrive_at(leg, Operation::Write, at, blocks.len() as u64);
        self.fetch_with(request, blocks, true);
        self.complete(request);
        if self.meta_flush {
            self.flush(leg);
        }
    }
}
