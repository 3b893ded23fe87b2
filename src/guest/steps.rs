//! The plan: its steps in order, background steps beside them, the first and the last mark.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::control::{Control, Marker};
use super::disks::Disks;
use super::facts::{self, Facts};
use super::gate::Gate;
use super::sync::Watcher;
use super::sys::SharedNumber;
use super::{
    Error, Shared, admin, console, context, md, quiet, readback, shell, survey, sys, target,
    workload,
};
use crate::clock;
use crate::mark::{Hello, Mark};
use crate::plan::{Plan, Step, StepAction, StepKind};

/// The longest that a disk may take to appear while a guest starts, which can be slow.
const DISKS: Duration = Duration::from_secs(60);
/// How long until a guest without disks says so.
const SOON: Duration = Duration::from_millis(500);
/// The same in a system that runs already.
const DISKS_RUNNING: Duration = Duration::from_secs(5);
/// The most bytes of a file that a fact tells.
const FACT_BYTES_MAX: usize = 200;

/// What pid 1 wants to know of the agent: the step it is at, see [`super::init`].
pub(super) type Progress = SharedNumber;

/// Finds the control leg, reads the plan and runs it. Whether all steps went well; an error if they could not be run or told. `progress` is
/// given by init.
pub(super) fn run(
    control: Option<PathBuf>,
    batch: SharedNumber,
    progress: Option<Progress>,
) -> Result<bool, Error> {
    let mut disks = Disks::default();
    let path = match control {
        Some(path) => path,
        // As pid 1: a guest without disks is one whose boot is to be saved, and this is where it is.
        None if progress.is_some() => match disks.control(SOON) {
            Ok(path) => path,
            Err(_) => {
                console(super::WAITS);
                disks.control(DISKS)?
            }
        },
        None => disks.control(DISKS_RUNNING)?,
    };
    let control = Control::open(&path, batch)?;
    run_plan(&control, &mut disks, progress)
}

/// Reads the plan and runs it.
pub(super) fn run_plan(
    control: &Control,
    disks: &mut Disks,
    progress: Option<Progress>,
) -> Result<bool, Error> {
    let plan = control.plan()?;
    if let Some(woken) = &plan.woken {
        sys::wake(woken).map_err(context("going on from a saved boot"))?;
    }
    let mut marker = control.marker()?;
    console(&format!(
        "legwatch-guest {}: {} steps, {} s after the kernel's start",
        env!("CARGO_PKG_VERSION"),
        plan.steps.len(),
        uptime_s()
    ));
    marker.tell(&Mark::Hello(hello(&plan, progress.is_some())))?;
    let mut facts = Facts::default();
    facts.provenance(&mut marker)?;
    disks.link_legs(&plan.legs, DISKS)?;
    let shared = Arc::new(Shared {
        run: plan.run,
        seed: plan.seed,
        crypt_key: plan.crypt_key,
        control: control.clone(),
        gate: Gate::default(),
        stop: AtomicBool::new(false),
        background: AtomicUsize::new(0),
        quiet_id: AtomicU32::new(0),
        targets: Mutex::default(),
        serialized: Mutex::default(),
    });
    let watcher = Watcher::start(control)?;
    let ok = Runner {
        shared: &shared,
        marker: &mut marker,
        facts: &mut facts,
        background: Vec::new(),
        ok: true,
    }
    .run(plan.steps, progress)?;
    watcher.end();
    facts.provenance(&mut marker)?;
    admin::look_at_policies(&shared, &mut marker)?;
    if progress.is_some() {
        shell::interactive()?;
        admin::look_at_policies(&shared, &mut marker)?;
    }
    marker.tell(&Mark::Finish { ok })?;
    Ok(ok)
}

/// How long the kernel runs, as it says it itself.
fn uptime_s() -> String {
    let text = md::attribute(Path::new("/proc/uptime")).unwrap_or_default();
    text.split(' ').next().unwrap_or("?").to_owned()
}

fn hello(plan: &Plan, init: bool) -> Hello {
    let tainted = md::attribute(Path::new("/proc/sys/kernel/tainted"));
    Hello {
        agent: env!("CARGO_PKG_VERSION").to_owned(),
        release: rustix::system::uname()
            .release()
            .to_string_lossy()
            .into_owned(),
        boot: plan.boot,
        init,
        tainted: tainted.and_then(|text| text.parse().ok()).unwrap_or(0),
    }
}

struct Runner<'a> {
    shared: &'a Arc<Shared>,
    marker: &'a mut Marker,
    facts: &'a mut Facts,
    background: Vec<JoinHandle<Result<Ended, Error>>>,
    ok: bool,
}

/// How a step ended.
#[derive(Clone, Copy, Debug)]
struct Ended {
    kind: StepKind,
    ok: bool,
}

impl Runner<'_> {
    fn run(mut self, steps: Vec<Step>, progress: Option<Progress>) -> Result<bool, Error> {
        let mut go_on = true;
        for (number, step) in (0u32..).zip(steps) {
            if let Some(progress) = progress {
                progress.set(number);
            }
            go_on = if step.background {
                self.spawn(number, step)?;
                true
            } else if matches!(step.action, StepAction::Join) {
                self.join_step(number, &step)?
            } else {
                let ended = run_step(self.shared, self.marker, self.facts, number, &step)?;
                self.note(ended)
            };
            if !go_on {
                break;
            }
        }
        if !go_on {
            self.shared.stop.store(true, Ordering::Relaxed);
        }
        self.join()?;
        Ok(self.ok)
    }

    /// Whether the plan goes on after a step.
    fn note(&mut self, ended: Ended) -> bool {
        self.ok &= ended.ok;
        ended.ok || ended.kind == StepKind::Workload
    }

    fn spawn(&mut self, number: u32, step: Step) -> Result<(), Error> {
        let shared = Arc::clone(self.shared);
        let mut marker = shared.control.marker()?;
        shared.background.fetch_add(1, Ordering::Relaxed);
        let thread = thread::Builder::new()
            .name(format!("step {number}"))
            .spawn(move || {
                let mut facts = Facts::default();
                let ended = run_step(&shared, &mut marker, &mut facts, number, &step);
                shared.background.fetch_sub(1, Ordering::Relaxed);
                ended
            })
            .map_err(context("starting a background step"))?;
        self.background.push(thread);
        Ok(())
    }

    fn join(&mut self) -> Result<bool, Error> {
        let mut go_on = true;
        for thread in std::mem::take(&mut self.background) {
            let ended = thread
                .join()
                .map_err(|_| Error::new("a background step of the agent panicked"))??;
            go_on &= self.note(ended);
        }
        Ok(go_on)
    }

    fn join_step(&mut self, number: u32, step: &Step) -> Result<bool, Error> {
        self.marker.tell(&Mark::StepBegin { step: number })?;
        let waited = self.background.len();
        let go_on = self.join()?;
        self.marker.tell(&Mark::StepEnd {
            step: number,
            ok: go_on,
            detail: format!("waited for {waited} background steps"),
        })?;
        console(&format!("legwatch-guest: {}: joined {waited}", step.name));
        Ok(go_on)
    }
}

/// Runs one step and tells its begin and end. An error only if it cannot be told.
fn run_step(
    shared: &Shared,
    marker: &mut Marker,
    facts: &mut Facts,
    number: u32,
    step: &Step,
) -> Result<Ended, Error> {
    marker.tell(&Mark::StepBegin { step: number })?;
    console(&format!("legwatch-guest: step {number} {}", step.name));
    let begun = clock::now();
    let outcome = act(shared, marker, facts, number, step);
    let took_ms = clock::now().duration_since(begun).as_millis();
    let (ok, detail) = match outcome {
        Ok(detail) => (true, detail),
        Err(error) => (false, error.chain()),
    };
    let how = if ok { "ok" } else { "failed" };
    console(&format!(
        "legwatch-guest: step {number} {how} after {took_ms} ms: {detail}"
    ));
    marker.tell(&Mark::StepEnd {
        step: number,
        ok,
        detail,
    })?;
    Ok(Ended {
        kind: step.kind,
        ok,
    })
}

/// Does what a step says; the text is for its end mark.
fn act(
    shared: &Shared,
    marker: &mut Marker,
    facts: &mut Facts,
    number: u32,
    step: &Step,
) -> Result<String, Error> {
    match &step.action {
        StepAction::Shell { command, timeout_s } => shell::run(
            shared,
            &step.name,
            command,
            Duration::from_secs(u64::from(*timeout_s)),
        ),
        StepAction::Write(load) => workload::run(shared, marker, number, load, step.background),
        StepAction::ReadBack { device } => {
            let path = target::find(device)?;
            let target = shared.targets().get(&path).cloned();
            let target = target.ok_or_else(|| {
                Error::new(format!("no workload of this plan has written to {device}"))
            })?;
            let outcome = readback::run(shared, marker, number, &target)?;
            let counts = format!("{} sectors good, {} bad", outcome.good, outcome.bad);
            match (outcome.bad, outcome.error) {
                (0, _) => Ok(counts),
                (_, Some(error)) => Err(Error::new(format!("{counts}; {error}"))),
                (_, None) => Err(Error::new(counts)),
            }
        }
        StepAction::Survey {
            device,
            target,
            start,
            count,
        } => survey::run(marker, device, *target, *start, *count),
        StepAction::Quiet { timeout_s } => {
            let timeout = Duration::from_secs(u64::from(*timeout_s));
            let pending = shared.gate.quiet(|| {
                let pending = quiet::declare(shared, marker, timeout);
                (
                    pending.as_ref().is_ok_and(std::string::String::is_empty),
                    pending,
                )
            })?;
            facts.arrays(marker)?;
            if pending.is_empty() {
                Ok("at rest".into())
            } else {
                Err(Error::new(pending))
            }
        }
        StepAction::Join => Err(Error::new("a join cannot run in the background")),
        StepAction::Md {
            action,
            device,
            leg,
            timeout_s,
        } => {
            let timeout = Duration::from_secs(u64::from(*timeout_s));
            let outcome = admin::run(
                shared,
                marker,
                &step.name,
                *action,
                device,
                leg.as_deref(),
                timeout,
            );
            facts.arrays(marker)?;
            outcome
        }
        StepAction::Fact { name, path } => {
            let value = md::attribute(Path::new(path))
                .ok_or_else(|| Error::new(format!("{path} cannot be read")))?;
            let cut = (0..=FACT_BYTES_MAX.min(value.len()))
                .rev()
                .find(|at| value.is_char_boundary(*at))
                .unwrap_or(0);
            let value = value[..cut].to_owned();
            facts::tell(marker, name, value.clone())?;
            Ok(value)
        }
    }
}

/// For pid 1: tells that the agent is gone, in the name of the step that it was at.
pub(super) fn tell_death(batch: SharedNumber, progress: Progress, why: &str) -> Result<(), Error> {
    let path = Disks::default().control(Duration::from_secs(1))?;
    let mut marker = Control::open(&path, batch)?.marker()?;
    marker.tell(&Mark::StepEnd {
        step: progress.get(),
        ok: false,
        detail: why.to_owned(),
    })?;
    marker.tell(&Mark::Finish { ok: false })
}
