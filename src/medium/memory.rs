//! Memory as a medium: sparse, pages come when they are first written, and go when they are discarded. It is this process's own, or a memory file
//! (memfd) that somebody else keeps as well, so that it outlives this process.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::MediumError;
use crate::block::{SECTOR_BYTES, SectorRange, to_usize};

/// From this many bytes on a zeroed range is given back to the kernel rather than overwritten (a system call against a store).
const GIVE_BACK_BYTES: usize = 64 << 10;
const PAGE_BYTES: usize = 4096;
/// A medium has huge pages if it is at most so small a part of the machine's memory.
const HUGE_PART: usize = 16;
/// How much a medium may grow.
const GROWTH: usize = 8;

/// Maps `bytes` of a memory file, or of zeros.
fn map(bytes: usize, file: Option<&File>) -> io::Result<*mut u8> {
    let (kind, fd) = match file {
        Some(file) => (libc::MAP_SHARED, file.as_raw_fd()),
        None => (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1),
    };
    // SAFETY: a new mapping at an address of the kernel's choice touches nothing that exists.
    let at = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            bytes,
            libc::PROT_READ | libc::PROT_WRITE,
            kind | libc::MAP_NORESERVE,
            fd,
            0,
        )
    };
    if at == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    Ok(at.cast())
}

#[derive(Debug)]
struct Map {
    at: *mut u8,
    /// What the medium has now; less than `room`.
    bytes: AtomicUsize,
    /// What is mapped.
    room: usize,
    /// The memory file behind it; as long as the medium.
    file: Option<File>,
}

// SAFETY: the mapping lives as long as the `Map`; who may write is decided by `MemoryMedium`, of which there is one.
unsafe impl Send for Map {}
// SAFETY: as above.
unsafe impl Sync for Map {}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and nothing refers to it any more.
        unsafe {
            libc::munmap(self.at.cast(), self.room);
        }
    }
}

impl Map {
    fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Acquire)
    }

    /// Byte offset and length of a range.
    ///
    /// # Panics
    /// If the range is not on the medium: requests were checked against its size.
    fn part(&self, range: SectorRange) -> (usize, usize) {
        let at = to_usize(range.start().0) * SECTOR_BYTES;
        let len = to_usize(range.count()) * SECTOR_BYTES;
        assert!(
            at + len <= self.bytes(),
            "sectors {range} are on the medium"
        );
        (at, len)
    }
}

/// The owner of a memory medium.
#[derive(Debug)]
pub struct MemoryMedium {
    map: Arc<Map>,
}

/// A reader of a memory medium.
#[derive(Clone, Debug)]
pub struct View {
    map: Arc<Map>,
}

impl MemoryMedium {
    /// All zeros, `bytes` long.
    ///
    /// # Errors
    /// [`MediumError::Memory`], without enough address space.
    pub fn new(bytes: u64) -> Result<MemoryMedium, MediumError> {
        MemoryMedium::on(bytes, None)
    }

    /// What a memory file holds: `bytes` of zeros at first, more if it has grown. Nobody else may write to it.
    ///
    /// # Errors
    /// [`MediumError::Memory`], without enough address space, or if it can't be opened.
    pub fn shared(file: &Path, bytes: u64) -> Result<MemoryMedium, MediumError> {
        let failed = |source| MediumError::Memory { bytes, source };
        let file = File::options().read(true).write(true).open(file);
        let file = file.map_err(failed)?;
        let has = file.metadata().map_err(failed)?.len();
        if has < bytes {
            file.set_len(bytes).map_err(failed)?;
        }
        MemoryMedium::on(bytes.max(has), Some(file))
    }

    /// The same on an open file, which becomes no longer by this.
    pub(super) fn on(bytes: u64, file: Option<File>) -> Result<MemoryMedium, MediumError> {
        let failed = |source| MediumError::Memory { bytes, source };
        let len = usize::try_from(bytes).map_err(|_| failed(io::ErrorKind::InvalidInput.into()))?;
        // Addresses to grow into, if there are any: they cost nothing.
        let wished = len.saturating_mul(GROWTH);
        let (at, room) = match map(wished, file.as_ref()) {
            Ok(at) => (at, wished),
            Err(_) => (map(len, file.as_ref()).map_err(failed)?, len),
        };
        Ok(MemoryMedium {
            map: Arc::new(Map {
                at,
                bytes: AtomicUsize::new(len),
                room,
                file,
            }),
        })
    }

    /// Where the mapping is, and how many bytes it has room for.
    pub(super) fn mapping(&self) -> (*mut u8, usize) {
        (self.map.at, self.map.room)
    }

    /// Asks for huge pages: fewer misses of the TLB, against 2 MiB of memory for the first byte written in each 2 MiB. Only where all of the
    /// medium is a small part of the machine's memory.
    pub fn prefer_huge_pages(&self) {
        // SAFETY: a question about the system.
        let pages = unsafe { libc::sysconf(libc::_SC_PHYS_PAGES) };
        let memory = usize::try_from(pages)
            .unwrap_or(0)
            .saturating_mul(PAGE_BYTES);
        if self.map.bytes() > memory / HUGE_PART {
            return;
        }
        // SAFETY: advice about our own mapping, which changes no content.
        let _without =
            unsafe { libc::madvise(self.map.at.cast(), self.map.bytes(), libc::MADV_HUGEPAGE) };
    }

    /// Size in sectors.
    pub fn sectors(&self) -> u64 {
        (self.map.bytes() / SECTOR_BYTES) as u64
    }

    /// Becomes `sectors` long; what is new is zeros.
    ///
    /// # Errors
    /// `InvalidInput` for less than before, `OutOfMemory` for more than eight times the first size.
    pub fn grow(&mut self, sectors: u64) -> io::Result<()> {
        let bytes = usize::try_from(sectors)
            .ok()
            .and_then(|sectors| sectors.checked_mul(SECTOR_BYTES))
            .ok_or(io::ErrorKind::InvalidInput)?;
        if bytes < self.map.bytes() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        if bytes > self.map.room {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        if let Some(file) = &self.map.file {
            file.set_len(bytes as u64)?;
        }
        self.map.bytes.store(bytes, Ordering::Release);
        Ok(())
    }

    /// A reader of the same bytes.
    pub fn view(&self) -> View {
        View {
            map: Arc::clone(&self.map),
        }
    }

    /// The bytes of `range`.
    ///
    /// # Panics
    /// If the range is not on the medium.
    pub fn bytes(&self, range: SectorRange) -> &[u8] {
        let (at, len) = self.map.part(range);
        // SAFETY: the part is in the mapping; only the owner writes, and `self` is borrowed.
        unsafe { std::slice::from_raw_parts(self.map.at.add(at), len) }
    }

    /// The bytes of `range`, to be written.
    ///
    /// # Panics
    /// If the range is not on the medium.
    pub fn bytes_mut(&mut self, range: SectorRange) -> &mut [u8] {
        let (at, len) = self.map.part(range);
        // SAFETY: the part is in the mapping; only the owner writes, and it is borrowed exclusively. A `View` reads the same bytes by
        // volatile copies that may be torn.
        unsafe { std::slice::from_raw_parts_mut(self.map.at.add(at), len) }
    }

    /// Zeros in `range`; with `unmap` or a long range the whole pages go back to the kernel.
    ///
    /// # Panics
    /// If the range is not on the medium.
    pub fn zero(&mut self, range: SectorRange, unmap: bool) {
        let (at, len) = self.map.part(range);
        let first_page = at.next_multiple_of(PAGE_BYTES);
        let last_page = (at + len) / PAGE_BYTES * PAGE_BYTES;
        let whole = last_page.saturating_sub(first_page);
        if whole == 0 || !(unmap || whole >= GIVE_BACK_BYTES) {
            self.bytes_mut(range).fill(0);
            return;
        }
        let advice = match self.map.file {
            Some(_) => libc::MADV_REMOVE,
            None => libc::MADV_DONTNEED,
        };
        // SAFETY: whole pages within the mapping, which is private and anonymous, or of a memory file: they read as zeros afterwards. No slice of
        // them exists, as the owner is borrowed exclusively.
        let gone = unsafe { libc::madvise(self.map.at.add(first_page).cast(), whole, advice) };
        let bytes = self.bytes_mut(range);
        if gone == 0 {
            bytes[..first_page - at].fill(0);
            bytes[last_page - at..].fill(0);
        } else {
            bytes.fill(0);
        }
    }
}

impl View {
    /// Size in sectors.
    pub fn sectors(&self) -> u64 {
        (self.map.bytes() / SECTOR_BYTES) as u64
    }

    /// Copies `range` to `out`; a write at the same moment may be seen half done.
    ///
    /// # Panics
    /// If the range is not on the medium or `out` has another length.
    pub fn read(&self, range: SectorRange, out: &mut [u8]) {
        let (at, len) = self.map.part(range);
        assert_eq!(len, out.len(), "room for the range");
        for (offset, to) in out.iter_mut().enumerate() {
            // SAFETY: the byte is in the mapping; the read is volatile as the owner may be writing.
            *to = unsafe { self.map.at.add(at + offset).read_volatile() };
        }
    }
}
