//! The journal: every event of a run in a file that can be read to a torn tail. The format is described in `docs/journal.md`.
//!
//! [`Writer`] works on any [`std::io::Write`] and [`Reader`] on any [`std::io::Read`]; neither reads a clock or opens a file.

mod codec;
mod reader;
mod writer;

pub use codec::{decode, encode};
pub use reader::{ReadError, Reader, Tail};
pub use writer::{FLUSH_AFTER, Writer};

/// The file's first eight bytes.
pub const MAGIC: [u8; 8] = *b"LEGWJRNL";

/// Bytes before each record's payload: length (u32) and CRC-32 of the payload (u32), little-endian.
const FRAME_BYTES: usize = 8;

/// The longest payload of a record, in bytes; a longer length is damage.
const RECORD_MAX: usize = 64 << 20;

#[cfg(test)]
mod tests;
