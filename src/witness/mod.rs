//! The witness: legs, sequence, journal and checker in one process.
//!
//! The device's workers put events into the sequence; one thread takes them out in the order of their numbers, writes them to the journal, and
//! folds them into the checker. What the checker learns (data areas) goes back to the device; what it wants to show in a finding (contents)
//! is read from the legs and becomes an event itself, so that a later check of the journal sees the same.

pub mod goes_on;
mod news;
pub mod process;
mod watching;
pub mod wire;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::thread::JoinHandle;
use std::time::Duration;

use crate::ahead::Ahead;
use crate::block::LegId;
use crate::clock;
use crate::ctl::server::Server;
use crate::device::{Device, GoesOn, Options, StartError};
use crate::event::{EventNo, GuestEnd, What};
use crate::failure::Failure;
use crate::header::{LegHead, RuleHead, RunHeader};
use crate::journal;
use crate::judge::Judge;
use crate::oracle::Verdict;
use crate::plan::Plan;
use crate::recorded::{self, JOURNAL, RecordedError};
use crate::report;
use crate::report::text::Style;
use crate::sequence::{Collector, Sequence, Tap};
use crate::watch::{OPTION, Part, Watch};
use crate::witness::goes_on::GoOnError;
use crate::witness::news::News;
use crate::witness::watching::{Watching, is_told, show};
use crate::witness::wire::{GoOn, Live, Notice, Summary, WitnessConfig};

/// Why the witness can't start or finish.
#[derive(Debug, thiserror::Error)]
pub enum WitnessError {
    /// A leg or a socket can't be had.
    #[error(transparent)]
    Device(#[from] StartError),
    /// What a leg holds can't be read.
    #[error("leg {leg}: its content can't be read")]
    Initial {
        /// Its name.
        leg: String,
        /// Why.
        source: std::io::Error,
    },
    /// The journal can't be written.
    #[error("the journal {} can't be written", .path.display())]
    Journal {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The report can't be written.
    #[error("the report {} can't be written", .path.display())]
    Report {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A plan is larger than the control leg's place for it.
    #[error("the plan of boot {boot} is too large: {bytes} bytes; use fewer steps")]
    Plan {
        /// The boot.
        boot: u32,
        /// Its plan's size.
        bytes: usize,
    },
    /// The run of a killed witness can't go on.
    #[error(transparent)]
    GoOn(#[from] GoOnError),
    /// There is no place for what is ahead of the journal.
    #[error("{} can't be used to keep events", .path.display())]
    Ahead {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The checker's thread gave up, in its own words.
    #[error("{0}")]
    Gone(String),
    /// The control socket can't be had.
    #[error(transparent)]
    Control(#[from] crate::ctl::server::ServerError),
    /// A thread can't be had.
    #[error("no thread for the checker")]
    Thread(#[source] std::io::Error),
}

impl From<WitnessError> for Failure {
    fn from(error: WitnessError) -> Failure {
        match error {
            WitnessError::Thread(_) => Failure::internal(error),
            WitnessError::Device(_)
            | WitnessError::Control(_)
            | WitnessError::Initial { .. }
            | WitnessError::Journal { .. }
            | WitnessError::Report { .. }
            | WitnessError::GoOn(_)
            | WitnessError::Ahead { .. }
            | WitnessError::Gone(_)
            | WitnessError::Plan { .. } => Failure::user(error),
        }
    }
}

/// The running witness.
#[derive(Debug)]
pub struct Witness {
    device: Arc<Device>,
    control: Option<Server>,
    tap: Tap,
    finishing: Arc<AtomicBool>,
    catching_up: Arc<AtomicBool>,
    checking: JoinHandle<Result<Verdict, WitnessError>>,
    out: PathBuf,
    header: Arc<RunHeader>,
    names: Vec<String>,
    /// Whether the run's end was on record when it was taken up.
    ended: bool,
}

/// What a witness found that takes up the run of one that was killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WentOn {
    /// The boot whose guest has not ended, if there is one.
    pub guest: Option<u32>,
    /// What the supervisor told that is on record.
    pub told: u64,
    /// Events that the journal lacked and that were kept.
    pub kept: u64,
    /// Events that are missing.
    pub missing: u64,
}

/// A run that is about to be watched, anew or again.
struct Begun {
    header: Arc<RunHeader>,
    judge: Judge,
    journal: journal::Writer<File>,
    news: News,
    told: u64,
    ended: bool,
}

impl Begun {
    fn run(
        self,
        config: &WitnessConfig,
        device: Device,
        sequence: &Sequence,
        collector: Collector,
    ) -> Result<Witness, WitnessError> {
        let device = Arc::new(device);
        let finishing = Arc::new(AtomicBool::new(false));
        let catching_up = Arc::new(AtomicBool::new(false));
        let watched = Watch::parse(&config.watch).unwrap_or_default();
        let watch = Watching {
            collector,
            journal: self.journal,
            keeps: watched.has(Part::Journal),
            path: config.out.join(JOURNAL),
            judge: self.judge,
            device: device.clone(),
            finishing: finishing.clone(),
            catching_up: catching_up.clone(),
            news: self.news,
            live: Live {
                completed: vec![0; config.legs.len()],
                in_flight: vec![0; config.legs.len()],
                told: self.told,
                ..Live::default()
            },
            cut: false,
            last: sequence.last(),
            flushed: clock::now(),
            told: clock::now(),
        };
        // Before the checker runs: with it the device would outlive the refusal, and the sockets too.
        let control = match &config.control {
            Some(path) => Some(Server::start(
                path,
                device.clone(),
                config.legs.clone(),
                sequence,
            )?),
            None => None,
        };
        let checking = std::thread::Builder::new()
            .name("checker".into())
            .spawn(move || watch.run())
            .map_err(WitnessError::Thread)?;
        Ok(Witness {
            control,
            tap: sequence.tap(),
            finishing,
            catching_up,
            checking,
            out: config.out.clone(),
            header: self.header,
            names: config.legs.iter().map(|leg| leg.name.clone()).collect(),
            device,
            ended: self.ended,
        })
    }
}

fn start_device(
    config: &WitnessConfig,
    goes_on: Option<GoesOn>,
    sequence: &Sequence,
) -> Result<Device, StartError> {
    let options = Options {
        record: config.record,
        watch: Watch::parse(&config.watch).unwrap_or_default(),
        seed: config.seed,
        rules: config.rules.clone(),
        good_legs: config.good_legs,
        memory: config.memory.clone(),
        goes_on,
        ..Options::default()
    };
    let device = Device::start(&config.legs, &config.sockets, &options, sequence)?;
    let names =
        |boot: &Vec<crate::header::StepHead>| boot.iter().map(|step| step.name.clone()).collect();
    device
        .faults()
        .set_steps(config.steps.iter().map(names).collect());
    Ok(device)
}

/// Lets the agent find its plan on the control leg.
fn set_plan(device: &Device, plan: &Plan) -> Result<(), WitnessError> {
    let json = serde_json::to_vec(plan).expect("a plan is plain data");
    if device.set_plan(&json) {
        return Ok(());
    }
    Err(WitnessError::Plan {
        boot: plan.boot,
        bytes: json.len(),
    })
}

impl Witness {
    /// Opens legs and sockets, begins the journal, and starts to watch. Notices go to `notices`; nobody need listen.
    ///
    /// # Errors
    /// [`WitnessError`]; nothing is left running then.
    pub fn start(config: &WitnessConfig, notices: Sender<Notice>) -> Result<Witness, WitnessError> {
        let ahead = match &config.ahead {
            Some(path) => Some(Ahead::create(path, config.legs.len()).map_err(|source| {
                WitnessError::Ahead {
                    path: path.clone(),
                    source,
                }
            })?),
            None => None,
        };
        let (sequence, collector) = Sequence::going_on(EventNo(0), Duration::ZERO, ahead);
        let device = start_device(config, None, &sequence)?;
        let header = Arc::new(header(config, &device));
        let path = config.out.join(JOURNAL);
        let journal_error = |source| WitnessError::Journal {
            path: path.clone(),
            source,
        };
        let file = File::create_new(&path).map_err(journal_error)?;
        goes_on::lock(&file).map_err(journal_error)?;
        let journal = journal::Writer::new(file, &header).map_err(journal_error)?;
        let begun = Begun {
            judge: Judge::new(&header, config.strict),
            header,
            journal,
            news: News::new(notices, 0),
            told: 0,
            ended: false,
        };
        let witness = begun.run(config, device, &sequence, collector)?;
        for (at, name) in (0..).zip(&witness.names) {
            if let Err(source) = witness.device.leg_initial(LegId(at)) {
                // The checker has it too, and would go on.
                witness.device.stop();
                let leg = name.clone();
                return Err(WitnessError::Initial { leg, source });
            }
        }
        Ok(witness)
    }

    /// Goes on with the run of a witness that was killed, on the same sockets, legs and journal; and what can be said of it.
    ///
    /// # Errors
    /// [`WitnessError`]; nothing is left running then.
    pub fn go_on(
        config: &WitnessConfig,
        go_on: &GoOn,
        notices: Sender<Notice>,
    ) -> Result<(Witness, WentOn), WitnessError> {
        let mut news = News::new(notices, go_on.news);
        let path = config.out.join(JOURNAL);
        let found = goes_on::take_up(config, &path, go_on.killed, &mut news)?;
        let (sequence, mut collector) =
            Sequence::going_on(found.last, found.elapsed, Some(found.ahead));
        let device = start_device(config, Some(found.device), &sequence)?;
        if let Some(plan) = &go_on.plan {
            set_plan(&device, plan)?;
        }
        for wanted in found.wanted {
            show(&device, &mut collector, wanted);
        }
        let begun = Begun {
            header: Arc::new(found.header),
            judge: found.judge,
            journal: found.journal,
            news,
            told: found.told,
            ended: found.ended,
        };
        let witness = begun.run(config, device, &sequence, collector)?;
        let went_on = WentOn {
            guest: found.guest,
            told: found.told,
            kept: found.kept,
            missing: found.missing,
        };
        Ok((witness, went_on))
    }

    /// Each leg's socket, by name; last the control leg's.
    pub fn sockets(&self) -> Vec<(String, PathBuf)> {
        let names = self.names.iter().map(String::as_str).chain(["control"]);
        names
            .map(str::to_owned)
            .zip(self.device.sockets().iter().cloned())
            .collect()
    }

    /// A boot begins; the agent finds this plan on the control leg.
    ///
    /// # Errors
    /// [`WitnessError::Plan`], if the plan is too large.
    pub fn boot(&mut self, boot: u32, plan: &Plan) -> Result<(), WitnessError> {
        self.device.new_boot(boot);
        set_plan(&self.device, plan)?;
        self.tap.record(What::Boot { boot });
        Ok(())
    }

    /// A line of the guest's console.
    pub fn console(&mut self, line: String) {
        self.tap.record(What::Console { line });
    }

    /// Something was done to the guest's devices, as a rule wants it.
    pub fn hand(&mut self, what: String) {
        self.tap.record(What::Hand {
            what,
            added: Vec::new(),
        });
    }

    /// Has [`Notice::CaughtUp`] told once the checker has taken all that happened until now.
    pub fn catch_up(&self) {
        self.catching_up.store(true, Ordering::Release);
    }

    /// A boot's guest is gone.
    pub fn guest_ended(&mut self, boot: u32, how: GuestEnd) {
        self.tap.record(What::GuestEnded { boot, how });
    }

    /// Ends all legs, takes the verdict, and writes the report.
    ///
    /// # Errors
    /// [`WitnessError`], if journal or report can't be written.
    ///
    /// # Panics
    /// If the checker panicked: its panic goes on here.
    pub fn finish(mut self, interrupted: bool) -> Result<Summary, WitnessError> {
        self.control = None;
        self.device.stop();
        if !interrupted && !self.ended {
            self.tap.record(What::End);
        }
        self.finishing.store(true, Ordering::Release);
        let verdict = match self.checking.join() {
            Ok(verdict) => verdict?,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        write_reports(&self.out, &self.header, &verdict)?;
        Ok(Summary {
            exit: verdict.exit_code(),
            line: report::text::verdict_line(&verdict, Style::Plain),
        })
    }
}

fn header(config: &WitnessConfig, device: &Device) -> RunHeader {
    let heads = config.legs.iter().zip(device.sectors());
    let legs = heads
        .map(|(leg, sectors)| LegHead {
            config: leg.clone(),
            sectors,
        })
        .collect();
    RunHeader {
        scenario: config.scenario.clone(),
        crypt_key: config.crypt_key,
        steps: config.steps.clone(),
        record: config.record,
        expect: config.expect.clone(),
        rules: config
            .rules
            .iter()
            .map(|rule| RuleHead {
                name: rule.name.clone(),
                may_not_fire: rule.may_not_fire,
            })
            .collect(),
        keeps_versions: config.steps.len() > 1 || config.control.is_some(),
        reproduce: config.again.clone(),
        options: serde_json::json!({
            "strict": config.strict,
            "no_known": config.no_known,
            OPTION: config.watch,
        }),
        provenance: config.provenance.clone(),
        ..RunHeader::new(config.run, config.seed, legs)
    }
}

/// Writes `report.txt`, `report.json` and `report.html` into a run's folder, which has its journal.
///
/// # Errors
/// [`WitnessError::Report`].
pub fn write_reports(
    folder: &Path,
    header: &RunHeader,
    verdict: &Verdict,
) -> Result<(), WitnessError> {
    let text = report::text::render(header, verdict, Style::Plain);
    let json = report::json::Report::new(header, verdict).render();
    let error = |error: RecordedError| WitnessError::Report {
        path: folder.join("report.html"),
        source: std::io::Error::other(error),
    };
    let picture = recorded::paint(&folder.join(JOURNAL), header, verdict).map_err(error)?;
    let html = report::html::render(header, verdict, &picture);
    for (name, text) in [
        ("report.txt", text),
        ("report.json", json),
        ("report.html", html),
    ] {
        let path = folder.join(name);
        std::fs::write(&path, text).map_err(|source| WitnessError::Report { path, source })?;
    }
    Ok(())
}
