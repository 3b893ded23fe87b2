//! A raid10 on four legs: two mirrors that take the chunks in turn.

use std::collections::BTreeMap;

use legwatch::block::{Operation, SECTOR_BYTES};
use legwatch::finding::{Check, Finding, Range, Wrongness};
use legwatch::mark::{AdminAction, AdminPhase, IntentKind};
use legwatch::oracle::{Outcome, Verdict};

use crate::history::{ARRAY_SECTORS, Block, History, Load, garbage};
use crate::told;

const CHUNK: u64 = 16;

/// The pieces that a write is sent in: a leg, the sector on it (from the data offset on), and the content.
fn pieces(history: &History, load: &Load) -> Vec<(u8, u64, Vec<Block>)> {
    let mut pieces: BTreeMap<(u64, u8), (u64, Vec<Block>)> = BTreeMap::new();
    for at in load.sector..load.sector + u64::from(load.count) {
        let (legs, sector) = history.on_legs(at);
        for leg in legs {
            let piece = pieces.entry((at / CHUNK, leg)).or_insert((sector, vec![]));
            piece.1.push(load.content(at));
        }
    }
    let pieces = pieces.into_iter();
    pieces
        .map(|((_, leg), (at, blocks))| (leg, at, blocks))
        .collect()
}

/// A write, of which each leg gets what `on_leg` makes of each piece.
fn write(
    history: &mut History,
    load: &Load,
    on_leg: impl Fn(u8, u64, Vec<Block>) -> Option<(u64, Vec<Block>)>,
) {
    history.begin(load);
    for (leg, at, blocks) in pieces(history, load) {
        if let Some((at, blocks)) = on_leg(leg, at, blocks) {
            history.write(leg, at, &blocks);
        }
    }
    history.end(load);
}

fn honest(history: &mut History, load: &Load) {
    write(history, load, |_, at, blocks| Some((at, blocks)));
}

fn end_of(mut history: History) -> Verdict {
    history.superblocks(true);
    history.quiet();
    history.power_off();
    history.verdict()
}

#[track_caller]
fn only(history: History) -> Finding {
    let verdict = end_of(history);
    assert_eq!(verdict.outcome, Outcome::Findings, "{verdict:#?}");
    told::one(&verdict)
}

#[test]
fn writes_that_reach_both_legs_of_their_chunks_mirror_are_right() {
    let mut history = History::raid10(CHUNK);
    for sequence in 1..40 {
        let count = [1, 8, 24, 70][usize::try_from(sequence % 4).unwrap()];
        honest(
            &mut history,
            &Load::new(1, sequence, 37 * sequence % 900, count),
        );
    }
    let verdict = end_of(history);
    assert_eq!(verdict.outcome, Outcome::Clean, "{verdict:#?}");
    let coverage = &verdict.coverage;
    assert!(coverage.sectors_intended > 500);
    assert_eq!(coverage.sectors_compared, coverage.sectors_intended);
    assert_eq!(coverage.intents_unmapped, 0);
    assert!(coverage.triggered["bit-first"] > 0);
}

#[test]
fn a_piece_that_a_leg_never_gets_is_told_in_the_arrays_sectors() {
    let mut history = History::raid10(CHUNK);
    honest(&mut history, &Load::new(1, 1, 0, 64));
    // Array sectors 80 to 111: a chunk of the second mirror, and one of the first.
    let load = Load::new(1, 2, 80, 32);
    write(&mut history, &load, |leg, at, blocks| {
        (leg != 3).then_some((at, blocks))
    });
    let finding = only(history);
    assert_eq!(
        (finding.check, finding.kind),
        (Check::Stamp, Wrongness::Absent)
    );
    assert_eq!(finding.legs, ["d"]);
    assert_eq!(
        finding.array,
        [Range {
            start: 80,
            count: 16
        }]
    );
    assert_eq!(finding.example.unwrap().array_sector, 80);
    let first = finding.first_wrong.unwrap().what;
    assert!(first.starts_with("writer 1 #2 (array 80+32"), "{first}");
}

#[test]
fn a_piece_that_lies_one_chunk_further_on_one_leg_is_found() {
    let mut history = History::raid10(CHUNK);
    honest(&mut history, &Load::new(1, 1, 0, 128));
    write(&mut history, &Load::new(1, 2, 32, 8), |leg, at, blocks| {
        Some((if leg == 1 { at + CHUNK } else { at }, blocks))
    });
    let verdict = end_of(history);
    let found: Vec<_> = verdict
        .findings
        .iter()
        .map(|finding| (finding.check, finding.legs.join(","), finding.array.clone()))
        .collect();
    // What was to be at 32 is not there, and what is at 64 instead of its own is no content of that place.
    let range = |start| vec![Range { start, count: 8 }];
    assert!(
        found.contains(&(Check::Stamp, "b".into(), range(32))),
        "{found:?}"
    );
    assert!(
        found.contains(&(Check::Stamp, "b".into(), range(64))),
        "{found:?}"
    );
    assert_eq!(found.len(), 2, "{found:?}");
}

#[test]
fn what_one_leg_of_a_mirror_lacks_is_told_with_its_place_on_the_array() {
    let mut history = History::raid10(CHUNK);
    honest(&mut history, &Load::new(1, 1, 0, 64));
    // Nobody meant it: leg c holds what leg d does not.
    history.write(2, 100, &[garbage(1)]);
    let finding = only(history);
    assert_eq!(
        (finding.check, &finding.legs[..]),
        (Check::AllLegs, &["d".to_owned()][..])
    );
    let on_array = [Range {
        start: (100 / CHUNK * 2 + 1) * CHUNK + 100 % CHUNK,
        count: 1,
    }];
    assert_eq!(finding.array, on_array);
}

#[test]
fn a_bit_of_another_chunk_does_not_cover_the_data() {
    let mut history = History::raid10(CHUNK);
    honest(&mut history, &Load::new(1, 1, 0, 8));
    history.honest_md = false;
    // Array sector 1000 is in the bitmap's chunk 15; on its legs it is sector 488, which would be chunk 7.
    let mut load = Load::new(1, 2, 1000, 8);
    load.flags.alone = true;
    let (_, sector) = history.on_legs(1000);
    assert_eq!((sector, sector / crate::history::CHUNK_SECTORS), (504, 7));
    let bits = history.bits | 1 << 7;
    history.set_bits(bits);
    honest(&mut history, &load);
    let verdict = end_of(history);
    assert!(
        verdict
            .findings
            .iter()
            .any(|finding| finding.check == Check::BitFirst),
        "{verdict:#?}"
    );
}

#[test]
fn a_flush_that_one_leg_of_one_mirror_never_gets_is_found() {
    for missing in [None, Some(2)] {
        let mut history = History::raid10(CHUNK);
        honest(&mut history, &Load::new(1, 1, 0, 64));
        let flush = Load::new(1, 2, 0, 0).kind(IntentKind::Flush);
        history.begin(&flush);
        for leg in (0..4).filter(|leg| Some(*leg) != missing) {
            history.flush(leg);
        }
        history.end(&flush);
        match missing {
            None => assert_eq!(end_of(history).outcome, Outcome::Clean),
            Some(_) => {
                let finding = only(history);
                assert_eq!(
                    (finding.check, &finding.legs[..]),
                    (Check::FlushAll, &["c".to_owned()][..])
                );
            }
        }
    }
}

#[test]
fn a_clear_bit_promises_that_each_mirror_agrees_on_its_part() {
    let mut history = History::raid10(CHUNK);
    let load = Load::new(1, 1, 0, 64);
    honest(&mut history, &load);
    // The second mirror's chunk is still on its way to leg d when the bit goes clear.
    history.begin(&Load::new(1, 2, 16, 8));
    let (_, sector) = history.on_legs(16);
    let content = Load::new(1, 2, 16, 8).contents();
    history.write(2, sector, &content);
    let late = history.arrive(3, Operation::Write, sector, 8);
    history.set_bits(0);
    history.fetch(late, &content);
    history.complete(late);
    history.end(&Load::new(1, 2, 16, 8));
    let verdict = end_of(history);
    assert!(
        verdict
            .findings
            .iter()
            .any(|finding| finding.check == Check::BitClearEq),
        "{verdict:#?}"
    );
}

/// A check reads all legs; those of one mirror, named by its first leg, differ at sector 700 of theirs.
fn checked(differs: Option<u8>, mismatches: u64) -> Verdict {
    let mut history = History::raid10(CHUNK);
    for leg in 0..4 {
        let odd = differs.is_some_and(|first| leg == first + 1);
        history.write(leg, 700, &[garbage(if odd { 2 } else { 1 })]);
    }
    history.superblocks(true);
    let all = [0, 1, 2, 3];
    history.admin(AdminAction::Check, AdminPhase::Begin, &all);
    for leg in all {
        let odd = differs.is_some_and(|first| leg == first + 1);
        for sector in (0..ARRAY_SECTORS).step_by(128) {
            let mut contents = vec![[0; SECTOR_BYTES]; 128];
            if sector == 640 {
                contents[60] = garbage(if odd { 2 } else { 1 });
            }
            history.returned(leg, sector, &contents);
        }
    }
    let end = AdminPhase::End {
        ok: true,
        mismatches: Some(mismatches),
    };
    history.admin(AdminAction::Check, end, &all);
    // So that no other check sees the difference.
    for leg in all {
        history.write(leg, 700, &[garbage(3)]);
    }
    end_of(history)
}

#[test]
fn mismatches_are_counted_for_all_mirrors_together() {
    for (differs, mismatches, finds) in [
        (None, 0, None),
        (Some(0), 128, None),
        (Some(2), 128, None),
        (None, 128, Some("b")),
        (Some(0), 0, Some("b")),
        (Some(2), 0, Some("d")),
    ] {
        let verdict = checked(differs, mismatches);
        let found: Vec<_> = verdict
            .findings
            .iter()
            .map(|finding| (finding.check, finding.legs.join(",")))
            .collect();
        let wanted: Vec<_> = finds
            .map(|leg| (Check::Scrub, leg.to_owned()))
            .into_iter()
            .collect();
        assert_eq!(found, wanted, "{differs:?} {mismatches}");
    }
}

/// ext4's commit block (`fs/jbd2/commit.c:journal_submit_commit_record`) is written after a block of the same transaction, without a FLUSH between.
fn committed(at: u64, before: Vec<[u8; 512]>) -> Verdict {
    let mut history = History::raid10(CHUNK);
    let mut commit = [garbage(2); 8];
    commit[0][..8].copy_from_slice(&[0xc0, 0x3b, 0x39, 0x98, 0, 0, 0, 2]);
    for leg in [0, 1] {
        history.write(leg, at - 8, &before);
    }
    for leg in [0, 1] {
        let write = history.arrive(leg, Operation::Write, at, 8);
        history.fetch_with(write, &commit, true);
        history.complete(write);
    }
    end_of(history)
}

#[test]
fn the_block_before_a_commit_block_is_on_the_same_mirror_or_unknown() {
    let broken = |verdict: &Verdict| {
        let mut findings = verdict.findings.iter();
        findings.any(|finding| finding.check == Check::PreflushOrder)
    };
    let block = || vec![garbage(1); 8];
    assert!(broken(&committed(200, block())));
    // What its last sectors hold may have been there already.
    let mut half = block();
    half[4..].fill([0; 512]);
    assert!(broken(&committed(200, half)));
    // Sector 208 of the leg begins a chunk: the array's block before it is on the other mirror.
    assert!(!broken(&committed(208, block())));
}

#[test]
fn a_resync_that_reads_all_copies_to_compare_them_shows_the_guest_nothing() {
    let mut history = History::raid10(CHUNK);
    for leg in [0, 1] {
        history.write(leg, 100, &[garbage(1)]);
    }
    history.write(0, 100, &[garbage(2)]);
    history.crash(2);
    history.superblocks(false);
    history.returned(0, 100, &[garbage(2)]);
    history.returned(1, 100, &[garbage(1)]);
    history.copy(0, &[1], 100, &[garbage(2)]);
    let verdict = end_of(history);
    assert_eq!(verdict.outcome, Outcome::Clean, "{verdict:#?}");
    assert!(verdict.findings.is_empty(), "{:#?}", verdict.findings);
    assert!(verdict.coverage.triggered["resync-eq"] > 0);
}

#[test]
fn a_discard_goes_out_without_its_bits() {
    let mut history = History::raid10(CHUNK);
    honest(&mut history, &Load::new(1, 1, 0, 8));
    history.honest_md = false;
    for leg in 0..4 {
        history.discard(leg, 2048, 256);
    }
    history.honest_md = true;
    history.wait_us(3_000_000);
    honest(&mut history, &Load::new(1, 2, 0, 8));
    told::silent(&end_of(history));
}
