//! The backends: how each is started, where its sockets are, and how it is ended.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use legwatch::clock;

use crate::failure::{Failure, during};
use crate::process::Process;

/// How long a backend may take to have its sockets there.
const START_SECONDS: u64 = 20;
/// How long it may take to end after SIGTERM.
const END_SECONDS: u64 = 20;

/// A backend that can be measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Spec {
    pub(crate) name: String,
    pub(crate) origin: Origin,
    /// Keeps every write: it is started anew for each case, and is spared the large sequential writes.
    pub(crate) logs_writes: bool,
    /// Measured beside others in the cases that tell most alone ([`crate::case::Case::tells_most`]).
    pub(crate) brief: bool,
    /// Sockets that its command makes, from {dir}/a.sock on.
    pub(crate) legs: usize,
}

/// Where its sockets come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// A shell command that makes {dir}/a.sock and {dir}/b.sock.
    Command(String),
    /// Somebody else started it.
    Running {
        sockets: Vec<String>,
        pid: Option<i32>,
    },
}

impl Spec {
    /// Reads `NAME=COMMAND` or `NAME@SOCKET[,SOCKET][,pid=PID]`.
    pub(crate) fn parse(text: &str) -> Result<Spec, Failure> {
        let wrong = || {
            Failure::Usage(format!(
                "--backend {text}: expected NAME=COMMAND or NAME@SOCKET[,SOCKET][,pid=PID]"
            ))
        };
        let end = text.find(['=', '@']).ok_or_else(wrong)?;
        let (name, rest) = text.split_at(end);
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.+".contains(c);
        if name.is_empty() || !name.chars().all(plain) || rest.len() < 2 {
            return Err(wrong());
        }
        let origin = if let Some(command) = rest.strip_prefix('=') {
            Origin::Command(command.to_owned())
        } else {
            let (mut sockets, mut pid) = (Vec::new(), None);
            for part in rest[1..].split(',') {
                match part.strip_prefix("pid=") {
                    Some(number) => pid = Some(number.parse::<i32>().map_err(|_| wrong())?),
                    None => sockets.push(part.to_owned()),
                }
            }
            if sockets.is_empty() || sockets.len() > 2 || sockets.iter().any(String::is_empty) {
                return Err(wrong());
            }
            Origin::Running { sockets, pid }
        };
        Ok(Spec::of(name, origin))
    }

    /// A backend like most.
    pub(crate) fn of(name: &str, origin: Origin) -> Spec {
        Spec {
            name: name.to_owned(),
            origin,
            logs_writes: false,
            brief: false,
            legs: 2,
        }
    }

    fn command(name: &str, command: String) -> Spec {
        Spec::of(name, Origin::Command(command))
    }
}

/// What a qemu-storage-daemon stacks over an image.
enum Stack {
    Plain,
    Blkverify,
    Quorum,
    Blklogwrites,
}

/// A qemu-storage-daemon with two exports, each with an iothread (or both with one), images in {dir}.
fn storage_daemon(stack: &Stack, one_thread: bool) -> String {
    let file = |node: &str| {
        format!(" --blockdev driver=file,node-name={node},filename={{dir}}/{node}.img,aio=io_uring")
    };
    let mut make = String::from("truncate -s {size}");
    let mut command = String::from("exec {qsd}");
    for leg in ["a", "b"] {
        if leg == "a" || !one_thread {
            command += &format!(" --object iothread,id=thread-{leg}");
        }
        let (first, second) = (format!("{leg}-1"), format!("{leg}-2"));
        let node = match stack {
            Stack::Plain => format!("{leg}-1"),
            Stack::Blkverify | Stack::Quorum | Stack::Blklogwrites => format!("{leg}-top"),
        };
        make += &format!(" {{dir}}/{first}.img");
        command += &file(&first);
        let top = match stack {
            Stack::Plain => None,
            Stack::Blkverify => Some(format!(
                "driver=blkverify,node-name={node},test={first},raw={second}"
            )),
            Stack::Quorum => Some(format!(
                "driver=quorum,node-name={node},vote-threshold=2,children.0={first},children.1={second}"
            )),
            Stack::Blklogwrites => Some(format!(
                "driver=blklogwrites,node-name={node},file={first},log={second}"
            )),
        };
        if let Some(top) = top {
            make += &format!(" {{dir}}/{second}.img");
            command += &file(&second);
            command += &format!(" --blockdev {top}");
        }
        let thread = if one_thread { "a" } else { leg };
        command += &format!(
            " --export type=vhost-user-blk,id=export-{leg},node-name={node},addr.type=unix,addr.path={{dir}}/{leg}.sock,writable=on,\
             num-queues=4,iothread=thread-{thread}"
        );
    }
    format!("{make} && {command}")
}

/// The backends known by name. The first is the baseline. One more: one more line here, or `--backend` on the command line.
pub(crate) fn known() -> Vec<Spec> {
    let serve = |legs: &str| {
        format!("exec {{legwatch}} serve {legs} --sockets {{dir}} --out {{dir}}/out --record none")
    };
    let memory = "--leg a=mem:{size},queues=4 --leg b=mem:{size},queues=4";
    let file = "--leg a=file:{dir}/a.img,queues=4 --leg b=file:{dir}/b.img,queues=4";
    let unwatched = |words: &str| {
        let command = format!("{} --watch {words}", serve(memory));
        Spec {
            brief: true,
            ..Spec::command(&format!("legwatch-{words}"), command)
        }
    };
    let made = "truncate -s {size} {dir}/a.img {dir}/b.img && ";
    let mut known = vec![
        Spec::command("qsd", storage_daemon(&Stack::Plain, false)),
        Spec::command("qsd-one-thread", storage_daemon(&Stack::Plain, true)),
        Spec::command("blkverify", storage_daemon(&Stack::Blkverify, false)),
        Spec::command("quorum", storage_daemon(&Stack::Quorum, false)),
        Spec {
            logs_writes: true,
            ..Spec::command("blklogwrites", storage_daemon(&Stack::Blklogwrites, false))
        },
        Spec::command("legwatch", serve(memory)),
        Spec::command("legwatch-file", format!("{made}{}", serve(file))),
        Spec {
            brief: true,
            ..Spec::command(
                "legwatch-file-none",
                format!("{made}{} --watch none", serve(file)),
            )
        },
    ];
    known.extend(WATCH.into_iter().map(unwatched));
    let serve_other = |legs: &str| serve(legs).replace("{legwatch}", "{legwatch_no_faults}");
    known.extend([
        Spec::command(NO_FAULTS, serve_other(memory)),
        Spec::command("legwatch-again", serve(memory)),
    ]);
    known
}

/// The backend that can inject nothing.
pub(crate) const NO_FAULTS: &str = "legwatch-no-faults";

/// What is measured to know what the fault path costs: the baseline first, then legwatch twice: what the second differs by is not the faults'.
pub(crate) const FAULTS: [&str; 3] = [NO_FAULTS, "legwatch", "legwatch-again"];

/// What is switched off in turn to know what it costs.
const WATCH: [&str; 5] = ["no-crc", "no-buffer", "no-journal", "no-shadow", "none"];

/// The names of legwatch with less watching.
pub(crate) fn less_watched() -> impl Iterator<Item = String> {
    let words = WATCH.into_iter().chain(["file-none"]);
    words.map(|words| format!("legwatch-{words}"))
}

/// What the words in braces of a command stand for.
#[derive(Clone, Debug)]
pub(crate) struct Words {
    pub(crate) size_bytes: u64,
    pub(crate) legwatch: String,
    pub(crate) legwatch_no_faults: String,
    pub(crate) storage_daemon: String,
}

impl Words {
    pub(crate) fn fill(&self, command: &str, dir: &Path) -> String {
        command
            .replace("{dir}", &dir.to_string_lossy())
            .replace("{size}", &self.size_bytes.to_string())
            .replace("{legwatch}", &self.legwatch)
            .replace("{legwatch_no_faults}", &self.legwatch_no_faults)
            .replace("{qsd}", &self.storage_daemon)
    }
}

/// A backend that runs. It is ended when this is dropped.
pub(crate) struct Backend {
    sockets: Vec<String>,
    process: Option<Process>,
    child: Option<Child>,
    log: PathBuf,
}

impl Backend {
    /// Starts it, and waits for its sockets.
    pub(crate) fn start(spec: &Spec, words: &Words, dir: &Path) -> Result<Backend, Failure> {
        let log = dir.join("log");
        let command = match &spec.origin {
            Origin::Running { sockets, pid } => {
                let process = pid.map(Process::new);
                return Ok(Backend {
                    sockets: sockets.clone(),
                    process,
                    child: None,
                    log,
                });
            }
            Origin::Command(command) => words.fill(command, dir),
        };
        fs::create_dir_all(dir).map_err(during(format!("making {}", dir.display())))?;
        let output = File::create(&log).map_err(during(format!("making {}", log.display())))?;
        let errors = output.try_clone().map_err(during("the backend's log"))?;
        let mut shell = Command::new("sh");
        shell
            .args(["-c", &command])
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .process_group(0);
        // SAFETY: prctl is async-signal-safe and touches nothing of ours: the backend is to end with this process, whatever ends it.
        unsafe {
            shell.pre_exec(
                || match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
                    0 => Ok(()),
                    _ => Err(std::io::Error::last_os_error()),
                },
            );
        }
        let child = shell.spawn().map_err(during("starting a shell"))?;
        let process = i32::try_from(child.id()).ok().map(Process::new);
        let socket = |leg: char| {
            dir.join(format!("{leg}.sock"))
                .to_string_lossy()
                .into_owned()
        };
        let mut backend = Backend {
            sockets: ('a'..='z').take(spec.legs).map(socket).collect(),
            process,
            child: Some(child),
            log,
        };
        backend.wait_for_sockets()?;
        Ok(backend)
    }

    /// Waits until all sockets are there. Nobody connects to see: some backends take one connection only.
    fn wait_for_sockets(&mut self) -> Result<(), Failure> {
        let start = clock::now();
        loop {
            if self.sockets.iter().all(|socket| Path::new(socket).exists()) {
                return Ok(());
            }
            if let Some(child) = &mut self.child
                && let Ok(Some(status)) = child.try_wait()
            {
                return Err(Failure::Backend(format!(
                    "it ended ({status}): {}",
                    self.last_words()
                )));
            }
            if start.elapsed() > Duration::from_secs(START_SECONDS) {
                return Err(Failure::Backend(format!(
                    "no sockets after {START_SECONDS} s: {}",
                    self.last_words()
                )));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The last line it printed.
    pub(crate) fn last_words(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        let line = text.lines().rev().find(|line| !line.trim().is_empty());
        line.unwrap_or("(it printed nothing)").trim().to_owned()
    }

    pub(crate) fn process(&self) -> Option<&Process> {
        self.process.as_ref()
    }

    /// The sockets of a case: the first, or as many as a mirror has legs.
    pub(crate) fn sockets(&self, wanted: usize) -> Result<Vec<&str>, Failure> {
        if self.sockets.len() < wanted {
            return Err(Failure::Backend("it has too few sockets".to_owned()));
        }
        Ok(self
            .sockets
            .iter()
            .take(wanted)
            .map(String::as_str)
            .collect())
    }

    pub(crate) fn has_mirror(&self) -> bool {
        self.sockets.len() > 1
    }

    /// Ends it as its user would; how it ended, where that was not with success.
    pub(crate) fn end(&mut self) -> Option<String> {
        let mut child = self.child.take()?;
        signal_group(&child, libc::SIGTERM);
        let start = clock::now();
        while start.elapsed() < Duration::from_secs(END_SECONDS) {
            match child.try_wait() {
                Ok(Some(status)) if status.success() => return None,
                Ok(Some(status)) => {
                    return Some(format!("ended with {status}: {}", self.last_words()));
                }
                Ok(None) | Err(_) => std::thread::sleep(Duration::from_millis(5)),
            }
        }
        signal_group(&child, libc::SIGKILL);
        child.wait().ok();
        Some(format!("did not end within {END_SECONDS} s of SIGTERM"))
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.end();
    }
}

fn signal_group(child: &Child, signal: i32) {
    if let Ok(pid) = i32::try_from(child.id()) {
        // SAFETY: kill touches no memory of ours; the child has not been waited for, so its process group is still its own.
        unsafe { libc::kill(-pid, signal) };
    }
}

#[cfg(test)]
#[allow(
    dead_code,
    unused_imports,
    reason = "run by tests/bench_client.rs: a bench has no harness for them"
)]
mod tests {
    use super::*;

    #[test]
    fn a_command_and_a_running_backend() {
        let spec = Spec::parse("mine=run --socket {dir}/a.sock --at=x@y").expect("a command");
        assert_eq!(
            (spec.name.as_str(), spec.origin),
            (
                "mine",
                Origin::Command("run --socket {dir}/a.sock --at=x@y".to_owned())
            )
        );
        let spec = Spec::parse("theirs@/tmp/a.sock,/tmp/b.sock,pid=12").expect("running");
        let sockets = vec!["/tmp/a.sock".to_owned(), "/tmp/b.sock".to_owned()];
        assert_eq!(
            spec.origin,
            Origin::Running {
                sockets,
                pid: Some(12)
            }
        );
        for wrong in [
            "mine",
            "mine=",
            "=x",
            "a b=x",
            "mine@",
            "mine@a,b,c",
            "mine@a,pid=x",
            "mine@pid=1",
        ] {
            assert!(Spec::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_words_of_every_known_command_are_filled_in() {
        let words = Words {
            size_bytes: 4096,
            legwatch: "lw".to_owned(),
            legwatch_no_faults: "nf".to_owned(),
            storage_daemon: "qsd".to_owned(),
        };
        for spec in known() {
            let Origin::Command(command) = &spec.origin else {
                panic!("{} has no command", spec.name)
            };
            let filled = words.fill(command, Path::new("/d"));
            assert!(!filled.contains(['{', '}']), "{filled}");
        }
    }
}
