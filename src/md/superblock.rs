//! md superblocks, versions 0.90, 1.0, 1.1 and 1.2, out of a leg's bytes.
//!
//! Layout and checksums: `include/uapi/linux/raid/md_p.h` and `drivers/md/md.c` (`super_90_*`, `super_1_*`, `calc_sb_1_csum`), Linux 6.12.

use crate::block::{SECTOR_BYTES, Sector, SectorRange};
use crate::shadow::Bytes;

const MAGIC: u32 = 0xa92b_4efc;
/// Entries of `dev_roles` at most (`md.c:super_1_load`).
const MAX_DEV: u32 = 1920;
/// `resync_offset` of an array in sync.
pub const IN_SYNC: u64 = u64::MAX;

/// The version and place of a superblock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Layout {
    /// 0.90: 64 to 128 KiB before the leg's end, data from sector 0.
    V0,
    /// 1.0: 8 to 12 KiB before the leg's end.
    V1_0,
    /// 1.1: at the leg's start.
    V1_1,
    /// 1.2: 4 KiB from the leg's start.
    V1_2,
}

impl Layout {
    /// All of them.
    pub const ALL: [Layout; 4] = [Layout::V1_2, Layout::V1_1, Layout::V1_0, Layout::V0];

    /// Where a leg of so many sectors has its superblock; `None` if it is too small for one.
    pub fn position(self, leg_sectors: u64) -> Option<Sector> {
        match self {
            Layout::V0 => (leg_sectors & !127).checked_sub(128),
            Layout::V1_0 => leg_sectors.checked_sub(16).map(|at| at & !7),
            Layout::V1_1 => Some(0),
            Layout::V1_2 => Some(8),
        }
        .filter(|at| at + 8 <= leg_sectors)
        .map(Sector)
    }

    /// The place of the superblock of a leg of which md was given `part`.
    pub fn place(self, part: SectorRange) -> Option<SectorRange> {
        let at = self.position(part.count())?;
        SectorRange::new(part.start().checked_add(at.0)?, 8)
    }

    /// The version as md writes it.
    pub fn name(self) -> &'static str {
        match self {
            Layout::V0 => "0.90",
            Layout::V1_0 => "1.0",
            Layout::V1_1 => "1.1",
            Layout::V1_2 => "1.2",
        }
    }
}

/// An array's uuid.
pub type Uuid = [u8; 16];

/// What a leg's own superblock says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Superblock {
    /// Its version and place.
    pub layout: Layout,
    /// Where it lies on the leg.
    pub position: Sector,
    /// The array.
    pub uuid: Uuid,
    /// The raid level; 1 for raid1.
    pub level: i32,
    /// How the level lays data out; for raid10 near copies and, from bit 8, far copies (`raid10.c:setup_geo`). 0 where it is not read.
    pub level_layout: u32,
    /// The chunk size in sectors, of a level that stripes. 0 where it is not read.
    pub chunk_sectors: u64,
    /// Sectors of each leg that the array uses.
    pub size: u64,
    /// Legs that the array is made of.
    pub raid_disks: u32,
    /// The leg's place in `roles` (not its role).
    pub dev_number: u32,
    /// Roles by device number: below 0xff00 a slot, 0xffff spare, 0xfffe faulty, 0xfffd journal.
    pub roles: Vec<u16>,
    /// First data sector on this leg.
    pub data_offset: u64,
    /// Feature bits (version 1).
    pub features: u32,
    /// Whether reads should go elsewhere.
    pub write_mostly: bool,
    /// Whether failfast is on.
    pub failfast: bool,
    /// The update counter.
    pub events: u64,
    /// [`IN_SYNC`], or the checkpoint; 0 while dirty.
    pub resync_offset: u64,
    /// How far the leg is recovered, in sectors from `data_offset`, while it is.
    pub recovery_offset: Option<u64>,
    /// First sector of the bitmap on the leg, if there is one.
    pub bitmap: Option<Sector>,
    /// The bad-block log: its sectors on the leg, and how far its entries are shifted.
    pub bad_blocks: Option<(SectorRange, u8)>,
    /// Sectors that the kernel writes when it writes this superblock to a leg with blocks of 512 bytes (`md.c:super_1_sync`, `rdev->sb_size`).
    pub sectors: u64,
}

/// Feature bits that are looked at (`md_p.h`).
pub mod feature {
    /// The bitmap's offset is valid.
    pub const BITMAP_OFFSET: u32 = 0x1;
    /// The leg is being recovered.
    pub const RECOVERY_OFFSET: u32 = 0x2;
    /// The array is being reshaped.
    pub const RESHAPE_ACTIVE: u32 = 0x4;
    /// The bad-block log is not empty.
    pub const BAD_BLOCKS: u32 = 0x8;
    /// The leg is a replacement.
    pub const REPLACEMENT: u32 = 0x10;
    /// The data is moving to another offset.
    pub const NEW_OFFSET: u32 = 0x40;
    /// The leg is recovered by the bitmap.
    pub const RECOVERY_BITMAP: u32 = 0x80;
    /// A clustered array.
    pub const CLUSTERED: u32 = 0x100;
    /// An array with a journal.
    pub const JOURNAL: u32 = 0x200;
}

/// Why a leg has no superblock to go by.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadSuperblock {
    /// None of the places has the magic.
    #[error("no md superblock")]
    None,
    /// Right magic, wrong checksum: torn or damaged.
    #[error("md {layout} superblock at sector {at} has a wrong checksum: torn or damaged", layout = .0.name(), at = .1)]
    Checksum(Layout, Sector),
    /// It says that it lies elsewhere: a copy of another place.
    #[error("md {layout} superblock at sector {at} says that it belongs to sector {2}", layout = .0.name(), at = .1)]
    Elsewhere(Layout, Sector, u64),
    /// It contradicts itself or the leg.
    #[error("md {layout} superblock at sector {at} makes no sense: {2}", layout = .0.name(), at = .1)]
    Nonsense(Layout, Sector, &'static str),
}

impl Superblock {
    /// The superblock of a part of a leg, in the leg's sectors. (All its places lie in the part, which lies on the leg.)
    fn shifted(self, by: u64) -> Superblock {
        let shift = |at: Sector| Sector(at.0 + by);
        Superblock {
            position: shift(self.position),
            data_offset: self.data_offset + by,
            bitmap: self.bitmap.map(shift),
            bad_blocks: self.bad_blocks.map(|(range, unit)| {
                let range = SectorRange::new(shift(range.start()), range.count());
                (range.unwrap_or_default(), unit)
            }),
            ..self
        }
    }

    /// The leg sectors that hold the array's data.
    pub fn data(&self) -> SectorRange {
        SectorRange::new(Sector(self.data_offset), self.size).unwrap_or_default()
    }

    /// The leg's role by this superblock's own table: 0xffff where it has none.
    pub fn role_of(&self, dev_number: u32) -> u16 {
        usize::try_from(dev_number)
            .ok()
            .and_then(|at| self.roles.get(at))
            .copied()
            .unwrap_or(0xffff)
    }
}

/// Looks at every place where the part of a leg that md was given may have a superblock and takes the good one; of several, the one with the most
/// events, and of these the newest layout.
///
/// # Errors
/// [`BadSuperblock`]: the first one that is not [`BadSuperblock::None`], if there is any.
pub fn find(bytes: &Bytes, part: SectorRange) -> Result<Superblock, BadSuperblock> {
    find_by(part, |place| bytes.read(place.start(), place.count()))
}

/// [`find`], with what holds the sectors read by the caller: too few bytes are no superblock.
///
/// # Errors
/// As [`find`].
pub fn find_by(
    part: SectorRange,
    mut read: impl FnMut(SectorRange) -> Vec<u8>,
) -> Result<Superblock, BadSuperblock> {
    let mut best: Option<Superblock> = None;
    let mut worst = BadSuperblock::None;
    for layout in Layout::ALL {
        let (Some(at), Some(place)) = (layout.position(part.count()), layout.place(part)) else {
            continue;
        };
        match decode(layout, at, &read(place), part.count()) {
            Ok(found) => {
                let found = found.shifted(part.start().0);
                if best.as_ref().is_none_or(|best| best.events < found.events) {
                    best = Some(found);
                }
            }
            Err(BadSuperblock::None) => {}
            Err(bad) => {
                if worst == BadSuperblock::None {
                    worst = bad;
                }
            }
        }
    }
    best.ok_or(worst)
}

/// Whether bytes begin as a version 1 superblock of an array does: right magic, its uuid.
pub fn names(bytes: &[u8], uuid: &Uuid) -> bool {
    bytes.len() >= 32 && u32_at(bytes, 0) == MAGIC && sixteen(bytes, 16) == *uuid
}

/// Reads one superblock out of the 4096 bytes at its place. Any bytes are survived.
///
/// # Errors
/// [`BadSuperblock`].
pub fn decode(
    layout: Layout,
    at: Sector,
    bytes: &[u8],
    leg_sectors: u64,
) -> Result<Superblock, BadSuperblock> {
    if bytes.len() < 8 * SECTOR_BYTES || u32_at(bytes, 0) != MAGIC {
        return Err(BadSuperblock::None);
    }
    match layout {
        Layout::V0 => decode_0(at, bytes, leg_sectors),
        Layout::V1_0 | Layout::V1_1 | Layout::V1_2 => decode_1(layout, at, bytes, leg_sectors),
    }
}

fn decode_1(
    layout: Layout,
    at: Sector,
    bytes: &[u8],
    leg_sectors: u64,
) -> Result<Superblock, BadSuperblock> {
    let nonsense = |why| BadSuperblock::Nonsense(layout, at, why);
    if u32_at(bytes, 4) != 1 {
        return Err(nonsense("its major version is not 1"));
    }
    let max_dev = u32_at(bytes, 220);
    if max_dev > MAX_DEV {
        return Err(nonsense("it lists more devices than fit"));
    }
    if checksum_1(bytes, max_dev) != u32_at(bytes, 216) {
        return Err(BadSuperblock::Checksum(layout, at));
    }
    let super_offset = u64_at(bytes, 144);
    if super_offset != at.0 {
        return Err(BadSuperblock::Elsewhere(layout, at, super_offset));
    }
    let (size, data_offset) = (u64_at(bytes, 80), u64_at(bytes, 128));
    if data_offset
        .checked_add(size)
        .is_none_or(|end| end > leg_sectors)
    {
        return Err(nonsense("its data area is larger than the leg"));
    }
    let raid_disks = u32_at(bytes, 92);
    if raid_disks > MAX_DEV {
        return Err(nonsense("it has more members than fit"));
    }
    let features = u32_at(bytes, 8);
    let bitmap_offset = i64::from(u32_at(bytes, 96).cast_signed());
    let bitmap = (features & feature::BITMAP_OFFSET != 0)
        .then(|| at.0.checked_add_signed(bitmap_offset))
        .flatten()
        .filter(|bitmap| *bitmap < leg_sectors)
        .map(Sector);
    let bad_blocks = i64::from(u32_at(bytes, 188).cast_signed());
    let bad_blocks = (bad_blocks != 0)
        .then(|| at.0.checked_add_signed(bad_blocks))
        .flatten()
        .and_then(|first| {
            let sectors = u64::from(u16::from_le_bytes([bytes[186], bytes[187]]));
            SectorRange::new(Sector(first), sectors.min(8))
        })
        .filter(|range| !range.is_empty() && range.end().0 <= leg_sectors)
        .map(|range| (range, bytes[185]));
    let devflags = bytes[184];
    Ok(Superblock {
        layout,
        position: at,
        uuid: sixteen(bytes, 16),
        level: u32_at(bytes, 72).cast_signed(),
        level_layout: u32_at(bytes, 76),
        chunk_sectors: u64::from(u32_at(bytes, 88)),
        size,
        raid_disks,
        dev_number: u32_at(bytes, 160),
        roles: bytes[256..]
            .chunks_exact(2)
            .take(crate::block::to_usize(u64::from(max_dev)))
            .map(|two| u16::from_le_bytes([two[0], two[1]]))
            .collect(),
        data_offset,
        features,
        write_mostly: devflags & 1 != 0,
        failfast: devflags & 2 != 0,
        events: u64_at(bytes, 200),
        resync_offset: u64_at(bytes, 208),
        recovery_offset: (features & feature::RECOVERY_OFFSET != 0).then(|| u64_at(bytes, 152)),
        bitmap,
        bad_blocks,
        sectors: (256 + 2 * u64::from(max_dev)).div_ceil(SECTOR_BYTES as u64),
    })
}

/// The fields of version 1 that must be the same on all legs with the same events: name, first byte, bytes (`md.c:super_1_sync`).
const SHARED: [(&str, usize, usize); 18] = [
    ("major_version", 4, 4),
    ("set_uuid", 16, 16),
    ("set_name", 32, 32),
    ("ctime", 64, 8),
    ("level", 72, 4),
    ("layout", 76, 4),
    ("size", 80, 8),
    ("chunksize", 88, 4),
    ("raid_disks", 92, 4),
    ("new_level", 100, 4),
    ("reshape_position", 104, 8),
    ("delta_disks", 112, 4),
    ("new_layout", 116, 4),
    ("new_chunk", 120, 4),
    ("utime", 192, 8),
    ("events", 200, 8),
    ("resync_offset", 208, 8),
    // 7.3.4 has it; padding, zeros, up to 6.18.15.
    ("logical_block_size", 224, 4),
];

/// The first shared field in which two version 1 superblocks differ.
pub fn unlike(one: &[u8], other: &[u8]) -> Option<&'static str> {
    let own = feature::RECOVERY_OFFSET
        | feature::BAD_BLOCKS
        | feature::REPLACEMENT
        | feature::NEW_OFFSET
        | feature::RECOVERY_BITMAP;
    let short = 8 * SECTOR_BYTES;
    if one.len() < short || other.len() < short {
        return None;
    }
    if (u32_at(one, 8) ^ u32_at(other, 8)) & !own != 0 {
        return Some("feature_map");
    }
    for (name, at, len) in SHARED {
        if one[at..at + len] != other[at..at + len] {
            return Some(name);
        }
    }
    let roles = |bytes: &[u8]| -> Vec<u16> {
        let count = crate::block::to_usize(u64::from(u32_at(bytes, 220).min(MAX_DEV)));
        let mut roles: Vec<u16> = bytes[256..]
            .chunks_exact(2)
            .take(count)
            .map(|two| u16::from_le_bytes([two[0], two[1]]))
            .collect();
        // A longer table says the same with empty entries.
        while roles.last() == Some(&0xffff) {
            roles.pop();
        }
        roles
    };
    (roles(one) != roles(other)).then_some("dev_roles")
}

/// `md.c:calc_sb_1_csum`.
pub fn checksum_1(bytes: &[u8], max_dev: u32) -> u32 {
    let len = (256 + 2 * crate::block::to_usize(u64::from(max_dev.min(MAX_DEV)))).min(bytes.len());
    let mut sum: u64 = 0;
    for (at, word) in bytes[..len].chunks(4).enumerate() {
        sum += match *word {
            _ if at == 216 / 4 => 0,
            [a, b, c, d] => u64::from(u32::from_le_bytes([a, b, c, d])),
            [a, b, ..] => u64::from(u16::from_le_bytes([a, b])),
            _ => 0,
        };
    }
    let folded = (sum & 0xffff_ffff) + (sum >> 32);
    u32::try_from(folded & 0xffff_ffff).expect("masked to 32 bits")
}

fn decode_0(at: Sector, bytes: &[u8], leg_sectors: u64) -> Result<Superblock, BadSuperblock> {
    let nonsense = |why| BadSuperblock::Nonsense(Layout::V0, at, why);
    let word = |index: usize| u32_at(bytes, index * 4);
    if word(1) != 0 || !(90..=91).contains(&word(2)) {
        return Err(nonsense("its version is not 0.90"));
    }
    if checksum_0(bytes) != word(38) {
        return Err(BadSuperblock::Checksum(Layout::V0, at));
    }
    let size = u64::from(word(8)) * 2;
    if size > leg_sectors {
        return Err(nonsense("its data area is larger than the leg"));
    }
    let raid_disks = word(10);
    if raid_disks > 27 {
        return Err(nonsense("it has more members than fit"));
    }
    let mut uuid = [0; 16];
    uuid[0..4].copy_from_slice(&bytes[20..24]);
    uuid[4..16].copy_from_slice(&bytes[52..64]);
    // Descriptors 0..27 of 32 words from word 128; the leg's own is at word 992.
    let descriptor = |base: usize| (word(base), word(base + 3), word(base + 4));
    let mut roles = vec![0xffff; 27];
    for (index, role) in roles.iter_mut().enumerate() {
        let (_, raid_disk, state) = descriptor(128 + 32 * index);
        *role = if state & 1 != 0 {
            0xfffe
        } else if state & 0b110 == 0b110 && raid_disk < raid_disks {
            u16::try_from(raid_disk).unwrap_or(0xffff)
        } else {
            0xffff
        };
    }
    let (number, _, own_state) = descriptor(992);
    let clean = word(33) & 1 != 0;
    let checkpoint = word(43);
    Ok(Superblock {
        layout: Layout::V0,
        position: at,
        uuid,
        level: word(7).cast_signed(),
        level_layout: 0,
        chunk_sectors: 0,
        size,
        raid_disks,
        dev_number: number,
        roles,
        data_offset: 0,
        features: 0,
        write_mostly: own_state & (1 << 9) != 0,
        failfast: own_state & (1 << 10) != 0,
        events: u64::from(word(39)) | u64::from(word(40)) << 32,
        // With the clean bit, recovery_cp is all ones or the checkpoint (`md.c:super_90_validate`).
        resync_offset: match (clean, word(41) == word(39) && word(42) == word(40)) {
            (true, true) if checkpoint != u32::MAX => u64::from(checkpoint),
            (true, _) => IN_SYNC,
            (false, _) => 0,
        },
        recovery_offset: None,
        bitmap: (word(33) & (1 << 8) != 0).then(|| Sector(at.0 + 8)),
        bad_blocks: None,
        sectors: 8,
    })
}

/// `md.c:calc_sb_csum` for 0.90: all 1024 words with the checksum taken as 0, folded to 32 bits.
pub fn checksum_0(bytes: &[u8]) -> u32 {
    let sum: u64 = bytes[..8 * SECTOR_BYTES]
        .chunks_exact(4)
        .enumerate()
        .filter(|(at, _)| *at != 38)
        .map(|(_, word)| u64::from(u32::from_le_bytes([word[0], word[1], word[2], word[3]])))
        .sum();
    u32::try_from(((sum & 0xffff_ffff) + (sum >> 32)) & 0xffff_ffff).expect("masked to 32 bits")
}

pub(super) fn sixteen(bytes: &[u8], at: usize) -> [u8; 16] {
    bytes[at..at + 16].try_into().expect("sixteen bytes")
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}
