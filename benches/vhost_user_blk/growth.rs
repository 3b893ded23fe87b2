//! How legwatch's cost grows: with legs, with queues, with the size of a sparse medium, and with the length of a run. Each step is a backend of
//! its own, with everything watched.

use std::fmt::Write;
use std::path::Path;

use crate::backend::{Backend, Origin, Spec, Words};
use crate::case::{Case, Load, Walk};
use crate::failure::Failure;
use crate::measure::{Length, fill_buffers, slice};
use crate::process::Process;
use crate::session::{Session, Wiring};
use crate::stats::{Slice, per, to_f64};
use crate::table::{count, markdown};

/// Legs and queues that are measured.
const STEPS: [usize; 4] = [1, 2, 4, 8];
/// Sizes of the sparse medium, MiB.
const MEDIA_MIB: [u64; 3] = [256, 4 << 10, 64 << 10];
const DEPTH: usize = 32;
/// Writes of one step.
const WRITES: u64 = 200_000;
/// Parts of the long run.
const PARTS: u64 = 10;

/// What is kept of one measurement.
struct Step {
    rate: f64,
    cpu_us: f64,
    p99_us: f64,
}

impl Step {
    fn of(slice: &Slice) -> Step {
        Step {
            rate: slice.rate(),
            cpu_us: 1e6 * per(slice.backend_cpu.unwrap_or(0.0), to_f64(slice.operations)),
            p99_us: slice.p99_us,
        }
    }
}

/// A backend with as many memory legs and queues, and a connection to all of them.
struct Served {
    session: Session,
    case: Case,
    walks: Vec<Walk>,
    backend: Backend,
}

impl Served {
    fn start(
        legs: usize,
        queues: usize,
        words: &Words,
        wiring: &Wiring,
        dir: &Path,
    ) -> Result<Served, Failure> {
        if dir.exists() {
            std::fs::remove_dir_all(dir).map_err(crate::failure::during(format!(
                "removing {}",
                dir.display()
            )))?;
        }
        let mut command = String::from("exec {legwatch} serve");
        for leg in ('a'..='h').take(legs) {
            write!(command, " --leg {leg}=mem:{{size}},queues={queues}").ok();
        }
        command += " --sockets {dir} --out {dir}/out --record none";
        let spec = Spec {
            legs,
            ..Spec::of("legwatch", Origin::Command(command))
        };
        let backend = Backend::start(&spec, words, dir)?;
        let sockets = backend.sockets(legs)?;
        let mut session = Session::connect(&sockets, queues, wiring)?;
        fill_buffers(&mut session);
        let case = Case {
            queues,
            depth: DEPTH.max(queues),
            ..Case::new(Load::Write, 0x1000, DEPTH)
        };
        let walks: Option<Vec<Walk>> = (0..queues)
            .map(|lane| Walk::new(&case, lane, session.capacity_bytes))
            .collect();
        let walks =
            walks.ok_or_else(|| Failure::Usage("the disk is too small for this".to_owned()))?;
        Ok(Served {
            session,
            case,
            walks,
            backend,
        })
    }

    fn writes(&mut self, count: u64) -> Result<Step, Failure> {
        let slice = slice(
            &mut self.session,
            &self.case,
            &mut self.walks,
            Length::Count(count),
            self.backend.process(),
        )?;
        Ok(Step::of(&slice))
    }

    /// Its own memory, in MiB.
    fn anonymous(&self) -> f64 {
        let memory = self.backend.process().and_then(Process::memory);
        memory.map_or(0.0, |memory| memory.anonymous)
    }
}

/// Measures everything; Markdown. `long` is the number of writes of the long run.
pub(crate) fn run(
    words: &Words,
    wiring: &Wiring,
    dir: &Path,
    long: u64,
) -> Result<String, Failure> {
    let mut text = String::from("# How the cost of legwatch grows\n\n");
    for (name, value) in crate::process::machine() {
        writeln!(text, "- {name}: {value}").ok();
    }
    writeln!(
        text,
        "- load before: {}; 4 KiB random writes at depth {DEPTH}, everything watched, the client sleeps between completions",
        crate::process::load()
    )
    .ok();
    let sized = |mib: u64| Words {
        size_bytes: mib << 20,
        ..words.clone()
    };
    let mut legs = table(&[
        "legs",
        "writes/s to all",
        "writes/s a leg × legs",
        "CPU µs a leg's write",
        "p99 µs",
    ]);
    let mut queues = table(&["queues", "writes/s", "CPU µs", "p99 µs"]);
    for step in STEPS {
        eprintln!("bench: {step} legs, {step} queues");
        let mut served = Served::start(step, 1, &sized(128), wiring, dir)?;
        // First every sector once: what is measured is a leg that is in use.
        served.writes(32 << 10)?;
        let done = served.writes(WRITES / step as u64)?;
        legs.push(vec![
            step.to_string(),
            count(done.rate),
            count(done.rate * step as f64),
            format!("{:.2}", done.cpu_us / step as f64),
            format!("{:.0}", done.p99_us),
        ]);
        drop(served);
        let mut served = Served::start(1, step, &sized(128), wiring, dir)?;
        served.writes(32 << 10)?;
        let done = served.writes(WRITES)?;
        queues.push(vec![
            step.to_string(),
            count(done.rate),
            format!("{:.2}", done.cpu_us),
            format!("{:.0}", done.p99_us),
        ]);
    }
    let mut media = table(&[
        "medium, MiB",
        "written, MiB",
        "writes/s",
        "CPU µs",
        "p99 µs",
        "anonymous, MiB",
    ]);
    for mib in MEDIA_MIB {
        eprintln!("bench: a medium of {mib} MiB");
        let mut served = Served::start(1, 1, &sized(mib), wiring, dir)?;
        let done = served.writes(WRITES)?;
        media.push(vec![
            count(to_f64(mib)),
            count(to_f64((WRITES >> 8).min(mib))),
            count(done.rate),
            format!("{:.2}", done.cpu_us),
            format!("{:.0}", done.p99_us),
            format!("{:.0}", served.anonymous()),
        ]);
    }
    write!(
        text,
        "\n## Legs\n\n{}\n## Queues\n\n{}\n## Media, sparse, each block written for the first time\n\n{}",
        markdown(&legs),
        markdown(&queues),
        markdown(&media)
    )
    .ok();
    text += &length(&sized(256), wiring, dir, long)?;
    Ok(text)
}

/// The long run, in parts: whether a write's time and the memory stay what they are.
fn length(words: &Words, wiring: &Wiring, dir: &Path, long: u64) -> Result<String, Failure> {
    let mut parts = table(&[
        "writes so far",
        "writes/s",
        "CPU µs",
        "p99 µs",
        "anonymous, MiB",
        "journal, MiB",
        "bytes a write",
    ]);
    let mut served = Served::start(1, 1, words, wiring, dir)?;
    let journal = dir.join("out").join(legwatch::recorded::JOURNAL);
    let mut done = 0u64;
    for _ in 0..PARTS {
        let now = long / PARTS;
        let step = served.writes(now)?;
        done += now;
        eprintln!("bench: {done} writes");
        let bytes = std::fs::metadata(&journal).map_or(0, |file| file.len());
        parts.push(vec![
            count(to_f64(done)),
            count(step.rate),
            format!("{:.2}", step.cpu_us),
            format!("{:.0}", step.p99_us),
            format!("{:.0}", served.anonymous()),
            format!("{:.0}", to_f64(bytes) / to_f64(1 << 20)),
            format!("{:.0}", per(to_f64(bytes), to_f64(done))),
        ]);
    }
    Ok(format!(
        "\n## A long run, one leg of {} MiB\n\n{}",
        words.size_bytes >> 20,
        markdown(&parts)
    ))
}

fn table(head: &[&str]) -> Vec<Vec<String>> {
    vec![head.iter().map(|name| (*name).to_owned()).collect()]
}
