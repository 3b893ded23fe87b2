//! Bytes at rest: what a leg returns. A medium knows sectors and nothing of guests or requests.
//!
//! A [`Medium`] has one owner, who writes; any number of [`MediumView`]s read the same bytes from other threads (for evidence), and may see a
//! write half done.

mod file;
mod mapped;
mod memory;
mod overlay;

use std::io;
use std::path::{Path, PathBuf};

pub use file::FileMedium;
pub use memory::MemoryMedium;
pub use overlay::{Block, Kept, Lie, Lies, Met, Overlay, Volatile};

use crate::block::{SECTOR_BYTES, Sector, SectorRange};
use crate::config::{LegConfig, MediumConfig};

/// Why a medium can't be used.
#[derive(Debug, thiserror::Error)]
pub enum MediumError {
    /// Opening failed.
    #[error("opening {path}")]
    Open {
        /// The image.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Neither a file nor a block device.
    #[error("{path} is neither a file nor a block device")]
    Kind {
        /// The image.
        path: PathBuf,
    },
    /// Somebody else has it.
    #[error("{path} is in use by another program or leg")]
    InUse {
        /// The image.
        path: PathBuf,
    },
    /// Empty, or no whole blocks.
    #[error(
        "{path} has {bytes} bytes, which is not a positive multiple of the block size {block_bytes}"
    )]
    Size {
        /// The image.
        path: PathBuf,
        /// Its size in bytes.
        bytes: u64,
        /// The leg's block size in bytes.
        block_bytes: u32,
    },
    /// No address space for a memory medium.
    #[error("reserving {bytes} bytes of memory")]
    Memory {
        /// The medium's size in bytes.
        bytes: u64,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A leg's bytes, with the right to write.
#[derive(Debug)]
pub enum Medium {
    /// Memory.
    Memory(MemoryMedium),
    /// A raw image.
    File(FileMedium),
}

/// A leg's bytes, to be read by anyone.
#[derive(Clone, Debug)]
pub enum MediumView {
    /// Memory.
    Memory(memory::View),
    /// A raw image.
    File(file::View),
}

impl Medium {
    /// Opens what a leg is made of; memory may be in a memory file that somebody keeps.
    ///
    /// # Errors
    /// [`MediumError`].
    pub fn open(config: &LegConfig, memory: Option<&Path>) -> Result<Medium, MediumError> {
        match &config.medium {
            MediumConfig::Mem { bytes } => {
                let memory = match memory {
                    Some(file) => MemoryMedium::shared(file, *bytes)?,
                    None => MemoryMedium::new(*bytes)?,
                };
                memory.prefer_huge_pages();
                Ok(Medium::Memory(memory))
            }
            MediumConfig::File { path } => {
                FileMedium::open(path, config.block_size, config.read_only).map(Medium::File)
            }
        }
    }

    /// Size in sectors.
    pub fn sectors(&self) -> u64 {
        match self {
            Medium::Memory(memory) => memory.sectors(),
            Medium::File(file) => file.sectors(),
        }
    }

    /// Becomes `sectors` long, and never shorter: requests may be on their way to every sector that was there.
    ///
    /// # Errors
    /// The medium's own; `InvalidInput` for less than before.
    pub fn grow(&mut self, sectors: u64) -> io::Result<()> {
        match self {
            Medium::Memory(memory) => memory.grow(sectors),
            Medium::File(file) => file.grow(sectors),
        }
    }

    /// Reads `range`.
    ///
    /// # Errors
    /// The medium's own.
    pub fn read(&self, range: SectorRange, out: &mut [u8]) -> io::Result<()> {
        match self {
            Medium::Memory(memory) => {
                out.copy_from_slice(memory.bytes(range));
                Ok(())
            }
            Medium::File(file) => file.read(range, out),
        }
    }

    /// Writes `range`.
    ///
    /// # Errors
    /// The medium's own.
    pub fn write(&mut self, range: SectorRange, bytes: &[u8]) -> io::Result<()> {
        match self {
            Medium::Memory(memory) => {
                memory.bytes_mut(range).copy_from_slice(bytes);
                Ok(())
            }
            Medium::File(file) => file.write(range, bytes),
        }
    }

    /// The bytes of `range` themselves, where they are memory. Whoever used them asks [`Medium::was_cut_short`] afterwards.
    pub fn bytes(&self, range: SectorRange) -> Option<&[u8]> {
        match self {
            Medium::Memory(memory) => Some(memory.bytes(range)),
            Medium::File(file) => file.bytes(range),
        }
    }

    /// The same, to be written.
    pub fn bytes_mut(&mut self, range: SectorRange) -> Option<&mut [u8]> {
        match self {
            Medium::Memory(memory) => Some(memory.bytes_mut(range)),
            Medium::File(file) => file.bytes_mut(range),
        }
    }

    /// Whether what [`Medium::bytes`] and [`Medium::bytes_mut`] gave since the last time is not the medium's, and has to be read or written once more.
    pub fn was_cut_short(&mut self) -> bool {
        match self {
            Medium::Memory(_) => false,
            Medium::File(file) => file.was_cut_short(),
        }
    }

    /// What was read of `range`.
    pub fn noticed(&mut self, range: SectorRange, bytes: &[u8]) {
        match self {
            Medium::Memory(_) => {}
            Medium::File(file) => file.noticed(range, bytes),
        }
    }

    /// Whether using it may have to wait for a disk.
    pub fn waits(&self) -> bool {
        match self {
            Medium::Memory(_) => false,
            Medium::File(file) => !file.is_memory(),
        }
    }

    /// A reader of the same bytes.
    pub fn view(&self) -> MediumView {
        match self {
            Medium::Memory(memory) => MediumView::Memory(memory.view()),
            Medium::File(file) => MediumView::File(file.view()),
        }
    }

    /// Makes `range` read as zeros; with `unmap` the room is given back where that is possible.
    ///
    /// # Errors
    /// The medium's own. The range's content is then unknown.
    pub fn zero(&mut self, range: SectorRange, unmap: bool) -> io::Result<()> {
        match self {
            Medium::Memory(memory) => {
                memory.zero(range, unmap);
                Ok(())
            }
            Medium::File(file) => file.zero(range, unmap),
        }
    }

    /// Makes all writes durable: a file's data reaches its disk, memory has nothing to do.
    ///
    /// # Errors
    /// The medium's own.
    pub fn flush(&mut self) -> io::Result<()> {
        match self {
            Medium::Memory(_) => Ok(()),
            Medium::File(file) => file.flush(),
        }
    }
}

impl MediumView {
    /// Size in sectors.
    pub fn sectors(&self) -> u64 {
        match self {
            MediumView::Memory(memory) => memory.sectors(),
            MediumView::File(file) => file.sectors(),
        }
    }

    /// Reads whole sectors from `start` on.
    ///
    /// # Errors
    /// The medium's own; `UnexpectedEof` past the medium's end.
    pub fn read(&self, start: Sector, out: &mut [u8]) -> io::Result<()> {
        let range = SectorRange::new(start, (out.len() / SECTOR_BYTES) as u64)
            .filter(|range| range.end().0 <= self.sectors())
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        match self {
            MediumView::Memory(memory) => {
                memory.read(range, out);
                Ok(())
            }
            MediumView::File(file) => file.read(range, out),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::to_usize;
    use proptest::prelude::*;

    const SECTORS: u64 = 1024;

    fn media() -> Vec<(Medium, Option<tempfile::TempDir>)> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        std::fs::File::create(&path)
            .unwrap()
            .set_len(SECTORS * 512)
            .unwrap();
        let mut config = LegConfig::memory("a", SECTORS * 512);
        let memory = Medium::open(&config, None).unwrap();
        let shared_dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let shared = shared_dir.path().join("shared");
        std::fs::write(&shared, "").unwrap();
        let shared = Medium::open(&config, Some(&shared)).unwrap();
        let (on_tmpfs, tmpfs_dir) = image("/dev/shm");
        config.medium = MediumConfig::File { path };
        vec![
            (memory, None),
            (shared, Some(shared_dir)),
            (Medium::open(&config, None).unwrap(), Some(dir)),
            (on_tmpfs, Some(tmpfs_dir)),
        ]
    }

    /// An image below `parent`, and the folder that it goes with.
    fn image(parent: &str) -> (Medium, tempfile::TempDir) {
        let dir = tempfile::tempdir_in(parent).unwrap();
        let path = dir.path().join("image");
        let file = std::fs::File::create(&path).unwrap();
        file.set_len(SECTORS * 512).unwrap();
        let mut config = LegConfig::memory("a", SECTORS * 512);
        config.medium = MediumConfig::File { path };
        (Medium::open(&config, None).unwrap(), dir)
    }

    /// As a leg writes: where the bytes are, or by a call.
    fn write(medium: &mut Medium, range: SectorRange, byte: u8) {
        let bytes = vec![byte; to_usize(range.count() * 512)];
        match medium.bytes_mut(range) {
            Some(there) => there.copy_from_slice(&bytes),
            None => medium.write(range, &bytes).unwrap(),
        }
    }

    /// As a leg reads.
    fn read(medium: &mut Medium, range: SectorRange) -> Vec<u8> {
        let mut bytes = vec![7; to_usize(range.count() * 512)];
        match medium.bytes(range) {
            Some(there) => bytes.copy_from_slice(there),
            None => {
                medium.read(range, &mut bytes).unwrap();
                medium.noticed(range, &bytes);
            }
        }
        bytes
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn a_medium_is_an_array_of_bytes(steps in prop::collection::vec((0u64..SECTORS, 1u64..400, 0u8..4, any::<u8>()), 1..40)) {
            for (mut medium, _dir) in media() {
                let view = medium.view();
                let mut model = vec![0u8; to_usize(SECTORS * 512)];
                for &(start, count, what, byte) in &steps {
                    let range = SectorRange::new(Sector(start), count.min(SECTORS - start)).unwrap();
                    let part = to_usize(range.start().0 * 512)..to_usize(range.end().0 * 512);
                    prop_assert!(read(&mut medium, range) == model[part.clone()]);
                    match what {
                        0 => { medium.zero(range, true).unwrap(); model[part].fill(0); }
                        1 => { medium.zero(range, false).unwrap(); model[part].fill(0); }
                        _ => { write(&mut medium, range, byte); model[part].fill(byte); }
                    }
                }
                medium.flush().unwrap();
                let mut all = vec![1u8; model.len()];
                view.read(Sector(0), &mut all).unwrap();
                prop_assert!(all == model);
            }
        }
    }

    #[test]
    fn a_hole_stays_one_and_a_page_is_used_where_it_is() {
        let (mut medium, dir) = image("/dev/shm");
        let blocks = || {
            let file = std::fs::metadata(dir.path().join("image")).unwrap();
            std::os::unix::fs::MetadataExt::blocks(&file)
        };
        let range = |start, count| SectorRange::new(Sector(start), count).unwrap();
        assert!(read(&mut medium, range(0, SECTORS)).iter().all(|b| *b == 0));
        assert_eq!(blocks(), 0, "reading made no page");
        write(&mut medium, range(12, 1), 5);
        assert_eq!(blocks(), 8);
        assert!(medium.bytes(range(8, 8)).is_some(), "the page is there");
        assert!(medium.bytes(range(8, 9)).is_none());
        medium.zero(range(8, 8), true).unwrap();
        assert!(medium.bytes(range(12, 1)).is_none());
        assert_eq!(read(&mut medium, range(8, 8)), [0; 4096]);
        assert_eq!(blocks(), 0, "what was given back stays so");
        // What was there before is noticed when it is read, at whatever sector.
        write(&mut medium, range(17, 20), 6);
        drop(medium);
        let config = LegConfig {
            medium: MediumConfig::File {
                path: dir.path().join("image"),
            },
            ..LegConfig::memory("a", SECTORS * 512)
        };
        let mut medium = Medium::open(&config, None).unwrap();
        assert!(medium.bytes(range(17, 20)).is_none());
        assert_eq!(read(&mut medium, range(3, 30))[14 * 512..], [6; 16 * 512]);
        assert!(medium.bytes(range(16, 16)).is_some());
        assert!(medium.bytes(range(32, 8)).is_some());
        assert!(medium.bytes(range(8, 8)).is_none());
    }

    #[test]
    fn an_image_that_is_cut_short_is_told_and_asked_from_then_on() {
        let (mut medium, dir) = image("/dev/shm");
        let range = |start, count| SectorRange::new(Sector(start), count).unwrap();
        write(&mut medium, range(0, SECTORS), 3);
        assert!(medium.bytes(range(0, SECTORS)).is_some());
        assert!(!medium.was_cut_short());
        let file = std::fs::File::options()
            .write(true)
            .open(dir.path().join("image"))
            .unwrap();
        file.set_len(256 << 10).unwrap();
        assert_eq!(medium.bytes(range(0, 8)), Some(&[3; 4096][..]));
        assert!(!medium.was_cut_short(), "nobody has looked behind the end");
        assert_eq!(medium.bytes(range(600, 8)), Some(&[0; 4096][..]));
        assert!(medium.was_cut_short());
        assert!(medium.bytes(range(0, 8)).is_none(), "no more mapping");
        let mut sector = [0; 512];
        medium.read(range(0, 1), &mut sector).unwrap();
        assert_eq!(sector, [3; 512]);
        medium.read(range(600, 1), &mut sector).unwrap_err();
    }

    #[test]
    fn a_file_has_one_user_and_whole_blocks() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        let file = std::fs::File::create(&path).unwrap();
        let open = |block| FileMedium::open(&path, block, false);
        assert!(matches!(open(512), Err(MediumError::Size { bytes: 0, .. })));
        file.set_len(512 * 9).unwrap();
        assert!(matches!(open(4096), Err(MediumError::Size { .. })));
        let first = open(512).unwrap();
        assert!(matches!(open(512), Err(MediumError::InUse { .. })));
        drop(first);
        open(512).unwrap();
        assert!(matches!(
            FileMedium::open(dir.path(), 512, false),
            Err(MediumError::Open { .. } | MediumError::Kind { .. })
        ));
        assert!(matches!(
            FileMedium::open(&dir.path().join("none"), 512, false),
            Err(MediumError::Open { .. })
        ));
    }

    #[test]
    fn past_the_end_is_an_error() {
        for (medium, _dir) in media() {
            let mut sector = [0; 512];
            medium
                .view()
                .read(Sector(SECTORS), &mut sector)
                .unwrap_err();
            medium
                .view()
                .read(Sector(u64::MAX), &mut sector)
                .unwrap_err();
        }
    }
}
