//! A generator for each leg, rule and request, all from the run's seed.

use crate::block::{LegId, RequestId};
use crate::stamp::SplitMix64;

/// The generator of one rule's choices about one request. Another rule, leg or request has another one.
pub fn chance(seed: u64, rule: &str, request: RequestId) -> SplitMix64 {
    let leg = if request.leg == LegId::CONTROL {
        u64::from(u8::MAX)
    } else {
        u64::from(request.leg.0)
    };
    // FNV-1a over the name: short, and the same for ever.
    let name = rule.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let mut mixed = seed;
    for word in [name, leg, request.number] {
        mixed = SplitMix64(mixed ^ word).next_u64();
    }
    SplitMix64(mixed)
}
