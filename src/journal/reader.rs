//! Reads records back, to the end or to a torn tail.

use std::io::{self, Read};

use super::{FRAME_BYTES, MAGIC, RECORD_MAX, codec};
use crate::event::{Event, EventNo};
use crate::header::{JOURNAL_VERSION, RunHeader};

/// Why a file is no journal that this version reads.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file could not be read.
    #[error("the journal could not be read")]
    Io(#[from] io::Error),
    /// The magic is missing.
    #[error("this is no journal of legwatch")]
    NoJournal,
    /// The header record is torn or damaged.
    #[error("the journal's header is damaged: {0}")]
    Header(String),
    /// Another version wrote it.
    #[error("the journal has format {0}; this legwatch reads format {JOURNAL_VERSION}")]
    Version(u32),
}

/// Where and why reading stopped before the file's end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tail {
    /// Byte offset of the first record that could not be used.
    pub at: u64,
    /// Bytes from there to the end of the file.
    pub dropped_bytes: u64,
    /// The last event that was read; 0 if there was none.
    pub last: EventNo,
    /// What is wrong there.
    pub why: &'static str,
}

/// Reads a journal.
#[derive(Debug)]
pub struct Reader<R: Read> {
    input: R,
    header: RunHeader,
    payload: Vec<u8>,
    at: u64,
    last: EventNo,
    tail: Option<Tail>,
    done: bool,
}

impl<R: Read> Reader<R> {
    /// Reads magic and header.
    ///
    /// # Errors
    /// [`ReadError`], when there is nothing to go on.
    pub fn new(mut input: R) -> Result<Reader<R>, ReadError> {
        let mut magic = [0; MAGIC.len()];
        if fill(&mut input, &mut magic)? != MAGIC.len() || magic != MAGIC {
            return Err(ReadError::NoJournal);
        }
        let mut payload = Vec::new();
        let mut at = MAGIC.len() as u64;
        match record(&mut input, &mut payload)? {
            Record::Whole => at += (FRAME_BYTES + payload.len()) as u64,
            Record::End => return Err(ReadError::Header("it is missing".into())),
            Record::Torn { why, .. } => return Err(ReadError::Header(why.into())),
        }
        let json = match payload.split_first() {
            Some((&codec::HEADER, json)) => json,
            Some(_) | None => return Err(ReadError::Header("another record is first".into())),
        };
        let value: serde_json::Value =
            serde_json::from_slice(json).map_err(|error| ReadError::Header(error.to_string()))?;
        let version = value
            .get("version")
            .and_then(serde_json::Value::as_u64)
            .unwrap_or(0);
        if version != u64::from(JOURNAL_VERSION) {
            return Err(ReadError::Version(
                u32::try_from(version).unwrap_or(u32::MAX),
            ));
        }
        let header: RunHeader =
            serde_json::from_value(value).map_err(|error| ReadError::Header(error.to_string()))?;
        if header.legs.len() > crate::block::LEGS_MAX {
            return Err(ReadError::Header(format!("{} legs", header.legs.len())));
        }
        Ok(Reader {
            input,
            header,
            payload,
            at,
            last: EventNo(0),
            tail: None,
            done: false,
        })
    }

    /// The header.
    pub fn header(&self) -> &RunHeader {
        &self.header
    }

    /// The next event; `None` at the end or at a torn tail, which [`Reader::tail`] then tells.
    ///
    /// # Errors
    /// The input's own; damage is no error.
    pub fn next_event(&mut self) -> io::Result<Option<Event>> {
        if self.done {
            return Ok(None);
        }
        let (why, tail_bytes) = match record(&mut self.input, &mut self.payload)? {
            Record::End => {
                self.done = true;
                return Ok(None);
            }
            Record::Torn { why, read } => (why, read),
            Record::Whole => {
                let bytes = (FRAME_BYTES + self.payload.len()) as u64;
                match codec::decode(&self.payload) {
                    Some(event) if event.no > self.last => {
                        self.at += bytes;
                        self.last = event.no;
                        return Ok(Some(event));
                    }
                    Some(_) => ("its number is not above the one before", bytes),
                    None => ("its content makes no sense", bytes),
                }
            }
        };
        self.done = true;
        let rest = io::copy(&mut self.input, &mut io::sink())?;
        self.tail = Some(Tail {
            at: self.at,
            dropped_bytes: tail_bytes + rest,
            last: self.last,
            why,
        });
        Ok(None)
    }

    /// What was dropped at the end; `None` if nothing was, or the end is not reached yet.
    pub fn tail(&self) -> Option<&Tail> {
        self.tail.as_ref()
    }
}

impl<R: Read> Iterator for Reader<R> {
    type Item = io::Result<Event>;

    fn next(&mut self) -> Option<io::Result<Event>> {
        self.next_event().transpose()
    }
}

enum Record {
    Whole,
    End,
    Torn { why: &'static str, read: u64 },
}

/// Reads a frame into `payload`. Memory grows with the bytes that are there, not with the length that a damaged frame claims.
fn record(input: &mut impl Read, payload: &mut Vec<u8>) -> io::Result<Record> {
    let mut frame = [0; FRAME_BYTES];
    let read = fill(input, &mut frame)?;
    if read == 0 {
        return Ok(Record::End);
    }
    if read < FRAME_BYTES {
        return Ok(Record::Torn {
            why: "its length is cut off",
            read: read as u64,
        });
    }
    let len = u32::from_le_bytes([frame[0], frame[1], frame[2], frame[3]]);
    let crc = u32::from_le_bytes([frame[4], frame[5], frame[6], frame[7]]);
    if crate::block::to_usize(u64::from(len)) > RECORD_MAX {
        return Ok(Record::Torn {
            why: "its length is impossible",
            read: FRAME_BYTES as u64,
        });
    }
    payload.clear();
    let got = input.take(u64::from(len)).read_to_end(payload)? as u64;
    let read = FRAME_BYTES as u64 + got;
    if got < u64::from(len) {
        return Ok(Record::Torn {
            why: "it is cut off",
            read,
        });
    }
    if crc32fast::hash(payload) != crc {
        return Ok(Record::Torn {
            why: "its checksum is wrong",
            read,
        });
    }
    Ok(Record::Whole)
}

/// Reads until `out` is full or the input ends.
fn fill(input: &mut impl Read, out: &mut [u8]) -> io::Result<usize> {
    let mut have = 0;
    while have < out.len() {
        match input.read(&mut out[have..]) {
            Ok(0) => break,
            Ok(read) => have += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(have)
}
