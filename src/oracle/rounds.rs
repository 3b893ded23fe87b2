//! An array's last rounds of superblocks, for what is held against a leg that turns out to have been replaced (cases 7 and 9).
//!
//! A leg that fails holds writes up until a superblock says so (drivers/md/raid1.c:raid1_error sets MD_SB_CHANGE_PENDING). One that is replaced does not
//! (raid1_spare_active only calls it faulty): writes pass it by at once. md makes a round's content first and sends the bitmap's superblock before the legs'
//! own (drivers/md/md.c:md_update_sb), so the round on its way may still call the leg good, and only the next one tells. The leg is sure to have been good
//! only up to where the last round that called it so began.

use crate::event::EventNo;

/// Where the last two rounds began.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rounds {
    events: Option<u64>,
    /// The first write of the bitmap's superblock since the last of the legs' own.
    ahead: Option<EventNo>,
    /// The newest first.
    began: [EventNo; 2],
    /// When a member was last seen to be a replacement in the making.
    replacing: Option<EventNo>,
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

    /// A member is a replacement in the making.
    pub(super) fn replacing(&mut self, no: EventNo) {
        self.replacing = Some(no);
    }

    /// Where the round before the present one began, if a replacement was in the making since; 0: that round was never seen.
    pub(super) fn replaced_since(&self) -> Option<EventNo> {
        let last = self.began[1];
        self.replacing.is_some_and(|no| no >= last).then_some(last)
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
        assert_eq!(rounds.replaced_since(), None);
        rounds.replacing(EventNo(16));
        assert_eq!(rounds.replaced_since(), Some(EventNo(15)));
        rounds.seen(7, true, EventNo(40));
        assert_eq!(
            rounds.replaced_since(),
            None,
            "the replacement was done long ago"
        );
    }
}
