//! What a witness tells its supervisor, and what of it follows from the events alone.

use std::sync::mpsc::Sender;

use crate::event::{Action, Event, EventNo, What};
use crate::judge::Judge;
use crate::mark::Mark;
use crate::witness::wire::Notice;

/// Tells what happens. A witness that goes on tells again what was not heard, and nothing twice.
#[derive(Debug)]
pub(super) struct News {
    notices: Sender<Notice>,
    /// News that were heard already.
    heard: u64,
    /// Whether a finding was told.
    found: bool,
    /// From which event on it is looked for one.
    look: EventNo,
}

/// Events until the next look, where there is a finding that may still be taken back.
const LOOK_AGAIN: u64 = 64;

impl News {
    pub(super) fn new(notices: Sender<Notice>, heard: u64) -> News {
        News {
            notices,
            heard,
            found: false,
            look: EventNo(0),
        }
    }

    pub(super) fn notices(&self) -> Sender<Notice> {
        self.notices.clone()
    }

    pub(super) fn tell(&self, notice: Notice) {
        let _nobody_listens = self.notices.send(notice);
    }

    fn once(&mut self, notice: Notice) {
        if self.heard > 0 {
            self.heard -= 1;
        } else {
            self.tell(notice);
        }
    }

    /// The judge has just taken an event.
    pub(super) fn take(&mut self, judge: &Judge, event: &Event) {
        if !self.found && event.no >= self.look && judge.has_proven() {
            match judge.first_proven() {
                Some(headline) => {
                    self.found = true;
                    self.once(Notice::Finding(headline));
                }
                None => self.look = EventNo(event.no.0.saturating_add(LOOK_AGAIN)),
            }
        }
        if let What::Mark(mark) = &event.what
            && is_news(mark)
        {
            self.once(Notice::Mark(mark.clone()));
        }
        if let What::Decided(decided) = &event.what
            && let Action::Unplug { ms } = decided.action
        {
            let leg = decided.request.leg.0;
            self.once(Notice::Unplug { leg, ms });
        }
    }
}

/// Marks that the supervisor wants to hear of.
fn is_news(mark: &Mark) -> bool {
    match mark {
        Mark::Intent(_) | Mark::Pages(_) | Mark::Survey { .. } | Mark::Sync(_) => false,
        Mark::Hello(_)
        | Mark::Target(_)
        | Mark::StepBegin { .. }
        | Mark::StepEnd { .. }
        | Mark::WorkloadEnd { .. }
        | Mark::ReadBackEnd { .. }
        | Mark::BadRead { .. }
        | Mark::Quiet { .. }
        | Mark::Fact { .. }
        | Mark::Admin(_)
        | Mark::Finish { .. } => true,
    }
}
