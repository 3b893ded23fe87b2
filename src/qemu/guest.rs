//! A running QEMU.
//!
//! It must not outlive us, however we end. `PR_SET_PDEATHSIG` does that, but is tied to the *thread* that forked: when that thread
//! ends, the signal comes, though the process lives on. So one thread of each guest forks QEMU and stays until it has reaped it. The
//! signal is a no-op when the parent died before it was set, so the child then looks who its parent is, and leaves when it is not us.

use std::ffi::OsString;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
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

/// A QEMU that runs. Dropping it kills it.
#[derive(Debug)]
pub struct Guest {
    killer: Killer,
    ended: Receiver<ExitStatus>,
    exit: Option<Exit>,
    last_words: Arc<Mutex<Vec<String>>>,
    threads: Vec<JoinHandle<()>>,
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

/// Starts QEMU with these arguments. Each line of its console and of its standard error goes to `sink`, in order of arrival, on a
/// thread of ours; a sink that blocks stops the guest's console, and so the guest.
///
/// # Errors
/// QEMU can't be started.
pub fn spawn(
    qemu: &Qemu,
    arguments: &[OsString],
    sink: impl FnMut(ConsoleLine) + Send + 'static,
) -> Result<Guest, QemuError> {
    let fail = |source| QemuError::Start {
        path: qemu.path.clone(),
        source,
    };
    let (started_sender, started) = mpsc::channel();
    let (ended_sender, ended) = mpsc::channel();
    let (path, arguments) = (qemu.path.clone(), arguments.to_vec());
    let keeper = std::thread::Builder::new()
        .name("qemu-keeper".into())
        .spawn(move || {
            let mut child = match start(&path, &arguments) {
                Ok(child) => child,
                Err(error) => {
                    let _ = started_sender.send(Err(error));
                    return;
                }
            };
            let pipes = (child.id(), child.stdout.take(), child.stderr.take());
            let pid = Pid::from_child(&child);
            let pidfd =
                rustix::process::pidfd_open(pid, PidfdFlags::empty()).map_err(io::Error::from);
            if pidfd.is_err() {
                let _ = child.kill();
            }
            let _ = started_sender.send(pidfd.map(|pidfd| (pidfd, pipes)));
            if let Ok(status) = child.wait() {
                let _ = ended_sender.send(status);
            }
        });
    let keeper = keeper.map_err(fail)?;
    let (pidfd, (pid, stdout, stderr)) = match started.recv() {
        Ok(Ok(started)) => started,
        Ok(Err(source)) => return Err(fail(source)),
        Err(_) => return Err(fail(io::Error::other("the thread that starts it died"))),
    };
    let last_words = Arc::new(Mutex::new(Vec::new()));
    let sink: Arc<Mutex<dyn FnMut(ConsoleLine) + Send>> = Arc::new(Mutex::new(sink));
    let mut guest = Guest {
        killer: Killer {
            pidfd: Arc::new(pidfd),
        },
        ended,
        exit: None,
        last_words: Arc::clone(&last_words),
        threads: vec![keeper],
        pid,
    };
    let pipes: [(Stream, Option<Box<dyn Read + Send>>); 2] = [
        (Stream::Console, stdout.map(|pipe| Box::new(pipe) as _)),
        (Stream::Qemu, stderr.map(|pipe| Box::new(pipe) as _)),
    ];
    for (stream, pipe) in pipes {
        let Some(pipe) = pipe else { continue };
        let (sink, last_words) = (Arc::clone(&sink), Arc::clone(&last_words));
        let reader = std::thread::Builder::new()
            .name("qemu-console".into())
            .spawn(move || {
                read_lines(stream, pipe, &mut |line| {
                    if line.stream == Stream::Qemu {
                        let mut words = last_words.lock().unwrap_or_else(PoisonError::into_inner);
                        if words.len() == LAST_WORDS_MAX {
                            words.remove(0);
                        }
                        words.push(line.text.clone());
                    }
                    (*sink.lock().unwrap_or_else(PoisonError::into_inner))(line);
                });
            });
        // Dropping the guest on the way out kills it.
        guest.threads.push(reader.map_err(fail)?);
    }
    Ok(guest)
}

fn start(path: &Path, arguments: &[OsString]) -> io::Result<Child> {
    let us = rustix::process::getpid();
    let mut command = Command::new(path);
    command
        .args(arguments)
        .stdin(Stdio::null())
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
    command.spawn()
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

    /// Waits until QEMU has ended and its last line has gone to the sink, at most for `limit`; nothing when it still runs then.
    pub fn wait(&mut self, limit: Duration) -> Option<Exit> {
        if self.exit.is_none() {
            let status = match self.ended.recv_timeout(limit) {
                Ok(status) => Some(status),
                Err(RecvTimeoutError::Timeout) => return None,
                // The keeper could not wait for it: it is gone, and nobody knows how.
                Err(RecvTimeoutError::Disconnected) => None,
            };
            for thread in self.threads.drain(..) {
                let _ = thread.join();
            }
            let last_words = self
                .last_words
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone();
            self.exit = Some(Exit {
                code: status.and_then(|status| status.code()),
                signal: status.and_then(|status| status.signal()),
                last_words,
            });
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
        let guest = spawn(&shell(), &["-c".into(), script.into()], move |line| {
            let _ = sender.send(line);
        });
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
