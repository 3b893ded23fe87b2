//! The scenario's file as it is written: every table and key, unknown ones refused.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;
use toml::Spanned;

use super::size::Size;
use crate::block::{Sector, SectorRange};
use crate::campaign::SuiteTable;
use crate::config::Record;
use crate::crypt::Key;
use crate::fault::Rule;
use crate::header::Expect;
use crate::mark::Mapping;
use crate::plan::{Buffers, Engine, Pattern, WriteLoad};

/// The whole file. `setup`, `workload`, `check` and `end` are the first boot's; `[[boot]]` tables follow it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScenarioFile {
    /// Its name.
    pub name: String,
    /// What it shows, and which bug or promise it comes from.
    pub about: String,
    /// The guest.
    #[serde(default)]
    pub guest: GuestFile,
    /// The key of dm-crypt devices over or under the array, 128 hexadecimal digits; shell steps have it in `$CRYPT_KEY`.
    pub crypt_key: Option<Key>,
    /// The legs by name; their order is that of the names.
    pub legs: BTreeMap<String, LegFile>,
    /// Steps whose failure means that it could not be tested.
    #[serde(default)]
    pub setup: Vec<StepFile>,
    /// The work that is watched.
    #[serde(default)]
    pub workload: Vec<StepFile>,
    /// Steps whose failure is a finding.
    #[serde(default)]
    pub check: Vec<StepFile>,
    /// How the first boot ends.
    #[serde(default)]
    pub end: BootEnd,
    /// Further boots over the same legs.
    #[serde(default)]
    pub boot: Vec<BootFile>,
    /// What the legs do wrong; docs/faults.md has the language.
    #[serde(default)]
    pub fault: Vec<Spanned<Rule>>,
    /// What md has to survive.
    #[serde(default)]
    pub budget: BudgetFile,
    /// What must come of it.
    #[serde(default)]
    pub expect: Expect,
    /// What the journal keeps of payloads.
    #[serde(default)]
    pub record: Record,
    /// What the suite has to know.
    #[serde(default)]
    pub suite: SuiteTable,
}

/// What md has to survive: faults that would go past it are withheld.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BudgetFile {
    /// For every sector, so many legs stay good; 0: no limit.
    pub good_legs: u8,
}

/// One boot.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BootFile {
    /// As in [`ScenarioFile`].
    pub setup: Vec<StepFile>,
    /// As in [`ScenarioFile`].
    pub workload: Vec<StepFile>,
    /// As in [`ScenarioFile`].
    pub check: Vec<StepFile>,
    /// How it ends.
    pub end: BootEnd,
}

/// How a boot ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BootEnd {
    /// A last quiet point is declared and the guest powers off.
    #[default]
    PowerOff,
    /// QEMU is killed as soon as the last step in the foreground is done, with those in the background in mid-load: completed writes stay, as after a
    /// reset of the machine.
    Kill,
}

/// The guest.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GuestFile {
    /// Virtual CPUs.
    pub smp: u16,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// Kernel modules to load, besides those that the legs need.
    pub modules: Vec<String>,
    /// Programs of the host to have in the guest, besides mdadm and busybox.
    pub binaries: Vec<String>,
    /// Added to the kernel's command line.
    pub append: String,
}

impl Default for GuestFile {
    fn default() -> GuestFile {
        GuestFile {
            smp: 2,
            memory_mib: 512,
            modules: vec!["raid1".into()],
            binaries: vec![],
            append: String::new(),
        }
    }
}

/// One leg.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LegFile {
    /// Size of a leg of memory (`"64M"`).
    pub size: Option<Size>,
    /// A raw image instead.
    pub file: Option<PathBuf>,
    /// Logical block size in bytes: 512 or 4096.
    #[serde(default = "block_512")]
    pub block_size: u32,
    /// Queues, 1 to 16.
    #[serde(default = "one")]
    pub queues: u16,
    /// Writes are refused.
    #[serde(default)]
    pub read_only: bool,
    /// A volatile write cache is offered.
    #[serde(default = "yes")]
    pub write_cache: bool,
    /// Discard is offered.
    #[serde(default = "yes")]
    pub discard: bool,
    /// Write zeroes is offered.
    #[serde(default = "yes")]
    pub write_zeroes: bool,
    /// Every answer comes so many milliseconds late.
    #[serde(default)]
    pub delay_ms: u32,
    /// Every write's answer comes so many milliseconds late, in addition.
    #[serde(default)]
    pub write_delay_ms: u32,
    /// Payloads are fetched just before completion.
    #[serde(default)]
    pub late_fetch: bool,
    /// The guest gets packed rings.
    #[serde(default)]
    pub packed: bool,
    /// The guest gets the event index.
    #[serde(default = "yes")]
    pub event_idx: bool,
    /// The guest gets indirect descriptors.
    #[serde(default = "yes")]
    pub indirect: bool,
    /// What the guest stores is dm-crypt's ciphertext with the scenario's key: `0 SIZE crypt aes-xts-plain64 $CRYPT_KEY 0 /dev/legs/NAME 0`.
    #[serde(default)]
    pub crypt: bool,
    /// The sectors that md gets of it (`"2048+129024"`), where it is given a partition or a part of it; default: all.
    pub part: Option<SectorSpan>,
    /// The sectors that hold the mirror's data (`"0+131072"`), where no superblock of md says so: all legs with it are one mirror.
    pub data: Option<SectorSpan>,
}

/// A range of sectors as `START+COUNT`.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "String")]
pub struct SectorSpan(pub SectorRange);

impl TryFrom<String> for SectorSpan {
    type Error = String;

    fn try_from(text: String) -> Result<SectorSpan, String> {
        let parsed = text.split_once('+').and_then(|(start, count)| {
            SectorRange::new(Sector(start.parse().ok()?), count.parse().ok()?)
        });
        match parsed {
            Some(range) if !range.is_empty() => Ok(SectorSpan(range)),
            Some(_) | None => Err(format!("`{text}`: give sectors as START+COUNT")),
        }
    }
}

fn block_512() -> u32 {
    512
}

fn one() -> u16 {
    1
}

fn yes() -> bool {
    true
}

/// One step: exactly one of `run`, `write`, `read_back`, `survey`, `quiet`, `join`, `md`, `fact`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StepFile {
    /// Its name in progress and report; default: what it does.
    pub name: Option<String>,
    /// A command for the guest's `sh`.
    pub run: Option<String>,
    /// Stamped writes.
    pub write: Option<WriteFile>,
    /// Reads back what was written to a device.
    pub read_back: Option<String>,
    /// Reads sectors of a device, to be judged by the host: after a cut nobody in the guest knows what they should be.
    pub survey: Option<SurveyFile>,
    /// A quiet point.
    pub quiet: Option<bool>,
    /// Waits for the steps in the background.
    pub join: Option<bool>,
    /// Something done to an array, so that the checker knows when: `fail LEG`, `remove LEG`, `add LEG`, `re-add LEG`, `check`, `repair`, `serialize`,
    /// `unserialize` (`serialize_policy`).
    pub md: Option<String>,
    /// The array's device for `md`; default: /dev/md0.
    pub array: Option<String>,
    /// Tells the first line of a file of the guest.
    pub fact: Option<FactFile>,
    /// Runs beside the steps after it.
    #[serde(default)]
    pub background: bool,
    /// The longest it may take, in seconds.
    pub timeout_s: Option<u32>,
}

/// What is surveyed.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SurveyFile {
    /// The device in the guest; one that a workload writes to.
    pub device: String,
    /// The first sector.
    #[serde(default)]
    pub start: u64,
    /// How many sectors; 0: to the end.
    #[serde(default)]
    pub count: u64,
}

/// A fact to be told.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FactFile {
    /// Its name.
    pub name: String,
    /// The file.
    pub path: String,
}

/// Stamped writes; the keys are those of [`WriteLoad`].
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WriteFile {
    /// The device in the guest.
    pub device: String,
    /// How many.
    pub writes: u64,
    /// Threads.
    #[serde(default = "one")]
    pub writers: u16,
    /// Sizes in bytes, one by chance for each write.
    #[serde(default = "sizes_4k")]
    pub sizes: Vec<Size>,
    /// Where they go.
    #[serde(default)]
    pub pattern: Pattern,
    /// The area's first sector.
    #[serde(default)]
    pub start: u64,
    /// The area's sectors; 0: all.
    #[serde(default)]
    pub count: u64,
    /// How they are made.
    #[serde(default)]
    pub engine: Engine,
    /// In flight a writer.
    #[serde(default = "depth_8")]
    pub depth: u32,
    /// What happens to buffers.
    #[serde(default)]
    pub buffers: Buffers,
    /// O_DSYNC.
    #[serde(default)]
    pub dsync: bool,
    /// An fsync after so many writes of a writer; 0: none.
    #[serde(default)]
    pub fsync_every: u32,
    /// Discards in a hundred requests.
    #[serde(default)]
    pub discard_percent: u8,
    /// How the device's sectors lie on the array; without it the agent finds out (docs/stacks.md).
    pub mapping: Option<Mapping>,
}

fn sizes_4k() -> Vec<Size> {
    vec!["4K".parse().expect("a size")]
}

fn depth_8() -> u32 {
    8
}

impl WriteFile {
    /// The agent's form of it.
    ///
    /// # Errors
    /// What makes no sense, in words.
    pub(super) fn load(self, target: u16, first_writer: u16) -> Result<WriteLoad, String> {
        let sizes = self
            .sizes
            .iter()
            .map(|size| {
                u32::try_from(size.bytes()).map_err(|_| format!("size {size}; use at most 1M"))
            })
            .collect::<Result<Vec<_>, _>>()?;
        let load = WriteLoad {
            device: self.device,
            target,
            mapping: self.mapping,
            first_writer,
            writers: self.writers,
            writes: self.writes,
            sizes,
            pattern: self.pattern,
            start: self.start,
            count: self.count,
            engine: self.engine,
            depth: self.depth,
            buffers: self.buffers,
            dsync: self.dsync,
            fsync_every: self.fsync_every,
            discard_percent: self.discard_percent,
        };
        check_load(&load)?;
        Ok(load)
    }
}

/// Whether a load can be what its words say.
fn check_load(load: &WriteLoad) -> Result<(), String> {
    if load.writes == 0 {
        return Err("writes = 0; a workload that writes nothing shows nothing".into());
    }
    if !(1..=64).contains(&load.depth) {
        return Err(format!("depth = {}; use 1 to 64", load.depth));
    }
    if !(1..=64).contains(&load.writers) {
        return Err(format!("writers = {}; use 1 to 64", load.writers));
    }
    if load.sizes.is_empty() {
        return Err("sizes = []; give at least one size in bytes".into());
    }
    if let Some(size) = load
        .sizes
        .iter()
        .find(|size| !(512..=1 << 20).contains(*size) || *size % 512 != 0)
    {
        return Err(format!(
            "size {size}; use multiples of 512 from 512 to 1048576 bytes"
        ));
    }
    if load.discard_percent > 100 {
        return Err(format!(
            "discard_percent = {}; use 0 to 100",
            load.discard_percent
        ));
    }
    Ok(())
}
