//! Descriptor chains (virtio 1.2, 2.7.4, 2.7.5, 2.8.6 and 2.8.7): from a head to the readable and the writable bytes, with every bound kept.

use std::sync::Arc;

use super::buffer::GuestBuffer;
use super::defs::{CHAIN_DESCRIPTORS_MAX, DESC_BYTES, DESC_INDIRECT, DESC_NEXT, DESC_WRITE};
use super::memory::{Memory, Piece};
use super::ring::{Head, Ring};

/// What is wrong with a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChainFault {
    /// More descriptors than any driver makes: a loop.
    #[error("a chain of more than {CHAIN_DESCRIPTORS_MAX} descriptors")]
    TooLong,
    /// The next descriptor is past the table's end.
    #[error("descriptor {0} is past its table's end")]
    Index(u16),
    /// An indirect descriptor within an indirect table, or one that goes on (2.7.5.3.1).
    #[error("an indirect descriptor where there can be none")]
    Nested,
    /// An indirect table that is empty, no multiple of 16 bytes, or not in the memory.
    #[error("an indirect table of {bytes} bytes at {gpa:#x}")]
    Table {
        /// Guest-physical address.
        gpa: u64,
        /// Bytes.
        bytes: u32,
    },
    /// A buffer that is not in the memory.
    #[error("a buffer of {bytes} bytes at {gpa:#x}, outside the shared memory")]
    Outside {
        /// Guest-physical address.
        gpa: u64,
        /// Bytes.
        bytes: u32,
    },
    /// Readable bytes behind writable ones (2.7.4.2).
    #[error("a readable descriptor behind a writable one")]
    Order,
}

/// What a chain holds.
#[derive(Debug, Default)]
pub struct Chain {
    /// What the driver says to the device.
    pub readable: GuestBuffer,
    /// Where the device answers.
    pub writable: GuestBuffer,
    /// The first thing wrong with the chain. Then neither buffer is whole.
    pub fault: Option<ChainFault>,
    /// Writable bytes that the descriptors claim, in the memory or not, the status among them.
    pub writable_bytes: u64,
    /// The last writable byte: where the status goes. There even in a faulty chain, if it can be found.
    pub last_writable: Option<Piece>,
}

#[derive(Clone, Copy)]
enum Table {
    Ring,
    Indirect { gpa: u64, entries: u16 },
}

/// A descriptor of either layout.
struct Descriptor {
    gpa: u64,
    bytes: u32,
    flags: u16,
    /// Where the chain goes on in the same table, if it does.
    next: Option<u16>,
}

impl Descriptor {
    /// The descriptor at `at` of a split ring's table, or the `at`th of a packed ring's chain; or of an indirect table.
    fn read(ring: &Ring, head: Head, table: Table, at: u16) -> Option<Descriptor> {
        let raw = match table {
            Table::Ring => match ring {
                Ring::Split(ring) => ring.descriptor(at)?,
                Ring::Packed(ring) => ring.descriptor(head, at)?,
            },
            Table::Indirect { gpa, entries } => {
                let mut raw = [0; 16];
                let gpa = gpa.checked_add(u64::from(at).checked_mul(DESC_BYTES)?)?;
                (at < entries && ring.memory().read(gpa, &mut raw)).then_some(raw)?
            }
        };
        let [
            a0,
            a1,
            a2,
            a3,
            a4,
            a5,
            a6,
            a7,
            l0,
            l1,
            l2,
            l3,
            c0,
            c1,
            d0,
            d1,
        ] = raw;
        let (third, fourth) = (u16::from_le_bytes([c0, c1]), u16::from_le_bytes([d0, d1]));
        let (flags, next) = match ring {
            // 2.7.5: flags, then the next one's place.
            Ring::Split(_) => (third, (third & DESC_NEXT != 0).then_some(fourth)),
            // 2.8.13: id, then flags. The next one is behind it, as far as the chain was counted or the table goes, whose descriptors have no
            // other flag than that of being writable (2.8.7).
            Ring::Packed(_) => {
                let (flags, count) = match table {
                    Table::Ring => (fourth, head.descriptors),
                    Table::Indirect { entries, .. } => (fourth & DESC_WRITE, entries),
                };
                (flags, at.checked_add(1).filter(|next| *next < count))
            }
        };
        Some(Descriptor {
            gpa: u64::from_le_bytes([a0, a1, a2, a3, a4, a5, a6, a7]),
            bytes: u32::from_le_bytes([l0, l1, l2, l3]),
            flags,
            next,
        })
    }
}

/// Follows the chain that begins at `head`. Ends after [`CHAIN_DESCRIPTORS_MAX`] descriptors at the latest.
pub fn walk(ring: &Ring, head: Head) -> Chain {
    let memory: &Arc<Memory> = ring.memory();
    let mut chain = Chain::default();
    let mut status = None;
    let mut table = Table::Ring;
    let mut at = match ring {
        Ring::Split(_) => head.at,
        Ring::Packed(_) => 0,
    };
    let mut count = 0u32;
    // A chain whose end is not known: the last writable byte seen need not be the status.
    let mut cut_off = false;
    loop {
        if count >= CHAIN_DESCRIPTORS_MAX {
            chain.fault = Some(ChainFault::TooLong);
            cut_off = true;
            break;
        }
        count = count.saturating_add(1);
        let Some(descriptor) = Descriptor::read(ring, head, table, at) else {
            chain.fault = chain.fault.or(Some(ChainFault::Index(at)));
            cut_off = true;
            break;
        };
        let Descriptor {
            gpa, bytes, flags, ..
        } = descriptor;
        if flags & DESC_INDIRECT != 0 {
            let nested = matches!(table, Table::Indirect { .. }) || descriptor.next.is_some();
            if nested {
                chain.fault = chain.fault.or(Some(ChainFault::Nested));
                cut_off = true;
                break;
            }
            let entries = u16::try_from(u64::from(bytes).checked_div(DESC_BYTES).unwrap_or(0));
            match entries {
                Ok(entries) if entries > 0 && bytes.is_multiple_of(16) => {
                    table = Table::Indirect { gpa, entries };
                    at = 0;
                    continue;
                }
                Ok(_) | Err(_) => {
                    chain.fault = chain.fault.or(Some(ChainFault::Table { gpa, bytes }));
                    cut_off = true;
                    break;
                }
            }
        }
        if flags & DESC_WRITE != 0 {
            if bytes > 0 {
                status = gpa.checked_add(u64::from(bytes).saturating_sub(1));
            }
            chain.writable_bytes = chain.writable_bytes.saturating_add(u64::from(bytes));
            if !memory.pieces(gpa, bytes, |piece| chain.writable.push(piece)) {
                chain.fault = chain.fault.or(Some(ChainFault::Outside { gpa, bytes }));
            }
        } else {
            if !chain.writable.is_empty() && bytes > 0 {
                chain.fault = chain.fault.or(Some(ChainFault::Order));
            }
            if !memory.pieces(gpa, bytes, |piece| chain.readable.push(piece)) {
                chain.fault = chain.fault.or(Some(ChainFault::Outside { gpa, bytes }));
            }
        }
        let Some(next) = descriptor.next else {
            break;
        };
        at = next;
    }
    if chain.fault.is_some() {
        if let Some(gpa) = status
            && !cut_off
        {
            memory.pieces(gpa, 1, |piece| chain.last_writable = Some(piece));
        }
    } else {
        chain.last_writable = chain.writable.split_last_byte();
    }
    chain
}
