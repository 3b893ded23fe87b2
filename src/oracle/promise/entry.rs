//! How a broken promise becomes an entry, with its story; and where legs differ without an excuse.

use super::{Difference, ENTRIES_MAX};
use crate::block::{LegId, Operation, SectorRange};
use crate::event::EventNo;
use crate::finding::{Check, Confidence, StoryLine, Wrongness};
use crate::md::{Array, ArrayKey};
use crate::oracle::checker::Checker;
use crate::oracle::clean_eq::{self, Compared};
use crate::oracle::excuse::Excuse;
use crate::oracle::intents::Accept;
use crate::oracle::known::{self, Standing, When};
use crate::oracle::world::{bit, leg_range, leg_sector};
use crate::oracle::wrong::{Detail, Wrong};
use crate::shadow::{Past, RangeSet};

/// How many events before a broken promise its story tells marks, console lines and cuts at most.
const MOMENTS_BACK: u64 = 1024;

/// A broken promise: which, in which way, on which leg, and where.
#[derive(Clone, Copy, Debug)]
pub(super) struct Broken {
    pub(super) no: EventNo,
    pub(super) check: Check,
    pub(super) kind: Wrongness,
    pub(super) leg: LegId,
    pub(super) key: ArrayKey,
    pub(super) array: SectorRange,
    pub(super) on_leg: SectorRange,
}

/// Whether a broken promise is about what a leg holds, and not about when something came or what metadata says.
fn about_content(check: Check, kind: Wrongness, array: SectorRange) -> bool {
    let content = matches!(
        kind,
        Wrongness::Absent
            | Wrongness::Differs
            | Wrongness::Older
            | Wrongness::Garbage
            | Wrongness::Misplaced
            | Wrongness::Torn
    );
    // `bit-first` misses a bit.
    content && check != Check::BitFirst && !array.is_empty()
}

impl Checker {
    /// The sectors of a set in which active legs differ without an excuse. What is in flight is looked at again.
    pub(super) fn differences(&mut self, array: &Array, parts: &RangeSet) -> Vec<Difference> {
        let mut found = Vec::new();
        for sector in parts.ranges().flat_map(SectorRange::sectors) {
            match clean_eq::compare(&self.world, &self.book, array, sector, true) {
                Compared::Equal => {}
                Compared::Excused(Excuse::InFlight) => {
                    if let Some(one) = SectorRange::new(sector, 1) {
                        let unproven = self.promises.unproven.entry(array.key).or_default();
                        unproven.insert(one);
                    }
                }
                Compared::Excused(_) => {}
                Compared::Different(_, kind, _, leg) => found.push((sector, (leg.0, kind))),
                Compared::Judged => {
                    let wrong = array.active().find(|member| {
                        let content = leg_sector(member, sector)
                            .map(|at| self.world.shadow(member.leg).current(at));
                        self.book.cell(array.key, sector).is_some_and(|cell| {
                            cell.judged & bit(member.leg) == 0
                                && content.is_some_and(|version| {
                                    self.book.accepts(cell, sector, version.digest) == Accept::No
                                })
                        })
                    });
                    found.extend(wrong.map(|member| (sector, (member.leg.0, Wrongness::Absent))));
                }
            }
        }
        crate::oracle::judge::runs(&found)
    }

    /// An entry for each difference.
    pub(super) fn break_where(
        &mut self,
        no: EventNo,
        check: Check,
        array: &Array,
        found: Vec<Difference>,
        note: &str,
    ) {
        // What the guest's kernel copied from a rule's lie is apart from what is beside it.
        let parts = found.into_iter().flat_map(|(run, of)| {
            let sectors: Vec<_> = run
                .sectors()
                .map(|at| {
                    (
                        at,
                        SectorRange::new(at, 1).and_then(|one| self.injected_by(array.key, one)),
                    )
                })
                .collect();
            crate::oracle::judge::runs(&sectors)
                .into_iter()
                .map(move |(part, _)| (part, of))
        });
        for (run, (leg, kind)) in parts.collect::<Vec<_>>() {
            let leg = LegId(leg);
            if let Some(member) = array.member(leg) {
                let on_leg = leg_range(member, run);
                self.break_promise(
                    no,
                    check,
                    kind,
                    leg,
                    array.key,
                    run,
                    on_leg,
                    note.to_owned(),
                );
            }
        }
    }

    /// Puts an entry that is about metadata, or about sectors without a known write.
    #[expect(clippy::too_many_arguments, reason = "they are the entry's fields")]
    pub(super) fn break_promise(
        &mut self,
        no: EventNo,
        check: Check,
        kind: Wrongness,
        leg: LegId,
        key: ArrayKey,
        array: SectorRange,
        on_leg: SectorRange,
        note: String,
    ) {
        self.break_promise_when(no, check, kind, None, leg, key, array, on_leg, note);
    }

    /// What the guest runs, as `uname -r` has it; Debian tells the patch level in the version alone.
    pub(in crate::oracle) fn release(&self) -> Option<&str> {
        let fact = |name: &str| self.coverage.facts.get(name).map(String::as_str);
        let debian = fact("kernel.version")
            .and_then(|version| version.rsplit_once(" Debian "))
            .map(|(_, package)| package)
            .filter(|package| package.starts_with(|first: char| first.is_ascii_digit()));
        debian.or_else(|| fact("kernel.release"))
    }

    /// The same, under a condition in which stock kernels are known to break the promise.
    #[expect(clippy::too_many_arguments, reason = "they are the entry's fields")]
    pub(super) fn break_promise_when(
        &mut self,
        no: EventNo,
        check: Check,
        kind: Wrongness,
        when: Option<When>,
        leg: LegId,
        key: ArrayKey,
        array: SectorRange,
        on_leg: SectorRange,
        note: String,
    ) {
        let broken = Broken {
            no,
            check,
            kind,
            leg,
            key,
            array,
            on_leg,
        };
        self.break_with(broken, when, check.confidence(), note);
    }

    /// The same, with a confidence of its own.
    pub(super) fn break_with(
        &mut self,
        broken: Broken,
        when: Option<When>,
        confidence: Confidence,
        mut note: String,
    ) {
        let Broken {
            no,
            check,
            kind,
            leg,
            key,
            array,
            on_leg,
        } = broken;
        let standing = when.map_or(Standing::No, |when| {
            known::standing(check, when, self.release())
        });
        let (known, confidence) = match standing {
            Standing::Known(id) => (Some(id), confidence),
            Standing::Perhaps(id) => {
                note = format!("{note}; it may be {id}, which nobody has shown for this kernel");
                (None, Confidence::Suspect)
            }
            Standing::No => (None, confidence),
        };
        let injected = if array.is_empty() {
            None
        } else {
            self.injected_by(key, array)
        };
        let alike = (check, kind, confidence, known, injected);
        if self.wrongs.count(&alike) >= ENTRIES_MAX {
            self.wrongs.uncounted += 1;
            return;
        }
        let since = self.book.begun(key, array.start());
        let content = about_content(check, kind, array).then(|| {
            self.detail(
                check,
                kind,
                leg,
                key,
                array.start(),
                since.unwrap_or_default(),
            )
        });
        let looked = match &content {
            Some(looked) => looked.is_some(),
            None => self.wrongs.wants_detail(check, kind, leg),
        };
        let detail = if looked {
            let (held, expected, mut story) = match content.flatten() {
                Some(content) => (content.legs, content.expected, content.story),
                None => (Vec::new(), None, Vec::new()),
            };
            let about_content = !held.is_empty();
            let legs = self.world.md.array(key).map_or_else(Vec::new, |array| {
                array.members.iter().map(|m| (m.leg, m.data)).collect()
            });
            for (other, data) in legs {
                let place = if array.is_empty() {
                    on_leg
                } else {
                    let at = data.start().checked_add(array.start().0);
                    at.and_then(|at| SectorRange::new(at, array.count()))
                        .unwrap_or_default()
                };
                if !about_content {
                    self.tell(no, other, place, |_| true, &mut story);
                }
                let superblock = self.promises.leg(other).superblock_place();
                self.tell(no, other, superblock, Operation::modifies, &mut story);
            }
            let shown = self.request_with(leg, no);
            if let Some((leg, past)) = shown {
                self.tell_requests(leg, &[past], &mut story);
            }
            let oldest = story.iter().map(|line| line.event).min().unwrap_or(no.0);
            let from = EventNo(oldest.max(no.0.saturating_sub(MOMENTS_BACK)));
            if !about_content {
                story.extend(self.moments.between(from, no, |_, _| false));
            }
            story.sort();
            story.dedup();
            let first_wrong = match shown {
                Some((leg, past)) => {
                    let line = self.request_in_words(leg, past);
                    StoryLine {
                        what: format!("{}; {note}", line.what),
                        ..line
                    }
                }
                None => StoryLine {
                    event: no.0,
                    time_us: self.world.requests.time_of(leg, no),
                    leg: self.world.header.leg_name(leg).to_owned(),
                    what: note.clone(),
                },
            };
            let first_wrong = Some(first_wrong);
            Some(Box::new(Detail {
                sector: array.start(),
                expected,
                legs: held,
                story,
                first_wrong,
            }))
        } else {
            None
        };
        self.wrongs.put(Wrong {
            check,
            kind,
            confidence,
            leg,
            key,
            write: None,
            array,
            on_leg,
            at: no,
            instead: None,
            known,
            note: Some(note),
            injected,
            detail,
        });
    }

    /// The request that arrived, was fetched or ended with this number, of this leg or of another.
    fn request_with(&self, leg: LegId, no: EventNo) -> Option<(LegId, &Past)> {
        let legs = u8::try_from(self.world.header.legs.len()).unwrap_or(u8::MAX);
        std::iter::once(leg)
            .chain((0..legs).map(LegId))
            .find_map(|leg| Some((leg, self.world.requests.with_event(leg, no)?)))
    }

    /// Tells the last requests of a leg before a moment that touch a range, of those operations that are asked for.
    fn tell(
        &self,
        no: EventNo,
        leg: LegId,
        place: SectorRange,
        which: impl Fn(Operation) -> bool,
        story: &mut Vec<StoryLine>,
    ) {
        let from = EventNo(no.0.saturating_sub(4096));
        let requests = &self.world.requests;
        let (mut requests, _) = requests.touching(leg, place, from, no, usize::MAX);
        requests.retain(|past| which(past.operation));
        let skip = requests.len().saturating_sub(6);
        self.tell_requests(leg, requests.get(skip..).unwrap_or_default(), story);
    }
}
