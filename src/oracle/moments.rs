//! What happened around requests: boots, marks, console lines, decisions of rules. A bounded log for the stories that findings tell.

use std::collections::VecDeque;

use crate::block::{LegId, RequestId, Sector, SectorRange};
use crate::event::{Action, Event, EventNo, FrontendChange, GuestEnd, What};
use crate::finding::StoryLine;
use crate::header::RunHeader;
use crate::mark::Mark;

/// Moments that are remembered.
const MOMENTS_MAX: usize = 4096;
/// Stretches that legs' caches lost at cuts of the power and that are remembered: a cut has thousands, which must not take the other moments' room.
const LOST_MAX: usize = 65_536;
/// Of them, how many one story tells at most: they are few where it is about one sector.
const LOST_TOLD_MAX: usize = 8;
/// Decisions that are remembered.
const DECIDED_MAX: usize = 16_384;
/// Moments that one story tells at most.
const TOLD_MAX: usize = 16;
/// Those among them that come in crowds, as a boot brings them, and must not take the room of how the boot before it ended.
const MINOR_MAX: usize = 8;

/// The log.
#[derive(Debug, Default)]
pub(crate) struct Moments {
    lines: VecDeque<Moment>,
    lost: VecDeque<Moment>,
    decided: VecDeque<Decision>,
}

/// A line, and the place on a leg that it is about, if it is about one alone.
#[derive(Debug)]
struct Moment {
    line: StoryLine,
    place: Option<(LegId, SectorRange)>,
    /// A line of the console, or what became of a device's connection.
    minor: bool,
}

/// What a rule decided about a request.
#[derive(Clone, Debug)]
pub(crate) struct Decision {
    pub(crate) no: EventNo,
    pub(crate) time_us: u64,
    pub(crate) request: RequestId,
    pub(crate) rule: u16,
    pub(crate) what: String,
}

impl Moments {
    /// Takes an event; most are none of its business.
    pub(super) fn take(&mut self, header: &RunHeader, event: &Event) {
        if let What::Decided(decided) = &event.what {
            if self.decided.len() == DECIDED_MAX {
                self.decided.pop_front();
            }
            self.decided.push_back(Decision {
                no: event.no,
                time_us: event.time_us,
                request: decided.request,
                rule: decided.rule,
                what: in_words(&decided.action),
            });
            return;
        }
        let Some((who, what)) = moment(header, event) else {
            return;
        };
        let place = if let What::Lost {
            leg,
            start,
            digests,
            ..
        } = &event.what
        {
            SectorRange::new(*start, digests.len() as u64).map(|range| (*leg, range))
        } else {
            None
        };
        let line = StoryLine {
            event: event.no.0,
            time_us: event.time_us,
            leg: who,
            what,
        };
        let minor = matches!(event.what, What::Console { .. } | What::Frontend { .. });
        let (lines, most) = if place.is_some() {
            (&mut self.lost, LOST_MAX)
        } else {
            (&mut self.lines, MOMENTS_MAX)
        };
        if lines.len() == most {
            lines.pop_front();
        }
        lines.push_back(Moment { line, place, minor });
    }

    /// The moments from one number to another, in order, the last ones where there are many. Of what happened to a part of a leg alone only what `about`
    /// wants to know.
    pub(super) fn between(
        &self,
        from: EventNo,
        to: EventNo,
        about: impl Fn(LegId, SectorRange) -> bool,
    ) -> Vec<StoryLine> {
        let begin = self.lines.partition_point(|one| one.line.event < from.0);
        let end = self.lines.partition_point(|one| one.line.event <= to.0);
        // What is told late may have lines behind it alone.
        let begin = begin.min(end);
        let mut minor = 0;
        let mut told: Vec<StoryLine> = self
            .lines
            .range(begin..end)
            .rev()
            .filter(|one| {
                minor += usize::from(one.minor);
                !one.minor || minor <= MINOR_MAX
            })
            .take(TOLD_MAX)
            .map(|one| one.line.clone())
            .collect();
        told.reverse();
        let begin = self.lost.partition_point(|one| one.line.event < from.0);
        let end = self.lost.partition_point(|one| one.line.event <= to.0);
        let lost = self.lost.range(begin.min(end)..end).rev();
        let lost = lost.filter(|one| one.place.is_some_and(|(leg, range)| about(leg, range)));
        told.extend(lost.take(LOST_TOLD_MAX).map(|one| one.line.clone()));
        told.sort();
        told
    }

    /// The last cut of the power at which a leg lost this sector from its cache.
    pub(super) fn lost(&self, leg: LegId, sector: Sector) -> Option<&StoryLine> {
        let lost = |place: &(LegId, SectorRange)| place.0 == leg && place.1.contains(sector);
        let found = self.lost.iter().rev();
        let mut found = found.filter(|one| one.place.as_ref().is_some_and(lost));
        found.next().map(|one| &one.line)
    }

    /// What rules decided about a request that arrived with this number.
    pub(super) fn about(
        &self,
        request: RequestId,
        arrived: EventNo,
    ) -> impl Iterator<Item = &Decision> {
        let begin = self.decided.partition_point(|one| one.no < arrived);
        self.decided
            .range(begin..)
            .filter(move |one| one.request == request)
    }
}

/// Who did what, where an event is a moment.
pub(crate) fn moment(header: &RunHeader, event: &Event) -> Option<(String, String)> {
    let guest = |what: String| Some(("guest".to_owned(), what));
    match &event.what {
        What::Boot { boot } => guest(format!("boot {boot} begins")),
        What::GuestEnded { boot, how } => {
            let how = match how {
                GuestEnd::PoweredOff => "powered off".to_owned(),
                GuestEnd::Killed { why } => format!("was killed: {why}"),
                GuestEnd::Lost { why } => format!("was lost: {why}"),
                GuestEnd::Hung { why } => format!("hung: {why}"),
                GuestEnd::Again { why } => why.clone(),
            };
            guest(format!("boot {boot} {how}"))
        }
        What::Console { line } => Some(("console".to_owned(), line.clone())),
        What::Quiet { id, pending } => guest(if pending.is_empty() {
            format!("quiet point {id}: legs at rest")
        } else {
            format!("quiet point {id}: missed, {} requests open", pending.len())
        }),
        What::Hand { what, .. } => Some(("ctl".to_owned(), what.clone())),
        What::Lost {
            leg,
            start,
            digests,
            ..
        } => Some((
            header.leg_name(*leg).to_owned(),
            format!("power cut: its cache lost {start}+{}", digests.len()),
        )),
        What::Found {
            leg,
            start,
            digests,
            ..
        } => Some((
            header.leg_name(*leg).to_owned(),
            format!("found something else in {start}+{}", digests.len()),
        )),
        What::Restarted { .. } => Some((
            "legwatch".to_owned(),
            "the witness was killed, and goes on".to_owned(),
        )),
        What::Frontend { leg, change } => {
            let what = match change {
                FrontendChange::Reset => "reset".to_owned(),
                FrontendChange::Trouble(text) => format!("trouble: {text}"),
                FrontendChange::Disconnected(Some(why)) => format!("disconnected: {why}"),
                FrontendChange::Connected
                | FrontendChange::Features(_)
                | FrontendChange::QueueStarted { .. }
                | FrontendChange::QueueStopped { .. }
                | FrontendChange::Disconnected(None)
                | FrontendChange::Waited { .. } => return None,
            };
            Some((header.leg_name(*leg).to_owned(), what))
        }
        What::Mark(mark) => match mark {
            Mark::StepBegin { step } => guest(format!("step {step} begins")),
            Mark::StepEnd { step, ok, detail } => guest(format!(
                "step {step} {}{}{detail}",
                if *ok { "done" } else { "failed" },
                if detail.is_empty() { "" } else { ": " }
            )),
            Mark::BadRead { sector, .. } => {
                guest(format!("read target sector {sector} back wrong"))
            }
            Mark::Admin(admin) => guest(admin.to_string()),
            Mark::Intent(_)
            | Mark::Pages(_)
            | Mark::Hello(_)
            | Mark::Target(_)
            | Mark::WorkloadEnd { .. }
            | Mark::ReadBackEnd { .. }
            | Mark::Survey { .. }
            | Mark::Quiet { .. }
            | Mark::Fact { .. }
            | Mark::Sync(_)
            | Mark::Finish { .. } => None,
        },
        What::Arrived(_)
        | What::Decided(_)
        | What::Fetched(_)
        | What::Completed(_)
        | What::Abandoned(_)
        | What::Initial { .. }
        | What::Evidence { .. }
        | What::End => None,
    }
}

/// What a rule did, in words.
pub(crate) fn in_words(action: &Action) -> String {
    let list = |sectors: &[SectorRange]| {
        let shown: Vec<String> = sectors.iter().take(4).map(ToString::to_string).collect();
        let more = if sectors.len() > 4 { " …" } else { "" };
        format!("{}{more}", shown.join(" "))
    };
    match action {
        Action::Delay { ms } => format!("holds the answer back for {ms} ms"),
        Action::LateFetch => "fetches the payload just before the answer".into(),
        Action::SplitFetch { ms } => format!("fetches the second half {ms} ms later"),
        Action::Fail { .. } => "answers with an error".into(),
        Action::NeverAnswer => "never answers".into(),
        Action::Hold => "holds the request".into(),
        Action::Reorder { behind } => format!("answers behind {behind} later requests"),
        Action::Lose { sectors } => format!("loses {}", list(sectors)),
        Action::Tear { lost, .. } => format!("tears: {} stay what they were", list(lost)),
        Action::Corrupt { sectors } => format!("corrupts {}", list(sectors)),
        Action::CorruptAnswer => "corrupts the answer".into(),
        Action::Stale => "answers with what was there before".into(),
        Action::Misdirect { to, .. } => format!("misdirects to {to}"),
        Action::Met => "meets what the rule did before".into(),
        Action::FlushLie => "acknowledges a flush that made nothing durable".into(),
        Action::Stall { ms } => format!("stalls for {ms} ms"),
        Action::ReadOnly => "makes the leg read-only".into(),
        Action::BadSectors { sectors } => format!("makes {} unreadable", list(sectors)),
        Action::Dead => "makes the leg dead".into(),
        Action::PowerCut => "cuts the power of all legs".into(),
        Action::Disconnect { ms } => format!("closes the socket for {ms} ms"),
        Action::Unplug { ms: Some(ms) } => format!("has the device taken away for {ms} ms"),
        Action::Unplug { ms: None } => "has the device taken away".into(),
        Action::Resize { sectors } => format!("makes the leg {sectors} sectors large"),
        Action::Withheld => "was withheld by the budget".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_late_is_told_with_what_lies_between_or_nothing() {
        let header = RunHeader::new(1, 1, Vec::new());
        let mut moments = Moments::default();
        for no in 1..=9 {
            let line = format!("line {no}");
            moments.take(
                &header,
                &Event {
                    no: EventNo(no),
                    time_us: no,
                    what: What::Console { line },
                },
            );
        }
        let told = |from, to| {
            let told = moments.between(EventNo(from), EventNo(to), |_, _| true);
            told.iter().map(|line| line.event).collect::<Vec<_>>()
        };
        assert_eq!(told(3, 5), [3, 4, 5]);
        assert_eq!(told(1, 9), [2, 3, 4, 5, 6, 7, 8, 9], "the last ones");
        assert_eq!(told(7, 4), [0; 0]);
    }
}
