//! What a corruption does to bytes.

use super::rule::Corrupt;
use crate::block::SECTOR_BYTES;
use crate::stamp::SplitMix64;

/// Changes `bytes` (whole sectors) as `corrupt` says; what it takes from another sector the caller has put there before.
pub fn damage(corrupt: &Corrupt, mut chance: SplitMix64, bytes: &mut [u8]) {
    if let Some(bits) = corrupt.flip_bits {
        let all = bytes.len() as u64 * 8;
        let mut flipped = std::collections::BTreeSet::new();
        while (flipped.len() as u64) < u64::from(bits).min(all) {
            let bit = chance.below(all);
            if flipped.insert(bit) {
                bytes[crate::block::to_usize(bit / 8)] ^= 1 << (bit % 8);
            }
        }
    }
    if let Some(stuck) = corrupt.stuck {
        for sector in bytes.chunks_exact_mut(SECTOR_BYTES) {
            if let Some(byte) = sector.get_mut(usize::from(stuck.byte)) {
                let bit = 1u8 << (stuck.bit & 7);
                *byte = if stuck.one { *byte | bit } else { *byte & !bit };
            }
        }
    }
    if let Some(fill) = corrupt.fill {
        bytes.fill(fill);
    }
    if corrupt.random {
        for word in bytes.chunks_mut(8) {
            let random = chance.next_u64().to_le_bytes();
            word.copy_from_slice(&random[..word.len()]);
        }
    }
}
