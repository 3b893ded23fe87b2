//! The supervisor's loop: one witness, one QEMU a boot, and whoever dies, no QEMU is left.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::Duration;

use crate::clock;
use crate::event::GuestEnd;
use crate::failure::Failure;
use crate::plan::Plan;
use crate::progress::Progress;
use crate::qemu::{self, ConsoleLine, Exit, Launch};
use crate::run::boot::{Boot, Next, Stages};
use crate::run::child::WitnessChild;
use crate::run::happening::Happening;
use crate::run::line::Line;
use crate::run::saved::Resume;
use crate::run::unplug::Unplugger;
use crate::scenario::file::BootEnd;
use crate::witness::wire::{Command, Notice, Summary};

/// How often a witness that was killed is restarted in one run: somebody, or the machine, may go on killing it.
const RESTARTS_MAX: u32 = 20;
/// How often the loop looks at the clock when nothing happens.
const TICK: Duration = Duration::from_millis(100);

/// The supervisor.
#[derive(Debug)]
pub(super) struct Supervisor {
    happenings: Receiver<Happening>,
    sender: Sender<Happening>,
    witness: WitnessChild,
    config: PathBuf,
    line: Line,
    /// Whether another witness can take up the run of one that was killed.
    may_go_on: bool,
    /// How often the witness was restarted.
    restarts: u32,
    progress: Progress,
    legs: Vec<String>,
    sockets: Vec<(String, PathBuf)>,
    console: BufWriter<File>,
    stop_on_finding: bool,
    interrupted: bool,
    /// The power of the legs was cut in this boot.
    cut: bool,
    findings: u64,
    stages: Stages,
    guests: u32,
    unplugger: Option<Unplugger>,
    /// Told to who waits to put a leg back: whether this boot is over.
    over: Arc<AtomicBool>,
    /// What a rule wanted of QEMU and could not have.
    failed: Option<String>,
}

/// How a try of a boot ended.
enum Tried {
    /// For good: whether as its scenario has it.
    InOrder(bool),
    /// Before the agent's first word.
    Again { why: String },
}

/// How a run ended.
#[derive(Debug)]
pub(super) struct Ended {
    /// The witness's verdict.
    pub summary: Summary,
    /// What the stages took.
    pub stages: Stages,
    /// Whether somebody ended it.
    pub interrupted: bool,
}

impl Supervisor {
    /// Starts the witness and waits until its sockets listen. What happens comes through the channel, interrupts too.
    ///
    /// # Errors
    /// What the witness says it can't do, or a process that can't be started.
    pub(super) fn start(
        (sender, happenings): (Sender<Happening>, Receiver<Happening>),
        config: &Path,
        console: File,
        legs: Vec<String>,
        stop_on_finding: bool,
        may_go_on: bool,
        progress: Progress,
    ) -> Result<Supervisor, Failure> {
        let witness =
            WitnessChild::start(config, None, sender.clone()).map_err(Failure::internal)?;
        let mut supervisor = Supervisor {
            happenings,
            sender,
            witness,
            config: config.to_owned(),
            line: Line::default(),
            may_go_on,
            restarts: 0,
            progress,
            legs,
            sockets: Vec::new(),
            console: BufWriter::new(console),
            stop_on_finding,
            interrupted: false,
            cut: false,
            findings: 0,
            stages: Stages::default(),
            guests: 0,
            unplugger: None,
            over: Arc::default(),
            failed: None,
        };
        loop {
            match supervisor.wait()? {
                Some(Happening::Notice(Notice::Ready { sockets, .. })) => {
                    supervisor.sockets = sockets;
                    return Ok(supervisor);
                }
                Some(Happening::Interrupted) => return Err(Failure::Interrupted),
                _ => {}
            }
        }
    }

    /// Each leg's socket, by name; last the control leg's.
    pub(super) fn sockets(&self) -> &[(String, PathBuf)] {
        &self.sockets
    }

    /// Who takes legs away from the guest when rules say so.
    pub(super) fn may_unplug(&mut self, unplugger: Unplugger) {
        self.unplugger = Some(unplugger);
    }

    /// Guests that were started.
    pub(super) fn guests(&self) -> u32 {
        self.guests
    }

    /// Whether the run is to end now.
    pub(super) fn stopped(&self) -> bool {
        self.interrupted || (self.stop_on_finding && self.findings > 0)
    }

    /// Runs one boot to its end; with `resume` it goes on from a saved one, and boots afresh if it can't. `Ok(true)`: as its scenario has it, so that the
    /// next one may follow.
    ///
    /// # Errors
    /// If QEMU can't be started, or the witness is gone.
    pub(super) fn boot(
        &mut self,
        plan: &Plan,
        end: BootEnd,
        launch: &Launch,
        resume: Option<&Resume>,
        attended: bool,
    ) -> Result<bool, Failure> {
        match self.one_try(plan, end, launch, resume, attended, true)? {
            Tried::InOrder(in_order) => return Ok(in_order),
            Tried::Again { why } => self.progress.line(&format!("legwatch: the guest {why}")),
        }
        if resume.is_some() {
            self.tell(&Command::Hand {
                what: "the guest boots afresh: the saved boot was of no use".into(),
            });
        }
        match self.one_try(plan, end, launch, None, attended, false)? {
            Tried::InOrder(in_order) => Ok(in_order),
            Tried::Again { .. } => unreachable!("a second try is the last"),
        }
    }

    /// One try of a boot. A first one that never came to the agent's first word has not touched the legs, and emulation loses a boot now
    /// and then, so it is to be made once more.
    fn one_try(
        &mut self,
        plan: &Plan,
        end: BootEnd,
        launch: &Launch,
        resume: Option<&Resume>,
        attended: bool,
        first_try: bool,
    ) -> Result<Tried, Failure> {
        let number = plan.boot;
        self.line.plan = Some(Box::new(plan.clone()));
        self.cut = false;
        self.over = Arc::default();
        self.tell(&Command::Boot {
            boot: number,
            plan: Box::new(plan.clone()),
        });
        let mut boot = Boot::new(plan, end, clock::now())
            .attended(attended)
            .first_try(first_try);
        self.progress.stage(&format!("boot {number}: booting"));
        let console = self.sender.clone();
        let on_line = move |line| {
            let _supervisor_is_gone = console.send(Happening::Console(line));
        };
        let started = resume.map_or(launch, Resume::launch);
        let mut guest = qemu::launch(started, on_line, |_| {}).map_err(Failure::inconclusive)?;
        self.guests += 1;
        if let Some(resume) = resume {
            resume
                .begin(Arc::clone(&self.over), self.sender.clone())
                .map_err(Failure::internal)?;
        }
        let mut killed: Option<GuestEnd> = None;
        let mut again: Option<String> = None;
        let exit = loop {
            if let Some(happening) = self.wait()? {
                self.meet(happening, &mut boot)?;
            }
            if let Some(exit) = guest.wait(Duration::ZERO) {
                break exit;
            }
            if killed.is_none() {
                let how = match self.next(&boot) {
                    Next::Wait => continue,
                    Next::Kill(how) => how,
                    Next::Again => {
                        let why = match resume {
                            Some(_) => "did not go on from the saved boot; it boots afresh",
                            None => {
                                "said nothing while it booted (an emulated timer that was lost does that); started once more"
                            }
                        };
                        again = Some(why.to_owned());
                        GuestEnd::Again { why: why.into() }
                    }
                };
                guest.killer().kill();
                killed = Some(how);
            }
        };
        self.over.store(true, Ordering::Release);
        // The last words were said before the end, and the checker may be behind: what it has not taken yet is news of this boot too.
        self.tell(&Command::CatchUp);
        loop {
            match self.wait()? {
                Some(Happening::Notice(Notice::CaughtUp)) => break,
                Some(happening) => self.meet(happening, &mut boot)?,
                None => {}
            }
        }
        while let Ok(happening) = self.happenings.try_recv() {
            let happening = self.meet_anywhere(happening)?;
            self.meet(happening, &mut boot)?;
        }
        // Somebody at its console may have ended it on purpose.
        let on_purpose = attended && resume.is_none();
        if killed.is_none() && first_try && !boot.is_up() && !on_purpose && !self.stopped() {
            let why = match resume {
                Some(_) => format!(
                    "could not go on from the saved boot (QEMU ended: {}); it boots afresh",
                    in_words(&exit)
                ),
                None => format!(
                    "was lost while it booted (QEMU ended: {}); started once more",
                    in_words(&exit)
                ),
            };
            again = Some(why.clone());
            killed = Some(GuestEnd::Again { why });
        }
        self.console.flush().map_err(Failure::internal)?;
        self.stages += boot.stages();
        let how = killed.unwrap_or_else(|| boot.exited(&in_words(&exit)));
        let in_order = match (&how, end) {
            (GuestEnd::PoweredOff, _) => true,
            (GuestEnd::Killed { .. }, BootEnd::Kill) => !self.stopped(),
            (GuestEnd::Killed { .. }, BootEnd::PowerOff) if self.cut => !self.stopped(),
            (
                GuestEnd::Killed { .. }
                | GuestEnd::Lost { .. }
                | GuestEnd::Hung { .. }
                | GuestEnd::Again { .. },
                _,
            ) => false,
        };
        self.tell(&Command::GuestEnded { boot: number, how });
        Ok(match again {
            Some(why) => Tried::Again { why },
            None => Tried::InOrder(in_order),
        })
    }

    /// Takes what happened during a boot.
    fn meet(&mut self, happening: Happening, boot: &mut Boot<'_>) -> Result<(), Failure> {
        let now = clock::now();
        match happening {
            Happening::Notice(Notice::Mark(mark)) => {
                if let Some(stage) = boot.mark(&mark, now) {
                    self.progress
                        .stage(&format!("boot {}: {stage}", boot.number()));
                }
            }
            Happening::Notice(Notice::Live(live)) => {
                boot.events(live.events, live.completed.iter().sum(), now);
                self.progress.live(&live, &self.legs);
            }
            Happening::Console(ConsoleLine { text, .. }) => {
                boot.console(&text, now);
                if boot.is_attended() {
                    self.progress.line(&text);
                }
                writeln!(self.console, "{text}").map_err(Failure::internal)?;
                self.tell(&Command::Console { line: text });
            }
            Happening::Notice(Notice::Unplug { leg, ms }) => self.unplug(leg, ms),
            Happening::Hand(what) => self.tell(&Command::Hand { what }),
            Happening::HandFailed(why) => self.failed = Some(why),
            Happening::NotResumed(why) => {
                self.progress.line(&format!("legwatch: {why}"));
                boot.not_resumed();
            }
            Happening::Notice(_)
            | Happening::Interrupted
            | Happening::Nonsense(_)
            | Happening::WitnessGone => {}
        }
        Ok(())
    }

    fn unplug(&mut self, leg: u8, back: Option<u32>) {
        let at = usize::from(leg);
        let name = self.legs.get(at).map_or("?", String::as_str);
        let (over, sender) = (Arc::clone(&self.over), self.sender.clone());
        let begun = match &self.unplugger {
            Some(unplugger) => unplugger.unplug(at, name, back, over, sender),
            None => Err(std::io::ErrorKind::Unsupported.into()),
        };
        if let Err(error) = begun {
            self.failed = Some(format!("leg {name} could not be unplugged: {error}"));
        }
    }

    fn next(&self, boot: &Boot<'_>) -> Next {
        if self.interrupted {
            Next::Kill(GuestEnd::Killed {
                why: "the run was interrupted".into(),
            })
        } else if self.stopped() {
            Next::Kill(GuestEnd::Killed {
                why: "stopped at the first finding".into(),
            })
        } else if let Some(why) = &self.failed {
            Next::Kill(GuestEnd::Lost { why: why.clone() })
        } else if self.cut {
            Next::Kill(GuestEnd::Killed {
                why: "the power was cut".into(),
            })
        } else {
            boot.next(clock::now())
        }
    }

    /// Ends the witness and takes its verdict.
    ///
    /// # Errors
    /// If the witness is gone or can't write its report.
    pub(super) fn finish(mut self) -> Result<Ended, Failure> {
        self.progress.stage("verdict");
        self.tell(&Command::Finish {
            interrupted: self.interrupted,
        });
        loop {
            if let Some(Happening::Notice(Notice::Done(summary))) = self.wait()? {
                self.witness.wait();
                self.progress.end();
                return Ok(Ended {
                    summary,
                    stages: self.stages,
                    interrupted: self.interrupted,
                });
            }
        }
    }

    /// The witness was killed: another one takes its place.
    fn restart(&mut self, how: &str) -> Result<(), Failure> {
        self.restarts += 1;
        self.progress.line(&format!(
            "legwatch: the witness's process was killed ({how}); restarted, the run goes on ({} of at most {RESTARTS_MAX} times)",
            self.restarts
        ));
        let go_on = self.line.lost();
        self.witness = WitnessChild::start(&self.config, Some(&go_on), self.sender.clone())
            .map_err(Failure::internal)?;
        Ok(())
    }

    /// Tells the witness something, now or once it is there again.
    fn tell(&mut self, command: &Command) {
        if self.line.says(command) {
            self.witness.tell(command);
        }
    }

    /// The next happening, if one comes soon. What every stage must react to is dealt with here.
    fn wait(&mut self) -> Result<Option<Happening>, Failure> {
        let happening = match self.happenings.recv_timeout(TICK) {
            Ok(happening) => happening,
            Err(RecvTimeoutError::Timeout) => return Ok(None),
            Err(RecvTimeoutError::Disconnected) => {
                unreachable!("the supervisor holds a sender itself")
            }
        };
        self.meet_anywhere(happening).map(Some)
    }

    /// What every stage reacts to in the same way.
    fn meet_anywhere(&mut self, happening: Happening) -> Result<Happening, Failure> {
        if let Happening::Notice(notice) = &happening {
            for command in self.line.heard(notice) {
                self.witness.tell(&command);
            }
        }
        match &happening {
            Happening::Interrupted => {
                if !self.interrupted {
                    self.progress
                        .line("legwatch: interrupted; ending the guest and keeping what was seen");
                }
                self.interrupted = true;
            }
            Happening::Notice(Notice::Cut) => self.cut = true,
            Happening::Notice(Notice::Finding(headline)) => {
                self.findings += 1;
                self.progress.line(&format!("finding: {headline}"));
            }
            Happening::Notice(Notice::Failed { message, user }) => {
                self.progress.end();
                return Err(if *user {
                    Failure::user(message.clone())
                } else {
                    Failure::internal(message.clone())
                });
            }
            Happening::Nonsense(text) => {
                return Err(Failure::internal(format!(
                    "the witness said something odd: {text}"
                )));
            }
            Happening::WitnessGone => {
                let (how, by_others) = self.witness.wait();
                if by_others
                    && self.may_go_on
                    && self.restarts < RESTARTS_MAX
                    && self.line.was_ready()
                {
                    return self.restart(&how).map(|()| happening);
                }
                self.progress.end();
                return Err(Failure::internal(format!(
                    "the witness's process ended before its verdict ({how}); `legwatch check` judges its journal up to then"
                )));
            }
            Happening::Notice(_)
            | Happening::Console(_)
            | Happening::Hand(_)
            | Happening::HandFailed(_)
            | Happening::NotResumed(_) => {}
        }
        Ok(happening)
    }
}

/// How QEMU's process ended, in words.
fn in_words(exit: &Exit) -> String {
    let status = match (exit.code, exit.signal) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "nobody knows how".into(),
    };
    match exit.last_words.last() {
        Some(words) => format!("{status}, saying `{words}`"),
        None => status,
    }
}
