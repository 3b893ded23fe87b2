//! A ring of either layout. Which one it is was negotiated once; the hot path pays one predictable branch for it.

use std::sync::Arc;

use super::inflight::{Inflight, InflightError};
use super::memory::Memory;
use super::packed::{FRESH_BASE, PackedRing};
use super::request::Used;
use super::split::SplitRing;

/// Where a ring's three parts are, by the frontend's own addresses (vhost-user specification, `VHOST_USER_SET_VRING_ADDR`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RingAddresses {
    /// Descriptor table, or descriptor ring.
    pub descriptors: u64,
    /// Available ring, or the driver's event suppression structure.
    pub available: u64,
    /// Used ring, or the device's event suppression structure.
    pub used: u64,
}

/// Why a ring can't be used, or no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RingFault {
    /// 0, not a power of two where it must be one, or too large.
    #[error("a ring of {0} entries")]
    Size(u32),
    /// A part is not in the memory, or crosses regions.
    #[error("the ring's {0} is not in the shared memory")]
    Outside(&'static str),
    /// A part is at an odd address.
    #[error("the ring's {0} is not aligned")]
    Alignment(&'static str),
    /// Where to go on is past the ring's end.
    #[error("base {base:#x} in a ring of {size}")]
    Base {
        /// What the frontend says.
        base: u32,
        /// Entries.
        size: u16,
    },
    /// The available index is further on than the ring has entries.
    #[error("available index jumped from {from} to {to} in a ring of {size}")]
    Jump {
        /// What was served so far.
        from: u16,
        /// What the driver says.
        to: u16,
        /// Entries.
        size: u16,
    },
    /// An available entry names no descriptor.
    #[error("available entry names descriptor {head} in a ring of {size}")]
    Head {
        /// The descriptor.
        head: u16,
        /// Entries.
        size: u16,
    },
    /// A packed ring's chain has more descriptors than are free: where the next one begins can't be known.
    #[error("the chain at descriptor {at} runs into itself in a ring of {size}")]
    Endless {
        /// Where it begins.
        at: u16,
        /// Entries.
        size: u16,
    },
}

/// A chain that was taken from a ring and goes back to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// The first descriptor's place.
    pub(super) at: u16,
    /// The buffer id (2.8.6) of a packed ring's chain; in a split ring the same as `at`.
    pub(super) id: u16,
    /// Descriptors of the ring that the chain takes up; 1 in a split ring, where nobody counts them.
    pub(super) descriptors: u16,
    /// Where a packed ring's chain is noted as in flight; [`Head::NOT_NOTED`] if it is not.
    pub(super) note: u16,
    /// A packed ring's chain that was in flight when somebody else served the ring: `at` is its place in what was noted.
    pub(super) again: bool,
}

impl Head {
    pub(super) const NOT_NOTED: u16 = u16::MAX;

    /// A split ring's chain: its first descriptor is all that is known of it.
    pub(super) fn split(at: u16) -> Head {
        Head {
            at,
            id: at,
            descriptors: 1,
            note: Head::NOT_NOTED,
            again: false,
        }
    }
}

/// A ring that is served.
#[derive(Debug)]
pub enum Ring {
    /// Virtio 1.2, 2.7.
    Split(SplitRing),
    /// Virtio 1.2, 2.8.
    Packed(PackedRing),
}

impl From<SplitRing> for Ring {
    fn from(ring: SplitRing) -> Ring {
        Ring::Split(ring)
    }
}

impl From<PackedRing> for Ring {
    fn from(ring: PackedRing) -> Ring {
        Ring::Packed(ring)
    }
}

/// The same method of either ring.
macro_rules! either {
    ($ring:expr, $it:ident => $what:expr) => {
        match $ring {
            Ring::Split($it) => $what,
            Ring::Packed($it) => $what,
        }
    };
}

impl Ring {
    /// Finds the ring again in a new table of memory. The old one is kept if that fails.
    ///
    /// # Errors
    /// [`RingFault`], if a part is no longer there.
    pub fn remap(&mut self, memory: Arc<Memory>) -> Result<(), RingFault> {
        either!(self, ring => ring.remap(memory))
    }

    /// Notes from now on what is in flight, and does first what was in flight when the notes ended. How many requests that is.
    ///
    /// # Errors
    /// [`InflightError`].
    pub fn track(&mut self, inflight: &Inflight, queue: u16) -> Result<usize, InflightError> {
        either!(self, ring => ring.track(inflight, queue))
    }

    /// The memory that the ring and its requests are in.
    pub fn memory(&self) -> &Arc<Memory> {
        either!(self, ring => ring.memory())
    }

    /// Entries.
    pub fn size(&self) -> u16 {
        either!(self, ring => ring.size())
    }

    /// Where to go on, as `VHOST_USER_GET_VRING_BASE` tells it: a split ring's next available entry; a packed ring's next available and next
    /// used descriptor with their wrap counters.
    pub fn base(&self) -> u32 {
        match self {
            Ring::Split(ring) => u32::from(ring.base()),
            Ring::Packed(ring) => ring.base(),
        }
    }

    /// Whether nothing of it was served yet, here or by whoever had it before. (A split ring whose indices have come round to 0 looks like it.)
    pub fn is_fresh(&self) -> bool {
        match self {
            Ring::Split(ring) => ring.is_fresh(),
            Ring::Packed(ring) => ring.base() == FRESH_BASE,
        }
    }

    /// The next chain, if the driver has made one available.
    ///
    /// # Errors
    /// [`RingFault`]: the ring makes no sense any more and must be stopped.
    #[inline]
    pub fn pop(&mut self) -> Result<Option<Head>, RingFault> {
        either!(self, ring => ring.pop())
    }

    /// Puts a chain back; the driver sees it after [`Ring::publish`].
    #[inline]
    pub fn push(&mut self, used: Used) {
        either!(self, ring => ring.push(used));
    }

    /// Shows the driver all that was put back. Returns whether it wants to be notified.
    #[inline]
    pub fn publish(&mut self) -> bool {
        either!(self, ring => ring.publish())
    }

    /// Tells the driver that it need not kick: we are looking.
    pub fn kicks_off(&mut self) {
        either!(self, ring => ring.kicks_off());
    }

    /// Asks the driver to kick from now on. Returns whether chains have become available meanwhile, which may not have been kicked for.
    ///
    /// # Errors
    /// As of [`Ring::pop`].
    pub fn kicks_on(&mut self) -> Result<bool, RingFault> {
        either!(self, ring => ring.kicks_on())
    }
}
