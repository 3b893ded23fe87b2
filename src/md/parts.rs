//! What of a leg md was given, and so where superblocks may be: also of a leg that grows, whose superblock stays where it was until md moves it
//! (`md.c:super_1_rdev_size_change`).

use smallvec::SmallVec;

use super::superblock::{self, BadSuperblock, Layout, Superblock};
use crate::block::SectorRange;
use crate::shadow::Bytes;

/// The sectors that md was given, the newest first.
#[derive(Clone, Debug)]
pub struct Parts(SmallVec<[SectorRange; 1]>);

impl Parts {
    /// Of a leg that has not grown.
    pub fn new(part: SectorRange) -> Parts {
        Parts(SmallVec::from_elem(part, 1))
    }

    /// The leg has grown. Tells whether that is new.
    pub fn grow(&mut self, part: SectorRange) -> bool {
        let new = part.end() > self.newest().end();
        if new {
            self.0.insert(0, part);
        }
        new
    }

    /// The sectors as they are now.
    pub fn newest(&self) -> SectorRange {
        self.0.first().copied().unwrap_or_default()
    }

    /// All of them, the newest first.
    pub fn iter(&self) -> impl Iterator<Item = SectorRange> {
        self.0.iter().copied()
    }

    /// Whether a superblock may be in a range, whatever its version.
    pub fn may_hold_superblock(&self, range: SectorRange) -> bool {
        self.iter()
            .flat_map(|part| Layout::ALL.map(|layout| layout.place(part)))
            .flatten()
            .any(|place| place.intersection(range).is_some())
    }

    /// The leg's superblock: where it belongs by the leg's size now, else where it belonged before.
    ///
    /// # Errors
    /// As [`superblock::find`].
    pub fn find(&self, bytes: &Bytes) -> Result<Superblock, BadSuperblock> {
        self.find_by(|place| bytes.read(place.start(), place.count()))
    }

    /// [`Self::find`], with what holds the sectors read by the caller.
    ///
    /// # Errors
    /// As [`superblock::find`].
    pub fn find_by(
        &self,
        mut read: impl FnMut(SectorRange) -> Vec<u8>,
    ) -> Result<Superblock, BadSuperblock> {
        self.iter()
            .map(|part| superblock::find_by(part, &mut read))
            .find(|found| *found != Err(BadSuperblock::None))
            .unwrap_or(Err(BadSuperblock::None))
    }
}
