//! `legwatch run`: the supervisor of witness and QEMU.
//!
//! Everything that can be refused is refused before the run's folder is made: scenario, kernel, modules, QEMU, accelerator, agent.

mod agent;
mod boot;
mod child;
pub mod happening;
mod kept;
mod line;
pub mod out;
mod saved;
mod supervise;
mod unplug;

use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;

use crate::cache::Cache;
use crate::cli::{AccelArg, RunArgs};
use crate::config::LegConfig;
use crate::failure::{self, Failure};
use crate::fault::{self, Do, Rule};
use crate::guest::SHELL_WORD;
use crate::initramfs::{self, Contents, Extra};
use crate::kernel::{self, Kernel, OwnModule};
use crate::plan::Plan;
use crate::progress::Progress;
use crate::qemu::{self, Accel, AccelChoice, Disk, Launch, Machine, Qemu};
use crate::recorded;
use crate::run::happening::Interrupts;
use crate::run::kept::Kept;
use crate::run::saved::Saved;
use crate::run::supervise::Supervisor;
use crate::run::unplug::Unplugger;
use crate::scenario::Scenario;
use crate::witness::wire::WitnessConfig;

/// Whether the guest's agent is where a run will look for it.
///
/// # Errors
/// Where it was looked for.
pub fn find_agent() -> Result<PathBuf, impl std::error::Error + Send + Sync + 'static> {
    agent::find()
}

/// What the guest needs to see its legs.
const LEG_MODULES: [&str; 2] = ["virtio_pci", "virtio_blk"];
/// Descriptors in each queue of a leg.
const QUEUE_SIZE: u16 = 256;

/// Runs a scenario, prints its report, and says what the exit code is (without `--bisect`).
///
/// # Errors
/// [`Failure`], when there is no verdict.
pub fn run(args: &RunArgs) -> Result<u8, Failure> {
    let mut scenario = Scenario::load(&args.scenario).map_err(Failure::user)?;
    if args.control.is_none() {
        let alone = scenario.check_alone(&args.scenario);
        alone.map_err(Failure::user)?;
    }
    scenario.guest.smp = args.smp.unwrap_or(scenario.guest.smp);
    scenario.guest.memory_mib = args.mem.unwrap_or(scenario.guest.memory_mib);
    scenario.guest.check().map_err(Failure::user)?;
    if let Some(wish) = &args.out {
        out::check(wish).map_err(Failure::user)?;
    }
    let exit = failure::EXIT_INTERRUPTED;
    let exit = if args.bisect {
        failure::bisect(exit)
    } else {
        exit
    };
    let interrupts = Interrupts::catch(exit).map_err(Failure::internal)?;
    let mut progress = Progress::new();
    let host = prepare(args, &scenario, &mut progress)?;
    let saved = host.saved_boot(args, &scenario, &mut progress);

    let seed = match args.seed {
        Some(seed) => seed,
        None => random()?,
    };
    let run_number = random()?;
    let (sender, happenings) = channel();
    interrupts.listen(sender.clone());
    let mut folder = out::prepare(args.out.as_deref(), &scenario.name).map_err(Failure::user)?;
    progress.line(&format!(
        "legwatch: {} on {} ({}), seed {seed}, {}",
        scenario.name,
        host.kernel.release,
        host.accel,
        folder.path().display()
    ));
    let sockets = tempfile::Builder::new()
        .prefix("legwatch-")
        .tempdir()
        .map_err(Failure::user)?;
    let plans: Vec<Plan> = (1..)
        .zip(&scenario.boots)
        .map(|(boot, _)| scenario.plan(boot, run_number, seed))
        .collect();
    let kept = may_go_on(&scenario)
        .then(|| Kept::new(&scenario.legs))
        .transpose()
        .map_err(Failure::internal)?;
    let config = WitnessConfig {
        run: run_number,
        seed,
        legs: scenario.legs.clone(),
        sockets: sockets.path().to_owned(),
        out: folder.path().to_owned(),
        record: scenario.record,
        scenario: scenario.text.clone(),
        crypt_key: scenario.crypt_key,
        steps: plans
            .iter()
            .map(|plan| plan.steps.iter().map(Into::into).collect())
            .collect(),
        rules: scenario.rules.clone(),
        good_legs: scenario.good_legs,
        control: args.control.clone(),
        ahead: kept.as_ref().map(Kept::ahead),
        memory: kept.as_ref().map(Kept::legs).unwrap_or_default(),
        watch: Vec::new(),
        expect: scenario.expect.clone(),
        strict: args.strict,
        no_known: args.no_known,
        provenance: host.provenance(saved.is_some()),
        again: again(args, seed),
    };
    let config_path = folder.path().join("witness.json");
    let write = |name: &Path, bytes: &[u8]| {
        std::fs::write(name, bytes)
            .map_err(|error| Failure::user(format!("{} can't be written: {error}", name.display())))
    };
    write(
        &config_path,
        &serde_json::to_vec_pretty(&config).expect("plain data"),
    )?;
    let resolved = format!("# Run again: {}\n{}", config.again, scenario.text);
    write(&folder.path().join("scenario.toml"), resolved.as_bytes())?;
    let console = File::create(folder.path().join("console.log")).map_err(Failure::user)?;

    let legs = scenario.legs.iter().map(|leg| leg.name.clone()).collect();
    let mut supervisor = Supervisor::start(
        (sender, happenings),
        &config_path,
        console,
        legs,
        args.stop_on_finding,
        kept.is_some(),
        progress,
    )?;
    let qmp = fault::needs_qemu(&scenario.rules).map(|_| sockets.path().join("qmp.sock"));
    if let Some(qmp) = &qmp {
        let unplugger = Unplugger {
            qmp: qmp.clone(),
            disks: host.disks(args, &scenario, supervisor.sockets()),
        };
        supervisor.may_unplug(unplugger);
    }
    for (plan, boot) in plans.iter().zip(&scenario.boots) {
        let gdb = args.gdb.then(|| sockets.path().join("gdb.sock"));
        if let Some(socket) = &gdb {
            eprintln!(
                "legwatch: the guest waits for: gdb -ex 'target remote {}'",
                socket.display()
            );
        }
        let machine = host.machine(args, &scenario, supervisor.sockets(), qmp.clone(), gdb);
        let launch = Launch {
            qemu: host.qemu.clone(),
            arguments: qemu::command(&machine).map_err(Failure::user)?,
            interactive: args.shell,
        };
        let resume = match &saved {
            Some(saved) => {
                let resume = saved.resume(&host.qemu, &machine, &sockets.path().join("qmp.sock"));
                Some(resume.map_err(Failure::user)?)
            }
            None => None,
        };
        let plan = match &resume {
            Some(_) => &saved::woken(plan, random()?),
            None => plan,
        };
        let attended = args.shell || args.gdb;
        let went_on = supervisor.boot(plan, boot.end, &launch, resume.as_ref(), attended);
        if supervisor.guests() > 0 {
            folder.keep();
        }
        if !went_on? || supervisor.stopped() {
            break;
        }
    }
    let ended = supervisor.finish()?;
    recorded::print(folder.path(), args.format)?;
    eprintln!("legwatch: {}; {}", ended.stages, folder.path().display());
    Ok(if ended.interrupted {
        failure::EXIT_INTERRUPTED
    } else {
        ended.summary.exit
    })
}

/// What the host gives to a run: everything that can be refused before the run's folder is made.
#[derive(Debug)]
struct Host {
    qemu: Qemu,
    kernel: Kernel,
    initramfs: PathBuf,
    accel: Accel,
    own_modules: Vec<OwnModule>,
}

fn prepare(args: &RunArgs, scenario: &Scenario, progress: &mut Progress) -> Result<Host, Failure> {
    let extra = args
        .add
        .iter()
        .map(|text| Extra::parse(text))
        .collect::<Result<Vec<_>, _>>()
        .map_err(Failure::user)?;
    let own_modules = args
        .module
        .iter()
        .map(|path| OwnModule::read(path))
        .collect::<Result<Vec<_>, _>>()?;
    for (at, own) in own_modules.iter().enumerate() {
        if let Some(first) = own_modules[..at]
            .iter()
            .find(|first| first.name == own.name)
        {
            return Err(Failure::user(format!(
                "{} and {} are both the module {}: give one",
                first.path.display(),
                own.path.display(),
                own.name
            )));
        }
    }
    let qemu = Qemu::find().map_err(Failure::user)?;
    if let Some(warning) = qemu.warning() {
        progress.line(&format!("legwatch: {warning}"));
    }
    let agent = agent::find().map_err(Failure::user)?;
    let cache = Cache::open().map_err(Failure::user)?;
    progress.stage(&format!("kernel {}", args.kernel));
    let kernel = kernel::resolve(&args.kernel, &cache).map_err(Failure::from)?;
    kernel.require(kernel::needs::BASE).map_err(Failure::from)?;
    progress.stage("initramfs");
    let binaries =
        std::iter::once("mdadm").chain(scenario.guest.binaries.iter().map(String::as_str));
    let contents = Contents {
        agent,
        modules: LEG_MODULES
            .iter()
            .map(|name| (*name).to_owned())
            .chain(scenario.guest.modules.iter().cloned())
            .collect(),
        modules_optional: Vec::new(),
        own_modules,
        binaries: binaries.map(PathBuf::from).collect(),
        extra,
    };
    let initramfs = initramfs::build(&kernel, &contents, &cache).map_err(Failure::user)?;
    progress.stage("accelerator");
    let choice = match args.accel {
        AccelArg::Auto => AccelChoice::Auto,
        AccelArg::Kvm => AccelChoice::Kvm,
        AccelArg::Tcg => AccelChoice::Tcg,
    };
    let chosen =
        Accel::choose(choice, &qemu, kernel.boot_image(), &cache).map_err(Failure::inconclusive)?;
    if let Some(note) = &chosen.note {
        progress.line(&format!("legwatch: {note}"));
    }
    Ok(Host {
        qemu,
        kernel,
        initramfs,
        accel: chosen.accel,
        own_modules: contents.own_modules,
    })
}

impl Host {
    fn machine(
        &self,
        args: &RunArgs,
        scenario: &Scenario,
        sockets: &[(String, PathBuf)],
        qmp: Option<PathBuf>,
        gdb: Option<PathBuf>,
    ) -> Machine {
        Machine {
            accel: self.accel,
            smp: scenario.guest.smp,
            mem_mib: scenario.guest.memory_mib,
            kernel: self.kernel.boot_image().to_owned(),
            initramfs: self.initramfs.clone(),
            append: [
                scenario.guest.append.as_str(),
                args.append.as_deref().unwrap_or_default(),
                if args.shell { SHELL_WORD } else { "" },
            ]
            .join(" ")
            .trim()
            .to_owned(),
            disks: self.disks(args, scenario, sockets),
            qmp,
            gdb,
            extra: args.qemu.iter().map(OsString::from).collect(),
        }
    }

    fn disks(
        &self,
        args: &RunArgs,
        scenario: &Scenario,
        sockets: &[(String, PathBuf)],
    ) -> Vec<Disk> {
        let comes_again =
            may_go_on(scenario) || may_disconnect(&scenario.rules, args.control.is_some());
        let reconnect = comes_again.then(|| self.qemu.reconnect());
        disks(sockets, &scenario.legs, reconnect.as_deref())
    }

    /// The boot that the run's guests go on from, if the campaign saves boots and this is one that can be saved.
    fn saved_boot(
        &self,
        args: &RunArgs,
        scenario: &Scenario,
        progress: &mut Progress,
    ) -> Option<Saved> {
        let folder = args.saved_boots.as_deref()?;
        // What somebody adds to QEMU or attends to is theirs.
        if args.shell
            || args.gdb
            || !args.qemu.is_empty()
            || !qemu::can_save(&self.qemu, self.accel)
        {
            return None;
        }
        progress.stage("saved boot");
        let machine = self.machine(args, scenario, &[], None, None);
        saved::find(&self.qemu, &machine, folder).unwrap_or_else(|error| {
            progress.line(&format!(
                "legwatch: no boot could be saved, each guest boots by itself: {}",
                failure::chain(&*error)
            ));
            None
        })
    }

    fn provenance(&self, saved_boot: bool) -> serde_json::Value {
        serde_json::json!({
            "boot": if saved_boot { "saved" } else { "fresh" },
            "legwatch": env!("CARGO_PKG_VERSION"),
            "legwatch-crc32": own_crc32(),
            "kernel": self.kernel.spec,
            "release": self.kernel.release,
            "config-crc32": self.kernel.config.as_deref().and_then(crc32_of),
            "packages": self.kernel.packages.iter().map(|package| format!("{} {}", package.name, package.version)).collect::<Vec<_>>(),
            "own_modules": self.own_modules.iter().map(|own| format!("{} {} CRC-32 {:08x}", own.name, own.path.display(), crc32fast::hash(&own.bytes))).collect::<Vec<_>>(),
            "qemu": self.qemu.version,
            "accelerator": self.accel.to_string(),
            "mdadm": mdadm_version(),
        })
    }
}

/// CRC-32 of a file, in hexadecimal; `None` if it can't be read.
fn crc32_of(path: &Path) -> Option<String> {
    let bytes = std::fs::read(path).ok()?;
    Some(format!("{:08x}", crc32fast::hash(&bytes)))
}

/// Which build of legwatch this is.
pub fn own_crc32() -> Option<String> {
    crc32_of(&std::env::current_exe().ok()?)
}

/// The disks of a machine: the legs, then the control leg.
pub fn disks(
    sockets: &[(String, PathBuf)],
    legs: &[LegConfig],
    reconnect: Option<&str>,
) -> Vec<Disk> {
    let disk = |(at, (name, socket)): (usize, &(String, PathBuf))| {
        let leg = legs.iter().find(|leg| leg.name == *name);
        Disk {
            // A leg's name may have characters that QEMU's ids may not.
            name: format!("leg{at}"),
            socket: socket.clone(),
            queues: leg.map_or(1, |leg| leg.queues),
            queue_size: QUEUE_SIZE,
            properties: leg.map(properties).unwrap_or_default(),
            connection: reconnect.map(str::to_owned).into_iter().collect(),
        }
    };
    sockets.iter().enumerate().map(disk).collect()
}

/// Whether the run can go on if its witness is killed: what rules have done is known to the process alone.
fn may_go_on(scenario: &Scenario) -> bool {
    scenario.rules.is_empty()
}

/// Whether a rule, or one that a hand may add, closes a leg's socket: QEMU then has to connect again.
pub fn may_disconnect(rules: &[Rule], by_hand: bool) -> bool {
    by_hand
        || rules
            .iter()
            .any(|rule| matches!(rule.action, Do::Disconnect(_)))
}

/// What differs from QEMU's own choice of ring features.
fn properties(leg: &LegConfig) -> Vec<String> {
    [
        (leg.packed, "packed=on"),
        (!leg.event_idx, "event_idx=off"),
        (!leg.indirect, "indirect_desc=off"),
    ]
    .into_iter()
    .filter(|(differs, _)| *differs)
    .map(|(_, property)| property.to_owned())
    .collect()
}

/// What mdadm calls itself; it does so on standard error.
fn mdadm_version() -> String {
    let output = kernel::find_program("mdadm").and_then(|path| {
        std::process::Command::new(path)
            .arg("--version")
            .output()
            .ok()
    });
    let text = output
        .map(|output| [output.stdout, output.stderr].concat())
        .unwrap_or_default();
    String::from_utf8_lossy(&text)
        .lines()
        .next()
        .unwrap_or("unknown")
        .trim()
        .to_owned()
}

/// The command that does the same again.
fn again(args: &RunArgs, seed: u64) -> String {
    let mut words = vec![
        "legwatch run".to_owned(),
        quoted(&args.scenario.to_string_lossy()),
    ];
    words.push(format!("--kernel {}", quoted(&args.kernel)));
    words.push(format!("--seed {seed}"));
    if let Some(append) = &args.append {
        words.push(format!("--append {}", quoted(append)));
    }
    words.extend(
        args.qemu
            .iter()
            .map(|word| format!("--qemu {}", quoted(word))),
    );
    words.extend(args.smp.iter().map(|smp| format!("--smp {smp}")));
    words.extend(args.mem.iter().map(|mem| format!("--mem {mem}")));
    words.extend(
        args.add
            .iter()
            .map(|file| format!("--add {}", quoted(file))),
    );
    words.extend(
        args.module
            .iter()
            .map(|file| format!("--module {}", quoted(&file.to_string_lossy()))),
    );
    if args.strict {
        words.push("--strict".into());
    }
    if args.no_known {
        words.push("--no-known".into());
    }
    words.join(" ")
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,+@".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

/// 64 random bits of the host's.
fn random() -> Result<u64, Failure> {
    let mut bytes = [0; 8];
    File::open("/dev/urandom")
        .and_then(|mut source| source.read_exact(&mut bytes))
        .map_err(Failure::internal)?;
    Ok(u64::from_le_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_for_a_shell() {
        assert_eq!(quoted("debian:6.1"), "debian:6.1");
        assert_eq!(quoted("a b"), "'a b'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted(""), "''");
    }
}
