//! Legs that fail while requests are under way, requests that a cut leaves open, and errors that are over: neither false alarms nor blindness.

use crate::history::{Block, History, Load, data_offset, garbage};
use crate::told::{array, finish, said, silent};
use legwatch::block::{Operation, Status};
use legwatch::event::{Content, What};
use legwatch::finding::{Check, Finding, Wrongness};
use legwatch::mark::{IntentKind, Mark};
use legwatch::oracle::Verdict;

/// Leg b is failed; a write that was past md_write_start passes it by and is acknowledged, bits and the bitmap's header are written, and then superblocks say so.
/// `later`: a write that began after that acknowledgement reached leg b, so it was good.
fn passed_by(later: bool) -> Verdict {
    let mut history = History::with_bitmap(3, None);
    history.honest(&Load::new(1, 1, 0, 8));
    let load = Load::new(1, 2, 640, 8);
    history.begin(&load);
    for leg in [0, 2] {
        history.write(leg, 640, &load.contents());
    }
    history.end(&load);
    if later {
        history.honest(&Load::new(1, 3, 1280, 8));
    }
    history.failed = Some(1);
    for leg in [0, 2] {
        history.bitmap_page(leg, history.bits);
    }
    history.superblocks(false);
    finish(&mut history)
}

#[test]
fn a_write_that_passes_a_failed_leg_by_before_it_is_on_record() {
    silent(&passed_by(false));
    let verdict = passed_by(true);
    said(&verdict, Check::Stamp);
    assert_eq!(verdict.findings[0].kind, Wrongness::Absent);
    assert_eq!(verdict.findings[0].legs, ["b"]);
}

/// A leg misses a flush. `failed`: for it had failed; it comes back later.
fn flush_missed(failed: bool, error: bool) -> Verdict {
    let mut history = History::with_bitmap(3, None);
    history.honest(&Load::new(1, 1, 0, 8));
    if error {
        let read = history.arrive(1, Operation::Read, 3000, 8);
        history.complete_with(read, Status::IoErr, Content::NotTaken);
        let block = [0; 512];
        history.write(1, 3000, &[block; 8]);
    }
    let flush = Load::new(1, 2, 0, 0).kind(IntentKind::Flush);
    history.begin(&flush);
    history.flush(0);
    history.flush(2);
    history.end(&flush);
    if failed {
        // What was on its way to it since before.
        history.write(1, 0, &Load::new(1, 1, 0, 8).contents());
        history.fail(1);
        history.recovery_to(1);
        history.honest(&Load::new(1, 3, 640, 8));
        history.copy(0, &[1], 0, &Load::new(1, 1, 0, 8).contents());
        history.recovering = None;
        history.superblocks(false);
    }
    finish(&mut history)
}

#[test]
fn a_flush_that_a_failed_leg_misses_is_not_held_against_it_when_it_is_back() {
    silent(&flush_missed(true, false));
    said(&flush_missed(false, false), Check::FlushAll);
}

#[test]
fn an_error_that_is_over_excuses_no_flush_that_is_missed_later() {
    said(&flush_missed(false, true), Check::FlushAll);
}

/// A durable write without its flush on leg b; `early`: leg b failed to read these sectors long before, else while it was written.
fn not_durable(early: bool) -> Verdict {
    let mut history = History::with_bitmap(2, None);
    history.honest(&Load::new(1, 1, 640, 8));
    history.flush(0);
    history.flush(1);
    let error = |history: &mut History| {
        let read = history.arrive(1, Operation::Read, 640, 8);
        history.complete_with(read, Status::IoErr, Content::NotTaken);
        history.write(1, 640, &Load::new(1, 1, 640, 8).contents());
        history.flush(1);
    };
    if early {
        error(&mut history);
    }
    let mut load = Load::new(1, 2, 640, 8);
    load.flags.dsync = true;
    history.begin(&load);
    if !early {
        error(&mut history);
    }
    for leg in 0..2 {
        history.write(leg, 640, &load.contents());
    }
    history.flush(0);
    history.end(&load);
    finish(&mut history)
}

/// As [`not_durable`], with an early error, and one elsewhere since the write began.
#[test]
fn an_error_elsewhere_excuses_no_durable_write() {
    let mut history = History::with_bitmap(2, None);
    for (sequence, sector) in [(1, 640), (2, 1280)] {
        history.honest(&Load::new(1, sequence, sector, 8));
    }
    let mut load = Load::new(1, 3, 640, 8);
    load.flags.dsync = true;
    for (sequence, sector) in [(1, 640), (2, 1280)] {
        if sector == 1280 {
            history.begin(&load);
        }
        let read = history.arrive(1, Operation::Read, sector, 8);
        history.complete_with(read, Status::IoErr, Content::NotTaken);
        history.write(1, sector, &Load::new(1, sequence, sector, 8).contents());
    }
    history.flush(0);
    history.flush(1);
    for leg in 0..2 {
        history.write(leg, 640, &load.contents());
    }
    history.flush(0);
    history.end(&load);
    said(&finish(&mut history), Check::FuaTail);
}

#[test]
fn an_error_that_is_over_excuses_no_durable_write_later() {
    said(&not_durable(true), Check::FuaTail);
    silent(&not_durable(false));
}

/// A write that is alone in the guest comes before the FLUSH that makes its bit durable; a FLUSH of leg b failed long before.
#[test]
fn a_flush_that_failed_once_excuses_no_bit_later() {
    let mut history = History::with_bitmap(2, None);
    history.honest(&Load::new(1, 1, 0, 8));
    let flush = history.arrive_at(1, Operation::Flush, 0, 0);
    history.complete_with(flush, Status::IoErr, Content::NotTaken);
    history.flush(1);
    let mut load = Load::new(1, 2, 640, 8);
    load.flags.alone = true;
    history.begin(&load);
    history.meta_flush = false;
    history.set_bits(history.bits | 1 << 10);
    history.meta_flush = true;
    for leg in 0..2 {
        history.write(leg, 640, &load.contents());
    }
    history.end(&load);
    let verdict = finish(&mut history);
    said(&verdict, Check::BitFirst);
    assert_eq!(verdict.findings[0].legs, ["a", "b"]);
}

/// Leg a holds a page with other bits for long: md sends the next one when it has an answer (K1), and the data goes out at once. `sent`: whether it then comes.
fn page_held(sent: bool) -> Verdict {
    let mut history = History::with_bitmap(2, None);
    history.honest(&Load::new(1, 1, 0, 8));
    let bits = history.bits | 1 << 5;
    let page: Block = history.bitmap_block(bits);
    history.bitmap_page(1, bits);
    history.flush(0);
    let held = history.arrive_at(0, Operation::Write, 16, 1);
    history.fetch_with(held, &[page], true);
    history.honest_md = false;
    history.honest(&Load::new(1, 2, 640, 8));
    history.wait_us(20_000_000);
    history.honest(&Load::new(1, 3, 0, 8));
    history.complete(held);
    history.flush(0);
    history.bits = bits;
    history.honest_md = true;
    if sent {
        history.set_bits(bits | 1 << 10);
    }
    history.wait_us(50_000_000);
    history.honest(&Load::new(1, 4, 0, 8));
    history.wait_us(50_000_000);
    finish(&mut history)
}

#[test]
fn a_page_that_waits_for_another_legs_page_is_not_late() {
    silent(&page_held(true));
    said(&page_held(false), Check::BitFirst);
}

/// The machine is killed with a bitmap page in flight on leg b.
fn killed_with_a_page_in_flight(covered: bool) -> Verdict {
    let mut history = History::with_bitmap(2, None);
    history.honest(&Load::new(1, 1, 0, 8));
    if covered {
        history.set_bits(history.bits | 1 << 10);
    }
    history.honest_md = false;
    history.write(0, 640, &[garbage(1)]);
    let bits = history.bits | 1 << 5;
    let page = history.bitmap_block(bits);
    let held = history.arrive_at(1, Operation::Write, 16, 1);
    history.fetch_with(held, &[page], true);
    history.abandon(held, false);
    history.cut();
    history.verdict()
}

#[test]
fn a_cut_with_metadata_in_flight_is_looked_at_on_all_legs() {
    said(&killed_with_a_page_in_flight(false), Check::CrashCovered);
    silent(&killed_with_a_page_in_flight(true));
}

/// Leg b is pulled out with a superblock in flight, and the guest goes on.
#[test]
fn a_leg_that_left_metadata_unanswered_has_failed_if_the_guest_goes_on() {
    let mut history = History::with_bitmap(2, None);
    history.honest(&Load::new(1, 1, 0, 8));
    let bits = history.bits | 1 << 10;
    let page = history.bitmap_block(bits);
    let held = history.arrive_at(1, Operation::Write, 16, 1);
    history.fetch_with(held, &[page], true);
    history.abandon(held, false);
    history.bitmap_page(0, bits);
    history.honest_md = false;
    let load = Load::new(1, 2, 640, 8);
    history.begin(&load);
    history.write(0, 640, &load.contents());
    history.end(&load);
    history.bits = bits;
    history.fail(1);
    history.honest_md = true;
    silent(&finish(&mut history));
}

/// Leg b is sent what nobody wrote, or what belongs elsewhere, and then it fails: that explains what it lacks, not what it was sent.
#[test]
fn a_leg_that_fails_was_sent_garbage_all_the_same() {
    for how in ["garbage", "misplaced", "nothing"] {
        println!("{how}");
        let mut history = array(2, "6.1.192");
        let (load, other) = (Load::new(1, 2, 640, 8), Load::new(2, 1, 1280, 8));
        history.begin(&load);
        history.write(0, 640, &load.contents());
        match how {
            "garbage" => {
                history.write(1, 640, &[garbage(1); 8]);
            }
            "misplaced" => {
                history.write(1, 640, &other.contents());
            }
            _ => {}
        }
        history.end(&load);
        history.fail(1);
        let verdict = finish(&mut history);
        if how == "nothing" {
            silent(&verdict);
        } else {
            let told = |one: &Finding| one.check == Check::Stamp && one.legs == ["b"];
            assert!(verdict.findings.iter().any(told), "{:#?}", verdict.findings);
        }
    }
}

/// Leg b fails a write, which is recorded as bad blocks, and later another one, which is acknowledged before it is on record: not K6.
#[test]
fn an_error_that_is_on_record_excuses_no_acknowledgement_later() {
    let mut history = array(2, "6.1.192");
    let (other, load) = (Load::new(2, 1, 1280, 8), Load::new(1, 2, 640, 8));
    for (write, recorded) in [(other, true), (load, false)] {
        history.begin(&write);
        history.write(0, write.sector, &write.contents());
        let request = history.arrive(1, Operation::Write, write.sector, 8);
        history.fetch(request, &write.contents());
        history.complete_with(request, Status::IoErr, Content::NotTaken);
        if recorded {
            history.record_bad(1, data_offset(1) + write.sector, 8);
        }
        history.end(&write);
    }
    history.fail(1);
    let verdict = finish(&mut history);
    said(&verdict, Check::ErrRecord);
    assert!(verdict.known.is_empty(), "{:#?}", verdict.known);
}

/// Many bits go clear over a write-mostly leg that is behind (K2), and then one over a difference on a leg that is not.
#[test]
fn many_known_deviations_hide_no_finding_of_the_same_check() {
    let mut history = History::new(3, Some(2));
    for event in &mut history.events {
        if let What::Mark(Mark::Hello(hello)) = &mut event.what {
            hello.release = "6.12.117".into();
        }
    }
    let mut held = Vec::new();
    for at in 0..100u64 {
        let load = Load::new(1, at + 1, at * 64, 8);
        history.begin(&load);
        for leg in 0..2 {
            history.write(leg, load.sector, &load.contents());
        }
        let late = history.arrive(2, Operation::Write, load.sector, 8);
        history.fetch(late, &load.contents());
        held.push(late);
        history.end(&load);
    }
    history.set_bits(0);
    for late in held {
        history.complete(late);
    }
    history.honest(&Load::new(2, 1, 7000, 8));
    history.write(0, 7100, &[garbage(1)]);
    history.write(2, 7100, &[garbage(1)]);
    history.set_bits(0);
    history.write(1, 7100, &[garbage(1)]);
    let verdict = finish(&mut history);
    said(&verdict, Check::BitClearEq);
    assert_eq!(verdict.findings[0].legs, ["b"]);
    assert_eq!(verdict.known.len(), 1, "{:#?}", verdict.known);
}

/// As many failed requests as are remembered, and discards that one leg lacks: looked up once a discard, and not once a sector.
#[test]
fn what_a_leg_failed_is_looked_up_once_a_request() {
    let mut history = array(2, "6.1.192");
    for sequence in 2..8 {
        let load = Load::new(1, sequence, 4096, 4096).kind(IntentKind::Discard);
        history.begin(&load);
        history.discard(0, 4096, 4096);
        if sequence == 2 {
            for _ in 0..16_000 {
                let request = history.arrive(1, Operation::Discard, 0, 8);
                history.complete_with(request, Status::IoErr, Content::NotTaken);
            }
        }
        history.end(&load);
    }
    let finding = said(&finish(&mut history), Check::DiscardAll);
    assert_eq!(
        (finding.legs, finding.sectors),
        (vec!["b".to_owned()], 4096)
    );
}
