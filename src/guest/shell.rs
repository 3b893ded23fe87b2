//! Shell steps: `sh -c` in a process group of its own, output to the console line by line, killed as a group when its time is over.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags, Signal};

use super::{Error, Shared, console, context, sys};
use crate::clock;

/// How long a killed command may take to be gone.
const DEATH: Duration = Duration::from_secs(5);
/// The longest between two looks at the clock and at the command.
const LOOK_MS: i64 = 100;
/// The same where the kernel has no pidfd to wait for.
const LOOK_BLIND_MS: i64 = 10;

/// The word on the kernel's command line that asks for a shell on the console once the plan is done.
pub const SHELL_WORD: &str = "legwatch.shell";

/// Gives the console to a shell, until it is left, if the kernel's command line asks for it.
pub(super) fn interactive() -> Result<(), Error> {
    let asked = std::fs::read_to_string("/proc/cmdline").unwrap_or_default();
    if !asked.split_whitespace().any(|word| word == SHELL_WORD) {
        return Ok(());
    }
    console(
        "legwatch-guest: the plan is done; a shell on this console, `exit` ends it and powers off",
    );
    let open = || File::options().read(true).write(true).open("/dev/console");
    let (input, output, errors) = (open(), open(), open());
    Command::new("sh")
        .stdin(input.map_err(context("the console"))?)
        .stdout(output.map_err(context("the console"))?)
        .stderr(errors.map_err(context("the console"))?)
        .status()
        .map_err(context("starting sh"))?;
    Ok(())
}

/// Runs a command. `Ok`: it exited with 0. The text of the error is for the step's end mark.
pub(super) fn run(
    shared: &Shared,
    name: &str,
    command: &str,
    timeout: Duration,
) -> Result<String, Error> {
    let (from, to) = sys::pipe().map_err(context("a pipe for the command"))?;
    let to_too = to.try_clone().map_err(context("a pipe for the command"))?;
    let mut child = Command::new("sh")
        .arg("-c")
        .arg(command)
        .envs(shared.crypt_key.map(|key| ("CRYPT_KEY", String::from(key))))
        .stdin(Stdio::null())
        .stdout(to)
        .stderr(to_too)
        .process_group(0)
        .spawn()
        .map_err(context("starting sh"))?;
    let group = Pid::from_child(&child);
    let mut output = Output::new(name, from);
    let begun = clock::now();
    let pidfd = rustix::process::pidfd_open(group, PidfdFlags::empty()).ok();
    let look_ms = if pidfd.is_some() {
        LOOK_MS
    } else {
        LOOK_BLIND_MS
    };
    let mut killed = None;
    let status = loop {
        if let Some(status) = exited(&mut child)? {
            break status;
        }
        let now = clock::now();
        match killed {
            None if now.duration_since(begun) >= timeout => {
                killed = Some((
                    now,
                    format!("not done after {} s, killed", timeout.as_secs()),
                ));
            }
            None if shared.stops() => {
                killed = Some((now, "the plan was given up, killed".to_owned()));
            }
            Some((since, why)) if now.duration_since(since) >= DEATH => {
                output.finish();
                return Err(Error::new(format!(
                    "{why}, and it did not die: it hangs in the kernel"
                )));
            }
            Some(_) => {
                let _already_gone = rustix::process::kill_process_group(group, Signal::KILL);
                output.wait(pidfd.as_ref(), LOOK_BLIND_MS);
            }
            None => output.wait(pidfd.as_ref(), look_ms),
        }
    };
    output.drain();
    output.finish();
    if let Some((_, why)) = killed {
        return Err(Error::new(why));
    }
    outcome(status, &output.last_line)
}

fn exited(child: &mut Child) -> Result<Option<ExitStatus>, Error> {
    child.try_wait().map_err(context("waiting for the command"))
}

fn outcome(status: ExitStatus, last_line: &str) -> Result<String, Error> {
    if status.success() {
        return Ok("exit code 0".into());
    }
    let how = match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, signal) => format!("killed by signal {}", signal.unwrap_or(0)),
    };
    Err(Error::new(if last_line.is_empty() {
        how
    } else {
        format!("{how}; its last line: {last_line}")
    }))
}

/// A command's output on its way to the console.
struct Output<'a> {
    name: &'a str,
    pipe: File,
    open: bool,
    line: Vec<u8>,
    last_line: String,
}

impl Output<'_> {
    fn new(name: &str, pipe: OwnedFd) -> Output<'_> {
        Output {
            name,
            pipe: File::from(pipe),
            open: true,
            line: Vec::new(),
            last_line: String::new(),
        }
    }

    /// Waits until there is output, the command has ended, or the time is over; takes what output there is.
    fn wait(&mut self, pidfd: Option<&OwnedFd>, wait_ms: i64) {
        let mut polled: Vec<PollFd<'_>> = Vec::new();
        if let Some(pidfd) = pidfd {
            polled.push(PollFd::new(pidfd, PollFlags::IN));
        }
        if self.open {
            polled.push(PollFd::from_borrowed_fd(self.pipe.as_fd(), PollFlags::IN));
        }
        let wait = Timespec {
            tv_sec: 0,
            tv_nsec: wait_ms * 1_000_000,
        };
        let _woken_or_not = rustix::event::poll(&mut polled, Some(&wait));
        self.drain();
    }

    /// Takes what output there is, without waiting for more: something that the command left behind may hold the pipe open for ever.
    fn drain(&mut self) {
        let mut bytes = [0; 4096];
        while self.open && self.readable() {
            match self.pipe.read(&mut bytes) {
                Ok(0) => self.open = false,
                Ok(count) => self.take(&bytes[..count]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => self.open = false,
            }
        }
    }

    fn readable(&self) -> bool {
        let mut polled = [PollFd::from_borrowed_fd(self.pipe.as_fd(), PollFlags::IN)];
        rustix::event::poll(&mut polled, Some(&Timespec::default())).is_ok_and(|count| count > 0)
    }

    fn take(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if *byte == b'\n' || self.line.len() >= 1024 {
                self.print();
            }
            if *byte != b'\n' {
                self.line.push(*byte);
            }
        }
    }

    fn print(&mut self) {
        let line = String::from_utf8_lossy(&self.line).trim_end().to_owned();
        self.line.clear();
        if !line.is_empty() {
            console(&format!("[{}] {line}", self.name));
            self.last_line = line;
        }
    }

    fn finish(&mut self) {
        if !self.line.is_empty() {
            self.print();
        }
    }
}
