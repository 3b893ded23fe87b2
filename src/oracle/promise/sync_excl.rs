//! `sync-excl`: where a resync copies, no write is under way.
//!
//! Covers: while an array is resynced or recovered: between the arrival of a READ of some array sectors and the completion of the WRITEs that
//! come from its pages and go to other legs, no normal WRITE of these sectors arrives on any leg, and none is in flight when the READ arrives
//! (`raid1.c:raise_barrier`, `wait_barrier`). Else resync may put old data over new.
//!
//! Does not cover: repairs (they write what they read to the leg that they read it from), reads that are not followed by such a WRITE. A program that reads
//! into a buffer and writes it again looks like resync until its write reaches the leg that it was read from, too: so this is told at the next point of rest,
//! and as suspect.

use std::collections::VecDeque;

use smallvec::SmallVec;

use crate::block::{LegId, RequestId, SectorRange};
use crate::event::EventNo;
use crate::finding::{Check, Wrongness};
use crate::md::{Array, ArrayKey};
use crate::oracle::checker::Checker;
use crate::oracle::world::{array_range, leg_range};

/// READs that may be resync's and are remembered.
const WINDOWS_MAX: usize = 512;
/// Violations that wait to be told.
const CLASHES_MAX: usize = 1000;

/// A READ that may be resync's, and the writes that come from its pages.
#[derive(Clone, Debug)]
struct Window {
    key: ArrayKey,
    range: SectorRange,
    from: LegId,
    read: EventNo,
    writes: SmallVec<[RequestId; 2]>,
    clash: Option<RequestId>,
}

/// A write that was under way where a resync copied.
#[derive(Clone, Debug)]
pub(super) struct Clash {
    key: ArrayKey,
    range: SectorRange,
    from: LegId,
    to: LegId,
    at: EventNo,
    other: RequestId,
}

/// All windows that may be open.
#[derive(Debug, Default)]
pub(super) struct Windows {
    open: VecDeque<Window>,
    clashes: Vec<Clash>,
}

impl Windows {
    pub(super) fn clear(&mut self) {
        *self = Windows::default();
    }
}

impl Checker {
    fn syncs(&self, array: &Array) -> bool {
        self.promises.resync_due.contains(&array.key)
            || array.members.iter().any(|member| {
                let own = self.promises.leg(member.leg).superblock.as_ref();
                own.is_some_and(|own| own.recovery_offset.is_some())
            })
    }

    /// A READ arrived.
    pub(super) fn window_opens(
        &mut self,
        no: EventNo,
        leg: LegId,
        array: &Array,
        range: SectorRange,
    ) {
        if !self.syncs(array) {
            return;
        }
        let clash = array.active().find_map(|member| {
            self.world
                .requests
                .in_flight(member.leg)
                .filter(|(id, open)| open.operation.modifies() && self.promises.normal(**id))
                .find(|(_, open)| {
                    let part = open
                        .ranges
                        .first()
                        .and_then(|one| array_range(member, *one));
                    part.is_some_and(|part| part.intersection(range).is_some())
                })
                .map(|(id, _)| *id)
        });
        let windows = &mut self.promises.windows.open;
        if windows.len() == WINDOWS_MAX {
            windows.pop_front();
        }
        windows.push_back(Window {
            key: array.key,
            range,
            from: leg,
            read: no,
            writes: SmallVec::new(),
            clash,
        });
    }

    /// A normal WRITE arrived.
    pub(super) fn window_crossed(&mut self, id: RequestId, key: ArrayKey, range: SectorRange) {
        for window in &mut self.promises.windows.open {
            if window.key == key && window.range.intersection(range).is_some() {
                window.clash.get_or_insert(id);
            }
        }
    }

    /// A WRITE arrived that comes from the pages of a READ of the leg `from`, which arrived with `read`.
    pub(super) fn window_written(
        &mut self,
        id: RequestId,
        key: ArrayKey,
        range: SectorRange,
        from: LegId,
        read: EventNo,
    ) {
        let windows = &mut self.promises.windows;
        let same = |one: ArrayKey, theirs: SectorRange, leg: LegId| {
            one == key && leg == from && theirs.intersection(range).is_some()
        };
        if id.leg == from {
            // It goes where it came from: a program's.
            windows
                .open
                .retain(|one| !same(one.key, one.range, one.from));
            windows
                .clashes
                .retain(|one| !same(one.key, one.range, one.from));
        } else if let Some(window) = windows
            .open
            .iter_mut()
            .rev()
            .find(|one| one.read == read && same(one.key, one.range, one.from))
        {
            window.writes.push(id);
            self.count(Check::SyncExcl, 1);
        }
    }

    /// Such a WRITE has ended.
    pub(super) fn window_ended(&mut self, no: EventNo, id: RequestId) {
        let windows = &mut self.promises.windows;
        let Some(at) = windows.open.iter().position(|one| one.writes.contains(&id)) else {
            return;
        };
        let window = &mut windows.open[at];
        window.writes.retain(|one| *one != id);
        if !window.writes.is_empty() {
            return;
        }
        let Some(window) = windows.open.remove(at) else {
            return;
        };
        if let Some(other) = window.clash
            && windows.clashes.len() < CLASHES_MAX
            && window.read < no
        {
            windows.clashes.push(Clash {
                key: window.key,
                range: window.range,
                from: window.from,
                to: id.leg,
                at: no,
                other,
            });
        }
    }

    /// A point of rest: who had not been a program by now is none.
    pub(super) fn resolve_clashes(&mut self, array: &Array) {
        let (mine, others): (Vec<Clash>, Vec<Clash>) =
            std::mem::take(&mut self.promises.windows.clashes)
                .into_iter()
                .partition(|clash| clash.key == array.key);
        self.promises.windows.clashes = others;
        for clash in mine {
            let Some(member) = array.member(clash.to) else {
                continue;
            };
            let note = format!(
                "resync copied {} from leg {} to leg {} while request {} of leg {} was under way",
                clash.range,
                self.world.header.leg_name(clash.from),
                self.world.header.leg_name(clash.to),
                clash.other.number,
                self.world.header.leg_name(clash.other.leg)
            );
            let on_leg = leg_range(member, clash.range);
            self.break_promise(
                clash.at,
                Check::SyncExcl,
                Wrongness::Early,
                clash.to,
                clash.key,
                clash.range,
                on_leg,
                note,
            );
        }
    }
}
