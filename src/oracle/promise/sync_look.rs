//! How far the guest's sysfs says that a resync or recovery is, beside what the legs show.
//!
//! What `sync_completed` calls done has been copied on the legs: md waits until none of its copies is in flight before it counts on
//! (`md.c:md_do_sync`, `curr_resync_completed`). So that is a checkpoint like those of superblocks, and held to the same: what differs below it is not copied
//! by the same pass afterwards (`resync-eq`, `rec-eq`).
//!
//! A number is used where it is sure which pass it is about: the look before was of the same pass, and no superblock was completed since.
//!
//! Does not cover: a raid10, of which a recovery counts a leg's own sectors; checks and repairs.

use std::collections::BTreeMap;

use crate::block::LegId;
use crate::event::EventNo;
use crate::finding::Check;
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
    pass: SyncPass,
}

/// All passes that the guest told of.
#[derive(Debug, Default)]
pub(super) struct SyncLooks {
    over: Vec<SyncPass>,
    more: u64,
    open: BTreeMap<Uuid, Open>,
}

impl SyncLooks {
    pub(super) fn boot(&mut self) {
        while let Some((uuid, _)) = self.open.first_key_value() {
            self.ends(*uuid);
        }
    }

    /// A copy was sent to a leg of the array.
    pub(super) fn copied(&mut self, uuid: Uuid, sectors: u64) {
        if let Some(open) = self.open.get_mut(&uuid) {
            open.pass.copied += sectors;
        }
    }

    fn ends(&mut self, uuid: Uuid) {
        let Some(open) = self.open.remove(&uuid) else {
            return;
        };
        if self.over.len() < PASSES_MAX {
            self.over.push(open.pass);
        } else {
            self.more += 1;
        }
    }

    /// Takes a look into account. When the one before of the same pass was told, if there was one.
    fn look(&mut self, no: EventNo, boot: u32, uuid: Uuid, look: &SyncLook) -> Option<EventNo> {
        let same = |open: &&mut Open| {
            let pass = &open.pass;
            pass.action == look.action && pass.legs == look.legs && pass.done <= look.done
        };
        if let Some(open) = self.open.get_mut(&uuid).filter(same) {
            open.pass.looks += 1;
            open.pass.done = look.done;
            open.pass.all = look.all;
            return Some(std::mem::replace(&mut open.looked, no));
        }
        self.ends(uuid);
        if look.action != IDLE {
            let pass = SyncPass {
                action: look.action.clone(),
                legs: look.legs.clone(),
                boot,
                looks: 1,
                done: look.done,
                all: look.all,
                copied: 0,
                apart: 0,
            };
            self.open.insert(uuid, Open { looked: no, pass });
        }
        None
    }

    /// Below what was called done these sectors differed.
    fn apart(&mut self, uuid: Uuid, sectors: u64) {
        if let Some(open) = self.open.get_mut(&uuid) {
            open.pass.apart += sectors;
        }
    }

    /// What reports tell, and how many more there were.
    fn told(&self) -> (Vec<SyncPass>, u64) {
        let open = self.open.values().map(|open| open.pass.clone());
        let mut all: Vec<SyncPass> = self.over.iter().cloned().chain(open).collect();
        let more = all.len().saturating_sub(PASSES_MAX) as u64;
        all.truncate(PASSES_MAX);
        (all, self.more + more)
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
        if before.is_none() {
            // A pass begins, or is over.
            for check in [Check::ResyncEq, Check::RecEq] {
                self.promises.checkpoints.anew(check, array.key);
            }
        }
        // A guest that begins one pass after the other has each compared from its start.
        let few = self.promises.sync_looks.over.len() < PASSES_MAX;
        if let Some(before) = before.filter(|_| few && !array.raid10) {
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
