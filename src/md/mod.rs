//! What md says about itself on the legs: superblocks and bitmap headers, folded into arrays and their active legs.
//!
//! A leg is *active* when its own superblock carries the array's uuid, its role in the freshest superblock is below 0xff00, its own superblock has
//! no `RECOVERY_OFFSET`, and no fault that md has not recorded yet is pending on it (`docs/` md reference, "Words").
//! Without any superblock, legs whose data area the user declared are taken for one mirror.
//!
//! The bitmap's bits and the bad-block log are decoded in [`bitmap`]; `oracle` keeps a copy of each leg's, as sent and as completed.
//!
//! A raid10 in a near layout is taken for the mirrors that it is: one, like a raid1, where each leg has a copy of every chunk, else one for each pair of
//! legs (or three, with three copies). Each of these is an [`Array`] here, whose sectors are those of its legs; [`stripe`] knows where they lie on the whole.
//!
//! Not covered: several arrays on parts of one leg. Arrays that are reshaped, clustered, with a journal, with a lockless bitmap or of another level
//! are recognised and refused in one line.

pub mod bitmap;
pub mod parts;
pub mod stripe;
pub mod superblock;

pub use bitmap::{BadBitmap, BitmapCopy, BitmapHeader};
pub use parts::Parts;
pub use stripe::{OnLeg, Stripe};
pub use superblock::{BadSuperblock, IN_SYNC, Layout, Superblock, Uuid};

use crate::block::{LegId, SECTOR_BYTES, Sector, SectorRange};
use crate::shadow::Bytes;
use superblock::feature;

/// An array's identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ArrayKey {
    /// Its uuid; zeros for the mirror that the user declared where no superblock tells one.
    pub uuid: Uuid,
    /// Which mirror of a raid10's it is; 0 for all others.
    pub mirror: u8,
}

/// The identity of the mirror that the user declared where no superblock tells one.
pub const DECLARED: ArrayKey = ArrayKey {
    uuid: [0; 16],
    mirror: 0,
};

/// A leg as a member of an array.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The leg.
    pub leg: LegId,
    /// Its slot by the freshest superblock; `None`: spare, faulty, removed.
    pub slot: Option<u16>,
    /// The leg sectors that hold the array's data: array sector 0 is the first.
    pub data: SectorRange,
    /// Whether it is write-mostly.
    pub write_mostly: bool,
    /// Whether it is active.
    pub active: bool,
}

/// An array as its legs describe it; of a raid10 that is made of several mirrors, one of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Array {
    /// Its identity.
    pub key: ArrayKey,
    /// Its size in sectors.
    pub sectors: u64,
    /// Whether it is a raid10, or a part of one.
    pub raid10: bool,
    /// Where its sectors lie on the whole, of which it is a part.
    pub stripe: Option<Stripe>,
    /// Whether it has fewer active legs than it should have; of a raid10, whether the whole has.
    pub degraded: bool,
    /// The freshest superblock's counter.
    pub events: u64,
    /// Whether every active leg's last superblock says that all legs agree.
    pub clean: bool,
    /// Whether all active legs' superblocks have said so at least once, or have been dirty with nothing to resync before: initial resync over.
    pub resync_offset: u64,
    /// The bitmap's write-behind limit; 0: there is no write-behind.
    pub write_behind: u32,
    /// Its legs, in the run's order.
    pub members: Vec<Member>,
    /// Why it is not checked; `None` for a plain raid1.
    pub refused: Option<&'static str>,
    /// Whether it is the mirror that the user declared.
    pub declared: bool,
}

impl Array {
    /// The member that a leg is.
    pub fn member(&self, leg: LegId) -> Option<&Member> {
        self.members.iter().find(|member| member.leg == leg)
    }

    /// The active members.
    pub fn active(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|member| member.active)
    }

    /// The size of the whole in sectors, as the guest sees it.
    pub fn whole_sectors(&self) -> u64 {
        match self.stripe {
            Some(stripe) => stripe.array_sectors(self.sectors),
            None => self.sectors,
        }
    }

    /// The sectors of the whole that a range of the array is.
    pub fn on_whole(&self, range: SectorRange) -> impl Iterator<Item = SectorRange> + use<> {
        stripe::on_whole(self.stripe, range)
    }

    /// How many of the sectors of the whole below this one are the array's.
    pub fn below(&self, on_whole: u64) -> u64 {
        match self.stripe {
            Some(stripe) if on_whole != IN_SYNC => stripe.below(on_whole),
            Some(_) | None => on_whole,
        }
    }

    /// The chunks of a bitmap that a range of the array touches, in order. (A bitmap counts in sectors of the whole.)
    pub fn chunks(&self, bitmap: &BitmapCopy, range: SectorRange) -> impl Iterator<Item = u64> {
        let mut next = 0;
        self.on_whole(range)
            .flat_map(|range| bitmap.chunks(range))
            .filter(move |chunk| {
                let new = *chunk >= next;
                next = next.max(chunk + 1);
                new
            })
    }

    /// The sectors of the array in a chunk of a bitmap.
    pub fn of_chunk(&self, bitmap: &BitmapCopy, chunk: u64) -> SectorRange {
        let whole = bitmap.sectors(chunk);
        let own = self.stripe.map_or(whole, |stripe| stripe.on_mirror(whole));
        let all = SectorRange::new(Sector(0), self.sectors).unwrap_or_default();
        own.intersection(all).unwrap_or_default()
    }

    /// Whether a leg may lag behind an acknowledgement (`raid1.c:raid1_write_request`, write-behind).
    pub fn may_lag(&self, member: &Member) -> bool {
        member.write_mostly && self.write_behind > 0
    }
}

/// A leg's metadata as decoded last.
#[derive(Clone, Debug)]
struct LegState {
    /// What of the leg md was given.
    parts: Parts,
    declared: Option<SectorRange>,
    superblock: Result<Superblock, BadSuperblock>,
    bitmap: Option<BitmapHeader>,
    faulty: bool,
}

/// The fold.
#[derive(Debug)]
pub struct Model {
    legs: Vec<LegState>,
    arrays: Vec<Array>,
}

impl Model {
    /// A model of legs of which md was given these sectors, and with declared data areas.
    pub fn new(legs: impl Iterator<Item = (SectorRange, Option<SectorRange>)>) -> Model {
        let legs = legs
            .map(|(part, declared)| LegState {
                parts: Parts::new(part),
                declared: declared.filter(|range| part.covers(*range) && !range.is_empty()),
                superblock: Err(BadSuperblock::None),
                bitmap: None,
                faulty: false,
            })
            .collect();
        let mut model = Model {
            legs,
            arrays: Vec::new(),
        };
        model.fold(|_| false);
        model
    }

    /// The arrays, by identity.
    pub fn arrays(&self) -> &[Array] {
        &self.arrays
    }

    /// The array that a leg is a member of, with the leg's membership.
    pub fn of(&self, leg: LegId) -> Option<(&Array, &Member)> {
        self.arrays
            .iter()
            .find_map(|array| Some((array, array.member(leg)?)))
    }

    /// An array by its identity.
    pub fn array(&self, key: ArrayKey) -> Option<&Array> {
        self.arrays.iter().find(|array| array.key == key)
    }

    /// The sector of the whole that an array's sector is.
    pub fn on_whole(&self, key: ArrayKey, sector: Sector) -> Sector {
        let stripe = self.array(key).and_then(|array| array.stripe);
        stripe.map_or(sector, |stripe| stripe.on_array(sector))
    }

    /// A leg's superblock, or why it has none.
    ///
    /// # Errors
    /// [`BadSuperblock`] as found last.
    pub fn superblock(&self, leg: LegId) -> Result<&Superblock, &BadSuperblock> {
        match self.legs.get(leg.index()) {
            Some(state) => state.superblock.as_ref(),
            None => Err(&BadSuperblock::None),
        }
    }

    /// Whether a write to `range` of a leg can have changed what the model reads there.
    pub fn concerns(&self, leg: LegId, range: SectorRange) -> bool {
        let Some(state) = self.legs.get(leg.index()) else {
            return false;
        };
        let place = |at: Sector, count| {
            SectorRange::new(at, count).is_some_and(|place| place.intersection(range).is_some())
        };
        state.parts.may_hold_superblock(range)
            || state
                .superblock
                .as_ref()
                .ok()
                .and_then(|superblock| superblock.bitmap)
                .is_some_and(|at| place(at, 1))
    }

    /// Decodes a leg's metadata anew, as it was found there. Tells whether arrays or memberships changed in a way that matters to the checks (not: `events`, `clean`).
    pub fn observe(&mut self, leg: LegId, bytes: &Bytes) -> bool {
        self.decode(leg, bytes);
        self.fold(|_| false)
    }

    /// As [`Self::observe`], after the guest wrote it.
    pub fn written(&mut self, leg: LegId, bytes: &Bytes) -> bool {
        self.decode(leg, bytes);
        self.fold(|other| other != leg)
    }

    /// A leg has grown: this is what md has of it now. Tells what [`Self::observe`] does.
    pub fn grew(&mut self, leg: LegId, part: SectorRange, bytes: &Bytes) -> bool {
        let Some(state) = self.legs.get_mut(leg.index()) else {
            return false;
        };
        let faulty = state.faulty;
        if !state.parts.grow(part) {
            return false;
        }
        self.decode(leg, bytes);
        self.legs[leg.index()].faulty = faulty;
        self.fold(|_| true)
    }

    fn decode(&mut self, leg: LegId, bytes: &Bytes) {
        let Some(state) = self.legs.get_mut(leg.index()) else {
            return;
        };
        state.superblock = state.parts.find(bytes);
        state.bitmap = state
            .superblock
            .as_ref()
            .ok()
            .and_then(|superblock| superblock.bitmap)
            .and_then(|at| bitmap::bitmap_header(&bytes.read(at, 1)));
        state.faulty = false;
    }

    /// A metadata write or flush of a leg failed: until its next good superblock, md may treat the leg as faulty without having said so.
    pub fn suspect(&mut self, leg: LegId) -> bool {
        if let Some(state) = self.legs.get_mut(leg.index()) {
            state.faulty = true;
        }
        self.fold(|_| true)
    }

    /// `awaits`: whether a leg's own superblock may still be on the way.
    fn fold(&mut self, awaits: impl Fn(LegId) -> bool) -> bool {
        let mut uuids: Vec<Uuid> = self
            .legs
            .iter()
            .filter_map(|leg| leg.superblock.as_ref().ok())
            .map(|superblock| superblock.uuid)
            .collect();
        uuids.sort_unstable();
        uuids.dedup();
        let mut arrays: Vec<Array> = uuids
            .into_iter()
            .flat_map(|uuid| self.arrays_of(uuid, &awaits))
            .collect();
        if arrays.is_empty() {
            arrays.extend(self.declared());
        }
        let shape = |arrays: &[Array]| -> Vec<(ArrayKey, u64, u32, Vec<Member>)> {
            arrays
                .iter()
                .map(|a| (a.key, a.sectors, a.write_behind, a.members.clone()))
                .collect()
        };
        let changed = shape(&arrays) != shape(&self.arrays);
        self.arrays = arrays;
        changed
    }

    fn own(&self, uuid: Uuid) -> impl Iterator<Item = (usize, &LegState, &Superblock)> {
        self.legs.iter().enumerate().filter_map(move |(at, leg)| {
            let superblock = leg.superblock.as_ref().ok()?;
            (superblock.uuid == uuid).then_some((at, leg, superblock))
        })
    }

    fn is_active(&self, uuid: Uuid, leg: LegId) -> bool {
        let of = self.arrays.iter().filter(|array| array.key.uuid == uuid);
        of.flat_map(Array::active).any(|member| member.leg == leg)
    }

    /// The array, or one for each mirror of a raid10.
    fn arrays_of(&self, uuid: Uuid, awaits: &impl Fn(LegId) -> bool) -> Vec<Array> {
        let freshest = self
            .own(uuid)
            .map(|(_, _, superblock)| superblock)
            .fold(None::<&Superblock>, |best, one| match best {
                Some(best) if best.events >= one.events => Some(best),
                Some(_) | None => Some(one),
            })
            .expect("a uuid comes from a superblock");
        let mirror_of = |superblock: &Superblock| {
            let roles = [freshest, superblock].map(|by| by.role_of(superblock.dev_number));
            // A leg without a slot was of the mirror that its own superblock still says.
            let slot = roles.into_iter().find(|role| *role < 0xff00).unwrap_or(0);
            stripe::mirror_of(freshest, slot)
        };
        let all: Vec<(u8, Member)> = self
            .own(uuid)
            .map(|(at, leg, superblock)| {
                let role = freshest.role_of(superblock.dev_number);
                let slot = (role < 0xff00).then_some(role);
                let id = LegId(u8::try_from(at).expect("at most eight legs"));
                // md takes a leg that is one event behind (md.c:super_1_validate); more means that it was left out. One that it took is two
                // behind while the others' next superblock is there and its own is on the way (md.c:md_update_sb).
                let behind = if awaits(id) && self.is_active(uuid, id) {
                    2
                } else {
                    1
                };
                let member = Member {
                    leg: id,
                    slot,
                    data: superblock.data(),
                    write_mostly: superblock.write_mostly,
                    // A spare that gets a slot has it in its own superblock when md has begun to recover it, and not before.
                    active: slot.is_some()
                        && superblock.role_of(superblock.dev_number) < 0xff00
                        && superblock.recovery_offset.is_none()
                        && !leg.faulty
                        && superblock.events.saturating_add(behind) >= freshest.events,
                };
                (mirror_of(superblock), member)
            })
            .collect();
        let active = all.iter().filter(|(_, member)| member.active).count();
        let degraded = active < crate::block::to_usize(freshest.raid_disks.into());
        let array = |stripe: Option<Stripe>| {
            let own = |mirror: u8| stripe.is_none_or(|stripe| stripe.mirror() == mirror);
            let members: Vec<Member> = all
                .iter()
                .filter(|(mirror, _)| own(*mirror))
                .map(|(_, member)| member.clone())
                .collect();
            let clean = members
                .iter()
                .filter(|member| member.active)
                .filter_map(|member| self.superblock(member.leg).ok())
                .all(|superblock| superblock.resync_offset == IN_SYNC);
            let bitmaps = || self.own(uuid).filter_map(|(_, leg, _)| leg.bitmap);
            Array {
                key: ArrayKey {
                    uuid,
                    mirror: stripe.map_or(0, Stripe::mirror),
                },
                sectors: stripe.map_or(freshest.size, |stripe| stripe.whole_chunks(freshest.size)),
                raid10: freshest.level == 10,
                stripe,
                degraded,
                events: freshest.events,
                clean,
                resync_offset: freshest.resync_offset,
                write_behind: bitmaps()
                    .map(|bitmap| bitmap.write_behind)
                    .max()
                    .unwrap_or(0),
                refused: refusal(freshest)
                    .or_else(|| bitmaps().find_map(|bitmap| bitmap.refusal())),
                declared: false,
                members,
            }
        };
        let mut arrays: Vec<Array> = Stripe::all(freshest)
            .map(|stripe| array(Some(stripe)))
            .collect();
        if arrays.is_empty() {
            arrays.push(array(None));
        }
        arrays
    }

    fn declared(&self) -> Option<Array> {
        let members: Vec<Member> = self
            .legs
            .iter()
            .enumerate()
            .filter_map(|(at, leg)| {
                Some(Member {
                    leg: LegId(u8::try_from(at).ok()?),
                    slot: Some(u16::try_from(at).ok()?),
                    data: leg.declared?,
                    write_mostly: false,
                    active: !leg.faulty,
                })
            })
            .collect();
        let sectors = members.iter().map(|member| member.data.count()).min()?;
        Some(Array {
            key: DECLARED,
            sectors,
            raid10: false,
            stripe: None,
            degraded: members.iter().any(|member| !member.active),
            events: 0,
            clean: true,
            resync_offset: IN_SYNC,
            write_behind: 0,
            members,
            refused: None,
            declared: true,
        })
    }
}

fn refusal(superblock: &Superblock) -> Option<&'static str> {
    if stripe::mirrors(superblock).is_none() {
        Some(
            "an array of another level than raid1 (or raid10 whose near copies divide its legs) is not checked",
        )
    } else if superblock.features & feature::RESHAPE_ACTIVE != 0 {
        Some("an array that is being reshaped is not checked")
    } else if superblock.features & feature::CLUSTERED != 0 {
        Some("a clustered array is not checked")
    } else if superblock.features & feature::JOURNAL != 0 {
        Some("an array with a journal is not checked")
    } else {
        None
    }
}

/// The part of a data area that certainly never holds metadata, whatever array comes next on what md was given of the leg (`part`): the places of
/// all superblocks, and some room for a bitmap beside them, are left out. Payloads of writes there need not be recorded.
pub fn never_metadata(data: SectorRange, part: SectorRange) -> Option<SectorRange> {
    const HEAD: u64 = 128;
    const TAIL: u64 = 512;
    let start = Sector(data.start().0.max(part.start().0.saturating_add(HEAD)));
    let end = data.end().0.min(part.end().0.saturating_sub(TAIL));
    SectorRange::new(start, end.checked_sub(start.0)?).filter(|range| !range.is_empty())
}

const _: () = assert!(SECTOR_BYTES == 512, "md counts in sectors of 512 bytes");

#[cfg(test)]
mod tests;
