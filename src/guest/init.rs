//! Pid 1: makes the guest a place that programs can run in, runs the agent as its child, reaps whatever is left to it, and ends the guest.
//!
//! Pid 1 must not die (the kernel would panic) and must reap every orphan; the agent has children of its own to wait for. So they are two
//! processes, and whatever happens to the agent (a bug of ours, the kernel's out-of-memory killer), the guest still ends and the host is told.

use std::fs::{self, File, OpenOptions};
use std::process::ExitCode;

use rustix::io::Errno;
use rustix::mount::{MountFlags, mount};
use rustix::process::{Pid, WaitOptions};
use rustix::system::RebootCommand;

use super::sys::{self, SharedNumber};
use super::{Error, console, context, steps};

/// One module path a line, in load order.
const MODULES: &str = "/etc/legwatch/modules";
/// Source, where, kind, options: what may be missing fails without harm.
const MOUNTS: [(&str, &str, &str, &core::ffi::CStr); 8] = [
    ("proc", "/proc", "proc", c""),
    ("sysfs", "/sys", "sysfs", c""),
    ("devtmpfs", "/dev", "devtmpfs", c"mode=0755"),
    ("tmpfs", "/run", "tmpfs", c"mode=0755"),
    ("tmpfs", "/tmp", "tmpfs", c"mode=1777"),
    ("debugfs", "/sys/kernel/debug", "debugfs", c""),
    ("tracefs", "/sys/kernel/tracing", "tracefs", c""),
    ("configfs", "/sys/kernel/config", "configfs", c""),
];
/// Without these nothing works: their failure is told.
const NEEDED: [&str; 3] = ["proc", "sysfs", "devtmpfs"];

/// Init. Returns only in the agent's process; pid 1 itself ends with the guest.
pub(super) fn main() -> ExitCode {
    mount_all();
    open_console();
    environment();
    load_modules();
    match begin() {
        Ok(Role::Agent { batch, progress }) => agent(batch, progress),
        Ok(Role::Init {
            agent,
            batch,
            progress,
        }) => {
            if let Err(error) = watch(agent, batch, progress) {
                console(&format!("legwatch-guest: {}", error.chain()));
            }
            power_off()
        }
        Err(error) => {
            console(&format!("legwatch-guest: {}", error.chain()));
            power_off()
        }
    }
}

/// Which of the two processes this is.
enum Role {
    Agent {
        batch: SharedNumber,
        progress: SharedNumber,
    },
    Init {
        agent: Pid,
        batch: SharedNumber,
        progress: SharedNumber,
    },
}

fn begin() -> Result<Role, Error> {
    let number = || SharedNumber::new().map_err(context("shared memory"));
    let (batch, progress) = (number()?, number()?);
    Ok(match sys::fork().map_err(context("fork"))? {
        None => Role::Agent { batch, progress },
        Some(agent) => Role::Init {
            agent,
            batch,
            progress,
        },
    })
}

/// The agent's process. 0: the host knows how it went.
fn agent(batch: SharedNumber, progress: SharedNumber) -> ExitCode {
    let Err(error) = steps::run(None, batch, Some(progress)) else {
        return ExitCode::SUCCESS;
    };
    console(&format!("legwatch-guest: {}", error.chain()));
    match steps::tell_death(batch, progress, &error.chain()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// Reaps until the agent is gone; tells the host of a death that the agent could not tell itself.
fn watch(agent: Pid, batch: SharedNumber, progress: SharedNumber) -> Result<(), Error> {
    let status = loop {
        match rustix::process::wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid == agent => break status,
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(context("waiting for the agent")(error)),
        }
    };
    let why = match (status.exit_status(), status.terminating_signal()) {
        (Some(0), _) => return Ok(()),
        (Some(code), _) => format!("the agent gave up with code {code}"),
        (None, signal) => format!("the agent was killed by signal {}", signal.unwrap_or(0)),
    };
    console(&format!("legwatch-guest: {why}"));
    steps::tell_death(batch, progress, &why)
}

fn mount_all() {
    for (source, target, kind, options) in MOUNTS {
        let _there_or_made = fs::create_dir_all(target);
        let outcome = mount(source, target, kind, MountFlags::empty(), options);
        // Busy: the kernel mounted it itself (devtmpfs).
        if let Err(error) = outcome
            && error != Errno::BUSY
            && NEEDED.contains(&source)
        {
            console(&format!("legwatch-guest: mounting {target}: {error}"));
        }
    }
}

/// The kernel opens the console for init only if its node was in the initramfs.
fn open_console() {
    if let Ok(file) = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/console")
    {
        sys::become_stdio(&file);
    }
}

/// What programs expect.
fn environment() {
    let _name_is_not_needed = rustix::system::sethostname(b"legwatch");
    for (variable, value) in [
        ("PATH", "/sbin:/bin:/usr/sbin:/usr/bin"),
        ("HOME", "/"),
        ("TERM", "linux"),
        ("LC_ALL", "C"),
    ] {
        sys::set_variable(variable, value);
    }
    let _no_umask_needed = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
}

/// Loads the modules of the list. One that is there already (or built in) is as good as loaded.
fn load_modules() {
    let Ok(list) = fs::read_to_string(MODULES) else {
        return;
    };
    for path in list.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let outcome =
            File::open(path).and_then(|file| Ok(rustix::system::finit_module(&file, c"", 0)?));
        if let Err(error) = outcome
            && error.raw_os_error() != Some(libc::EEXIST)
        {
            console(&format!("legwatch-guest: module {path}: {error}"));
        }
    }
}

/// Ends the guest; never returns.
fn power_off() -> ! {
    rustix::fs::sync();
    for command in [RebootCommand::PowerOff, RebootCommand::Restart] {
        if let Err(error) = rustix::system::reboot(command) {
            console(&format!("legwatch-guest: {command:?}: {error}"));
        }
    }
    loop {
        let _orphan_or_none = rustix::process::wait(WaitOptions::empty());
        std::thread::sleep(std::time::Duration::from_secs(1));
    }
}
