//! What the checks look at: requests, shadows and md's own word, kept up to date from the events.

use crate::block::{LegId, SectorRange};
use crate::config::MediumConfig;
use crate::header::RunHeader;
use crate::md::{Array, Member, Model};
use crate::shadow::{Bytes, LegShadow, RangeSet, Requests};

/// Everything that the host saw, folded.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) header: RunHeader,
    pub(crate) requests: Requests,
    pub(crate) shadows: Vec<LegShadow>,
    pub(crate) bytes: Vec<Bytes>,
    pub(crate) md: Model,
    /// By leg: bad blocks that md has on record, in the leg's sectors, and that were not written well since.
    pub(crate) bad: Vec<RangeSet>,
}

impl World {
    pub(crate) fn new(header: &RunHeader) -> World {
        let shadows = header
            .legs
            .iter()
            .map(|leg| {
                // Zeros on a leg that keeps ciphertext are no zeros.
                let zeros = matches!(leg.config.medium, MediumConfig::Mem { .. });
                LegShadow::new(zeros && leg.config.crypt.is_none())
            })
            .collect();
        World {
            requests: Requests::default(),
            shadows,
            bytes: header.legs.iter().map(|_| Bytes::default()).collect(),
            bad: header.legs.iter().map(|_| RangeSet::default()).collect(),
            md: Model::new(header.legs.iter().map(|leg| (leg.part(), leg.config.data))),
            header: header.clone(),
        }
    }

    pub(crate) fn has(&self, leg: LegId) -> bool {
        leg.index() < self.shadows.len()
    }

    pub(crate) fn shadow(&self, leg: LegId) -> &LegShadow {
        &self.shadows[leg.index()]
    }

    pub(crate) fn shadow_mut(&mut self, leg: LegId) -> &mut LegShadow {
        &mut self.shadows[leg.index()]
    }

    /// Whether md has it on record that a leg cannot hold a sector (case 10).
    pub(crate) fn is_bad(&self, leg: LegId, at: crate::block::Sector) -> bool {
        self.bad
            .get(leg.index())
            .is_some_and(|bad| bad.contains(at))
    }

    /// Whether a leg offers discard.
    pub(crate) fn discards(&self, leg: LegId) -> bool {
        self.header
            .legs
            .get(leg.index())
            .is_some_and(|head| head.config.discard)
    }

    /// The array that a leg belongs to, if it is one that is checked.
    pub(crate) fn checked(&self, leg: LegId) -> Option<(&Array, &Member)> {
        self.md.of(leg).filter(|(array, _)| array.refused.is_none())
    }
}

/// Array sectors of a leg's range; `None` if it has none.
pub(crate) fn array_range(member: &Member, range: SectorRange) -> Option<SectorRange> {
    let part = range.intersection(member.data)?;
    SectorRange::new(
        crate::block::Sector(part.start().0 - member.data.start().0),
        part.count(),
    )
}

/// Leg sectors of an array's range, cut to the data area.
pub(crate) fn leg_range(member: &Member, range: SectorRange) -> SectorRange {
    crate::block::Sector(member.data.start().0)
        .checked_add(range.start().0)
        .and_then(|start| SectorRange::new(start, range.count()))
        .and_then(|whole| whole.intersection(member.data))
        .unwrap_or_default()
}

/// The leg sector of an array sector.
pub(crate) fn leg_sector(
    member: &Member,
    sector: crate::block::Sector,
) -> Option<crate::block::Sector> {
    member
        .data
        .start()
        .checked_add(sector.0)
        .filter(|at| member.data.contains(*at))
}

/// The bit of a leg in a set of legs.
pub(crate) fn bit(leg: LegId) -> u8 {
    1 << (leg.0 & 7)
}
