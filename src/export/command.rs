//! `legwatch export` and `legwatch image`.

use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use super::{Side, blkparse, build, chrome_trace, log_writes};
use crate::block::{LegId, SECTOR_BYTES};
use crate::cli::{ExportArgs, ExportFormat, ImageArgs};
use crate::event::EventNo;
use crate::failure::Failure;
use crate::header::RunHeader;
use crate::journal::Reader;
use crate::recorded::{self, JOURNAL, RecordedError};

fn open(run: &Path) -> Result<Reader<BufReader<File>>, Failure> {
    let path = if run.is_dir() {
        run.join(JOURNAL)
    } else {
        run.to_owned()
    };
    if !path.is_file() {
        return Err(Failure::user(RecordedError::NoRun {
            path: run.to_owned(),
            wanted: "journal",
        }));
    }
    recorded::open(&path).map_err(Failure::user)
}

fn leg(header: &RunHeader, name: &str) -> Result<LegId, Failure> {
    let found = header.legs.iter().position(|leg| leg.config.name == name);
    let id = found.and_then(|at| u8::try_from(at).ok()).map(LegId);
    id.ok_or_else(|| {
        let names: Vec<&str> = header
            .legs
            .iter()
            .map(|leg| leg.config.name.as_str())
            .collect();
        Failure::user(format!(
            "--leg {name}: the run has no such leg; it has {}",
            names.join(", ")
        ))
    })
}

/// A new file; what is there already is left alone.
fn create(path: &Path) -> Result<File, Failure> {
    File::options()
        .write(true)
        .read(true)
        .create_new(true)
        .open(path)
        .map_err(|error| {
            Failure::user(format!(
                "{} can't be made: {error}; name a new file",
                path.display()
            ))
        })
}

fn side(medium: bool) -> Side {
    if medium { Side::Medium } else { Side::Shadow }
}

fn failed(path: &Path) -> impl FnOnce(std::io::Error) -> Failure {
    let path = path.to_owned();
    move |error| {
        // An output that is not whole is worse than none.
        let _stays = std::fs::remove_file(&path);
        Failure::user(format!("{} can't be written: {error}", path.display()))
    }
}

/// What to do where the journal does not have what is needed.
fn incomplete(
    path: &Path,
    name: &str,
    missing: u64,
    first: Option<EventNo>,
    partial: bool,
) -> Result<(), Failure> {
    let Some(first) = first.filter(|_| missing > 0) else {
        return Ok(());
    };
    let what = format!(
        "leg {name}: the journal does not have the content of {missing} sectors (the first of event {first}); \
         a run with `record = \"all\"` (serve: --record all) has it, unless a rule corrupted it"
    );
    if partial {
        eprintln!("legwatch: {what}");
        return Ok(());
    }
    let _stays = std::fs::remove_file(path);
    Err(Failure::user(format!(
        "{what}; --partial leaves those sectors as they were"
    )))
}

/// Writes a run's events in somebody else's format.
///
/// # Errors
/// [`Failure`], if there is no such run or leg, or the output can't be written.
pub fn export(args: &ExportArgs) -> Result<u8, Failure> {
    let mut reader = open(&args.run)?;
    let text = |write: &mut dyn FnMut(&mut dyn Write) -> std::io::Result<()>| match &args.out {
        Some(path) => {
            let mut out = BufWriter::with_capacity(1 << 20, create(path)?);
            write(&mut out)
                .and_then(|()| out.flush())
                .map_err(failed(path))
        }
        None => {
            let mut out = BufWriter::with_capacity(1 << 16, std::io::stdout().lock());
            match write(&mut out) {
                // A reader that went away is no fault.
                Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
                    Err(Failure::internal(error))
                }
                _ => Ok(()),
            }
        }
    };
    match args.format {
        ExportFormat::Blktrace => text(&mut |mut out| blkparse(&mut reader, &mut out))?,
        ExportFormat::ChromeTrace => text(&mut |mut out| chrome_trace(&mut reader, &mut out))?,
        ExportFormat::LogWrites => {
            let name = args
                .leg
                .as_deref()
                .ok_or_else(|| Failure::user("log-writes is of one leg; name it with --leg"))?;
            let path: &PathBuf = args
                .out
                .as_ref()
                .ok_or_else(|| Failure::user("log-writes needs a file; name it with --out"))?;
            let leg = leg(reader.header(), name)?;
            let mut out = BufWriter::with_capacity(1 << 20, create(path)?);
            let logged =
                log_writes(&mut reader, leg, side(args.medium), &mut out).map_err(failed(path))?;
            incomplete(
                path,
                name,
                logged.missing,
                logged.first_missing,
                args.partial,
            )?;
            eprintln!("legwatch: {} entries, {}", logged.entries, path.display());
        }
    }
    Ok(0)
}

/// Builds a leg's image at a number of the sequence.
///
/// # Errors
/// [`Failure`], if there is no such run, leg or number, or the image can't be written.
pub fn image(args: &ImageArgs) -> Result<u8, Failure> {
    let mut reader = open(&args.run)?;
    let leg = leg(reader.header(), &args.leg)?;
    let bytes = reader.header().legs[leg.index()].sectors * SECTOR_BYTES as u64;
    let path = &args.out;
    let mut out = create(path)?;
    if let Some(base) = &args.base {
        let mut from = File::open(base).map_err(|error| {
            let _stays = std::fs::remove_file(path);
            Failure::user(format!("--base {} can't be read: {error}", base.display()))
        })?;
        std::io::copy(&mut from, &mut out).map_err(failed(path))?;
    }
    out.set_len(bytes).map_err(failed(path))?;
    let at = args.at.map_or(EventNo(u64::MAX), EventNo);
    let built = build(&mut reader, leg, side(args.medium), at, &out).map_err(failed(path))?;
    if built.ended && at > built.at && args.at.is_some() {
        let last = built.at;
        let _stays = std::fs::remove_file(path);
        return Err(Failure::user(format!(
            "--at {}: the journal ends at {last}",
            at.0
        )));
    }
    incomplete(
        path,
        &args.leg,
        built.missing,
        built.first_missing,
        args.partial,
    )?;
    eprintln!(
        "legwatch: leg {} at {}, {}",
        args.leg,
        built.at,
        path.display()
    );
    Ok(0)
}
