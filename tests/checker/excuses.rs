//! The cases in which md may let legs differ, by number: each holds, and the same difference once the case is over is told. (Case 16 is not met.)

use crate::history::{Block, History, Load, data_offset, garbage};
use legwatch::block::{Operation, Status};
use legwatch::event::{Content, Digests, GuestEnd, What};
use legwatch::finding::Check;
use legwatch::oracle::Verdict;
use legwatch::oracle::excuse::CASES;

const AT: u64 = 640;

fn array() -> History {
    let mut history = History::with_bitmap(2, None);
    history.honest(&Load::new(1, 1, 0, 64));
    history
}

fn finish(mut history: History) -> Verdict {
    history.honest(&Load::new(9, 3, 5000, 16));
    history.superblocks(true);
    history.quiet();
    history.power_off();
    history.verdict()
}

/// What only leg a was sent.
fn one_sided(history: &mut History, content: Block) {
    history.write(0, AT, &[content]);
}

fn both(history: &mut History, content: Block) {
    history.write(0, AT, &[content]);
    history.write(1, AT, &[content]);
}

/// The case holds for the difference.
#[track_caller]
fn excused(verdict: &Verdict, case: u8) {
    assert!(
        verdict.findings.is_empty(),
        "case {case}: {:#?}",
        verdict.findings
    );
    let counted = CASES.iter().any(|one| one.number == case && one.counted);
    assert_eq!(
        verdict.coverage.excused.contains_key(&case),
        counted,
        "case {case}: {:?}",
        verdict.coverage.excused
    );
}

/// It is over, or never was.
#[track_caller]
fn told(verdict: &Verdict) {
    assert!(
        verdict.findings.iter().any(|finding| matches!(
            finding.check,
            Check::AllLegs
                | Check::SameData
                | Check::CleanEq
                | Check::Stamp
                | Check::RecEq
                | Check::ResyncEq
                | Check::DiscardAll
        )),
        "{:#?}",
        verdict.findings
    );
}

#[test]
fn case_1_outside_the_data_area() {
    for (inside, at) in [(false, 1000), (true, data_offset(0) + AT)] {
        let mut history = array();
        let write = history.arrive_at(0, Operation::Write, at, 1);
        history.fetch_with(write, &[garbage(1)], true);
        history.complete(write);
        let verdict = finish(history);
        if inside {
            told(&verdict)
        } else {
            excused(&verdict, 1)
        }
    }
}

#[test]
fn case_2_never_written() {
    for written in [false, true] {
        let mut history = array();
        for leg in 0..2u8 {
            history.header.legs[usize::from(leg)].config.medium =
                legwatch::config::MediumConfig::File { path: "x".into() };
            history.returned(leg, AT, &[garbage(leg)]);
        }
        // A discard's range is compared, and nobody wrote it.
        if written {
            history.write(0, AT, &[garbage(7)]);
        }
        let verdict = finish(history);
        if written {
            told(&verdict)
        } else {
            assert!(verdict.findings.is_empty())
        }
    }
}

#[test]
fn case_3_before_the_initial_resync() {
    for written in [false, true] {
        let mut history = array();
        history.header.legs[1].config.medium =
            legwatch::config::MediumConfig::File { path: "x".into() };
        if written {
            both(&mut history, garbage(1));
        }
        one_sided(&mut history, garbage(2));
        history.checkpoint = 128;
        history.superblocks(false);
        history.quiet();
        history.power_off();
        let verdict = history.verdict();
        if written {
            told(&verdict)
        } else {
            excused(&verdict, 3)
        }
    }
}

#[test]
fn case_4_in_flight_when_the_guest_ended() {
    for open in [true, false] {
        let mut history = array();
        both(&mut history, garbage(1));
        history.write(0, AT, &[garbage(2)]);
        let request = history.arrive(1, Operation::Write, AT, 1);
        history.fetch(request, &[garbage(2)]);
        if open {
            history.abandon(request, false);
        } else {
            history.complete(request);
            history.write(0, AT, &[garbage(3)]);
        }
        history.superblocks(true);
        history.push(What::GuestEnded {
            boot: 1,
            how: GuestEnd::Killed {
                why: "a cut".into(),
            },
        });
        history.push(What::End);
        let verdict = history.verdict();
        if open {
            assert!(verdict.findings.is_empty(), "{:#?}", verdict.findings);
        } else {
            assert!(
                verdict
                    .findings
                    .iter()
                    .any(|finding| finding.check == Check::CrashCovered)
            );
        }
    }
}

#[test]
fn case_5_held_back_by_the_guest() {
    for comes in [true, false] {
        let mut history = array();
        both(&mut history, garbage(1));
        one_sided(&mut history, garbage(2));
        history.honest(&Load::new(1, 2, 0, 64));
        if comes {
            history.write(1, AT, &[garbage(2)]);
        }
        let verdict = finish(history);
        if comes {
            excused(&verdict, 5)
        } else {
            told(&verdict)
        }
    }
}

#[test]
fn case_6_write_behind() {
    for comes in [true, false] {
        let mut history = History::new(2, Some(1));
        let load = Load::new(1, 1, AT, 8);
        history.begin(&load);
        history.write(0, AT, &load.contents());
        history.end(&load);
        if comes {
            history.write(1, AT, &load.contents());
        }
        let verdict = finish(history);
        if comes {
            excused(&verdict, 6)
        } else {
            told(&verdict)
        }
    }
}

#[test]
fn case_7_a_failed_leg() {
    for back in [false, true] {
        let mut history = array();
        both(&mut history, garbage(1));
        history.fail(1);
        one_sided(&mut history, garbage(2));
        if back {
            // It comes back as if it had missed nothing.
            history.failed = None;
            history.superblocks(false);
        }
        let verdict = finish(history);
        if back {
            told(&verdict)
        } else {
            assert!(verdict.findings.is_empty(), "{:#?}", verdict.findings)
        }
    }
}

#[test]
fn case_8_a_leg_that_is_recovered() {
    for over in [false, true] {
        let mut history = array();
        both(&mut history, garbage(1));
        history.recovering = Some(1);
        history.superblocks(false);
        one_sided(&mut history, garbage(2));
        if over {
            history.recovering = None;
            history.superblocks(false);
        }
        let verdict = finish(history);
        if over {
            told(&verdict)
        } else {
            excused(&verdict, 8)
        }
    }
}

#[test]
fn case_9_a_replacement_that_is_built() {
    for over in [false, true] {
        let mut history = History::with_bitmap(3, None);
        history.features.insert(2, 0x10);
        history.roles.insert(2, 1);
        history.recovering = Some(2);
        history.superblocks(false);
        history.honest(&Load::new(1, 1, 0, 64));
        history.write(0, AT, &[garbage(2)]);
        history.write(1, AT, &[garbage(2)]);
        if over {
            history.recovering = None;
            history.superblocks(false);
        }
        let verdict = finish(history);
        if over {
            told(&verdict)
        } else {
            excused(&verdict, 9)
        }
    }
}

#[test]
fn case_10_a_bad_block() {
    for rewritten in [false, true] {
        let mut history = array();
        both(&mut history, garbage(1));
        history.record_bad(1, data_offset(1) + AT, 1);
        if rewritten {
            history.write(1, AT, &[garbage(1)]);
        }
        // md goes round it.
        one_sided(&mut history, garbage(2));
        let verdict = finish(history);
        if rewritten {
            told(&verdict)
        } else {
            excused(&verdict, 10)
        }
    }
}

#[test]
fn case_11_a_discard_that_one_leg_does_not_offer() {
    for offers in [false, true] {
        let mut history = array();
        history.header.legs[1].config.discard = offers;
        both(&mut history, garbage(1));
        history.discard(0, AT, 1);
        let verdict = finish(history);
        if offers {
            told(&verdict)
        } else {
            excused(&verdict, 11)
        }
    }
}

#[test]
fn case_12_a_buffer_that_changed() {
    for rewritten in [false, true] {
        let mut history = array();
        for leg in 0..2u8 {
            let at = data_offset(leg) + AT;
            let write = history.arrive_from(leg, Operation::Write, at, 1, 0x7000_0000);
            history.fetch(write, &[garbage(leg)]);
            let now: Digests = [crc32fast::hash(&garbage(9))].into_iter().collect();
            history.complete_with(write, Status::Ok, Content::Changed(now));
        }
        if rewritten {
            both(&mut history, garbage(5));
            one_sided(&mut history, garbage(6));
        }
        let verdict = finish(history);
        if rewritten {
            told(&verdict)
        } else {
            excused(&verdict, 12)
        }
    }
}

#[test]
fn case_13_overlapping_writes() {
    for over in [false, true] {
        let mut history = array();
        let (one, two) = (garbage(1), garbage(2));
        history.write(0, AT, &[one]);
        history.write(0, AT, &[two]);
        history.write(1, AT, &[two]);
        history.write(1, AT, &[one]);
        if over {
            one_sided(&mut history, garbage(3));
        }
        let verdict = finish(history);
        if over {
            told(&verdict)
        } else {
            excused(&verdict, 13)
        }
    }
}

#[test]
fn case_14_a_write_that_failed() {
    for rewritten in [false, true] {
        let mut history = array();
        both(&mut history, garbage(1));
        one_sided(&mut history, garbage(2));
        let write = history.arrive(1, Operation::Write, AT, 1);
        history.fetch(write, &[garbage(2)]);
        history.complete_with(write, Status::IoErr, Content::NotTaken);
        if rewritten {
            both(&mut history, garbage(3));
            one_sided(&mut history, garbage(4));
        }
        let verdict = finish(history);
        if rewritten {
            told(&verdict);
        } else {
            // That nothing answers the error is err-record's to say.
            assert!(
                verdict
                    .findings
                    .iter()
                    .all(|finding| finding.check == Check::ErrRecord)
            );
            assert!(
                verdict.coverage.excused.contains_key(&14),
                "{:?} {:#?}",
                verdict.coverage.excused,
                verdict.findings
            );
        }
    }
}

#[test]
fn case_15_before_the_resync_has_passed() {
    for passed in [false, true] {
        let mut history = array();
        both(&mut history, garbage(1));
        one_sided(&mut history, garbage(2));
        history.crash(2);
        history.superblocks(false);
        if passed {
            let verdict = finish(history);
            told(&verdict);
        } else {
            history.push(What::GuestEnded {
                boot: 2,
                how: GuestEnd::Killed {
                    why: "a cut".into(),
                },
            });
            history.push(What::End);
            let verdict = history.verdict();
            assert!(verdict.findings.is_empty(), "{:#?}", verdict.findings);
        }
    }
}

#[test]
fn case_17_programs_before_md_runs_the_array() {
    for runs in [false, true] {
        let mut history = array();
        history.superblocks(true);
        history.crash(2);
        if runs {
            history.superblocks(true);
        }
        history.honest_md = false;
        both(&mut history, garbage(1));
        history.honest_md = true;
        let verdict = finish(history);
        let held = verdict
            .findings
            .iter()
            .any(|finding| finding.check == Check::DirtyFirst);
        assert_eq!(held, runs, "{:#?}", verdict.findings);
    }
}

#[test]
fn case_18_reshape() {
    for reshaped in [true, false] {
        let mut history = array();
        both(&mut history, garbage(1));
        if reshaped {
            history.features = [(0, 4), (1, 4)].into_iter().collect();
            history.superblocks(false);
        }
        one_sided(&mut history, garbage(2));
        let verdict = finish(history);
        if reshaped {
            excused(&verdict, 18);
            assert!(
                verdict.reasons.iter().any(|why| why.contains("reshape")),
                "{:?}",
                verdict.reasons
            );
        } else {
            told(&verdict)
        }
    }
}

#[test]
fn case_19_equal_again_with_the_older_content() {
    let mut history = array();
    both(&mut history, garbage(1));
    one_sided(&mut history, garbage(2));
    history.crash(2);
    history.superblocks(false);
    history.copy(1, &[0], AT, &[garbage(1)]);
    let verdict = finish(history);
    excused(&verdict, 19);
}
