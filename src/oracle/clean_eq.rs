//! `clean-eq`: legs of an array at rest hold the same bytes wherever the array was written.
//!
//! Covers: every data-area sector that any leg was written (by the workload, mkfs, resync, anybody) since the array had two active legs or since the last
//! such comparison, each leg at its own data offset, at quiet points and at the orderly end. It is the place where twins are compared:
//! differences with a more telling name get that name (`all-legs`, `same-data`, `discard-all`), the rest is this check's.
//!
//! Does not cover: metadata areas (case 1), sectors that nobody wrote (2), legs that are not active (7, 8, 9), contents that a check with stamps has
//! judged already, and differences that a numbered excuse explains; these are counted.

use super::all_legs;
use super::excuse::Excuse;
use super::intents::{Accept, Book};
use super::same_data;
use super::{discard_all, world::World, world::leg_sector};
use crate::block::{LegId, Sector};
use crate::event::EventNo;
use crate::finding::{Check, Confidence, Wrongness};
use crate::mark::IntentKind;
use crate::md::{Array, Member};
use crate::shadow::{Origin, State, Version};

/// What the comparison of one array sector says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compared {
    /// Equal on all active legs.
    Equal,
    /// Different, and another check has said so.
    Judged,
    /// Different, and md may.
    Excused(Excuse),
    /// Different, by this check's name, on this leg.
    Different(Check, Wrongness, Confidence, LegId),
}

/// Compares an array sector over all active legs. At most eight legs, so what is picked here is small. `stamps`: whether `stamp` is watched, and so
/// has told of contents that are nobody's.
pub(crate) fn compare(
    world: &World,
    book: &Book,
    array: &Array,
    sector: Sector,
    stamps: bool,
) -> Compared {
    let versions: smallvec::SmallVec<[(&Member, Sector, Version); 8]> = array
        .active()
        .filter_map(|member| {
            let at = leg_sector(member, sector)?;
            Some((member, at, world.shadow(member.leg).current(at)))
        })
        .collect();
    let Some(first) = versions.first() else {
        return Compared::Equal;
    };
    let equal = |one: &Version, other: &Version| one.digest == other.digest && one.digest.is_some();
    let untouched = versions.iter().all(|(_, _, v)| v.origin == Origin::Initial);
    if versions.len() < 2 {
        return Compared::Equal;
    }
    if versions.iter().all(|(_, _, v)| equal(v, &first.2)) {
        // A write that failed may not be there.
        let failed = |v: &Version| v.origin == Origin::Write && v.state == State::InDoubt;
        return if versions.iter().any(|(_, _, v)| failed(v)) {
            Compared::Excused(Excuse::WriteFailed)
        } else {
            Compared::Equal
        };
    }
    if untouched {
        return Compared::Excused(Excuse::Baseline);
    }
    if versions
        .iter()
        .any(|(member, at, _)| world.is_bad(member.leg, *at))
    {
        return Compared::Excused(Excuse::BadBlock);
    }
    if let Some(excuse) = state_excuse(&versions) {
        return Compared::Excused(excuse);
    }
    if let Some(verdict) = by_intents(book, array, sector, &versions, stamps) {
        return verdict;
    }
    // The largest group of equal legs is the measure; of equal groups, the one with the newest version.
    let weight = |one: &Version| {
        let like = versions.iter().filter(|(_, _, v)| equal(v, one));
        let newest = like.clone().map(|(_, _, v)| v.no).max();
        (like.count(), newest.unwrap_or(EventNo(0)))
    };
    let measure = versions
        .iter()
        .max_by_key(|(_, _, version)| weight(version))
        .expect("there are two or more");
    let odd = versions
        .iter()
        .find(|(_, _, version)| !equal(version, &measure.2))
        .expect("they are not all equal");
    name(world, array, *measure, *odd)
}

fn state_excuse(versions: &[(&Member, Sector, Version)]) -> Option<Excuse> {
    let any = |is: fn(&Version) -> bool| versions.iter().any(|(_, _, version)| is(version));
    if any(|version| version.state == State::InFlight) {
        Some(Excuse::InFlight)
    } else if any(|version| version.state == State::InDoubt) {
        Some(Excuse::WriteFailed)
    } else if any(|version| version.changed) {
        Some(Excuse::BufferChanged)
    } else {
        None
    }
}

/// Where the workload's intents tell more: stamps are `stamp`'s to judge, and what it may leave different is excused.
fn by_intents(
    book: &Book,
    array: &Array,
    sector: Sector,
    versions: &[(&Member, Sector, Version)],
    stamps: bool,
) -> Option<Compared> {
    let cell = book.cell(array.key, sector)?;
    if book.busy(cell) {
        return Some(Compared::Excused(Excuse::InFlight));
    }
    if book.failed(cell) {
        return Some(Compared::Excused(Excuse::WriteFailed));
    }
    let accepts = |version: &Version| book.accepts(cell, sector, version.digest);
    if versions
        .iter()
        .all(|(_, _, v)| matches!(accepts(v), Accept::Yes(_)))
    {
        return Some(Compared::Excused(Excuse::Overlap));
    }
    if stamps && versions.iter().any(|(_, _, v)| accepts(v) == Accept::No) {
        return Some(Compared::Judged);
    }
    if book.has(cell, IntentKind::Unstamped) {
        return Some(Compared::Excused(Excuse::BufferChanged));
    }
    (cell.candidates.len() > 1).then_some(Compared::Excused(Excuse::Overlap))
}

/// Gives a difference its name.
fn name(
    world: &World,
    array: &Array,
    measure: (&Member, Sector, Version),
    odd: (&Member, Sector, Version),
) -> Compared {
    let (right, right_at, new) = measure;
    let (wrong, wrong_at, old) = odd;
    // Legs are compared only where md or the agent says that all is over: absence is then proof.
    let sure = Confidence::Proven;
    let differs =
        |check, wrongness, confidence, leg| Compared::Different(check, wrongness, confidence, leg);
    for (with, without, leg) in [(new, old, wrong.leg), (old, new, right.leg)] {
        if discard_all::only_first(with, without) {
            return if world.discards(leg) {
                differs(Check::DiscardAll, Wrongness::Absent, sure, leg)
            } else {
                Compared::Excused(Excuse::Discarded)
            };
        }
    }
    if old.digest.is_none() || new.digest.is_none() {
        // Initial content that nobody read: a resync reads its source before it writes, so then only its digest was not taken.
        let (unknown, at) = if old.digest.is_none() {
            (wrong.leg, wrong_at)
        } else {
            (right.leg, right_at)
        };
        if world.requests.may_have_read(unknown, at) || array.resync_offset != crate::md::IN_SYNC {
            return Compared::Excused(Excuse::BeforeResync);
        }
    }
    let (behind, ahead) = (world.shadow(wrong.leg), world.shadow(right.leg));
    if all_legs::both_in_another_order(behind, ahead, (wrong_at, right_at)) {
        return Compared::Excused(Excuse::Overlap);
    }
    if all_legs::missed(behind, ahead, (wrong_at, right_at)) {
        return differs(Check::AllLegs, Wrongness::Absent, sure, wrong.leg);
    }
    if all_legs::missed(ahead, behind, (right_at, wrong_at)) {
        return differs(Check::AllLegs, Wrongness::Absent, sure, right.leg);
    }
    if same_data::buffer_changed(new, old) {
        return Compared::Excused(Excuse::BufferChanged);
    }
    if same_data::pair(new, old) {
        return differs(
            Check::SameData,
            Wrongness::Differs,
            Confidence::Suspect,
            wrong.leg,
        );
    }
    differs(
        Check::CleanEq,
        Wrongness::Differs,
        Confidence::Suspect,
        wrong.leg,
    )
}
