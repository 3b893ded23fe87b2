//! An array's last rounds of superblocks, for what is held against a leg that turns out to have failed or to have been replaced (cases 7 and 9).
//!
//! From the moment at which md calls a leg faulty, writes pass it by that had got beyond `md_write_start`, and are acknowledged, though no superblock says so
//! yet (drivers/md/raid1.c:raid1_error, raid1_write_request); later ones wait for it, unless the leg was replaced (raid1_spare_active only calls it faulty). md
//! makes a round's content first and sends the bitmap's superblock before the legs' own (drivers/md/md.c:md_update_sb), so the round on its way may still call
//! the leg good, and only the next one tells. The leg is sure to have been good only up to where the last round that called it so began.

use crate::event::EventNo;

/// Where the last two rounds began.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rounds {
    events: Option<u64>,
    /// The first write of the bitmap's superblock since the last of the legs' own.
    ahead: Option<EventNo>,
    /// The newest first.
    began: [EventNo; 2],
}

impl Rounds {
    /// Metadata has completed, after which the array's freshest counter is `events`; `superblock`: a leg's own, and not the bitmap's.
    pub(super) fn seen(&mut self, events: u64, superblock: bool, no: EventNo) {
        if self.events != Some(events) {
            self.events = Some(events);
            self.began = [self.ahead.take().unwrap_or(no), self.began[0]];
        } else if superblock {
            self.ahead = None;
        } else {
            self.ahead.get_or_insert(no);
        }
    }

    /// Where the round before the present one began; 0: that round was never seen.
    pub(super) fn before(&self) -> EventNo {
        self.began[1]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_begins_with_the_bitmaps_superblock() {
        let mut rounds = Rounds::default();
        for (events, superblock, no) in [
            (4, true, 10),
            (4, true, 12),
            (4, false, 15),
            (4, false, 16),
            (5, true, 20),
            (5, true, 21),
            (6, true, 30),
        ] {
            rounds.seen(events, superblock, EventNo(no));
        }
        assert_eq!(rounds.before(), EventNo(15));
        rounds.seen(7, true, EventNo(40));
        assert_eq!(rounds.before(), EventNo(30));
    }
}
