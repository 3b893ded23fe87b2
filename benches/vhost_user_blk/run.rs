//! A whole run: which backends and cases, in which order, and the report.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::args::Args;
use crate::backend::{Backend, FAULTS, Spec, Words, known, less_watched};
use crate::case::{Case, Walk, all};
use crate::failure::{Failure, chain, during};
use crate::measure::{Length, fill_buffers, slice};
use crate::process::{Memory, cpu_ticks, load, machine};
use crate::session::{Session, Wiring};
use crate::stats::{per, to_f64};
use crate::table::{Cell, Row, costs, details, gaps, markdown, paired, ratios};
use crate::targets::{TARGETS, Target, parse};
use crate::verify::{self, Content};

/// What is to be done, checked.
pub(crate) struct Plan {
    backends: Vec<Spec>,
    /// Named on the command line: that one of these can't be measured is a failure.
    required: bool,
    cases: Vec<Case>,
    rounds: u32,
    length: Length,
    wiring: Wiring,
    words: Words,
    verify: bool,
    verify_count: u64,
    seed: u64,
    dir: Option<PathBuf>,
    targets: Vec<Target>,
    /// Backends that watch less are measured where it tells most.
    brief: bool,
    /// What the fault path costs is what is measured.
    faults: bool,
    /// Writes of the long run, where growth is what is measured.
    growth: Option<u64>,
}

/// What came of it.
pub(crate) struct Report {
    pub(crate) text: String,
    pub(crate) complete: bool,
}

impl Plan {
    pub(crate) fn new(args: &Args) -> Result<Plan, Failure> {
        let known = known();
        let mut backends = Vec::new();
        let less = less_watched().filter(|name| args.watch && !args.backends.contains(name));
        let names: Vec<String> = match args.faults {
            true => FAULTS.map(str::to_owned).to_vec(),
            false => args.backends.iter().cloned().chain(less).collect(),
        };
        for name in names.iter().filter(|name| *name != "none") {
            let spec = known.iter().find(|spec| spec.name == *name);
            backends.push(spec.cloned().ok_or_else(|| {
                Failure::Usage(format!("--backends: no backend is known as {name}"))
            })?);
        }
        for text in &args.more {
            let spec = Spec::parse(text)?;
            if backends.iter().any(|other| other.name == spec.name) {
                return Err(Failure::Usage(format!(
                    "two backends are named {}",
                    spec.name
                )));
            }
            backends.push(spec);
        }
        let mut cases = all(&args.depth, args.sequential_depth);
        if !args.filter.is_empty() {
            let names: Vec<String> = cases.iter().map(|case| case.name.clone()).collect();
            let matches = |part: &String, name: &String| {
                part == name || (!names.contains(part) && name.contains(part))
            };
            cases.retain(|case| args.filter.iter().any(|part| matches(part, &case.name)));
        } else if args.faults {
            cases.retain(Case::tells_most);
        }
        if (backends.is_empty() && args.growth.is_none()) || cases.is_empty() {
            return Err(Failure::Usage(
                "nothing to measure: see --list, --backends and --filter".to_owned(),
            ));
        }
        if args.depth.contains(&0)
            || args.sequential_depth == 0
            || args.rounds == 0
            || args.slice_ms == 0
        {
            return Err(Failure::Usage(
                "depths, rounds and slices are at least 1".to_owned(),
            ));
        }
        let deepest = cases.iter().map(Case::depth_each).max().unwrap_or(1);
        // A request is three descriptors: header, data, status.
        if !args.queue_size.is_power_of_two() || usize::from(args.queue_size) < 3 * deepest.max(32)
        {
            return Err(Failure::Usage(format!(
                "--queue-size: a power of two of at least {}",
                3 * deepest.max(32)
            )));
        }
        let arena = cases.iter().map(Case::arena_bytes).max().unwrap_or(0);
        let (rounds, slice_ms) = if args.quick {
            (2, 100)
        } else {
            (args.rounds, args.slice_ms)
        };
        Ok(Plan {
            backends,
            required: !args.more.is_empty(),
            cases,
            rounds: if args.count.is_some() { 1 } else { rounds },
            length: args
                .count
                .map_or(Length::Time(Duration::from_millis(slice_ms)), Length::Count),
            wiring: Wiring {
                queue_size: args.queue_size,
                packed: args.packed,
                event_idx: !args.no_event_idx,
                busy_poll: args.busy_poll,
                arena_bytes: arena.max(verify::ARENA_BYTES),
            },
            words: Words {
                size_bytes: args.size_mib << 20,
                legwatch: args.legwatch.clone(),
                legwatch_no_faults: args.legwatch_no_faults.clone(),
                storage_daemon: args.storage_daemon.clone(),
            },
            verify: args.verify,
            verify_count: if args.quick { 2_000 } else { 20_000 },
            seed: args.seed,
            dir: args.dir.clone(),
            // They are about the baseline that all are measured beside.
            targets: if args.faults {
                Vec::new()
            } else {
                parse(TARGETS)?
            },
            brief: args.filter.is_empty(),
            faults: args.faults,
            growth: args.growth,
        })
    }

    /// Cases and backends, for people.
    pub(crate) fn list(&self) -> String {
        let mut text = String::from("cases:\n");
        for case in &self.cases {
            writeln!(text, "  {}", case.name).ok();
        }
        text.push_str("backends:\n");
        for spec in &self.backends {
            writeln!(text, "  {}: {:?}", spec.name, spec.origin).ok();
        }
        text
    }
}

/// A backend and what was seen of it.
struct Runner<'a> {
    plan: &'a Plan,
    spec: &'a Spec,
    dir: PathBuf,
    backend: Option<Backend>,
    session: Option<(Session, usize, bool)>,
    /// Why it is not measured any more.
    gone: Option<String>,
    /// It was measured, and then lost a request or gave wrong data.
    failed: bool,
    memory: Option<Memory>,
    notes: Vec<String>,
}

impl Runner<'_> {
    /// Starts the backend with known content on its disks.
    fn start(&mut self) -> Result<(), Failure> {
        self.stop();
        let dir = self.dir.as_path();
        if dir.exists() {
            std::fs::remove_dir_all(dir).map_err(during(format!("removing {}", dir.display())))?;
        }
        self.backend = Some(Backend::start(self.spec, &self.plan.words, dir)?);
        self.verify(false)
    }

    fn stop(&mut self) {
        self.session = None;
        if let Some(mut backend) = self.backend.take() {
            let memory = backend.process().and_then(crate::process::Process::memory);
            self.memory = memory.or(self.memory);
            if let Some(how) = backend.end()
                && !self.notes.contains(&how)
            {
                self.notes.push(how);
            }
        }
    }

    fn backend(&self) -> Result<&Backend, Failure> {
        let not_running = || Failure::Backend("it does not run".to_owned());
        self.backend.as_ref().ok_or_else(not_running)
    }

    /// Fills the disks; with --verify changes them under load and reads them back over a second connection.
    fn verify(&mut self, again: bool) -> Result<(), Failure> {
        self.session = None;
        let legs = 1 + usize::from(self.backend()?.has_mirror());
        let sockets = self.backend()?.sockets(legs)?;
        let mut session = Session::connect(&sockets, 1, &self.plan.wiring)?;
        let seed = self.plan.seed + u64::from(again);
        let mut content = Content::new(seed, session.capacity_bytes);
        content.fill(&mut session.lanes[0])?;
        if self.plan.verify {
            content.load(&mut session.lanes[0], self.plan.verify_count)?;
            drop(session);
            let mut session = Session::connect(&sockets, 1, &self.plan.wiring)?;
            content.read_back(&mut session.lanes[0])?;
        }
        Ok(())
    }

    /// One slice of a case.
    fn slice(
        &mut self,
        case: &Case,
        walks: &mut Option<Vec<Walk>>,
    ) -> Result<crate::stats::Slice, Failure> {
        let fits = |(_, queues, mirror): &(Session, usize, bool)| {
            (*queues, *mirror) == (case.queues, case.mirror)
        };
        if !self.session.as_ref().is_some_and(fits) {
            self.session = None;
            let sockets = self.backend()?.sockets(case.legs())?;
            let mut session = Session::connect(&sockets, case.queues, &self.plan.wiring)?;
            fill_buffers(&mut session);
            self.session = Some((session, case.queues, case.mirror));
        }
        let (Some((session, ..)), Some(backend)) = (&mut self.session, &self.backend) else {
            return Err(Failure::Backend("it does not run".to_owned()));
        };
        let bytes = session.capacity_bytes;
        if walks.is_none() {
            *walks = (0..case.queues)
                .map(|lane| Walk::new(case, lane, bytes))
                .collect();
        }
        let Some(walks) = walks else {
            return Err(Failure::Backend(
                "the disk is too small for this case".to_owned(),
            ));
        };
        slice(session, case, walks, self.plan.length, backend.process())
    }

    /// After an error the backend is not to be trusted with more.
    fn give_up(&mut self, failure: &Failure) -> String {
        let mut why = chain(failure);
        if let Some(backend) = &self.backend {
            let words = backend.last_words();
            if !why.contains(&words) {
                write!(why, " [{words}]").ok();
            }
        }
        self.gone = Some(why.clone());
        self.failed |= matches!(
            failure,
            Failure::Stalled { .. } | Failure::Request { .. } | Failure::Data { .. }
        );
        self.stop();
        why
    }
}

/// Runs the plan.
pub(crate) fn run(plan: &Plan) -> Result<Report, Failure> {
    let temporary;
    let root = match &plan.dir {
        Some(dir) => dir.clone(),
        None => {
            let shm = PathBuf::from("/dev/shm");
            let parent = if shm.is_dir() {
                shm
            } else {
                std::env::temp_dir()
            };
            let mut builder = tempfile::Builder::new();
            temporary = builder
                .prefix("bench-")
                .tempdir_in(parent)
                .map_err(during("a folder for the images"))?;
            temporary.path().to_owned()
        }
    };
    let mut report = if plan.backends.is_empty() {
        Report {
            text: String::new(),
            complete: true,
        }
    } else {
        compare(plan, &root)?
    };
    if let Some(long) = plan.growth {
        let text = crate::growth::run(&plan.words, &plan.wiring, &root.join("growth"), long)?;
        if !report.text.is_empty() {
            report.text.push('\n');
        }
        report.text += &text;
    }
    Ok(report)
}

/// Measures the backends side by side.
fn compare(plan: &Plan, root: &Path) -> Result<Report, Failure> {
    let (load_before, ticks_before) = (load(), cpu_ticks());
    let mut runners = Vec::new();
    for spec in &plan.backends {
        let dir = root.join(&spec.name);
        let runner = Runner {
            plan,
            spec,
            dir,
            backend: None,
            session: None,
            gone: None,
            failed: false,
            memory: None,
            notes: Vec::new(),
        };
        runners.push(runner);
    }
    for runner in &mut runners {
        eprintln!("bench: starting {}", runner.spec.name);
        if let Err(failure) = runner.start() {
            let why = runner.give_up(&failure);
            eprintln!("bench: {}: {why}", runner.spec.name);
        }
    }
    if let Some(why) = runners.first().and_then(|baseline| baseline.gone.clone()) {
        return Err(Failure::Backend(format!(
            "the baseline, {}, can't be measured: {why}",
            plan.backends[0].name
        )));
    }
    let mut rows = Vec::new();
    for (index, case) in plan.cases.iter().enumerate() {
        eprintln!(
            "bench: {} ({} of {})",
            case.name,
            index + 1,
            plan.cases.len()
        );
        rows.push(measure(plan, case, &mut runners));
    }
    for runner in &mut runners {
        if plan.verify && runner.gone.is_none() {
            eprintln!("bench: verifying {}", runner.spec.name);
            if let Err(failure) = runner.verify(true) {
                let why = runner.give_up(&failure);
                runner.notes.push(why);
            }
        }
        runner.stop();
    }
    let noise = Noise {
        load_before,
        load_after: load(),
        ticks_before,
    };
    let complete = runners
        .iter()
        .all(|runner| !runner.failed && (runner.gone.is_none() || !plan.required));
    Ok(Report {
        text: report(plan, &runners, &rows, &noise),
        complete,
    })
}

/// One case: rounds of one slice on each backend.
fn measure(plan: &Plan, case: &Case, runners: &mut [Runner<'_>]) -> Row {
    let mut cells = Vec::new();
    let mut walks = Vec::new();
    for runner in runners.iter_mut() {
        let bulk = runner.spec.logs_writes && case.bulk_write();
        cells.push(if plan.brief && runner.spec.brief && !case.tells_most() {
            Cell::NotAsked
        } else if let Some(why) = &runner.gone {
            Cell::Nothing(why.clone())
        } else if bulk {
            Cell::Nothing("its log of every write would not fit into memory".to_owned())
        } else if runner.spec.logs_writes
            && let Err(failure) = runner.start()
        {
            Cell::Nothing(runner.give_up(&failure))
        } else {
            Cell::Slices(Vec::new())
        });
        walks.push(None);
    }
    let all = runners.len();
    for round in 0..plan.rounds {
        // Each round begins with another backend: what follows whom is the same for all.
        for turn in 0..all {
            let at = (turn + usize::try_from(round).unwrap_or(0)) % all;
            let (runner, cell, walks) = (&mut runners[at], &mut cells[at], &mut walks[at]);
            let Cell::Slices(slices) = cell else { continue };
            match runner.slice(case, walks) {
                Ok(slice) => slices.push(slice),
                Err(failure @ Failure::Backend(_)) => *cell = Cell::Nothing(chain(&failure)),
                Err(failure) => {
                    let why = runner.give_up(&failure);
                    eprintln!("bench: {}: {why}", runner.spec.name);
                    *cell = Cell::Nothing(why);
                }
            }
        }
    }
    Row {
        case: case.name.clone(),
        block_bytes: case.block_bytes,
        cells,
    }
}

struct Noise {
    load_before: String,
    load_after: String,
    ticks_before: Option<(u64, u64)>,
}

impl Noise {
    /// What share of the CPUs' time the host took away during the run.
    fn steal_percent(&self) -> Option<f64> {
        let ((all, stolen), (all_now, stolen_now)) = (self.ticks_before?, cpu_ticks()?);
        Some(
            100.0
                * per(
                    to_f64(stolen_now.saturating_sub(stolen)),
                    to_f64(all_now.saturating_sub(all)),
                ),
        )
    }
}

fn report(plan: &Plan, runners: &[Runner<'_>], rows: &[Row], noise: &Noise) -> String {
    let names: Vec<String> = plan.backends.iter().map(|spec| spec.name.clone()).collect();
    let mut text = String::from("# vhost-user-blk backends, side by side\n\n");
    for (name, value) in machine().into_iter().chain(versions(plan)) {
        writeln!(text, "- {name}: {value}").ok();
    }
    let steal = noise
        .steal_percent()
        .map_or_else(|| "unknown".to_owned(), |percent| format!("{percent:.1} %"));
    writeln!(
        text,
        "- load before and after: {}, {}; CPU time taken by the host: {steal}",
        noise.load_before, noise.load_after
    )
    .ok();
    let length = match plan.length {
        Length::Time(time) => format!("{} rounds of {} ms", plan.rounds, time.as_millis()),
        Length::Count(count) => format!("{count} operations"),
    };
    let waiting = if plan.wiring.busy_poll {
        "spins"
    } else {
        "sleeps"
    };
    let rings = if plan.wiring.packed {
        "packed"
    } else {
        "split"
    };
    let event_idx = if plan.wiring.event_idx {
        "with"
    } else {
        "without"
    };
    writeln!(
        text,
        "- {length}; disks of {} MiB; the client {waiting} between completions",
        plan.words.size_bytes >> 20
    )
    .ok();
    writeln!(
        text,
        "- {rings} rings of {}, {event_idx} event indices",
        plan.wiring.queue_size
    )
    .ok();
    if plan.verify {
        let checked = runners
            .iter()
            .filter(|runner| runner.gone.is_none())
            .map(|runner| runner.spec.name.as_str());
        let checked: Vec<&str> = checked.collect();
        writeln!(
            text,
            "- data verified before and after, seed {}: {}",
            plan.seed,
            checked.join(", ")
        )
        .ok();
    }
    write!(
        text,
        "\n## Ratios to {}\n\n{}",
        names[0],
        ratios(&names, rows, &plan.targets)
    )
    .ok();
    write!(
        text,
        "\n## Figures\n\n{}",
        details(&names, rows, &plan.targets)
    )
    .ok();
    if !plan.faults
        && let Some(costs) = costs(&names, rows)
    {
        write!(text, "\n## What watching costs\n\n{costs}").ok();
    }
    if plan.faults {
        write!(
            text,
            "\n## What the fault path costs\n\n{}",
            paired(&names, rows)
        )
        .ok();
    }
    write!(
        text,
        "\n## Memory of the backends at their end, MiB\n\n{}",
        memory(runners)
    )
    .ok();
    let notes = runners.iter().flat_map(|runner| {
        runner
            .notes
            .iter()
            .map(|note| format!("{}: {note}", runner.spec.name))
    });
    let notes: Vec<String> = gaps(&names, rows).into_iter().chain(notes).collect();
    if !notes.is_empty() {
        text.push_str("\n## Not measured, and other notes\n\n");
        for note in notes {
            writeln!(text, "- {note}").ok();
        }
    }
    text
}

fn memory(runners: &[Runner<'_>]) -> String {
    let mut table = vec![
        ["backend", "RSS", "PSS", "anonymous"]
            .map(str::to_owned)
            .to_vec(),
    ];
    for runner in runners {
        if let Some(Memory {
            rss,
            pss,
            anonymous,
        }) = runner.memory
        {
            let mib = [rss, pss, anonymous].map(|mib| format!("{mib:.1}"));
            table.push(
                std::iter::once(runner.spec.name.clone())
                    .chain(mib)
                    .collect(),
            );
        }
    }
    markdown(&table)
}

fn versions(plan: &Plan) -> Vec<(String, String)> {
    let ask = |program: &str| {
        let output = std::process::Command::new(program)
            .arg("--version")
            .output()
            .ok()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        Some(text.lines().next()?.to_owned())
    };
    let programs = [
        ("qemu-storage-daemon", &plan.words.storage_daemon),
        ("legwatch", &plan.words.legwatch),
    ];
    let version = |(name, program): (&str, &String)| {
        (
            name.to_owned(),
            ask(program).unwrap_or_else(|| "not there".to_owned()),
        )
    };
    programs.into_iter().map(version).collect()
}
