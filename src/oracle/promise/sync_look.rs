//! How far the guest's sysfs says that a resync or recovery is, beside what the legs show.
//!
//! What `sync_completed` calls done has been copied on the legs: md waits until none of its copies is in flight before it counts on
//! (`md.c:md_do_sync`, `curr_resync_completed`). So that is a checkpoint like those of superblocks, and held to the same: what differs below it is not copied
//! by the same pass afterwards (`resync-eq`, `rec-eq`).
//!
//! A number is used where it is sure which pass it is about: the look before was of the same pass, and no superblock was completed since.
//!
//! Does not cover: a raid10's recovery, whose sectors are a leg's own; checks and repairs.

use std::collections::BTreeMap;

use crate::block::LegId;
use crate::event::EventNo;
use crate::mark::SyncLook;
use crate::md::{Array, Uuid};
use crate::oracle::checker::Checker;
use crate::oracle::verdict::SyncPass;

/// What an array may be doing (`md.c:action_name`); the last one: nothing.
const ACTIONS: [&str; 6] = ["resync", "recover", "check", "repair", "reshape", IDLE];
const IDLE: &str = "idle";
/// Passes that are told of.
const PASSES_MAX: usize = 256;

/// A pass that goes on.
#[derive(Debug)]
struct Open {
    /// When the last look was told.
    looked: EventNo,
    /// Its place among those that are told.
    at: usize,
}

/// All passes that the guest told of.
#[derive(Debug, Default)]
pub(super) struct SyncLooks {
    passes: Vec<SyncPass>,
    open: BTreeMap<Uuid, Open>,
    more: u64,
}

impl SyncLooks {
    pub(super) fn boot(&mut self) {
        self.open.clear();
    }

    /// A copy was sent to a leg of the array.
    pub(super) fn copied(&mut self, uuid: Uuid, sectors: u64) {
        let Some(open) = self.open.get(&uuid) else {
            return;
        };
        if let Some(pass) = self.passes.get_mut(open.at) {
            pass.copied += sectors;
        }
    }

    /// Takes a look into account. When the one before of the same pass was told, if there was one.
    fn look(&mut self, no: EventNo, boot: u32, uuid: Uuid, look: &SyncLook) -> Option<EventNo> {
        if look.action == IDLE {
            self.open.remove(&uuid);
            return None;
        }
        let same = |pass: &SyncPass| {
            pass.action == look.action && pass.legs == look.legs && pass.done <= look.done
        };
        let known = self.open.get_mut(&uuid);
        if let Some(open) = known
            && let Some(pass) = self.passes.get_mut(open.at)
            && same(pass)
        {
            pass.looks += 1;
            pass.done = look.done;
            pass.all = look.all;
            return Some(std::mem::replace(&mut open.looked, no));
        }
        self.open.remove(&uuid);
        if self.passes.len() == PASSES_MAX {
            self.more += 1;
            return None;
        }
        let at = self.passes.len();
        self.open.insert(uuid, Open { looked: no, at });
        self.passes.push(SyncPass {
            action: look.action.clone(),
            legs: look.legs.clone(),
            boot,
            looks: 1,
            done: look.done,
            all: look.all,
            copied: 0,
            apart: 0,
        });
        None
    }

    /// Below what was called done these sectors differed.
    fn apart(&mut self, uuid: Uuid, sectors: u64) {
        if let Some(open) = self.open.get(&uuid)
            && let Some(pass) = self.passes.get_mut(open.at)
        {
            pass.apart += sectors;
        }
    }

    /// What reports tell, and how many more there were.
    pub(super) fn told(&self) -> (Vec<SyncPass>, u64) {
        (self.passes.clone(), self.more)
    }
}

impl Checker {
    pub(crate) fn sync_look(&mut self, no: EventNo, look: &SyncLook) {
        // What it says is shown to people.
        let named = |name: &String| self.world.header.leg_named(name);
        let legs: Option<Vec<LegId>> = look.legs.iter().map(named).collect();
        let Some(legs) = legs.filter(|_| ACTIONS.contains(&look.action.as_str())) else {
            return;
        };
        let mut arrays = legs.into_iter().filter_map(|leg| self.promised(leg));
        let Some(array) = arrays.next().map(|(array, _)| array.clone()) else {
            return;
        };
        let (uuid, boot) = (array.key.uuid, self.guest.boot);
        let before = self.promises.sync_looks.look(no, boot, uuid, look);
        if let Some(before) = before.filter(|_| !array.raid10) {
            let settled = |leg: LegId| self.promises.leg(leg).kernel < before;
            if array.members.iter().all(|member| settled(member.leg)) {
                let apart = self.hold_to(no, &array, look);
                self.promises.sync_looks.apart(uuid, apart);
            }
        }
    }

    /// How many sectors differ below what the look calls done.
    fn hold_to(&mut self, no: EventNo, array: &Array, look: &SyncLook) -> u64 {
        match look.action.as_str() {
            "resync" => array.active().next().map_or(0, |member| {
                let leg = member.leg;
                self.resync_ckpt(no, leg, look.done)
            }),
            "recover" => {
                let comes = |leg: LegId| {
                    let own = self.promises.leg(leg).superblock.as_ref();
                    own.is_some_and(|own| own.recovery_offset.is_some())
                };
                let legs = array.members.iter().map(|member| member.leg);
                let recovering: Vec<LegId> = legs.filter(|leg| comes(*leg)).collect();
                recovering
                    .into_iter()
                    .map(|leg| self.rec_ckpt(no, leg, look.done))
                    .sum()
            }
            _ => 0,
        }
    }

    pub(crate) fn sync_coverage(&mut self) {
        let (passes, more) = self.promises.sync_looks.told();
        self.coverage.sync_passes = passes;
        self.coverage.sync_passes_more = more;
    }
}
