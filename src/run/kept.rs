//! What the supervisor keeps for its witness, so that a witness that is killed can be followed by another: memory legs, and the events that the
//! journal does not have yet. Memory files, which go when the last of both is gone.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::PathBuf;

use rustix::fs::{MemfdFlags, memfd_create};

use crate::config::{LegConfig, MediumConfig};

/// The memory files.
#[derive(Debug)]
pub(super) struct Kept {
    ahead: File,
    /// By the legs' places.
    legs: Vec<Option<File>>,
}

impl Kept {
    /// Empty files for a run over these legs.
    ///
    /// # Errors
    /// The system's, if it has no descriptors left.
    pub(super) fn new(legs: &[LegConfig]) -> io::Result<Kept> {
        let file = |name: &str| -> io::Result<File> {
            Ok(memfd_create(name, MemfdFlags::CLOEXEC)?.into())
        };
        let leg = |config: &LegConfig| match config.medium {
            MediumConfig::Mem { .. } => file("legwatch-leg").map(Some),
            MediumConfig::File { .. } => Ok(None),
        };
        Ok(Kept {
            ahead: file("legwatch-ahead")?,
            legs: legs.iter().map(leg).collect::<io::Result<_>>()?,
        })
    }

    /// Where the witness finds the file of events.
    pub(super) fn ahead(&self) -> PathBuf {
        path(&self.ahead)
    }

    /// Where it finds those of the memory legs.
    pub(super) fn legs(&self) -> Vec<Option<PathBuf>> {
        self.legs
            .iter()
            .map(|file| file.as_ref().map(path))
            .collect()
    }
}

/// A file of this process's, as another process opens it.
fn path(file: &File) -> PathBuf {
    format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd()).into()
}
