//! `legwatch check` and `legwatch report`: a recorded run, read again.

use std::fs::File;
use std::io::{BufReader, IsTerminal};
use std::path::Path;

use crate::campaign::{Summary, junit, ktap};
use crate::cli::{CheckArgs, ReportArgs, ReportFormat};
use crate::failure::{Failure, put};
use crate::header::RunHeader;
use crate::journal::{ReadError, Reader};
use crate::judge::Judge;
use crate::oracle::Verdict;
use crate::picture::{Painter, Picture};
use crate::report::diff::Difference;
use crate::report::html;
use crate::report::json::Report;
use crate::report::text::{self, Style};
use crate::scenario::Scenario;
use crate::suite;
use crate::watch::{Part, Watch};

/// The journal's name in a run's folder.
pub const JOURNAL: &str = "journal";

/// Why a recorded run can't be read.
#[derive(Debug, thiserror::Error)]
pub enum RecordedError {
    /// A journal, and no report.
    #[error("{} has a journal and no report: its run was cut off; `legwatch check` judges the journal", .0.display())]
    NoReport(std::path::PathBuf),
    /// No such folder, or no journal in it.
    #[error("{path} is no run of legwatch: it has no {wanted}; name the folder that `legwatch run` printed", path = .path.display())]
    NoRun {
        /// As given.
        path: std::path::PathBuf,
        /// What is missing.
        wanted: &'static str,
    },
    /// The run kept no journal.
    #[error("{} has a journal without events: its run was told not to keep any (--watch); its report is all there is (`legwatch report`)", .0.display())]
    NotKept(std::path::PathBuf),
    /// The journal can't be read.
    #[error("the journal {} can't be read", .path.display())]
    Journal {
        /// The file.
        path: std::path::PathBuf,
        /// Why.
        source: ReadError,
    },
    /// The file can't be read.
    #[error("{} can't be read", .path.display())]
    Io {
        /// The file.
        path: std::path::PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// Runs the checker over a recorded run and prints its report.
///
/// # Errors
/// [`Failure`], if there is no such run or its journal can't be read.
pub fn check(args: &CheckArgs) -> Result<u8, Failure> {
    let path = if args.run.is_dir() {
        args.run.join(JOURNAL)
    } else {
        args.run.clone()
    };
    if !path.is_file() {
        return Err(Failure::user(RecordedError::NoRun {
            path: args.run.clone(),
            wanted: "journal",
        }));
    }
    let (header, mut verdict) = fold(&path, args.strict).map_err(Failure::user)?;
    if args.no_known {
        verdict = verdict.without_known();
        if args.strict {
            verdict = verdict.strict();
        }
    }
    match args.format {
        ReportFormat::Text => put(&text::render(&header, &verdict, style()))?,
        ReportFormat::Json => put(&Report::new(&header, &verdict).render())?,
        ReportFormat::Junit | ReportFormat::Ktap => {
            let name = scenario_name(&header.scenario);
            put(&as_campaign(
                &name,
                Report::new(&header, &verdict),
                args.format,
            ))?;
        }
        ReportFormat::Html => {
            let picture = paint(&path, &header, &verdict).map_err(Failure::user)?;
            put(&html::render(&header, &verdict, &picture))?;
        }
    }
    Ok(verdict.exit_code())
}

/// The picture of a recorded run, whose verdict is known.
///
/// # Errors
/// [`RecordedError`], if it is no journal.
pub fn paint(path: &Path, header: &RunHeader, verdict: &Verdict) -> Result<Picture, RecordedError> {
    let mut reader = open(path)?;
    let mut painter = Painter::new(header, verdict);
    while let Some(event) = reader.next_event().map_err(|source| RecordedError::Io {
        path: path.to_owned(),
        source,
    })? {
        painter.apply(&event);
    }
    Ok(painter.finish())
}

/// A run's journal, at its first event.
///
/// # Errors
/// [`RecordedError`], if it is no journal.
pub fn open(path: &Path) -> Result<Reader<BufReader<File>>, RecordedError> {
    let file = File::open(path).map_err(|source| RecordedError::Io {
        path: path.to_owned(),
        source,
    })?;
    Reader::new(BufReader::with_capacity(1 << 20, file)).map_err(|source| RecordedError::Journal {
        path: path.to_owned(),
        source,
    })
}

/// The checker over one journal, to its end or to its torn tail.
///
/// # Errors
/// [`RecordedError`], if it is no journal.
pub fn fold(path: &Path, strict: bool) -> Result<(RunHeader, Verdict), RecordedError> {
    let io = |source| RecordedError::Io {
        path: path.to_owned(),
        source,
    };
    let mut reader = open(path)?;
    let header = reader.header().clone();
    if !Watch::of(&header.options).has(Part::Journal) {
        return Err(RecordedError::NotKept(path.to_owned()));
    }
    let was_strict = header
        .options
        .get("strict")
        .and_then(serde_json::Value::as_bool)
        .unwrap_or(false);
    let mut judge = Judge::new(&header, strict || was_strict);
    while let Some(event) = reader.next_event().map_err(io)? {
        judge.apply(&event);
    }
    if let Some(tail) = reader.tail() {
        eprintln!(
            "legwatch: the journal is torn at byte {} ({}); {} bytes dropped, the last event is {}",
            tail.at, tail.why, tail.dropped_bytes, tail.last
        );
    }
    Ok((header, judge.finish()))
}

/// Prints the report that a run left in its folder.
///
/// # Errors
/// [`Failure`], if there is none.
pub fn report(args: &ReportArgs) -> Result<u8, Failure> {
    if let [earlier, later] = &args.diff[..] {
        let difference = Difference::of(&read_report(earlier)?, &read_report(later)?);
        let text = match args.format {
            ReportFormat::Text => difference.render(style()),
            ReportFormat::Json => {
                serde_json::to_string_pretty(&difference).expect("plain data") + "\n"
            }
            ReportFormat::Html | ReportFormat::Junit | ReportFormat::Ktap => {
                return Err(Failure::user("--diff is told as text or json"));
            }
        };
        put(&text)?;
        return Ok(difference.exit_code());
    }
    let Some(run) = &args.run else {
        return suite::merge(&args.merge, args.out.as_deref(), args.format);
    };
    if suite::is_campaign(run) {
        return suite::recorded(run, args.format);
    }
    let report = read_report(run)?;
    print(run, args.format)?;
    Ok(report.exit_code)
}

/// The report that a run left in its folder.
fn read_report(run: &Path) -> Result<Report, Failure> {
    let path = run.join("report.json");
    if !path.is_file() {
        return Err(Failure::user(if run.join(JOURNAL).is_file() {
            RecordedError::NoReport(run.to_owned())
        } else {
            RecordedError::NoRun {
                path: run.to_owned(),
                wanted: "report.json",
            }
        }));
    }
    let text = std::fs::read_to_string(&path).map_err(|source| {
        Failure::user(RecordedError::Io {
            path: path.clone(),
            source,
        })
    })?;
    serde_json::from_str(&text).map_err(|error| {
        Failure::user(format!(
            "{}: no report of legwatch: {error}",
            path.display()
        ))
    })
}

/// Prints a run's report from its folder; on a terminal in colours.
///
/// # Errors
/// [`Failure`], if it can't be read or printed.
pub fn print(folder: &Path, format: ReportFormat) -> Result<(), Failure> {
    let read = |name: &str| {
        let path = folder.join(name);
        std::fs::read_to_string(&path)
            .map_err(|source| Failure::user(RecordedError::Io { path, source }))
    };
    match format {
        ReportFormat::Json => put(&read("report.json")?),
        ReportFormat::Junit | ReportFormat::Ktap => {
            let report: Report =
                serde_json::from_str(&read("report.json")?).map_err(Failure::internal)?;
            // What `serve` recorded has no scenario.
            let text = read("scenario.toml").unwrap_or_default();
            put(&as_campaign(&scenario_name(&text), report, format))
        }
        ReportFormat::Html => put(&read("report.html")?),
        ReportFormat::Text if style() == Style::Plain => put(&read("report.txt")?),
        ReportFormat::Text => {
            // Colours come from the same fold; the journal is the run.
            match fold(&folder.join(JOURNAL), false) {
                Ok((header, verdict)) => put(&text::render(&header, &verdict, Style::Colour)),
                Err(RecordedError::NotKept(_)) => put(&read("report.txt")?),
                Err(error) => Err(Failure::user(error)),
            }
        }
    }
}

/// The name of the scenario of this text.
fn scenario_name(text: &str) -> String {
    Scenario::parse(text, Path::new("scenario.toml"))
        .map_or_else(|_| "run".to_owned(), |scenario| scenario.name)
}

/// One run in a format that is made for many.
fn as_campaign(name: &str, report: Report, format: ReportFormat) -> String {
    let kernel = report
        .provenance
        .get("kernel")
        .and_then(serde_json::Value::as_str)
        .unwrap_or("kernel");
    let summary = Summary::of_run(name, kernel, report.clone());
    match format {
        ReportFormat::Ktap => ktap::render(&summary),
        ReportFormat::Junit | ReportFormat::Text | ReportFormat::Json | ReportFormat::Html => {
            junit::render(&summary)
        }
    }
}

fn style() -> Style {
    let wanted = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    if wanted { Style::Colour } else { Style::Plain }
}
