//! The witness is killed in the midst of a mirror's load, again and again, and goes on: no write is lost or done twice, the journal tells the whole
//! run, what it says is what a check of the journal says, and what is wrong is still found.
#![allow(
    clippy::cast_possible_truncation,
    clippy::wildcard_enum_match_arm,
    reason = "numbers of tests are small, and tests look for what they are about"
)]

mod mirror;

use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use self::mirror::{CONTROL, Doing, Kept, Mirror, SECTORS, Witness, plan};
use legwatch::block::SECTOR_BYTES;
use legwatch::event::{EventNo, GuestEnd, What};
use legwatch::mark::{Hello, Mapping, Mark, Target};
use legwatch::stamp::SplitMix64;
use legwatch::witness::wire::{self, GoOn, Notice};

/// A guest that has come as far as its first workload, and its witness.
fn begun(kept: &Kept) -> (Witness, Mirror) {
    let mut witness = kept.start(None);
    witness.tell(&wire::Command::Boot {
        boot: 1,
        plan: Box::new(plan()),
    });
    witness.tell(&wire::Command::Console {
        line: "hello".into(),
    });
    let mut mirror = Mirror::connect(kept);
    mirror.say(&Mark::Hello(Hello {
        agent: "test".into(),
        release: "6.12".into(),
        boot: 1,
        init: true,
        tainted: 0,
    }));
    mirror.say(&Mark::Target(Target {
        target: 1,
        device: "/dev/md0".into(),
        sectors: SECTORS,
        mapping: Mapping::Identity,
    }));
    mirror.say(&Mark::StepBegin { step: 0 });
    (witness, mirror)
}

/// A run with so many kills, after each of which as many as `early` replacements are killed while they take it up; its folder and exit code.
fn run(memory: bool, kills: u32, early: u32, lose: bool) -> (Kept, u8) {
    let kept = Kept::new(memory);
    let (mut witness, mut mirror) = begun(&kept);
    let mut news = 0;
    let mut dice = SplitMix64(5);
    for kill in 1..=kills {
        mirror.load(20 + dice.below(200));
        news += witness.kill();
        mirror.take();
        mirror.met += mirror
            .slots
            .iter()
            .filter(|slot| **slot != Doing::Nothing)
            .count();
        let mut go_on = GoOn {
            news,
            killed: u64::from((kill - 1) * (1 + early) + 1),
            plan: Some(Box::new(plan())),
        };
        for _ in 0..early {
            let replacement = kept.spawn(Some(&go_on));
            std::thread::sleep(Duration::from_micros(dice.below(40_000)));
            go_on.news += replacement.kill();
            go_on.killed += 1;
        }
        news = go_on.news;
        witness = kept.start(Some(&go_on));
        assert_eq!(witness.told, 2, "boot and console are on record");
        mirror.again(&kept);
        mirror.settle();
    }
    assert!(kills == 0 || mirror.met > 0, "a kill met nothing in flight");
    mirror.load(50);
    mirror.settle();
    mirror.verify();
    if lose {
        mirror.lose = true;
        mirror.begin();
        mirror.settle();
    }
    mirror.say(&Mark::WorkloadEnd {
        step: 0,
        acked: mirror.sequence,
        failed: 0,
        refused: 0,
        note: String::new(),
    });
    mirror.say(&Mark::StepEnd {
        step: 0,
        ok: true,
        detail: String::new(),
    });
    mirror.say(&Mark::Quiet {
        id: 1,
        pending: String::new(),
    });
    mirror.say(&Mark::Finish { ok: true });
    witness.tell(&wire::Command::GuestEnded {
        boot: 1,
        how: GuestEnd::PoweredOff,
    });
    witness.tell(&wire::Command::Finish { interrupted: false });
    let summary = witness.wait("the verdict", |notice| match notice {
        Notice::Done(summary) => Some(summary),
        _ => None,
    });
    witness.child.wait().unwrap();
    (kept, summary.exit)
}

/// What `legwatch check` says: its exit code and its report.
pub(crate) fn check(out: &Path) -> (i32, String) {
    let checked = Command::new(env!("CARGO_BIN_EXE_legwatch"))
        .arg("check")
        .arg(out)
        .output()
        .unwrap();
    let text = String::from_utf8(checked.stdout).unwrap();
    let said = String::from_utf8(checked.stderr).unwrap();
    assert!(!said.contains("torn"), "{said}");
    (checked.status.code().unwrap(), text)
}

/// The journal is whole, tells of every kill, and of every request one end.
fn look_at_the_journal(out: &Path, kills: u32) {
    let file = BufReader::new(File::open(out.join("journal")).unwrap());
    let mut reader = legwatch::journal::Reader::new(file).unwrap();
    let (mut restarts, mut open, mut last) = (0, std::collections::BTreeSet::new(), EventNo(0));
    while let Some(event) = reader.next_event().unwrap() {
        assert!(event.no > last);
        last = event.no;
        match event.what {
            What::Restarted { missing, .. } => {
                restarts += 1;
                assert!(missing <= 8, "{missing} events are missing");
            }
            What::Arrived(arrived) => assert!(open.insert(arrived.request), "came once"),
            What::Completed(done) => assert!(open.remove(&done.request), "ends once"),
            What::Abandoned(gone) => assert!(open.remove(&gone.request), "ends once"),
            _ => {}
        }
    }
    assert_eq!(reader.tail(), None);
    assert!(open.is_empty(), "{open:?}");
    assert_eq!(restarts, kills);
}

fn clean(memory: bool, kills: u32) {
    let (kept, exit) = run(memory, kills, 0, false);
    let out = kept.out();
    look_at_the_journal(&out, kills);
    let report = std::fs::read_to_string(out.join("report.txt")).unwrap();
    assert_eq!(exit, 0, "{report}");
    assert!(
        report.contains(&format!("restarted {kills} time")),
        "{report}"
    );
    assert_eq!(check(&out), (0, report));
}

#[test]
fn fifty_kills_over_memory_legs_are_a_clean_run() {
    clean(true, 50);
}

#[test]
fn ten_kills_over_file_legs_are_a_clean_run() {
    clean(false, 10);
}

#[test]
fn replacements_that_are_killed_while_they_take_the_run_up_are_counted_and_harm_nothing() {
    let (kept, exit) = run(true, 4, 4, false);
    let out = kept.out();
    look_at_the_journal(&out, 20);
    let report = std::fs::read_to_string(out.join("report.txt")).unwrap();
    assert_eq!(exit, 0, "{report}");
    assert!(report.contains("restarted 20 time"), "{report}");
    assert_eq!(check(&out), (0, report));
}

#[test]
fn a_quiet_point_waits_for_legs_that_have_not_come_again() {
    let kept = Kept::new(true);
    let (mut witness, mut mirror) = begun(&kept);
    mirror.load(50);
    mirror.settle();
    let news = witness.kill();
    // Leg b gets a request while nobody serves it, and its frontend is the last to come again.
    mirror.put(1, 2, 0, &[1; SECTOR_BYTES]);
    mirror.mark(
        0,
        &Mark::Quiet {
            id: 1,
            pending: String::new(),
        },
    );
    mirror.mark(1, &Mark::StepBegin { step: 0 });
    witness = kept.start(Some(&GoOn {
        news,
        killed: 1,
        plan: Some(Box::new(plan())),
    }));
    let before = mirror.seen[CONTROL];
    for at in [CONTROL, 0] {
        mirror.one_again(&kept, at);
    }
    mirror.raws[CONTROL].await_used(0, before.wrapping_add(1), "the mark behind");
    assert_eq!(mirror.raws[CONTROL].used_head(0, before), 3, "slot 1's");
    mirror.one_again(&kept, 1);
    mirror.raws[CONTROL].await_used(0, before.wrapping_add(2), "the quiet point's answer");
    mirror.raws[1].await_used(0, mirror.submitted[1], "leg b's write");
    witness.tell(&wire::Command::Finish { interrupted: true });
    witness.wait("the verdict", |notice| {
        matches!(notice, Notice::Done(_)).then_some(())
    });
    witness.child.wait().unwrap();
    let file = BufReader::new(File::open(kept.out().join("journal")).unwrap());
    let mut reader = legwatch::journal::Reader::new(file).unwrap();
    let (mut restarted, mut written) = (false, false);
    while let Some(event) = reader.next_event().unwrap() {
        match event.what {
            What::Restarted { .. } => restarted = true,
            What::Completed(done) if done.request.leg.0 == 1 => written = restarted,
            What::Quiet { pending, .. } => {
                assert!(written, "the quiet point came before leg b's write");
                assert_eq!(pending, []);
                return;
            }
            _ => {}
        }
    }
    panic!("no quiet point");
}

#[test]
fn a_lost_write_is_found_after_restarts_as_without() {
    for kills in [0, 5] {
        let (kept, exit) = run(true, kills, 0, true);
        let out = kept.out();
        let report = std::fs::read_to_string(out.join("report.txt")).unwrap();
        assert_eq!(exit, 1, "{report}");
        assert!(report.contains("proven"), "{report}");
        assert_eq!(check(&out), (1, report));
    }
}
