//! What a scenario's `[expect]` demands of the run's end: states of legs, what md had to notice, what the guest had to see.
//!
//! What md or the guest should have done and did not is a finding. What only says that the run did not exercise what it was for is a reason why it
//! is inconclusive.

use super::checker::Checker;
use super::fold::plain;
use crate::block::LegId;
use crate::event::GuestEnd;
use crate::finding::{Check, Finding, Wrongness};
use crate::header::{LegState, demand};

impl Checker {
    pub(super) fn expectations(&self, findings: &mut Vec<Finding>, reasons: &mut Vec<String>) {
        self.expect_legs(findings, reasons);
        self.expect_noticed(findings);
        let expect = &self.world.header.expect;
        let coverage = &self.coverage;
        let errors = coverage.writes_failed + self.guest.errors;
        match expect.guest_errors {
            Some(true) if errors == 0 => findings.push(self.unmet(
                "guest_errors",
                "the guest was to get an error, and got none".into(),
                "every request of the workload was acknowledged".into(),
            )),
            Some(false) if errors > 0 => findings.push(self.unmet(
                "guest_errors",
                "the guest was to get no error".into(),
                format!("{errors} requests of the workload failed"),
            )),
            Some(_) | None => {}
        }
        let hung = self
            .guest
            .ends
            .iter()
            .any(|end| matches!(end, GuestEnd::Hung { .. }));
        if expect.hang && !hung {
            findings.push(self.unmet(
                "hang",
                "the guest was to hang, and did not".into(),
                "its plan went on to its end".into(),
            ));
        }
        for (name, wanted) in &expect.facts {
            match coverage.facts.get(name) {
                None => reasons.push(format!(
                    "the guest never told the fact {name}; it is demanded"
                )),
                Some(value) if demand(wanted, value) => {}
                Some(value) => findings.push(self.unmet(
                    name,
                    format!("{name} is {value}, and {wanted} is demanded"),
                    "the guest told this fact".into(),
                )),
            }
        }
        let count = |check: Check| coverage.triggered.get(check.name()).copied().unwrap_or(0);
        let resyncs = count(Check::ResyncEq) + count(Check::RecEq);
        match expect.resync {
            Some(true) if resyncs == 0 => {
                reasons.push("no resync or recovery came to its end; one is demanded".into());
            }
            Some(false) if resyncs > 0 => {
                reasons.push("a resync or recovery came to its end; there should be none".into());
            }
            Some(_) | None => {}
        }
        if coverage.read_back_bad < expect.min_bad_reads {
            reasons.push(format!(
                "{} sectors were read back wrong; {} are demanded",
                coverage.read_back_bad, expect.min_bad_reads
            ));
        }
    }

    fn unmet(&self, key: &str, headline: String, detail: String) -> Finding {
        let mut finding = plain(
            Check::Expect,
            Wrongness::Unmet,
            key,
            self.last,
            headline,
            detail,
        );
        finding.notes.push(format!("[expect] {key}"));
        finding
    }

    fn expect_legs(&self, findings: &mut Vec<Finding>, reasons: &mut Vec<String>) {
        for (name, wanted) in &self.world.header.expect.legs {
            let at = self
                .world
                .header
                .legs
                .iter()
                .position(|leg| leg.config.name == *name);
            let leg = at.and_then(|at| u8::try_from(at).ok()).map(LegId);
            let Some(state) = leg.and_then(|leg| self.leg_state(leg)) else {
                reasons.push(format!(
                    "leg {name} was to be {}, and there is no array that tells",
                    wanted.name()
                ));
                continue;
            };
            let met = *wanted == state || (*wanted == LegState::Out && state != LegState::Active);
            if !met {
                let mut finding = self.unmet(
                    &format!("legs.{name}"),
                    format!(
                        "leg {name} was to be {} at the end, and is {}",
                        wanted.name(),
                        state.name()
                    ),
                    "so says the freshest superblock".into(),
                );
                finding.legs = vec![name.clone()];
                findings.push(finding);
            }
        }
    }

    /// What md says of a leg, by the freshest superblock (role 0xfffe: faulty) and the leg's own (a recovery offset).
    fn leg_state(&self, leg: LegId) -> Option<LegState> {
        let own = self.world.md.superblock(leg).ok();
        let Some((array, member)) = self.world.md.of(leg) else {
            // Nothing on the leg itself: an array of the others says whether it has one place too few.
            let any = self
                .world
                .md
                .arrays()
                .iter()
                .any(|array| array.active().next().is_some());
            return any.then_some(LegState::Missing);
        };
        if member.active {
            return Some(LegState::Active);
        }
        if let (Some(_), Some(own)) = (member.slot, own) {
            let recovering =
                own.recovery_offset.is_some() && own.events.saturating_add(1) >= array.events;
            return Some(if recovering {
                LegState::Recovering
            } else {
                LegState::Missing
            });
        }
        let freshest = array
            .active()
            .filter_map(|member| self.world.md.superblock(member.leg).ok())
            .max_by_key(|superblock| superblock.events)?;
        let role = freshest.role_of(own?.dev_number);
        Some(if role == 0xfffe {
            LegState::Faulty
        } else {
            LegState::Missing
        })
    }

    /// Rules whose doing md had to notice: none of it may be left on a leg that md trusts.
    fn expect_noticed(&self, findings: &mut Vec<Finding>) {
        for name in &self.world.header.expect.noticed {
            for (leg, rule, sectors) in self.injected.left() {
                let active = self
                    .world
                    .md
                    .of(leg)
                    .is_some_and(|(_, member)| member.active);
                if self.rule_name(rule) != *name || !active {
                    continue;
                }
                let on = self.world.header.leg_name(leg);
                let mut finding = self.unmet(
                    &format!("noticed/{name}/{on}"),
                    format!("md did not notice what fault `{name}` did to leg {on}"),
                    format!(
                        "{sectors} sectors still are what the fault made of them, and md trusts the leg; \
                         the scenario says that md had to notice"
                    ),
                );
                finding.legs = vec![on.to_owned()];
                finding.sectors = sectors;
                finding.reason = "what the fault made of these sectors was not written over since, and the freshest superblock calls the leg active".into();
                self.tell_lies(&mut finding, leg, rule);
                findings.push(finding);
            }
        }
    }
}
