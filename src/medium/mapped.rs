//! The pages of an image that are memory anyway (tmpfs), used where they are: nothing has to be copied to a buffer of ours on its way.
//!
//! Only pages that are known to be there are touched. A page that is not there yet is made by a write through the file, where a file system that is full answers
//! with an error instead of SIGBUS; and a hole that is read through a mapping would become a page.

use std::fs::File;
use std::os::fd::AsRawFd;

use super::MemoryMedium;
use crate::block::{SECTOR_BYTES, SectorRange, to_usize};
use crate::cut_short::Guard;

const PAGE_SECTORS: u64 = 8;
const PAGE_BYTES: usize = 4096;
/// Of a word of `there`.
const BITS: u64 = 64;

/// An image's pages. Its owner writes to the file as well.
#[derive(Debug)]
pub(super) struct Mapped {
    /// Goes before the mapping.
    guard: Guard,
    memory: MemoryMedium,
    /// A bit a page: it was written, or read and not zero, and has not been given back.
    there: Vec<u64>,
}

/// The first page of a range, and the one behind its last.
fn pages(range: SectorRange) -> (u64, u64) {
    let first = range.start().0 / PAGE_SECTORS;
    (first, range.end().0.div_ceil(PAGE_SECTORS))
}

impl Mapped {
    /// The pages of an open image of `sectors`; `None` where it has to be read and written by calls: on any other file system, if it may not be written, or without
    /// address space.
    pub(super) fn new(file: &File, sectors: u64) -> Option<Mapped> {
        // SAFETY: all zeros is a valid `statfs`; the descriptor is open, and the place outlives the call.
        let on_tmpfs = unsafe {
            let mut what: libc::statfs = std::mem::zeroed();
            libc::fstatfs(file.as_raw_fd(), &raw mut what) == 0 && what.f_type == libc::TMPFS_MAGIC
        };
        if !on_tmpfs {
            return None;
        }
        let bytes = sectors.checked_mul(SECTOR_BYTES as u64)?;
        let memory = MemoryMedium::on(bytes, Some(file.try_clone().ok()?)).ok()?;
        let (at, room) = memory.mapping();
        let mut mapped = Mapped {
            guard: Guard::new(at.cast(), room)?,
            memory,
            there: Vec::new(),
        };
        mapped.make_room(sectors);
        Some(mapped)
    }

    fn make_room(&mut self, sectors: u64) {
        let words = sectors.div_ceil(PAGE_SECTORS * BITS);
        self.there.resize(to_usize(words), 0);
    }

    /// Follows the image, which has grown; `false` if there are no addresses for that.
    pub(super) fn grow(&mut self, sectors: u64) -> bool {
        self.make_room(sectors);
        self.memory.grow(sectors).is_ok()
    }

    /// Whether somebody else has cut the image short, and we have met that: what was moved since is not the image's, and this is of no more use.
    pub(super) fn is_lost(&self) -> bool {
        self.guard.is_lost()
    }

    fn word(&mut self, page: u64) -> &mut u64 {
        &mut self.there[to_usize(page / BITS)]
    }

    fn are_there(&self, range: SectorRange) -> bool {
        let (first, end) = pages(range);
        (first..end).all(|page| self.there[to_usize(page / BITS)] >> (page % BITS) & 1 == 1)
    }

    /// The bytes of `range`, if all its pages are known to be there.
    pub(super) fn bytes(&self, range: SectorRange) -> Option<&[u8]> {
        self.are_there(range).then(|| self.memory.bytes(range))
    }

    /// The same, to be written.
    pub(super) fn bytes_mut(&mut self, range: SectorRange) -> Option<&mut [u8]> {
        self.are_there(range).then(|| self.memory.bytes_mut(range))
    }

    /// `range` was written through the file.
    pub(super) fn written(&mut self, range: SectorRange) {
        let (first, end) = pages(range);
        for page in first..end {
            *self.word(page) |= 1 << (page % BITS);
        }
    }

    /// `range` was read through the file, and holds `bytes`: where these are not zeros, there is a page.
    pub(super) fn read(&mut self, range: SectorRange, bytes: &[u8]) {
        let (first, end) = pages(range);
        // The first page may begin before the range.
        let lead = to_usize(range.start().0 % PAGE_SECTORS) * SECTOR_BYTES;
        for page in first..end {
            let from = (to_usize(page - first) * PAGE_BYTES).saturating_sub(lead);
            let to = ((to_usize(page - first) + 1) * PAGE_BYTES - lead).min(bytes.len());
            if *self.word(page) >> (page % BITS) & 1 == 0
                && bytes[from..to].iter().any(|byte| *byte != 0)
            {
                *self.word(page) |= 1 << (page % BITS);
            }
        }
    }

    /// `range` was zeroed through the file, and its pages may be gone.
    pub(super) fn zeroed(&mut self, range: SectorRange) {
        let (first, end) = pages(range);
        for page in first..end {
            *self.word(page) &= !(1 << (page % BITS));
        }
    }
}
