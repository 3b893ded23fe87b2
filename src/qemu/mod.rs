//! QEMU: found, asked for its version, told what to be, started and watched.
//!
//! [`command`] is pure: a [`Machine`] in, arguments out. [`Guest`] is a running QEMU whose console arrives line by line and which dies
//! with us, whatever kills us. [`Accel::choose`] tells honestly whether KVM works here.
//!
//! The machine is as small as it can be: `pc` with nothing but legs, a random-number device and one serial port, booted straight
//! into the kernel. docs/kernels.md has the measurements behind each choice.

mod accel;
mod console;
mod guest;
mod qmp;
mod saved;

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

pub use accel::{Accel, AccelChoice, Chosen};
pub use console::{ConsoleLine, LINE_BYTES_MAX, LineSplitter, Stream};
pub use guest::{Exit, Guest, Killer, Launch, launch, spawn};
pub use qmp::{Qmp, QmpError};
pub use saved::{RESUMES, SaveError, can_save, save};

use crate::cache::CacheError;

/// QEMU's program for x86-64 guests.
const PROGRAM: &str = "qemu-system-x86_64";
/// The oldest QEMU that is not warned about: with 7.2, recent kernels oops at boot under TCG.
const VERSION_GOOD: (u32, u32) = (8, 2);
/// The longest path that fits a unix socket's address, in bytes.
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// The kernel's command line without what the user appends.
///
/// - `panic=-1`: a panic restarts at once, which `-no-reboot` turns into QEMU's end.
/// - `init_on_alloc=0`: freed pages keep what they held, so that a use after free shows.
/// - `tsc=reliable no_timer_check`: no timer calibration against a clock that is emulated too.
/// - `random.trust_cpu=on`: no wait for entropy.
/// - `lsm= audit=0 mitigations=off`: nothing that a storage test needs.
/// - `nowatchdog`: a busy host must not look like a stuck guest.
/// - `rootfstype=ramfs`: the guest's programs are never swapped out. TCG keeps code that it has translated by the page's place, and does not see what a vhost-user
///   backend writes there: a program whose pages come back from a leg may run what was there before (docs/kernels.md).
const KERNEL_ARGUMENTS: &str = "console=ttyS0 panic=-1 init_on_alloc=0 tsc=reliable no_timer_check random.trust_cpu=on lsm= audit=0 mitigations=off nowatchdog rootfstype=ramfs";

/// Why there is no guest.
#[derive(Debug, thiserror::Error)]
pub enum QemuError {
    #[error(
        "{PROGRAM} is not on this machine: run vm/setup, which installs it, or set LEGWATCH_QEMU to one"
    )]
    NotFound,
    #[error("{} does not say which version it is: is it a QEMU?", path.display())]
    NoVersion { path: PathBuf },
    #[error("{} can't be started", path.display())]
    Start {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("KVM was asked for and does not work here: {why}; use --accel tcg or auto")]
    NoKvm { why: String },
    #[error("the socket path {} is {len} bytes long, and at most {SOCKET_PATH_BYTES_MAX} fit: use a shorter folder", path.display())]
    SocketPath { path: PathBuf, len: usize },
    #[error("a guest can't have {what}: {allowed}")]
    Machine { what: String, allowed: &'static str },
    #[error(transparent)]
    Cache(#[from] CacheError),
}

/// A QEMU program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Qemu {
    pub path: PathBuf,
    /// As it calls itself: `10.0.2`.
    pub version: String,
}

impl Qemu {
    /// `$LEGWATCH_QEMU`, else the one on the PATH, asked for its version.
    ///
    /// # Errors
    /// There is none, or it does not answer.
    pub fn find() -> Result<Qemu, QemuError> {
        let path = match std::env::var_os("LEGWATCH_QEMU").filter(|path| !path.is_empty()) {
            Some(path) => PathBuf::from(path),
            None => crate::kernel::find_program(PROGRAM).ok_or(QemuError::NotFound)?,
        };
        let output = Command::new(&path)
            .arg("--version")
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .output();
        let output = output.map_err(|source| QemuError::Start {
            path: path.clone(),
            source,
        })?;
        match version_of(&String::from_utf8_lossy(&output.stdout)) {
            Some(version) => Ok(Qemu { path, version }),
            None => Err(QemuError::NoVersion { path }),
        }
    }

    /// The option that makes a disk's connection come again after its end.
    pub fn reconnect(&self) -> String {
        let version = self.version();
        // QEMU 9.2 counts in milliseconds, and took the seconds' option away later.
        if version >= (9, 2) {
            "reconnect-ms=100".into()
        } else {
            "reconnect=1".into()
        }
    }

    /// Its version's first two numbers.
    fn version(&self) -> (u32, u32) {
        let mut numbers = self
            .version
            .split('.')
            .map(|number| number.parse().unwrap_or(0));
        (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
    }

    /// One line about a QEMU that is too old to be trusted, or nothing.
    pub fn warning(&self) -> Option<String> {
        let version = self.version();
        let (major, minor) = VERSION_GOOD;
        (version < VERSION_GOOD).then(|| {
            format!("QEMU {} is older than {major}.{minor}: recent kernels oops in it under TCG, and such a run is a lost guest; vm/setup installs a newer one", self.version)
        })
    }
}

fn version_of(text: &str) -> Option<String> {
    let rest = text.lines().next()?.split("version ").nth(1)?;
    let version: String = rest
        .chars()
        .take_while(|c| c.is_ascii_digit() || *c == '.')
        .collect();
    version.contains('.').then_some(version)
}

/// One vhost-user-blk device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// Names the device in QEMU: letters, digits, `-` and `_`.
    pub name: String,
    /// The backend's socket.
    pub socket: PathBuf,
    /// Queues: 1 or more.
    pub queues: u16,
    /// Descriptors a queue: a power of two from 4 to 1024.
    pub queue_size: u16,
    /// Further device properties, such as `event_idx=off`.
    pub properties: Vec<String>,
    /// Further options of the connection to the backend, such as `reconnect-ms=100`.
    pub connection: Vec<String>,
}

impl Disk {
    /// What QEMU calls the device.
    fn device_id(&self) -> String {
        format!("leg-{}", self.name)
    }

    /// What QEMU calls its connection.
    fn chardev_id(&self) -> String {
        format!("chr-{}", self.name)
    }
}

/// What a guest is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    pub accel: Accel,
    /// Virtual processors: 1 or more.
    pub smp: u16,
    /// Memory, in MiB: 64 or more.
    pub mem_mib: u32,
    /// See [`crate::kernel::Kernel::boot_image`].
    pub kernel: PathBuf,
    pub initramfs: PathBuf,
    /// Goes after our own kernel arguments, so that it wins.
    pub append: String,
    /// The legs, in the order in which the guest will number them, then the control leg.
    pub disks: Vec<Disk>,
    /// Where QEMU listens for QMP, if anywhere.
    pub qmp: Option<PathBuf>,
    /// Where QEMU listens for gdb, if anywhere; the guest then waits for it.
    pub gdb: Option<PathBuf>,
    /// Further QEMU arguments of the user's, as they are.
    pub extra: Vec<OsString>,
}

/// QEMU's arguments for `machine`, without the program.
///
/// The console is on standard output and input. Everything QEMU might add by itself (default devices, user configuration, display)
/// is off.
///
/// # Errors
/// A number is out of its bounds, a name has odd characters, or a socket's path is too long.
pub fn command(machine: &Machine) -> Result<Vec<OsString>, QemuError> {
    let bounds = |ok: bool, what: String, allowed: &'static str| {
        if ok {
            Ok(())
        } else {
            Err(QemuError::Machine { what, allowed })
        }
    };
    bounds(
        machine.smp >= 1,
        format!("{} processors", machine.smp),
        "it needs at least 1",
    )?;
    bounds(
        machine.mem_mib >= 64,
        format!("{} MiB of memory", machine.mem_mib),
        "it needs at least 64",
    )?;
    let mut arguments = Arguments::default();
    arguments.pair("-name", "legwatch,process=legwatch-guest");
    arguments.pair(
        "-machine",
        "pc,usb=off,vmport=off,hpet=off,smm=off,memory-backend=ram",
    );
    match machine.accel {
        Accel::Kvm => {
            arguments.pair("-accel", "kvm");
            arguments.pair("-cpu", "host");
        }
        Accel::Tcg => {
            arguments.pair("-accel", "tcg,thread=multi");
            arguments.pair("-cpu", "max,la57=off");
        }
    }
    arguments.pair("-smp", &machine.smp.to_string());
    arguments.pair("-m", &format!("{}M", machine.mem_mib));
    // vhost-user: the backend maps the guest's memory.
    arguments.pair(
        "-object",
        &format!(
            "memory-backend-memfd,id=ram,size={}M,share=on",
            machine.mem_mib
        ),
    );
    for flag in ["-nodefaults", "-no-user-config", "-no-reboot"] {
        arguments.flag(flag);
    }
    arguments.pair("-display", "none");
    arguments.pair("-boot", "menu=off,reboot-timeout=0");
    arguments.pair("-chardev", "stdio,id=console,signal=off");
    arguments.pair("-serial", "chardev:console");
    arguments.pair("-device", "virtio-rng-pci,disable-legacy=on");
    for disk in &machine.disks {
        disk_arguments(&mut arguments, disk)?;
    }
    if let Some(path) = &machine.qmp {
        arguments.path("-qmp", "unix:", socket(path)?, ",server=on,wait=off");
    }
    if let Some(path) = &machine.gdb {
        arguments.path(
            "-chardev",
            "socket,id=gdb,server=on,wait=off,path=",
            socket(path)?,
            "",
        );
        arguments.pair("-gdb", "chardev:gdb");
        arguments.flag("-S");
    }
    arguments.path("-kernel", "", &machine.kernel, "");
    arguments.path("-initrd", "", &machine.initramfs, "");
    arguments.pair(
        "-append",
        format!("{KERNEL_ARGUMENTS} {}", machine.append).trim_end(),
    );
    arguments.0.extend(machine.extra.iter().cloned());
    Ok(arguments.0)
}

/// QEMU's arguments for the legs alone, with the shared memory that they need: for somebody's own QEMU (`legwatch serve`).
///
/// # Errors
/// As [`command`].
pub fn disks_only(mem_mib: u32, disks: &[Disk]) -> Result<Vec<OsString>, QemuError> {
    let mut arguments = Arguments::default();
    arguments.pair(
        "-object",
        &format!("memory-backend-memfd,id=ram,size={mem_mib}M,share=on"),
    );
    arguments.pair("-numa", "node,memdev=ram");
    for disk in disks {
        disk_arguments(&mut arguments, disk)?;
    }
    Ok(arguments.0)
}

fn disk_arguments(arguments: &mut Arguments, disk: &Disk) -> Result<(), QemuError> {
    let bounds = |ok: bool, what: String, allowed: &'static str| {
        if ok {
            Ok(())
        } else {
            Err(QemuError::Machine { what, allowed })
        }
    };
    let name = &disk.name;
    let plain = !name.is_empty()
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    bounds(
        plain,
        format!("a disk called '{name}'"),
        "letters, digits, '-' and '_' make a name",
    )?;
    bounds(
        disk.queues >= 1,
        format!("{} queues on disk '{name}'", disk.queues),
        "a disk needs at least 1",
    )?;
    let size_ok = disk.queue_size.is_power_of_two() && (4..=1024).contains(&disk.queue_size);
    bounds(
        size_ok,
        format!("a queue size of {} on disk '{name}'", disk.queue_size),
        "powers of two from 4 to 1024 are",
    )?;
    let options: String = disk
        .connection
        .iter()
        .map(|option| format!(",{option}"))
        .collect();
    arguments.path(
        "-chardev",
        &format!("socket,id={},path=", disk.chardev_id()),
        socket(&disk.socket)?,
        &options,
    );
    let mut device = format!(
        "vhost-user-blk-pci,id={},chardev={},num-queues={},queue-size={},disable-legacy=on",
        disk.device_id(),
        disk.chardev_id(),
        disk.queues,
        disk.queue_size
    );
    for property in &disk.properties {
        device.push(',');
        device.push_str(property);
    }
    arguments.pair("-device", &device);
    Ok(())
}

/// A path that fits a socket's address.
fn socket(path: &Path) -> Result<&Path, QemuError> {
    let len = path.as_os_str().len();
    if len <= SOCKET_PATH_BYTES_MAX {
        Ok(path)
    } else {
        Err(QemuError::SocketPath {
            path: path.into(),
            len,
        })
    }
}

#[derive(Default)]
struct Arguments(Vec<OsString>);

impl Arguments {
    fn flag(&mut self, flag: &str) {
        self.0.push(flag.into());
    }

    fn pair(&mut self, option: &str, value: &str) {
        self.0.extend([option.into(), value.into()]);
    }

    /// `option` with a path in the middle of its value. Where the value is a list, a comma in the path is doubled, as QEMU wants it.
    fn path(&mut self, option: &str, before: &str, path: &Path, after: &str) {
        let bytes = path.as_os_str().as_bytes();
        let in_list = !before.is_empty() || !after.is_empty();
        let mut value = before.as_bytes().to_vec();
        for byte in bytes {
            value.push(*byte);
            if *byte == b',' && in_list {
                value.push(b',');
            }
        }
        value.extend(after.bytes());
        self.0
            .extend([OsStr::new(option).to_owned(), OsString::from_vec(value)]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk() -> Disk {
        Disk {
            name: "a".into(),
            socket: "/run/x,y/a.sock".into(),
            queues: 4,
            queue_size: 256,
            properties: vec!["event_idx=off".into()],
            connection: vec!["reconnect-ms=100".into()],
        }
    }

    fn machine() -> Machine {
        Machine {
            accel: Accel::Tcg,
            smp: 2,
            mem_mib: 512,
            kernel: "/k,1/vmlinux".into(),
            initramfs: "/i".into(),
            append: "quiet".into(),
            disks: vec![disk()],
            qmp: Some("/q".into()),
            gdb: None,
            extra: vec!["-trace".into()],
        }
    }

    fn text(machine: &Machine) -> String {
        let arguments = command(machine).unwrap();
        arguments
            .iter()
            .map(|argument| argument.to_string_lossy())
            .collect::<Vec<_>>()
            .join(" ")
    }

    #[test]
    fn the_arguments_say_what_the_machine_is() {
        let text = text(&machine());
        for part in [
            "-accel tcg,thread=multi",
            "-smp 2 -m 512M",
            "memory-backend-memfd,id=ram,size=512M,share=on",
            "-chardev socket,id=chr-a,path=/run/x,,y/a.sock,reconnect-ms=100",
            "-device vhost-user-blk-pci,id=leg-a,chardev=chr-a,num-queues=4,queue-size=256,disable-legacy=on,event_idx=off",
            "-qmp unix:/q,server=on,wait=off",
            "-kernel /k,1/vmlinux -initrd /i",
            "rootfstype=ramfs quiet -trace",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
        assert!(!text.contains("-gdb"));
        let kvm = Machine {
            accel: Accel::Kvm,
            gdb: Some("/g".into()),
            append: String::new(),
            ..machine()
        };
        let text = self::text(&kvm);
        assert!(
            text.contains("-accel kvm -cpu host")
                && text.contains("-gdb chardev:gdb -S")
                && text.contains("rootfstype=ramfs -trace")
        );
    }

    #[test]
    fn what_is_out_of_bounds_is_named() {
        let error = |machine: Machine| command(&machine).unwrap_err().to_string();
        assert!(
            error(Machine {
                smp: 0,
                ..machine()
            })
            .contains("0 processors")
        );
        assert!(
            error(Machine {
                mem_mib: 16,
                ..machine()
            })
            .contains("16 MiB")
        );
        let with = |change: fn(&mut Disk)| {
            let mut disk = disk();
            change(&mut disk);
            error(Machine {
                disks: vec![disk],
                ..machine()
            })
        };
        assert!(with(|disk| disk.queues = 0).contains("0 queues on disk 'a'"));
        assert!(with(|disk| disk.queue_size = 100).contains("queue size of 100"));
        assert!(with(|disk| disk.name = "a,b".into()).contains("'a,b'"));
        assert!(with(|disk| disk.socket = "/x".repeat(60).into()).contains("120 bytes long"));
    }

    #[test]
    fn versions_are_read_and_old_ones_warned_about() {
        let version =
            version_of("QEMU emulator version 7.2.19 (Debian 1:7.2+dfsg-7+deb12u16)\nCopyright")
                .unwrap();
        assert_eq!(version, "7.2.19");
        let qemu = |version: &str| Qemu {
            path: "q".into(),
            version: version.into(),
        };
        assert!(
            qemu(&version)
                .warning()
                .unwrap()
                .contains("7.2.19 is older than 8.2")
        );
        assert_eq!(qemu("8.2.0").warning(), None);
        assert_eq!(qemu("10.0.2").warning(), None);
        assert_eq!(qemu("10.0.2").reconnect(), "reconnect-ms=100");
        assert_eq!(qemu("8.2.0").reconnect(), "reconnect=1");
        assert_eq!(version_of("hello"), None);
    }
}
