//! What the agent does to an array, handed to the checks that it concerns.

use crate::block::LegId;
use crate::event::EventNo;
use crate::mark::{Admin, AdminAction, AdminPhase};
use crate::md::Array;
use crate::oracle::checker::Checker;

impl Checker {
    pub(crate) fn admin(&mut self, no: EventNo, admin: &Admin) {
        let legs: Vec<LegId> = admin
            .legs
            .iter()
            .filter_map(|name| self.world.header.leg_named(name))
            .collect();
        let one = legs.iter().find_map(|leg| self.promised(*leg));
        let Some(uuid) = one.map(|(array, _)| array.key.uuid) else {
            return;
        };
        // Of a raid10, all its mirrors.
        let arrays = self.world.md.arrays().iter();
        let arrays: Vec<Array> = arrays
            .filter(|array| array.key.uuid == uuid)
            .cloned()
            .collect();
        match (admin.action, admin.phase) {
            (AdminAction::Fail, AdminPhase::End { ok: true, .. }) => {
                for leg in legs {
                    self.gate_falls(no, leg);
                }
            }
            (AdminAction::Check | AdminAction::Repair, AdminPhase::Begin) => {
                for array in &arrays {
                    self.scrub_begins(array, admin.action);
                }
            }
            (AdminAction::Check | AdminAction::Repair, AdminPhase::End { ok, mismatches }) => {
                self.scrub_ends(no, arrays, ok, mismatches);
            }
            (AdminAction::Serialize, AdminPhase::End { ok: true, .. }) => {
                for array in &arrays {
                    self.promises.serial.begins(no, array.key);
                }
            }
            (AdminAction::Serialize | AdminAction::Unserialize, AdminPhase::Begin) => {
                for array in &arrays {
                    self.promises.serial.ends(array.key);
                }
            }
            (AdminAction::Serialize, AdminPhase::End { ok: false, .. }) => {
                for array in &arrays {
                    self.promises.serial.never_was(array.key);
                }
            }
            (AdminAction::Unserialize, AdminPhase::End { .. }) => {}
            (
                AdminAction::Fail | AdminAction::Remove | AdminAction::Add | AdminAction::ReAdd,
                _,
            ) => {}
        }
    }
}
