//! The folder of a campaign: results as they come, a folder for every run, and the reports at the end.
//!
//! `results.jsonl` begins with the plan; a line a run follows when it ends. After kill -9 it holds every run that had ended.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::campaign::{Partition, Plan, RunResult, Summary, junit, ktap, same, table};

/// The results' name in a campaign's folder.
const RESULTS: &str = "results.jsonl";
/// The folder of runs in it.
const RUNS: &str = "runs";
/// The longest name of a run's folder.
const NAME_MAX: usize = 120;

/// The first line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Header {
    /// What was to be run.
    pub plan: Plan,
    /// The part of it that was to be run here.
    pub partition: Option<Partition>,
}

/// Why a campaign's folder can't be read or written.
#[derive(Debug, thiserror::Error)]
pub(super) enum StoreError {
    /// It is none.
    #[error("{} is no campaign of legwatch: it has no {RESULTS}; name the folder that `legwatch test` printed", .0.display())]
    None(PathBuf),
    /// What is in it is not what it should be.
    #[error("{}: line {line} is no {what} of a campaign: {why}", .path.display())]
    Broken {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// Plan or result.
        what: &'static str,
        /// The parser's word.
        why: String,
    },
    /// Another campaign's.
    #[error("{} holds another campaign: {why}; go on with what it was begun with, or name another folder", .folder.display())]
    Other {
        /// The folder.
        folder: PathBuf,
        /// In what they differ.
        why: String,
    },
    /// It can't be used.
    #[error("{} can't be used", .path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    move |source| StoreError::Io {
        path: path.to_owned(),
        source,
    }
}

/// Whether a folder is a campaign's.
pub fn is_campaign(path: &Path) -> bool {
    path.join(RESULTS).is_file()
}

/// What a campaign's folder holds. A last line that was cut off is left out.
///
/// # Errors
/// [`StoreError`].
pub(super) fn read(folder: &Path) -> Result<(Header, Vec<RunResult>), StoreError> {
    let path = folder.join(RESULTS);
    if !path.is_file() {
        return Err(StoreError::None(folder.to_owned()));
    }
    let bytes = std::fs::read(&path).map_err(io_error(&path))?;
    let whole = bytes
        .iter()
        .rposition(|byte| *byte == b'\n')
        .map_or(0, |at| at + 1);
    let broken = |line: usize, what: &'static str, why: String| StoreError::Broken {
        path: path.clone(),
        line,
        what,
        why,
    };
    let text = std::str::from_utf8(&bytes[..whole])
        .map_err(|error| broken(1, "text", error.to_string()))?;
    let mut lines = (1..).zip(text.lines());
    let header: Header = match lines.next() {
        Some((_, line)) => {
            serde_json::from_str(line).map_err(|error| broken(1, "plan", error.to_string()))?
        }
        None => return Err(broken(1, "plan", "it is empty".into())),
    };
    let rows: BTreeSet<&str> = header
        .plan
        .rows
        .iter()
        .map(|row| row.key.as_str())
        .collect();
    let results = lines
        .map(|(number, line)| {
            let no_result = |why: String| broken(number, "result", why);
            let result: RunResult =
                serde_json::from_str(line).map_err(|error| no_result(error.to_string()))?;
            match rows.contains(result.row.as_str()) {
                true => Ok(result),
                false => Err(no_result(format!("its plan has no row {}", result.row))),
            }
        })
        .collect::<Result<_, _>>()?;
    Ok((header, results))
}

/// A campaign's folder that is written to.
#[derive(Debug)]
pub(super) struct Store {
    folder: PathBuf,
    results: File,
}

impl Store {
    /// Begins a campaign in an empty folder.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub(super) fn begin(folder: &Path, header: &Header) -> Result<Store, StoreError> {
        let path = folder.join(RESULTS);
        let runs = folder.join(RUNS);
        std::fs::create_dir(&runs).map_err(io_error(&runs))?;
        let mut results = File::create_new(&path).map_err(io_error(&path))?;
        put(&mut results, header).map_err(io_error(&path))?;
        Ok(Store {
            folder: folder.to_owned(),
            results,
        })
    }

    /// Goes on with a campaign; gives its plan and the results that it has. A kernel that was unavailable then and is not now is taken in.
    ///
    /// # Errors
    /// [`StoreError`]; another campaign's folder is left as it is.
    pub(super) fn resume(
        folder: &Path,
        now: &Header,
    ) -> Result<(Store, Plan, Vec<RunResult>), StoreError> {
        let (mut header, mut done) = read(folder)?;
        let differs = if header.partition == now.partition {
            same::differs(&header.plan, &now.plan)
        } else {
            Some("the partition differs".into())
        };
        if let Some(why) = differs {
            return Err(StoreError::Other {
                folder: folder.to_owned(),
                why,
            });
        }
        same::join(&mut header.plan, &now.plan);
        let unavailable = now.plan.rows.iter().filter(|row| row.unavailable.is_some());
        let unavailable: BTreeSet<&str> = unavailable.map(|row| row.key.as_str()).collect();
        done.retain(|result| !result.is_unavailable() || unavailable.contains(result.row.as_str()));
        let path = folder.join(RESULTS);
        let results = rewrite(&path, &header, &done).map_err(io_error(&path))?;
        let store = Store {
            folder: folder.to_owned(),
            results,
        };
        Ok((store, header.plan, done))
    }

    /// A run has ended.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub(super) fn record(&mut self, result: &RunResult) -> Result<(), StoreError> {
        put(&mut self.results, result).map_err(io_error(&self.folder.join(RESULTS)))
    }

    /// Writes the reports.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub(super) fn reports(&self, summary: &Summary) -> Result<(), StoreError> {
        reports(&self.folder, summary)
    }
}

/// Writes a campaign's reports to a folder.
///
/// # Errors
/// [`StoreError::Io`].
pub(super) fn reports(folder: &Path, summary: &Summary) -> Result<(), StoreError> {
    for (name, text) in [
        ("report.txt", table::render(summary)),
        ("report.json", summary.json()),
        ("junit.xml", junit::render(summary)),
        ("ktap.txt", ktap::render(summary)),
    ] {
        let path = folder.join(name);
        std::fs::write(&path, text).map_err(io_error(&path))?;
    }
    Ok(())
}

/// A campaign's record in the place of another, which is whole until then.
fn rewrite(path: &Path, header: &Header, results: &[RunResult]) -> io::Result<File> {
    let fresh = path.with_extension("jsonl.new");
    let mut file = File::create(&fresh)?;
    put(&mut file, header)?;
    for result in results {
        put(&mut file, result)?;
    }
    file.sync_all()?;
    std::fs::rename(&fresh, path)?;
    Ok(file)
}

/// One line, in one write: what is cut off is the last one's tail.
fn put(file: &mut File, value: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(value).expect("plain data");
    line.push(b'\n');
    file.write_all(&line)
}

/// Makes a fresh folder for a run; gives its path below the campaign's.
///
/// # Errors
/// [`StoreError::Io`].
pub(super) fn run_folder(folder: &Path, key: &str) -> Result<String, StoreError> {
    let plain = |c: char| {
        if c.is_ascii_alphanumeric() || "._+@-".contains(c) {
            c
        } else {
            '-'
        }
    };
    let name: Vec<char> = key.chars().map(plain).collect();
    // The end tells runs apart: it has the seed.
    let name: String = name[name.len().saturating_sub(NAME_MAX)..].iter().collect();
    let name = name.trim_start_matches(['-', '.']);
    for number in 1..10_000_u32 {
        let below = match number {
            1 => format!("{RUNS}/{name}"),
            more => format!("{RUNS}/{name}.{more}"),
        };
        let path = folder.join(&below);
        match std::fs::create_dir(&path) {
            Ok(()) => return Ok(below),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(source) => return Err(StoreError::Io { path, source }),
        }
    }
    Err(StoreError::Io {
        path: folder.join(RUNS).join(name),
        source: io::ErrorKind::AlreadyExists.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::campaign::plan::tests::plan;
    use crate::campaign::summary::tests::result;

    fn header() -> Header {
        Header {
            plan: plan(Some(2)),
            partition: None,
        }
    }

    #[test]
    fn results_survive_a_torn_line_and_are_gone_on_with() {
        let dir = tempfile::tempdir().unwrap();
        let header = header();
        let results: Vec<_> = header
            .plan
            .cells()
            .map(|cell| result(&header.plan, cell))
            .collect();
        let mut store = Store::begin(dir.path(), &header).unwrap();
        store.record(&results[0]).unwrap();
        store.record(&results[1]).unwrap();
        drop(store);
        let path = dir.path().join(RESULTS);
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, &text[..text.len() - 9]).unwrap();
        assert_eq!(
            read(dir.path()).unwrap(),
            (header.clone(), vec![results[0].clone()])
        );

        let other = Header {
            partition: Some(Partition { k: 1, n: 2 }),
            ..header.clone()
        };
        let refused = Store::resume(dir.path(), &other).unwrap_err().to_string();
        assert!(
            refused.contains("another campaign: the partition differs"),
            "{refused}"
        );
        let (mut store, plan, done) = Store::resume(dir.path(), &header).unwrap();
        assert_eq!((&plan, &done[..]), (&header.plan, &results[..1]));
        store.record(&results[1]).unwrap();
        assert_eq!(read(dir.path()).unwrap().1, results[..2]);
        store
            .reports(&Summary::new(header.plan, results, None))
            .unwrap();
        for name in ["report.txt", "report.json", "junit.xml", "ktap.txt"] {
            assert!(dir.path().join(name).is_file());
        }
    }

    #[test]
    fn a_kernel_that_could_not_be_had_is_taken_in_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let now = header();
        let mut lacked = header();
        lacked.plan.rows[0].version = String::new();
        lacked.plan.rows[0].unavailable = Some("unreachable".into());
        let told = RunResult::not_run(&lacked.plan, lacked.plan.cells().next().unwrap());
        let mut store = Store::begin(dir.path(), &lacked).unwrap();
        store.record(&told).unwrap();
        let resumed = |header: &Header| {
            let (_store, plan, done) = Store::resume(dir.path(), header).unwrap();
            assert_eq!(read(dir.path()).unwrap().0.plan, plan);
            (plan, done)
        };
        assert_eq!(resumed(&lacked), (lacked.plan.clone(), vec![told]));
        assert_eq!(resumed(&now), (now.plan.clone(), vec![]));
        // Gone again: what it was is known.
        assert_eq!(resumed(&lacked), (now.plan, vec![]));
    }

    #[test]
    fn what_is_no_campaign_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let text = |dir: &Path| read(dir).unwrap_err().to_string();
        assert!(text(dir.path()).contains("is no campaign of legwatch"));
        std::fs::write(dir.path().join(RESULTS), "").unwrap();
        assert!(text(dir.path()).contains("line 1 is no plan"));
        std::fs::write(dir.path().join(RESULTS), "{}\n").unwrap();
        assert!(text(dir.path()).contains("line 1 is no plan"));
    }

    #[test]
    fn runs_have_folders_of_their_own() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join(RUNS)).unwrap();
        let make = |key: &str| run_folder(dir.path(), key).unwrap();
        assert_eq!(make("quick@pinned:6.1@1"), "runs/quick@pinned-6.1@1");
        assert_eq!(make("quick@pinned:6.1@1"), "runs/quick@pinned-6.1@1.2");
        let long = make(&format!("../{}@7", "x/".repeat(300)));
        assert!(long.len() < 140 && long.ends_with("@7"), "{long}");
    }
}
