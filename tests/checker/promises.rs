//! What md promises on the wire: each promise broken once, which its check and no other says; and the legal thing beside it, which none says.

use crate::history::{Block, History, Load, data_offset, garbage};
use crate::told::{self, finish, kept, silent, triggered};
use legwatch::block::{Operation, Status};
use legwatch::event::Content;
use legwatch::finding::{Check, Confidence, Finding, Wrongness};
use legwatch::mark::{IntentFlags, IntentKind};
use legwatch::oracle::{Outcome, Verdict};

/// As [`told::only`], of what is proven; the first wrong request is named in words, with its place in the story.
#[track_caller]
fn only(verdict: &Verdict, check: Check, kind: Wrongness, legs: &[&str]) -> Finding {
    assert_eq!(verdict.outcome, Outcome::Findings, "{verdict:#?}");
    let finding = told::only(verdict, check, kind, legs);
    assert_eq!(finding.confidence, Confidence::Proven);
    let first = finding.first_wrong.as_ref().expect("a first wrong request");
    let noted = finding.notes.iter().any(|note| first.what.ends_with(note));
    assert!(noted && first.event <= finding.first, "{finding:#?}");
    finding
}

/// Sectors that the workload knows nothing of, written through the array to these legs.
fn stray(history: &mut History, legs: &[u8], sector: u64, block: Block) {
    for leg in legs {
        history.write(*leg, sector, &[block]);
    }
}

#[test]
fn honest_promises_are_all_triggered() {
    let mut history = History::with_bitmap(2, None);
    let mut durable = Load::new(1, 1, 0, 64);
    durable.flags.dsync = true;
    history.begin(&durable);
    for leg in 0..2 {
        history.write(leg, 0, &durable.contents());
        history.flush(leg);
    }
    history.end(&durable);
    let flush = Load::new(1, 2, 0, 0).kind(IntentKind::Flush);
    history.begin(&flush);
    history.flush(0);
    history.flush(1);
    history.end(&flush);
    history.set_bits(0);
    let verdict = finish(&mut history);
    silent(&verdict);
    assert_eq!(verdict.outcome, Outcome::Clean, "{:?}", verdict.reasons);
    for check in [
        Check::SbPeer,
        Check::EventsStep,
        Check::BmBeforeSb,
        Check::DirtyFirst,
        Check::CleanQuiet,
        Check::MetaFua,
        Check::Bounds,
        Check::BitFirst,
        Check::BitClearEq,
        Check::FlushAll,
        Check::FuaTail,
    ] {
        assert!(triggered(&verdict, check) > 0, "{check:?}");
    }
}

#[test]
fn data_before_the_dirty_mark() {
    let mut history = History::new(2, None);
    history.superblocks(true);
    history.honest_md = false;
    history.honest(&Load::new(1, 1, 200, 8));
    history.honest_md = true;
    let verdict = finish(&mut history);
    let finding = only(&verdict, Check::DirtyFirst, Wrongness::Early, &["a", "b"]);
    assert_eq!(finding.array[0].start, 200);
    assert!(finding.story.iter().any(|line| line.what.contains("WRITE")));
}

#[test]
fn data_after_the_dirty_mark_of_one_leg_only() {
    let mut history = History::new(2, None);
    history.honest(&Load::new(1, 1, 200, 8));
    history.superblocks(true);
    history.bump();
    history.superblock(0, false, &[0, 1]);
    history.honest_md = false;
    history.honest(&Load::new(1, 2, 300, 8));
    history.superblock(1, false, &[0, 1]);
    history.dirty = true;
    history.honest_md = true;
    let verdict = finish(&mut history);
    only(&verdict, Check::DirtyFirst, Wrongness::Early, &["b"]);
}

/// Resync reads into two buffers with one request; the first one's write ends and it is read into anew before the second one is written.
#[test]
fn a_resyncs_buffer_that_is_read_into_again_leaves_the_others_to_resync() {
    let mut raid = History::new(2, None);
    raid.superblocks(true);
    let blocks = [[0; 512]; 16];
    let (first, second) = (0x900_0000, 0x900_1000);
    raid.honest_md = false;
    let mut passed = |leg, operation, sector, count: usize, gpa| {
        let at = data_offset(leg) + sector;
        let request = raid.arrive_from(leg, operation, at, count as u64, gpa);
        let content = if operation == Operation::Write {
            raid.fetch(request, &blocks[..count]);
            Content::Same
        } else {
            let sums = blocks[..count].iter().map(|block| crc32fast::hash(block));
            Content::Returned(sums.collect())
        };
        raid.complete_with(request, Status::Ok, content);
    };
    passed(0, Operation::Read, 512, 16, first);
    passed(1, Operation::Write, 512, 8, first);
    passed(0, Operation::Read, 528, 8, first);
    passed(1, Operation::Write, 520, 8, second);
    passed(1, Operation::Write, 528, 8, first);
    raid.honest_md = true;
    silent(&finish(&mut raid));
}

#[test]
fn a_resync_may_write_while_the_superblock_says_clean() {
    let mut history = History::new(2, None);
    history.honest(&Load::new(1, 1, 200, 8));
    history.superblocks(true);
    history.honest_md = false;
    // The reads were merged, the writes were not.
    let read = history.arrive_from(0, Operation::Read, 2048 + 192, 16, 0x7000_0000);
    history.complete_with(read, Status::Ok, Content::NotTaken);
    let write = history.arrive_from(
        1,
        Operation::Write,
        crate::history::data_offset(1) + 200,
        8,
        0x7000_1000,
    );
    history.fetch(write, &Load::new(1, 1, 200, 8).contents());
    history.complete(write);
    history.honest_md = true;
    silent(&finish(&mut history));
}

#[test]
fn a_clean_mark_while_a_write_is_in_flight() {
    let mut history = History::new(2, None);
    let load = Load::new(1, 1, 200, 8);
    history.begin(&load);
    history.write(0, 200, &load.contents());
    let request = history.arrive(1, Operation::Write, 200, 8);
    history.fetch(request, &load.contents());
    history.superblocks(true);
    history.complete(request);
    history.end(&load);
    let verdict = finish(&mut history);
    only(&verdict, Check::CleanQuiet, Wrongness::Early, &["b"]);
}

#[test]
fn a_dirty_mark_that_is_not_flushed() {
    let mut history = History::new(2, None);
    history.honest(&Load::new(1, 1, 200, 8));
    history.superblocks(true);
    history.meta_flush = false;
    history.honest(&Load::new(1, 2, 300, 8));
    history.meta_flush = true;
    history.flush(0);
    history.flush(1);
    let verdict = finish(&mut history);
    only(&verdict, Check::MetaFua, Wrongness::Early, &["a", "b"]);
}

#[test]
fn an_update_counter_that_jumps() {
    let mut history = History::new(2, None);
    history.honest(&Load::new(1, 1, 200, 8));
    history.bump();
    history.bump();
    let verdict = finish(&mut history);
    // Leg b is so far behind by then that it is not active until its own is written.
    only(&verdict, Check::EventsStep, Wrongness::Metadata, &["a"]);
}

#[test]
fn an_update_counter_may_go_back_once_to_clean() {
    let mut history = History::with_bitmap(2, None);
    history.honest(&Load::new(1, 1, 200, 8));
    history.superblocks_back();
    silent(&finish(&mut history));
    let mut history = History::with_bitmap(2, None);
    history.honest(&Load::new(1, 1, 200, 8));
    history.superblocks_back();
    history.superblocks_back();
    let verdict = finish(&mut history);
    only(
        &verdict,
        Check::EventsStep,
        Wrongness::Metadata,
        &["a", "b"],
    );
}

#[test]
fn superblocks_of_one_update_that_differ() {
    let mut history = History::new(2, None);
    history.honest(&Load::new(1, 1, 200, 8));
    history.bump();
    history.superblock(0, false, &[0, 1]);
    history.superblock_with(1, false, &[0, 1], 9, None);
    let verdict = finish(&mut history);
    let finding = only(&verdict, Check::SbPeer, Wrongness::Differs, &["b"]);
    assert!(finding.notes[0].contains("ctime"), "{:?}", finding.notes);
}

#[test]
fn a_superblock_before_the_bitmaps_header() {
    let mut history = History::with_bitmap(2, None);
    history.honest(&Load::new(1, 1, 200, 8));
    history.header_late();
    let verdict = finish(&mut history);
    only(&verdict, Check::BmBeforeSb, Wrongness::Early, &["a"]);
}

#[test]
fn data_outside_the_data_area() {
    let mut history = History::new(2, None);
    let load = Load::new(1, 1, 200, 8);
    history.honest(&load);
    let request = history.arrive_at(1, Operation::Write, 1000, 8);
    history.fetch_with(request, &load.contents(), true);
    history.complete(request);
    let verdict = finish(&mut history);
    only(&verdict, Check::Bounds, Wrongness::Misplaced, &["b"]);
}

#[test]
fn other_content_outside_the_data_area_is_nobodys_business() {
    let mut history = History::new(2, None);
    history.honest(&Load::new(1, 1, 200, 8));
    let request = history.arrive_at(1, Operation::Write, 1000, 8);
    history.fetch_with(request, &[garbage(1); 8], true);
    history.complete(request);
    silent(&finish(&mut history));
}

#[test]
fn a_bit_that_one_leg_is_never_sent() {
    let mut history = History::with_bitmap(2, None);
    history.honest(&Load::new(1, 1, 200, 8));
    history.honest_md = false;
    history.bits |= 1 << 10;
    history.bitmap_page(0, history.bits);
    history.honest(&Load::new(1, 2, 640, 8));
    history.honest_md = true;
    history.wait_us(3_000_000);
    let verdict = finish(&mut history);
    let finding = only(&verdict, Check::BitFirst, Wrongness::Absent, &["b"]);
    assert!(finding.notes[0].contains("chunk 10"), "{:?}", finding.notes);
}

#[test]
fn a_bit_that_is_sent_a_little_late_is_a_race_that_stock_kernels_have() {
    let mut history = History::with_bitmap(2, None);
    history.honest(&Load::new(1, 1, 200, 8));
    history.honest_md = false;
    history.honest(&Load::new(1, 2, 640, 8));
    history.honest_md = true;
    history.set_bits(history.bits | 1 << 10);
    history.wait_us(3_000_000);
    silent(&finish(&mut history));
}

#[test]
fn a_bit_that_is_not_durable_when_the_only_request_goes_out() {
    let mut load = Load::new(1, 2, 640, 8);
    load.flags.alone = true;
    for flushed in [false, true] {
        let mut history = History::with_bitmap(2, None);
        history.honest(&Load::new(1, 1, 200, 8));
        history.honest_md = false;
        history.bits |= 1 << 10;
        history.bitmap_page(0, history.bits);
        history.meta_flush = flushed;
        history.bitmap_page(1, history.bits);
        history.meta_flush = true;
        history.honest(&load);
        history.honest_md = true;
        let verdict = finish(&mut history);
        if flushed {
            silent(&verdict);
        } else {
            only(&verdict, Check::BitFirst, Wrongness::Early, &["b"]);
        }
    }
}

#[test]
fn a_bit_that_goes_clear_while_a_write_is_in_flight() {
    let mut history = History::with_bitmap(2, None);
    let load = Load::new(1, 1, 200, 8);
    history.begin(&load);
    history.write(0, 200, &load.contents());
    let request = history.arrive(1, Operation::Write, 200, 8);
    history.fetch(request, &load.contents());
    history.set_bits(0);
    history.complete(request);
    history.end(&load);
    let verdict = finish(&mut history);
    only(&verdict, Check::BitClearEq, Wrongness::Early, &["b"]);
}

#[test]
fn a_bit_that_goes_clear_over_a_difference() {
    let mut history = History::with_bitmap(2, None);
    history.honest(&Load::new(1, 1, 0, 8));
    stray(&mut history, &[0], 200, garbage(1));
    history.set_bits(0);
    // The difference is gone again before anybody compares legs at rest.
    stray(&mut history, &[0, 1], 200, garbage(2));
    let verdict = finish(&mut history);
    let finding = only(&verdict, Check::BitClearEq, Wrongness::Absent, &["b"]);
    assert_eq!(finding.array[0].start, 200);
}

#[test]
fn a_bit_may_stay_set_over_a_difference() {
    let mut history = History::with_bitmap(2, None);
    history.honest(&Load::new(1, 1, 0, 8));
    stray(&mut history, &[0], 200, garbage(1));
    stray(&mut history, &[0, 1], 200, garbage(2));
    history.set_bits(0);
    silent(&finish(&mut history));
}

#[test]
fn a_cut_that_leaves_a_difference_without_a_mark() {
    for covered in [false, true] {
        let mut history = History::with_bitmap(2, None);
        history.honest(&Load::new(1, 1, 0, 8));
        stray(&mut history, &[0], 200, garbage(1));
        if !covered {
            history.superblocks(true);
        }
        history.cut();
        let verdict = history.verdict();
        if covered {
            silent(&verdict);
            assert_eq!(triggered(&verdict, Check::CrashCovered), 1);
        } else {
            only(&verdict, Check::CrashCovered, Wrongness::Differs, &["b"]);
        }
    }
}

#[test]
fn a_cut_between_data_and_its_bit_may_be_a_known_race() {
    let mut history = History::with_bitmap(2, None);
    history.honest(&Load::new(1, 1, 0, 8));
    history.honest_md = false;
    stray(&mut history, &[0], 200, garbage(1));
    history.cut();
    let verdict = history.verdict();
    let finding = told::one(&verdict);
    assert_eq!(finding.check, Check::CrashCovered);
    assert_eq!(finding.confidence, Confidence::Suspect);
    assert!(finding.notes[0].contains("K1"), "{:?}", finding.notes);
}

#[test]
fn a_flush_that_a_leg_never_got() {
    let mut history = History::new(2, None);
    history.honest(&Load::new(1, 1, 0, 8));
    let flush = Load::new(1, 2, 0, 0).kind(IntentKind::Flush);
    // One that arrived before is none.
    let early = history.arrive_at(1, Operation::Flush, 0, 0);
    history.begin(&flush);
    history.complete_with(early, Status::Ok, Content::NotTaken);
    history.flush(0);
    history.end(&flush);
    let verdict = finish(&mut history);
    only(&verdict, Check::FlushAll, Wrongness::Absent, &["b"]);
}

#[test]
fn a_durable_write_that_was_not_flushed() {
    let mut history = History::new(2, None);
    let mut load = Load::new(1, 1, 200, 8);
    load.flags = IntentFlags {
        dsync: true,
        ..load.flags
    };
    history.begin(&load);
    history.write(0, 200, &load.contents());
    history.flush(0);
    history.write(1, 200, &load.contents());
    history.end(&load);
    let verdict = finish(&mut history);
    only(&verdict, Check::FuaTail, Wrongness::Early, &["b"]);
}

#[test]
fn a_recovered_leg_that_differs() {
    for copied in [true, false] {
        let mut history = History::new(2, None);
        history.honest(&Load::new(1, 1, 0, 8));
        // Leg b is being recovered while the array is written.
        history.bump();
        history.superblock(0, false, &[0, 1]);
        history.superblock_with(1, false, &[0, 1], 0, Some(0));
        stray(&mut history, &[0], 200, garbage(1));
        if copied {
            let read = history.arrive_from(0, Operation::Read, 2048 + 200, 1, 0x7000_0000);
            history.complete_with(read, Status::Ok, Content::NotTaken);
            let at = crate::history::data_offset(1) + 200;
            let write = history.arrive_from(1, Operation::Write, at, 1, 0x7000_0000);
            history.fetch(write, &[garbage(1)]);
            history.complete(write);
        }
        history.bump();
        history.superblock(0, false, &[0, 1]);
        history.superblock(1, false, &[0, 1]);
        history.superblocks(true);
        stray(&mut history, &[0, 1], 200, garbage(2));
        let verdict = finish(&mut history);
        assert_eq!(triggered(&verdict, Check::RecEq), 1);
        if copied {
            silent(&verdict);
        } else {
            only(&verdict, Check::RecEq, Wrongness::Absent, &["b"]);
        }
    }
}

/// A write-mostly leg is behind when the bit goes clear, and another leg may be.
fn behind(release: &str, legs: u8, missing: &[u8]) -> Verdict {
    behind_of(release, legs, missing, &[])
}

/// The same in a scenario that is there to show these known deviations.
fn behind_of(release: &str, legs: u8, missing: &[u8], known: &[&str]) -> Verdict {
    finish(&mut history_behind(release, legs, missing, known))
}

pub(crate) fn history_behind(release: &str, legs: u8, missing: &[u8], known: &[&str]) -> History {
    let mut history = History::new(legs, Some(1));
    history.header.expect.known = known.iter().map(|id| (*id).to_owned()).collect();
    history.mark(legwatch::mark::Mark::Fact {
        name: "kernel.version".into(),
        value: format!("Linux version x #1 SMP Debian {release}-1 (2026-01-01)"),
    });
    history.honest(&Load::new(1, 1, 0, 8));
    let with: Vec<u8> = (0..legs).filter(|leg| !missing.contains(leg)).collect();
    stray(&mut history, &with, 200, garbage(1));
    history.set_bits(0);
    stray(&mut history, missing, 200, garbage(1));
    history
}

#[test]
fn a_known_deviation_is_told_apart_and_its_check_alarms_beside_it() {
    let verdict = behind("6.12.117", 2, &[1]);
    silent(&verdict);
    assert_eq!(verdict.outcome, Outcome::Clean, "{:?}", verdict.reasons);
    assert_eq!(verdict.known[0].known.as_deref(), Some("K2"));
    let decided = verdict.without_known();
    assert_eq!(decided.outcome, Outcome::Findings);
    // Not shown for this kernel: suspect.
    let verdict = behind("6.12.30", 2, &[1]);
    assert_eq!(verdict.findings[0].confidence, Confidence::Suspect);
    // A kernel that keeps the bit.
    only(
        &behind("6.1.192", 2, &[1]),
        Check::BitClearEq,
        Wrongness::Absent,
        &["b"],
    );
    // A leg that may not be behind.
    only(
        &behind("6.12.117", 3, &[2]),
        Check::BitClearEq,
        Wrongness::Absent,
        &["c"],
    );
}

#[test]
fn a_known_deviation_is_demanded_of_kernels_that_have_it() {
    let seen = behind_of("6.12.117", 2, &[1], &["K2"]);
    assert_eq!(seen.outcome, Outcome::Clean, "{:?}", seen.reasons);
    let unseen = behind_of("6.12.117", 2, &[], &["K2"]);
    assert_eq!(unseen.outcome, Outcome::Inconclusive);
    assert!(
        unseen.reasons[0].contains("K2 was not seen"),
        "{:?}",
        unseen.reasons
    );
    let elsewhere = behind_of("6.1.192", 2, &[], &["K2"]);
    assert_eq!(elsewhere.outcome, Outcome::Clean, "{:?}", elsewhere.reasons);
}

#[test]
fn a_recovered_leg_whose_half_of_a_write_the_guest_held_back() {
    let mut history = History::new(2, None);
    history.honest(&Load::new(1, 1, 0, 8));
    history.bump();
    history.superblock(0, false, &[0, 1]);
    history.superblock_with(1, false, &[0, 1], 0, Some(0));
    stray(&mut history, &[0], 200, garbage(1));
    history.bump();
    history.superblock(0, false, &[0, 1]);
    history.superblock(1, false, &[0, 1]);
    stray(&mut history, &[1], 200, garbage(1));
    silent(&finish(&mut history));
}

#[test]
fn a_failed_leg_gets_no_flush_before_md_has_recorded_it() {
    let mut history = History::new(2, None);
    history.honest(&Load::new(1, 1, 0, 8));
    let flush = Load::new(1, 2, 0, 0).kind(IntentKind::Flush);
    history.begin(&flush);
    history.flush(0);
    history.end(&flush);
    history.bump();
    history.superblock(0, false, &[0, 0xfffe]);
    history.quiet();
    history.power_off();
    silent(&history.verdict());
}

#[test]
fn a_check_that_is_demanded_and_was_never_triggered() {
    for demanded in ["bit-clear-eq", "dirty-first"] {
        let mut history = History::new(2, None);
        history.header.expect.triggered = vec![demanded.into()];
        history.honest(&Load::new(1, 1, 0, 8));
        let verdict = finish(&mut history);
        let met = demanded == "dirty-first";
        assert_eq!(
            verdict.outcome == Outcome::Clean,
            met,
            "{:?}",
            verdict.reasons
        );
    }
}

#[test]
fn a_durable_write_that_resync_copies_once_more_before_its_end() {
    let mut history = History::new(2, None);
    let mut load = Load::new(1, 1, 200, 8);
    load.flags.dsync = true;
    history.begin(&load);
    for leg in 0..2 {
        history.write(leg, 200, &load.contents());
        history.flush(leg);
    }
    history.copy(0, &[1], 200, &load.contents());
    history.end(&load);
    kept(&finish(&mut history), Check::FuaTail);
}

#[test]
fn a_cut_after_an_error_that_md_has_not_recorded() {
    for failing in [true, false] {
        let mut history = History::with_bitmap(2, None);
        history.honest(&Load::new(1, 1, 0, 8));
        history.superblocks(true);
        if failing {
            let page = history.arrive_at(1, Operation::Write, 17, 1);
            history.fetch(page, &[garbage(9)]);
            history.complete_with(page, Status::IoErr, Content::NotTaken);
        }
        history.honest_md = false;
        stray(&mut history, &[0], 200, garbage(1));
        history.cut();
        let told = history
            .verdict()
            .findings
            .iter()
            .any(|finding| finding.check == Check::CrashCovered);
        assert_eq!(told, !failing);
    }
}

/// A bitmap that asks for more than its array can need is named, and the run is not clean.
#[test]
fn a_bitmap_that_is_too_large_is_not_looked_at() {
    let mut history = told::array(2, "6.1.192");
    for leg in 0..2 {
        let mut page = history.bitmap_block(history.bits);
        page[40..48].copy_from_slice(&u64::from(u32::MAX).to_le_bytes());
        page[52..56].copy_from_slice(&512u32.to_le_bytes());
        history.metadata(leg, 16, &[page]);
    }
    history.quiet();
    history.power_off();
    let verdict = history.verdict();
    silent(&verdict);
    assert_eq!(verdict.outcome, Outcome::Inconclusive);
    let named = "leg a's bitmap was not checked: it is about more sectors than the legs have";
    assert_eq!(verdict.reasons[0], named);
}
