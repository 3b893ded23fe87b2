//! Feature bits and the config space (virtio 1.2, 5.2.3 and 5.2.4).

use super::defs::{
    F_BLK_SIZE, F_CONFIG_WCE, F_DISCARD, F_EVENT_IDX, F_FLUSH, F_INDIRECT_DESC, F_MQ,
    F_PROTOCOL_FEATURES, F_RING_PACKED, F_RO, F_SEG_MAX, F_SIZE_MAX, F_TOPOLOGY, F_VERSION_1,
    F_WRITE_ZEROES, RANGE_SECTORS_MAX, RANGES_MAX, SEG_MAX, SIZE_MAX,
};
use super::request::Limits;

/// Offset of `writeback`, the write-cache switch, in the config space.
pub const WRITEBACK_AT: u32 = 32;
/// Bytes of config space that can be read; those behind the last field are 0.
pub const SPACE_BYTES: usize = 256;

/// Whether `features` has bit number `bit`.
pub fn has(features: u64, bit: u32) -> bool {
    features & 1u64.wrapping_shl(bit) != 0
}

/// The feature bits that a device with these limits offers.
pub fn features(limits: &Limits) -> u64 {
    let always = [
        F_SIZE_MAX,
        F_SEG_MAX,
        F_BLK_SIZE,
        F_TOPOLOGY,
        F_MQ,
        F_INDIRECT_DESC,
        F_EVENT_IDX,
        F_PROTOCOL_FEATURES,
        F_VERSION_1,
        F_RING_PACKED,
    ]
    .map(|bit| (bit, true));
    let some = [
        (F_RO, limits.read_only),
        (F_FLUSH, limits.flush),
        (F_CONFIG_WCE, limits.flush),
        (F_DISCARD, limits.discard),
        (F_WRITE_ZEROES, limits.write_zeroes),
    ];
    always
        .into_iter()
        .chain(some)
        .filter(|(_, offered)| *offered)
        .fold(0, |bits, (bit, _)| bits | 1u64.wrapping_shl(bit))
}

/// The config space of a device with these limits.
pub fn config(limits: &Limits, queues: u16, writeback: bool) -> [u8; SPACE_BYTES] {
    let block_sectors = u32::try_from(limits.block_sectors).unwrap_or(1);
    let mut space = [0; SPACE_BYTES];
    let mut put = |at: usize, bytes: &[u8]| {
        if let Some(to) = space.get_mut(at..at.saturating_add(bytes.len())) {
            to.copy_from_slice(bytes);
        }
    };
    put(0, &limits.sectors.to_le_bytes());
    put(8, &SIZE_MAX.to_le_bytes());
    put(12, &SEG_MAX.to_le_bytes());
    put(20, &block_sectors.saturating_mul(512).to_le_bytes());
    // Topology: a physical block is 2^n logical ones, minimal and optimal I/O in logical blocks.
    put(24, &[0, 0]);
    put(26, &1u16.to_le_bytes());
    put(28, &0u32.to_le_bytes());
    put(32, &[u8::from(writeback)]);
    put(34, &queues.to_le_bytes());
    if limits.discard {
        put(36, &RANGE_SECTORS_MAX.to_le_bytes());
        put(40, &RANGES_MAX.to_le_bytes());
        put(44, &block_sectors.to_le_bytes());
    }
    if limits.write_zeroes {
        put(48, &RANGE_SECTORS_MAX.to_le_bytes());
        put(52, &RANGES_MAX.to_le_bytes());
        put(56, &[1]);
    }
    space
}
