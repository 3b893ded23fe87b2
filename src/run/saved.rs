//! Guests of a campaign that go on from a saved boot ([`crate::qemu::save`]) instead of booting by themselves.
//!
//! The campaign's folder of saved boots has a file for each machine (QEMU, its arguments, kernel and initramfs by their content). The first run of a machine
//! boots as always and leaves a note; the second one saves a boot, and it and all after it go on from there. What goes wrong with it costs time and
//! nothing else: the guest boots afresh.

use std::error::Error;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::time::Duration;

use crate::cache::{self, Cache};
use crate::clock;
use crate::failure::chain;
use crate::guest::WAITS;
use crate::plan::{Plan, Woken};
use crate::qemu::{self, Disk, Launch, Machine, Qemu, Qmp, QmpError, RESUMES};
use crate::run::happening::Happening;

/// How long a boot that is to be saved may take. Generous: emulated, on a shared machine.
const LIMIT: Duration = Duration::from_secs(180);
/// How long a QEMU may take until it listens.
const LISTENS: Duration = Duration::from_secs(60);
/// What a folder's saved boots take at most; each takes as much as its guest has used of its memory, some 170 MB.
const BYTES_MAX: u64 = 3 << 30;
/// How often it is tried.
const LOOK: Duration = Duration::from_millis(5);

/// A saved boot, found or made.
#[derive(Debug)]
pub(super) struct Saved {
    file: PathBuf,
}

/// A start from it.
#[derive(Debug)]
pub(super) struct Resume {
    launch: Launch,
    file: PathBuf,
    qmp: PathBuf,
    disks: Vec<Disk>,
}

/// The boot of this machine (its disks left out) that was saved in `folder`; made if this is the second time that it is asked for. `None`: boot it.
///
/// # Errors
/// Why it can't be saved.
pub(super) fn find(
    qemu: &Qemu,
    machine: &Machine,
    folder: &Path,
) -> Result<Option<Saved>, Box<dyn Error>> {
    let machine = Machine {
        disks: Vec::new(),
        qmp: None,
        ..machine.clone()
    };
    let key = key(qemu, &machine)?;
    let boots = Cache::at(folder)?;
    let _lock = boots.lock(&key)?;
    let note = boots.path(format!("{key}.once"));
    let name = format!("boots/{key}");
    let file = boots.path(&name);
    if !file.exists() {
        if !note.exists() {
            File::create(&note)?;
            return Ok(None);
        }
        // Short, for sockets' paths have a limit.
        let sockets = tempfile::Builder::new().prefix("legwatch-").tempdir()?;
        let qmp = sockets.path().join("qmp.sock");
        let arguments = qemu::command(&Machine {
            qmp: Some(qmp.clone()),
            ..machine
        })?;
        let scratch = boots.scratch()?;
        let finished = scratch.path().join(&key);
        qemu::save(qemu, &arguments, &qmp, &finished, WAITS, LIMIT)?;
        boots.publish(&finished, &name)?;
    }
    // Who is about to go on from one that is removed boots afresh.
    cache::keep_recent(&file, BYTES_MAX, Duration::ZERO);
    Ok(Some(Saved { file }))
}

/// What tells machines apart.
fn key(qemu: &Qemu, machine: &Machine) -> io::Result<String> {
    let mut all = Vec::new();
    let mut add = |bytes: &[u8]| {
        all.extend_from_slice(&bytes.len().to_le_bytes());
        all.extend_from_slice(bytes);
    };
    add(qemu.path.as_os_str().as_bytes());
    add(qemu.version.as_bytes());
    for argument in qemu::command(machine).map_err(io::Error::other)? {
        add(argument.as_bytes());
    }
    for file in [&machine.kernel, &machine.initramfs] {
        let bytes = fs::read(file)?;
        add(&bytes.len().to_le_bytes());
        add(&cache::digest(&bytes).to_le_bytes());
    }
    Ok(format!("{:016x}", cache::digest(&all)))
}

impl Saved {
    /// A start of `machine` from here.
    ///
    /// # Errors
    /// As [`qemu::command`].
    pub(super) fn resume(
        &self,
        qemu: &Qemu,
        machine: &Machine,
        qmp: &Path,
    ) -> Result<Resume, qemu::QemuError> {
        let mut arguments = qemu::command(&Machine {
            disks: Vec::new(),
            qmp: Some(qmp.to_owned()),
            ..machine.clone()
        })?;
        arguments.extend(RESUMES.map(Into::into));
        Ok(Resume {
            launch: Launch {
                qemu: qemu.clone(),
                arguments,
                interactive: false,
            },
            file: self.file.clone(),
            qmp: qmp.to_owned(),
            disks: machine.disks.clone(),
        })
    }
}

/// The plan, with what its guest slept through; `noise` is nobody else's.
pub(super) fn woken(plan: &Plan, noise: u64) -> Plan {
    Plan {
        woken: Some(Woken {
            clock_s: clock::unix_s(),
            noise: [noise, plan.run, plan.seed, plan.boot.into()],
        }),
        ..plan.clone()
    }
}

impl Resume {
    /// The QEMU to start.
    pub(super) fn launch(&self) -> &Launch {
        &self.launch
    }

    /// Fills the QEMU that was started, plugs in its disks and lets it go, in a thread of its own, which tells if that fails before the boot is `over`.
    pub(super) fn begin(
        &self,
        over: Arc<AtomicBool>,
        happenings: Sender<Happening>,
    ) -> io::Result<()> {
        let (file, qmp, disks) = (self.file.clone(), self.qmp.clone(), self.disks.clone());
        let go = move || {
            let done = || -> Result<(), QmpError> {
                let mut qmp = connect(&qmp, &over)?;
                qmp.load(&file)?;
                for disk in &disks {
                    qmp.plug(disk)?;
                }
                qmp.go_on()
            };
            if let Err(error) = done()
                && !over.load(Ordering::Acquire)
            {
                let why = format!("a saved boot can't be gone on from: {}", chain(&error));
                let _supervisor_is_gone = happenings.send(Happening::NotResumed(why));
            }
        };
        std::thread::Builder::new()
            .name("resume".into())
            .spawn(go)
            .map(drop)
    }
}

/// Waits until QEMU listens.
fn connect(path: &Path, over: &AtomicBool) -> Result<Qmp, QmpError> {
    let begun = clock::now();
    loop {
        match Qmp::connect(path) {
            Err(QmpError::Talk(error))
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
                ) && begun.elapsed() < LISTENS
                    && !over.load(Ordering::Acquire) =>
            {
                std::thread::sleep(LOOK);
            }
            other => return other,
        }
    }
}
