//! Mappings of files that others can cut short: a frontend's memory, a leg's image.
//!
//! A frontend can truncate the file that it shares at any moment; the kernel then answers the next access behind the new end with SIGBUS, which would end this process,
//! and with it all legs. So every mapping of such a file is on a list. The signal's handler puts zeros where the file was and marks the mapping as lost; the
//! access goes on, and reads and writes these. Who made it asks afterwards: what was moved there is neither the guest's nor the medium's.
//!
//! A SIGBUS anywhere else is our own bug, and goes where it went before.

use std::cell::UnsafeCell;
use std::mem::MaybeUninit;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

/// Mappings that can be on the list: 16 legs' worth of regions, twice. What does not fit is refused.
const PLACES: usize = 8192;
const PAGE: usize = 4096;

/// A place on the list. The handler reads it while others write it: atomics alone, and the length is set last and cleared first.
struct Place {
    taken: AtomicBool,
    start: AtomicUsize,
    bytes: AtomicUsize,
    lost: AtomicBool,
}

static LIST: [Place; PLACES] = [const {
    Place {
        taken: AtomicBool::new(false),
        start: AtomicUsize::new(0),
        bytes: AtomicUsize::new(0),
        lost: AtomicBool::new(false),
    }
}; PLACES];

/// How often a mapping was lost, in this process.
static LOSSES: AtomicU64 = AtomicU64::new(0);

/// What was done about SIGBUS before us.
struct Before(UnsafeCell<MaybeUninit<libc::sigaction>>);

// SAFETY: written once, before the handler is in force, and only read from then on.
unsafe impl Sync for Before {}

static BEFORE: Before = Before(UnsafeCell::new(MaybeUninit::zeroed()));

/// A mapping on the list, for as long as this lives. It must be dropped before the mapping is taken away.
#[derive(Debug)]
pub(crate) struct Guard {
    place: usize,
}

impl Guard {
    /// Puts whole pages on the list; `None` if it is full.
    pub(crate) fn new(start: *mut libc::c_void, bytes: usize) -> Option<Guard> {
        static HANDLER: Once = Once::new();
        HANDLER.call_once(install);
        for (at, place) in LIST.iter().enumerate() {
            if place.taken.swap(true, Ordering::AcqRel) {
                continue;
            }
            place.lost.store(false, Ordering::Relaxed);
            place.start.store(start.addr(), Ordering::Relaxed);
            place.bytes.store(bytes, Ordering::Release);
            return Some(Guard { place: at });
        }
        None
    }

    /// Whether the mapping's owner has taken a part of it away.
    pub(crate) fn is_lost(&self) -> bool {
        LIST.get(self.place)
            .is_some_and(|place| place.lost.load(Ordering::Acquire))
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(place) = LIST.get(self.place) {
            place.bytes.store(0, Ordering::Release);
            place.taken.store(false, Ordering::Release);
        }
    }
}

/// How often a mapping was lost so far, in this process: who serves queues looks closer when it changes.
pub(crate) fn losses() -> u64 {
    LOSSES.load(Ordering::Acquire)
}

fn install() {
    // SAFETY: all zeros is a valid `sigaction`; the handler has the signature that SA_SIGINFO asks for, and what it does is said there.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_sigbus as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        libc::sigemptyset(&raw mut action.sa_mask);
        libc::sigaction(libc::SIGBUS, &raw const action, BEFORE.0.get().cast());
    }
}

/// The handler: atomics, mmap and sigaction, which are all safe at any moment; errno is left as it was.
extern "C" fn on_sigbus(
    _signal: libc::c_int,
    info: *mut libc::siginfo_t,
    _context: *mut libc::c_void,
) {
    // SAFETY: the kernel hands over a valid `siginfo_t`; errno's place is the thread's own.
    let (address, errno) = unsafe { ((*info).si_addr().addr(), *libc::__errno_location()) };
    for place in &LIST {
        let bytes = place.bytes.load(Ordering::Acquire);
        let start = place.start.load(Ordering::Relaxed);
        let offset = address.wrapping_sub(start);
        if bytes == 0 || offset >= bytes {
            continue;
        }
        // The file has ended here; what is behind is gone, too.
        let keep = offset.saturating_sub(offset % PAGE);
        // SAFETY: whole pages of a mapping of ours that is on the list, so it is not taken away meanwhile; who reads it copies raw bytes.
        let zeros = unsafe {
            libc::mmap(
                std::ptr::without_provenance_mut(start.wrapping_add(keep)),
                bytes.saturating_sub(keep),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_FIXED | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if zeros == libc::MAP_FAILED {
            break;
        }
        place.lost.store(true, Ordering::Release);
        LOSSES.fetch_add(1, Ordering::AcqRel);
        // SAFETY: the thread's own.
        unsafe { *libc::__errno_location() = errno };
        return;
    }
    // Not ours: as if we had never been here. The access is tried again, and meets what was in force before.
    // SAFETY: written by `install` before this handler was in force.
    unsafe {
        libc::sigaction(libc::SIGBUS, BEFORE.0.get().cast(), std::ptr::null_mut());
    }
}

#[cfg(test)]
mod tests {
    use crate::virtio::memory::tests::memfd;
    use crate::virtio::memory::{Memory, Region};
    use std::sync::Arc;

    #[test]
    fn memory_that_is_cut_short_reads_as_zeros_and_is_told() {
        let file = memfd(0x4000);
        std::os::unix::fs::FileExt::write_all_at(&file, &[7; 0x4000], 0).unwrap();
        let map = || Region::map(&file, 0x1000, 0x10_0000, 0x5000, 0x3000).unwrap();
        let memory = Memory::new(vec![Arc::new(map())]).unwrap();
        let other = Memory::new(vec![Arc::new(map())]).unwrap();
        let read = |memory: &Memory, gpa: u64| {
            let mut out = [1; 16];
            assert!(memory.read(gpa, &mut out));
            out
        };
        assert_eq!(read(&memory, 0x10_2ff0), [7; 16]);
        let before = super::losses();
        file.set_len(0x2000).unwrap();
        assert!(!memory.is_lost(), "nobody has looked yet");
        assert_eq!(read(&memory, 0x10_2ff0), [0; 16]);
        assert!(memory.is_lost() && super::losses() > before);
        // What is still there is still the frontend's, and another mapping is its own.
        assert_eq!(read(&memory, 0x10_0010), [7; 16]);
        assert!(!other.is_lost());
        assert_eq!(read(&other, 0x10_1000), [0; 16]);
        assert!(other.is_lost());
    }
}
