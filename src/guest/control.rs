//! The control leg as the agent sees it: the plan is read from it, marks are written to it, one sector each, past the page cache.
//!
//! [`Control::tell`] returns when the mark's write is over, so a begin mark lies before everything that its caller does next. Every
//! [`Marker`] has a sector of its own to write to and is one thread's; batch numbers come from one counter.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::sys::{self, Memory, SharedNumber};
use super::{Error, context};
use crate::block::SECTOR_BYTES;
use crate::mark::{self, Intent, Mark, Pages};
use crate::plan::{PLAN_VERSION, Plan};

/// The open control leg.
#[derive(Clone, Debug)]
pub(super) struct Control {
    file: Arc<File>,
    batch: SharedNumber,
    next_sector: Arc<AtomicU64>,
}

impl Control {
    /// Opens the control leg; `batch` is the counter of batches, shared with whoever else writes marks in this boot.
    pub(super) fn open(path: &Path, batch: SharedNumber) -> Result<Control, Error> {
        let at = || format!("control leg {}", path.display());
        let file = sys::open_direct(path, libc::O_CLOEXEC).map_err(context(at()))?;
        let size = sys::geometry(&file).map_err(context(at()))?.sectors;
        if size < mark::CONTROL_SECTORS {
            return Err(Error::new(format!(
                "{} has {size} sectors, which is less than the {} of a control leg",
                at(),
                mark::CONTROL_SECTORS
            )));
        }
        Ok(Control {
            file: Arc::new(file),
            batch,
            next_sector: Arc::new(AtomicU64::new(0)),
        })
    }

    /// Reads the plan and checks its version.
    pub(super) fn plan(&self) -> Result<Plan, Error> {
        let mut area = Memory::new(sys::sectors_len(8)).map_err(context("memory for the plan"))?;
        let reading = || "reading the plan from the control leg";
        sys::read_sectors(&self.file, mark::PLAN_START, area.bytes_mut())
            .map_err(context(reading()))?;
        // Most plans fit 4 KiB; the header tells how much more there is.
        let json_len = u32::from_le_bytes(area.bytes()[8..12].try_into().expect("four bytes"));
        let whole = u64::from(json_len)
            .saturating_add(SECTOR_BYTES as u64)
            .min(mark::PLAN_COUNT * SECTOR_BYTES as u64);
        let whole = crate::block::to_usize(whole);
        if whole > area.len() {
            area = Memory::new(whole).map_err(context("memory for the plan"))?;
            sys::read_sectors(&self.file, mark::PLAN_START, area.bytes_mut())
                .map_err(context(reading()))?;
        }
        decode_plan(area.bytes())
    }

    /// A marker for one thread.
    pub(super) fn marker(&self) -> Result<Marker, Error> {
        let slot = self.next_sector.fetch_add(1, Ordering::Relaxed) % mark::MARKS_COUNT;
        Ok(Marker {
            control: self.clone(),
            offset: (mark::MARKS_START + slot) * SECTOR_BYTES as u64,
            buffer: Memory::new(SECTOR_BYTES).map_err(context("memory for marks"))?,
        })
    }
}

/// The plan out of the plan area's bytes.
fn decode_plan(area: &[u8]) -> Result<Plan, Error> {
    /// The version alone, so that a plan of another version is refused by its number and not by its first unknown word.
    #[derive(serde::Deserialize)]
    struct Versioned {
        version: u32,
    }
    let json = mark::decode_plan(area).map_err(Error::new)?;
    let version = serde_json::from_slice::<Versioned>(json)
        .map_err(|e| Error::new(format!("the plan has no version: {e}")))?
        .version;
    if version != PLAN_VERSION {
        return Err(Error::new(format!(
            "the plan has version {version}, this agent speaks version {PLAN_VERSION}: use the agent that was built with the host's legwatch"
        )));
    }
    serde_json::from_slice(json).map_err(|e| Error::new(format!("the plan cannot be read: {e}")))
}

/// Writes one thread's marks.
#[derive(Debug)]
pub(super) struct Marker {
    control: Control,
    offset: u64,
    buffer: Memory,
}

impl Marker {
    /// Writes one mark and waits until its write is over.
    pub(super) fn tell(&mut self, mark: &Mark) -> Result<(), Error> {
        let batch = self.control.batch.next();
        self.write(&mark::encode_mark(batch, mark))
    }

    /// Writes intents, in order, as few batches as they need, and waits.
    pub(super) fn tell_intents(&mut self, intents: &[Intent]) -> Result<(), Error> {
        for some in intents.chunks(mark::INTENTS_MAX) {
            let batch = self.control.batch.next();
            self.write(&mark::encode_intents(batch, some))?;
        }
        Ok(())
    }

    /// Writes the pages of one buffer, in as many batches as its runs need, and waits.
    pub(super) fn tell_pages(&mut self, pages: &Pages) -> Result<(), Error> {
        let mut first_page = pages.first_page;
        for runs in pages.runs.chunks(mark::PAGE_RUNS_MAX) {
            let part = Pages {
                first_page,
                runs: runs.to_vec(),
                ..*pages
            };
            first_page += runs.iter().map(|run| run.count).sum::<u32>();
            let batch = self.control.batch.next();
            self.write(&mark::encode_pages(batch, &part))?;
        }
        Ok(())
    }

    fn write(&mut self, sector: &[u8; SECTOR_BYTES]) -> Result<(), Error> {
        self.buffer.bytes_mut()[..SECTOR_BYTES].copy_from_slice(sector);
        loop {
            match self
                .control
                .file
                .write_all_at(&self.buffer.bytes()[..SECTOR_BYTES], self.offset)
            {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                outcome => {
                    return outcome.map_err(context("writing a mark to the control leg"));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan_json(version: u32) -> String {
        format!(
            r#"{{"version":{version},"run":1,"seed":2,"boot":1,"legs":[],"steps":[{{"kind":"setup","name":"n","action":"join"}}]}}"#
        )
    }

    #[test]
    fn a_plan_is_read_and_another_version_refused_by_its_number() {
        let area = mark::encode_plan(plan_json(PLAN_VERSION).as_bytes()).unwrap();
        assert_eq!(decode_plan(&area).unwrap().steps.len(), 1);
        let newer = plan_json(77).replace("\"legs\"", "\"legz\"");
        let area = mark::encode_plan(newer.as_bytes()).unwrap();
        assert!(
            decode_plan(&area)
                .unwrap_err()
                .to_string()
                .contains("version 77")
        );
        assert!(decode_plan(&[0; 512]).is_err());
    }

    #[test]
    fn marks_land_in_the_markers_own_sectors_and_long_lists_are_split() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control");
        let file = File::create(&path).unwrap();
        file.set_len(mark::CONTROL_SECTORS * 512).unwrap();
        let control = Control::open(&path, SharedNumber::new().unwrap()).unwrap();
        let mut one = control.marker().unwrap();
        let mut two = control.marker().unwrap();
        one.tell(&Mark::Finish { ok: true }).unwrap();
        let runs = (0..100).map(|n| mark::PageRun {
            frame: 7 * n,
            count: 2,
        });
        two.tell_pages(&Pages {
            writer: 1,
            slot: 2,
            first_page: 0,
            pinned: true,
            runs: runs.collect(),
        })
        .unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let at = sys::sectors_len(mark::MARKS_START);
        let read = |n: usize| {
            mark::decode(bytes[at + n * 512..][..512].try_into().unwrap())
                .unwrap()
                .clone()
        };
        assert_eq!(read(0), (1, vec![Mark::Finish { ok: true }]));
        let (batch, last) = read(1);
        let Mark::Pages(pages) = &last[0] else {
            panic!("{last:?}")
        };
        let whole = mark::PAGE_RUNS_MAX;
        let batches = 100usize.div_ceil(whole);
        assert_eq!(usize::try_from(batch).unwrap(), 1 + batches);
        assert_eq!(pages.first_page as usize, 2 * whole * (batches - 1));
    }
}
