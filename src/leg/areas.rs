//! Where a leg holds md's metadata and where data: read from its own superblock as soon as one is stored.

use super::disk::Disk;
use super::faulty::bytes_of;
use crate::block::{Sector, SectorRange};
use crate::config::{LegConfig, Record};
use crate::md::{Layout, never_metadata, superblock};

/// The areas of a leg.
#[derive(Debug)]
pub(super) struct Areas {
    /// The sectors that md was given.
    part: SectorRange,
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
            part: part.unwrap_or(whole),
            declared: config.data,
            data: config.data,
        }
    }

    fn among_data(&self, range: SectorRange) -> bool {
        self.data.is_some_and(|area| area.covers(range))
    }

    /// Whether a superblock may be in `range`, whatever its version.
    fn holds_superblock(&self, range: SectorRange) -> bool {
        let here = |layout: &Layout| {
            let place = layout.place(self.part);
            place.is_some_and(|place| place.intersection(range).is_some())
        };
        !self.among_data(range) && Layout::ALL.iter().any(here)
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

    /// A write to `range` was stored. If it may be a superblock, it is read: what the next request finds known of the array depends on the
    /// requests before it alone, and not on how far the checker is.
    pub(super) fn stored(&mut self, range: SectorRange) {
        if self.areas.holds_superblock(range) {
            self.read_superblock();
        }
    }

    /// Brings the areas up to date.
    pub(super) fn read_superblock(&mut self) {
        let found = superblock::find_by(self.areas.part, |place| {
            let mut bytes = vec![0; bytes_of(place)];
            match self.medium.read(place, &mut bytes) {
                Ok(()) => self.plain.bytes(place.start(), &bytes),
                // Whoever reads there is told.
                Err(_) => Vec::new(),
            }
        });
        let declared = self.areas.declared;
        let array = found.ok().map(|superblock| superblock.data());
        self.areas.data = match array {
            Some(array) => never_metadata(array, self.limits.sectors),
            None => declared,
        };
        self.shared.set_array(array.or(declared));
    }
}
