//! What a leg is: its medium and its device, checked before anything starts.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::block::{SECTOR_BYTES, SectorRange};
use crate::crypt::Key;

/// A leg's medium.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MediumConfig {
    /// Memory, sparse, gone with the witness.
    Mem {
        /// Its size in bytes, a multiple of the leg's block size.
        bytes: u64,
    },
    /// A raw image, locked against a second user.
    File {
        /// Where it is.
        path: PathBuf,
    },
}

/// One leg.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LegConfig {
    /// 1 to 20 characters of `[A-Za-z0-9_.-]`, not starting with a dot; also what get-id tells and the socket's name.
    pub name: String,
    /// What it is made of.
    pub medium: MediumConfig,
    /// Logical block size in bytes: 512 or 4096.
    #[serde(default = "block_512")]
    pub block_size: u32,
    /// Queues that are offered, 1 to 16.
    #[serde(default = "queues_4")]
    pub queues: u16,
    /// Whether writes are refused.
    #[serde(default)]
    pub read_only: bool,
    /// Whether a volatile write cache (flush and its switch) is offered.
    #[serde(default = "yes")]
    pub write_cache: bool,
    /// Whether discard is offered.
    #[serde(default = "yes")]
    pub discard: bool,
    /// Whether write zeroes is offered.
    #[serde(default = "yes")]
    pub write_zeroes: bool,
    /// Every answer is held back for so many milliseconds.
    #[serde(default)]
    pub delay_ms: u32,
    /// Only every write's answer is held back for so many milliseconds (in addition).
    #[serde(default)]
    pub write_delay_ms: u32,
    /// A write's payload is fetched just before its completion, as slow DMA does.
    #[serde(default)]
    pub late_fetch: bool,
    /// QEMU gives the guest packed rings. A frontend that somebody else starts decides for itself.
    #[serde(default)]
    pub packed: bool,
    /// QEMU gives the guest the event index.
    #[serde(default = "yes")]
    pub event_idx: bool,
    /// QEMU gives the guest indirect descriptors.
    #[serde(default = "yes")]
    pub indirect: bool,
    /// Sectors that hold nothing but data, declared by the user where no superblock tells it.
    #[serde(default)]
    pub data: Option<SectorRange>,
    /// The sectors that md was given of it (a partition, a linear device-mapper table); `None`: all.
    #[serde(default)]
    pub part: Option<SectorRange>,
    /// What is stored is ciphertext of dm-crypt with this key, and the IV is the sector's number on the leg: digests and payloads are taken of
    /// the plaintext ([`crate::crypt`]).
    #[serde(default)]
    pub crypt: Option<Key>,
}

fn block_512() -> u32 {
    512
}

fn queues_4() -> u16 {
    4
}

fn yes() -> bool {
    true
}

/// Which payloads the journal keeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Record {
    /// Writes outside known data areas.
    #[default]
    Metadata,
    /// All writes.
    All,
    /// None (benchmarks; checks that need metadata are then off).
    None,
}

impl LegConfig {
    /// A leg of memory with the defaults.
    pub fn memory(name: &str, bytes: u64) -> LegConfig {
        LegConfig {
            name: name.to_owned(),
            medium: MediumConfig::Mem { bytes },
            block_size: 512,
            queues: 4,
            read_only: false,
            write_cache: true,
            discard: true,
            write_zeroes: true,
            delay_ms: 0,
            write_delay_ms: 0,
            late_fetch: false,
            packed: false,
            event_idx: true,
            indirect: true,
            data: None,
            part: None,
            crypt: None,
        }
    }

    /// Whether name, block size, queue count and size make sense.
    ///
    /// # Errors
    /// One sentence: what, where, what to do.
    pub fn check(&self) -> Result<(), String> {
        let name = &self.name;
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        if name.is_empty() || name.len() > 20 || name.starts_with('.') || !name.chars().all(fits) {
            return Err(format!(
                "leg name `{name}`: use 1 to 20 characters of A-Z a-z 0-9 _ - ."
            ));
        }
        if name == "control" {
            return Err("leg name `control` is the control leg's; choose another".into());
        }
        if !matches!(self.block_size, 512 | 4096) {
            return Err(format!(
                "leg {name}: block size {} is not offered; use 512 or 4096",
                self.block_size
            ));
        }
        if !(1..=16).contains(&self.queues) {
            return Err(format!("leg {name}: {} queues; use 1 to 16", self.queues));
        }
        if let MediumConfig::Mem { bytes } = self.medium {
            if bytes == 0 {
                return Err(format!(
                    "leg {name}: size 0; give it a size such as mem:64M"
                ));
            }
            if !bytes.is_multiple_of(u64::from(self.block_size)) {
                return Err(format!(
                    "leg {name}: size {bytes} is not a multiple of its block size {}",
                    self.block_size
                ));
            }
            if bytes / SECTOR_BYTES as u64 > 1 << 40 {
                return Err(format!(
                    "leg {name}: size {bytes} bytes is more than 512 TiB"
                ));
            }
        }
        Ok(())
    }
}
