//! What the guest's agent says: marks, steps, quiet points, and how its boots end.

use std::collections::BTreeMap;

use smallvec::SmallVec;

use super::checker::Checker;
use super::judge::Moment;
use super::record::Part;
use crate::block::{RequestId, Sector, SectorRange, to_usize};
use crate::event::{EventNo, GuestEnd};
use crate::finding::{Finding, StoryLine};
use crate::mark::{Intent, IntentKind, Mark, Phase, Target};
use crate::md::{Array, ArrayKey, DECLARED, Uuid};

/// Bad reads that are remembered one by one.
const BAD_READS_MAX: usize = 1000;
/// Those among them that are looked at closely, when they are told.
const BAD_LOOKS_MAX: usize = 64;

/// Where a target's range lies.
#[derive(Debug, Default)]
struct Mapped {
    /// On which array, or on which mirrors of a raid10; empty: that is not known.
    parts: SmallVec<[Part; 1]>,
    /// The IV of the first sector, where the target is encrypted.
    iv: Option<Sector>,
}

/// A sector that the guest read back wrong.
#[derive(Clone, Debug)]
pub(crate) struct BadRead {
    pub(crate) at: EventNo,
    pub(crate) time_us: u64,
    pub(crate) target: u16,
    pub(crate) sector: Sector,
    pub(crate) head: String,
    pub(crate) digest: u32,
    pub(crate) key: Option<ArrayKey>,
    /// As the guest numbers them, if the array is known.
    pub(crate) array_sector: Sector,
    /// What was seen when it was told, of some.
    pub(crate) look: Option<Box<BadLook>>,
}

/// A sector that was read back wrong, looked at when the guest said so.
#[derive(Clone, Debug)]
pub(crate) struct BadLook {
    /// Which legs held what was read, in words.
    pub(crate) holders: String,
    /// Whether one did.
    pub(crate) held: bool,
    /// The request that returned it last, as far as can be told.
    pub(crate) request: Option<StoryLine>,
    pub(crate) story: Vec<StoryLine>,
}

/// Tells of a read that was wrong: what was `told` and when, after the request that returned it where that is known, and the story.
pub(super) fn tell_bad_read(
    finding: &mut Finding,
    look: Option<&BadLook>,
    (at, time_us): (EventNo, u64),
    told: String,
) {
    let request = look.and_then(|look| look.request.clone());
    finding.first_wrong = Some(match request {
        Some(request) => StoryLine {
            what: format!("{}; {told}", request.what),
            ..request
        },
        None => StoryLine {
            event: at.0,
            time_us,
            leg: "guest".into(),
            what: told,
        },
    });
    if let Some(look) = look {
        finding.story.clone_from(&look.story);
    }
}

/// A step that failed.
#[derive(Clone, Debug)]
pub(crate) struct FailedStep {
    /// Where the step began that did last.
    pub(crate) began: EventNo,
    pub(crate) at: EventNo,
    pub(crate) boot: u32,
    pub(crate) step: u32,
    pub(crate) detail: String,
    /// Whether reads were found wrong while it ran: then it failed for that.
    pub(crate) bad_reads: bool,
}

/// The guest as the marks tell it.
#[derive(Debug, Default)]
pub(crate) struct Guest {
    pub(crate) boot: u32,
    pub(crate) boot_began: EventNo,
    pub(crate) agent: bool,
    pub(crate) finished: Option<bool>,
    pub(crate) ends: Vec<GuestEnd>,
    pub(crate) in_order: bool,
    pub(crate) targets: BTreeMap<u16, Target>,
    /// Whether one was named in this boot.
    pub(crate) target_in_boot: bool,
    /// The array that each target was last seen to be on.
    homes: BTreeMap<u16, Uuid>,
    /// Requests to an array that was checked and that no leg tells of any more.
    pub(crate) to_the_unseen: u64,
    pub(crate) bad_reads: Vec<BadRead>,
    pub(crate) bad_reads_more: u64,
    bad_reads_looked: usize,
    pub(crate) failed: Vec<FailedStep>,
    pub(crate) workload_notes: Vec<String>,
    /// Discards and flushes of the workload that failed.
    pub(crate) errors: u64,
    bad_in_step: bool,
    /// Where the last step began.
    step_began: EventNo,
    /// What the agent was waiting for at its quiet point, with the point's number.
    quiet: Option<(u32, String)>,
    judged_end: bool,
}

impl Guest {
    pub(super) fn boot(&mut self, no: EventNo, boot: u32) {
        self.boot_began = no;
        self.boot = boot;
        self.finished = None;
        self.quiet = None;
        self.target_in_boot = false;
        self.judged_end = false;
    }

    pub(super) fn ended(&mut self, how: &GuestEnd) {
        self.ends.push(how.clone());
        self.judged_end = true;
    }

    /// Whether the run's end is a point to judge at: without an agent there is no other, and a boot's end has not been judged already.
    pub(super) fn may_judge_end(&self) -> bool {
        !self.judged_end
    }
}

impl Checker {
    pub(super) fn mark(&mut self, no: EventNo, us: u64, mark: &Mark) {
        match mark {
            Mark::Intent(intent) => match intent.phase {
                Phase::Begin => self.intent_begins(no, us, intent),
                Phase::End { errno } => self.intent_ends(no, us, intent, errno),
            },
            Mark::Pages(pages) => self.announced.put(pages),
            Mark::Hello(hello) => {
                self.guest.agent = true;
                self.coverage
                    .facts
                    .insert("kernel.release".into(), hello.release.clone());
                self.coverage
                    .facts
                    .insert("kernel.tainted".into(), hello.tainted.to_string());
            }
            Mark::Target(target) => {
                self.guest.target_in_boot = true;
                self.guest.targets.insert(target.target, target.clone());
            }
            Mark::StepBegin { .. } => {
                self.guest.bad_in_step = false;
                self.guest.step_began = no;
                self.look_at_what_is_left(no);
            }
            Mark::StepEnd { step, ok, detail } => {
                self.released = no;
                if !ok {
                    let (boot, bad_reads) = (self.guest.boot, self.guest.bad_in_step);
                    self.guest.failed.push(super::guest::FailedStep {
                        began: self.guest.step_began,
                        at: no,
                        boot,
                        step: *step,
                        detail: detail.clone(),
                        bad_reads,
                    });
                }
            }
            Mark::WorkloadEnd { note, refused, .. } => {
                self.coverage.writes_refused += refused;
                if !note.is_empty() && !self.guest.workload_notes.contains(note) {
                    self.guest.workload_notes.push(note.clone());
                }
            }
            Mark::ReadBackEnd { good, bad, .. } => {
                self.coverage.read_back_good += good;
                self.coverage.read_back_bad += bad;
            }
            Mark::BadRead {
                target,
                sector,
                head,
                digest,
            } => self.bad_read(no, us, *target, *sector, head, *digest),
            Mark::Survey {
                target,
                sector,
                digests,
            } => {
                for part in self.mapped(*target, *sector, digests.len() as u64).parts {
                    let of = |sector| digests.get(to_usize(part.offset(sector)?)).copied();
                    let own: Vec<u32> = part.array.sectors().filter_map(of).collect();
                    self.surveyed(no, us, part.key, part.array, &own);
                }
            }
            Mark::Quiet { id, pending } => {
                self.released = no;
                self.immutable.clear();
                self.guest.quiet = Some((*id, pending.clone()));
            }
            Mark::Fact { name, value } => {
                if self.coverage.facts.len() < 1000 {
                    self.coverage.facts.insert(name.clone(), value.clone());
                }
            }
            Mark::Admin(admin) => self.admin(no, admin),
            Mark::Sync(look) => self.sync_look(no, look),
            Mark::Finish { ok } => self.guest.finished = Some(*ok),
        }
        self.durable.troubles.guest_goes_on();
    }

    /// The array sectors of a target's range.
    fn mapped(&self, target: u16, sector: Sector, count: u64) -> Mapped {
        self.find_mapped(target, sector, count).unwrap_or_default()
    }

    fn find_mapped(&self, target: u16, sector: Sector, count: u64) -> Option<Mapped> {
        let target = self.guest.targets.get(&target)?;
        let (offset, iv) = target.mapping.place()?;
        let iv = match iv {
            Some(_) if self.world.header.crypt_key.is_none() => return None,
            Some(first) => Some(first.checked_add(sector.0)?),
            None => None,
        };
        let arrays = self.world.md.arrays();
        let mut checked: Vec<&Array> = arrays
            .iter()
            .filter(|array| array.refused.is_none() && array.active().next().is_some())
            .collect();
        checked.dedup_by_key(|array| array.key.uuid);
        // With several arrays, the target is the one of its size.
        if checked.len() > 1 {
            checked.retain(|array| offset == 0 && array.whole_sectors() == target.sectors);
        }
        let [one] = checked[..] else {
            return None;
        };
        let range = SectorRange::new(sector.checked_add(offset)?, count)?;
        if range.end().0 > one.whole_sectors() {
            return None;
        }
        Some(Mapped {
            parts: self.parts(&one.key.uuid, range),
            iv,
        })
    }

    fn intent_begins(&mut self, no: EventNo, us: u64, intent: &Intent) {
        self.guest.agent = true;
        self.scrub_disturbed();
        match intent.kind {
            IntentKind::Write | IntentKind::Unstamped => self.coverage.writes_begun += 1,
            IntentKind::Discard => {}
            IntentKind::Flush => {
                self.book.flush_begin(no, intent);
                return;
            }
        }
        if intent.count == 0 {
            return;
        }
        if intent.flags.immutable {
            self.immutable.insert(
                (intent.writer, intent.slot),
                (intent.writer, intent.sequence),
            );
        }
        let mapped = self.mapped(intent.target, intent.sector, u64::from(intent.count));
        if let Some(part) = mapped.parts.first() {
            self.guest.homes.insert(intent.target, part.key.uuid);
        }
        let begun =
            !mapped.parts.is_empty() && self.book.begin(no, us, intent, &mapped.parts, mapped.iv);
        if !begun {
            self.coverage.intents_unmapped += 1;
            self.guest.to_the_unseen += u64::from(self.is_unseen(intent.target));
            // Its array may be one that was known before and is not to be seen now: what was meant there must not be expected when it is seen again.
            let parts = self.last_known(intent);
            self.book.begin_unknown(no, us, intent, &parts);
        }
    }

    /// Whether a target was on an array that was checked and that no leg tells of any more.
    fn is_unseen(&self, target: u16) -> bool {
        self.guest.homes.get(&target).is_some_and(|home| {
            let mut all = self.world.md.arrays().iter();
            *home != DECLARED.uuid && all.all(|array| array.key.uuid != *home)
        })
    }

    /// Where an intent lies on the array that its target was on before.
    fn last_known(&self, intent: &Intent) -> SmallVec<[Part; 1]> {
        let place = || {
            let uuid = self.guest.homes.get(&intent.target)?;
            let (offset, _) = self.guest.targets.get(&intent.target)?.mapping.place()?;
            let first = intent.sector.checked_add(offset)?;
            let range = SectorRange::new(first, u64::from(intent.count))?;
            let all = self.world.md.arrays().iter();
            let whole = all
                .filter(|mirror| mirror.key.uuid == *uuid)
                .map(Array::whole_sectors)
                .max()?;
            (range.end().0 <= whole).then(|| self.parts(uuid, range))
        };
        place().unwrap_or_default()
    }

    /// The parts of an array's range, a mirror each.
    fn parts(&self, uuid: &Uuid, range: SectorRange) -> SmallVec<[Part; 1]> {
        let all = self.world.md.arrays().iter();
        all.filter(|mirror| mirror.key.uuid == *uuid)
            .filter_map(|mirror| {
                let on_mirror = mirror.stripe.map(|stripe| stripe.on_mirror(range));
                let array = on_mirror.unwrap_or(range);
                (!array.is_empty()).then_some(Part {
                    key: mirror.key,
                    array,
                    striped: mirror.stripe.map(|stripe| (stripe, range.start())),
                })
            })
            .collect()
    }

    fn intent_ends(&mut self, no: EventNo, us: u64, intent: &Intent, errno: u16) {
        match (intent.kind, errno) {
            (IntentKind::Write | IntentKind::Unstamped, 0) => {
                self.coverage.writes_acknowledged += 1;
            }
            (IntentKind::Write | IntentKind::Unstamped, _) => self.coverage.writes_failed += 1,
            (IntentKind::Discard, 0) => self.coverage.discards_acknowledged += 1,
            (IntentKind::Flush, 0) => self.coverage.flushes_acknowledged += 1,
            (IntentKind::Discard | IntentKind::Flush, _) => self.guest.errors += 1,
        }
        if intent.kind == IntentKind::Flush {
            if errno == 0
                && let Some(begin) = self.book.flush_began(intent)
            {
                self.flush_all(no, intent, begin);
            }
            for id in self.book.flush_end(intent, errno) {
                self.judge(no, id, Moment::Flushed);
            }
            return;
        }
        let Some(parts) = self.book.end(no, us, intent, errno) else {
            return;
        };
        if errno != 0 {
            return;
        }
        for id in parts {
            if !intent.flags.buffered {
                self.book.settle(id);
                self.judge(no, id, Moment::Acknowledged);
            }
            let Some(record) = self.book.record(id).cloned() else {
                continue;
            };
            if intent.flags.buffered {
                self.pend(&record);
            } else {
                self.err_record_order(no, &record);
            }
        }
    }

    fn bad_read(
        &mut self,
        no: EventNo,
        us: u64,
        target: u16,
        sector: Sector,
        head: &str,
        digest: u32,
    ) {
        self.guest.bad_in_step = true;
        if self.guest.bad_reads.len() >= BAD_READS_MAX {
            self.guest.bad_reads_more += 1;
            return;
        }
        let part = self.mapped(target, sector, 1).parts.first().copied();
        if let Some(part) = part {
            self.wrongs.prove_read(part.key, part.array.start());
        }
        let key = part.map(|part| part.key);
        let own = part.map_or(sector, |part| part.array.start());
        let follows = self.guest.bad_reads.last().is_some_and(|before| {
            before.target == target && before.sector.0.checked_add(1) == Some(sector.0)
        });
        let look = (!follows && self.guest.bad_reads_looked < BAD_LOOKS_MAX).then(|| {
            self.guest.bad_reads_looked += 1;
            Box::new(self.look_at_bad_read(self.guest.boot_began, no, key, own, digest))
        });
        self.guest.bad_reads.push(BadRead {
            at: no,
            time_us: us,
            target,
            sector,
            head: head.to_owned(),
            digest,
            key,
            array_sector: key.map_or(own, |key| self.world.md.on_whole(key, own)),
            look,
        });
    }

    /// The host's word on a quiet point.
    pub(super) fn quiet(&mut self, no: EventNo, id: u32, pending: &[RequestId]) {
        let declared = self.guest.quiet.take().filter(|(own, _)| *own == id);
        let boot = self.guest.boot;
        let mut missed: Vec<String> = Vec::new();
        match declared {
            None => missed.push("the agent did not declare it".into()),
            Some((_, waits)) if !waits.is_empty() => missed.push(waits),
            Some(_) => {}
        }
        if !pending.is_empty() {
            missed.push(format!("{} requests on the legs", pending.len()));
        }
        if pending.is_empty() && self.modifies_in_flight() {
            missed.push("writes on the legs".into());
        }
        if !self.book.idle() {
            missed.push("the workload's own requests".into());
        }
        if missed.is_empty() {
            self.coverage.quiet_reached += 1;
            self.quiet_at = no;
            self.rest(no, true);
        } else {
            let what = missed.join(", ");
            self.coverage
                .quiet_missed
                .push(format!("quiet point {id} of boot {boot}: {what}"));
        }
    }

    pub(super) fn modifies_in_flight(&self) -> bool {
        (0..self.world.shadows.len()).any(|leg| {
            u8::try_from(leg).is_ok_and(|leg| {
                self.world
                    .requests
                    .in_flight(crate::block::LegId(leg))
                    .any(|(_, open)| open.operation.modifies())
            })
        })
    }

    /// The guest powered off, or the run ends without one: the last point to judge at.
    pub(super) fn at_power_off(&mut self, no: EventNo) {
        if !self.modifies_in_flight() {
            self.rest_at_end(no);
        }
    }

    /// At the end buffered writes may never have been synced: they keep either version.
    fn rest_at_end(&mut self, no: EventNo) {
        self.book.guest_gone(no);
        self.rest(no, false);
    }
}
