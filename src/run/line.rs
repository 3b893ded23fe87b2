//! The line to the witness: what was told and is not on record yet, so that it can be told again to a witness that takes a killed one's place.

use std::collections::VecDeque;

use crate::plan::Plan;
use crate::witness::wire::{Command, GoOn, Notice};

/// The line.
#[derive(Debug, Default)]
pub(super) struct Line {
    /// The plan of the boot that was begun last.
    pub(super) plan: Option<Box<Plan>>,
    /// Commands that become events and that were told, ever, up to the first of `open`.
    on_record: u64,
    open: VecDeque<Command>,
    /// A question that waits for its answer.
    asked: Option<Command>,
    /// News that came, ever.
    news: u64,
    /// Witnesses that are gone.
    killed: u64,
    /// Whether the witness was there once.
    was_ready: bool,
    /// Whether it is there.
    ready: bool,
}

impl Line {
    /// Notes a command; whether the witness is there to be told.
    pub(super) fn says(&mut self, command: &Command) -> bool {
        if command.is_event() {
            self.open.push_back(command.clone());
        } else {
            self.asked = Some(command.clone());
        }
        self.ready
    }

    /// Notes what the witness said; what it is to be told now.
    pub(super) fn heard(&mut self, notice: &Notice) -> Vec<Command> {
        self.news += u64::from(notice.is_news());
        match notice {
            Notice::Ready { told, .. } => {
                self.recorded(*told);
                self.was_ready = true;
                self.ready = true;
                return self.open.iter().chain(&self.asked).cloned().collect();
            }
            Notice::Live(live) => self.recorded(live.told),
            Notice::CaughtUp | Notice::Done(_) => self.asked = None,
            Notice::Mark(_)
            | Notice::Finding(_)
            | Notice::Cut
            | Notice::Unplug { .. }
            | Notice::Failed { .. } => {}
        }
        Vec::new()
    }

    fn recorded(&mut self, told: u64) {
        while self.on_record < told && self.open.pop_front().is_some() {
            self.on_record += 1;
        }
    }

    /// Whether a witness that is gone had begun the run.
    pub(super) fn was_ready(&self) -> bool {
        self.was_ready
    }

    /// The witness is gone; what the next one has to know.
    pub(super) fn lost(&mut self) -> GoOn {
        self.ready = false;
        self.killed += 1;
        GoOn {
            news: self.news,
            killed: self.killed,
            plan: self.plan.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::witness::wire::Live;

    fn console(line: &str) -> Command {
        Command::Console { line: line.into() }
    }

    fn ready(told: u64) -> Notice {
        Notice::Ready {
            sockets: Vec::new(),
            told,
        }
    }

    fn lines(commands: &[Command]) -> Vec<String> {
        let line = |command: &Command| match command {
            Command::Console { line } => line.clone(),
            Command::CatchUp => "catch up".into(),
            Command::Boot { .. }
            | Command::Hand { .. }
            | Command::GuestEnded { .. }
            | Command::Finish { .. } => "?".into(),
        };
        commands.iter().map(line).collect()
    }

    #[test]
    fn what_is_not_on_record_is_told_again_once() {
        let mut line = Line::default();
        assert!(!line.was_ready());
        assert!(line.heard(&ready(0)).is_empty());
        for word in ["a", "b", "c", "d"] {
            assert!(line.says(&console(word)));
        }
        assert!(line.says(&Command::CatchUp));
        line.heard(&Notice::Live(Live {
            told: 1,
            ..Live::default()
        }));
        line.heard(&Notice::Finding("x".into()));
        assert!(line.was_ready());
        let go_on = line.lost();
        assert_eq!((go_on.news, go_on.killed), (1, 1));
        assert!(!line.says(&console("e")), "nobody is there");
        // The second and third were recorded and not confirmed.
        let again = line.heard(&ready(3));
        assert_eq!(lines(&again), ["d", "e", "catch up"]);
        line.heard(&Notice::CaughtUp);
        let go_on = line.lost();
        assert_eq!((go_on.news, go_on.killed), (1, 2));
        assert_eq!(lines(&line.heard(&ready(4))), ["e"]);
        assert!(line.heard(&ready(5)).is_empty());
    }
}
