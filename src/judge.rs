//! The fold that live runs and recorded ones share: the checker, and what the guest's console says of its kernel.

use crate::block::{LegId, Sector, SectorRange};
use crate::event::{Event, EventNo, GuestEnd, What};
use crate::finding::{Check, Confidence, Finding, Wrongness};
use crate::guest_health::{Crash, Meaning, Watcher};
use crate::header::RunHeader;
use crate::mark::Mark;
use crate::oracle::lost;
use crate::oracle::{Checker, EndState, SoFar, Verdict, Wanted};
use crate::watch::{Part, Watch};

/// Functions of a trace that a finding shows.
const TRACE_MAX: usize = 12;

/// Events in, verdict out.
#[derive(Debug)]
pub struct Judge {
    checker: Checker,
    console: Watcher,
    /// The numbers of the boot's console lines, to place a crash in the sequence.
    lines: Vec<EventNo>,
    boot: u32,
    /// This boot is made once more: a kernel that failed away from storage has lost nothing but this try.
    again: bool,
    end: EndState,
    strict: bool,
    no_known: bool,
    /// Whether events go to the checker at all.
    folds: bool,
}

impl Judge {
    /// A judge for the run that the header describes; `strict`: suspect findings decide too.
    pub fn new(header: &RunHeader, strict: bool) -> Judge {
        Judge {
            checker: Checker::new(header),
            console: Watcher::new(),
            lines: Vec::new(),
            boot: 0,
            again: false,
            end: EndState::default(),
            folds: Watch::of(&header.options).has(Part::Shadow),
            strict,
            no_known: header
                .options
                .get("no_known")
                .and_then(serde_json::Value::as_bool)
                .unwrap_or(false),
        }
    }

    /// Takes the next event. Events come in the order of their numbers.
    pub fn apply(&mut self, event: &Event) {
        match &event.what {
            What::Boot { boot } => {
                self.close_console();
                self.boot = *boot;
            }
            What::Mark(Mark::Hello(_)) => self.console.booted(),
            What::Console { line } => {
                self.lines.push(event.no);
                self.console.push(line);
            }
            What::GuestEnded { how, .. } => {
                self.again = matches!(how, GuestEnd::Again { .. });
                // A guest that we killed may have been in the middle of anything; what its console said before counts all the same.
                if let GuestEnd::Killed { why } = how
                    && why.contains("interrupted")
                {
                    self.end.reasons.push("interrupted".into());
                }
            }
            What::Frontend { .. }
            | What::Arrived(_)
            | What::Decided(_)
            | What::Fetched(_)
            | What::Completed(_)
            | What::Abandoned(_)
            | What::Mark(_)
            | What::Quiet { .. }
            | What::Initial { .. }
            | What::Lost { .. }
            | What::Found { .. }
            | What::Restarted { .. }
            | What::Hand { .. }
            | What::Evidence { .. }
            | What::End => {}
        }
        if self.folds {
            self.checker.apply(event);
        } else {
            self.checker.skip(event);
        }
    }

    /// Sectors whose content a finding wants to show; see [`Checker::wanted`].
    pub fn wanted(&mut self) -> Vec<Wanted> {
        self.checker.wanted()
    }

    /// Whether there is something wrong that decides, unless it is taken back; see [`Checker::has_proven`].
    pub fn has_proven(&self) -> bool {
        self.checker.has_proven()
    }

    /// In short, the first thing that is proven to be wrong so far; see [`Checker::first_proven`].
    pub fn first_proven(&self) -> Option<String> {
        self.checker.first_proven()
    }

    /// CRC-32 of what a leg holds in a sector; see [`Checker::holds`].
    pub fn holds(&self, leg: LegId, sector: Sector) -> Option<u32> {
        self.checker.holds(leg, sector)
    }

    /// Leg ranges that hold nothing but an array's data.
    pub fn data_areas(&self) -> Vec<(LegId, SectorRange)> {
        self.checker.data_areas()
    }

    /// The sectors of a leg of which something is known; see [`Checker::known`].
    pub fn known(&self, leg: LegId) -> Vec<SectorRange> {
        self.checker.known(leg)
    }

    /// How the run stands; see [`Checker::so_far`].
    pub fn so_far(&self) -> SoFar {
        self.checker.so_far()
    }

    /// The verdict.
    pub fn finish(mut self) -> Verdict {
        self.close_console();
        let mut verdict = self.checker.finish(self.end);
        if self.no_known {
            verdict = verdict.without_known();
        }
        if self.strict {
            verdict.strict()
        } else {
            verdict
        }
    }

    /// A boot's console has ended: what it said of the kernel becomes findings, or the guest is lost.
    fn close_console(&mut self) {
        let console = std::mem::take(&mut self.console);
        let lines = std::mem::take(&mut self.lines);
        let again = std::mem::take(&mut self.again);
        for crash in console.finish() {
            let at = usize::try_from(crash.line_index)
                .ok()
                .and_then(|index| lines.get(index))
                .copied()
                .unwrap_or_default();
            match crash.meaning() {
                Meaning::Finding { proven } => self
                    .end
                    .findings
                    .push(finding(&crash, proven, at, self.boot)),
                Meaning::LostGuest if again => {}
                Meaning::LostGuest => {
                    let when = if crash.at_boot {
                        "while it booted"
                    } else {
                        "away from storage"
                    };
                    self.end
                        .reasons
                        .push(format!("{}{when}: {}", lost::KERNEL, crash.first_line));
                }
                Meaning::Note => {}
            }
        }
    }
}

fn finding(crash: &Crash, proven: bool, at: EventNo, boot: u32) -> Finding {
    let trace = crash
        .functions
        .iter()
        .take(TRACE_MAX)
        .map(ToString::to_string)
        .collect::<Vec<_>>();
    let mut finding = crate::oracle::plain(
        Check::Guest,
        Wrongness::Kernel,
        // Addresses and numbers differ from run to run; the innermost functions do not.
        &trace.iter().take(3).cloned().collect::<Vec<_>>().join("/"),
        at,
        format!(
            "the guest's kernel failed in storage code: {}",
            crash.first_line
        ),
        format!("boot {boot}, trace: {}", trace.join(", ")),
    );
    finding.confidence = if proven {
        Confidence::Proven
    } else {
        Confidence::Suspect
    };
    finding
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mark::Hello;

    /// A first try that said this and ended so, and a second one in order.
    fn verdict(first_end: GuestEnd, said: &[&str]) -> Verdict {
        let hello = Hello {
            agent: String::new(),
            release: String::new(),
            boot: 1,
            init: true,
            tainted: 0,
        };
        let begin = [What::Boot { boot: 1 }];
        let first = said.iter().map(|line| What::Console {
            line: (*line).to_owned(),
        });
        let rest = [
            What::GuestEnded {
                boot: 1,
                how: first_end,
            },
            What::Boot { boot: 1 },
            What::Mark(Mark::Hello(hello)),
            What::Mark(Mark::Finish { ok: true }),
            What::GuestEnded {
                boot: 1,
                how: GuestEnd::PoweredOff,
            },
            What::End,
        ];
        let mut judge = Judge::new(&RunHeader::new(1, 1, Vec::new()), false);
        for (no, what) in (1..).zip(begin.into_iter().chain(first).chain(rest)) {
            judge.apply(&Event {
                no: EventNo(no),
                time_us: 0,
                what,
            });
        }
        judge.finish()
    }

    fn why() -> String {
        "was lost while it booted".into()
    }

    #[test]
    fn a_boot_that_was_made_again_is_no_lost_guest() {
        let panic = ["[    0.500000] Kernel panic - not syncing: Attempted to kill init!"];
        let again = verdict(GuestEnd::Again { why: why() }, &panic);
        let lost = verdict(GuestEnd::Lost { why: why() }, &panic);
        let of_loss = |verdict: &Verdict| {
            let reasons = verdict.reasons.iter();
            reasons
                .filter(|reason| reason.contains("lost") || reason.contains("Kernel panic"))
                .count()
        };
        assert_eq!(of_loss(&again), 0, "{:#?}", again.reasons);
        assert!(again.notes.contains(&format!("the guest {}", why())));
        assert_eq!(of_loss(&lost), 2, "{:#?}", lost.reasons);
    }

    #[test]
    fn what_storage_code_did_in_such_a_boot_counts() {
        let oops = [
            "[    0.500000] BUG: kernel NULL pointer dereference, address: 0000000000000008",
            "[    0.500002] RIP: 0010:virtblk_probe+0x4f/0x2c0 [virtio_blk]",
        ];
        let verdict = verdict(GuestEnd::Again { why: why() }, &oops);
        assert_eq!(verdict.findings.len(), 1, "{:#?}", verdict.findings);
        assert_eq!(verdict.findings[0].check, Check::Guest);
    }
}
