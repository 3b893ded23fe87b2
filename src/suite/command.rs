//! `legwatch test`, and `legwatch report` of campaigns.

use std::collections::BTreeSet;
use std::path::Path;

use super::choice::{self, Kernels};
use super::listing;
use super::progress::Progress;
use super::runner::{self, Options};
use super::store::{self, Header, Store};
use crate::cache::{Cache, Scratch};
use crate::campaign::{Plan, RunResult, Summary, junit, ktap, museum, table};
use crate::cli::{AccelArg, ListFormat, ReportFormat, TestArgs};
use crate::failure::{self, EXIT_INTERRUPTED, Failure, put};
use crate::qemu::Qemu;
use crate::run::happening::Interrupts;
use crate::run::{self, out};

/// Memory that a run takes besides its guest's, in KiB: the witness with its shadows, QEMU itself.
const RUN_KIB: u64 = 768 << 10;
/// Seeds a row; what was not run of so many can still be counted.
const SEEDS_MAX: u64 = 1_000_000;

/// Runs a campaign and prints its report.
///
/// # Errors
/// [`Failure`], when there is nothing to report.
pub fn test(args: &TestArgs) -> Result<u8, Failure> {
    has_no_page(args.format)?;
    let chosen = if args.museum {
        Vec::new()
    } else {
        choice::scenarios(&args.paths, &args.tag, &args.skip_tag).map_err(Failure::user)?
    };
    let bugs = if args.museum {
        choice::bugs(&args.paths).map_err(Failure::user)?
    } else {
        Vec::new()
    };
    if let Some(format) = args.list {
        return list(args, format, &chosen, &bugs).map(|()| 0);
    }
    if args.jobs == Some(0) {
        return Err(Failure::user("--jobs 0 would run nothing; give at least 1"));
    }
    if args.repeat == Some(0) {
        return Err(Failure::user(
            "--repeat 0 would run nothing; give at least 1",
        ));
    }
    if args.repeat.is_some_and(|repeat| repeat > SEEDS_MAX) {
        return Err(Failure::user(format!(
            "--repeat goes up to {SEEDS_MAX}; --for counts seeds up for as long as you say"
        )));
    }
    let resumed = args
        .out
        .as_deref()
        .filter(|out| args.resume && store::is_campaign(out));
    if args.resume && args.out.is_none() {
        return Err(Failure::user(
            "--resume goes on in a folder; name it with --out",
        ));
    }
    if let Some(wish) = args.out.as_deref().filter(|_| resumed.is_none()) {
        out::check(wish).map_err(Failure::user)?;
    }
    let exit = if args.bisect {
        failure::bisect(EXIT_INTERRUPTED)
    } else {
        EXIT_INTERRUPTED
    };
    let interrupts = Interrupts::catch(exit).map_err(Failure::internal)?;
    // What every run would stumble over is said once.
    let _qemu = Qemu::find().map_err(Failure::user)?;
    run::find_agent().map_err(Failure::user)?;

    let cache = Cache::open().map_err(Failure::user)?;
    let mut kernels = Kernels::default();
    let names: Vec<String> = if args.museum {
        bugs.iter()
            .flat_map(|bug| bug.kernels().cloned().collect::<Vec<_>>())
            .collect()
    } else {
        args.kernel.clone()
    };
    for name in &names {
        if let Err(why) = kernels.get(name, &cache)? {
            eprintln!("legwatch: {why}");
        }
    }
    let rows = if args.museum {
        choice::museum_rows(&bugs, &kernels).map_err(Failure::user)?
    } else {
        choice::rows(&chosen, &names, &kernels, args.bisect || args.no_expect)
    };
    let repeat = match args.limit {
        Some(_) => None,
        None => Some(args.repeat.unwrap_or(1)),
    };
    let plan = choice::plan(rows, args.seed, repeat, options(args));
    let header = Header {
        plan,
        partition: args.partition,
    };
    let memory = chosen
        .iter()
        .map(|one| one.scenario.guest.memory_mib)
        .max()
        .unwrap_or(512);
    let jobs = args.jobs.unwrap_or_else(|| fit(memory));
    let (folder, mut store, whole, done) = match resumed {
        Some(folder) => {
            let (store, whole, done) = Store::resume(folder, &header).map_err(Failure::user)?;
            let folder = std::path::absolute(folder).map_err(Failure::user)?;
            (folder, store, whole, done)
        }
        None => {
            let mut folder = out::prepare(args.out.as_deref(), "suite").map_err(Failure::user)?;
            let store = Store::begin(folder.path(), &header).map_err(Failure::user)?;
            folder.keep();
            let whole = header.plan.clone();
            (folder.path().to_owned(), store, whole, Vec::new())
        }
    };
    // What can be run now; `whole` has kernels too that were there before and are not now.
    let plan = &header.plan;
    let mine = |key: &str| args.partition.is_none_or(|part| part.has(key));
    let had: BTreeSet<String> = done.iter().map(|result| result.key.clone()).collect();
    let left = plan.cells().filter(|cell| {
        let key = plan.key(*cell);
        mine(&key) && !had.contains(&key)
    });
    let all = (!plan.is_endless()).then(|| {
        let left = plan.cells().filter(|cell| {
            let key = plan.key(*cell);
            mine(&key) && !had.contains(&key)
        });
        u64::try_from(left.count()).unwrap_or(u64::MAX)
    });
    eprintln!(
        "legwatch: {} rows, {}, seeds from {}, {jobs} at once{}; {}",
        plan.rows.len(),
        all.map_or_else(|| "no end of runs".into(), |all| format!("{all} runs")),
        plan.seed,
        if done.is_empty() {
            String::new()
        } else {
            format!(", {} are done", done.len())
        },
        folder.display()
    );
    let mut progress = Progress::new(all, jobs);
    let boots = saved_boots(args)?;
    let saved = boots.iter().flat_map(|boots| {
        let folder = boots.path().to_string_lossy().into_owned();
        ["--saved-boots".to_owned(), folder]
    });
    let options = Options {
        jobs,
        limit: args.limit,
        arguments: plan.options.iter().cloned().chain(saved).collect(),
    };
    let ended = runner::run(
        plan,
        left,
        &folder,
        &mut store,
        &options,
        &interrupts,
        &mut progress,
    )?;
    let pace = pace(&ended.results, ended.took);
    let mut results = done;
    results.extend(ended.results);
    let summary = Summary::new(whole, results, args.partition);
    store.reports(&summary).map_err(Failure::user)?;
    put(&rendered(&summary, args.format))?;
    eprintln!("legwatch: {pace}; {}", folder.display());
    Ok(if ended.interrupted {
        EXIT_INTERRUPTED
    } else {
        summary.exit_code
    })
}

/// Where this call's runs save boots; it goes when the call ends.
fn saved_boots(args: &TestArgs) -> Result<Option<Scratch>, Failure> {
    let folder = args.saved_boots.then(|| Cache::open()?.scratch());
    folder.transpose().map_err(Failure::user)
}

/// How many runs there were in this time, and how often they found something.
fn pace(results: &[RunResult], took: std::time::Duration) -> String {
    let runs = results.iter().filter(|result| result.tries > 0).count();
    let per_minute =
        f64::from(u32::try_from(runs).unwrap_or(u32::MAX)) * 60.0 / took.as_secs_f64().max(0.001);
    let ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    format!(
        "{runs} runs in {}, {per_minute:.1} a minute; {}",
        table::seconds(ms),
        table::rate(results.iter(), ms)
    )
}

/// What is added to every run's command line.
fn options(args: &TestArgs) -> Vec<String> {
    let mut options = Vec::new();
    let accel = match args.accel {
        AccelArg::Auto => "auto",
        AccelArg::Kvm => "kvm",
        AccelArg::Tcg => "tcg",
    };
    options.extend(["--accel".to_owned(), accel.to_owned()]);
    if args.strict {
        options.push("--strict".into());
    }
    if args.no_known {
        options.push("--no-known".into());
    }
    if let Some(append) = &args.append {
        options.extend(["--append".to_owned(), append.clone()]);
    }
    options
}

/// How many guests of so much memory fit at once: an emulated one takes about one core.
fn fit(memory_mib: u32) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let free_kib = std::fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| {
            let line = text
                .lines()
                .find_map(|line| line.strip_prefix("MemAvailable:"))?;
            line.trim().trim_end_matches(" kB").parse::<u64>().ok()
        });
    let each = (u64::from(memory_mib) << 10) + RUN_KIB;
    let room = free_kib.map_or(cores, |free| usize::try_from(free / each).unwrap_or(cores));
    cores.min(room).max(1)
}

/// What there is to run. Times come from a campaign that was run before.
fn list(
    args: &TestArgs,
    format: ListFormat,
    chosen: &[choice::Chosen],
    bugs: &[museum::Bug],
) -> Result<(), Failure> {
    let scenarios = chosen.iter().map(|one| &one.scenario);
    put(&match format {
        ListFormat::Text => listing::text(scenarios, bugs),
        ListFormat::Markdown if args.museum => listing::bugs(bugs),
        ListFormat::Markdown => {
            let campaign = args.times.as_deref().map(store::read).transpose();
            let campaign = campaign.map_err(Failure::user)?;
            let results: Vec<(&str, &RunResult)> = campaign
                .iter()
                .flat_map(|(header, results)| {
                    results.iter().filter_map(|result| {
                        let mut rows = header.plan.rows.iter();
                        let row = rows.find(|row| row.key == result.row)?;
                        Some((row.scenario.as_str(), result))
                    })
                })
                .collect();
            listing::scenarios(scenarios, &results)
        }
    })
}

/// A campaign's report in a format.
fn rendered(summary: &Summary, format: ReportFormat) -> String {
    match format {
        ReportFormat::Text if museum::is_museum(&summary.plan) => {
            format!("{}\n{}", table::render(summary), museum::table(summary))
        }
        ReportFormat::Text => table::render(summary),
        ReportFormat::Json => summary.json(),
        ReportFormat::Junit => junit::render(summary),
        ReportFormat::Ktap => ktap::render(summary),
        ReportFormat::Html => unreachable!("refused by `has_no_page`"),
    }
}

/// A campaign has no page of its own.
fn has_no_page(format: ReportFormat) -> Result<(), Failure> {
    match format {
        ReportFormat::Html => Err(Failure::user(
            "a campaign has no page of its own; each of its runs has a report.html in its folder",
        )),
        ReportFormat::Text | ReportFormat::Json | ReportFormat::Junit | ReportFormat::Ktap => {
            Ok(())
        }
    }
}

/// Prints the report of a campaign's folder, interrupted or not.
///
/// # Errors
/// [`Failure`].
pub fn recorded(folder: &Path, format: ReportFormat) -> Result<u8, Failure> {
    has_no_page(format)?;
    let (header, results) = store::read(folder).map_err(Failure::user)?;
    let summary = Summary::new(header.plan, results, header.partition);
    put(&rendered(&summary, format))?;
    Ok(summary.exit_code)
}

/// Merges the parts of a campaign, prints the whole, and writes it where it is wanted.
///
/// # Errors
/// [`Failure`].
pub fn merge(
    folders: &[std::path::PathBuf],
    out: Option<&Path>,
    format: ReportFormat,
) -> Result<u8, Failure> {
    has_no_page(format)?;
    if let Some(wish) = out {
        out::check(wish).map_err(Failure::user)?;
    }
    let parts = folders
        .iter()
        .map(|folder| {
            let (header, mut results) = store::read(folder).map_err(Failure::user)?;
            // Where the evidence is.
            for result in &mut results {
                result.folder = result
                    .folder
                    .take()
                    .map(|below| folder.join(below).display().to_string());
            }
            Ok((folder.display().to_string(), header.plan, results))
        })
        .collect::<Result<Vec<(String, Plan, _)>, Failure>>()?;
    let summary = Summary::merge(parts).map_err(Failure::user)?;
    if out.is_some() {
        let mut folder = out::prepare(out, "suite").map_err(Failure::user)?;
        let header = Header {
            plan: summary.plan.clone(),
            partition: None,
        };
        let mut store = Store::begin(folder.path(), &header).map_err(Failure::user)?;
        for result in &summary.results {
            store.record(result).map_err(Failure::user)?;
        }
        store.reports(&summary).map_err(Failure::user)?;
        folder.keep();
    }
    put(&rendered(&summary, format))?;
    Ok(summary.exit_code)
}
