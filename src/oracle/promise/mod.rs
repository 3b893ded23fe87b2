//! md's own metadata as the specification: each promise that md makes on the wire (a dirty mark, a bit, a clean superblock), and the checks that hold it
//! to it. One module a check; here is what they look at, kept up to date from the events by `follow`.
//!
//! Three moments of a request are three different things: at its *arrival* the guest has submitted it, at its *fetch* its payload is read from guest memory
//! (metadata pages are live: what is in them then is what md thinks then), at its *completion* the leg holds it.
//!
//! Which writes are the array's own, and which are resync's or a repair's, is `class`'s to say.

mod admin;
mod bb_noread;
mod bit_clear_eq;
mod bit_degraded;
mod bit_first;
mod bm_before_sb;
mod bounds;
mod cache_lost;
mod checkpoint;
mod class;
mod clean_quiet;
mod crash_covered;
mod cut_short;
mod dirty_first;
mod doubt;
mod entry;
mod err_record;
mod events_step;
mod fault_gate;
mod fault_silent;
mod flush_all;
mod follow;
mod fua_tail;
mod gone;
mod meta_fua;
mod no_stale_read;
mod preflush_order;
mod read_sticky;
mod rec_eq;
mod repair_data;
mod resync_eq;
mod sb_peer;
mod scrub;
mod serial_excl;
mod sync_excl;
mod sync_look;
mod wire;

use std::collections::{BTreeMap, BTreeSet};

use super::checker::Checker;
use crate::block::{LegId, RequestId, SectorRange};
use crate::finding::Wrongness;
use crate::header::RunHeader;
use crate::md::{Array, ArrayKey, Member};
use crate::shadow::RangeSet;

pub(crate) use wire::LegWire;

/// Neighbouring array sectors, the leg that is wrong there, and in which way.
type Difference = (SectorRange, (u8, Wrongness));

/// Entries of one kind that are made; more are the same bug over and over.
const ENTRIES_MAX: u64 = 64;

/// All of it.
#[derive(Debug, Default)]
pub(crate) struct Promises {
    pub(crate) legs: Vec<LegWire>,
    classes: class::Classes,
    /// Payloads of metadata writes in flight.
    payloads: BTreeMap<RequestId, Vec<u8>>,
    /// Bits that must be sent soon.
    late_bits: Vec<bit_first::Late>,
    /// Array sectors written since they were last compared for a bit.
    unproven: BTreeMap<ArrayKey, RangeSet>,
    /// Array sectors written in the run, by anybody.
    ever: BTreeMap<ArrayKey, RangeSet>,
    /// Array sectors written while md had it on record that a leg is away.
    degraded: BTreeMap<ArrayKey, RangeSet>,
    /// Arrays that the boot before left dirty, or that a program made to be resynced.
    resync_due: BTreeSet<ArrayKey>,
    pub(crate) cut_short: cut_short::CutShort,
    /// Array sectors that caches lost at the cut before this boot.
    lost: BTreeMap<ArrayKey, RangeSet>,
    gates: fault_gate::Gates,
    to_the_gone: BTreeMap<RequestId, fault_silent::Sent>,
    unrecorded: err_record::Unrecorded,
    early_reads: read_sticky::EarlyReads,
    windows: sync_excl::Windows,
    checkpoints: checkpoint::Checkpoints,
    scrubs: BTreeMap<ArrayKey, scrub::Scrub>,
    serial: serial_excl::Serial,
    sync_looks: sync_look::SyncLooks,
    doubts: doubt::Doubts,
    arrivals_us: BTreeMap<RequestId, u64>,
}

impl Promises {
    pub(crate) fn new(header: &RunHeader) -> Promises {
        Promises {
            legs: header.legs.iter().map(LegWire::new).collect(),
            ..Promises::default()
        }
    }

    /// A leg has grown: this is what md has of it now.
    pub(crate) fn grew(&mut self, leg: LegId, part: SectorRange) {
        if let Some(wire) = self.legs.get_mut(leg.index())
            && wire.parts.grow(part)
        {
            wire.read_again();
        }
    }

    pub(crate) fn leg(&self, leg: LegId) -> &LegWire {
        &self.legs[leg.index()]
    }

    /// Whether the request is one that a check may hold md to.
    fn normal(&self, id: RequestId) -> bool {
        self.classes.normal(id)
    }
}

impl Checker {
    /// The array of a leg that the promises are about: one with superblocks, checked.
    fn promised(&self, leg: LegId) -> Option<(&Array, &Member)> {
        self.world.checked(leg).filter(|(array, _)| !array.declared)
    }

    /// Whether md runs the array in this boot: it wrote a superblock, or the workload has a target.
    fn runs(&self, array: &Array) -> bool {
        self.guest.target_in_boot
            || array
                .members
                .iter()
                .any(|member| self.promises.leg(member.leg).kernel > self.guest.boot_began)
    }

    /// Whether a READ may well be the array's: md runs it, or begins to. One that it found dirty gets no superblock before its first write, but its bitmap's
    /// header as it is loaded (`md-bitmap.c:md_bitmap_load`), and resync's copies. Not sure enough for what is proven.
    fn may_run(&self, array: &Array) -> bool {
        let wrote = |member: &Member| self.promises.leg(member.leg).wrote > self.guest.boot_began;
        self.runs(array) || array.members.iter().any(wrote)
    }
}
