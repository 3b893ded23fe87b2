//! From a chain to a request (virtio 1.2, 5.2.6). Parsing reads guest memory and checks the specification's rules; it does no I/O.
//!
//! Any layout is legal: the header may be split over descriptors or share one with the data, the status may share one with the data.

use std::sync::Arc;

use smallvec::SmallVec;

use super::buffer::GuestBuffer;
use super::chain::{Chain, ChainFault, walk};
use super::defs::{
    HEADER_BYTES, RANGE_BYTES, RANGE_SECTORS_MAX, RANGE_UNMAP, RANGES_MAX, REQUEST_BYTES_MAX,
    S_IOERR, S_OK, S_UNSUPP, T_DISCARD, T_FLUSH, T_GET_ID, T_IN, T_OUT, T_WRITE_ZEROES,
};
use super::memory::{Memory, Piece};
use super::ring::{Head, Ring};
use crate::block::{Operation, SECTOR_BYTES, Sector, SectorRange, Status};

/// What the device can do, as far as requests must be checked against it.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The device's size in sectors.
    pub sectors: u64,
    /// Sectors of a logical block: requests are multiples of it.
    pub block_sectors: u64,
    /// Whether writes are refused.
    pub read_only: bool,
    /// Whether flush is offered.
    pub flush: bool,
    /// Whether discard is offered.
    pub discard: bool,
    /// Whether write zeroes is offered.
    pub write_zeroes: bool,
}

/// A request that makes sense: its ranges are on the device and multiples of its block size, its data has their length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// What is asked for; never [`Operation::Unsupported`].
    pub operation: Operation,
    /// One range for read and write, one or more for discard and write zeroes, none for the rest.
    pub ranges: SmallVec<[SectorRange; 1]>,
}

/// A request that is answered with an error without being tried.
#[derive(Debug)]
pub struct Malformed {
    /// What it asks for, as far as can be told; [`Operation::Unsupported`] of `u32::MAX` if it has no header.
    pub operation: Operation,
    /// What is wrong.
    pub why: Refusal,
    /// The answer's place, if there is one, and its data's segments, if they could be followed.
    pub pending: Pending,
}

/// Why a request is not tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The chain itself.
    #[error(transparent)]
    Chain(#[from] ChainFault),
    /// Fewer than 16 readable bytes.
    #[error("no whole header")]
    Header,
    /// Not one writable byte.
    #[error("no place for the status")]
    Status,
    /// A type that the device does not offer.
    #[error("a request type that is not offered")]
    Type,
    /// Data that is empty, too long, or no multiple of what it must be.
    #[error("{0} bytes of data")]
    Length(u64),
    /// Ranges past the device's end, or not multiples of its block.
    #[error("sectors that are not on the device or not multiples of its block")]
    Range,
    /// A flag of a range that is not known (5.2.6.2).
    #[error("unknown flags {0:#x}")]
    Flags(u32),
    /// A write to a device that can only be read (5.2.6.2).
    #[error("a write to a read-only device")]
    ReadOnly,
}

impl Refusal {
    /// The one place that turns a refusal into an answer.
    pub fn status(self) -> Status {
        match self {
            Refusal::Type | Refusal::Flags(_) => Status::Unsupported,
            Refusal::Chain(_)
            | Refusal::Header
            | Refusal::Status
            | Refusal::Length(_)
            | Refusal::Range
            | Refusal::ReadOnly => Status::IoErr,
        }
    }
}

/// A used entry: what goes back on the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Used {
    /// The chain.
    pub head: Head,
    /// Bytes written, from the first writable one on without a gap (2.7.8).
    pub bytes: u32,
}

/// A request's way back to the guest. It ends exactly once, by [`Pending::complete`] or [`Pending::abandon`]; dropping it is our bug, and
/// panics.
#[derive(Debug)]
pub struct Pending {
    head: Head,
    open: bool,
    status: Option<Piece>,
    data: GuestBuffer,
    /// Writable bytes before the status.
    writable_bytes: u64,
    /// What `status` and `data` point into.
    memory: Arc<Memory>,
}

impl Pending {
    /// The request's data in guest memory; empty for requests that have none.
    pub fn data(&self) -> &GuestBuffer {
        &self.data
    }

    /// The memory that the data is in.
    pub fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }

    /// Whether there is a place for a status.
    pub fn answerable(&self) -> bool {
        self.status.is_some()
    }

    /// Writes the status. `written` bytes of data were written before it; if that is less than the data has (a read that failed), the status
    /// does not count as written, as the bytes before it are not.
    pub fn complete(mut self, status: Status, written: u32) -> Used {
        self.open = false;
        let mut bytes = written;
        if let Some(place) = self.status {
            let byte = match status {
                Status::Ok => S_OK,
                Status::IoErr => S_IOERR,
                Status::Unsupported => S_UNSUPP,
            };
            // SAFETY: the piece is one mapped byte, alive through `memory`.
            unsafe { place.host.write_volatile(byte) };
            if self.writable_bytes <= u64::from(written) {
                bytes = written.saturating_add(1);
            }
        }
        Used {
            head: self.head,
            bytes,
        }
    }

    /// Ends the request without an answer; its chain stays with the device for ever.
    pub fn abandon(mut self) {
        self.open = false;
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if self.open && !std::thread::panicking() {
            #[allow(
                clippy::panic,
                reason = "a request that is lost is our bug, never the guest's"
            )]
            {
                panic!("a request was dropped without an answer");
            }
        }
    }
}

/// Reads the chain at `head` and checks it against the specification and `limits`.
///
/// # Errors
/// [`Malformed`], for anything that is answered without being tried; it has the answer's place if the chain has one.
#[allow(
    clippy::result_large_err,
    reason = "both come by value: a request costs no allocation"
)]
pub fn parse(ring: &Ring, head: Head, limits: &Limits) -> Result<(Request, Pending), Malformed> {
    let Chain {
        mut readable,
        mut writable,
        fault,
        writable_bytes,
        last_writable,
    } = walk(ring, head);
    let header: Option<[u8; HEADER_BYTES]> = readable.split_front();
    let kind = header.map(|raw| {
        let [t0, t1, t2, t3, _, _, _, _, s0, s1, s2, s3, s4, s5, s6, s7] = raw;
        (
            u32::from_le_bytes([t0, t1, t2, t3]),
            u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]),
        )
    });
    let operation = kind.map_or(Operation::Unsupported(u32::MAX), |(kind, _)| {
        operation_of(kind, limits)
    });
    let request = (|| {
        if let Some(fault) = fault {
            return Err(Refusal::Chain(fault));
        }
        let (_, sector) = kind.ok_or(Refusal::Header)?;
        if last_writable.is_none() {
            return Err(Refusal::Status);
        }
        check(operation, Sector(sector), &mut readable, &writable, limits)
    })();
    let data = match operation {
        Operation::Read | Operation::GetId => writable,
        Operation::Write => readable,
        Operation::Flush
        | Operation::Discard
        | Operation::WriteZeroes
        | Operation::WriteZeroesUnmap
        | Operation::Unsupported(_) => {
            writable.clear();
            writable
        }
    };
    let pending = Pending {
        head,
        open: true,
        status: last_writable,
        data,
        writable_bytes: writable_bytes.saturating_sub(1),
        memory: Arc::clone(ring.memory()),
    };
    match request {
        Ok(request) => Ok((request, pending)),
        Err(why) => Err(Malformed {
            operation,
            why,
            pending,
        }),
    }
}

fn operation_of(kind: u32, limits: &Limits) -> Operation {
    match kind {
        T_IN => Operation::Read,
        T_OUT => Operation::Write,
        T_FLUSH if limits.flush => Operation::Flush,
        T_GET_ID => Operation::GetId,
        T_DISCARD if limits.discard => Operation::Discard,
        T_WRITE_ZEROES if limits.write_zeroes => Operation::WriteZeroes,
        other => Operation::Unsupported(other),
    }
}

/// The rules of 5.2.6.1 and 5.2.6.2, operation by operation.
fn check(
    operation: Operation,
    sector: Sector,
    readable: &mut GuestBuffer,
    writable: &GuestBuffer,
    limits: &Limits,
) -> Result<Request, Refusal> {
    if limits.read_only && operation.modifies() {
        return Err(Refusal::ReadOnly);
    }
    let mut request = Request {
        operation,
        ranges: SmallVec::new(),
    };
    match operation {
        Operation::Read => request
            .ranges
            .push(data_range(sector, writable.bytes(), limits)?),
        Operation::Write => request
            .ranges
            .push(data_range(sector, readable.bytes(), limits)?),
        Operation::Flush => {}
        Operation::GetId => {
            if writable.is_empty() {
                return Err(Refusal::Length(0));
            }
        }
        Operation::Discard | Operation::WriteZeroes | Operation::WriteZeroesUnmap => {
            request.operation = zeroing(operation, readable, limits, &mut request.ranges)?;
        }
        Operation::Unsupported(_) => return Err(Refusal::Type),
    }
    Ok(request)
}

fn data_range(sector: Sector, bytes: u64, limits: &Limits) -> Result<SectorRange, Refusal> {
    if bytes == 0 || bytes > REQUEST_BYTES_MAX || !bytes.is_multiple_of(SECTOR_BYTES as u64) {
        return Err(Refusal::Length(bytes));
    }
    let count = bytes.checked_div(SECTOR_BYTES as u64).unwrap_or(0);
    on_device(sector, count, limits)
}

fn on_device(sector: Sector, count: u64, limits: &Limits) -> Result<SectorRange, Refusal> {
    SectorRange::new(sector, count)
        .filter(|range| {
            range.end().0 <= limits.sectors
                && sector.0.is_multiple_of(limits.block_sectors)
                && count.is_multiple_of(limits.block_sectors)
        })
        .ok_or(Refusal::Range)
}

/// Ranges of discard and write zeroes, in order; the unmap flag is the whole request's, as every driver sends it: of mixed flags the weaker
/// promise (no unmap) is kept, which reads the same.
fn zeroing(
    operation: Operation,
    readable: &mut GuestBuffer,
    limits: &Limits,
    ranges: &mut SmallVec<[SectorRange; 1]>,
) -> Result<Operation, Refusal> {
    let bytes = readable.bytes();
    let most = u64::from(RANGES_MAX).saturating_mul(RANGE_BYTES as u64);
    if bytes == 0 || bytes > most || !bytes.is_multiple_of(RANGE_BYTES as u64) {
        return Err(Refusal::Length(bytes));
    }
    let mut all_unmap = true;
    let mut wrong = None;
    while let Some(raw) = readable.split_front::<RANGE_BYTES>() {
        let [
            s0,
            s1,
            s2,
            s3,
            s4,
            s5,
            s6,
            s7,
            n0,
            n1,
            n2,
            n3,
            f0,
            f1,
            f2,
            f3,
        ] = raw;
        let sector = Sector(u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]));
        let count = u32::from_le_bytes([n0, n1, n2, n3]);
        let flags = u32::from_le_bytes([f0, f1, f2, f3]);
        // Unknown flags, and unmap for discard, are unsupported whatever else is wrong.
        if flags & !RANGE_UNMAP != 0 || (operation == Operation::Discard && flags != 0) {
            return Err(Refusal::Flags(flags));
        }
        all_unmap &= flags & RANGE_UNMAP != 0;
        if count == 0 || count > RANGE_SECTORS_MAX {
            wrong = Some(Refusal::Range);
            continue;
        }
        match on_device(sector, u64::from(count), limits) {
            Ok(range) => ranges.push(range),
            Err(why) => wrong = Some(why),
        }
    }
    match wrong {
        Some(why) => Err(why),
        None if operation == Operation::WriteZeroes && all_unmap => Ok(Operation::WriteZeroesUnmap),
        None => Ok(operation),
    }
}
