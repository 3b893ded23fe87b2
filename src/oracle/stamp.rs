//! `stamp`: what the workload meant to be on the array is on every active leg.
//!
//! Covers: every sector of every stamped write whose target maps to the array, on every active leg; at the write's end mark, for buffered writes at the
//! end of a flush that began later, for legs that may lag (write-mostly, write-behind) at the next point of rest; and once more wherever something
//! that nobody meant was written after that. It is the only check that sees garbage which is identical on all legs.
//!
//! Does not cover: sectors never stamped (nobody knows what they should be), targets with an unknown mapping, sectors whose last write failed
//! (either content is legal), a leg that lags and is written again before the point of rest (the older content can no longer be judged).
//! Sectors with several overlapping writes are right with the content of any of them (case 13).

use super::excuse::Excuse;
use super::intents::{Accept, Book};
use super::world::{World, leg_sector};
use crate::block::Sector;
use crate::event::EventNo;
use crate::finding::Wrongness;
use crate::md::{Array, Member};
use crate::shadow::State;

/// What a check says of one sector on one leg.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Judged {
    /// As it should be.
    Good,
    /// Nothing can be said: any content is legal.
    Any,
    /// Not as it should be, and md may.
    Excused(Excuse),
    /// Something is in flight: judge later.
    Later,
    /// Not as it should be.
    Wrong(Wrongness),
}

/// Judges what a leg holds in an array sector.
pub(crate) fn judge(
    world: &World,
    book: &Book,
    array: &Array,
    member: &Member,
    sector: Sector,
) -> Judged {
    let (Some(cell), Some(at)) = (book.cell(array.key, sector), leg_sector(member, sector)) else {
        return Judged::Any;
    };
    let shadow = world.shadow(member.leg);
    let current = shadow.current(at);
    match book.accepts(cell, sector, current.digest) {
        Accept::Yes(_) => return Judged::Good,
        Accept::Any => return Judged::Any,
        Accept::No => {}
    }
    if world.is_bad(member.leg, at) {
        return Judged::Excused(Excuse::BadBlock);
    }
    match current.state {
        State::InFlight => return Judged::Later,
        State::InDoubt => return Judged::Excused(Excuse::WriteFailed),
        State::Acknowledged => {}
    }
    let begin = book
        .expected(cell)
        .and_then(|id| book.record(id))
        .map_or(EventNo(0), |record| record.begin);
    if current.no < begin {
        return Judged::Wrong(Wrongness::Absent);
    }
    let before = |digest: u32| {
        cell.old
            .iter()
            .flat_map(|old| old.iter())
            .flatten()
            .any(|old| old.digest == digest)
    };
    let known_older = current.digest.is_some_and(before)
        || shadow
            .versions(at)
            .skip(1)
            .any(|version| version.digest == current.digest && version.no > EventNo(0));
    Judged::Wrong(if known_older {
        Wrongness::Older
    } else {
        Wrongness::Garbage
    })
}
