//! What /proc and the CPU clocks say about a backend's processes and about this machine.

use std::fs;

use crate::stats::to_f64;

/// A backend's process and those it started.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Process {
    pid: i32,
}

/// Memory of a backend in MiB.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Memory {
    pub(crate) rss: f64,
    pub(crate) pss: f64,
    /// Its own: neither files nor the client's buffers.
    pub(crate) anonymous: f64,
}

impl Process {
    pub(crate) fn new(pid: i32) -> Process {
        Process { pid }
    }

    /// CPU seconds used so far by all its threads, those that have ended too. None when it is gone.
    pub(crate) fn cpu_seconds(&self) -> Option<f64> {
        let mut total = None;
        for pid in self.tree() {
            if let Some(seconds) = process_clock(pid) {
                total = Some(total.unwrap_or(0.0) + seconds);
            }
        }
        total
    }

    /// Memory of all its processes.
    pub(crate) fn memory(&self) -> Option<Memory> {
        let mut total = None;
        for pid in self.tree() {
            if let Ok(text) = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")) {
                let memory = parse_rollup(&text);
                let sum: &mut Memory = total.get_or_insert_default();
                sum.rss += memory.rss;
                sum.pss += memory.pss;
                sum.anonymous += memory.anonymous;
            }
        }
        total
    }

    fn tree(&self) -> Vec<i32> {
        let mut pids = vec![self.pid];
        let mut next = 0;
        while let Some(&pid) = pids.get(next) {
            next += 1;
            let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else {
                continue;
            };
            for task in tasks.flatten() {
                let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
                pids.extend(
                    children
                        .split_whitespace()
                        .filter_map(|pid| pid.parse::<i32>().ok()),
                );
            }
        }
        pids
    }
}

/// The CPU clock of a process, exact to the nanosecond where /proc/PID/stat counts ticks.
fn process_clock(pid: i32) -> Option<f64> {
    let mut clock: libc::clockid_t = 0;
    // SAFETY: `clock` is a valid place for the answer.
    if unsafe { libc::clock_getcpuclockid(pid, &raw mut clock) } != 0 {
        return None;
    }
    read_clock(clock)
}

/// CPU seconds of this process.
pub(crate) fn own_cpu_seconds() -> f64 {
    read_clock(libc::CLOCK_PROCESS_CPUTIME_ID).unwrap_or(0.0)
}

fn read_clock(clock: libc::clockid_t) -> Option<f64> {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is a valid place for the answer.
    if unsafe { libc::clock_gettime(clock, &raw mut time) } != 0 {
        return None;
    }
    let seconds = to_f64(u64::try_from(time.tv_sec).ok()?);
    Some(seconds + to_f64(u64::try_from(time.tv_nsec).ok()?) / 1e9)
}

fn parse_rollup(text: &str) -> Memory {
    let mib = |field: &str| {
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u32>().ok());
        f64::from(kib.unwrap_or(0)) / 1024.0
    };
    Memory {
        rss: mib("Rss"),
        pss: mib("Pss"),
        anonymous: mib("Anonymous"),
    }
}

/// What of the machine the figures depend on, as `name: value`.
pub(crate) fn machine() -> Vec<(String, String)> {
    let mut facts = Vec::new();
    let mut fact = |name: &str, value: Option<String>| {
        facts.push((
            name.to_owned(),
            value.unwrap_or_else(|| "unknown".to_owned()),
        ));
    };
    let cores = std::thread::available_parallelism().ok();
    fact("cores", cores.map(|cores| cores.to_string()));
    fact("CPU", field("/proc/cpuinfo", "model name"));
    let virtual_machine = field("/proc/cpuinfo", "flags")
        .map(|flags| flags.split(' ').any(|flag| flag == "hypervisor"));
    fact(
        "virtual machine",
        virtual_machine.map(|is| if is { "yes" } else { "no" }.to_owned()),
    );
    fact("memory", field("/proc/meminfo", "MemTotal"));
    fact("kernel", read_line("/proc/sys/kernel/osrelease"));
    fact(
        "huge pages for tmpfs",
        read_line("/sys/kernel/mm/transparent_hugepage/shmem_enabled"),
    );
    facts
}

/// The load over the last minute: others' work shows here.
pub(crate) fn load() -> String {
    let line = read_line("/proc/loadavg").unwrap_or_default();
    line.split(' ').next().unwrap_or_default().to_owned()
}

/// Seconds since boot that this machine's CPUs spent: (in all, taken away by the host).
pub(crate) fn cpu_ticks() -> Option<(u64, u64)> {
    let line = read_line("/proc/stat")?;
    // user nice system idle iowait irq softirq steal; guest time is within user's.
    let ticks: Vec<u64> = line
        .split_whitespace()
        .skip(1)
        .take(8)
        .filter_map(|word| word.parse().ok())
        .collect();
    Some((ticks.iter().sum(), *ticks.get(7)?))
}

fn read_line(path: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    Some(text.lines().next()?.trim().to_owned())
}

fn field(path: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim().to_owned())
    })
}
