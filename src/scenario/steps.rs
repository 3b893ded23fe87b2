//! Steps as a scenario's file has them, checked one by one, into steps of the plan.

use super::file::StepFile;
use super::{Boot, STEP_TIMEOUT_S};
use crate::mark::AdminAction;
use crate::plan::{Step, StepAction, StepKind};

/// Gives devices their target numbers and writers theirs, over all boots.
#[derive(Default)]
pub(super) struct Targets {
    devices: Vec<String>,
    writers: u16,
}

impl Targets {
    fn number(&mut self, device: &str) -> u16 {
        let at = self
            .devices
            .iter()
            .position(|known| known == device)
            .unwrap_or_else(|| {
                self.devices.push(device.to_owned());
                self.devices.len() - 1
            });
        u16::try_from(at).expect("a scenario has few devices")
    }

    pub(super) fn step(&mut self, kind: StepKind, step: StepFile) -> Result<Step, String> {
        let StepFile {
            name,
            run,
            write,
            read_back,
            survey,
            quiet,
            join,
            md,
            array,
            fact,
            background,
            timeout_s,
        } = step;
        let timeout_s = timeout_s.unwrap_or(STEP_TIMEOUT_S);
        if timeout_s == 0 {
            return Err("timeout_s = 0; give it time".into());
        }
        let mut actions = Vec::new();
        if let Some(command) = run {
            actions.push((
                command.lines().next().unwrap_or("").to_owned(),
                StepAction::Shell { command, timeout_s },
            ));
        }
        if let Some(write) = write {
            let about = format!("{} writes to {}", write.writes, write.device);
            let target = self.number(&write.device);
            let first_writer = self.writers;
            let load = write.load(target, first_writer)?;
            self.writers = first_writer
                .checked_add(load.writers)
                .ok_or("more than 65535 writers in all")?;
            actions.push((about, StepAction::Write(Box::new(load))));
        }
        if let Some(device) = read_back {
            actions.push((
                format!("read back {device}"),
                StepAction::ReadBack { device },
            ));
        }
        if let Some(survey) = survey {
            let target = self.number(&survey.device);
            actions.push((
                format!("survey of {}", survey.device),
                StepAction::Survey {
                    device: survey.device,
                    target,
                    start: survey.start,
                    count: survey.count,
                },
            ));
        }
        if quiet == Some(true) {
            actions.push(("quiet point".into(), StepAction::Quiet { timeout_s }));
        }
        if join == Some(true) {
            actions.push(("join".into(), StepAction::Join));
        }
        if array.is_some() && md.is_none() {
            return Err("array without md; it names the array that md = … is done to".into());
        }
        if let Some(text) = md {
            let (action, leg) = admin(&text)?;
            let device = array.unwrap_or_else(|| "/dev/md0".into());
            actions.push((
                text,
                StepAction::Md {
                    action,
                    device,
                    leg,
                    timeout_s,
                },
            ));
        }
        if let Some(fact) = fact {
            actions.push((
                format!("fact {}", fact.name),
                StepAction::Fact {
                    name: fact.name,
                    path: fact.path,
                },
            ));
        }
        let count = actions.len();
        let Some((about, action)) = actions.pop().filter(|_| count == 1) else {
            return Err(format!(
                "{count} actions; give it exactly one of run, write, read_back, survey, quiet, join, md, fact"
            ));
        };
        if background && kind == StepKind::Setup {
            return Err("background = true in a setup step; only workload and check steps run beside others".into());
        }
        Ok(Step {
            kind,
            name: name.unwrap_or(about),
            action,
            background,
        })
    }
}

/// What `md = "…"` says: the action, and the leg's name where it is about one.
fn admin(text: &str) -> Result<(AdminAction, Option<String>), String> {
    let mut words = text.split_whitespace();
    let action = words.next().unwrap_or_default();
    let action = AdminAction::ALL
        .into_iter()
        .find(|one| one.name() == action)
        .ok_or_else(|| {
            let all: Vec<&str> = AdminAction::ALL.iter().map(|one| one.name()).collect();
            format!("md = \"{text}\"; use one of {}", all.join(", "))
        })?;
    let leg = words.next().map(str::to_owned);
    if words.next().is_some() || leg.is_some() != action.of_leg() {
        let form = if action.of_leg() { " LEG" } else { "" };
        return Err(format!(
            "md = \"{text}\"; write it as \"{}{form}\"",
            action.name()
        ));
    }
    Ok((action, leg))
}

/// Whether every `read_back` has something to read back.
pub(super) fn check_read_backs(boots: &[Boot]) -> Result<(), String> {
    for (at, boot) in boots.iter().enumerate() {
        // Of which device it is can't be told here: one may have several names.
        let reads = |step: &Step| matches!(step.action, StepAction::ReadBack { .. });
        let writes = |step: &Step| matches!(step.action, StepAction::Write(_));
        let before = boot.steps.iter().take_while(|step| !reads(step));
        let read = boot.steps.iter().find(|step| reads(step));
        if let Some(step) = read
            && !before.into_iter().any(writes)
        {
            return Err(format!(
                "boot {}, step `{}`: read_back knows what a write step of the same boot wrote, and none comes before it; \
                 use survey for what an earlier boot wrote",
                at.saturating_add(1),
                step.name
            ));
        }
    }
    Ok(())
}
