//! A running QEMU.
//!
//! It must not outlive us, however we end. `PR_SET_PDEATHSIG` does that, but is tied to the *thread* that forked: when that thread
//! ends, the signal comes, though the process lives on. So one thread of each guest forks QEMU and stays until it has reaped it. The
//! signal is a no-op when the parent died before it was set, so the child then looks who its parent is, and leaves when it is not us.

use std::ffi::OsString;
use std::fmt;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal};

use super::console::{ConsoleLine, LineSplitter, Stream};
use super::{Qemu, QemuError};

/// QEMU's last words that are kept, in lines.
const LAST_WORDS_MAX: usize = 20;

/// How QEMU ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    /// Its exit code, when it ended by itself: 0 after a guest's power-off, restart or panic.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// What it last said on standard error, at most 20 lines.
    pub last_words: Vec<String>,
}

/// What to start: a QEMU and its arguments (see [`super::command`]).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launch {
    pub qemu: Qemu,
    pub arguments: Vec<OsString>,
    /// Whether what comes on our standard input goes to the guest's console, line by line.
    pub interactive: bool,
}

impl fmt::Display for Launch {
    /// As a line for a shell.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.qemu.path.display())?;
        for argument in &self.arguments {
            let text = argument.to_string_lossy();
            let plain = |c: char| c.is_ascii_alphanumeric() || "-_=,./:+@%".contains(c);
            if !text.is_empty() && text.chars().all(plain) {
                write!(f, " {text}")?;
            } else {
                write!(f, " '{}'", text.replace('\'', "'\\''"))?;
            }
        }
        Ok(())
    }
}

/// A QEMU that runs. Dropping it kills it and waits for its end.
#[derive(Debug)]
pub struct Guest {
    killer: Killer,
    ended: Receiver<Exit>,
    exit: Option<Exit>,
    keeper: Option<JoinHandle<()>>,
    pid: u32,
}

/// Kills one QEMU, from any thread, and never a process that got its number later.
#[derive(Debug, Clone)]
pub struct Killer {
    pidfd: Arc<OwnedFd>,
}

impl Killer {
    /// SIGKILL. A QEMU that has ended already is left in peace.
    pub fn kill(&self) {
        let _ = rustix::process::pidfd_send_signal(&*self.pidfd, Signal::KILL);
    }
}

/// [`launch`] for a caller that asks for the end itself, with [`Guest::wait`].
///
/// # Errors
/// QEMU can't be started.
pub fn spawn(
    qemu: &Qemu,
    arguments: &[OsString],
    on_line: impl FnMut(ConsoleLine) + Send + 'static,
) -> Result<Guest, QemuError> {
    launch(
        &Launch {
            qemu: qemu.clone(),
            arguments: arguments.to_vec(),
            interactive: false,
        },
        on_line,
        |_| {},
    )
}

/// Starts QEMU. Each line of its console and of its standard error goes to `on_line`, in order of arrival; after the last one, its end
/// goes to `on_exit`. Both are called on threads of ours. A callback that blocks stops the guest's console, and so the guest; one that
/// blocks for good makes [`Guest::kill`] wait for good, so hand lines on through a channel that does not fill up.
///
/// # Errors
/// QEMU can't be started.
pub fn launch(
    launch: &Launch,
    on_line: impl FnMut(ConsoleLine) + Send + 'static,
    on_exit: impl FnOnce(Exit) + Send + 'static,
) -> Result<Guest, QemuError> {
    let fail = |source| QemuError::Start {
        path: launch.qemu.path.clone(),
        source,
    };
    let (started_sender, started) = mpsc::channel();
    let (ended_sender, ended) = mpsc::channel();
    let launch = launch.clone();
    let path = launch.qemu.path.clone();
    let keeper = std::thread::Builder::new()
        .name("qemu-keeper".into())
        .spawn(move || {
            let (mut child, readers, last_words) = match start_with_readers(&launch, on_line) {
                Ok((pidfd, started)) => {
                    let _ = started_sender.send(Ok((pidfd, started.0.id())));
                    started
                }
                Err(error) => {
                    let _ = started_sender.send(Err(error));
                    return;
                }
            };
            // Nobody else waits for it, so this fails only when there is nothing to wait for.
            let status = child.wait().ok();
            for reader in readers {
                let _ = reader.join();
            }
            let last_words =
                std::mem::take(&mut *last_words.lock().unwrap_or_else(PoisonError::into_inner));
            let exit = Exit {
                code: status.and_then(|status| status.code()),
                signal: status.and_then(|status| status.signal()),
                last_words,
            };
            let _ = ended_sender.send(exit.clone());
            on_exit(exit);
        });
    let keeper = keeper.map_err(fail)?;
    match started.recv() {
        Ok(Ok((pidfd, pid))) => Ok(Guest {
            killer: Killer {
                pidfd: Arc::new(pidfd),
            },
            ended,
            exit: None,
            keeper: Some(keeper),
            pid,
        }),
        Ok(Err(source)) => Err(QemuError::Start { path, source }),
        Err(_) => Err(QemuError::Start {
            path,
            source: io::Error::other("the thread that starts it died"),
        }),
    }
}

type Readers = (Child, Vec<JoinHandle<()>>, Arc<Mutex<Vec<String>>>);

/// Starts QEMU and the threads that read what it says. On an error nothing is left running.
fn start_with_readers(
    launch: &Launch,
    on_line: impl FnMut(ConsoleLine) + Send + 'static,
) -> io::Result<(OwnedFd, Readers)> {
    let mut child = start(launch)?;
    let pidfd = rustix::process::pidfd_open(Pid::from_child(&child), PidfdFlags::empty())
        .map_err(io::Error::from);
    let last_words = Arc::new(Mutex::new(Vec::new()));
    let readers = read_all(&mut child, on_line, &last_words);
    match (pidfd, readers) {
        (Ok(pidfd), Ok(readers)) => Ok((pidfd, (child, readers, last_words))),
        (pidfd, readers) => {
            let _ = child.kill();
            let _ = child.wait();
            Err(pidfd
                .err()
                .or(readers.err())
                .unwrap_or_else(|| io::Error::other("it can't be watched")))
        }
    }
}

fn read_all(
    child: &mut Child,
    on_line: impl FnMut(ConsoleLine) + Send + 'static,
    last_words: &Arc<Mutex<Vec<String>>>,
) -> io::Result<Vec<JoinHandle<()>>> {
    let on_line: Arc<Mutex<dyn FnMut(ConsoleLine) + Send>> = Arc::new(Mutex::new(on_line));
    let pipes: [(Stream, Option<Box<dyn Read + Send>>); 2] = [
        (
            Stream::Console,
            child.stdout.take().map(|pipe| Box::new(pipe) as _),
        ),
        (
            Stream::Qemu,
            child.stderr.take().map(|pipe| Box::new(pipe) as _),
        ),
    ];
    let mut readers = Vec::new();
    for (stream, pipe) in pipes {
        let Some(pipe) = pipe else { continue };
        let (on_line, last_words) = (Arc::clone(&on_line), Arc::clone(last_words));
        readers.push(
            std::thread::Builder::new()
                .name("qemu-console".into())
                .spawn(move || {
                    read_lines(stream, pipe, &mut |line| {
                        if line.stream == Stream::Qemu {
                            let mut words =
                                last_words.lock().unwrap_or_else(PoisonError::into_inner);
                            if words.len() == LAST_WORDS_MAX {
                                words.remove(0);
                            }
                            words.push(line.text.clone());
                        }
                        (*on_line.lock().unwrap_or_else(PoisonError::into_inner))(line);
                    });
                })?,
        );
    }
    Ok(readers)
}

fn start(launch: &Launch) -> io::Result<Child> {
    let us = rustix::process::getpid();
    let mut command = Command::new(&launch.qemu.path);
    command
        .args(&launch.arguments)
        .stdin(if launch.interactive {
            Stdio::piped()
        } else {
            Stdio::null()
        })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    // A Ctrl-C at the terminal is ours to handle: we end QEMU, after the journal.
    command.process_group(0);
    // SAFETY: between fork and exec only async-signal-safe calls are made: prctl, getppid, and building an error from a number; no
    // allocation, no lock.
    unsafe {
        command.pre_exec(move || {
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
            if rustix::process::getppid() == Some(us) {
                Ok(())
            } else {
                Err(io::Error::from_raw_os_error(libc::ESRCH))
            }
        });
    }
    let mut child = command.spawn()?;
    if let Some(console) = child.stdin.take() {
        type_lines(console);
    }
    Ok(child)
}

/// Hands on what is typed. The thread ends with the input or with QEMU; a read of a terminal can't be called off, so nobody joins it.
fn type_lines(mut console: ChildStdin) {
    let _ = std::thread::Builder::new()
        .name("typist".into())
        .spawn(move || io::copy(&mut io::stdin().lock(), &mut console));
}

fn read_lines(stream: Stream, mut pipe: Box<dyn Read + Send>, sink: &mut dyn FnMut(ConsoleLine)) {
    let mut splitter = LineSplitter::new(stream);
    let mut buffer = [0; 4096];
    loop {
        match pipe.read(&mut buffer) {
            Ok(0) => break,
            Ok(len) => splitter.push(buffer.get(..len).unwrap_or_default(), sink),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    splitter.finish(sink);
}

impl Guest {
    /// QEMU's process number, for messages.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Something that can kill it from another thread.
    pub fn killer(&self) -> Killer {
        self.killer.clone()
    }

    /// Waits until QEMU has ended and its last line has been handed on, at most for `limit`; nothing when it still runs then.
    pub fn wait(&mut self, limit: Duration) -> Option<Exit> {
        if self.exit.is_none() {
            self.exit = match self.ended.recv_timeout(limit) {
                Ok(exit) => Some(exit),
                Err(RecvTimeoutError::Timeout) => return None,
                // The keeper panicked, in a callback perhaps.
                Err(RecvTimeoutError::Disconnected) => Some(Exit {
                    code: None,
                    signal: None,
                    last_words: Vec::new(),
                }),
            };
            if let Some(keeper) = self.keeper.take() {
                let _ = keeper.join();
            }
        }
        self.exit.clone()
    }

    /// Kills QEMU and waits for its end.
    pub fn kill(&mut self) -> Exit {
        self.killer.kill();
        loop {
            if let Some(exit) = self.wait(Duration::from_secs(3600)) {
                return exit;
            }
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        if self.exit.is_none() {
            self.kill();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell() -> Qemu {
        Qemu {
            path: "/bin/sh".into(),
            version: "0.0".into(),
        }
    }

    fn run(script: &str) -> (Guest, Receiver<ConsoleLine>) {
        let (sender, lines) = mpsc::channel();
        let launch = Launch {
            qemu: shell(),
            arguments: vec!["-c".into(), script.into()],
            interactive: false,
        };
        let on_line = move |line| {
            let _ = sender.send(line);
        };
        let guest = super::launch(&launch, on_line, |_| {});
        (guest.unwrap(), lines)
    }

    #[test]
    fn lines_arrive_before_the_exit_and_last_words_are_kept() {
        let (mut guest, lines) = run("echo one; echo oops >&2; exit 3");
        let exit = guest.wait(Duration::from_secs(30)).unwrap();
        assert_eq!(
            (exit.code, exit.signal, exit.last_words.as_slice()),
            (Some(3), None, &["oops".to_owned()][..])
        );
        let mut texts: Vec<String> = lines.try_iter().map(|line| line.text).collect();
        texts.sort();
        assert_eq!(texts, ["one", "oops"]);
        assert_eq!(guest.wait(Duration::ZERO), Some(exit));
    }

    #[test]
    fn a_kill_ends_it_and_a_wait_can_run_out() {
        let (mut guest, _lines) = run("exec sleep 60");
        assert_eq!(guest.wait(Duration::from_millis(10)), None);
        let killer = guest.killer();
        assert_eq!(guest.kill().signal, Some(9));
        killer.kill();
    }

    #[test]
    fn a_launch_reads_as_a_shell_line() {
        let launch = Launch {
            qemu: shell(),
            arguments: vec!["-a=b,c".into(), "it's x".into(), "".into()],
            interactive: false,
        };
        assert_eq!(launch.to_string(), "/bin/sh -a=b,c 'it'\\''s x' ''");
    }

    #[test]
    fn the_end_is_told_after_the_last_line() {
        let (sender, told) = mpsc::channel();
        let also = sender.clone();
        let launch = Launch {
            qemu: shell(),
            arguments: vec!["-c".into(), "echo a; exit 1".into()],
            interactive: false,
        };
        let on_line = move |line: ConsoleLine| sender.send(line.text).unwrap_or_default();
        let on_exit = move |exit: Exit| also.send(format!("{:?}", exit.code)).unwrap_or_default();
        let _guest = super::launch(&launch, on_line, on_exit).unwrap();
        assert_eq!(told.iter().take(2).collect::<Vec<_>>(), ["a", "Some(1)"]);
    }

    #[test]
    fn what_is_not_there_can_not_be_started() {
        let qemu = Qemu {
            path: "/nonexistent/qemu".into(),
            version: "0".into(),
        };
        let error = spawn(&qemu, &[], |_| {}).unwrap_err().to_string();
        assert!(
            error.contains("/nonexistent/qemu can't be started"),
            "{error}"
        );
    }
}
