//! What a guest's console says about its kernel: panics, oopses, warnings, hangs, and whose they are.
//!
//! Pure: lines in, [`Crash`]es out. Covered are the kernel's own reports on the console: panic, oops, BUG, WARN, KASAN (KFENCE, UBSAN,
//! KMSAN, KCSAN), lockdep and its kin, hung tasks, soft lockups, RCU stalls. Not covered is what user programs print, even when it
//! looks alike: a report starts only on a line with the kernel's time stamp (`[    1.234567]`), which the kernel prints by default.
//!
//! Blame goes by the functions in the trace, those that the unwinder is sure of (no `?`): one of md, dm, bcache, the block layer or
//! virtio_blk makes it [`Blame::Storage`]. A function is known by its module, or, built in, by its name.

mod trace;

pub use trace::{Function, is_storage};

/// What kind of report it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Panic,
    /// A fault in kernel mode: null pointer, bad page, general protection.
    Oops,
    /// `kernel BUG at` and `BUG:` reports that no other kind covers.
    Bug,
    Warn,
    /// A sanitizer's report.
    Kasan,
    Lockdep,
    HungTask,
    SoftLockup,
    RcuStall,
}

/// Whose it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Blame {
    /// md, dm, bcache, the block layer or virtio_blk is in the trace.
    Storage,
    Other,
}

/// What follows for the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Meaning {
    /// A finding; `proven` is false where it is only suspect.
    Finding { proven: bool },
    /// The guest can't be trusted any more, and it says nothing about storage.
    LostGuest,
    /// Worth a line in the report, no more.
    Note,
}

/// One report of the kernel's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Crash {
    pub kind: Kind,
    /// The report's first line, without the time stamp.
    pub first_line: String,
    /// That line's number among those pushed, from 0.
    pub line_index: u64,
    /// The functions of its trace, innermost first, without those marked `?`.
    pub functions: Vec<Function>,
    pub blame: Blame,
    /// Whether it came before [`Watcher::booted`] was called.
    pub at_boot: bool,
    /// Whether it is a panic, or ended in one.
    pub panicked: bool,
}

impl Crash {
    /// What this report means for the run.
    ///
    /// A hang on a busy host says little about the guest, so soft lockups and RCU stalls are never more than suspect. A warning, a
    /// lockdep report or a stall elsewhere leaves a guest that still works, so it is noted and decides nothing.
    pub fn meaning(&self) -> Meaning {
        match (self.kind, self.blame) {
            _ if self.at_boot && self.panicked => Meaning::LostGuest,
            (
                Kind::Panic | Kind::Oops | Kind::Bug | Kind::Kasan | Kind::Lockdep | Kind::HungTask,
                Blame::Storage,
            ) => Meaning::Finding { proven: true },
            (Kind::Warn | Kind::SoftLockup | Kind::RcuStall, Blame::Storage) => {
                Meaning::Finding { proven: false }
            }
            (Kind::Panic | Kind::Oops | Kind::Bug | Kind::Kasan, Blame::Other) => {
                Meaning::LostGuest
            }
            (
                Kind::Warn | Kind::Lockdep | Kind::HungTask | Kind::SoftLockup | Kind::RcuStall,
                Blame::Other,
            ) => {
                if self.panicked {
                    Meaning::LostGuest
                } else {
                    Meaning::Note
                }
            }
        }
    }
}

/// Reads a console as it grows.
#[derive(Debug, Default)]
pub struct Watcher {
    lines: u64,
    booted: bool,
    open: Option<Crash>,
    /// Lines since the open report last had one that belongs to it.
    quiet_lines: u32,
    crashes: Vec<Crash>,
}

/// A report ends when this many lines in a row do not look like a part of one.
const QUIET_LINES_MAX: u32 = 40;

impl Watcher {
    pub fn new() -> Watcher {
        Watcher::default()
    }

    /// The guest's init has spoken: what comes now is not the boot's.
    pub fn booted(&mut self) {
        self.booted = true;
    }

    /// Takes one line of the console.
    pub fn push(&mut self, line: &str) {
        let index = self.lines;
        self.lines += 1;
        let Some(text) = trace::without_stamp(line) else {
            self.quieter();
            return;
        };
        if let Some(kind) = starts(text) {
            self.start(kind, text, index);
        } else if trace::ends_report(text) {
            self.close();
        } else if let Some(crash) = &mut self.open {
            if let Some(function) = trace::function_in(text) {
                self.quiet_lines = 0;
                if function.reliable {
                    crash.functions.push(function);
                }
            } else {
                self.quieter();
            }
        }
    }

    /// The reports so far, the last one perhaps still growing.
    pub fn crashes(&self) -> Vec<Crash> {
        let open = self.open.clone().map(judged);
        self.crashes.iter().cloned().chain(open).collect()
    }

    /// All reports, when the console has ended.
    pub fn finish(mut self) -> Vec<Crash> {
        self.close();
        self.crashes
    }

    fn quieter(&mut self) {
        self.quiet_lines += 1;
        if self.quiet_lines > QUIET_LINES_MAX {
            self.close();
        }
    }

    fn close(&mut self) {
        self.quiet_lines = 0;
        self.crashes.extend(self.open.take().map(judged));
    }

    fn start(&mut self, kind: Kind, text: &str, index: u64) {
        // The kernel says the same thing twice: `BUG: unable to handle …`, then `Oops: 0002`.
        if let Some(open) = &self.open
            && kind == Kind::Oops
            && matches!(open.kind, Kind::Oops | Kind::Bug)
            && open.functions.is_empty()
        {
            self.quiet_lines = 0;
            return;
        }
        // The panic that an oops ends in is the oops's.
        if kind == Kind::Panic
            && let Some(cause) = self.open.as_mut().or_else(|| self.crashes.last_mut())
            && (follows(text) || matches!(cause.kind, Kind::Oops | Kind::Bug))
        {
            cause.panicked = true;
            self.close();
            return;
        }
        self.close();
        self.open = Some(Crash {
            kind,
            first_line: text.to_owned(),
            line_index: index,
            functions: Vec::new(),
            blame: Blame::Other,
            at_boot: !self.booted,
            panicked: kind == Kind::Panic,
        });
    }
}

/// The reports in a whole console. Everything after the first `booted_at` lines is after the boot.
pub fn analyse<'a>(lines: impl IntoIterator<Item = &'a str>, booted_at: u64) -> Vec<Crash> {
    let mut watcher = Watcher::new();
    for (index, line) in (0u64..).zip(lines) {
        if index == booted_at {
            watcher.booted();
        }
        watcher.push(line);
    }
    watcher.finish()
}

/// Whether a line of the console tells that something in the guest does not get on. The kernel says so again and again, to the end of time.
pub fn tells_of_stall(line: &str) -> bool {
    let kind = trace::without_stamp(line).and_then(starts);
    matches!(
        kind,
        Some(Kind::RcuStall | Kind::SoftLockup | Kind::HungTask)
    )
}

/// Whether a panic with this text comes of the report before it.
fn follows(panic: &str) -> bool {
    [
        "Fatal exception",
        "panic_on_warn set",
        "hung_task: blocked tasks",
        "softlockup: hung tasks",
        "RCU Stall",
        "Fatal machine check",
    ]
    .iter()
    .any(|reason| panic.contains(reason))
}

fn judged(mut crash: Crash) -> Crash {
    if crash.functions.iter().any(is_storage) {
        crash.blame = Blame::Storage;
    }
    crash
}

/// Whether a report starts with this line.
fn starts(text: &str) -> Option<Kind> {
    const BUG_OOPS: [&str; 5] = [
        "unable to handle",
        "kernel NULL pointer",
        "Bad page",
        "stack guard page",
        "TASK stack guard",
    ];
    let bug = |rest: &str| {
        if ["KASAN:", "KFENCE:", "KMSAN:", "KCSAN:"]
            .iter()
            .any(|name| rest.starts_with(name))
        {
            Kind::Kasan
        } else if rest.starts_with("soft lockup") {
            Kind::SoftLockup
        } else if BUG_OOPS.iter().any(|start| rest.starts_with(start)) {
            Kind::Oops
        } else if rest.starts_with("sleeping function")
            || rest.starts_with("scheduling while atomic")
            || rest.starts_with("Invalid wait context")
        {
            Kind::Lockdep
        } else {
            Kind::Bug
        }
    };
    if let Some(rest) = text.strip_prefix("BUG: ") {
        return Some(bug(rest));
    }
    if let Some(rest) = text.strip_prefix("watchdog: BUG: ") {
        return Some(bug(rest));
    }
    if text.starts_with("Kernel panic - not syncing") {
        return Some(Kind::Panic);
    }
    if text.starts_with("kernel BUG at ") {
        return Some(Kind::Bug);
    }
    let oops = [
        "Oops: ",
        "general protection fault",
        "invalid opcode: ",
        "divide error: ",
        "stack segment: ",
        "double fault: ",
        "int3: ",
    ];
    if oops.iter().any(|start| text.starts_with(start)) {
        return Some(Kind::Oops);
    }
    if text.starts_with("UBSAN: ") {
        return Some(Kind::Kasan);
    }
    if text.starts_with("WARNING: CPU: ")
        || (text.starts_with("WARNING: ") && text.contains(" at "))
    {
        // Lockdep's own read `WARNING: possible circular locking dependency detected`.
        return Some(Kind::Warn);
    }
    let locks = [
        "WARNING: possible ",
        "WARNING: inconsistent lock state",
        "WARNING: bad unlock",
        "WARNING: lock held",
        "WARNING: suspicious RCU",
        "WARNING: Nested lock",
        "INFO: possible recursive locking",
        "INFO: possible circular",
    ];
    if locks.iter().any(|start| text.starts_with(start)) {
        return Some(Kind::Lockdep);
    }
    if text.starts_with("INFO: task ") && text.contains(" blocked for more than ") {
        return Some(Kind::HungTask);
    }
    let stall = text.starts_with("rcu: INFO: ") && text.contains("stall")
        || text.starts_with("INFO: rcu_") && text.contains("stall");
    stall.then_some(Kind::RcuStall)
}

#[cfg(test)]
mod tests;
