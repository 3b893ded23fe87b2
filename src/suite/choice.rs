//! Which scenarios and kernels a campaign is made of, as the user named them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::glob;
use crate::cache::Cache;
use crate::campaign::museum::{self, Bug};
use crate::campaign::plan::VERSION;
use crate::campaign::{Plan, Row};
use crate::failure::Failure;
use crate::kernel;
use crate::release;
use crate::scenario::{EMBEDDED, Scenario, ScenarioError};

/// Why a campaign can't be made.
#[derive(Debug, thiserror::Error)]
pub enum ChoiceError {
    /// A scenario.
    #[error(transparent)]
    Scenario(#[from] ScenarioError),
    /// A folder.
    #[error("the folder {} can't be read", .path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A folder without scenarios.
    #[error("the folder {} holds no scenario: no file in it ends in .toml", .0.display())]
    NoneThere(PathBuf),
    /// A pattern that no name is like.
    #[error("no built-in scenario has a name like `{0}`; `legwatch test --list` tells their names")]
    NoneLike(String),
    /// Two scenarios of one name.
    #[error("two scenarios are named {name}: {} and {}; give one of them another name", .first.display(), .second.display())]
    Twins {
        /// The name.
        name: String,
        /// The one.
        first: PathBuf,
        /// The other.
        second: PathBuf,
    },
    /// No scenario has the tags.
    #[error("no scenario has {tags}; there are the tags {known}")]
    NoTag {
        /// What was asked for.
        tags: String,
        /// Those that there are.
        known: String,
    },
    /// No such bug.
    #[error("the museum has no bug `{name}`; it has {known}")]
    NoBug {
        /// As given.
        name: String,
        /// Those that there are.
        known: String,
    },
}

/// A scenario, and how `legwatch run` is told of it.
#[derive(Clone, Debug)]
pub struct Chosen {
    /// For the run's command line.
    pub path: PathBuf,
    /// What it says.
    pub scenario: Scenario,
}

/// The scenarios of these paths: files, folders of them, names of built-in ones or patterns of such names; none: all built-in ones.
///
/// # Errors
/// [`ChoiceError`].
pub fn scenarios(
    paths: &[PathBuf],
    tags: &[String],
    not: &[String],
) -> Result<Vec<Chosen>, ChoiceError> {
    let mut files: Vec<PathBuf> = Vec::new();
    if paths.is_empty() {
        files.extend(EMBEDDED.iter().map(|(name, _)| PathBuf::from(name)));
    }
    for path in paths {
        let name = path.to_string_lossy();
        if path.is_dir() {
            files.extend(folder(path)?);
        } else if glob::is_pattern(&name) && !path.exists() {
            let known = EMBEDDED.iter().map(|(known, _)| *known);
            let like: Vec<PathBuf> = known
                .filter(|known| glob::matches(&name, known))
                .map(PathBuf::from)
                .collect();
            if like.is_empty() {
                return Err(ChoiceError::NoneLike(name.into_owned()));
            }
            files.extend(like);
        } else {
            files.push(path.clone());
        }
    }
    let mut all: Vec<Chosen> = Vec::new();
    for path in files {
        let scenario = Scenario::load(&path)?;
        scenario.check_alone(&path)?;
        match all.iter().find(|one| one.scenario.name == scenario.name) {
            // The same one named twice is one.
            Some(one) if one.scenario.text == scenario.text => {}
            Some(one) => {
                return Err(ChoiceError::Twins {
                    name: scenario.name,
                    first: one.path.clone(),
                    second: path,
                });
            }
            None => all.push(Chosen { path, scenario }),
        }
    }
    let known: std::collections::BTreeSet<String> = all
        .iter()
        .flat_map(|one| one.scenario.suite.tags.clone())
        .collect();
    let has = |one: &Chosen, tags: &[String]| {
        one.scenario.suite.tags.iter().any(|tag| tags.contains(tag))
    };
    all.retain(|one| (tags.is_empty() || has(one, tags)) && !has(one, not));
    if all.is_empty() {
        let wanted = |tags: &[String], word: &str| match tags {
            [] => String::new(),
            tags => format!("{word} {}", tags.join(", ")),
        };
        return Err(ChoiceError::NoTag {
            tags: [wanted(tags, "the tag"), wanted(not, "not the tag")]
                .into_iter()
                .filter(|words| !words.is_empty())
                .collect::<Vec<_>>()
                .join(" and "),
            known: known.into_iter().collect::<Vec<_>>().join(", "),
        });
    }
    Ok(all)
}

/// The scenarios' files of a folder, by name.
fn folder(path: &Path) -> Result<Vec<PathBuf>, ChoiceError> {
    let unreadable = |source| ChoiceError::Folder {
        path: path.to_owned(),
        source,
    };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).map_err(unreadable)? {
        let file = entry.map_err(unreadable)?.path();
        if file
            .extension()
            .is_some_and(|extension| extension == "toml")
        {
            files.push(file);
        }
    }
    if files.is_empty() {
        return Err(ChoiceError::NoneThere(path.to_owned()));
    }
    files.sort();
    Ok(files)
}

/// The museum's bugs of these names or patterns of names, each once; none: all.
///
/// # Errors
/// [`ChoiceError::NoBug`].
pub fn bugs(names: &[PathBuf]) -> Result<Vec<Bug>, ChoiceError> {
    let all = museum::bugs();
    if names.is_empty() {
        return Ok(all);
    }
    let mut chosen: Vec<Bug> = Vec::new();
    for name in names {
        let name = name.to_string_lossy();
        let mut like = all
            .iter()
            .filter(|bug| glob::matches(&name, &bug.id))
            .peekable();
        if like.peek().is_none() {
            return Err(ChoiceError::NoBug {
                name: name.into_owned(),
                known: all
                    .iter()
                    .map(|bug| bug.id.as_str())
                    .collect::<Vec<_>>()
                    .join(", "),
            });
        }
        // The same one named twice is one.
        for bug in like {
            if !chosen.contains(bug) {
                chosen.push(bug.clone());
            }
        }
    }
    Ok(chosen)
}

/// Versions of kernels by their names, each fetched once; a kernel that can't be had now is kept with the reason.
#[derive(Debug, Default)]
pub struct Kernels {
    had: BTreeMap<String, Result<String, String>>,
}

impl Kernels {
    /// Fetches a kernel, unless it was before, and tells its version.
    ///
    /// # Errors
    /// [`Failure`], if the user named none.
    pub fn get(&mut self, name: &str, cache: &Cache) -> Result<&Result<String, String>, Failure> {
        if !self.had.contains_key(name) {
            let had = match kernel::resolve(name, cache).map_err(Failure::from) {
                Ok(kernel) => Ok(kernel.version().to_owned()),
                Err(failure @ Failure::Inconclusive(_)) => Err(failure.to_string()),
                Err(failure) => return Err(failure),
            };
            self.had.insert(name.to_owned(), had);
        }
        Ok(&self.had[name])
    }

    fn fill(&self, row: &mut Row) {
        match self.had.get(&row.kernel) {
            Some(Ok(version)) => version.clone_into(&mut row.version),
            Some(Err(why)) => row.unavailable = Some(why.clone()),
            None => unreachable!("kernels are fetched before rows are made"),
        }
    }
}

/// The rows of scenarios times kernels. With `no_expect` all of them are held to a clean run, and still not run where a scenario is not for the kernel.
pub fn rows(chosen: &[Chosen], names: &[String], kernels: &Kernels, no_expect: bool) -> Vec<Row> {
    let mut rows = Vec::new();
    for one in chosen {
        let scenario = &one.scenario;
        let mut seen: Vec<&String> = Vec::new();
        for kernel in names {
            if seen.contains(&kernel) {
                continue;
            }
            seen.push(kernel);
            let mut row = Row {
                key: format!("{}@{kernel}", scenario.name),
                scenario: scenario.name.clone(),
                path: one.path.to_string_lossy().into_owned(),
                kernel: kernel.clone(),
                version: String::new(),
                text_crc32: Some(text_crc32(scenario)),
                expect: crate::campaign::Expectation::clean(),
                skip: None,
                unavailable: None,
                tries: 1,
            };
            kernels.fill(&mut row);
            // A kernel that tells no numbers (a tree of one's own may) is held to nothing special.
            if let Some(release) = release::numbers(&row.version) {
                row.skip = scenario.suite.skips(release).map(str::to_owned);
                if !no_expect {
                    row.expect = scenario.suite.expects(release);
                }
            }
            rows.push(row);
        }
    }
    rows
}

fn text_crc32(scenario: &Scenario) -> u32 {
    crc32fast::hash(scenario.text.as_bytes())
}

/// The rows of the museum's bugs.
///
/// # Errors
/// A file in the current folder is named as a bug's scenario, and is none.
pub fn museum_rows(bugs: &[Bug], kernels: &Kernels) -> Result<Vec<Row>, ScenarioError> {
    let mut rows: Vec<Row> = bugs.iter().flat_map(Bug::rows).collect();
    for row in &mut rows {
        row.text_crc32 = Some(text_crc32(&Scenario::load(Path::new(&row.path))?));
        kernels.fill(row);
    }
    Ok(rows)
}

/// The plan of these rows.
pub fn plan(rows: Vec<Row>, seed: u64, repeat: Option<u64>, options: Vec<String>) -> Plan {
    Plan {
        version: VERSION,
        legwatch: Some(env!("CARGO_PKG_VERSION").to_owned()),
        rows,
        seed,
        repeat,
        options,
    }
}

/// A time as people write it: `90s`, `10m`, `2h`, `1h30m`.
///
/// # Errors
/// One sentence.
pub fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is no time; write 90s, 10m, 2h or 1h30m");
    let mut rest = text;
    let mut seconds: u64 = 0;
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let number: u64 = rest[..digits].parse().map_err(|_| wrong())?;
        let unit = match rest[digits..].chars().next() {
            Some('s') => 1,
            Some('m') => 60,
            Some('h') => 3600,
            _ => return Err(wrong()),
        };
        seconds = number
            .checked_mul(unit)
            .and_then(|more| seconds.checked_add(more))
            .ok_or_else(wrong)?;
        rest = &rest[digits + 1..];
    }
    if seconds == 0 || seconds > 366 * 24 * 3600 {
        return Err(wrong());
    }
    Ok(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::Check;
    use crate::plan::StepKind;

    #[test]
    fn times_are_read() {
        for (text, seconds) in [("90s", 90), ("10m", 600), ("2h", 7200), ("1h30m", 5400)] {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)));
        }
        for bad in [
            "",
            "10",
            "m",
            "0s",
            "1d",
            "-1m",
            "99999999999999999999h",
            "5µs",
        ] {
            assert!(duration(bad).unwrap_err().contains("is no time"), "{bad}");
        }
    }

    #[test]
    fn scenarios_come_from_names_files_and_folders() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        let small = "name = \"one\"\nabout = \"x\"\n[suite]\ntags = [\"slow\"]\n[legs.a]\nsize = \"1M\"\n\
                     [[workload]]\nwrite = { device = \"/dev/md0\", writes = 1 }\n";
        write("b.toml", small);
        write("readme", "no scenario");
        let paths = [dir.path().to_owned(), "raid1".into(), "raid1".into()];
        let names = |tags: &[&str], not: &[&str]| -> Result<Vec<String>, String> {
            let owned = |words: &[&str]| {
                words
                    .iter()
                    .map(|word| (*word).to_owned())
                    .collect::<Vec<_>>()
            };
            scenarios(&paths, &owned(tags), &owned(not))
                .map(|all| all.into_iter().map(|one| one.scenario.name).collect())
                .map_err(|error| error.to_string())
        };
        assert_eq!(names(&[], &[]).unwrap(), ["one", "raid1"]);
        assert_eq!(names(&["slow"], &[]).unwrap(), ["one"]);
        assert_eq!(names(&[], &["slow"]).unwrap(), ["raid1"]);
        let none = names(&["fast"], &[]).unwrap_err();
        assert!(none.contains("no scenario has the tag fast"), "{none}");
        write("a.toml", &small.replace("\"x\"", "\"y\""));
        assert!(
            names(&[], &[])
                .unwrap_err()
                .contains("two scenarios are named one")
        );
        assert_eq!(scenarios(&[], &[], &[]).unwrap().len(), EMBEDDED.len());
        assert!(
            bugs(&["nothing".into()])
                .unwrap_err()
                .to_string()
                .contains("write-behind-reads")
        );
    }

    #[test]
    fn names_may_be_patterns() {
        let names = |patterns: &[&str]| -> Result<Vec<String>, String> {
            let paths: Vec<PathBuf> = patterns.iter().map(PathBuf::from).collect();
            scenarios(&paths, &[], &[])
                .map(|all| all.into_iter().map(|one| one.scenario.name).collect())
                .map_err(|error| error.to_string())
        };
        // One that two patterns name is one.
        assert_eq!(
            names(&["stack-?fs", "kill-*", "*-in-load", "raid1"]).unwrap(),
            ["stack-xfs", "kill-in-load", "kill-no-bitmap", "raid1"]
        );
        assert_eq!(
            names(&["raid1", "stak-*"]).unwrap_err(),
            "no built-in scenario has a name like `stak-*`; `legwatch test --list` tells their names"
        );
        let of = |patterns: &[&str]| -> Vec<String> {
            let paths: Vec<PathBuf> = patterns.iter().map(PathBuf::from).collect();
            bugs(&paths)
                .unwrap()
                .into_iter()
                .map(|bug| bug.id)
                .collect()
        };
        assert_eq!(
            of(&["nowait-*", "nowait-pending", "K?"])[..3],
            ["nowait-pending", "nowait-pending-6.1", "K9"]
        );
        bugs(&["k*".into()]).unwrap_err();
    }

    /// What is said of a failing step is the name of one of the scenario's check steps.
    fn names_a_step(scenario: &Scenario, check: Option<Check>, says: Option<&str>) {
        let steps = scenario.boots.iter().flat_map(|boot| &boot.steps);
        let mut checks = steps.filter(|step| step.kind == StepKind::Check);
        assert!(
            check != Some(Check::CheckStep) || checks.any(|step| Some(step.name.as_str()) == says),
            "{}: no check step is named {says:?}",
            scenario.name
        );
    }

    #[test]
    fn every_failing_step_that_is_expected_is_one_of_the_scenarios() {
        for one in scenarios(&[], &[], &[]).unwrap() {
            for expected in &one.scenario.suite.expect {
                names_a_step(&one.scenario, expected.check, expected.says.as_deref());
            }
        }
    }

    #[test]
    fn every_bug_of_the_museum_has_its_scenario() {
        for bug in museum::bugs() {
            let scenario = Scenario::load(Path::new(&bug.scenario)).unwrap();
            names_a_step(&scenario, bug.check, bug.says.as_deref());
            let tags = &scenario.suite.tags;
            assert!(tags.iter().any(|tag| tag == "museum"), "{}", scenario.name);
            for kernel in bug.kernels() {
                kernel.parse::<kernel::Spec>().unwrap();
            }
        }
    }
}
