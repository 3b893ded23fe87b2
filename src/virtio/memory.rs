//! The guest's memory as the frontend shares it: regions by guest-physical and by the frontend's own ("user") addresses.
//!
//! A [`Memory`] never changes. A new table is a new `Memory`, which may share regions with the one before; requests that are held keep the
//! one that they were parsed with, so what they point at stays mapped.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use crate::cut_short::Guard;

/// Why memory that a frontend shares is refused.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// Empty, or past the end of addresses.
    #[error("memory region of {bytes} bytes at guest address {gpa:#x} makes no sense")]
    Range {
        /// Guest-physical address.
        gpa: u64,
        /// Size in bytes.
        bytes: u64,
    },
    /// Two regions claim one address.
    #[error("memory regions overlap at guest address {gpa:#x}")]
    Overlap {
        /// Guest-physical address of the second one.
        gpa: u64,
    },
    /// The file is shorter than the region.
    #[error(
        "memory region at guest address {gpa:#x} needs {needed} bytes of its file, which has {bytes}"
    )]
    ShortFile {
        /// Guest-physical address.
        gpa: u64,
        /// Bytes needed.
        needed: u64,
        /// Bytes there.
        bytes: u64,
    },
    /// No such region.
    #[error("no memory region of {bytes} bytes at guest address {gpa:#x} to remove")]
    Unknown {
        /// Guest-physical address.
        gpa: u64,
        /// Size in bytes.
        bytes: u64,
    },
    /// More mappings than can be watched.
    #[error("memory region at guest address {gpa:#x} is one too many; too many are shared already")]
    TooMany {
        /// Guest-physical address.
        gpa: u64,
    },
    /// The kernel refuses.
    #[error("mapping the memory region at guest address {gpa:#x}")]
    Map {
        /// Guest-physical address.
        gpa: u64,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// A piece of guest memory that is contiguous here, too. Valid as long as the [`Memory`] that it came from.
#[derive(Clone, Copy, Debug)]
pub struct Piece {
    /// Guest-physical address.
    pub gpa: u64,
    /// Bytes, not 0.
    pub len: u32,
    /// Where it is here.
    pub(super) host: *mut u8,
}

// SAFETY: a piece is an address; whoever uses it keeps the memory alive, on whatever thread.
unsafe impl Send for Piece {}

/// One region, mapped.
#[derive(Debug)]
pub struct Region {
    gpa: u64,
    bytes: u64,
    user: u64,
    host: *mut u8,
    map: *mut libc::c_void,
    map_bytes: usize,
    /// Until the mapping goes.
    guard: Option<Guard>,
}

// SAFETY: the mapping belongs to the region until it is dropped; access to it is through raw copies alone.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl Region {
    /// Maps `bytes` of `file` from `offset`; they are guest-physical from `gpa` and the frontend's from `user`.
    ///
    /// # Errors
    /// [`MemoryError`]: a range that wraps or is empty, a file that is too short, a mapping that the kernel refuses.
    pub fn map(
        file: &File,
        offset: u64,
        gpa: u64,
        user: u64,
        bytes: u64,
    ) -> Result<Region, MemoryError> {
        const PAGE: u64 = 4096;
        let nonsense = MemoryError::Range { gpa, bytes };
        let (Some(_), Some(_), Some(needed)) = (
            gpa.checked_add(bytes),
            user.checked_add(bytes),
            offset.checked_add(bytes),
        ) else {
            return Err(nonsense);
        };
        let at_fault = |source| MemoryError::Map { gpa, source };
        // A page of the mapping behind the file's end would kill us when touched.
        let file_bytes = file.metadata().map_err(at_fault)?.len();
        if file_bytes < needed {
            return Err(MemoryError::ShortFile {
                gpa,
                needed,
                bytes: file_bytes,
            });
        }
        // The offset need not be a page's (a region may begin anywhere in its file), a mapping's must be.
        let lead = offset % PAGE;
        let (Some(map_bytes), Ok(map_offset), true) = (
            bytes
                .checked_add(lead)
                .and_then(|b| usize::try_from(b).ok()),
            libc::off_t::try_from(offset.saturating_sub(lead)),
            bytes > 0,
        ) else {
            return Err(nonsense);
        };
        // SAFETY: a new shared mapping at an address of the kernel's choice touches nothing that exists.
        let map = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                map_bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_NORESERVE,
                file.as_raw_fd(),
                map_offset,
            )
        };
        if map == libc::MAP_FAILED {
            return Err(at_fault(std::io::Error::last_os_error()));
        }
        let region = Region {
            gpa,
            bytes,
            user,
            host: map
                .cast::<u8>()
                .wrapping_add(usize::try_from(lead).unwrap_or(0)),
            map,
            map_bytes,
            guard: Guard::new(map, map_bytes),
        };
        // Without its guard a file that is cut short would kill us. What was mapped goes with the region.
        if region.guard.is_none() {
            return Err(MemoryError::TooMany { gpa });
        }
        Ok(region)
    }

    /// `gpa + bytes`, which was checked not to wrap.
    fn end(&self) -> u64 {
        self.gpa.saturating_add(self.bytes)
    }

    /// The byte at `offset` here. The caller has checked `offset < bytes`, so it is in the mapping.
    fn at(&self, offset: u64) -> *mut u8 {
        debug_assert!(offset < self.bytes, "within the region");
        self.host
            .wrapping_add(usize::try_from(offset).unwrap_or(usize::MAX))
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        self.guard = None;
        // SAFETY: the mapping is the region's own, and no piece of it outlives the region's `Memory`.
        unsafe {
            libc::munmap(self.map, self.map_bytes);
        }
    }
}

/// All regions, in the order of their guest-physical addresses.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    regions: Vec<Arc<Region>>,
}

impl Memory {
    /// A table of regions.
    ///
    /// # Errors
    /// [`MemoryError::Overlap`].
    pub fn new(mut regions: Vec<Arc<Region>>) -> Result<Memory, MemoryError> {
        regions.sort_by_key(|region| region.gpa);
        for (a, b) in regions.iter().zip(regions.iter().skip(1)) {
            if a.end() > b.gpa {
                return Err(MemoryError::Overlap { gpa: b.gpa });
            }
        }
        Ok(Memory { regions })
    }

    /// The table with one more region.
    ///
    /// # Errors
    /// [`MemoryError::Overlap`].
    pub fn with(&self, region: Region) -> Result<Memory, MemoryError> {
        let mut regions = self.regions.clone();
        regions.push(Arc::new(region));
        Memory::new(regions)
    }

    /// The table without the region that has exactly these addresses.
    ///
    /// # Errors
    /// [`MemoryError::Unknown`].
    pub fn without(&self, gpa: u64, user: u64, bytes: u64) -> Result<Memory, MemoryError> {
        let mut regions = self.regions.clone();
        let before = regions.len();
        regions.retain(|r| (r.gpa, r.user, r.bytes) != (gpa, user, bytes));
        if regions.len() == before {
            return Err(MemoryError::Unknown { gpa, bytes });
        }
        Ok(Memory { regions })
    }

    /// Whether the frontend has cut a region's file short, and we have met that: what was read there since is zeros and nobody's.
    pub fn is_lost(&self) -> bool {
        let guards = self
            .regions
            .iter()
            .filter_map(|region| region.guard.as_ref());
        { guards }.any(Guard::is_lost)
    }

    /// How many regions.
    pub fn regions(&self) -> usize {
        self.regions.len()
    }

    fn region(&self, gpa: u64) -> Option<&Region> {
        let behind = self.regions.partition_point(|region| region.gpa <= gpa);
        let region = self.regions.get(behind.checked_sub(1)?)?;
        (gpa < region.end()).then_some(region)
    }

    /// Hands the pieces of `len` bytes from guest-physical `gpa` to `take`, in order. `false`, and possibly some pieces already handed over,
    /// if any byte is not in the memory or the addresses wrap.
    pub fn pieces(&self, mut gpa: u64, len: u32, mut take: impl FnMut(Piece)) -> bool {
        if gpa.checked_add(u64::from(len)).is_none() {
            return false;
        }
        let mut left = len;
        while left > 0 {
            let Some(region) = self.region(gpa) else {
                return false;
            };
            let here = u32::try_from(region.end().saturating_sub(gpa))
                .unwrap_or(u32::MAX)
                .min(left);
            take(Piece {
                gpa,
                len: here,
                host: region.at(gpa.saturating_sub(region.gpa)),
            });
            gpa = gpa.saturating_add(u64::from(here));
            left = left.saturating_sub(here);
        }
        true
    }

    /// Where `bytes` bytes from the frontend's own address `user` are here, if one region holds them all.
    pub(super) fn user(&self, user: u64, bytes: u64) -> Option<*mut u8> {
        self.regions.iter().find_map(|region| {
            let offset = user.checked_sub(region.user)?;
            let end = offset.checked_add(bytes)?;
            (bytes > 0 && end <= region.bytes).then(|| region.at(offset))
        })
    }

    /// Copies guest memory from `gpa` into `out`; `false` if it is not all there.
    pub fn read(&self, gpa: u64, out: &mut [u8]) -> bool {
        let Ok(len) = u32::try_from(out.len()) else {
            return false;
        };
        let mut at = 0usize;
        self.pieces(gpa, len, |piece| {
            let here = usize::try_from(piece.len).unwrap_or(0);
            if let Some(to) = out.get_mut(at..at.saturating_add(here)) {
                // SAFETY: the piece's bytes are mapped (the memory is alive, it is `self`), `to` has as many.
                unsafe { std::ptr::copy_nonoverlapping(piece.host, to.as_mut_ptr(), here) };
            }
            at = at.saturating_add(here);
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::os::fd::FromRawFd;

    /// An anonymous file of `bytes`.
    pub(crate) fn memfd(bytes: u64) -> File {
        // SAFETY: a plain system call with a constant name; the descriptor it returns is new and ours.
        let file = unsafe {
            let fd = libc::memfd_create(c"test".as_ptr(), libc::MFD_CLOEXEC);
            assert!(fd >= 0, "memfd");
            File::from_raw_fd(fd)
        };
        file.set_len(bytes).unwrap();
        file
    }

    #[test]
    fn pieces_cross_regions_and_stop_at_holes() {
        let file = memfd(0x3000);
        let region = |offset, gpa, bytes| {
            Arc::new(Region::map(&file, offset, gpa, gpa + 0x7000_0000, bytes).unwrap())
        };
        let memory = Memory::new(vec![
            region(0x1000, 0x2000, 0x1000),
            region(0, 0x1000, 0x1000),
            region(0x2000, 0x5000, 0x800),
        ])
        .unwrap();
        let mut seen = Vec::new();
        assert!(memory.pieces(0x1ff0, 0x20, |p| seen.push((p.gpa, p.len))));
        assert_eq!(seen, [(0x1ff0, 0x10), (0x2000, 0x10)]);
        assert!(!memory.pieces(0x2ff0, 0x20, |_| {}), "runs into a hole");
        assert!(!memory.pieces(0x0, 1, |_| {}), "below all");
        assert!(!memory.pieces(u64::MAX, 2, |_| {}), "wraps");
        assert!(memory.pieces(0x57ff, 1, |_| {}));
        assert!(!memory.pieces(0x57ff, 2, |_| {}));
        assert!(memory.user(0x7000_5000, 0x800).is_some());
        assert!(memory.user(0x7000_5000, 0x801).is_none());
        assert!(memory.user(u64::MAX, 0x10).is_none());
        assert_eq!(
            memory
                .without(0x5000, 0x7000_5000, 0x800)
                .unwrap()
                .regions(),
            2
        );
        memory.without(0x5000, 0x7000_5000, 0x801).unwrap_err();
    }

    #[test]
    fn nonsense_is_refused() {
        let file = memfd(0x1000);
        Region::map(&file, 0, u64::MAX, 0, 0x1000).unwrap_err();
        Region::map(&file, 0, 0, u64::MAX, 0x1000).unwrap_err();
        Region::map(&file, u64::MAX, 0, 0, 0x1000).unwrap_err();
        Region::map(&file, 0, 0, 0, 0).unwrap_err();
        assert!(matches!(
            Region::map(&file, 0x800, 0, 0, 0x1000),
            Err(MemoryError::ShortFile { .. })
        ));
        let unaligned = Region::map(&file, 0x10, 0, 0, 0x100).unwrap();
        let twice = Region::map(&file, 0, 0xff, 0, 0x100).unwrap();
        Memory::new(vec![Arc::new(unaligned), Arc::new(twice)]).unwrap_err();
    }
}
