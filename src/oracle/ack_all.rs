//! `ack-all`: when the array acknowledges a write, every active leg has completed it.
//!
//! Covers: stamped writes, not buffered, at their end mark. A request of a leg that has not completed when the end mark arrives cannot have been
//! completed when md acknowledged, since the mark came later: that is proof. (The reverse is none, so a late leg can go unseen.)
//!
//! Does not cover: legs that may lag (a write-mostly leg of an array whose bitmap allows write-behind; counted as write-behind seen), writes that
//! failed, legs that answered with an error (case 14, K6), buffered writes, writes that the leg's history no longer holds. A write that never
//! arrives is `stamp`'s.

use super::record::Record;
use super::world::{World, leg_sector};
use crate::block::Sector;
use crate::md::Member;
use crate::shadow::State;

/// What is known of a write on a leg.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// Completed.
    Done,
    /// Fetched, and not completed.
    Pending,
    /// Answered with an error, or abandoned.
    Failed,
    /// Never seen, or no longer remembered.
    Unseen,
}

/// Looks for the write's content among a sector's versions on a leg.
pub(crate) fn look(world: &World, record: &Record, member: &Member, sector: Sector) -> Arrival {
    let (Some(digest), Some(at)) = (record.digest(sector), leg_sector(member, sector)) else {
        return Arrival::Unseen;
    };
    let mut arrival = Arrival::Unseen;
    for version in world.shadow(member.leg).versions(at) {
        if version.digest != Some(digest) || version.no < record.begin {
            continue;
        }
        match version.state {
            State::Acknowledged => return Arrival::Done,
            State::InFlight => arrival = Arrival::Pending,
            State::InDoubt => {
                if arrival == Arrival::Unseen {
                    arrival = Arrival::Failed;
                }
            }
        }
    }
    arrival
}
