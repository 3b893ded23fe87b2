//! Runs the runs: a few at once, each a `legwatch run` of its own, and whoever dies, no QEMU is left.
//!
//! A run ends with us: it gets SIGTERM when the thread that started it ends, however that is, and keeps what it saw. That thread stays until it has
//! reaped it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::progress::Progress;
use super::store::{self, Store};
use crate::campaign::plan::Cell;
use crate::campaign::result::RunEnd;
use crate::campaign::{Plan, RunResult, State};
use crate::clock;
use crate::failure::{EXIT_INTERRUPTED, Failure};
use crate::progress::EVERY_VARIABLE;
use crate::report::json::Report;
use crate::run::happening::Interrupts;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// How a campaign is run.
#[derive(Debug)]
pub(super) struct Options {
    /// Guests at once.
    pub jobs: usize,
    /// No run is begun after so long, and the first run that fails, is refused or breaks ends it all.
    pub limit: Option<Duration>,
    /// Arguments for every run.
    pub arguments: Vec<String>,
}

/// How it ended.
#[derive(Debug)]
pub(super) struct Ended {
    /// Results of this call.
    pub results: Vec<RunResult>,
    /// Whether somebody ended it.
    pub interrupted: bool,
    /// How long it took.
    pub took: Duration,
}

/// What the main thread hears.
#[derive(Debug)]
enum Message {
    Said { job: usize, text: String },
    Found(String),
    Ended(Box<RunResult>),
    Failed(Failure),
    Interrupted,
}

/// What all jobs share.
struct Shared<'a> {
    plan: &'a Plan,
    folder: &'a Path,
    options: &'a Options,
    began: Instant,
    cells: Mutex<Box<dyn Iterator<Item = Cell> + Send + 'a>>,
    running: Mutex<Running>,
}

/// The runs that go on now.
#[derive(Default)]
struct Running {
    /// No run is to be begun any more, and those that go on were told to end.
    stopped: bool,
    children: BTreeMap<usize, OwnedFd>,
}

impl Running {
    fn signal(&mut self, signal: Signal) {
        self.stopped = true;
        for child in self.children.values() {
            // One that has just ended needs none.
            let _gone = pidfd_send_signal(child, signal);
        }
    }
}

/// Runs what `cells` gives, and records each result as it comes.
///
/// # Errors
/// [`Failure`]: a result can't be recorded, or no process can be started.
pub(super) fn run<'a>(
    plan: &'a Plan,
    cells: impl Iterator<Item = Cell> + Send + 'a,
    folder: &'a Path,
    store: &mut Store,
    options: &'a Options,
    interrupts: &Interrupts,
    progress: &mut Progress,
) -> Result<Ended, Failure> {
    let (sender, messages) = channel();
    let (heard, signals) = channel();
    interrupts.listen(heard);
    let sender_of_signals = sender.clone();
    // It lives as long as the process: signals that come after the last run are taken, and change nothing.
    std::thread::Builder::new()
        .name("interrupts".into())
        .spawn(move || {
            for _interrupt in signals {
                if sender_of_signals.send(Message::Interrupted).is_err() {
                    return;
                }
            }
        })
        .map_err(Failure::internal)?;
    let shared = Shared {
        plan,
        folder,
        options,
        began: clock::now(),
        cells: Mutex::new(Box::new(cells)),
        running: Mutex::default(),
    };
    let ended = std::thread::scope(|scope| {
        let jobs: Vec<_> = (0..options.jobs)
            .map(|job| {
                let (shared, sender) = (&shared, sender.clone());
                std::thread::Builder::new()
                    .name(format!("job-{job}"))
                    .spawn_scoped(scope, move || {
                        if let Err(failure) = work(shared, job, &sender) {
                            let _nobody_listens = sender.send(Message::Failed(failure));
                        }
                    })
            })
            .collect();
        let mut started = Vec::new();
        for job in jobs {
            started.push(job.map_err(Failure::internal)?);
        }
        // A thread that waits for all jobs tells the loop below that there is no more to come: the signals' thread holds a sender for ever.
        let (done, all_done) = channel::<()>();
        scope.spawn(move || {
            for job in started {
                job.join().expect("a job that panics ends the process");
            }
            drop(done);
        });
        drop(sender);
        listen(&shared, &messages, &all_done, store, progress)
    });
    progress.end();
    let (results, interrupted) = ended?;
    Ok(Ended {
        results,
        interrupted,
        took: clock::now().duration_since(shared.began),
    })
}

/// How often it is looked whether all jobs are done; each message wakes the loop at once.
const LOOK: Duration = Duration::from_millis(50);

fn listen(
    shared: &Shared<'_>,
    messages: &Receiver<Message>,
    all_done: &Receiver<()>,
    store: &mut Store,
    progress: &mut Progress,
) -> Result<(Vec<RunResult>, bool), Failure> {
    let mut results = Vec::new();
    let mut interrupts = 0_u32;
    let mut failure = None;
    loop {
        // Asked first: what was sent before the last job ended is then still taken below.
        let over = matches!(
            all_done.try_recv(),
            Err(std::sync::mpsc::TryRecvError::Disconnected)
        );
        let Ok(message) = messages.recv_timeout(if over { Duration::ZERO } else { LOOK }) else {
            if over {
                break;
            }
            continue;
        };
        match message {
            Message::Said { job, text } => progress.job(job, &text),
            Message::Found(text) => progress.line(&format!("legwatch: {text}")),
            Message::Ended(result) => {
                progress.ended(&result);
                if let Err(error) = store.record(&result) {
                    failure.get_or_insert(Failure::user(error));
                    shared.stop(Signal::INT);
                }
                if shared.options.limit.is_some() && result.state.ends() {
                    shared.stop(Signal::INT);
                }
                results.push(*result);
            }
            Message::Failed(error) => {
                failure.get_or_insert(error);
                shared.stop(Signal::INT);
            }
            Message::Interrupted => {
                interrupts += 1;
                if interrupts == 1 {
                    progress
                        .line("legwatch: interrupted; ending the guests and keeping what was seen");
                    shared.stop(Signal::INT);
                } else {
                    shared.stop(Signal::KILL);
                }
            }
        }
    }
    match failure {
        Some(failure) => Err(failure),
        None => Ok((results, interrupts > 0)),
    }
}

impl Shared<'_> {
    fn stop(&self, signal: Signal) {
        self.running
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .signal(signal);
    }

    fn stopped(&self) -> bool {
        self.running
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .stopped
    }

    /// The next run, if one is to be begun.
    fn next(&self) -> Option<Cell> {
        let late = self
            .options
            .limit
            .is_some_and(|limit| clock::now().duration_since(self.began) >= limit);
        if late || self.stopped() {
            return None;
        }
        self.cells
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .next()
    }
}

/// One job: run after run, until there is none.
fn work(shared: &Shared<'_>, job: usize, sender: &Sender<Message>) -> Result<(), Failure> {
    while let Some(cell) = shared.next() {
        let row = &shared.plan.rows[cell.row];
        let result = if row.skip.is_some() || row.unavailable.is_some() {
            Some(RunResult::not_run(shared.plan, cell))
        } else {
            one(shared, job, cell, sender)?
        };
        if let Some(result) = result {
            let _nobody_listens = sender.send(Message::Ended(Box::new(result)));
        }
    }
    let _nobody_listens = sender.send(Message::Said {
        job,
        text: "done".into(),
    });
    Ok(())
}

/// One run with its tries; `None`: it was stopped.
fn one(
    shared: &Shared<'_>,
    job: usize,
    cell: Cell,
    sender: &Sender<Message>,
) -> Result<Option<RunResult>, Failure> {
    let row = &shared.plan.rows[cell.row];
    let mut ms = 0;
    let mut tries = 0;
    let mut lost_before = None;
    loop {
        let seed = cell.seed.wrapping_add(u64::from(tries));
        let Some(mut end) = start(shared, job, cell, seed, sender)? else {
            return Ok(None);
        };
        tries += 1;
        ms += end.ms;
        if let Some(why) = end.lost() {
            // Once more, and then it is called what it is.
            lost_before = Some(why.to_owned());
            let Some(second) = start(shared, job, cell, seed, sender)? else {
                return Ok(None);
            };
            ms += second.ms;
            end = second;
        }
        let mut result = RunResult::ended(shared.plan, cell, seed, &end);
        // A race that was not met this time: the next seed.
        if result.state == State::Failed && tries < row.tries {
            continue;
        }
        result.ms = ms;
        result.tries = tries;
        result.lost_before = lost_before;
        return Ok(Some(result));
    }
}

/// Starts a run and waits for its end; `None`: it was stopped.
fn start(
    shared: &Shared<'_>,
    job: usize,
    cell: Cell,
    seed: u64,
    sender: &Sender<Message>,
) -> Result<Option<RunEnd>, Failure> {
    let row = &shared.plan.rows[cell.row];
    let below =
        store::run_folder(shared.folder, &format!("{}@{seed}", row.key)).map_err(Failure::user)?;
    let folder = shared.folder.join(&below);
    let log = shared.folder.join(format!("{below}.log"));
    let mut log = File::create(&log)
        .map_err(|error| Failure::user(format!("{} can't be written: {error}", log.display())))?;
    let mut command = Command::new(std::env::current_exe().map_err(Failure::internal)?);
    command
        .arg("run")
        .arg(&row.path)
        .args(["--kernel", &row.kernel])
        .args(["--seed", &seed.to_string()])
        .arg("--out")
        .arg(&folder)
        .args(&shared.options.arguments);
    if io::stderr().is_terminal() {
        command.env(EVERY_VARIABLE, "1");
    }
    let began = clock::now();
    let child = {
        // Under the lock, so that a stop either sees this run or keeps it from being begun.
        let mut running = shared
            .running
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if running.stopped {
            let _stays = std::fs::remove_dir(&folder);
            return Ok(None);
        }
        let child = spawn(&mut command).map_err(Failure::internal)?;
        let pidfd = pidfd_open(Pid::from_child(&child), PidfdFlags::empty())
            .map_err(|error| Failure::internal(io::Error::from(error)))?;
        running.children.insert(job, pidfd);
        child
    };
    let name = format!("{} on {}, seed {seed}", row.scenario, row.kernel);
    let (code, last_words) = follow(child, &mut log, |text| {
        let told = format!("{name}: {text}");
        let message = if text.starts_with("finding: ") {
            Message::Found(told)
        } else {
            Message::Said { job, text: told }
        };
        let _nobody_listens = sender.send(message);
    })
    .map_err(Failure::internal)?;
    let stopped = {
        let mut running = shared
            .running
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        running.children.remove(&job);
        running.stopped
    };
    let interrupted = code == Some(i32::from(EXIT_INTERRUPTED)) || code.is_none();
    if stopped && interrupted {
        return Ok(None);
    }
    let report = std::fs::read_to_string(folder.join("report.json"))
        .ok()
        .and_then(|text| serde_json::from_str::<Report>(&text).ok());
    let took = clock::now().duration_since(began);
    Ok(Some(RunEnd {
        code,
        report,
        last_words,
        ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        folder: below,
    }))
}

fn spawn(command: &mut Command) -> io::Result<Child> {
    let us = rustix::process::getpid();
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        // A Ctrl-C at the terminal is ours to hand on.
        .process_group(0);
    // SAFETY: between fork and exec only async-signal-safe calls are made: prctl, getppid, and building an error from a number; no
    // allocation, no lock.
    unsafe {
        command.pre_exec(move || {
            rustix::process::set_parent_process_death_signal(Some(Signal::TERM))?;
            if rustix::process::getppid() == Some(us) {
                Ok(())
            } else {
                Err(io::Error::from_raw_os_error(libc::ESRCH))
            }
        });
    }
    command.spawn()
}

/// Follows a run to its end: its exit code, and the last line that it said.
fn follow(
    mut child: Child,
    log: &mut File,
    mut said: impl FnMut(&str),
) -> io::Result<(Option<i32>, String)> {
    let stderr = child.stderr.take().expect("piped");
    let mut last = String::new();
    let mut reader = BufReader::new(stderr);
    let mut line = Vec::new();
    loop {
        line.clear();
        if reader.read_until(b'\n', &mut line)? == 0 {
            break;
        }
        // A log that can't be written (the disk is full) is no reason to lose the run's own evidence.
        let _full = log.write_all(&line);
        let text = String::from_utf8_lossy(&line);
        let text = text.trim_end();
        let text = text.strip_prefix("legwatch: ").unwrap_or(text);
        if !text.is_empty() {
            text.clone_into(&mut last);
            said(text);
        }
    }
    Ok((child.wait()?.code(), last))
}
