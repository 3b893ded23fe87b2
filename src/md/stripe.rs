//! How a raid10 in a near layout lies on its legs: as many of them as there are copies are a mirror, and the array's chunks go to the mirrors in turn.
//!
//! With `k` copies chunk `c` of the array is chunk `c / mirrors` of each leg of mirror `c % mirrors`, whose legs have the slots from `k m` on
//! (`raid10.c:__raid10_find_phys`, `far_copies` 1, `raid_disks` a multiple of `near_copies`).
//!
//! Does not cover: far and offset layouts, numbers of legs that the copies do not divide: there copies of a chunk are at different places.

use super::Superblock;
use crate::block::{Sector, SectorRange};

/// One mirror's part of a raid10.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stripe {
    chunk_sectors: u64,
    mirror: u8,
    mirrors: u8,
}

impl Stripe {
    /// The parts of a raid10, a mirror each; none for an array that is one mirror, or in another layout.
    pub(super) fn all(superblock: &Superblock) -> impl Iterator<Item = Stripe> + use<> {
        let mirrors = mirrors(superblock)
            .filter(|mirrors| *mirrors > 1)
            .unwrap_or(0);
        let chunk_sectors = superblock.chunk_sectors;
        (0..mirrors).map(move |mirror| Stripe {
            chunk_sectors,
            mirror,
            mirrors,
        })
    }

    /// Which mirror it is.
    pub fn mirror(self) -> u8 {
        self.mirror
    }

    /// The sectors of each leg that hold whole chunks, of so many (`raid10.c:raid10_size`).
    pub(super) fn whole_chunks(self, leg_sectors: u64) -> u64 {
        leg_sectors - leg_sectors % self.chunk_sectors
    }

    /// The array's size, where each mirror has so many sectors.
    pub fn array_sectors(self, mirror_sectors: u64) -> u64 {
        mirror_sectors.saturating_mul(u64::from(self.mirrors))
    }

    /// The array sector that a sector of the mirror is.
    pub fn on_array(self, on_mirror: Sector) -> Sector {
        let chunk = (on_mirror.0 / self.chunk_sectors)
            .saturating_mul(u64::from(self.mirrors))
            .saturating_add(u64::from(self.mirror));
        let at = chunk.saturating_mul(self.chunk_sectors);
        Sector(at.saturating_add(on_mirror.0 % self.chunk_sectors))
    }

    /// The array's sectors that a range of the mirror is, chunk by chunk.
    pub fn on_array_all(self, on_mirror: SectorRange) -> impl Iterator<Item = SectorRange> {
        let mut at = on_mirror.start().0;
        std::iter::from_fn(move || {
            let left = on_mirror.end().0.checked_sub(at).filter(|left| *left > 0)?;
            let count = left.min(self.chunk_sectors - at % self.chunk_sectors);
            let range = SectorRange::new(self.on_array(Sector(at)), count)?;
            at += count;
            Some(range)
        })
    }

    /// How many of the array's sectors below this one are the mirror's. Where this one is the mirror's, that is its sector on the mirror.
    pub fn below(self, on_array: u64) -> u64 {
        let chunk = on_array / self.chunk_sectors;
        let (row, column) = (
            chunk / u64::from(self.mirrors),
            chunk % u64::from(self.mirrors),
        );
        row * self.chunk_sectors
            + match column.cmp(&u64::from(self.mirror)) {
                std::cmp::Ordering::Less => 0,
                std::cmp::Ordering::Equal => on_array % self.chunk_sectors,
                std::cmp::Ordering::Greater => self.chunk_sectors,
            }
    }

    /// The mirror's sectors in a range of the array: they follow each other on the mirror. Empty if the range has none of them.
    pub fn on_mirror(self, on_array: SectorRange) -> SectorRange {
        let first = self.below(on_array.start().0);
        let count = self.below(on_array.end().0) - first;
        SectorRange::new(Sector(first), count).unwrap_or_default()
    }
}

/// Where an array lies on one of its legs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OnLeg {
    /// The leg sectors that hold its data.
    data: SectorRange,
    stripe: Option<Stripe>,
}

impl OnLeg {
    /// All of it, from the first of these leg sectors on.
    pub fn whole(data: SectorRange) -> OnLeg {
        OnLeg { data, stripe: None }
    }

    /// As the leg's own superblock has it; `None`: of a raid10 in several mirrors, it does not say in which one the leg is.
    pub fn of(superblock: &Superblock) -> Option<OnLeg> {
        let data = superblock.data();
        let mut mirrors = Stripe::all(superblock).peekable();
        if mirrors.peek().is_none() {
            return Some(OnLeg::whole(data));
        }
        let slot = superblock.role_of(superblock.dev_number);
        let own = mirror_of(superblock, slot);
        let stripe = mirrors.find(|stripe| slot < 0xff00 && stripe.mirror == own)?;
        Some(OnLeg {
            data,
            stripe: Some(stripe),
        })
    }

    /// The leg sectors that hold the array's data.
    pub fn data(&self) -> SectorRange {
        self.data
    }

    /// The leg's sectors that a range of the array is; `None`: it is on other legs.
    pub fn of_array(&self, array: SectorRange) -> Option<SectorRange> {
        let part = match self.stripe {
            Some(stripe) => stripe.on_mirror(array),
            None => array,
        };
        let start = self.data.start().checked_add(part.start().0)?;
        SectorRange::new(start, part.count())?
            .intersection(self.data)
            .filter(|range| !range.is_empty())
    }

    /// The array's sectors that a range of the leg is.
    pub fn on_array(&self, range: SectorRange) -> impl Iterator<Item = SectorRange> + use<> {
        let part = range.intersection(self.data).unwrap_or_default();
        let from = part.start().0.saturating_sub(self.data.start().0);
        let part = SectorRange::new(Sector(from), part.count()).unwrap_or_default();
        on_whole(self.stripe, part)
    }
}

/// The array's sectors that a range of a mirror is; of the one mirror, if there is but one.
pub(super) fn on_whole(
    stripe: Option<Stripe>,
    range: SectorRange,
) -> impl Iterator<Item = SectorRange> + use<> {
    let striped = stripe.map(|stripe| stripe.on_array_all(range));
    let plain = stripe.is_none().then_some(range);
    plain
        .into_iter()
        .chain(striped.into_iter().flatten())
        .filter(|range| !range.is_empty())
}

/// How many copies of a chunk there are, each on a leg of its own and at the same place; `None`: the layout is none of ours.
fn copies(superblock: &Superblock) -> Option<u32> {
    let near = superblock.level_layout & 0xff;
    let only_near = superblock.level_layout & 0xff00 == 1 << 8;
    match superblock.level {
        1 => Some(superblock.raid_disks),
        10 if only_near && near > 1 => Some(near),
        _ => None,
    }
}

/// How many mirrors the array is made of: 1 for a raid1. `None`: it is none of ours.
pub(super) fn mirrors(superblock: &Superblock) -> Option<u8> {
    let (copies, disks) = (copies(superblock)?, superblock.raid_disks);
    if copies == disks {
        return Some(1);
    }
    let whole = disks > 0 && disks % copies == 0 && superblock.chunk_sectors.is_power_of_two();
    whole.then(|| u8::try_from(disks / copies).ok()).flatten()
}

/// The mirror that a slot belongs to, of an array that is made of several.
pub(super) fn mirror_of(superblock: &Superblock, slot: u16) -> u8 {
    let copies = copies(superblock).unwrap_or(1).max(1);
    u8::try_from(u32::from(slot) / copies).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn chunks_go_to_the_mirrors_in_turn() {
        let stripe = |mirror| Stripe {
            chunk_sectors: 8,
            mirror,
            mirrors: 2,
        };
        let range = |start, count| SectorRange::new(Sector(start), count).unwrap();
        assert_eq!(stripe(0).on_array(Sector(9)), Sector(17));
        assert_eq!(stripe(1).on_array(Sector(9)), Sector(25));
        // 4 to 28 of the array: 4+4 and 16+8 are the first mirror's, 8+8 and 24+4 the second's.
        assert_eq!(stripe(0).on_mirror(range(4, 24)), range(4, 12));
        assert_eq!(stripe(1).on_mirror(range(4, 24)), range(0, 12));
        assert!(stripe(1).on_mirror(range(16, 8)).is_empty());
        let back: Vec<_> = stripe(1).on_array_all(range(0, 12)).collect();
        assert_eq!(back, [range(8, 8), range(24, 4)]);
    }

    proptest! {
        #[test]
        fn every_sector_of_an_array_is_one_mirrors(shift in 0u32..8, mirrors in 2u8..5, start in 0u64..5000, count in 0u64..3000) {
            let all: Vec<Stripe> = (0..mirrors).map(|mirror| Stripe { chunk_sectors: 1 << shift, mirror, mirrors }).collect();
            let whole = SectorRange::new(Sector(start), count).unwrap();
            let mut seen: Vec<u64> = Vec::new();
            for stripe in &all {
                let part = stripe.on_mirror(whole);
                for sector in part.sectors() {
                    let at = stripe.on_array(sector);
                    prop_assert_eq!(stripe.below(at.0), sector.0);
                    seen.push(at.0);
                }
                let listed: u64 = stripe.on_array_all(part).map(|range| range.count()).sum();
                prop_assert_eq!(listed, part.count());
                prop_assert!(stripe.on_array_all(part).all(|range| whole.covers(range)));
            }
            seen.sort_unstable();
            prop_assert_eq!(seen, whole.sectors().map(|sector| sector.0).collect::<Vec<_>>());
        }
    }
}
