//! A boot that is saved, so that other guests can go on from it.
//!
//! vhost-user disks can't be saved (drivers of ours live in another process). So the machine boots without any, up to where its agent waits for
//! them; who goes on from there plugs them in. What such guests have in common, and would not have if each had booted by itself, are the clock and the
//! state of the kernel's random numbers: [`crate::plan::Woken`] is about those. The addresses at which the kernel keeps things stay in common.

use std::ffi::OsString;
use std::path::Path;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use super::{Accel, Qemu, QemuError, Qmp, QmpError, Stream};
use crate::clock;

/// Arguments of a QEMU that goes on from a saved boot, after those that it was saved with.
pub const RESUMES: [&str; 2] = ["-incoming", "defer"];
/// The oldest QEMU whose files have a place for each page.
const VERSION_MAPPED: (u32, u32) = (9, 0);

/// Why a boot was not saved.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    /// QEMU does not start.
    #[error(transparent)]
    Qemu(#[from] QemuError),
    /// QEMU does not save.
    #[error(transparent)]
    Qmp(#[from] QmpError),
    /// The guest ended.
    #[error("the guest ended before it waited for its disks; its last line: {0}")]
    Ended(String),
    /// The guest did not come that far.
    #[error("the guest did not wait for its disks within {} s; its last line: {last}", limit.as_secs())]
    Late {
        /// What it had.
        limit: Duration,
        /// Its last line.
        last: String,
    },
}

/// Whether boots of this QEMU can be saved: one of 9.0 or later that emulates the processor. With KVM a guest boots fast enough.
pub fn can_save(qemu: &Qemu, accel: Accel) -> bool {
    accel == Accel::Tcg && qemu.version() >= VERSION_MAPPED
}

/// Boots a machine without disks, which listens for QMP at `qmp`, and saves it to `file` once its console says `word`; at most `limit`
/// for that.
///
/// # Errors
/// [`SaveError`]; `file` may be there in part.
pub fn save(
    qemu: &Qemu,
    arguments: &[OsString],
    qmp: &Path,
    file: &Path,
    word: &str,
    limit: Duration,
) -> Result<(), SaveError> {
    let (sender, lines) = mpsc::channel();
    let mut guest = super::spawn(qemu, arguments, move |line| {
        let _nobody_waits = sender.send(line);
    })?;
    let begun = clock::now();
    let mut last = String::new();
    loop {
        let left = limit.saturating_sub(begun.elapsed());
        match lines.recv_timeout(left) {
            Ok(line) if line.stream == Stream::Console && line.text.contains(word) => break,
            Ok(line) => last = line.text,
            Err(RecvTimeoutError::Timeout) => return Err(SaveError::Late { limit, last }),
            Err(RecvTimeoutError::Disconnected) => return Err(SaveError::Ended(last)),
        }
    }
    Qmp::connect(qmp)?.save(file)?;
    guest.kill();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_emulated_guest_of_a_new_qemu_is_saved() {
        let qemu = |version: &str| Qemu {
            path: "/bin/sh".into(),
            version: version.into(),
        };
        assert!(can_save(&qemu("9.0.0"), Accel::Tcg));
        assert!(can_save(&qemu("10.0.13"), Accel::Tcg));
        assert!(!can_save(&qemu("8.2.2"), Accel::Tcg));
        assert!(!can_save(&qemu("10.0.13"), Accel::Kvm));
    }

    #[test]
    fn a_guest_that_ends_or_says_nothing_is_not_saved() {
        let qemu = Qemu {
            path: "/bin/sh".into(),
            version: "10.0".into(),
        };
        let run = |script: &str, ms| {
            let arguments = ["-c".into(), script.into()];
            let limit = Duration::from_millis(ms);
            let (none, file) = (Path::new("/nonexistent/q"), Path::new("/nonexistent/f"));
            save(&qemu, &arguments, none, file, "waits", limit)
                .unwrap_err()
                .to_string()
        };
        let ended = run("echo Kernel panic", 60_000);
        assert!(
            ended.contains("ended") && ended.contains("Kernel panic"),
            "{ended}"
        );
        assert!(run("exec sleep 60", 50).contains("did not wait"));
    }
}
