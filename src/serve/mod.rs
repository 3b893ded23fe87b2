//! `legwatch serve`: the witness for a QEMU that somebody else starts.

pub mod leg_arg;

use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use crate::cli::{RecordArg, ServeArgs};
use crate::config::{LegConfig, Record};
use crate::failure::{EXIT_INTERRUPTED, Failure};
use crate::fault::Rule;
use crate::plan::Plan;
use crate::progress::Progress;
use crate::qemu;
use crate::recorded;
use crate::run::happening::Interrupts;
use crate::run::{disks, may_disconnect, out, own_crc32};
use crate::scenario;
use crate::watch::Watch;
use crate::witness::Witness;
use crate::witness::wire::{Notice, WitnessConfig};

/// The guest's memory in the arguments that are printed, in MiB.
const QEMU_MEMORY_MIB: u32 = 1024;

/// Serves legs until SIGTERM, SIGINT or SIGHUP, then gives the verdict.
///
/// # Errors
/// [`Failure`], when there is no verdict.
pub fn serve(args: &ServeArgs) -> Result<u8, Failure> {
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
    let (signal, interrupted) = channel();
    Interrupts::catch(EXIT_INTERRUPTED)
        .map_err(Failure::internal)?
        .listen(signal);
    let mut folder = out::prepare(args.out.as_deref(), "serve").map_err(Failure::user)?;
    let sockets = SocketsFolder::take(&args.sockets)?;
    let config = config(
        args,
        legs,
        rules,
        watch,
        plan.as_ref(),
        folder.path(),
        &sockets.path,
    );

    let (notices, told) = channel();
    let mut witness = Witness::start(&config, notices)?;
    folder.keep();
    if let Some(plan) = &plan {
        witness.boot(plan.boot, plan)?;
    }
    announce(&config, &witness.sockets())?;
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
    recorded::print(folder.path(), args.format)?;
    eprintln!("legwatch: {}", folder.path().display());
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
    let text = std::fs::read_to_string(path)
        .map_err(|error| Failure::user(format!("faults {}: {error}", path.display())))?;
    scenario::rules_without_qemu(&text, legs, alone)
        .map_err(|why| Failure::user(format!("faults {}: {why}", path.display())))
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
        watch,
        expect,
        strict: args.strict,
        no_known: args.no_known,
        provenance: serde_json::json!({ "legwatch": env!("CARGO_PKG_VERSION"), "legwatch-crc32": own_crc32() }),
        again: String::new(),
    }
}

/// Prints what to start QEMU with.
fn announce(config: &WitnessConfig, sockets: &[(String, PathBuf)]) -> Result<(), Failure> {
    let reconnect = may_disconnect(&config.rules, config.control.is_some()).then(|| {
        // Somebody's own QEMU may be another one; this is the best guess.
        qemu::Qemu::find().map_or_else(|_| "reconnect-ms=100".into(), |qemu| qemu.reconnect())
    });
    let disks = disks(sockets, &config.legs, reconnect.as_deref());
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
