//! `durable`: after a boot that ended anywhere, every sector holds one of its legal versions, and what the workload was told is durable is there.
//!
//! A sector's versions are what the workload began to write there. The oldest legal one is the newest that was acknowledged under O_DSYNC, or before
//! a flush began that was acknowledged; every version that did not end before that one began is legal, acknowledged or not. With none of that kind
//! legal is as well what was there before.
//!
//! Covers: each active leg, when the next boot's first step begins (its legs are there, and md has not touched them yet); and what a survey of the
//! target reads through the array in a later boot.
//!
//! Does not cover: sectors never stamped, legs that may lag behind an acknowledgement (the bitmap or the dirty array brings them up to date: `resync-eq`),
//! what a leg's own errors and lies explain (`trouble` says what, and how long), sectors whose versions were too many to keep. A sector that is left out
//! on one leg is left out on all and through the array, for a resync may copy it, until a version that began later is durable. The version that the array
//! shows is judged as suspect where a leg may lag (K4).

use std::collections::BTreeMap;

use super::checker::Checker;
use super::fold::plain;
use super::guest::{BadLook, tell_bad_read};
use super::intents::Held;
use super::record::IntentNo;
use super::stamp::{self, Judged};
use super::trouble::Troubles;
use super::world::leg_sector;
use crate::block::{LegId, Sector, SectorRange};
use crate::event::EventNo;
use crate::finding::{Cause, Check, Confidence, Finding, RANGES_MAX, Range, Wrongness};
use crate::md::{Array, ArrayKey, Member};
use crate::shadow::{Table, ZERO_DIGEST};

/// Sectors of a survey that are remembered one by one.
const READ_MAX: usize = 100_000;

/// What surveys found.
#[derive(Debug, Default)]
pub(crate) struct Durable {
    /// Whether the legs were looked at in this boot.
    looked: bool,
    pub(super) troubles: Troubles,
    /// Array sectors that a leg's errors explain, and when that was seen.
    left_out: BTreeMap<ArrayKey, Table<EventNo>>,
    /// Whether the first wrong read was looked at: of one that is no older version, of one that is.
    read_looked: [bool; 2],
    wrong: Vec<WrongRead>,
}

#[derive(Debug)]
struct WrongRead {
    at: EventNo,
    time_us: u64,
    /// As the guest numbers it.
    sector: Sector,
    digest: u32,
    older: bool,
    /// Why it need not be the kernel's fault.
    suspect: bool,
    /// Of the first of its kind.
    look: Option<Box<BadLook>>,
}

impl Durable {
    pub(super) fn boot(&mut self) {
        self.looked = false;
    }
}

impl Checker {
    /// A step begins: the first one of a later boot is when what the one before left is looked at.
    pub(super) fn look_at_what_is_left(&mut self, no: EventNo) {
        if self.durable.looked || self.guest.boot < 2 {
            return;
        }
        self.durable.looked = true;
        self.lost_covered(no);
        if self.book.keeps_versions() {
            self.look_at_legs(no);
        }
        // What the legs answered in the boots before is settled with it.
        let md = &self.world.md;
        let declared = |leg: LegId| md.of(leg).is_some_and(|(array, _)| array.declared);
        self.durable.troubles.forget(declared);
    }

    fn look_at_legs(&mut self, no: EventNo) {
        for array in self.world.md.arrays().to_vec() {
            if array.refused.is_some() {
                continue;
            }
            let mut told: Vec<Sector> = Vec::new();
            for member in array.active() {
                if !array.may_lag(member) {
                    told.extend(self.durable_on_leg(no, &array, member));
                }
            }
            // Told or explained once: what a resync makes of it is no other finding.
            for sector in told {
                if let Some(cell) = self.book.cell_mut(array.key, sector) {
                    cell.base = true;
                }
            }
        }
    }

    /// Whether what may be missing in a sector is explained already: nothing that began since is durable.
    fn left_out(&self, key: ArrayKey, sector: Sector) -> bool {
        let table = self.durable.left_out.get(&key);
        table
            .and_then(|table| table.get(sector))
            .is_some_and(|since| {
                let durable = self.book.durable_version(key, sector);
                durable.is_none_or(|version| version.began < *since)
            })
    }

    /// Judges a leg; the array sectors that are wrong, be it explained or not.
    fn durable_on_leg(&mut self, no: EventNo, array: &Array, member: &Member) -> Vec<Sector> {
        let mut wrong: Vec<(Sector, (IntentNo, Wrongness))> = Vec::new();
        let mut explained = Vec::new();
        let mut judged = 0u64;
        let sectors: Vec<Sector> = self.book.sectors(array.key).collect();
        for sector in sectors {
            let Some(at) = leg_sector(member, sector) else {
                continue;
            };
            let shadow = self.world.shadow(member.leg);
            let current = shadow.current(at);
            // What is left after a cut is known; a write without an answer may have happened or not.
            let sure = current.is_found();
            let mut could = shadow.possible(at).take(if sure { 1 } else { usize::MAX });
            if could.any(|version| self.may_hold(array, sector, version.digest)) {
                judged += 1;
                continue;
            }
            let Some(id) = self.book.least(array.key, sector) else {
                continue;
            };
            let said = stamp::judge(&self.world, &self.book, array, member, sector);
            if matches!(said, Judged::Excused(_)) && !sure {
                continue;
            }
            if self.left_out(array.key, sector) {
                continue;
            }
            let durable = self.book.durable_version(array.key, sector);
            if let Some(excuse) = self.explained(member, at, durable.unwrap_or_default()) {
                explained.push((sector, excuse));
                continue;
            }
            judged += 1;
            let kind = if self.was_there(array, sector, current.digest) {
                Wrongness::Older
            } else {
                Wrongness::Garbage
            };
            wrong.push((sector, (id, kind)));
        }
        self.count(Check::Durable, judged);
        for part in wrong.chunk_by(|(a, one), (b, other)| one == other && a.0 + 1 == b.0) {
            let Some((start, (id, kind))) = part.first() else {
                continue;
            };
            let Some(run) = SectorRange::new(*start, part.len() as u64) else {
                continue;
            };
            let record = self.book.record(*id).cloned();
            let sure = Confidence::Proven;
            self.put_wrong(
                no,
                Check::Durable,
                *kind,
                sure,
                array,
                member,
                run,
                record.as_ref(),
            );
        }
        let left_out = self.durable.left_out.entry(array.key).or_default();
        for (sector, _) in &explained {
            *left_out.slot(*sector) = Some(no);
        }
        for (sector, excuse) in &explained {
            if let (Some(excuse), Some(one)) = (excuse, SectorRange::new(*sector, 1)) {
                self.excuse(array.key, one, *excuse);
            }
        }
        let explained = explained.into_iter().map(|(sector, _)| sector);
        let wrong = wrong.into_iter().map(|(sector, _)| sector);
        explained.chain(wrong).collect()
    }

    /// Whether a content is legal for an array sector.
    fn may_hold(&self, array: &Array, sector: Sector, digest: Option<u32>) -> bool {
        let Some(digest) = digest else { return true };
        match self.book.may_hold(array.key, sector, digest) {
            Held::Legal => true,
            Held::TooOld | Held::Nobodys => false,
            Held::Before(first) => {
                digest == ZERO_DIGEST
                    || array.members.iter().any(|member| {
                        let Some(at) = leg_sector(member, sector) else {
                            return false;
                        };
                        let shadow = self.world.shadow(member.leg);
                        shadow.forgotten(at)
                            || shadow.versions(at).any(|version| {
                                version.no < first && version.digest.is_none_or(|was| was == digest)
                            })
                    })
            }
        }
    }

    /// Whether a content was there once.
    fn was_there(&self, array: &Array, sector: Sector, digest: Option<u32>) -> bool {
        let Some(digest) = digest else { return false };
        digest == ZERO_DIGEST
            || self.book.may_hold(array.key, sector, digest) == Held::TooOld
            || array.members.iter().any(|member| {
                leg_sector(member, sector).is_some_and(|at| {
                    let shadow = self.world.shadow(member.leg);
                    shadow
                        .versions(at)
                        .skip(1)
                        .any(|v| v.digest == Some(digest))
                })
            })
    }

    /// What a survey read through the array.
    pub(super) fn surveyed(
        &mut self,
        no: EventNo,
        us: u64,
        key: ArrayKey,
        range: SectorRange,
        read: &[u32],
    ) {
        let Some(array) = self.world.md.array(key).cloned() else {
            return;
        };
        let suspect = array.active().any(|member| array.may_lag(member));
        let mut judged = 0;
        for (sector, digest) in range.sectors().zip(read) {
            let busy = |cell| self.book.busy(cell);
            if self.book.cell(key, sector).is_none_or(busy) {
                continue;
            }
            judged += 1;
            self.coverage.sectors_surveyed += 1;
            if self.may_hold(&array, sector, Some(*digest))
                || self.left_out(key, sector)
                || self.durable.wrong.len() >= READ_MAX
            {
                continue;
            }
            let older = self.was_there(&array, sector, Some(*digest));
            let seen = &mut self.durable.read_looked[usize::from(older)];
            let look = (!std::mem::replace(seen, true)).then(|| {
                let begin = self
                    .book
                    .begun(key, sector)
                    .unwrap_or(self.guest.boot_began);
                Box::new(self.look_at_bad_read(begin, no, Some(key), sector, *digest))
            });
            self.durable.wrong.push(WrongRead {
                at: no,
                time_us: us,
                sector: self.world.md.on_whole(key, sector),
                digest: *digest,
                older,
                suspect,
                look,
            });
        }
        self.count(Check::Durable, judged);
    }

    /// What surveys found, as findings: one for versions that are too old, one for what nobody wrote.
    pub(super) fn durable_findings(&self, findings: &mut Vec<Finding>) {
        for older in [true, false] {
            let like = || self.durable.wrong.iter().filter(|read| read.older == older);
            let Some(first) = like().next() else { continue };
            let count = like().count();
            let what = if older {
                "an older version than the workload was told is durable"
            } else {
                "what nobody wrote there"
            };
            let kind = if older {
                Wrongness::Older
            } else {
                Wrongness::Garbage
            };
            let mut finding = plain(
                Check::Durable,
                kind,
                &format!("array/{}", first.sector),
                first.at,
                format!("{count} sectors read through the array hold {what}"),
                first.look.as_ref().map_or_else(
                    || "a survey after a cut read them".to_owned(),
                    |look| format!("a survey after a cut read them; {}", look.holders),
                ),
            );
            finding.sectors = count as u64;
            let told = format!(
                "the guest read array sector {} ({}) and got {what}",
                first.sector, first.at
            );
            tell_bad_read(
                &mut finding,
                first.look.as_deref(),
                (first.at, first.time_us),
                told,
            );
            for read in like() {
                let full = finding.array.len() >= RANGES_MAX;
                match finding.array.last_mut() {
                    Some(range) if range.start + range.count == read.sector.0 => range.count += 1,
                    Some(_) | None if !full => finding.array.push(Range {
                        start: read.sector.0,
                        count: 1,
                    }),
                    Some(_) | None => break,
                }
            }
            finding.last = like().next_back().map_or(first.at.0, |read| read.at.0);
            if first.suspect {
                finding.confidence = Confidence::Suspect;
                finding.notes.push(
                    "a leg may lag behind, and some kernels read from it before the resync (K4)"
                        .into(),
                );
            }
            let sources: Option<Vec<u16>> = like()
                .map(|read| self.injected.source(Some(read.digest)))
                .collect();
            if let Some(rule) = sources.as_ref().and_then(|rules| rules.first()) {
                finding.cause = Cause::Injected;
                finding.reason = format!(
                    "the guest got what fault `{}` made a leg answer; md has no means to notice",
                    self.rule_name(*rule)
                );
            }
            findings.push(finding);
        }
    }
}
