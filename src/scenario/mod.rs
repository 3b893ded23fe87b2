//! A scenario: what guest, which legs, what is done, what must come of it. A TOML file, checked whole before anything starts.
//!
//! The file's forms are in [`file`]; this module turns them into what the run uses: [`LegConfig`]s and one [`Plan`] a boot.

pub mod file;
mod size;
mod steps;

use std::path::{Path, PathBuf};

use toml::Spanned;

use crate::block::{LEGS_MAX, SECTOR_BYTES};
use crate::campaign::SuiteTable;
use crate::config::{LegConfig, MediumConfig, Record};
use crate::crypt::Key;
use crate::fault::{self, Rule};
use crate::finding::Check;
use crate::header::Expect;
use crate::plan::{Engine, PLAN_VERSION, Plan, Step, StepAction, StepKind};
use crate::scenario::file::{BootEnd, GuestFile, LegFile, ScenarioFile};

pub use size::{Size, SizeError};

/// The scenarios that every installed legwatch knows, by name.
pub const EMBEDDED: &[(&str, &str)] = &include!("embedded.rs");

/// A step's time limit in seconds when the scenario names none. Generous: emulated machines are slow, and shared ones slower.
const STEP_TIMEOUT_S: u32 = 600;

/// A scenario, checked.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Its name.
    pub name: String,
    /// What it shows and where that comes from.
    pub about: String,
    /// The key of dm-crypt devices.
    pub crypt_key: Option<Key>,
    /// The guest.
    pub guest: GuestFile,
    /// The legs, in the order of their names.
    pub legs: Vec<LegConfig>,
    /// The boots; at least one.
    pub boots: Vec<Boot>,
    /// What the legs do wrong, checked and named.
    pub rules: Vec<Rule>,
    /// For every sector so many legs stay good.
    pub good_legs: u8,
    /// What must come of it.
    pub expect: Expect,
    /// What the journal keeps.
    pub record: Record,
    /// What the suite has to know: tags, kernels that it is not for, what it has to show on others.
    pub suite: SuiteTable,
    /// The text as it was read, for the journal.
    pub text: String,
    /// Where each rule begins in it, in bytes.
    rule_starts: Vec<usize>,
}

/// One boot: its steps and how it ends.
#[derive(Clone, Debug)]
pub struct Boot {
    /// What the agent does.
    pub steps: Vec<Step>,
    /// How it ends.
    pub end: BootEnd,
}

/// Why a scenario can't be used: one sentence that says what, where, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum ScenarioError {
    /// No such file and no such embedded scenario.
    #[error("no scenario {}: it is no file, and the built-in ones are {known}", .path.display())]
    Unknown {
        /// As given.
        path: PathBuf,
        /// The embedded names.
        known: String,
    },
    /// The file can't be read.
    #[error("scenario {} can't be read", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Not TOML, an unknown key, or a value of the wrong type.
    #[error("scenario {}: {message}", .path.display())]
    Toml {
        /// The file.
        path: PathBuf,
        /// Line, column and the parser's message.
        message: String,
    },
    /// TOML, but it makes no sense.
    #[error("scenario {}: {message}", .path.display())]
    Sense {
        /// The file.
        path: PathBuf,
        /// What, where, what to do.
        message: String,
    },
}

impl Scenario {
    /// Reads a scenario from a file, or, if there is none of that path, the embedded one of that name.
    ///
    /// # Errors
    /// [`ScenarioError`], before anything was started or written.
    pub fn load(path: &Path) -> Result<Scenario, ScenarioError> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => match embedded(path) {
                Some(text) => text.to_owned(),
                None => {
                    let known = EMBEDDED
                        .iter()
                        .map(|(name, _)| *name)
                        .collect::<Vec<_>>()
                        .join(", ");
                    return Err(ScenarioError::Unknown {
                        path: path.to_owned(),
                        known,
                    });
                }
            },
            Err(source) => {
                return Err(ScenarioError::Read {
                    path: path.to_owned(),
                    source,
                });
            }
        };
        Scenario::parse(&text, path)
    }

    /// Reads a scenario from its text; `path` is for messages.
    ///
    /// # Errors
    /// [`ScenarioError::Toml`] and [`ScenarioError::Sense`].
    pub fn parse(text: &str, path: &Path) -> Result<Scenario, ScenarioError> {
        let file: ScenarioFile = toml::from_str(text).map_err(|error| ScenarioError::Toml {
            path: path.to_owned(),
            message: toml_message(&error, text),
        })?;
        resolve(file, text).map_err(|message| ScenarioError::Sense {
            path: path.to_owned(),
            message,
        })
    }

    /// The plan of one boot, for the agent.
    ///
    /// # Panics
    /// If `boot` (from 1) is none of the scenario's.
    pub fn plan(&self, boot: u32, run: u64, seed: u64) -> Plan {
        let at = usize::try_from(boot).expect("a small number") - 1;
        Plan {
            version: PLAN_VERSION,
            run,
            seed,
            boot,
            legs: self.legs.iter().map(|leg| leg.name.clone()).collect(),
            crypt_key: self.crypt_key,
            woken: None,
            steps: self.boots[at].steps.clone(),
        }
    }
}

/// The parser's message on one line, with the line and column that it is about.
fn toml_message(error: &toml::de::Error, text: &str) -> String {
    let message = error.message().lines().map(str::trim).collect::<Vec<_>>();
    let mut message = message.join(", ");
    if message.contains("unit variant, expected newtype variant") {
        // The parser's words are about how the program is made.
        message = "it can't stand alone: it has settings, as in do = { delay = { ms = 5 } }; docs/faults.md tells which".into();
    }
    match error.span().and_then(|span| text.get(..span.start)) {
        Some(before) => {
            let line = before.matches('\n').count() + 1;
            let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
            format!("line {line}, column {column}: {message}")
        }
        None => message,
    }
}

fn embedded(path: &Path) -> Option<&'static str> {
    let name = path.to_str()?;
    EMBEDDED
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, text)| *text)
}

fn resolve(file: ScenarioFile, text: &str) -> Result<Scenario, String> {
    if file.legs.is_empty() {
        return Err("no legs; add a [legs.a] with a size".into());
    }
    if file.legs.len() > LEGS_MAX {
        return Err(format!(
            "{} legs; at most {LEGS_MAX} are served",
            file.legs.len()
        ));
    }
    let legs = file
        .legs
        .iter()
        .map(|(name, leg)| leg_config(name, leg, file.crypt_key))
        .collect::<Result<Vec<_>, _>>()?;
    file.guest.check()?;
    file.suite.check()?;
    let starts: Vec<usize> = file.fault.iter().map(|rule| rule.span().start).collect();
    let rules = rules(file.fault, &legs, text)?;
    let good_legs = file.budget.good_legs;
    if usize::from(good_legs) >= legs.len() {
        let why = format!(
            "budget: good_legs = {good_legs} of {} legs lets no fault happen",
            legs.len()
        );
        return Err(at_key(text, &["budget", "good_legs"], &why));
    }
    let mut targets = steps::Targets::default();
    let mut boots = Vec::new();
    let first = file::BootFile {
        setup: file.setup,
        workload: file.workload,
        check: file.check,
        end: file.end,
    };
    for (at, boot) in std::iter::once(first).chain(file.boot).enumerate() {
        let number = at + 1;
        let mut steps = Vec::new();
        let kinds = [
            (StepKind::Setup, "setup", boot.setup),
            (StepKind::Workload, "workload", boot.workload),
            (StepKind::Check, "check", boot.check),
        ];
        for (kind, word, list) in kinds {
            for (place, step) in list.into_iter().enumerate() {
                let place = format!("boot {number}, {word} step {}", place + 1);
                steps.push(
                    targets
                        .step(kind, step)
                        .map_err(|why| format!("{place}: {why}"))?,
                );
            }
        }
        if boot.end == BootEnd::PowerOff {
            steps.push(Step {
                kind: StepKind::Check,
                name: "last quiet point".into(),
                action: StepAction::Quiet {
                    timeout_s: STEP_TIMEOUT_S,
                },
                background: false,
            });
        }
        boots.push(Boot {
            steps,
            end: boot.end,
        });
    }
    if !boots
        .iter()
        .flat_map(|boot| &boot.steps)
        .any(|step| step.kind == StepKind::Workload)
    {
        return Err("no [[workload]] step; a scenario that writes nothing shows nothing".into());
    }
    steps::check_read_backs(&boots)?;
    let known = |name: &str| Check::LEGS.iter().any(|check| check.name() == name);
    if let Some(name) = file.expect.triggered.iter().find(|name| !known(name)) {
        return Err(format!(
            "[expect] triggered: there is no check `{name}`; docs/checks.md lists them"
        ));
    }
    let is_deviation = |id: &str| crate::oracle::known::entries().iter().any(|e| e.id == id);
    if let Some(id) = file.expect.known.iter().find(|id| !is_deviation(id)) {
        return Err(format!(
            "[expect] known: vm/known.toml has no entry `{id}`; docs/checks.md lists them"
        ));
    }
    let names = |boot: &Boot| boot.steps.iter().map(|step| step.name.clone()).collect();
    let steps: Vec<Vec<String>> = boots.iter().map(names).collect();
    fault::check_steps(&rules, &steps).map_err(|(at, why)| at_line(text, starts.get(at), &why))?;
    check_expect(&file.expect, &legs, &rules, &boots, text)?;
    Ok(Scenario {
        name: file.name,
        about: file.about,
        crypt_key: file.crypt_key,
        guest: file.guest,
        legs,
        boots,
        rules,
        good_legs,
        expect: file.expect,
        record: file.record,
        suite: file.suite,
        text: text.to_owned(),
        rule_starts: starts,
    })
}

/// Whether what is expected can come at all.
fn check_expect(
    expect: &Expect,
    legs: &[LegConfig],
    rules: &[Rule],
    boots: &[Boot],
    text: &str,
) -> Result<(), String> {
    if let Some(name) = expect
        .legs
        .keys()
        .find(|name| legs.iter().all(|leg| leg.name != **name))
    {
        let names: Vec<&str> = legs.iter().map(|leg| leg.name.as_str()).collect();
        let names = names.join(", ");
        let why = format!("[expect] legs: unknown leg `{name}`; the legs are {names}");
        return Err(at_key(text, &["expect", "legs", name], &why));
    }
    if let Some(name) = expect
        .noticed
        .iter()
        .find(|name| rules.iter().all(|rule| rule.name != **name))
    {
        let why = format!("[expect] noticed: there is no fault `{name}`");
        return Err(at_key(text, &["expect", "noticed"], &why));
    }
    let takes_none = legs.iter().all(|leg| !leg.discard);
    if expect.min_discards > 0 && takes_none {
        let why = "[expect] min_discards: no leg takes discards";
        return Err(at_key(text, &["expect", "min_discards"], why));
    }
    let mut steps = boots.iter().flat_map(|boot| &boot.steps);
    let waits = steps.all(|step| {
        !matches!(&step.action, StepAction::Write(load) if load.engine == Engine::IoUringNowait)
    });
    if expect.min_refused > 0 && waits {
        let why = "[expect] min_refused: no write step has engine = \"io-uring-nowait\"";
        return Err(at_key(text, &["expect", "min_refused"], why));
    }
    let told = |name: &str| {
        let mut steps = boots.iter().flat_map(|boot| &boot.steps);
        // The agent tells facts of its own; those have a dot in their names.
        name.contains('.')
            || steps.any(
                |step| matches!(&step.action, StepAction::Fact { name: told, .. } if told == name),
            )
    };
    if let Some(name) = expect.facts.keys().find(|name| !told(name)) {
        let why = format!("[expect] facts: no step tells the fact `{name}`");
        return Err(at_key(text, &["expect", "facts", name], &why));
    }
    Ok(())
}

/// Names and checks the rules; what is wrong is told with its line.
fn rules(list: Vec<Spanned<Rule>>, legs: &[LegConfig], text: &str) -> Result<Vec<Rule>, String> {
    let starts: Vec<usize> = list.iter().map(|rule| rule.span().start).collect();
    let mut rules: Vec<Rule> = list.into_iter().map(Spanned::into_inner).collect();
    fault::name_all(&mut rules);
    fault::check(&rules, legs).map_err(|(at, why)| at_line(text, starts.get(at), &why))?;
    Ok(rules)
}

fn at_line(text: &str, start: Option<&usize>, why: &str) -> String {
    let line = line_of(text, start.copied().unwrap_or(0));
    format!("line {line}: {why}")
}

/// The same, with the line of a key's value.
fn at_key(text: &str, path: &[&str], why: &str) -> String {
    let find = || {
        let mut table = toml::de::DeTable::parse(text).ok()?.into_inner();
        let (last, tables) = path.split_last()?;
        for name in tables {
            let toml::de::DeValue::Table(inner) = table.remove(*name)?.into_inner() else {
                return None;
            };
            table = inner;
        }
        Some(table.get(*last)?.span().start)
    };
    match find() {
        Some(start) => at_line(text, Some(&start), why),
        None => why.to_owned(),
    }
}

fn line_of(text: &str, start: usize) -> usize {
    let before = &text.as_bytes()[..start.min(text.len())];
    before.iter().filter(|byte| **byte == b'\n').count() + 1
}

/// Rules from a file of their own: `[[fault]]` tables and nothing else.
///
/// # Errors
/// One sentence, with the line.
pub fn rules_of(text: &str, legs: &[LegConfig]) -> Result<Vec<Rule>, String> {
    rules(parse_rules(text)?, legs, text)
}

/// The same where QEMU is somebody else's: what only its owner can do is refused. `alone` are the steps' names if nobody can reach in by hand.
///
/// # Errors
/// One sentence, with the line.
pub fn rules_without_qemu(
    text: &str,
    legs: &[LegConfig],
    alone: Option<&[String]>,
) -> Result<Vec<Rule>, String> {
    let list = parse_rules(text)?;
    let starts: Vec<usize> = list.iter().map(|rule| rule.span().start).collect();
    let rules = rules(list, legs, text)?;
    if let Some(at) = fault::needs_qemu(&rules) {
        return Err(at_line(text, starts.get(at), &fault::no_qemu(&rules[at])));
    }
    if let Some(steps) = alone {
        let steps = [steps.to_vec()];
        fault::check_steps(&rules, &steps)
            .and_then(|()| fault::check_alone(&rules, &steps))
            .map_err(|(at, why)| at_line(text, starts.get(at), &why))?;
    }
    Ok(rules)
}

/// Rules that will be checked together with others, and the line of each.
///
/// # Errors
/// What is no rule, with the line.
pub fn rules_and_lines(text: &str) -> Result<(Vec<Rule>, Vec<usize>), String> {
    let list = parse_rules(text)?;
    let lines = list.iter().map(|rule| line_of(text, rule.span().start));
    let lines = lines.collect();
    Ok((list.into_iter().map(Spanned::into_inner).collect(), lines))
}

fn parse_rules(text: &str) -> Result<Vec<Spanned<Rule>>, String> {
    #[derive(serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct File {
        #[serde(default)]
        fault: Vec<Spanned<Rule>>,
    }
    let file: File = toml::from_str(text).map_err(|error| toml_message(&error, text))?;
    Ok(file.fault)
}

impl Scenario {
    /// Whether its rules make sense where nobody can reach in by hand (no `--control`); `path` is where it was read.
    ///
    /// # Errors
    /// [`ScenarioError::Sense`], with the line.
    pub fn check_alone(&self, path: &Path) -> Result<(), ScenarioError> {
        let names = |boot: &Boot| boot.steps.iter().map(|step| step.name.clone()).collect();
        let steps: Vec<Vec<String>> = self.boots.iter().map(names).collect();
        fault::check_alone(&self.rules, &steps).map_err(|(at, why)| ScenarioError::Sense {
            path: path.to_owned(),
            message: at_line(&self.text, self.rule_starts.get(at), &why),
        })
    }
}

impl GuestFile {
    /// Whether its numbers make sense.
    ///
    /// # Errors
    /// What does not, and what would.
    pub fn check(&self) -> Result<(), String> {
        if !(1..=16).contains(&self.smp) {
            return Err(format!(
                "a guest of {} virtual CPUs (smp); use 1 to 16",
                self.smp
            ));
        }
        if !(128..=65_536).contains(&self.memory_mib) {
            return Err(format!(
                "a guest of {} MiB (memory_mib); use 128 to 65536",
                self.memory_mib
            ));
        }
        Ok(())
    }
}

fn leg_config(name: &str, leg: &LegFile, key: Option<Key>) -> Result<LegConfig, String> {
    if leg.crypt && key.is_none() {
        return Err(format!(
            "leg {name}: crypt = true, but the scenario has no crypt_key"
        ));
    }
    let medium = match (&leg.size, &leg.file) {
        (Some(size), None) => MediumConfig::Mem {
            bytes: size.bytes(),
        },
        (None, Some(path)) => MediumConfig::File { path: path.clone() },
        (None, None) => return Err(format!("leg {name}: give it a size (memory) or a file")),
        (Some(_), Some(_)) => {
            return Err(format!(
                "leg {name}: size and file at once; a file has its own size"
            ));
        }
    };
    let config = LegConfig {
        medium,
        block_size: leg.block_size,
        queues: leg.queues,
        read_only: leg.read_only,
        write_cache: leg.write_cache,
        // dm-crypt passes neither on (as it is used here), and zeros that the device makes would be no plaintext.
        discard: leg.discard && !leg.crypt,
        write_zeroes: leg.write_zeroes && !leg.crypt,
        delay_ms: leg.delay_ms,
        write_delay_ms: leg.write_delay_ms,
        late_fetch: leg.late_fetch,
        packed: leg.packed,
        event_idx: leg.event_idx,
        indirect: leg.indirect,
        data: leg.data.map(|span| span.0),
        part: leg.part.map(|span| span.0),
        crypt: key.filter(|_| leg.crypt),
        ..LegConfig::memory(name, 0)
    };
    config.check()?;
    if let MediumConfig::Mem { bytes } = config.medium {
        let sectors = bytes / SECTOR_BYTES as u64;
        for (word, range) in [("data", config.data), ("part", config.part)] {
            if range.is_some_and(|range| range.end().0 > sectors) {
                return Err(format!(
                    "leg {name}: {word} ends behind its {sectors} sectors"
                ));
            }
        }
    }
    Ok(config)
}

#[cfg(test)]
mod tests;
