//! Violations that only what comes later can prove: what md held back in the guest, or a leg that it has failed and not yet recorded, looks the same at
//! first.
//!
//! A leg that missed a flush is taken at its word when md sends it a write that began later (a faulty leg gets none), or when the run ends with the leg active,
//! and was not called faulty meanwhile. A recovered leg that lacks a write is found wrong when the array is next fully clean and the leg still never had that content.

use crate::block::{LegId, Sector, SectorRange};
use crate::event::EventNo;
use crate::finding::{Check, Wrongness};
use crate::md::{Array, ArrayKey};
use crate::oracle::checker::Checker;
use crate::oracle::world::{leg_range, leg_sector};

/// Doubts that are kept.
const DOUBTS_MAX: usize = 100_000;

/// A leg that missed a flush.
#[derive(Clone, Debug)]
pub(super) struct Missed {
    pub(super) at: EventNo,
    pub(super) leg: LegId,
    pub(super) key: ArrayKey,
    pub(super) note: String,
}

/// A recovered leg that lacks what another one has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lacks {
    pub(super) at: EventNo,
    pub(super) leg: LegId,
    pub(super) key: ArrayKey,
    pub(super) sector: Sector,
    pub(super) kind: Wrongness,
    /// What the others held.
    pub(super) digest: Option<u32>,
}

/// All doubts.
#[derive(Debug, Default)]
pub(super) struct Doubts {
    pub(super) missed: Vec<Missed>,
    pub(super) lacks: Vec<Lacks>,
    pub(super) repairs: Vec<super::repair_data::Repair>,
    pub(super) new_to_the_gone: Vec<super::fault_silent::New>,
}

impl Doubts {
    pub(super) fn lack(&mut self, lacks: Lacks) {
        if self.lacks.len() < DOUBTS_MAX {
            self.lacks.push(lacks);
        }
    }

    pub(super) fn clear(&mut self) {
        *self = Doubts::default();
    }
}

impl Checker {
    /// md sent the leg a write that began then: it was not faulty.
    pub(in crate::oracle) fn leg_is_alive(&mut self, leg: LegId, began: EventNo) {
        if self.promises.doubts.missed.is_empty() {
            return;
        }
        let (mine, others) = std::mem::take(&mut self.promises.doubts.missed)
            .into_iter()
            .partition(|missed| missed.leg == leg && missed.at < began);
        self.promises.doubts.missed = others;
        let mine: Vec<Missed> = mine;
        for missed in mine {
            self.break_promise(
                missed.at,
                Check::FlushAll,
                Wrongness::Absent,
                leg,
                missed.key,
                SectorRange::default(),
                SectorRange::default(),
                missed.note,
            );
        }
    }

    /// The run ends in order: legs that are active still are not faulty.
    pub(crate) fn resolve_doubts(&mut self, no: EventNo) {
        for array in self.world.md.arrays().to_vec() {
            for member in array.active() {
                self.leg_is_alive(member.leg, EventNo(u64::MAX));
            }
            self.resolve_at_rest(no, &array);
        }
    }

    /// The array is at rest: nothing that was in doubt is still to come.
    pub(crate) fn resolve_at_rest(&mut self, no: EventNo, array: &Array) {
        self.resolve_lacks(array);
        self.resolve_clashes(array);
        self.resolve_passed(array);
        self.resolve_repairs(array);
        self.resolve_new_to_the_gone(array, true);
        self.err_record(no, array);
        self.trouble_at_rest(array);
    }

    /// The array is at rest: what a recovered leg has not got by now it never gets.
    pub(super) fn resolve_lacks(&mut self, array: &Array) {
        let (mine, others): (Vec<Lacks>, Vec<Lacks>) =
            std::mem::take(&mut self.promises.doubts.lacks)
                .into_iter()
                .partition(|lacks| lacks.key == array.key);
        self.promises.doubts.lacks = others;
        let mut found = Vec::new();
        let mut at = EventNo(0);
        for lacks in mine {
            let Some(member) = array.member(lacks.leg).filter(|member| member.active) else {
                continue;
            };
            let Some(sector) = leg_sector(member, lacks.sector) else {
                continue;
            };
            let shadow = self.world.shadow(lacks.leg);
            // What it had before was written over since, by an older copy perhaps.
            let mut since = shadow
                .versions(sector)
                .take_while(|version| version.no > lacks.at);
            let lost = shadow.forgotten(sector)
                && shadow.versions(sector).all(|version| version.no > lacks.at);
            let got = lost || since.any(|version| version.digest == lacks.digest);
            if !got {
                at = lacks.at;
                found.push((lacks.sector, (lacks.leg.0, lacks.kind)));
            }
        }
        for (run, (leg, kind)) in crate::oracle::judge::runs(&found) {
            let leg = LegId(leg);
            let Some(member) = array.member(leg) else {
                continue;
            };
            let note = format!(
                "leg {} was called recovered with {at}, and never got what the others held",
                self.world.header.leg_name(leg)
            );
            let on_leg = leg_range(member, run);
            self.break_promise(at, Check::RecEq, kind, leg, array.key, run, on_leg, note);
        }
    }
}
