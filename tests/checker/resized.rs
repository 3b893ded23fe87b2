//! Arrays that are made larger, on legs that were larger all along and on legs that grow: what lies there is held to the same promises.

use crate::history::{Block, History, Load, data_offset};
use crate::told::{array, finish, kept, only, said, silent, triggered};
use legwatch::block::{LegId, Operation, RequestId};
use legwatch::event::{Action, Decided, What};
use legwatch::finding::{Check, Confidence, Wrongness};
use legwatch::mark::{Mapping, Mark, Target};
use legwatch::oracle::Outcome;

/// Sizes and chunks that an array of 4096 sectors, 64 a chunk, may be given: its bitmap has room for more bits, or for no more.
const LARGER: [(u64, u64); 2] = [(8192, 64), (12_288, 128)];

fn small(release: &str) -> History {
    let mut history = array(2, release);
    history.size = 4096;
    history.superblocks(false);
    history.honest(&Load::new(1, 2, 200, 8));
    history
}

fn is_of(history: &mut History, sectors: u64) {
    history.mark(Mark::Target(Target {
        target: 1,
        device: "/dev/md0".into(),
        sectors,
        mapping: Mapping::Identity,
    }));
}

/// An array that was resized, and of whose every chunk the bit was set once since.
fn larger(size: u64, chunk: u64) -> History {
    let mut history = small("6.1.192");
    history.resize(size, chunk);
    is_of(&mut history, size);
    let all = 0..size / chunk;
    history.set_bits(all.fold(0, |bits, chunk| bits | 1 << chunk));
    history.set_bits(0);
    history
}

#[test]
fn a_bitmap_that_is_laid_anew_is_followed() {
    for (size, chunk) in LARGER {
        let before = triggered(&finish(&mut small("6.1.192")), Check::BmBeforeSb);
        let mut history = larger(size, chunk);
        for (sequence, sector) in [(3, 200), (4, 4090), (5, size - 8)] {
            history.honest(&Load::new(1, sequence, sector, 8));
            history.superblocks(true);
        }
        history.wait_us(3_000_000);
        let verdict = finish(&mut history);
        kept(&verdict, Check::BitFirst);
        assert!(triggered(&verdict, Check::BmBeforeSb) > before);
        assert_eq!(verdict.outcome, Outcome::Clean, "{:?}", verdict.reasons);
    }
}

#[test]
fn a_superblock_before_its_header_is_seen_after_a_resize() {
    for (size, chunk) in LARGER {
        let mut history = larger(size, chunk);
        history.header_late();
        let verdict = finish(&mut history);
        only(&verdict, Check::BmBeforeSb, Wrongness::Early, &["a"]);
    }
}

/// Behind the old end, and where the old chunks were smaller.
#[test]
fn a_bit_that_one_leg_is_never_sent_is_missed_after_a_resize() {
    for (size, chunk) in LARGER {
        for sector in [1024, size - 8] {
            let mut history = larger(size, chunk);
            history.honest_md = false;
            history.bits |= 1 << (sector / chunk);
            history.bitmap_page(0, history.bits);
            history.honest(&Load::new(1, 3, sector, 8));
            history.honest_md = true;
            history.wait_us(3_000_000);
            let verdict = finish(&mut history);
            let finding = only(&verdict, Check::BitFirst, Wrongness::Absent, &["b"]);
            assert_eq!(finding.confidence, Confidence::Proven);
        }
    }
}

/// The bits of a chunk behind the old end go clear over a difference.
#[test]
fn a_bit_that_goes_clear_over_a_difference_behind_the_old_end() {
    for (size, chunk) in LARGER {
        let mut history = larger(size, chunk);
        let stray: [Block; 1] = [[7; 512]];
        history.write(0, size - 8, &stray);
        history.set_bits(0);
        history.write(1, size - 8, &stray);
        let verdict = finish(&mut history);
        only(&verdict, Check::BitClearEq, Wrongness::Absent, &["b"]);
    }
}

/// Between the pages and the header nobody can tell how the bits lie: what was held against them is taken back. It is not where no header follows.
#[test]
fn what_is_told_of_bits_is_taken_back_when_they_turn_out_to_lie_otherwise() {
    for laid_anew in [true, false] {
        let mut history = small("6.1.192");
        history.resize(8192, 64);
        is_of(&mut history, 8192);
        // By the new chunks it is the sixth bit, by the old ones the twelfth.
        history.set_bits(1 << 6);
        let mut load = Load::new(1, 3, 768, 8);
        load.flags.alone = true;
        history.honest_md = false;
        history.honest(&load);
        history.honest_md = true;
        if laid_anew {
            history.resized(8192, 128);
        }
        history.bits = 0;
        history.superblocks(true);
        let verdict = finish(&mut history);
        if laid_anew {
            silent(&verdict);
        } else {
            only(&verdict, Check::BitFirst, Wrongness::Early, &["a", "b"]);
        }
    }
}

/// K10: until its bit was set once, a chunk behind the old end has none on the legs, whatever is written there.
#[test]
fn a_chunk_that_came_with_the_growth_has_no_bit() {
    for (release, sector) in [("6.12.117", 6000), ("6.16.3", 6000), ("6.12.117", 1000)] {
        for cut in [false, true] {
            let mut history = small(release);
            history.resize(8192, 64);
            is_of(&mut history, 8192);
            let load = Load::new(1, 3, sector, 8);
            history.honest_md = false;
            history.write(0, sector, &[load.content(sector)]);
            if !cut {
                history.write(1, sector, &[load.content(sector)]);
            }
            history.wait_us(10_000_000);
            history.read(0, 3000, 1);
            history.honest_md = true;
            let verdict = if cut {
                history.cut();
                history.verdict()
            } else {
                finish(&mut history)
            };
            let checks = if cut {
                vec![Check::BitFirst, Check::CrashCovered]
            } else {
                vec![Check::BitFirst]
            };
            let known = sector == 6000 && release == "6.12.117";
            let told = if known {
                &verdict.known
            } else {
                &verdict.findings
            };
            let mut said: Vec<Check> = told.iter().map(|one| one.check).collect();
            said.sort();
            assert_eq!(said, checks, "{verdict:#?}");
            for one in told {
                assert_eq!(one.known.as_deref(), known.then_some("K10"), "{one:#?}");
                let proven = known || sector == 1000;
                assert_eq!(one.confidence == Confidence::Proven, proven, "{one:#?}");
            }
            if known {
                silent(&verdict);
            }
        }
    }
}

/// A rule makes both legs larger.
fn grow(history: &mut History, sectors: u64) {
    for leg in 0..2 {
        let request = history.arrive_at(leg, Operation::Read, 0, 1);
        history.push(What::Decided(Decided {
            request,
            rule: 0,
            action: Action::Resize { sectors },
        }));
        history.complete(request);
    }
}

const GROWN: u64 = 32_768;
const SIZE: u64 = 20_480;

/// An array that was grown onto legs that had grown; `told`: the checker was told of it.
fn grown(told: bool) -> History {
    let mut history = History::new(2, None);
    history.honest(&Load::new(1, 2, 200, 8));
    if told {
        grow(&mut history, GROWN);
    }
    history.resized(SIZE, 256);
    is_of(&mut history, SIZE);
    history
}

#[test]
fn a_leg_that_grew_is_judged_behind_its_old_end() {
    let mut history = grown(true);
    history.honest(&Load::new(1, 3, 200, 8));
    history.honest(&Load::new(1, 4, SIZE - 8, 8));
    let verdict = finish(&mut history);
    silent(&verdict);
    assert_eq!(verdict.outcome, Outcome::Clean, "{:?}", verdict.reasons);
    assert_eq!(verdict.coverage.intents_unmapped, 0);

    let mut history = grown(true);
    let load = Load::new(1, 3, SIZE - 8, 8);
    history.begin(&load);
    history.write(0, SIZE - 8, &load.contents());
    history.end(&load);
    let finding = said(&finish(&mut history), Check::Stamp);
    assert_eq!(
        (finding.kind, finding.legs),
        (Wrongness::Absent, vec!["b".to_owned()])
    );
    assert_eq!(finding.leg_ranges[0].start, data_offset(1) + SIZE - 8);
}

/// What the legs can't hold is not believed, and no array is left to judge by: the run says so, whatever was compared before.
#[test]
fn an_array_that_is_no_longer_seen_makes_the_run_inconclusive() {
    let mut history = grown(false);
    history.header.expect.compared_percent = 0;
    history.honest(&Load::new(1, 3, 200, 8));
    let verdict = finish(&mut history);
    silent(&verdict);
    assert_eq!(verdict.outcome, Outcome::Inconclusive, "{verdict:#?}");
    let [reason] = &verdict.reasons[..] else {
        panic!("one reason: {:#?}", verdict.reasons);
    };
    assert!(
        reason.starts_with("2 requests of the workload went to an array that was checked before")
            && reason.contains("leg b: md 1.2 superblock at sector 8 makes no sense"),
        "{reason}"
    );
}

/// A journal that somebody made by hand may say anything.
#[test]
fn sizes_that_no_leg_has_are_survived() {
    let mut history = History::new(2, None);
    for leg in [7, 0] {
        history.push(What::Decided(Decided {
            request: RequestId {
                leg: LegId(leg),
                number: 1,
            },
            rule: 0,
            action: Action::Resize { sectors: u64::MAX },
        }));
    }
    silent(&finish(&mut history));
}
