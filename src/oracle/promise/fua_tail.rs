//! `fua-tail`: a durable write is durable on every leg when it is acknowledged.
//!
//! Covers: at the end mark of an O_DIRECT and O_DSYNC write: on each active leg that may not be behind, a FLUSH arrived after the completion of the WRITE
//! that brought the content, and completed. virtio-blk has no FUA, so the block layer sends a FLUSH after it (`raid1.c:raid1_write_request`
//! passes the flag on, `block/blk-flush.c`).
//!
//! Does not cover: legs without a write cache, or on which no FLUSH was ever seen; writes during which a leg answered with an error in their sectors (retries carry no FUA); contents that
//! were written over since.

use crate::event::EventNo;
use crate::finding::{Check, Wrongness};
use crate::md::{Array, Member};
use crate::oracle::checker::Checker;
use crate::oracle::record::Record;
use crate::oracle::world::{leg_range, leg_sector};
use crate::shadow::{State, Version};

impl Checker {
    pub(crate) fn fua_tail(
        &mut self,
        no: EventNo,
        record: &Record,
        array: &Array,
        member: &Member,
    ) {
        let wire = self.promises.leg(member.leg);
        let flags = record.intent.flags;
        if !flags.dsync || flags.buffered || !wire.caches() {
            return;
        }
        let on_leg = leg_range(member, record.array);
        if wire.failed_since(on_leg, record.begin) || wire.flush_failed > record.begin {
            return;
        }
        let shadow = self.world.shadow(member.leg);
        let durable = shadow.durable_before();
        let mut late = None;
        for sector in record.array.sectors() {
            let Some(at) = leg_sector(member, sector) else {
                continue;
            };
            // Resync may have copied it there once more since.
            let mut brought = shadow.versions(at).filter(|version| {
                version.digest == record.digest(sector) && version.no > record.begin
            });
            let not_flushed = |version: &Version| {
                version.state == State::Acknowledged && version.ended >= durable
            };
            if let Some(version) = brought.next()
                && not_flushed(&version)
                && brought.all(|version| not_flushed(&version))
            {
                late = late.or(Some(version.ended));
            }
        }
        self.count(Check::FuaTail, 1);
        if let Some(ended) = late {
            let note = format!(
                "writer {} #{} was to be durable; its WRITE ended with {ended}, and no FLUSH followed before the acknowledgement",
                record.intent.writer, record.intent.sequence
            );
            self.break_promise(
                no,
                Check::FuaTail,
                Wrongness::Early,
                member.leg,
                array.key,
                record.array,
                on_leg,
                note,
            );
        }
    }
}
