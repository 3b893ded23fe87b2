//! Targets that are not the array itself: shifted, and encrypted on the way down.

use crate::history::{Block, History, Load};
use crate::told;
use legwatch::block::Sector;
use legwatch::crypt::{Crypt, Key};
use legwatch::finding::{Check, Finding, Range, Wrongness};
use legwatch::mark::{Mapping, Mark, Target};
use legwatch::oracle::Outcome;

const OFFSET: u64 = 16;
const IV: u64 = 5;

fn key() -> Key {
    Key::try_from(format!("{:064x}{:064x}", 1, 2)).unwrap()
}

fn history(mapping: Mapping) -> History {
    let mut history = History::new(2, None);
    history.header.crypt_key = Some(key());
    history.mark(Mark::Target(Target {
        target: 1,
        device: "/dev/mapper/vault".into(),
        sectors: 4096,
        mapping,
    }));
    history
}

fn encrypted(sector: u64, contents: &[Block]) -> Vec<Block> {
    let crypt = Crypt::new(&key());
    (sector..)
        .zip(contents)
        .map(|(at, block)| {
            let mut block = *block;
            crypt.encrypt(Sector(at + IV), &mut block);
            block
        })
        .collect()
}

/// A write to the crypt device, of which the legs get what `on_leg` makes of the ciphertext.
fn write(history: &mut History, load: &Load, on_leg: impl Fn(u8, Vec<Block>) -> Vec<Block>) {
    history.begin(load);
    for leg in 0..2 {
        let wire = on_leg(leg, encrypted(load.sector, &load.contents()));
        history.write(leg, load.sector + OFFSET, &wire);
    }
    history.end(load);
}

const CRYPT: Mapping = Mapping::Crypt {
    offset: OFFSET,
    iv: IV,
};

#[track_caller]
fn only(mut history: History) -> Finding {
    history.quiet();
    history.power_off();
    let verdict = history.verdict();
    assert_eq!(verdict.outcome, Outcome::Findings, "{verdict:#?}");
    let finding = told::one(&verdict);
    assert_eq!(finding.check, Check::Stamp);
    finding
}

#[test]
fn ciphertext_of_the_right_sector_is_right() {
    let mut history = history(CRYPT);
    for sequence in 1..20 {
        write(
            &mut history,
            &Load::new(1, sequence, 8 * sequence, 8),
            |_, wire| wire,
        );
    }
    history.quiet();
    history.power_off();
    let verdict = history.verdict();
    assert_eq!(verdict.outcome, Outcome::Clean, "{verdict:#?}");
    let coverage = &verdict.coverage;
    assert_eq!(
        (coverage.sectors_intended, coverage.sectors_compared),
        (152, 152)
    );
}

#[test]
fn plaintext_that_reaches_a_leg_is_garbage() {
    let mut history = history(CRYPT);
    let load = Load::new(1, 1, 200, 8);
    write(&mut history, &load, |leg, mut wire| {
        if leg == 1 {
            wire[3] = load.contents()[3];
        }
        wire
    });
    let finding = only(history);
    assert_eq!(
        (finding.kind, &finding.legs[..]),
        (Wrongness::Garbage, &["b".to_owned()][..])
    );
    assert_eq!(
        finding.array,
        [Range {
            start: 219,
            count: 1
        }]
    );
    let example = finding.example.unwrap();
    let expected = example.expected.unwrap();
    assert_eq!(expected.what, "writer 1 #1, encrypted");
    assert_eq!(expected.bytes, example.legs[0].bytes.clone().unwrap());
}

/// What a bio that went to the wrong place looks like: ciphertext with another sector's IV.
#[test]
fn another_sectors_ciphertext_is_misplaced() {
    let mut history = history(CRYPT);
    let load = Load::new(1, 1, 200, 8);
    write(&mut history, &load, |leg, mut wire| {
        if leg == 0 {
            wire.swap(0, 1);
        }
        wire
    });
    let finding = only(history);
    assert_eq!(
        (finding.kind, &finding.legs[..]),
        (Wrongness::Misplaced, &["a".to_owned()][..])
    );
}

#[test]
fn an_older_version_under_encryption_is_named() {
    let mut history = history(CRYPT);
    let (first, second) = (Load::new(1, 1, 200, 1), Load::new(1, 2, 200, 1));
    write(&mut history, &first, |_, wire| wire);
    write(&mut history, &second, |leg, wire| {
        if leg == 1 {
            encrypted(200, &first.contents())
        } else {
            wire
        }
    });
    let finding = only(history);
    assert_eq!(
        (finding.kind, &finding.legs[..]),
        (Wrongness::Older, &["b".to_owned()][..])
    );
    let what = &finding.example.unwrap().legs[1].what;
    assert_eq!(what, "writer 1 #1 of array sector 216, encrypted");
}

#[test]
fn a_shifted_target_is_judged_where_it_lies() {
    let mut history = history(Mapping::Offset(OFFSET));
    let load = Load::new(1, 1, 200, 8);
    history.begin(&load);
    history.write(0, 200 + OFFSET, &load.contents());
    history.end(&load);
    let finding = only(history);
    assert_eq!(
        (finding.kind, &finding.legs[..]),
        (Wrongness::Absent, &["b".to_owned()][..])
    );
    assert_eq!(
        finding.array,
        [Range {
            start: 216,
            count: 8
        }]
    );
}

/// Without the key, or without a mapping, nothing is said of intents, and that is told.
#[test]
fn what_cannot_be_mapped_is_counted_and_not_judged() {
    for (mapping, expected, outcome) in [
        (CRYPT, false, Outcome::Inconclusive),
        (Mapping::Unknown, false, Outcome::Inconclusive),
        (Mapping::Unknown, true, Outcome::Clean),
    ] {
        let mut history = history(mapping);
        history.header.crypt_key = None;
        history.header.expect.unmapped = expected;
        let load = Load::new(1, 1, 200, 8);
        history.begin(&load);
        for leg in 0..2 {
            history.write(leg, 0, &[[7; 512]; 8]);
        }
        history.end(&load);
        history.quiet();
        history.power_off();
        let verdict = history.verdict();
        assert!(verdict.findings.is_empty(), "{verdict:#?}");
        assert_eq!(verdict.outcome, outcome, "{verdict:#?}");
        assert_eq!(verdict.coverage.intents_unmapped, 1);
        assert_eq!(verdict.coverage.sectors_intended, 0);
    }
}

/// While all superblocks call all legs faulty no array is to be seen. What was written then is not held against what was meant before.
#[test]
fn what_was_written_while_the_array_was_not_to_be_seen_is_open() {
    let mut history = History::new(2, None);
    history.honest(&Load::new(1, 1, 200, 8));
    history.honest(&Load::new(1, 2, 1000, 8));
    history.bump();
    for leg in 0..2 {
        history.superblock(leg, false, &[0xfffe, 0xfffe]);
    }
    history.honest_md = false;
    history.honest(&Load::new(1, 3, 204, 8));
    history.honest_md = true;
    history.superblocks(true);
    history.quiet();
    history.power_off();
    let verdict = history.verdict();
    assert_eq!(verdict.coverage.intents_unmapped, 1);
    let stamps = verdict.findings.iter().filter(|f| f.check == Check::Stamp);
    assert_eq!(stamps.count(), 0, "{:#?}", verdict.findings);
    assert_eq!(verdict.coverage.sectors_open, 8);
    assert_eq!(verdict.coverage.sectors_intended, 12);
    assert_eq!(verdict.coverage.sectors_compared, 12);
}
