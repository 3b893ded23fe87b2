//! Streams records out.

use std::io::{self, Write};
use std::time::Duration;

use super::{FRAME_BYTES, MAGIC, codec};
use crate::event::Event;
use crate::header::RunHeader;

/// Bytes held back at most before they go to the operating system, which keeps them when this process is killed.
const BUFFER_BYTES: usize = 256 << 10;

/// How long records may be held back, at most: half of what the design promises, as callers look at their clocks now and then only.
pub const FLUSH_AFTER: Duration = Duration::from_millis(50);

/// Writes a journal.
#[derive(Debug)]
pub struct Writer<W: Write> {
    out: W,
    buffer: Vec<u8>,
    bytes: u64,
}

impl<W: Write> Writer<W> {
    /// Begins a journal: magic and header record, flushed.
    ///
    /// # Errors
    /// What the writer underneath says.
    pub fn new(out: W, header: &RunHeader) -> io::Result<Writer<W>> {
        let mut writer = Writer {
            out,
            buffer: Vec::with_capacity(BUFFER_BYTES + (64 << 10)),
            bytes: 0,
        };
        writer.buffer.extend_from_slice(&MAGIC);
        let json = serde_json::to_vec(header).map_err(io::Error::other)?;
        writer.frame(|buffer| {
            buffer.push(codec::HEADER);
            buffer.extend_from_slice(&json);
        });
        writer.flush()?;
        Ok(writer)
    }

    /// Goes on with a journal whose `bytes` are whole; `out` writes behind them.
    pub fn go_on(out: W, bytes: u64) -> Writer<W> {
        Writer {
            out,
            buffer: Vec::with_capacity(BUFFER_BYTES + (64 << 10)),
            bytes,
        }
    }

    /// Appends one event.
    ///
    /// # Errors
    /// What the writer underneath says; the journal then ends in a torn tail.
    pub fn append(&mut self, event: &Event) -> io::Result<()> {
        self.frame(|buffer| codec::encode(event, buffer));
        if self.buffer.len() >= BUFFER_BYTES {
            self.flush()?;
        }
        Ok(())
    }

    /// Hands over what is held back if `elapsed`, the time since the caller's last flush, is long enough. Tells whether it did, which is when
    /// the caller's time starts anew.
    ///
    /// # Errors
    /// What the writer underneath says.
    pub fn maybe_flush(&mut self, elapsed: Duration) -> io::Result<bool> {
        let due = elapsed >= FLUSH_AFTER;
        if due {
            self.flush()?;
        }
        Ok(due)
    }

    /// Hands over everything.
    ///
    /// # Errors
    /// What the writer underneath says.
    pub fn flush(&mut self) -> io::Result<()> {
        if !self.buffer.is_empty() {
            self.out.write_all(&self.buffer)?;
            self.bytes += self.buffer.len() as u64;
            self.buffer.clear();
            self.out.flush()?;
        }
        Ok(())
    }

    /// Whether something is held back.
    pub fn holds_back(&self) -> bool {
        !self.buffer.is_empty()
    }

    /// Bytes written so far, those held back included.
    pub fn bytes(&self) -> u64 {
        self.bytes + self.buffer.len() as u64
    }

    /// Flushes and gives back what is underneath.
    ///
    /// # Errors
    /// What the writer underneath says.
    pub fn finish(mut self) -> io::Result<W> {
        self.flush()?;
        Ok(self.out)
    }

    fn frame(&mut self, fill: impl FnOnce(&mut Vec<u8>)) {
        let at = self.buffer.len();
        self.buffer.extend_from_slice(&[0; FRAME_BYTES]);
        fill(&mut self.buffer);
        let payload = &self.buffer[at + FRAME_BYTES..];
        let len = u32::try_from(payload.len()).expect("a record is far below 4 GiB");
        let crc = crc32fast::hash(payload);
        self.buffer[at..at + 4].copy_from_slice(&len.to_le_bytes());
        self.buffer[at + 4..at + 8].copy_from_slice(&crc.to_le_bytes());
    }
}
