//! A raw image as a medium.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::MediumError;
use super::mapped::Mapped;
use crate::block::{SECTOR_BYTES, SectorRange, to_usize};

/// Zeros to write where holes can't be punched.
const ZEROS_BYTES: usize = 64 << 10;

/// The owner of an image; its lock goes with it.
#[derive(Debug)]
pub struct FileMedium {
    file: Arc<File>,
    sectors: Arc<AtomicU64>,
    /// Its pages, where they are memory.
    mapped: Option<Mapped>,
}

/// A reader of an image.
#[derive(Clone, Debug)]
pub struct View {
    file: Arc<File>,
    sectors: Arc<AtomicU64>,
}

fn offset(range: SectorRange) -> u64 {
    range.start().0 * SECTOR_BYTES as u64
}

impl FileMedium {
    /// Opens and locks an image. A lock of the whole file also keeps QEMU's programs out, which lock single bytes of it.
    ///
    /// # Errors
    /// [`MediumError`].
    pub fn open(path: &Path, block_bytes: u32, read_only: bool) -> Result<FileMedium, MediumError> {
        let failed = |source| MediumError::Open {
            path: path.to_owned(),
            source,
        };
        let file = OpenOptions::new()
            .read(true)
            .write(!read_only)
            .open(path)
            .map_err(failed)?;
        let kind = file.metadata().map_err(failed)?.file_type();
        let bytes = if kind.is_file() {
            file.metadata().map_err(failed)?.len()
        } else if kind.is_block_device() {
            io::Seek::seek(&mut &file, io::SeekFrom::End(0)).map_err(failed)?
        } else {
            return Err(MediumError::Kind {
                path: path.to_owned(),
            });
        };
        lock(&file, read_only).map_err(|source| {
            // EAGAIN or EACCES: fcntl(2) allows both.
            if matches!(source.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) {
                MediumError::InUse {
                    path: path.to_owned(),
                }
            } else {
                failed(source)
            }
        })?;
        if bytes == 0 || !bytes.is_multiple_of(u64::from(block_bytes)) {
            return Err(MediumError::Size {
                path: path.to_owned(),
                bytes,
                block_bytes,
            });
        }
        let sectors = bytes / SECTOR_BYTES as u64;
        Ok(FileMedium {
            mapped: Mapped::new(&file, sectors),
            file: Arc::new(file),
            sectors: Arc::new(AtomicU64::new(sectors)),
        })
    }

    /// Size in sectors.
    pub fn sectors(&self) -> u64 {
        self.sectors.load(Ordering::Acquire)
    }

    /// A reader of the same bytes.
    pub fn view(&self) -> View {
        View {
            file: Arc::clone(&self.file),
            sectors: Arc::clone(&self.sectors),
        }
    }

    /// Becomes `sectors` long: a file is extended by a hole, a device must have as many already.
    ///
    /// # Errors
    /// The system's; `InvalidInput` for less than before.
    pub fn grow(&mut self, sectors: u64) -> io::Result<()> {
        let bytes = sectors
            .checked_mul(SECTOR_BYTES as u64)
            .ok_or(io::ErrorKind::InvalidInput)?;
        if sectors < self.sectors() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        if self.file.metadata()?.is_file() {
            if self.file.metadata()?.len() < bytes {
                self.file.set_len(bytes)?;
            }
        } else if io::Seek::seek(&mut &*self.file, io::SeekFrom::End(0))? < bytes {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        if self
            .mapped
            .as_mut()
            .is_some_and(|mapped| !mapped.grow(sectors))
        {
            self.mapped = None;
        }
        self.sectors.store(sectors, Ordering::Release);
        Ok(())
    }

    /// Whether its pages are memory: it is on tmpfs, and has not been cut short.
    pub fn is_memory(&self) -> bool {
        self.mapped.is_some()
    }

    /// The bytes of `range` themselves, where they are memory: on tmpfs, once something was written there. Whoever used them asks
    /// [`FileMedium::was_cut_short`] afterwards.
    pub fn bytes(&self, range: SectorRange) -> Option<&[u8]> {
        self.mapped.as_ref()?.bytes(range)
    }

    /// The same, to be written.
    pub fn bytes_mut(&mut self, range: SectorRange) -> Option<&mut [u8]> {
        self.mapped.as_mut()?.bytes_mut(range)
    }

    /// Whether the image turned out to be cut short by somebody else. What was moved by [`FileMedium::bytes`] and [`FileMedium::bytes_mut`] since the last
    /// time is then not the image's; from now on they give `None`, and reading and writing tell what is left of it.
    pub fn was_cut_short(&mut self) -> bool {
        let lost = self.mapped.as_ref().is_some_and(Mapped::is_lost);
        if lost {
            self.mapped = None;
        }
        lost
    }

    /// Reads `range`.
    ///
    /// # Errors
    /// The system's.
    pub fn read(&self, range: SectorRange, out: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(out, offset(range))
    }

    /// Writes `range`.
    ///
    /// # Errors
    /// The system's; how much was written is then unknown.
    pub fn write(&mut self, range: SectorRange, bytes: &[u8]) -> io::Result<()> {
        debug_assert_eq!(range.checked_bytes(), Some(bytes.len() as u64));
        self.file.write_all_at(bytes, offset(range))?;
        if let Some(mapped) = &mut self.mapped {
            mapped.written(range);
        }
        Ok(())
    }

    /// What was read of `range`: it may make [`FileMedium::bytes`] give something the next time.
    pub fn noticed(&mut self, range: SectorRange, bytes: &[u8]) {
        if let Some(mapped) = &mut self.mapped {
            mapped.read(range, bytes);
        }
    }

    /// Zeros in `range`: a hole with `unmap`, else allocated zeros, else (where the file system can do neither) written ones.
    ///
    /// # Errors
    /// The system's.
    pub fn zero(&mut self, range: SectorRange, unmap: bool) -> io::Result<()> {
        if let Some(mapped) = &mut self.mapped {
            mapped.zeroed(range);
        }
        let bytes = range.count() * SECTOR_BYTES as u64;
        let punch = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        let done = if unmap {
            self.allocate(punch, range)
        } else {
            self.allocate(libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE, range)
                // Some file systems know no zeroed range, but holes, and room for them.
                || (self.allocate(punch, range)
                    && self.allocate(libc::FALLOC_FL_KEEP_SIZE, range))
        };
        if done {
            return Ok(());
        }
        let zeros = [0; ZEROS_BYTES];
        let mut done = 0;
        while done < bytes {
            let here = (bytes - done).min(ZEROS_BYTES as u64);
            self.file
                .write_all_at(&zeros[..to_usize(here)], offset(range) + done)?;
            done += here;
        }
        Ok(())
    }

    /// fallocate; `false` if the file system can't.
    fn allocate(&self, mode: libc::c_int, range: SectorRange) -> bool {
        let (Ok(at), Ok(len)) = (
            libc::off_t::try_from(offset(range)),
            libc::off_t::try_from(range.count() * SECTOR_BYTES as u64),
        ) else {
            return false;
        };
        // SAFETY: a system call on a descriptor that is open for as long as `self`.
        unsafe { libc::fallocate(self.file.as_raw_fd(), mode, at, len) == 0 }
    }

    /// fdatasync.
    ///
    /// # Errors
    /// The system's.
    pub fn flush(&mut self) -> io::Result<()> {
        self.file.sync_data()
    }
}

impl View {
    /// Size in sectors.
    pub fn sectors(&self) -> u64 {
        self.sectors.load(Ordering::Acquire)
    }

    /// Reads `range`.
    ///
    /// # Errors
    /// The system's.
    pub fn read(&self, range: SectorRange, out: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(out, offset(range))
    }
}

/// Takes an open-file-description lock on the whole file: it also holds against a second open in this process, and ends with the file.
fn lock(file: &File, shared: bool) -> io::Result<()> {
    let kind = if shared { libc::F_RDLCK } else { libc::F_WRLCK };
    // SAFETY: all zeros is a valid `flock`.
    let mut what: libc::flock = unsafe { std::mem::zeroed() };
    what.l_type = libc::c_short::try_from(kind).unwrap_or_default();
    what.l_whence = libc::c_short::try_from(libc::SEEK_SET).unwrap_or_default();
    // SAFETY: the descriptor is open, `what` is initialised and outlives the call.
    if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const what) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
