//! Whether KVM works here, found out by using it.
//!
//! That `/dev/kvm` opens, or that a virtual machine can be made, proves nothing: on some machines the guest then dies or hangs at its
//! first instructions. So the kernel that is to be tested is booted under KVM, without files, until it panics for want of a root: a
//! boot of a second or less. Only that counts. The answer is kept in the cache until the host restarts or QEMU or the kernel changes.

use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use super::{Qemu, QemuError, guest};
use crate::cache::Cache;
use crate::clock;

/// KVM's first line of console output comes within this, or not at all: half a second is usual.
const FIRST_LINE_MAX: Duration = Duration::from_secs(4);
/// The boot to the panic takes less than this, or KVM is no gain: a second is usual.
const BOOT_MAX: Duration = Duration::from_secs(15);
/// The kernel says this when it finds no root file system and has done everything before.
const REACHED: [&str; 2] = [
    "Kernel panic - not syncing: VFS:",
    "Kernel panic - not syncing: No working init",
];

/// What executes the guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Accel {
    Kvm,
    Tcg,
}

/// What the user asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AccelChoice {
    #[default]
    Auto,
    Kvm,
    Tcg,
}

/// What it came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chosen {
    pub accel: Accel,
    /// One line for the user when KVM was wanted and TCG it is.
    pub note: Option<String>,
}

impl fmt::Display for Accel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Accel::Kvm => "kvm",
            Accel::Tcg => "tcg",
        })
    }
}

impl FromStr for AccelChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<AccelChoice, String> {
        match text {
            "auto" => Ok(AccelChoice::Auto),
            "kvm" => Ok(AccelChoice::Kvm),
            "tcg" => Ok(AccelChoice::Tcg),
            other => Err(format!(
                "'{other}' is no accelerator: there are auto, kvm and tcg"
            )),
        }
    }
}

impl Accel {
    /// Decides for `choice`, trying KVM with `kernel` (see [`crate::kernel::Kernel::boot_image`]) where it matters.
    ///
    /// # Errors
    /// KVM was asked for and does not work, or QEMU can't be started.
    pub fn choose(
        choice: AccelChoice,
        qemu: &Qemu,
        kernel: &Path,
        cache: &Cache,
    ) -> Result<Chosen, QemuError> {
        if choice == AccelChoice::Tcg {
            return Ok(Chosen {
                accel: Accel::Tcg,
                note: None,
            });
        }
        match (probe_kept(choice, qemu, kernel, cache)?, choice) {
            (Ok(()), _) => Ok(Chosen {
                accel: Accel::Kvm,
                note: None,
            }),
            (Err(why), AccelChoice::Kvm) => Err(QemuError::NoKvm { why }),
            (Err(why), AccelChoice::Auto | AccelChoice::Tcg) => Ok(Chosen {
                accel: Accel::Tcg,
                note: Some(format!(
                    "KVM does not work here ({why}): using TCG, which is slower"
                )),
            }),
        }
    }
}

/// The probe's answer: from the cache when host, QEMU and kernel are those it was found for.
///
/// Where KVM ran not even a kernel's first lines, no other kernel is tried: that is the machine's fault. A user who asks for KVM gets
/// a new try.
fn probe_kept(
    choice: AccelChoice,
    qemu: &Qemu,
    kernel: &Path,
    cache: &Cache,
) -> Result<Result<(), String>, QemuError> {
    if let Err(error) = fs::File::options().read(true).write(true).open("/dev/kvm") {
        return Ok(Err(format!("/dev/kvm can't be opened: {error}")));
    }
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let machine = format!("{} {} {}", boot.trim(), qemu.path.display(), qemu.version);
    let this = Kept::new(cache, &format!("{machine} {}\n", kernel.display()));
    let any = Kept::new(cache, &format!("{machine} any kernel\n"));
    match this.read().or_else(|| any.read()).as_deref() {
        Some("works") => return Ok(Ok(())),
        Some(why) if choice != AccelChoice::Kvm => return Ok(Err(why.to_owned())),
        _ => {}
    }
    let (answer, deaf) = probe(qemu, kernel)?;
    let text = answer.as_ref().map_or_else(String::as_str, |()| "works");
    if deaf {
        any.write(cache, text)
    } else {
        this.write(cache, text)
    }
    Ok(answer)
}

/// One answer in the cache.
struct Kept {
    key: String,
    path: PathBuf,
}

impl Kept {
    fn new(cache: &Cache, key: &str) -> Kept {
        Kept {
            key: key.to_owned(),
            path: cache.path(format!("kvm-probe/{:08x}", crc32fast::hash(key.as_bytes()))),
        }
    }

    fn read(&self) -> Option<String> {
        let text = fs::read_to_string(&self.path).ok()?;
        text.strip_prefix(&self.key)
            .map(|answer| answer.trim_end().to_owned())
    }

    /// Whole or not at all; not keeping it only costs time.
    fn write(&self, cache: &Cache, answer: &str) {
        let Ok(scratch) = cache.scratch() else { return };
        let file = scratch.path().join("probe");
        let parent = self.path.parent().map(fs::create_dir_all);
        if parent.is_some_and(|made| made.is_ok())
            && fs::write(&file, format!("{}{answer}\n", self.key)).is_ok()
        {
            let _ = fs::rename(&file, &self.path);
        }
    }
}

/// Boots `kernel` under KVM; says why when it does not get to its end, and whether it never said anything.
fn probe(qemu: &Qemu, kernel: &Path) -> Result<(Result<(), String>, bool), QemuError> {
    let mut arguments: Vec<OsString> = [
        "-machine",
        "pc,usb=off,vmport=off,hpet=off,smm=off",
        "-accel",
        "kvm",
        "-cpu",
        "host",
        "-smp",
        "2",
        "-m",
        "256M",
        "-nodefaults",
        "-no-user-config",
        "-no-reboot",
        "-display",
        "none",
        "-serial",
        "stdio",
        "-append",
        "console=ttyS0 earlyprintk=ttyS0 panic=-1 root=/dev/ram0",
        "-kernel",
    ]
    .map(OsString::from)
    .to_vec();
    arguments.push(kernel.into());
    let (sender, lines) = mpsc::channel();
    let on_line = move |line| {
        let _ = sender.send(line);
    };
    let mut guest = guest::spawn(qemu, &arguments, on_line)?;
    let start = clock::now();
    let mut heard = false;
    let why = loop {
        let limit = if heard { BOOT_MAX } else { FIRST_LINE_MAX };
        match lines.recv_timeout(limit.saturating_sub(start.elapsed())) {
            Ok(line) if line.stream == super::Stream::Console => {
                heard = heard || !line.text.is_empty();
                if REACHED.iter().any(|reached| line.text.contains(reached)) {
                    return Ok((Ok(()), false));
                }
            }
            Ok(_) => {}
            Err(RecvTimeoutError::Timeout) if heard => {
                break format!(
                    "a kernel did not finish booting in {} s",
                    BOOT_MAX.as_secs()
                );
            }
            Err(RecvTimeoutError::Timeout) => {
                break format!("a kernel printed nothing in {} s", FIRST_LINE_MAX.as_secs());
            }
            Err(RecvTimeoutError::Disconnected) => {
                break "a kernel restarted before it had booted".to_owned();
            }
        }
    };
    let said = guest
        .kill()
        .last_words
        .pop()
        .map(|said| format!("; QEMU said: {said}"))
        .unwrap_or_default();
    Ok((Err(format!("{why}{said}")), !heard))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_are_spelled_out() {
        assert_eq!("kvm".parse(), Ok(AccelChoice::Kvm));
        assert_eq!("auto".parse(), Ok(AccelChoice::default()));
        assert!("hvf".parse::<AccelChoice>().unwrap_err().contains("'hvf'"));
        assert_eq!(Accel::Tcg.to_string(), "tcg");
    }

    #[test]
    fn tcg_needs_no_probe() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path()).unwrap();
        let nothing = Qemu {
            path: "/nonexistent".into(),
            version: "0".into(),
        };
        let chosen = Accel::choose(
            AccelChoice::Tcg,
            &nothing,
            Path::new("/nonexistent"),
            &cache,
        )
        .unwrap();
        assert_eq!(
            chosen,
            Chosen {
                accel: Accel::Tcg,
                note: None
            }
        );
    }
}
