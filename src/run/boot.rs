//! One boot under supervision: what its stages took, and how it ended.

use std::fmt;
use std::time::{Duration, Instant};

use crate::event::GuestEnd;
use crate::guest_health;
use crate::mark::Mark;
use crate::plan::{Plan, StepAction, StepKind};
use crate::scenario::file::BootEnd;

/// A guest that says nothing has so long until its agent's first word. Generous: emulated, on a shared machine.
const FIRST_WORD: Duration = Duration::from_secs(300);
/// A first try gets so long until its agent's first word, and is then started once more: TCG loses a timer now and then, and that processor
/// sleeps for ever (seen once in some hundred boots). Nothing was exercised until then, so nothing is lost.
const FIRST_TRY: Duration = Duration::from_secs(90);
/// The least that a silent guest gets (design: max(60 s, 10 × boot time)).
const SILENCE_MIN: Duration = Duration::from_secs(60);
/// What the kernel says when it has no memory for the files of its initramfs (init/initramfs.c:do_populate_rootfs).
const UNPACK_FAILED: &str = "Initramfs unpacking failed: write error";
/// How long a guest whose plan is done may take to power off.
const POWER_OFF: Duration = Duration::from_secs(60);

/// What a boot's stages took, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Stages {
    /// From QEMU's start to the agent's first mark.
    pub boot_ms: u64,
    /// Setup steps.
    pub setup_ms: u64,
    /// Workload steps.
    pub workload_ms: u64,
    /// Check steps and the last quiet point.
    pub check_ms: u64,
}

impl fmt::Display for Stages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let s = |ms: u64| format!("{}.{} s", ms / 1000, ms % 1000 / 100);
        let (boot, setup, workload, check) = (
            s(self.boot_ms),
            s(self.setup_ms),
            s(self.workload_ms),
            s(self.check_ms),
        );
        write!(
            f,
            "boot {boot}, set-up {setup}, workload {workload}, check {check}"
        )
    }
}

impl std::ops::AddAssign for Stages {
    fn add_assign(&mut self, other: Stages) {
        self.boot_ms += other.boot_ms;
        self.setup_ms += other.setup_ms;
        self.workload_ms += other.workload_ms;
        self.check_ms += other.check_ms;
    }
}

/// What the supervisor should do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Go on waiting.
    Wait,
    /// Kill QEMU: this is how the boot ended.
    Kill(GuestEnd),
    /// Kill QEMU and start the boot once more.
    Again,
}

/// The state of a boot, fed with what happens. Knows no process and no channel.
#[derive(Debug)]
pub(super) struct Boot<'a> {
    plan: &'a Plan,
    end: BootEnd,
    started: Instant,
    hello: Option<Instant>,
    finished: Option<Instant>,
    last_sign: Instant,
    last_events: u64,
    last_completed: u64,
    /// The kernel has told that something does not get on, and no request or mark came since: more of its words are no sign of life.
    stalled: bool,
    step: Option<(u32, Instant)>,
    stages: Stages,
    last_console: String,
    /// Somebody is at the guest's console or debugs it: silence means nothing.
    attended: bool,
    /// Whether it is started once more if it says nothing.
    first_try: bool,
    /// It could not go on from a saved boot.
    not_resumed: bool,
    /// Its initramfs did not fit.
    no_room: bool,
}

impl<'a> Boot<'a> {
    /// A boot that begins now.
    pub(super) fn new(plan: &'a Plan, end: BootEnd, now: Instant) -> Boot<'a> {
        Boot {
            plan,
            end,
            started: now,
            hello: None,
            finished: None,
            last_sign: now,
            last_events: 0,
            last_completed: 0,
            stalled: false,
            step: None,
            stages: Stages::default(),
            last_console: String::new(),
            attended: false,
            first_try: false,
            not_resumed: false,
            no_room: false,
        }
    }

    /// A boot that is started once more if its agent says nothing.
    #[must_use]
    pub(super) fn first_try(mut self, first_try: bool) -> Boot<'a> {
        self.first_try = first_try;
        self
    }

    /// Whether somebody is at the guest's console.
    pub(super) fn is_attended(&self) -> bool {
        self.attended
    }

    /// Somebody is at the guest's console or debugs it, so silence is no hang.
    #[must_use]
    pub(super) fn attended(mut self, attended: bool) -> Boot<'a> {
        self.attended = attended;
        self
    }

    /// The boot's number, from 1.
    pub(super) fn number(&self) -> u32 {
        self.plan.boot
    }

    /// The name of what goes on now.
    pub(super) fn stage(&self) -> String {
        match (self.finished, self.step, self.hello) {
            (Some(_), _, _) => "power off".into(),
            (None, Some((step, _)), _) => self.step_name(step).to_owned(),
            (None, None, Some(_)) => "between steps".into(),
            (None, None, None) => "boot".into(),
        }
    }

    /// What the stages took so far.
    pub(super) fn stages(&self) -> Stages {
        self.stages
    }

    /// The step after which QEMU is killed in mid-load: the last one in the foreground, where steps in the background may still run.
    fn kills_after(&self) -> Option<u32> {
        if self.end != BootEnd::Kill {
            return None;
        }
        let steps = &self.plan.steps;
        let last = steps.iter().rposition(|step| !step.background)?;
        let loaded = steps[..last]
            .iter()
            .rev()
            .take_while(|step| step.action != StepAction::Join)
            .any(|step| step.background);
        let joins = steps[last].action == StepAction::Join;
        (loaded && !joins)
            .then(|| u32::try_from(last).ok())
            .flatten()
    }

    fn step_name(&self, step: u32) -> &str {
        usize::try_from(step)
            .ok()
            .and_then(|at| self.plan.steps.get(at))
            .map_or("a step", |step| &step.name)
    }

    /// A mark came. `Some`: the name of a stage that begins.
    pub(super) fn mark(&mut self, mark: &Mark, now: Instant) -> Option<String> {
        self.last_sign = now;
        self.stalled = false;
        match mark {
            Mark::Hello(_) => {
                self.hello = Some(now);
                self.stages.boot_ms = ms(now - self.started);
                None
            }
            Mark::StepBegin { step } => {
                self.step = Some((*step, now));
                Some(self.step_name(*step).to_owned())
            }
            Mark::StepEnd { step, ok, .. } => {
                if *ok && self.kills_after() == Some(*step) {
                    self.finished = Some(now);
                }
                let (running, since) = self.step.take()?;
                if running == *step {
                    let took = ms(now - since);
                    let kind = usize::try_from(*step)
                        .ok()
                        .and_then(|at| self.plan.steps.get(at))
                        .map(|step| step.kind);
                    match kind {
                        Some(StepKind::Setup) => self.stages.setup_ms += took,
                        Some(StepKind::Workload) => self.stages.workload_ms += took,
                        Some(StepKind::Check) => self.stages.check_ms += took,
                        None => {}
                    }
                }
                None
            }
            Mark::Finish { .. } => {
                self.finished = Some(now);
                Some("power off".into())
            }
            Mark::Intent(_)
            | Mark::Pages(_)
            | Mark::Target(_)
            | Mark::WorkloadEnd { .. }
            | Mark::ReadBackEnd { .. }
            | Mark::BadRead { .. }
            | Mark::Survey { .. }
            | Mark::Quiet { .. }
            | Mark::Admin(_)
            | Mark::Sync(_)
            | Mark::Fact { .. } => None,
        }
    }

    /// The sequence stands at this number (lines of the console have one, too), and so many requests were completed.
    pub(super) fn events(&mut self, last: u64, completed: u64, now: Instant) {
        if completed != self.last_completed {
            self.stalled = false;
        }
        if last != self.last_events && !self.stalled {
            self.last_sign = now;
        }
        (self.last_events, self.last_completed) = (last, completed);
    }

    /// The guest could not go on from a saved boot.
    pub(super) fn not_resumed(&mut self) {
        self.not_resumed = true;
    }

    /// Whether the agent has said its first word.
    pub(super) fn is_up(&self) -> bool {
        self.hello.is_some()
    }

    /// The guest's console said something.
    pub(super) fn console(&mut self, line: &str, now: Instant) {
        self.stalled |= guest_health::tells_of_stall(line);
        if !self.stalled {
            self.last_sign = now;
        }
        line.clone_into(&mut self.last_console);
        self.no_room |= line.contains(UNPACK_FAILED);
    }

    /// Whether it is time to end it.
    pub(super) fn next(&self, now: Instant) -> Next {
        if let Some(finished) = self.finished {
            if self.end == BootEnd::Kill {
                return Next::Kill(GuestEnd::Killed {
                    why: "killed after its last step, as the scenario says".into(),
                });
            }
            if now - finished > POWER_OFF {
                let why = format!(
                    "did not power off within {} s of the end of its plan",
                    POWER_OFF.as_secs()
                );
                return Next::Kill(GuestEnd::Hung { why });
            }
            return Next::Wait;
        }
        if self.no_room && self.hello.is_none() {
            let why = "never booted: its initramfs does not fit its memory; give it more (`memory_mib` in the scenario, or --mem)";
            return Next::Kill(GuestEnd::Lost { why: why.into() });
        }
        if self.not_resumed && self.hello.is_none() {
            return Next::Again;
        }
        if self.first_try
            && self.hello.is_none()
            && !self.attended
            && now - self.started > FIRST_TRY
        {
            return Next::Again;
        }
        let limit = match self.hello {
            None => FIRST_WORD,
            Some(hello) => SILENCE_MIN.max(10 * (hello - self.started)),
        };
        if self.attended || now - self.last_sign <= limit {
            return Next::Wait;
        }
        let last = if self.last_console.is_empty() {
            "nothing".to_owned()
        } else {
            format!("`{}`", self.last_console)
        };
        let silence = if self.stalled {
            "nothing but its kernel's word that it is stuck"
        } else {
            "no request, mark or console line"
        };
        let why = format!(
            "{silence} for {} s in stage `{}`; the console's last line: {last}",
            limit.as_secs(),
            self.stage()
        );
        Next::Kill(if self.hello.is_some() {
            GuestEnd::Hung { why }
        } else {
            GuestEnd::Lost {
                why: format!("never booted: {why}"),
            }
        })
    }

    /// How it ended, when QEMU ended by itself.
    pub(super) fn exited(&self, status: &str) -> GuestEnd {
        match (self.finished, self.hello) {
            (Some(_), _) => GuestEnd::PoweredOff,
            (None, Some(_)) => GuestEnd::Lost {
                why: format!("QEMU ended ({status}) in stage `{}`", self.stage()),
            },
            (None, None) => GuestEnd::Lost {
                why: format!("never booted: QEMU ended ({status}) before the agent's first word"),
            },
        }
    }
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mark::Hello;
    use crate::plan::Step;

    fn plan() -> Plan {
        Plan {
            version: 1,
            run: 1,
            seed: 1,
            boot: 1,
            legs: vec![],
            crypt_key: None,
            woken: None,
            steps: vec![],
        }
    }

    fn hello() -> Mark {
        Mark::Hello(Hello {
            agent: String::new(),
            release: String::new(),
            boot: 1,
            init: true,
            tainted: 0,
        })
    }

    #[test]
    fn a_guest_that_ends_is_called_what_it_was() {
        let (plan, now) = (plan(), crate::clock::now());
        let mut boot = Boot::new(&plan, BootEnd::PowerOff, now);
        assert!(
            matches!(boot.exited("status 0"), GuestEnd::Lost { why } if why.starts_with("never booted"))
        );
        boot.mark(&hello(), now);
        assert!(
            matches!(boot.exited("status 0"), GuestEnd::Lost { why } if why.contains("between steps"))
        );
        boot.mark(&Mark::Finish { ok: true }, now);
        assert_eq!(boot.exited("status 0"), GuestEnd::PoweredOff);
        assert_eq!(boot.next(now), Next::Wait);
    }

    #[test]
    fn silence_is_a_hang_only_after_the_agents_first_word() {
        let (plan, start) = (plan(), crate::clock::now());
        let mut boot = Boot::new(&plan, BootEnd::PowerOff, start);
        let late = start + FIRST_WORD + Duration::from_secs(1);
        assert!(
            matches!(boot.next(late), Next::Kill(GuestEnd::Lost { why }) if why.starts_with("never booted"))
        );
        boot.mark(&hello(), start + Duration::from_secs(7));
        boot.console("last words", start + Duration::from_secs(8));
        assert_eq!(boot.next(start + Duration::from_secs(70)), Next::Wait);
        let late = start + Duration::from_secs(79);
        assert!(
            matches!(boot.next(late), Next::Kill(GuestEnd::Hung { why }) if why.contains("`last words`"))
        );
        boot.events(77, 0, late);
        assert_eq!(boot.next(late), Next::Wait);
    }

    #[test]
    fn a_guest_that_only_says_that_it_is_stuck_is_hung() {
        let (plan, start) = (plan(), crate::clock::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let stall = "[  349.819494] rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:";
        let said = |completed: &dyn Fn(u64) -> u64| {
            let mut boot = Boot::new(&plan, BootEnd::PowerOff, start);
            boot.mark(&hello(), at(5));
            for turn in 1..6 {
                let now = at(5 + 50 * turn);
                boot.console(stall, now);
                boot.console("[  349.825236] Call Trace:", now);
                boot.events(2 * turn, completed(turn), now);
                if let Next::Kill(GuestEnd::Hung { why }) = boot.next(now) {
                    assert!(why.starts_with("nothing but its kernel's word"), "{why}");
                    return Some(turn);
                }
            }
            None
        };
        assert_eq!(said(&|_| 7), Some(3));
        // Its other processor works.
        assert_eq!(said(&|turn| turn), None);
    }

    #[test]
    fn a_guest_without_room_for_its_initramfs_is_told_at_once() {
        let (plan, now) = (plan(), crate::clock::now());
        let mut boot = Boot::new(&plan, BootEnd::PowerOff, now).first_try(true);
        boot.console(
            "[    3.096937] Initramfs unpacking failed: write error",
            now,
        );
        assert!(
            matches!(boot.next(now), Next::Kill(GuestEnd::Lost { why }) if why.contains("--mem"))
        );
    }

    #[test]
    fn a_first_try_that_says_nothing_is_started_once_more() {
        let (plan, start) = (plan(), crate::clock::now());
        let late = start + FIRST_TRY + Duration::from_secs(1);
        let mut boot = Boot::new(&plan, BootEnd::PowerOff, start).first_try(true);
        boot.console("rcu: INFO: rcu_preempt detected stalls", late);
        assert_eq!(boot.next(late), Next::Again);
        boot.mark(&hello(), late);
        assert_eq!(boot.next(late), Next::Wait);
        let second = Boot::new(&plan, BootEnd::PowerOff, start).first_try(false);
        assert_eq!(second.next(late), Next::Wait);
    }

    #[test]
    fn one_that_can_not_go_on_from_a_saved_boot_is_started_afresh() {
        let (plan, now) = (plan(), crate::clock::now());
        let mut boot = Boot::new(&plan, BootEnd::PowerOff, now).first_try(true);
        assert_eq!(boot.next(now), Next::Wait);
        boot.not_resumed();
        assert_eq!(boot.next(now), Next::Again);
        boot.mark(&hello(), now);
        assert_eq!(boot.next(now), Next::Wait);
    }

    #[test]
    fn a_boot_that_ends_by_a_kill_is_killed_after_its_plan() {
        let (plan, now) = (plan(), crate::clock::now());
        let mut boot = Boot::new(&plan, BootEnd::Kill, now);
        boot.mark(&hello(), now);
        assert_eq!(boot.next(now), Next::Wait);
        boot.mark(&Mark::Finish { ok: true }, now);
        assert!(matches!(
            boot.next(now),
            Next::Kill(GuestEnd::Killed { .. })
        ));
    }

    #[test]
    fn a_boot_that_ends_by_a_kill_ends_while_steps_in_the_background_run() {
        let step = |action, background| Step {
            kind: StepKind::Workload,
            name: String::new(),
            action,
            background,
        };
        let shell = || StepAction::Shell {
            command: String::new(),
            timeout_s: 1,
        };
        let killed_after = |steps: Vec<Step>| {
            let plan = Plan { steps, ..plan() };
            Boot::new(&plan, BootEnd::Kill, crate::clock::now()).kills_after()
        };
        let load = || step(shell(), true);
        let wait = || step(shell(), false);
        let join = || step(StepAction::Join, false);
        assert_eq!(killed_after(vec![wait(), load(), wait()]), Some(2));
        assert_eq!(killed_after(vec![wait(), wait(), load()]), None);
        assert_eq!(killed_after(vec![load(), join(), wait()]), None);
        assert_eq!(killed_after(vec![load(), wait(), join()]), None);
        assert_eq!(killed_after(vec![wait()]), None);

        let plan = Plan {
            steps: vec![load(), wait()],
            ..plan()
        };
        let now = crate::clock::now();
        let end = |step, ok| Mark::StepEnd {
            step,
            ok,
            detail: String::new(),
        };
        let mut boot = Boot::new(&plan, BootEnd::Kill, now);
        boot.mark(&hello(), now);
        boot.mark(&end(1, false), now);
        assert_eq!(boot.next(now), Next::Wait);
        boot.mark(&end(1, true), now);
        assert!(matches!(
            boot.next(now),
            Next::Kill(GuestEnd::Killed { .. })
        ));
    }
}
