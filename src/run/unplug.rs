//! What `unplug` rules ask for: a leg's device is taken away from the guest, and put back.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::time::Duration;

use crate::clock;
use crate::qemu::{Disk, Qmp, QmpError};
use crate::run::happening::Happening;

/// How often one that waits to put a leg back looks whether its boot is over.
const LOOK: Duration = Duration::from_millis(20);

/// Who can do it.
#[derive(Clone, Debug)]
pub(super) struct Unplugger {
    /// Where QEMU listens for QMP.
    pub(super) qmp: PathBuf,
    /// The legs' disks, in the legs' order.
    pub(super) disks: Vec<Disk>,
}

impl Unplugger {
    /// Takes a leg away, and, `back` milliseconds later, puts it back unless its boot is `over`; in a thread of its own, which tells what it did.
    pub(super) fn unplug(
        &self,
        leg: usize,
        name: &str,
        back: Option<u32>,
        over: Arc<AtomicBool>,
        happenings: Sender<Happening>,
    ) -> std::io::Result<()> {
        let Some(disk) = self.disks.get(leg).cloned() else {
            return Err(std::io::ErrorKind::NotFound.into());
        };
        let (qmp, name) = (self.qmp.clone(), name.to_owned());
        std::thread::Builder::new()
            .name("unplug".into())
            .spawn(move || {
                let tell = |what: &str| {
                    let what = format!("leg {name} was {what}");
                    let _supervisor_is_gone = happenings.send(Happening::Hand(what));
                };
                let done = || -> Result<(), QmpError> {
                    Qmp::connect(&qmp)?.unplug(&disk)?;
                    tell("unplugged");
                    let Some(back) = back else { return Ok(()) };
                    let begun = clock::now();
                    while begun.elapsed() < Duration::from_millis(back.into()) {
                        if over.load(Ordering::Acquire) {
                            return Ok(());
                        }
                        std::thread::sleep(LOOK);
                    }
                    Qmp::connect(&qmp)?.plug(&disk)?;
                    tell("plugged in again");
                    Ok(())
                };
                if let Err(error) = done()
                    && !over.load(Ordering::Acquire)
                {
                    let why = match std::error::Error::source(&error) {
                        Some(source) => format!("{error}: {source}"),
                        None => error.to_string(),
                    };
                    let why = format!("leg {name} could not be unplugged or put back: {why}");
                    let _supervisor_is_gone = happenings.send(Happening::HandFailed(why));
                }
            })
            .map(drop)
    }
}
