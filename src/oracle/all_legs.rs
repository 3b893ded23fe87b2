//! `all-legs`: a write seen on one active leg is seen on every active leg.
//!
//! Covers: data-area sectors written since the array had two active legs, with or without stamps, at points of rest (a quiet point that was reached, the
//! orderly end with md clean). At the end mark of an unstamped write: legs that never got anything for a sector which another leg got. At the end mark of a
//! stamped one: legs that were never given it while another leg was, where an overlapping write makes their content right all the same.
//!
//! Does not cover: else sectors whose stamps are known (`stamp` says more), legs that answered with an error (14), discards (`discard-all`), writes of the
//! guest's programs to a leg itself (17: forbidden in a test), a sector rewritten so often that its history is gone.

use crate::block::Sector;
use crate::shadow::{LegShadow, Origin, Version};

/// Whether `behind` holds what `ahead` had before its newest write: a write that went to one and not to the other.
pub(crate) fn missed(behind: &LegShadow, ahead: &LegShadow, sectors: (Sector, Sector)) -> bool {
    let (old, new) = (behind.current(sectors.0), ahead.current(sectors.1));
    new.origin == Origin::Write
        && old.no < new.no
        && (old.origin == Origin::Initial
            || ahead
                .versions(sectors.1)
                .skip(1)
                .any(|version| version.digest == old.digest))
}

/// Whether both legs had both contents, as often: overlapping writes that the legs took in another order (case 13).
pub(crate) fn both_in_another_order(
    one: &LegShadow,
    other: &LegShadow,
    sectors: (Sector, Sector),
) -> bool {
    let (a, b) = (one.current(sectors.0), other.current(sectors.1));
    let count = |shadow: &LegShadow, at: Sector, version: Version| {
        shadow
            .versions(at)
            .filter(|v| v.origin == Origin::Write && v.digest == version.digest)
            .count()
    };
    [a, b].into_iter().all(|version| {
        let counts = (
            count(one, sectors.0, version),
            count(other, sectors.1, version),
        );
        counts.0 == counts.1 && counts.0 > 0
    })
}
