//! The system calls that the agent needs and that no safe wrapper has, one small function each; all of the agent's `unsafe` code that is not
//! an engine's is here.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::mm::{Advice, MapFlags, ProtFlags};

use crate::block::{SECTOR_BYTES, to_usize};
use crate::plan::Woken;

/// Bytes of a page of guest memory.
pub(super) const PAGE_BYTES: usize = 4096;

/// The last system call's error.
fn check(result: i32) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Sets the clock, and makes the kernel's random numbers this guest's own.
pub(super) fn wake(woken: &Woken) -> io::Result<()> {
    /// `struct rand_pool_info` (include/uapi/linux/random.h).
    #[repr(C)]
    struct Noise {
        entropy_bits: i32,
        bytes: i32,
        words: [u64; 4],
    }
    rustix::time::clock_settime(
        rustix::time::ClockId::Realtime,
        rustix::time::Timespec {
            tv_sec: i64::try_from(woken.clock_s).unwrap_or(i64::MAX),
            tv_nsec: 0,
        },
    )?;
    let random = File::open("/dev/urandom")?;
    let noise = Noise {
        entropy_bits: 256,
        bytes: 32,
        words: woken.noise,
    };
    // SAFETY: RNDADDENTROPY (_IOW('R', 3, int[2])) reads a `rand_pool_info` and the 32 bytes behind it, which is what it is given.
    check(unsafe { libc::ioctl(random.as_raw_fd(), 0x4008_5203, &raw const noise) })?;
    // SAFETY: RNDRESEEDCRNG (_IO('R', 7)) takes no argument.
    check(unsafe { libc::ioctl(random.as_raw_fd(), 0x5207) })
}

/// Opens a device or file for reading and writing past the page cache. A regular file on a file system that cannot do that is opened plainly:
/// no guest's device is one, only tests have such files.
pub(super) fn open_direct(path: &Path, extra_flags: i32) -> io::Result<File> {
    let open = |flags: i32| {
        OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(flags)
            .open(path)
    };
    match open(libc::O_DIRECT | extra_flags) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) && path.is_file() => {
            open(extra_flags)
        }
        outcome => outcome,
    }
}

/// What a device or file is made of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Geometry {
    /// Size in whole sectors.
    pub(super) sectors: u64,
    /// Logical block size in sectors.
    pub(super) block_sectors: u64,
    /// Whether it is a block device.
    pub(super) block_device: bool,
}

/// Size and logical block of an open device or regular file.
pub(super) fn geometry(file: &File) -> io::Result<Geometry> {
    let meta = file.metadata()?;
    if !meta.file_type().is_block_device() {
        return Ok(Geometry {
            sectors: meta.len() / SECTOR_BYTES as u64,
            block_sectors: 1,
            block_device: false,
        });
    }
    let mut bytes = 0u64;
    // SAFETY: BLKGETSIZE64 (_IOR(0x12, 114, size_t)) writes one u64 to the address given, which is valid for that.
    check(unsafe { libc::ioctl(file.as_raw_fd(), 0x8008_1272, &raw mut bytes) })?;
    let block_bytes = rustix::fs::ioctl_blksszget(file)?;
    Ok(Geometry {
        sectors: bytes / SECTOR_BYTES as u64,
        block_sectors: (u64::from(block_bytes) / SECTOR_BYTES as u64).max(1),
        block_device: true,
    })
}

/// Discards a range, waiting for it: `BLKDISCARD`, or a hole in a regular file.
pub(super) fn discard(
    file: &File,
    block_device: bool,
    offset_bytes: u64,
    len_bytes: u64,
) -> io::Result<()> {
    if block_device {
        let range = [offset_bytes, len_bytes];
        // SAFETY: BLKDISCARD (_IO(0x12, 119)) reads two u64 from the address given, which is valid for that.
        check(unsafe { libc::ioctl(file.as_raw_fd(), 0x1277, range.as_ptr()) })
    } else {
        use rustix::fs::FallocateFlags;
        Ok(rustix::fs::fallocate(
            file,
            FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
            offset_bytes,
            len_bytes,
        )?)
    }
}

/// Anonymous memory that starts at a page, zeroed, locked where that is allowed. Unmapped when dropped.
#[derive(Debug)]
pub(super) struct Memory {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the memory belongs to this value alone; nothing about it is tied to a thread.
unsafe impl Send for Memory {}

impl Memory {
    /// `len` bytes, rounded up to whole pages. Small pages, so that a buffer's frames are many and not one huge page's.
    pub(super) fn new(len: usize) -> io::Result<Memory> {
        let len = len.max(1).next_multiple_of(PAGE_BYTES);
        // SAFETY: a new private mapping at an address of the kernel's choice touches nobody else's memory.
        let start = unsafe {
            rustix::mm::mmap_anonymous(
                std::ptr::null_mut(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE,
            )
        }?;
        // SAFETY: start and len are the mapping just made. Both calls only change how the kernel backs it; neither is needed for
        // correctness, so their failures (no huge pages, a limit on locked memory) are ignored.
        unsafe {
            let _no_huge_pages = rustix::mm::madvise(start, len, Advice::LinuxNoHugepage);
            let _locked = rustix::mm::mlock(start, len);
        }
        let start = NonNull::new(start.cast()).expect("a mapping is never at address 0");
        Ok(Memory { start, len })
    }

    /// Bytes.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The address of byte `at`.
    pub(super) fn address(&self, at: usize) -> *const u8 {
        self.bytes()[at..].as_ptr()
    }

    /// All of it.
    pub(super) fn bytes(&self) -> &[u8] {
        // SAFETY: start and len are a live mapping of initialised (zeroed) memory that only this value refers to.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    /// All of it, to write to.
    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`, and `&mut self` makes it the only reference. A kernel that reads the memory for a write in flight is
        // no reference of Rust's.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }

    /// Turns the bits of one byte over, for a write that is in flight: the compiler may not move this or leave it out.
    pub(super) fn scribble(&mut self, at: usize) {
        let byte = &raw mut self.bytes_mut()[at];
        // SAFETY: `byte` points into the mapping, derived from the exclusive reference just above.
        unsafe { byte.write_volatile(!byte.read_volatile()) }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: start and len are the mapping that `new` made, and no reference to it outlives this value.
        let _gone = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.len) };
    }
}

/// A number that this process and its children (forked later) share.
#[derive(Clone, Copy, Debug)]
pub(super) struct SharedNumber(&'static AtomicU32);

impl SharedNumber {
    /// A page of shared memory that lives as long as the program, with 0 in it.
    pub(super) fn new() -> io::Result<SharedNumber> {
        // SAFETY: a new shared anonymous mapping touches nobody else's memory.
        let page = unsafe {
            rustix::mm::mmap_anonymous(
                std::ptr::null_mut(),
                PAGE_BYTES,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
            )
        }?;
        // SAFETY: the page is zeroed, aligned, never unmapped, and only ever accessed as this atomic.
        Ok(SharedNumber(unsafe { &*page.cast::<AtomicU32>() }))
    }

    /// Adds one and returns the new value.
    pub(super) fn next(self) -> u32 {
        self.0.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The value.
    pub(super) fn get(self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }

    /// Sets the value.
    pub(super) fn set(self, value: u32) {
        self.0.store(value, Ordering::Relaxed);
    }
}

/// Makes a child process. To be called while there is one thread only.
pub(super) fn fork() -> io::Result<Option<rustix::process::Pid>> {
    // SAFETY: the only caller does this before it starts any thread, so the child inherits no lock that nobody would release.
    let pid = unsafe { libc::fork() };
    check(pid)?;
    Ok(rustix::process::Pid::from_raw(pid))
}

/// Makes `file` the standard input, output and error.
pub(super) fn become_stdio(file: &File) {
    for standard in 0..3 {
        // SAFETY: both are plain numbers of descriptors; 0 to 2 are nobody's property in Rust's sense.
        let _kept_on_failure = unsafe { libc::dup2(file.as_raw_fd(), standard) };
    }
}

/// Sets a variable of the environment. To be called while there is one thread only.
pub(super) fn set_variable(name: &str, value: &str) {
    // SAFETY: the only caller does this before it starts any thread.
    unsafe { std::env::set_var(name, value) }
}

/// A pipe whose ends are closed on exec: to read from, to write to.
pub(super) fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut ends = [0i32; 2];
    // SAFETY: pipe2 writes two descriptors to the array given.
    check(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) })?;
    // SAFETY: both were just made by the kernel for us and have no other owner.
    Ok(unsafe { (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])) })
}

/// Reads the page frame numbers of `pages` pages from `address` out of /proc/self/pagemap; `None` where it is not told (no page, no right).
pub(super) fn frames(address: *const u8, pages: usize) -> Option<Vec<u64>> {
    let pagemap = File::open("/proc/self/pagemap").ok()?;
    let mut raw = vec![0u8; pages * 8];
    let first = u64::try_from(address.addr() / PAGE_BYTES).ok()?;
    pagemap.read_exact_at(&mut raw, first * 8).ok()?;
    raw.chunks_exact(8)
        .map(|entry| {
            let entry = u64::from_le_bytes(entry.try_into().expect("eight bytes"));
            let frame = entry & ((1 << 55) - 1);
            (entry >> 63 == 1 && frame != 0).then_some(frame)
        })
        .collect()
}

/// The memory that could be had without swapping, in bytes (0 if /proc does not tell).
pub(super) fn available_bytes() -> u64 {
    std::fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| {
            let line = text.lines().find_map(|l| l.strip_prefix("MemAvailable:"))?;
            line.trim().strip_suffix(" kB")?.parse::<u64>().ok()
        })
        .unwrap_or(0)
        * 1024
}

/// Reads exactly `out.len()` bytes at a sector. `out` must lie as the device wants it for direct I/O.
pub(super) fn read_sectors(file: &File, sector: u64, out: &mut [u8]) -> io::Result<()> {
    file.read_exact_at(out, sector * SECTOR_BYTES as u64)
}

/// A count of sectors as bytes in memory.
pub(super) fn sectors_len(count: u64) -> usize {
    to_usize(count) * SECTOR_BYTES
}
