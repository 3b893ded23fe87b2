//! The disks by what they call themselves: the control leg and the legs, from `/sys/block/*/serial`.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Error, context, md};
use crate::clock;
use crate::mark;

const BLOCK: &str = "/sys/block";
/// Where the legs' links are.
const LINKS: &str = "/dev/legs";
/// Between two looks for a disk that is not there yet.
const LOOK: Duration = Duration::from_millis(5);

/// The disks seen so far, by name. A disk is asked for its serial once: on a leg that is a request.
#[derive(Debug, Default)]
pub(super) struct Disks {
    serials: BTreeMap<String, String>,
}

impl Disks {
    fn look(&mut self, block: &Path) {
        for entry in fs::read_dir(block).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if self.serials.contains_key(&name) {
                continue;
            }
            // A disk that does not tell yet is asked again; RAM disks, loops and arrays never tell, and cost a failed open each time.
            if let Some(serial) = serial(block, &name) {
                self.serials.insert(name, serial);
            }
        }
    }

    fn device(&self, serial: &str) -> Option<PathBuf> {
        self.serials
            .iter()
            .find(|(_, has)| *has == serial)
            .map(|(name, _)| Path::new("/dev").join(name))
    }

    /// Waits for disks until all of the serials are there and have a device node; their devices in the same order.
    pub(super) fn wait_for(
        &mut self,
        serials: &[&str],
        timeout: Duration,
    ) -> Result<Vec<PathBuf>, Error> {
        let begun = clock::now();
        loop {
            self.look(Path::new(BLOCK));
            let found: Vec<Option<PathBuf>> = serials
                .iter()
                .map(|serial| self.device(serial).filter(|device| device.exists()))
                .collect();
            if found.iter().all(Option::is_some) {
                return Ok(found.into_iter().flatten().collect());
            }
            if clock::now().duration_since(begun) >= timeout {
                let missing: Vec<&str> = serials
                    .iter()
                    .zip(&found)
                    .filter(|(_, device)| device.is_none())
                    .map(|(serial, _)| *serial)
                    .collect();
                let there: Vec<String> = self
                    .serials
                    .iter()
                    .map(|(name, serial)| format!("{name}={serial}"))
                    .collect();
                return Err(Error::new(format!(
                    "no disk with serial {} after {} s; disks with a serial: {}",
                    missing.join(", "),
                    timeout.as_secs(),
                    if there.is_empty() {
                        "none (is the virtio driver there?)".into()
                    } else {
                        there.join(" ")
                    }
                )));
            }
            std::thread::sleep(LOOK);
        }
    }

    /// The control leg's device.
    pub(super) fn control(&mut self, timeout: Duration) -> Result<PathBuf, Error> {
        let mut devices = self.wait_for(&[mark::SERIAL], timeout)?;
        Ok(devices.remove(0))
    }

    /// Links `/dev/legs/NAME` to each leg.
    pub(super) fn link_legs(&mut self, legs: &[String], timeout: Duration) -> Result<(), Error> {
        if legs.is_empty() {
            return Ok(());
        }
        let names: Vec<&str> = legs.iter().map(String::as_str).collect();
        let devices = self.wait_for(&names, timeout)?;
        fs::create_dir_all(LINKS).map_err(context(LINKS))?;
        for (leg, device) in legs.iter().zip(devices) {
            let link = Path::new(LINKS).join(leg);
            let _was_not_there = fs::remove_file(&link);
            symlink(&device, &link).map_err(context(link.display().to_string()))?;
        }
        Ok(())
    }
}

/// The serial of a block device by its name, as the disk tells it.
pub(super) fn serial(block: &Path, name: &str) -> Option<String> {
    ["serial", "device/serial"]
        .iter()
        .find_map(|attr| md::attribute(&block.join(name).join(attr)))
        .filter(|serial| !serial.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_are_found_by_serial_and_a_missing_one_is_named() {
        let dir = tempfile::tempdir().unwrap();
        for (disk, serial) in [("vda", "legwatch-control\n"), ("vdb", "a\n"), ("vdc", "\n")] {
            fs::create_dir(dir.path().join(disk)).unwrap();
            fs::write(dir.path().join(disk).join("serial"), serial).unwrap();
        }
        let mut disks = Disks::default();
        disks.look(dir.path());
        assert_eq!(disks.device("a"), Some("/dev/vdb".into()));
        assert_eq!(disks.device("b"), None);
        fs::write(dir.path().join("vdc/serial"), "b").unwrap();
        disks.look(dir.path());
        assert_eq!(disks.device("b"), Some("/dev/vdc".into()));
    }
}
