//! The devices that workloads write to: what the agent knows of each, for read-backs and quiet points.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::model::Model;
use super::sys::{self, Geometry};
use super::{Error, context};
use crate::clock;

/// How long a device may take to appear.
const APPEAR: Duration = Duration::from_secs(10);

/// One target.
#[derive(Debug)]
pub(super) struct Target {
    /// Its number in stamps and intents.
    pub(super) number: u16,
    /// Its path without symbolic links.
    pub(super) path: PathBuf,
    /// Its size and blocks.
    pub(super) geometry: Geometry,
    model: Mutex<Model>,
}

impl Target {
    /// Opens the device for a moment, waiting for it to appear, to see its size.
    pub(super) fn probe(device: &str, number: u16) -> Result<Target, Error> {
        let path = find(device)?;
        let file = OpenOptions::new()
            .read(true)
            .open(&path)
            .map_err(context(format!("opening {device}")))?;
        let geometry = sys::geometry(&file).map_err(context(format!("the size of {device}")))?;
        Ok(Target {
            number,
            path,
            geometry,
            model: Mutex::default(),
        })
    }

    /// What the agent is sure that the target holds.
    pub(super) fn model(&self) -> MutexGuard<'_, Model> {
        self.model.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether discards do anything on it.
    pub(super) fn discards(&self) -> bool {
        if !self.geometry.block_device {
            return true;
        }
        let name = self.path.file_name().unwrap_or_default();
        let limit = Path::new("/sys/class/block")
            .join(name)
            .join("queue/discard_max_bytes");
        super::md::attribute(&limit).is_some_and(|bytes| bytes != "0")
    }
}

/// The device's path without symbolic links, once it is there.
pub(super) fn find(device: &str) -> Result<PathBuf, Error> {
    let begun = clock::now();
    loop {
        match Path::new(device).canonicalize() {
            Ok(path) => return Ok(path),
            Err(error) if clock::now().duration_since(begun) > APPEAR => {
                return Err(context(format!("device {device}"))(error));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}
