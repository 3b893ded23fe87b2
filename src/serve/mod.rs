//! `legwatch serve`: the witness for a QEMU that somebody else starts.

pub mod leg_arg;

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use crate::cli::{RecordArg, ServeArgs};
use crate::config::{LegConfig, Record};
use crate::failure::{EXIT_INTERRUPTED, Failure};
use crate::fault::Rule;
use crate::plan::Plan;
use crate::progress::Progress;
use crate::qemu;
use crate::recorded;
use crate::run::happening::{Happening, Interrupts};
use crate::run::{disks, may_disconnect, out, own_crc32};
use crate::scenario;
use crate::watch::Watch;
use crate::witness::wire::{GoOn, Notice, WitnessConfig};
use crate::witness::{Witness, goes_on};

/// The guest's memory in the arguments that are printed, in MiB.
const QEMU_MEMORY_MIB: u32 = 1024;

/// The configuration's name in a run's folder.
const CONFIG: &str = "witness.json";
/// The name there of the plan for the agent, if there is one.
const PLAN: &str = "plan.json";
/// The name there of what is ahead of the journal.
const AHEAD: &str = "ahead";

/// Serves legs until SIGTERM, SIGINT or SIGHUP, then gives the verdict.
///
/// # Errors
/// [`Failure`], when there is no verdict.
pub fn serve(args: &ServeArgs) -> Result<u8, Failure> {
    match &args.resume {
        Some(folder) => resume(args, folder),
        None => begin(args),
    }
}

fn begin(args: &ServeArgs) -> Result<u8, Failure> {
    let legs = leg_arg::parse_all(&args.legs).map_err(Failure::user)?;
    let watch = Watch::parse(&args.watch).map_err(Failure::user)?.words();
    let plan = args.plan.as_deref().map(read_plan).transpose()?;
    let rules = match &args.faults {
        Some(path) => {
            let steps = plan.iter().flat_map(|plan| &plan.steps);
            let steps: Vec<String> = steps.map(|step| step.name.clone()).collect();
            let alone = args.control.is_none().then_some(&steps[..]);
            read_rules(path, &legs, alone)?
        }
        None => Vec::new(),
    };
    let interrupted = interrupts()?;
    let mut folder = out::prepare(args.out.as_deref(), "serve").map_err(Failure::user)?;
    let sockets = args.sockets.as_deref().expect("clap demands it");
    let sockets = SocketsFolder::take(sockets)?;
    let mut config = config(
        args,
        legs,
        rules,
        watch,
        plan.as_ref(),
        folder.path(),
        &sockets.path,
    );
    let ahead = config.out.join(AHEAD);
    config.ahead = Some(ahead);
    if goes_on::can(&config).is_err() {
        config.ahead = None;
    }
    save(&config.out.join(CONFIG), &config)?;
    if let Some(plan) = &plan {
        save(&config.out.join(PLAN), plan)?;
    }

    // Before the sockets listen: a child has them too until it is another program, and would keep them from who comes after a kill.
    let reconnect = reconnect(&config);
    let (notices, told) = channel();
    let mut witness = Witness::start(&config, notices)?;
    folder.keep();
    if let Some(plan) = &plan {
        witness.boot(plan.boot, plan)?;
    }
    announce(&config, &witness.sockets(), reconnect.as_deref())?;
    attend(args, &config, witness, &told, &interrupted)
}

/// Goes on with the run of a `serve` that was killed.
fn resume(args: &ServeArgs, folder: &Path) -> Result<u8, Failure> {
    let refuse = |why: &str| Failure::user(format!("{}: {why}", folder.display()));
    if folder.join("report.json").is_file() {
        return Err(refuse(
            "this run has ended in order; `legwatch report` prints what came of it",
        ));
    }
    let path = folder.join(CONFIG);
    let text = std::fs::read_to_string(&path).map_err(|error| {
        Failure::user(format!(
            "{} can't be read: {error}; name the folder that `legwatch serve --out` was given",
            path.display()
        ))
    })?;
    let mut config: WitnessConfig =
        serde_json::from_str(&text).map_err(|error| refuse(&format!("{CONFIG}: {error}")))?;
    // The folder may have another name by now.
    folder.clone_into(&mut config.out);
    config.ahead = config.ahead.map(|_| folder.join(AHEAD));
    let plan = folder.join(PLAN);
    let plan = plan.is_file().then(|| read_plan(&plan)).transpose()?;
    let interrupted = interrupts()?;
    let _sockets = SocketsFolder::take(&config.sockets)?;
    let (notices, told) = channel();
    let go_on = GoOn {
        news: 0,
        killed: 1,
        plan: plan.map(Box::new),
    };
    let (witness, went_on) = Witness::go_on(&config, &go_on, notices)?;
    eprintln!(
        "legwatch: the run in {} goes on, serving {} legs; {} events were ahead of its journal, {} are missing",
        folder.display(),
        config.legs.len(),
        went_on.kept,
        went_on.missing
    );
    attend(args, &config, witness, &told, &interrupted)
}

fn interrupts() -> Result<Receiver<Happening>, Failure> {
    let (signal, interrupted) = channel();
    Interrupts::catch(EXIT_INTERRUPTED)
        .map_err(Failure::internal)?
        .listen(signal);
    Ok(interrupted)
}

fn save(path: &Path, what: &impl serde::Serialize) -> Result<(), Failure> {
    let json = serde_json::to_vec_pretty(what).expect("plain data");
    std::fs::write(path, json)
        .map_err(|error| Failure::user(format!("{} can't be written: {error}", path.display())))
}

/// Serves until it is told to end, and gives the verdict.
fn attend(
    args: &ServeArgs,
    config: &WitnessConfig,
    witness: Witness,
    told: &Receiver<Notice>,
    interrupted: &Receiver<Happening>,
) -> Result<u8, Failure> {
    let names: Vec<String> = config.legs.iter().map(|leg| leg.name.clone()).collect();
    let mut progress = Progress::new();
    progress.name("serving");
    loop {
        match interrupted.recv_timeout(Duration::from_millis(100)) {
            Ok(_) | Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {}
        }
        let mut failed = false;
        for notice in told.try_iter() {
            match notice {
                Notice::Finding(headline) => progress.line(&format!("finding: {headline}")),
                // Told by the verdict that can't be given.
                Notice::Failed { .. } => failed = true,
                // The guest is somebody else's to kill.
                Notice::Cut => progress.line(
                    "legwatch: the power of all legs is cut; kill the guest, then `legwatch ctl … power-on`",
                ),
                Notice::Live(live) => progress.live(&live, &names),
                Notice::Ready { .. }
                // Refused where rules are read.
                | Notice::Unplug { .. }
                | Notice::Mark(_)
                | Notice::CaughtUp
                | Notice::Done(_) => {}
            }
        }
        if failed {
            break;
        }
    }
    progress.name("verdict");
    let summary = witness.finish(false);
    progress.end();
    let summary = summary?;
    if let Some(ahead) = &config.ahead {
        // All of it is in the journal.
        let _stays = std::fs::remove_file(ahead);
    }
    recorded::print(&config.out, args.format)?;
    eprintln!("legwatch: {}", config.out.display());
    Ok(summary.exit)
}

/// The folder of the sockets; one that was made for them goes with them.
#[derive(Debug)]
struct SocketsFolder {
    path: PathBuf,
    made: bool,
}

impl SocketsFolder {
    fn take(path: &Path) -> Result<SocketsFolder, Failure> {
        let refuse = |error| {
            Failure::user(format!(
                "the sockets' folder {} can't be made: {error}; name another with --sockets",
                path.display()
            ))
        };
        let made = !path.is_dir();
        std::fs::create_dir_all(path).map_err(refuse)?;
        let path = std::path::absolute(path).map_err(refuse)?;
        Ok(SocketsFolder { path, made })
    }
}

impl Drop for SocketsFolder {
    fn drop(&mut self) {
        if self.made {
            // If somebody has put something of his own there, it stays.
            let _stays = std::fs::remove_dir(&self.path);
        }
    }
}

fn read_rules(
    path: &Path,
    legs: &[LegConfig],
    alone: Option<&[String]>,
) -> Result<Vec<Rule>, Failure> {
    let refuse = |why: String| Failure::user(format!("faults {}: {why}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| refuse(error.to_string()))?;
    let rules = scenario::rules_without_qemu(&text, legs, alone).map_err(refuse)?;
    if rules.is_empty() {
        return Err(refuse(
            "it has no [[fault]], and can inject nothing; leave --faults out".into(),
        ));
    }
    Ok(rules)
}

fn read_plan(path: &Path) -> Result<Plan, Failure> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| Failure::user(format!("plan {}: {error}", path.display())))?;
    serde_json::from_str(&text)
        .map_err(|error| Failure::user(format!("plan {}: {error}", path.display())))
}

fn config(
    args: &ServeArgs,
    legs: Vec<LegConfig>,
    rules: Vec<Rule>,
    watch: Vec<String>,
    plan: Option<&Plan>,
    out: &Path,
    sockets: &Path,
) -> WitnessConfig {
    let mut expect = crate::header::Expect::default();
    if plan.is_none() {
        // Nobody says what is meant to be written; the twins are compared all the same.
        expect.compared_percent = 0;
    }
    WitnessConfig {
        run: plan.map_or(0, |plan| plan.run),
        seed: plan.map_or(args.seed, |plan| plan.seed),
        legs,
        sockets: sockets.to_owned(),
        out: out.to_owned(),
        record: match args.record {
            RecordArg::Metadata => Record::Metadata,
            RecordArg::All => Record::All,
            RecordArg::None => Record::None,
        },
        scenario: String::new(),
        crypt_key: plan.and_then(|plan| plan.crypt_key),
        steps: plan
            .map(|plan| vec![plan.steps.iter().map(Into::into).collect()])
            .unwrap_or_default(),
        rules,
        good_legs: 0,
        control: args.control.clone(),
        ahead: None,
        memory: Vec::new(),
        watch,
        expect,
        strict: args.strict,
        no_known: args.no_known,
        provenance: serde_json::json!({ "legwatch": env!("CARGO_PKG_VERSION"), "legwatch-crc32": own_crc32() }),
        again: String::new(),
    }
}

/// What makes QEMU connect again, if that may be needed.
fn reconnect(config: &WitnessConfig) -> Option<String> {
    let comes_again =
        config.ahead.is_some() || may_disconnect(&config.rules, config.control.is_some());
    comes_again.then(|| {
        // Somebody's own QEMU may be another one; this is the best guess.
        qemu::Qemu::find().map_or_else(|_| "reconnect-ms=100".into(), |qemu| qemu.reconnect())
    })
}

/// Prints what to start QEMU with.
fn announce(
    config: &WitnessConfig,
    sockets: &[(String, PathBuf)],
    reconnect: Option<&str>,
) -> Result<(), Failure> {
    let disks = disks(sockets, &config.legs, reconnect);
    let arguments = qemu::disks_only(QEMU_MEMORY_MIB, &disks).map_err(Failure::user)?;
    eprintln!(
        "legwatch: serving {} legs; QEMU's arguments (make the memory's size that of -m):",
        config.legs.len()
    );
    let lines = arguments.chunks(2).map(|pair| {
        let words = pair.iter().map(|word| word.to_string_lossy());
        format!("  {}", words.collect::<Vec<_>>().join(" "))
    });
    eprintln!("{}", lines.collect::<Vec<_>>().join(" \\\n"));
    eprintln!("legwatch: Ctrl-C or SIGTERM ends it and gives the verdict");
    Ok(())
}
