//! The end of the fold: findings of others, coverage, expectations, and the verdict.

use super::checker::Checker;
use super::fold::plain;
use super::guest::{BadRead, tell_bad_read};
use super::known;
use super::lost::{HUNG, LOST};
use super::verdict::{Coverage, EndState, Outcome, Verdict, in_order};
use super::world::bit;
use crate::block::LegId;
use crate::event::GuestEnd;
use crate::finding::{Cause, Check, Finding, Range, Wrongness};
use crate::mark::IntentKind;
use crate::md::BadSuperblock;
use crate::plan::StepKind;
use crate::shadow::ZERO_DIGEST;

/// Where several findings would have the same identifier (the legs got different things instead), the later ones are numbered.
fn name_apart(findings: &mut [Finding]) {
    let mut seen: std::collections::BTreeMap<String, u32> = std::collections::BTreeMap::new();
    for finding in findings {
        let count = seen.entry(finding.id.clone()).or_default();
        *count += 1;
        if *count > 1 {
            finding.id = format!("{}-{count}", finding.id);
        }
    }
}

impl Checker {
    /// The verdict. The run's events are all applied; a run that has no [`crate::event::What::End`] was cut off.
    pub fn finish(mut self, end: EndState) -> Verdict {
        self.count_coverage();
        let mut findings = self.findings();
        self.add_bad_reads(&mut findings);
        self.durable_findings(&mut findings);
        // What the caller knows (a panic, an interrupt) is the cause of the rest, and leads.
        let mut reasons = end.reasons;
        self.add_steps(&mut findings, &mut reasons);
        // Of a guest that was lost nothing else was to be had.
        self.explain_end(&mut reasons);
        self.expectations(&mut findings, &mut reasons);
        findings.extend(end.findings);
        in_order(&mut findings);
        name_apart(&mut findings);
        self.fault_coverage(&mut reasons);
        self.lag_coverage();
        self.sync_coverage();
        let known: Vec<Finding> = findings
            .extract_if(.., |finding| finding.known.is_some())
            .collect();
        self.explain_coverage(&mut reasons);
        self.explain_known(&known, &mut reasons);
        self.explain_blindness(&mut reasons);
        reasons.dedup();
        let notes = self.notes_for_reader();
        let maps = self.leg_maps();
        let mut verdict = Verdict {
            outcome: Outcome::Clean,
            findings,
            known,
            reasons,
            coverage: self.coverage,
            notes,
            maps,
        };
        verdict.decide();
        verdict
    }

    fn count_coverage(&mut self) {
        let (excused, excused_first) = self.excused_at_end();
        let coverage: &mut Coverage = &mut self.coverage;
        (coverage.excused, coverage.excused_first) = (excused, excused_first);
        let legs = coverage.legs.len();
        for array in self.world.md.arrays() {
            for member in array.active() {
                if let Some(leg) = coverage.legs.get_mut(member.leg.index()) {
                    leg.active = array.refused.is_none();
                    leg.may_lag = array.may_lag(member);
                }
            }
        }
        for (key, _, cell) in self.book.cells() {
            if self.book.has(cell, IntentKind::Unstamped)
                || self.book.has(cell, IntentKind::Discard)
                || cell.base
            {
                coverage.sectors_open += 1;
                continue;
            }
            let active = self
                .world
                .md
                .array(key)
                .map_or(0, |array| array.active().fold(0, |set, m| set | bit(m.leg)));
            let compared = active != 0 && cell.judged & active == active;
            if !compared && self.book.failed(cell) {
                coverage.sectors_open += 1;
                continue;
            }
            coverage.sectors_intended += 1;
            coverage.sectors_compared += u64::from(compared);
            for leg in (0..legs).filter(|leg| cell.seen & (1 << leg) != 0) {
                coverage.legs[leg].sectors_seen += 1;
            }
        }
    }

    /// Reads that the guest found wrong: explained by what a leg is known to hold, or findings of their own.
    fn add_bad_reads(&self, findings: &mut Vec<Finding>) {
        let mut rest: Vec<&BadRead> = Vec::new();
        for read in &self.guest.bad_reads {
            let explained = findings.iter_mut().find(|finding| {
                finding.check == Check::Stamp
                    && finding.array.iter().any(|range| {
                        (range.start..range.start + range.count).contains(&read.array_sector.0)
                    })
            });
            match explained {
                Some(finding) => {
                    let note = "the guest read these sectors back, and found them wrong too";
                    if !finding.notes.iter().any(|have| have == note) {
                        finding.notes.push(note.into());
                    }
                }
                None => rest.push(read),
            }
        }
        let Some(first) = rest.first() else {
            return;
        };
        let count = rest.len() as u64 + self.guest.bad_reads_more;
        let mut finding = plain(
            Check::Stamp,
            Wrongness::ReadBack,
            &format!("{}/{}", first.target, first.array_sector),
            first.at,
            format!("{count} sectors were read back wrong through the array"),
            first
                .look
                .as_ref()
                .map_or_else(String::new, |look| look.holders.clone()),
        );
        finding.sectors = count;
        for read in &rest {
            match finding.array.last_mut() {
                Some(range) if range.start + range.count == read.array_sector.0 => {
                    range.count += 1;
                }
                Some(_) | None => finding.array.push(Range {
                    start: read.array_sector.0,
                    count: 1,
                }),
            }
        }
        finding.reason = if first.look.as_ref().is_some_and(|look| look.held) {
            "the guest was given what a leg held then, and that is not what it had been told is written"
        } else {
            "the guest read something else than it wrote, and what the legs hold does not explain it"
        }
        .into();
        let sources: Vec<_> = rest
            .iter()
            .map(|read| self.injected.source(Some(read.digest)))
            .collect();
        if let Some(Some(rule)) = sources.first()
            && sources.iter().all(Option::is_some)
            && self.guest.bad_reads_more == 0
        {
            finding.cause = Cause::Injected;
            finding.reason = format!(
                "the guest got what fault `{}` made a leg answer; md has no means to notice",
                self.rule_name(*rule)
            );
        }
        let held = if first.digest == ZERO_DIGEST {
            "zeros".to_owned()
        } else {
            format!("what begins with {}", first.head)
        };
        let place = match first.key {
            Some(_) => format!("array sector {}", first.array_sector),
            None => format!("sector {} of target {}", first.sector, first.target),
        };
        let told = format!("the guest read {place} back ({}) and got {held}", first.at);
        tell_bad_read(
            &mut finding,
            first.look.as_deref(),
            (first.at, first.time_us),
            told,
        );
        findings.push(finding);
    }

    fn add_steps(&self, findings: &mut Vec<Finding>, reasons: &mut Vec<String>) {
        for failed in &self.guest.failed {
            let boot = usize::try_from(failed.boot.saturating_sub(1)).unwrap_or(usize::MAX);
            let step = self
                .world
                .header
                .steps
                .get(boot)
                .and_then(|steps| steps.get(usize::try_from(failed.step).ok()?));
            let name = step.map_or_else(
                || format!("step {}", failed.step),
                |step| format!("`{}`", step.name),
            );
            match step.map(|step| step.kind) {
                Some(StepKind::Check) if failed.bad_reads => {}
                Some(StepKind::Check) => {
                    let mut finding = plain(
                        Check::CheckStep,
                        Wrongness::Step,
                        &format!("{}/{}", failed.boot, failed.step),
                        failed.at,
                        format!("check {name} failed"),
                        failed.detail.clone(),
                    );
                    finding.notes.push(format!("boot {}", failed.boot));
                    finding.story = self.moments.between(failed.began, failed.at, |_, _| false);
                    findings.push(finding);
                }
                Some(StepKind::Setup) => {
                    reasons.push(format!(
                        "could not be tested: set-up {name} failed: {}",
                        failed.detail
                    ));
                }
                Some(StepKind::Workload) | None => {
                    reasons.push(format!("the workload {name} failed: {}", failed.detail));
                }
            }
        }
    }

    fn explain_end(&self, reasons: &mut Vec<String>) {
        let may_hang = self.world.header.expect.hang;
        if !self.guest.in_order && !may_hang {
            reasons.push("the run did not end in order".into());
        }
        for end in &self.guest.ends {
            match end {
                GuestEnd::PoweredOff | GuestEnd::Killed { .. } | GuestEnd::Again { .. } => {}
                GuestEnd::Lost { why } => reasons.push(format!("{LOST}{why}")),
                GuestEnd::Hung { .. } if may_hang => {}
                GuestEnd::Hung { why } => {
                    let held = self.injected.was_held();
                    let held: Vec<String> = held
                        .map(|(rule, count)| {
                            format!("; fault `{}` held {count} requests", self.rule_name(rule))
                        })
                        .collect();
                    reasons.push(format!("{HUNG}{why}{}", held.concat()));
                }
            }
        }
        if self.guest.agent
            && self.guest.finished.is_none()
            && self.guest.ends.last() == Some(&GuestEnd::PoweredOff)
        {
            reasons.push("the guest powered off before its plan was done".into());
        }
        for missed in &self.coverage.quiet_missed {
            reasons.push(format!("a quiet point was missed: {missed}"));
        }
        for array in self.world.md.arrays() {
            if let Some(why) = array.refused
                && !reasons.iter().any(|reason| reason == why)
            {
                reasons.push(why.to_owned());
            }
            for member in array.active().filter(|_| array.refused.is_none()) {
                if let Some(why) = self.promises.leg(member.leg).refused {
                    let leg = self.world.header.leg_name(member.leg);
                    reasons.push(format!("leg {leg}'s bitmap was not checked: {why}"));
                }
            }
        }
    }

    /// What was not watched is said, and where nothing looked at what the legs hold, nothing can be called clean.
    fn explain_blindness(&mut self, reasons: &mut Vec<String>) {
        let watch = self.wrongs.watch();
        self.coverage.blind = watch.blind().map(|check| check.name().to_owned()).collect();
        if watch.sees_no_content() {
            let why = format!(
                "what the legs hold was not watched (--watch {})",
                watch.words().join(",")
            );
            reasons.insert(0, why);
        }
    }

    fn explain_coverage(&self, reasons: &mut Vec<String>) {
        let coverage = &self.coverage;
        let expect = &self.world.header.expect;
        if coverage.sectors_intended == 0 && coverage.twins_compared == 0 {
            reasons.push("nothing was exercised: no sector was intended, and none compared".into());
        }
        if coverage.intents_unmapped > 0 && coverage.sectors_intended == 0 && !expect.unmapped {
            reasons.push(format!(
                "{} requests of the workload went to a target that maps to no array that is known",
                coverage.intents_unmapped
            ));
        }
        if self.guest.to_the_unseen > 0 {
            reasons.push(self.unseen_in_words());
        }
        if self.book.crowded() > 0 {
            reasons.push(format!(
                "{} requests of the workload were not judged: too many that lie over each other had not ended, or were not flushed",
                self.book.crowded()
            ));
        }
        if coverage.sectors_compared * 100
            < coverage.sectors_intended * u64::from(expect.compared_percent)
        {
            reasons.push(format!(
                "{} of {} intended sectors were compared on all legs; {} % are demanded",
                coverage.sectors_compared, coverage.sectors_intended, expect.compared_percent
            ));
        }
        if coverage.writes_acknowledged < expect.min_writes {
            reasons.push(format!(
                "{} writes were acknowledged; {} are demanded",
                coverage.writes_acknowledged, expect.min_writes
            ));
        }
        let excused: u64 = coverage.excused.values().sum();
        if expect.no_excuses && excused > 0 {
            reasons.push(format!("{excused} sectors were excused; none may be"));
        }
        match expect.write_behind {
            Some(true) if coverage.writes_behind == 0 => {
                reasons.push("no write-behind was seen; it is demanded".into());
            }
            Some(false) if coverage.writes_behind > 0 => {
                reasons.push("write-behind was seen; there should be none".into());
            }
            Some(_) | None => {}
        }
        for name in &expect.triggered {
            if coverage.triggered.get(name).is_none_or(|count| *count == 0) {
                reasons.push(format!("{name} was never triggered; it is demanded"));
            }
        }
        if coverage.writes_refused < expect.min_refused {
            reasons.push(format!(
                "{} writes were refused with NOWAIT; {} are demanded",
                coverage.writes_refused, expect.min_refused
            ));
        }
        let legs = coverage.legs.iter().zip(&self.world.header.legs);
        for (leg, head) in legs.filter(|(leg, _)| leg.active) {
            let name = &leg.name;
            if leg.flushes < expect.min_flushes {
                reasons.push(format!(
                    "leg {name} completed {} flushes; {} are demanded",
                    leg.flushes, expect.min_flushes
                ));
            }
            if head.config.discard && leg.discards < expect.min_discards {
                reasons.push(format!(
                    "leg {name} completed {} discards; {} are demanded",
                    leg.discards, expect.min_discards
                ));
            }
            if leg.in_flight_max < expect.min_in_flight {
                reasons.push(format!(
                    "leg {name} had {} requests in flight at most; {} are demanded",
                    leg.in_flight_max, expect.min_in_flight
                ));
            }
            if leg.overlaps < expect.min_overlaps {
                reasons.push(format!(
                    "leg {name} got {} writes over others in flight; {} are demanded",
                    leg.overlaps, expect.min_overlaps
                ));
            }
        }
    }

    /// An array that was checked is gone from all legs, and the workload went on.
    fn unseen_in_words(&self) -> String {
        let legs = (0..).map(LegId).zip(&self.world.header.legs);
        let bad: Vec<String> = legs
            .filter_map(|(leg, head)| match self.world.md.superblock(leg) {
                Ok(_) | Err(BadSuperblock::None) => None,
                Err(bad) => Some(format!("; leg {}: {bad}", head.config.name)),
            })
            .collect();
        format!(
            "{} requests of the workload went to an array that was checked before, and that no leg tells of any more{}",
            self.guest.to_the_unseen,
            bad.concat()
        )
    }

    /// Known deviations that the scenario is there to show, on a kernel that has them.
    fn explain_known(&self, seen: &[Finding], reasons: &mut Vec<String>) {
        for id in &self.world.header.expect.known {
            let is_seen = seen
                .iter()
                .any(|finding| finding.known.as_ref() == Some(id));
            if !is_seen && known::is_shown(id, self.release()) {
                reasons.push(format!(
                    "known deviation {id} was not seen on a kernel that has it; it is demanded"
                ));
            }
        }
    }

    fn notes_for_reader(&self) -> Vec<String> {
        let mut notes = self.guest.workload_notes.clone();
        if !self.guest.agent {
            notes.push(
                "no agent spoke: all-legs, discard-all, same-data and clean-eq ran at the end only, same-data and clean-eq as suspect; \
                 stamp, ack-all, buf-stable and same-pages were off"
                    .into(),
            );
        }
        for (at, head) in self.world.header.legs.iter().enumerate() {
            let leg = crate::block::LegId(u8::try_from(at).unwrap_or(u8::MAX));
            match self.world.md.superblock(leg) {
                Ok(_) | Err(BadSuperblock::None) => {}
                Err(bad) => notes.push(format!("leg {}: {bad}", head.config.name)),
            }
            if self.promises.leg(leg).set_at.forgot {
                notes.push(format!(
                    "leg {}: so many bits were set at once that bit-first took some for flushed",
                    head.config.name
                ));
            }
            let refused = self.world.bytes.get(at).map_or(0, |bytes| bytes.refused());
            if refused > 0 {
                notes.push(format!(
                    "leg {}: {refused} sectors written before its data area was known were not kept",
                    head.config.name
                ));
            }
        }
        for end in &self.guest.ends {
            if let GuestEnd::Again { why } = end {
                notes.push(format!("the guest {why}"));
            }
        }
        if self.coverage.restarts > 0 {
            notes.push(format!(
                "the witness was killed and restarted {} time(s): what was in flight then is abandoned and came again; events missing: {}",
                self.coverage.restarts, self.coverage.events_missing
            ));
        }
        if self.waited_ms > 0 {
            notes.push(format!(
                "requests waited {} ms in all for the checker, or for the disk that the journal is on: no event was lost, the guest was slowed down",
                self.waited_ms
            ));
        }
        if self.wrongs.uncounted > 0 {
            notes.push(format!(
                "{} more wrong ranges are not listed",
                self.wrongs.uncounted
            ));
        }
        let (own, copied) = self
            .coverage
            .legs
            .iter()
            .filter(|leg| leg.may_lag)
            .fold((0, 0), |(own, copied), leg| {
                (own + leg.pages_own, copied + leg.pages_copied)
            });
        if own + copied > 0 {
            notes.push(format!(
                "write-behind used copies for {copied} of {} sectors",
                own + copied
            ));
        }
        notes
    }
}
