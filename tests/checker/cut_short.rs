//! What a cut leaves on one leg alone, and a resync that does or does not copy it.

use crate::history::{History, Load, data_offset};
use crate::told::{finish, kept, only};
use legwatch::block::{LegId, Operation, Sector, Status, sector_digests};
use legwatch::event::{Content, What};
use legwatch::finding::{Check, Confidence, Wrongness};
use legwatch::mark::Mark;
use legwatch::oracle::Verdict;

/// A write that leg a has stored and leg b has not when the guest is killed.
fn cut_short(applied: bool, copied: bool) -> Verdict {
    let mut history = History::with_bitmap(2, None);
    history.honest(&Load::new(1, 1, 640, 8));
    history.superblocks(false);
    let late = Load::new(1, 2, 640, 8);
    history.begin(&late);
    history.write(0, 640, &late.contents());
    let request = history.arrive(1, Operation::Write, 640, 8);
    history.fetch(request, &late.contents());
    history.abandon(request, applied);
    history.crash(2);
    history.superblocks(false);
    if copied {
        history.copy(0, &[1], 640, &late.contents());
    }
    history.superblocks(true);
    finish(&mut history)
}

#[test]
fn a_write_cut_short_that_resync_does_not_copy() {
    let verdict = cut_short(false, false);
    let finding = only(&verdict, Check::ResyncEq, Wrongness::Absent, &["b"]);
    assert_eq!(finding.confidence, Confidence::Proven);
    assert_eq!((finding.array[0].start, finding.array[0].count), (640, 8));
    kept(&cut_short(false, true), Check::ResyncEq);
    // It was there after all.
    kept(&cut_short(true, false), Check::ResyncEq);
}

/// Where the write of a guest that was killed had got to on both legs, and nobody was told.
fn cut_short_on_both(stored: [bool; 2], copied: Option<[u8; 2]>) -> Verdict {
    let mut history = History::with_bitmap(2, None);
    let old = Load::new(1, 1, 640, 8);
    history.honest(&old);
    history.superblocks(false);
    let late = Load::new(1, 2, 640, 8);
    history.begin(&late);
    for (leg, stored) in (0..).zip(stored) {
        let request = history.arrive(leg, Operation::Write, 640, 8);
        history.fetch(request, &late.contents());
        history.abandon(request, stored);
    }
    history.crash(2);
    history.superblocks(false);
    if let Some([from, to]) = copied {
        let content = if stored[usize::from(from)] { late } else { old };
        history.copy(from, &[to], 640, &content.contents());
    }
    history.superblocks(true);
    finish(&mut history)
}

#[test]
fn a_write_that_one_leg_stored_before_anybody_was_told_and_resync_does_not_copy() {
    for stored in [[true, false], [false, true]] {
        let verdict = cut_short_on_both(stored, None);
        let without = if stored[0] { "b" } else { "a" };
        let finding = only(&verdict, Check::ResyncEq, Wrongness::Absent, &[without]);
        assert_eq!(finding.confidence, Confidence::Proven);
        for copied in [[0, 1], [1, 0]] {
            kept(&cut_short_on_both(stored, Some(copied)), Check::ResyncEq);
        }
    }
    for stored in [[true, true], [false, false]] {
        kept(&cut_short_on_both(stored, None), Check::ResyncEq);
    }
}

/// What the next boot does about sectors that a power cut took from leg b's cache.
#[derive(Clone, Copy, PartialEq)]
enum After {
    Nothing,
    Copied { from: u8 },
    Written,
    LostToo,
    Back,
}

fn lost_and(after: After) -> Verdict {
    let mut history = History::with_bitmap(2, None);
    let first = Load::new(1, 1, 640, 8);
    let second = Load::new(1, 2, 640, 8);
    history.honest(&first);
    history.superblocks(false);
    history.honest(&second);
    history.crash(2);
    let lose = |history: &mut History, leg: u8, content: &Load| {
        history.push(What::Lost {
            leg: LegId(leg),
            start: Sector(data_offset(leg) + 640),
            digests: sector_digests(content.contents().as_flattened()).collect(),
            payload: None,
        });
    };
    lose(&mut history, 1, &first);
    match after {
        After::LostToo => lose(&mut history, 0, &first),
        After::Back => lose(&mut history, 1, &second),
        After::Nothing | After::Copied { .. } | After::Written => {}
    }
    history.mark(Mark::StepBegin { step: 0 });
    history.superblocks(false);
    match after {
        After::Copied { from: 0 } => history.copy(0, &[1], 640, &second.contents()),
        After::Copied { .. } => history.copy(1, &[0], 640, &first.contents()),
        After::Written => history.honest(&Load::new(1, 3, 640, 8)),
        After::Nothing | After::LostToo | After::Back => {}
    }
    history.superblocks(true);
    finish(&mut history)
}

#[test]
fn what_a_cache_lost_and_resync_does_not_copy() {
    let verdict = lost_and(After::Nothing);
    let finding = only(&verdict, Check::ResyncEq, Wrongness::Absent, &["b"]);
    assert_eq!(finding.confidence, Confidence::Proven);
    assert_eq!((finding.array[0].start, finding.array[0].count), (640, 8));
    for after in [
        After::Copied { from: 0 },
        After::Copied { from: 1 },
        After::Written,
        After::LostToo,
        After::Back,
    ] {
        kept(&lost_and(after), Check::ResyncEq);
    }
}

/// A write that leg b had not stored; then the copy of it is cut, too.
fn cut_again(copy_stored: bool, copied: bool) -> Verdict {
    let mut history = History::with_bitmap(2, None);
    history.honest(&Load::new(1, 1, 640, 8));
    history.superblocks(false);
    let late = Load::new(1, 2, 640, 8);
    history.begin(&late);
    history.write(0, 640, &late.contents());
    let request = history.arrive(1, Operation::Write, 640, 8);
    history.fetch(request, &late.contents());
    history.abandon(request, false);
    history.crash(2);
    history.superblocks(false);
    let gpa = 0x7000_0000;
    let read = history.arrive_from(0, Operation::Read, data_offset(0) + 640, 8, gpa);
    history.complete_with(read, Status::Ok, Content::NotTaken);
    history.honest_md = false;
    let copy = history.arrive_from(1, Operation::Write, data_offset(1) + 640, 8, gpa);
    history.honest_md = true;
    history.fetch(copy, &late.contents());
    history.abandon(copy, copy_stored);
    history.crash(3);
    history.superblocks(false);
    if copied {
        history.copy(0, &[1], 640, &late.contents());
    }
    history.superblocks(true);
    finish(&mut history)
}

#[test]
fn a_copy_that_is_cut_short_itself() {
    let verdict = cut_again(false, false);
    only(&verdict, Check::ResyncEq, Wrongness::Absent, &["b"]);
    kept(&cut_again(false, true), Check::ResyncEq);
    // It was there after all.
    kept(&cut_again(true, false), Check::ResyncEq);
}

/// A cut with a superblock or bitmap page on its way: nobody knows which marks are there, and md may copy nothing.
#[test]
fn a_cut_while_marks_are_written() {
    for superblock in [true, false] {
        let mut history = History::with_bitmap(2, None);
        history.honest(&Load::new(1, 1, 640, 8));
        history.superblocks(false);
        let late = Load::new(1, 2, 640, 8);
        history.begin(&late);
        history.write(0, 640, &late.contents());
        let request = history.arrive(1, Operation::Write, 640, 8);
        history.fetch(request, &late.contents());
        let at = if superblock { 8 } else { 16 };
        let block = *history.last_superblock(0);
        let mark = history.arrive_at(0, Operation::Write, at, 1);
        history.fetch_with(mark, &[block], true);
        history.abandon(mark, true);
        history.abandon(request, false);
        history.crash(2);
        history.superblocks(false);
        history.superblocks(true);
        let verdict = finish(&mut history);
        let found = verdict.findings.iter();
        let all: Vec<Check> = found.map(|finding| finding.check).collect();
        assert!(!all.contains(&Check::ResyncEq), "{all:?}");
    }
}
