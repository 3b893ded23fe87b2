//! What a check's findings say: headlines, and the reasoning behind them.

use crate::finding::{Check, Wrongness};

fn number(count: u64, one: &str, many: &str) -> String {
    if count == 1 {
        format!("1 {one}")
    } else {
        format!("{count} {many}")
    }
}

/// The headline of a finding made of entries.
pub(super) fn headline(
    check: Check,
    kind: Wrongness,
    writes: u64,
    sectors: u64,
    legs: &[String],
) -> String {
    let leg = match legs {
        [one] => format!("leg {one}"),
        [] => "no leg".to_owned(),
        many => format!("legs {}", many.join(", ")),
    };
    let what = if writes > 0 {
        number(writes, "write", "writes")
    } else {
        number(sectors, "sector", "sectors")
    };
    let plural = if writes > 0 {
        writes != 1
    } else {
        sectors != 1
    };
    let (is, was, has) = if plural {
        ("are", "were", "have")
    } else {
        ("is", "was", "has")
    };
    if let Some(short) = promised(check, kind) {
        return format!("{short} ({leg})");
    }
    match (check, kind) {
        (Check::DiscardAll, _) => format!("{what} {was} discarded on one leg and not on {leg}"),
        (_, Wrongness::Absent) => match legs.len() {
            1 => format!("{what} never reached {leg}"),
            _ => format!("{what} never reached a leg"),
        },
        (_, Wrongness::Torn) => format!("{what} reached {leg} only in part"),
        (_, Wrongness::Garbage) => format!("{what} {has} wrong content on {leg}"),
        (_, Wrongness::Misplaced) => format!("{what} {has} another sector's content on {leg}"),
        (Check::Durable, Wrongness::Older) => {
            format!("{what} that {was} durable {is} torn or gone on {leg}")
        }
        (_, Wrongness::Older) => format!("{what} {has} an older version on {leg}"),
        (_, Wrongness::Early) => format!("{what} {was} acknowledged before {leg} had completed it"),
        (_, Wrongness::Differs) => format!("{what} {has} different content on {leg}"),
        (_, Wrongness::Changed) => {
            format!("{what} {was} read by {leg} from a buffer that changed in flight")
        }
        (_, Wrongness::Metadata) => format!("md's metadata is wrong on {leg}"),
        (_, Wrongness::Read) => format!("{what} {was} read from {leg}"),
        (_, Wrongness::ReadBack) => format!("{what} {was} read back wrong"),
        (_, Wrongness::Step) => "a check step failed".to_owned(),
        (_, Wrongness::Kernel) => "the guest's kernel failed".to_owned(),
        (_, Wrongness::Unmet) => "the scenario expected something else".to_owned(),
    }
}

/// The headline of a promise that md made on the wire and broke.
fn promised(check: Check, kind: Wrongness) -> Option<&'static str> {
    Some(match (check, kind) {
        (Check::SbPeer, _) => "superblocks of one update differ",
        (Check::EventsStep, _) => "the superblock's update counter jumped",
        (Check::BmBeforeSb, _) => "a superblock was written before the bitmap's header",
        (Check::DirtyFirst, _) => "data was written while the superblock said clean",
        (Check::CleanQuiet, _) => "the array was called clean while a write was in flight",
        (Check::MetaFua, _) => "data was written before the dirty mark was durable",
        (Check::Bounds, _) => "data was written outside the data area",
        (Check::BitFirst, Wrongness::Early) => "data was written before its bit was durable",
        (Check::BitFirst, _) => "data was written and its bit never sent",
        (Check::BitClearEq, Wrongness::Early) => "a bit went clear while a write was in flight",
        (Check::BitClearEq, _) => "a bit went clear while legs differed",
        (Check::CrashCovered, _) => "a cut left legs different, and nothing says so",
        (Check::FlushAll, _) => "a flush was acknowledged that a leg never got",
        (Check::ResyncEq, _) => "legs differ after a resync",
        (Check::RecEq, _) => "a recovered leg differs",
        (Check::BitDegraded, _) => "a bit went clear while a leg lacks what it stands for",
        (Check::ErrRecord, Wrongness::Early) => {
            "a write was acknowledged before a leg's error for it was on record"
        }
        (Check::ErrRecord, _) => "a leg failed a write, and nothing says so",
        (Check::FaultGate, _) => "a write went out before the fault of a leg was on record",
        (Check::FaultSilent, _) => "a leg that is recorded as faulty was written to",
        (Check::BbNoread, _) => "bad blocks were read",
        (Check::NoStaleRead, _) => "a leg was read where it is not up to date",
        (Check::ReadSticky, _) => "reads flipped between legs that differ",
        (Check::SyncExcl, _) => "a write was under way where a resync copied",
        (Check::RepairData, _) => "a read error was repaired with wrong content",
        (Check::PreflushOrder, _) => {
            "a commit block was written before what it commits was durable"
        }
        (Check::Scrub, Wrongness::Metadata) => "mismatch_cnt is not what the legs returned",
        (Check::Scrub, Wrongness::Garbage) => "a check wrote to a leg",
        (Check::Scrub, _) => "legs differ after a repair",
        (Check::SerialExcl, _) => "overlapping writes were in flight on a leg at once",
        (Check::FuaTail, _) => "a durable write was acknowledged before it was durable",
        (
            Check::Stamp
            | Check::AckAll
            | Check::AllLegs
            | Check::SameData
            | Check::DiscardAll
            | Check::CleanEq
            | Check::BufStable
            | Check::SamePages
            | Check::Durable
            | Check::CheckStep
            | Check::Expect
            | Check::Guest,
            _,
        ) => return None,
    })
}

/// Why a check is right, as far as the check and its kind tell.
pub(super) fn reason(check: Check, kind: Wrongness) -> &'static str {
    match (check, kind) {
        (Check::AckAll, _) => {
            "the request was still in flight when the end mark arrived, and the end mark is later than the acknowledgement"
        }
        (Check::BufStable, _) => {
            "the writer never touches this buffer again, so whoever changed the page did not know that a leg's request still reads from it"
        }
        (Check::Stamp, Wrongness::Absent | Wrongness::Torn) => {
            "the workload was told that the write is done, and no request with its content reached the leg"
        }
        (Check::Stamp, _) => {
            "the leg holds exactly what the guest's kernel sent it, and that is not what the workload wrote"
        }
        (Check::AllLegs | Check::DiscardAll, _) => {
            "another leg got the request, nothing is in flight, and no answer to this leg was an error"
        }
        (Check::SameData, _) => {
            "both legs were written, from different guest pages, with different content"
        }
        (Check::CleanEq, _) => "nothing is in flight and md calls the array clean",
        (Check::SamePages | Check::CheckStep | Check::Guest, _) => "the guest said so",
        (Check::Expect, _) => "the scenario's [expect] says otherwise",
        (Check::Durable, _) => {
            "the workload was told that a newer version is durable, and no rule's doing explains that it is not there"
        }
        (Check::SbPeer | Check::EventsStep | Check::BmBeforeSb, _) => {
            "the leg's own metadata says so, as the guest's kernel sent it"
        }
        (Check::BitFirst, Wrongness::Absent) => {
            "the write was sent, and no bitmap that was sent to the leg since has the bit of its chunk"
        }
        (Check::Bounds, _) => "the guest's kernel sent the request with these sectors",
        (Check::BitClearEq | Check::CrashCovered, Wrongness::Absent | Wrongness::Differs) => {
            "the legs got different content, and what md keeps on the legs no longer says so: nothing will copy it"
        }
        (Check::FlushAll, _) => {
            "the workload was told that its flush is done, and the leg never ended one of its own in that time"
        }
        (Check::FuaTail, _) => {
            "the workload was told that its write is durable, and no FLUSH of the leg had made it so"
        }
        (Check::ResyncEq, _) => {
            "md called the legs in sync, nothing was in flight, and what they were sent differs"
        }
        (Check::RecEq, _) => {
            "the leg was away when the others were written, md called it recovered, and nothing brought it what it had missed"
        }
        (Check::BitDegraded, _) => {
            "the leg was away when these sectors were written, and the bit that would have had them copied when it comes back is gone; \
             no proof, as somebody who writes the bitmap knowingly may clear it"
        }
        (Check::ErrRecord, Wrongness::Absent) => {
            "the leg answered with an error, and neither a good write since, nor its bad-block log, nor another leg's superblock makes up for it"
        }
        (Check::FaultSilent, _) => {
            "the legs' superblocks call the leg faulty, and a write that began later was sent to it"
        }
        (Check::BbNoread, _) => "the leg's own bad-block log has these sectors",
        (Check::NoStaleRead, _) => {
            "the leg may lack what the others hold, and its answer was not what they hold"
        }
        (Check::ReadSticky, _) => {
            "the array was found dirty, so that legs may differ, and reads of one sector were answered by several of them"
        }
        (Check::SerialExcl, _) => {
            "serialize_policy was on, the leg had not completed the one when the other arrived, and another leg may store them in the other order"
        }
        (Check::SyncExcl, _) => {
            "resync had read these sectors and not yet written its copy, so that either may end up on top"
        }
        (Check::RepairData, _) => {
            "the content that was written over the unreadable sectors is on no other leg"
        }
        (Check::Scrub, Wrongness::Metadata) => {
            "what the legs returned to the check was compared here as well, with another outcome"
        }
        (Check::Scrub, Wrongness::Garbage) => "no READ had failed, so there was nothing to repair",
        (Check::Scrub, _) => "the repair had read these sectors on all legs, and they still differ",
        (
            Check::DirtyFirst
            | Check::CleanQuiet
            | Check::MetaFua
            | Check::BitFirst
            | Check::BitClearEq
            | Check::CrashCovered
            | Check::ErrRecord
            | Check::FaultGate
            | Check::PreflushOrder,
            _,
        ) => {
            "the legs saw the requests in this order, and md waits for the one before it sends the other"
        }
    }
}
