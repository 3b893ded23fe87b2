//! The agent in the guest: reads its plan from the control leg, runs it, and tells what happens as marks ([`crate::mark`]).
//!
//! ```text
//!   init ─ fork ─▶ agent ─▶ steps ─▶ shell                        as pid 1 the parent only reaps and, at the end, powers off: whatever
//!                             │────▶ workload ─▶ writer (threads)  happens to the agent, the guest ends and the host is told
//!                             │────▶ readback ◀─ model ◀──┘│
//!                             └────▶ quiet ── gate ────────┘
//!                                      └─ md, control (marks)
//! ```
//!
//! | file | job |
//! | --- | --- |
//! | `init` | pid 1: mounts, modules, reaping, the end |
//! | `disks`, `control` | the disks by serial; the control leg: plan and marks |
//! | `steps`, `shell`, `workload`, `readback`, `survey`, `quiet`, `facts` | the plan's steps |
//! | `writer`, `generator`, `buffers`, `engine`, `gate` | stamped writes |
//! | `model`, `target` | what a read must return |
//! | `mapping` | how a target lies on the array |
//! | `md`, `dm` | what /sys tells of arrays, and dmsetup of device-mapper's mirrors |
//! | `sys` | system calls without a safe wrapper |

mod admin;
mod buffers;
mod control;
mod disks;
mod dm;
mod engine;
mod facts;
mod gate;
mod generator;
mod init;
mod mapping;
mod md;
mod model;
mod quiet;
mod readback;
mod shell;
mod steps;
mod survey;
mod sync;
mod sys;
mod target;
#[cfg(test)]
mod tests;
mod workload;
mod writer;

pub use shell::SHELL_WORD;

/// What the agent says on the console when it has waited for its disks for a while: where a boot can be saved.
pub const WAITS: &str = "legwatch-guest: waits for its disks";

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use self::control::Control;
use self::gate::Gate;
use self::target::Target;
use crate::crypt::Key;

/// What went wrong, as a sentence, and the system's reason if there is one.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
struct Error {
    what: String,
    #[source]
    source: Option<io::Error>,
}

impl Error {
    fn new(what: impl Into<String>) -> Error {
        Error {
            what: what.into(),
            source: None,
        }
    }

    /// The sentence with its reason behind it.
    fn chain(&self) -> String {
        match &self.source {
            Some(source) => format!("{}: {source}", self.what),
            None => self.what.clone(),
        }
    }
}

/// For `map_err`: what was being done when the system said no.
fn context<E: Into<io::Error>>(what: impl Into<String>) -> impl Fn(E) -> Error {
    let what = what.into();
    move |source| Error {
        what: what.clone(),
        source: Some(source.into()),
    }
}

/// Prints one line, whole, to the console. There is nobody to tell if that fails.
fn console(line: &str) {
    let mut out = io::stdout().lock();
    let _nobody_to_tell = out.write_all(format!("{line}\n").as_bytes());
    let _nobody_to_tell = out.flush();
}

/// What all threads of the agent share.
#[derive(Debug)]
struct Shared {
    run: u64,
    seed: u64,
    crypt_key: Option<Key>,
    control: Control,
    gate: Gate,
    stop: AtomicBool,
    background: AtomicUsize,
    quiet_id: AtomicU32,
    targets: Mutex<BTreeMap<PathBuf, Arc<Target>>>,
    /// Arrays with `serialize_policy`, by their attributes' folder, and their legs.
    serialized: Mutex<BTreeMap<PathBuf, Vec<String>>>,
}

impl Shared {
    /// Whether the plan was given up: everybody ends what they do.
    fn stops(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Background steps that run.
    fn background(&self) -> usize {
        self.background.load(Ordering::Relaxed)
    }

    /// The targets by path.
    fn targets(&self) -> MutexGuard<'_, BTreeMap<PathBuf, Arc<Target>>> {
        self.targets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The arrays whose writes are serialised.
    fn serialized(&self) -> MutexGuard<'_, BTreeMap<PathBuf, Vec<String>>> {
        self.serialized
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// The target of a load, with what is known of it from earlier loads. A device that changed its size is another target.
    fn target(&self, device: &str, number: u16) -> Result<Arc<Target>, Error> {
        let new = Target::probe(device, number)?;
        let mut targets = self.targets();
        if let Some(old) = targets.get(&new.path)
            && old.number == number
            && old.geometry.sectors == new.geometry.sectors
        {
            return Ok(Arc::clone(old));
        }
        let new = Arc::new(new);
        targets.insert(new.path.clone(), Arc::clone(&new));
        Ok(new)
    }
}

const USAGE: &str = "usage: legwatch-guest run [--control DEVICE]   run the plan on the control leg (as root), in a system that runs already
       legwatch-guest --version
As process 1 it is init: it mounts, loads modules, runs the plan and powers off.";

/// The program, as init or as called by hand.
pub fn main() -> ExitCode {
    if std::process::id() == 1 {
        return init::main();
    }
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let words: Vec<&str> = arguments
        .iter()
        .map(|word| word.to_str().unwrap_or("?"))
        .collect();
    match words[..] {
        ["--version" | "-V"] => {
            console(&format!("legwatch-guest {}", env!("CARGO_PKG_VERSION")));
            ExitCode::SUCCESS
        }
        ["--help" | "-h"] => {
            console(USAGE);
            ExitCode::SUCCESS
        }
        ["run"] => run(None),
        ["run", "--control", device] => run(Some(PathBuf::from(device))),
        _ => {
            let _nobody_to_tell = writeln!(io::stderr(), "{USAGE}");
            ExitCode::from(2)
        }
    }
}

/// Runs the plan in a system that runs already: 0 if all steps went well, 1 if not, 2 if it could not be begun.
fn run(control: Option<PathBuf>) -> ExitCode {
    let outcome = sys::SharedNumber::new()
        .map_err(context("shared memory"))
        .and_then(|batch| steps::run(control, batch, None));
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            let _nobody_to_tell = writeln!(io::stderr(), "legwatch-guest: {}", error.chain());
            ExitCode::from(2)
        }
    }
}
