//! Runs the real program as a user does, and looks at what it leaves.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

/// The longest that a whole run may take on a slow, shared machine.
pub(crate) const RUN: Duration = Duration::from_secs(900);
/// The longest that a step towards it may take.
pub(crate) const STEP: Duration = Duration::from_secs(300);
/// The longest that a QEMU may outlive any process of ours.
const NO_QEMU: Duration = Duration::from_secs(5);
/// So many lines of a guest's console tell why it ended.
const CONSOLE_END: usize = 40;
/// How often processes are looked at, for which there is no event.
const LOOK: Duration = Duration::from_millis(20);

/// One guest at a time: two would make each other slow.
static MACHINE: Mutex<()> = Mutex::new(());

/// Whether the whole matrix is wanted.
pub(crate) fn full() -> bool {
    std::env::var_os("LEGWATCH_FULL").is_some()
}

/// A scenario of the tester's own.
pub(crate) fn scenario(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/vm/scenarios/{name}.toml"))
}

/// A `legwatch` that runs, in folders of its own.
#[derive(Debug)]
pub(crate) struct Running {
    /// Everything that it makes is in here: the run's folder, and temporary files.
    dir: TempDir,
    name: String,
    pid: Pid,
    lines: Receiver<Said>,
    said: Vec<String>,
    printed: Vec<String>,
    code: Option<Option<i32>>,
    open: u32,
    _machine: MutexGuard<'static, ()>,
}

/// What it says.
#[derive(Debug)]
enum Said {
    Err(String),
    Out(String),
    Closed,
    Ended(Option<i32>),
}

/// How it ended.
#[derive(Debug)]
pub(crate) struct Ran {
    /// Its exit code; `None` if a signal ended it.
    pub(crate) code: Option<i32>,
    /// Its lines on standard error.
    pub(crate) stderr: Vec<String>,
    /// What it printed.
    pub(crate) stdout: String,
    /// The run's folder.
    pub(crate) folder: PathBuf,
    dir: Option<TempDir>,
}

impl Running {
    /// Starts `legwatch run`; `args` follow the scenario and the kernel.
    pub(crate) fn run(scenario: &Path, kernel: &str, args: &[&str]) -> Running {
        let mut all = vec!["run", scenario.to_str().unwrap(), "--kernel", kernel];
        all.extend(args);
        Running::start(&all)
    }

    /// Starts `legwatch` with these arguments and `--out`.
    pub(crate) fn start(args: &[&str]) -> Running {
        Running::start_with(args, &[])
    }

    /// The same with these variables in the environment.
    pub(crate) fn start_with(args: &[&str], variables: &[(&str, &str)]) -> Running {
        let machine = MACHINE.lock().unwrap_or_else(PoisonError::into_inner);
        // Short, for sockets' paths have a limit.
        let dir = tempfile::Builder::new()
            .prefix("lw-")
            .tempdir_in("/tmp")
            .unwrap();
        std::fs::create_dir(dir.path().join("t")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_legwatch"));
        command
            .args(args)
            .arg("--out")
            .arg(dir.path().join("out"))
            .env("TMPDIR", dir.path().join("t"))
            .envs(variables.iter().copied())
            .current_dir(dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let pid = Pid::from_child(&child);
        let (sender, lines) = channel();
        let (out, err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        read(out, sender.clone(), Said::Out);
        read(err, sender.clone(), Said::Err);
        std::thread::spawn(move || wait(child, &sender));
        Running {
            dir,
            name: args.join(" "),
            pid,
            lines,
            said: Vec::new(),
            printed: Vec::new(),
            code: None,
            open: 2,
            _machine: machine,
        }
    }

    /// The folder that everything is in.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// What it said on standard error so far.
    pub(crate) fn said(&self) -> &[String] {
        &self.said
    }

    /// Waits for a line on standard error that contains `text`.
    pub(crate) fn line(&mut self, text: &str) -> String {
        if let Some(line) = self.said.iter().find(|line| line.contains(text)) {
            return line.clone();
        }
        loop {
            self.next(STEP, &format!("a line with `{text}`"));
            match self.said.last() {
                Some(line) if line.contains(text) => return line.clone(),
                _ => assert!(
                    self.open > 0,
                    "`{}` ended without a line with `{text}`: {:#?}\n{}\nThe console's end:\n{}",
                    self.name,
                    self.said,
                    self.printed.join("\n"),
                    self.console_end(),
                ),
            }
        }
    }

    /// The last lines of the guest's console, for the message of a test that can't go on.
    fn console_end(&self) -> String {
        let path = self.dir.path().join("out/console.log");
        let text = std::fs::read(path).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(CONSOLE_END)..].join("\n")
    }

    fn next(&mut self, limit: Duration, awaited: &str) {
        match self.lines.recv_timeout(limit) {
            Ok(Said::Err(line)) => {
                eprintln!("    {line}");
                self.said.push(line);
            }
            Ok(Said::Out(line)) => self.printed.push(line),
            Ok(Said::Closed) => self.open -= 1,
            Ok(Said::Ended(code)) => self.code = Some(code),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                self.signal(Signal::KILL);
                panic!(
                    "`{}`: no {awaited} after {limit:?}; it said {:#?}",
                    self.name, self.said
                );
            }
        }
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        if self.code.is_none() {
            kill_process(self.pid, signal).unwrap();
        }
    }

    /// The processes that have its folders in their command lines, by program.
    pub(crate) fn processes(&self, program: &str) -> Vec<Pid> {
        processes(self.dir.path())
            .into_iter()
            .filter(|(_, line)| line.split('\0').take(2).any(|word| word.ends_with(program)))
            .map(|(pid, _)| pid)
            .collect()
    }

    /// Whether there is a witness.
    pub(crate) fn has_witness(&self) -> bool {
        let all = processes(self.dir.path());
        all.iter()
            .any(|(_, line)| line.split('\0').nth(1) == Some("witness"))
    }

    /// The witness's process.
    pub(crate) fn witness(&self) -> Pid {
        let all = processes(self.dir.path());
        let witness = all
            .iter()
            .find(|(_, line)| line.split('\0').nth(1) == Some("witness"));
        witness.unwrap_or_else(|| panic!("no witness: {all:#?}")).0
    }

    /// Waits until no QEMU is left, which must be soon.
    pub(crate) fn no_qemu(&self) {
        until("QEMU's end", NO_QEMU, || {
            self.processes("qemu-system-x86_64").is_empty()
        });
    }

    /// Waits for its end alone.
    pub(crate) fn exit(&mut self) {
        while self.code.is_none() || self.open > 0 {
            self.next(RUN, "end");
        }
    }

    /// Waits for its end, and for that of everything that it started.
    pub(crate) fn end(mut self) -> Ran {
        self.exit();
        self.no_qemu();
        let path = self.dir.path().to_owned();
        until("the end of all it started", STEP, || {
            processes(&path).is_empty()
        });
        let left: Vec<_> = std::fs::read_dir(path.join("t"))
            .unwrap()
            .flatten()
            .collect();
        assert!(left.is_empty(), "temporary files are left: {left:?}");
        Ran {
            code: self.code.unwrap(),
            stderr: self.said,
            stdout: self.printed.join("\n"),
            folder: path.join("out"),
            dir: Some(self.dir),
        }
    }
}

fn read(
    pipe: impl std::io::Read + Send + 'static,
    sender: Sender<Said>,
    as_said: fn(String) -> Said,
) {
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            if sender.send(as_said(line)).is_err() {
                return;
            }
        }
        let _nobody_listens = sender.send(Said::Closed);
    });
}

fn wait(mut child: Child, sender: &Sender<Said>) {
    let code = child.wait().ok().and_then(|status| status.code());
    let _nobody_listens = sender.send(Said::Ended(code));
}

/// Processes with `path` in their command lines, besides this one.
fn processes(path: &Path) -> Vec<(Pid, String)> {
    let path = path.to_str().unwrap();
    let own = std::process::id().to_string();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(pid) = name.parse().ok().and_then(Pid::from_raw) else {
            continue;
        };
        // A process that ended meanwhile has none; so has one that nobody has waited for yet.
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        if name != own && line.contains(path) {
            found.push((pid, line));
        }
    }
    found
}

/// Waits for what there is no event for.
pub(crate) fn until(what: &str, limit: Duration, mut is_so: impl FnMut() -> bool) {
    let looks = limit.as_millis() / LOOK.as_millis();
    for _look in 0..=looks {
        if is_so() {
            return;
        }
        std::thread::sleep(LOOK);
    }
    panic!("{what} was awaited for {limit:?}");
}

/// Runs a scenario to its end.
pub(crate) fn run(scenario: impl AsRef<Path>, kernel: &str, args: &[&str]) -> Ran {
    let scenario = scenario.as_ref();
    eprintln!("  {} on {kernel} {}", scenario.display(), args.join(" "));
    Running::run(scenario, kernel, args).end()
}

impl Ran {
    /// `report.json`.
    pub(crate) fn report(&self) -> Value {
        let path = self.folder.join("report.json");
        let text = std::fs::read_to_string(&path)
            .unwrap_or_else(|error| panic!("{}: {error}; {:#?}", path.display(), self.stderr));
        serde_json::from_str(&text).unwrap()
    }

    /// Asserts the exit code; shows the report otherwise.
    pub(crate) fn ended_with(&self, code: i32) -> &Ran {
        assert_eq!(
            self.code,
            Some(code),
            "\n{}\n{}",
            self.stdout,
            self.stderr.join("\n")
        );
        self
    }

    /// The findings.
    pub(crate) fn findings(&self) -> Vec<Value> {
        self.report()["findings"].as_array().unwrap().clone()
    }

    /// The one finding of this check and kind.
    pub(crate) fn finding(&self, check: &str, kind: &str, legs: &[&str]) -> Value {
        let all = self.findings();
        let mut like = all.iter().filter(|finding| {
            finding["check"] == check
                && finding["kind"] == kind
                && finding["legs"] == serde_json::json!(legs)
        });
        let found = like.next();
        assert!(
            found.is_some() && like.next().is_none(),
            "not one {check}/{kind} on {legs:?}\n{}",
            self.stdout
        );
        found.unwrap().clone()
    }

    /// Why it is inconclusive.
    pub(crate) fn reasons(&self) -> Vec<String> {
        let report = self.report();
        let reasons = report["reasons"].as_array().unwrap();
        reasons
            .iter()
            .map(|reason| reason.as_str().unwrap().to_owned())
            .collect()
    }

    /// Asserts that the first reason, which is the verdict's headline, contains `text`.
    pub(crate) fn because(&self, text: &str) -> &Ran {
        let reasons = self.reasons();
        assert!(
            reasons.first().is_some_and(|reason| reason.contains(text)),
            "`{text}` does not lead {reasons:#?}\n{}",
            self.stdout
        );
        assert!(
            self.stdout.lines().next().unwrap().contains(text),
            "{}",
            self.stdout
        );
        self
    }

    /// Asserts a clean run that compared all it intended, on so many legs, with at least so many writes.
    pub(crate) fn compared_all(&self, legs: usize, writes: u64) -> &Ran {
        self.ended_with(0);
        let report = self.report();
        let coverage = &report["coverage"];
        let count = |name: &str| coverage[name].as_u64().unwrap();
        assert!(count("writes_acknowledged") >= writes, "{}", self.stdout);
        assert_eq!(count("writes_failed"), 0);
        let intended = count("sectors_intended");
        assert!(intended > 0);
        assert_eq!(count("sectors_compared"), intended, "{}", self.stdout);
        assert_eq!(coverage["excused"], serde_json::json!({}));
        let seen: Vec<u64> = coverage["legs"]
            .as_array()
            .unwrap()
            .iter()
            .inspect(|leg| assert_eq!(leg["active"], true))
            .map(|leg| leg["sectors_seen"].as_u64().unwrap())
            .collect();
        assert_eq!(seen, vec![intended; legs], "{}", self.stdout);
        assert_eq!(self.findings(), Vec::<Value>::new());
        self
    }

    /// As [`Ran::check_agrees`], for the findings alone.
    pub(crate) fn agrees_on_findings(&self) {
        let (_, checked) = self.checked();
        let checked: Value = serde_json::from_str(&checked).unwrap();
        assert_eq!(checked["findings"], self.report()["findings"]);
        assert_eq!(checked["outcome"], self.report()["outcome"]);
    }

    /// `legwatch check` on nothing but the journal gives the same findings, byte for byte.
    pub(crate) fn check_agrees(&self) -> &Ran {
        let (code, checked) = self.checked();
        assert_eq!(code, self.code);
        let live = std::fs::read_to_string(self.folder.join("report.json")).unwrap();
        assert_eq!(checked, live, "the report of check is not that of the run");
        self
    }

    fn checked(&self) -> (Option<i32>, String) {
        let copy = tempfile::tempdir().unwrap();
        std::fs::copy(self.folder.join("journal"), copy.path().join("journal")).unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_legwatch"))
            .arg("check")
            .arg(copy.path())
            .args(["--format", "json"])
            .output()
            .unwrap();
        (
            output.status.code(),
            String::from_utf8(output.stdout).unwrap(),
        )
    }
}

impl Drop for Ran {
    fn drop(&mut self) {
        // What a failed test leaves is evidence.
        if std::thread::panicking()
            && let Some(dir) = self.dir.take()
        {
            eprintln!("kept: {}", dir.keep().display());
        }
    }
}

/// Array ranges of a finding: (start, count).
pub(crate) fn array(finding: &Value) -> Vec<(u64, u64)> {
    finding["array"]
        .as_array()
        .unwrap()
        .iter()
        .map(|range| {
            (
                range["start"].as_u64().unwrap(),
                range["count"].as_u64().unwrap(),
            )
        })
        .collect()
}
