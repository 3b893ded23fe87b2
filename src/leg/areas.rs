//! Where a leg holds md's metadata and where data: read from its own superblock whenever one may have changed.
//!
//! What counts is what the medium holds, not what lies over it: a superblock that a power cut rolled back, or that was discarded, counts no longer;
//! one that a rule lost still does, as its leg honestly has it.

use super::disk::Disk;
use super::faulty::bytes_of;
use crate::block::{Sector, SectorRange};
use crate::config::{LegConfig, Record};
use crate::md::{OnLeg, Parts, never_metadata};

/// The areas of a leg.
#[derive(Debug)]
pub(super) struct Areas {
    /// The sectors that md was given.
    parts: Parts,
    /// Whether the user says which part md was given: it does not grow with the leg.
    fixed: bool,
    /// What the user says of the sectors that hold nothing but data.
    declared: Option<SectorRange>,
    /// Those sectors; payloads of writes that are wholly in them are not recorded.
    data: Option<SectorRange>,
}

impl Areas {
    /// As the user says it: nothing was read yet.
    pub(super) fn new(config: &LegConfig, sectors: u64) -> Areas {
        let whole = SectorRange::new(Sector(0), sectors).unwrap_or_default();
        let part = config.part.and_then(|part| part.intersection(whole));
        Areas {
            parts: Parts::new(part.unwrap_or(whole)),
            fixed: part.is_some(),
            declared: config.data,
            data: config.data,
        }
    }

    fn among_data(&self, range: SectorRange) -> bool {
        self.data.is_some_and(|area| area.covers(range))
    }

    /// Whether a superblock may be in `range`, whatever its version.
    fn holds_superblock(&self, range: SectorRange) -> bool {
        !self.among_data(range) && self.parts.may_hold_superblock(range)
    }
}

impl Disk {
    /// Whether the journal gets the payload of a write to `range`.
    pub(super) fn keeps_payload(&self, range: SectorRange) -> bool {
        match self.record {
            Record::All => true,
            Record::Metadata => !self.areas.among_data(range),
            Record::None => false,
        }
    }

    /// What the medium holds in `range` has changed. If a superblock may be there, it is read: what the next request finds known of the array
    /// depends on the requests before it alone, and not on how far the checker is.
    pub(super) fn changed(&mut self, range: SectorRange) {
        if self.areas.holds_superblock(range) {
            self.read_superblock();
        }
    }

    /// The leg has so many sectors now.
    pub(super) fn areas_grow(&mut self, sectors: u64) {
        if let Some(whole) = SectorRange::new(Sector(0), sectors)
            && !self.areas.fixed
            && self.areas.parts.grow(whole)
        {
            self.read_superblock();
        }
    }

    /// Brings the areas up to date.
    pub(super) fn read_superblock(&mut self) {
        let read = |place: SectorRange| {
            let mut bytes = vec![0; bytes_of(place)];
            match self.medium.read(place, &mut bytes) {
                Ok(()) => self.plain.bytes(place.start(), &bytes),
                // Whoever reads there is told.
                Err(_) => Vec::new(),
            }
        };
        let superblock = self.areas.parts.find_by(read).ok();
        self.areas.data = match &superblock {
            // Nowhere may metadata be, whatever size md took the leg for.
            Some(superblock) => self
                .areas
                .parts
                .iter()
                .try_fold(superblock.data(), never_metadata),
            None => self.areas.declared,
        };
        self.shared.set_array(match &superblock {
            Some(superblock) => OnLeg::of(superblock),
            None => self.areas.declared.map(OnLeg::whole),
        });
    }
}
