//! The content that a stamped sector has: it names itself, so that whoever reads it knows what was meant to be there.
//!
//! A stamp is a function of ([`Stamp::run`], target, sector, writer, sequence) alone: the agent writes it, the host makes the same
//! bytes again, and neither keeps them. Little-endian layout of the 512 bytes:
//!
//! | offset | bytes | field |
//! | --- | --- | --- |
//! | 0 | 8 | magic `LEGSTAMP` |
//! | 8 | 8 | run |
//! | 16 | 8 | target sector |
//! | 24 | 8 | sequence of the write within its writer, from 1 |
//! | 32 | 2 | writer |
//! | 34 | 2 | target (the device that was written to) |
//! | 36 | 4 | CRC-32 of the sector with this field 0 |
//! | 40 | 472 | fill: pseudo-random words from all of the above |
//!
//! The CRC must not stand last: CRC-32 of a message with its own CRC behind it is one constant, and the journal's digests of all
//! stamped sectors would be equal.

use serde::{Deserialize, Serialize};

use crate::block::{SECTOR_BYTES, Sector};

const MAGIC: [u8; 8] = *b"LEGSTAMP";
const CRC_AT: usize = 36;
const FILL_AT: usize = 40;

/// Who wrote a sector, where, and which of its writes it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Stamp {
    /// The run's number, from its seed and start: stamps of an earlier run on the same medium are not this run's.
    pub run: u64,
    /// The device written to, as numbered by the plan.
    pub target: u16,
    /// The sector on that device.
    pub sector: Sector,
    /// The writer within the plan.
    pub writer: u16,
    /// The write's number within its writer, from 1.
    pub sequence: u64,
}

/// SplitMix64 (Steele, Lea, Flood 2014): the generator that every seed of legwatch goes through.
#[derive(Clone, Debug)]
pub struct SplitMix64(pub u64);

impl SplitMix64 {
    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound` (bias below 2^-32 for bounds below 2^32); 0 for bound 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        let wide = u128::from(self.next_u64()) * u128::from(bound);
        u64::try_from(wide >> 64).expect("a product shifted right by 64 fits")
    }
}

impl Stamp {
    /// Fills one sector with the stamp's content.
    ///
    /// # Panics
    /// If `out` is not one sector long.
    pub fn write(&self, out: &mut [u8]) {
        assert_eq!(out.len(), SECTOR_BYTES, "a stamp fills one sector");
        out[0..8].copy_from_slice(&MAGIC);
        out[8..16].copy_from_slice(&self.run.to_le_bytes());
        out[16..24].copy_from_slice(&self.sector.0.to_le_bytes());
        out[24..32].copy_from_slice(&self.sequence.to_le_bytes());
        out[32..34].copy_from_slice(&self.writer.to_le_bytes());
        out[34..36].copy_from_slice(&self.target.to_le_bytes());
        out[CRC_AT..FILL_AT].fill(0);
        let mut words = SplitMix64(
            SplitMix64(self.run ^ self.sector.0.rotate_left(17)).next_u64()
                ^ SplitMix64(
                    self.sequence ^ (u64::from(self.writer) << 48) ^ (u64::from(self.target) << 32),
                )
                .next_u64(),
        );
        for word in out[FILL_AT..].chunks_exact_mut(8) {
            word.copy_from_slice(&words.next_u64().to_le_bytes());
        }
        let crc = crc32fast::hash(out);
        out[CRC_AT..FILL_AT].copy_from_slice(&crc.to_le_bytes());
    }

    /// The stamp's content.
    pub fn to_sector(&self) -> [u8; SECTOR_BYTES] {
        let mut out = [0; SECTOR_BYTES];
        self.write(&mut out);
        out
    }

    /// The journal's digest of the stamp's content.
    pub fn digest(&self) -> u32 {
        crc32fast::hash(&self.to_sector())
    }

    /// Reads a sector's stamp. `None`: no magic. `Some((stamp, whole))`: what the header claims, and whether the whole sector is exactly
    /// that stamp's content.
    pub fn read(bytes: &[u8]) -> Option<(Stamp, bool)> {
        if bytes.len() != SECTOR_BYTES || bytes[0..8] != MAGIC {
            return None;
        }
        let u64_at =
            |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        let u16_at =
            |at: usize| u16::from_le_bytes(bytes[at..at + 2].try_into().expect("two bytes"));
        let stamp = Stamp {
            run: u64_at(8),
            sector: Sector(u64_at(16)),
            sequence: u64_at(24),
            writer: u16_at(32),
            target: u16_at(34),
        };
        Some((stamp, stamp.to_sector() == bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn a_stamp_reads_back_and_any_flipped_bit_is_seen() {
        let stamp = Stamp {
            run: 7,
            target: 1,
            sector: Sector(8200),
            writer: 3,
            sequence: 119,
        };
        let bytes = stamp.to_sector();
        assert_eq!(Stamp::read(&bytes), Some((stamp, true)));
        for bit in [64, 130, 200, 290, 330, 4095] {
            let mut torn = bytes;
            torn[bit / 8] ^= 1 << (bit % 8);
            assert!(!Stamp::read(&torn).unwrap().1, "bit {bit}");
        }
    }

    #[test]
    fn digests_of_different_stamps_differ() {
        let mut digests = BTreeSet::new();
        for sector in 0..200 {
            for sequence in 1..50 {
                digests.insert(
                    Stamp {
                        run: 1,
                        target: 0,
                        sector: Sector(sector),
                        writer: 0,
                        sequence,
                    }
                    .digest(),
                );
            }
        }
        assert!(digests.len() >= 200 * 49 - 1, "{} of 9800", digests.len());
    }
}
