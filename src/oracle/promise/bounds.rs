//! `bounds`: the array's data stays in the array's data area.
//!
//! Covers: WRITEs outside the data area of a leg whose payload is a stamp of this run's workload, and WRITEs that cross the data area's border. That is an
//! offset gone wrong (`raid1.c:raid1_write_request` adds `data_offset`).
//!
//! Does not cover: other content wholly outside the data area: programs write superblocks and bitmaps there, and it cannot be told whose a write is. DISCARDs.
//! Arrays that are reshaped or resized.

use crate::block::{RequestId, SECTOR_BYTES, SectorRange};
use crate::event::EventNo;
use crate::finding::{Check, Wrongness};
use crate::oracle::checker::Checker;
use crate::stamp::Stamp;

impl Checker {
    pub(super) fn bounds(
        &mut self,
        no: EventNo,
        id: RequestId,
        range: SectorRange,
        payload: &[u8],
    ) {
        let Some((key, data, active)) = self
            .promised(id.leg)
            .map(|(array, member)| (array.key, member.data, member.active && self.runs(array)))
        else {
            return;
        };
        if !active {
            return;
        }
        self.count(Check::Bounds, 1);
        let run = self.world.header.run;
        let stamped = range
            .sectors()
            .zip(payload.chunks_exact(SECTOR_BYTES))
            .filter(|(sector, _)| !data.contains(*sector))
            .any(|(_, bytes)| Stamp::read(bytes).is_some_and(|(stamp, _)| stamp.run == run));
        let crosses = data.intersection(range).is_some() && !data.covers(range);
        if stamped || crosses {
            let what = if stamped {
                "the workload's data"
            } else {
                "a write"
            };
            let note = format!("{what} went to {range}; the data area is {data}");
            self.break_promise(
                no,
                Check::Bounds,
                Wrongness::Misplaced,
                id.leg,
                key,
                SectorRange::default(),
                range,
                note,
            );
        }
    }
}
