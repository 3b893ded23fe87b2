//! Ctrl-C, SIGTERM and kill -9 at any moment: no QEMU is left, what was seen is kept, and each end is called what it was.

use std::path::Path;

use rustix::process::{Signal, kill_process};

use super::harness::{Ran, Running, STEP, run, scenario, until};

const KERNEL: &str = "pinned:6.12";

fn quick() -> Running {
    Running::run(Path::new("raid1-quick"), KERNEL, &[])
}

/// What an interrupted run keeps: everything, and a report that says so.
fn keeps_evidence(ran: &Ran) {
    ran.ended_with(130).check_interrupted();
    for file in [
        "journal",
        "console.log",
        "scenario.toml",
        "report.txt",
        "report.json",
    ] {
        assert!(ran.folder.join(file).is_file(), "{file}");
    }
    assert_eq!(ran.findings(), Vec::<serde_json::Value>::new());
}

impl Ran {
    fn check_interrupted(&self) {
        let reasons = self.reasons();
        assert_eq!(
            reasons.first().map(String::as_str),
            Some("interrupted"),
            "{reasons:#?}"
        );
    }
}

#[test]
fn interrupts_before_the_guest_runs_leave_nothing() {
    for signal in [Signal::INT, Signal::TERM] {
        let mut run = quick();
        run.line("legwatch: kernel");
        run.signal(signal);
        let ran = run.end();
        ran.ended_with(130);
        if ran.folder.exists() {
            // It was quicker than we: then the guest had begun, and its evidence is kept.
            keeps_evidence(&ran);
        }
    }
}

#[test]
fn interrupts_while_the_guest_boots_and_works_keep_the_evidence() {
    for (moment, signal) in [
        ("booting", Signal::INT),
        ("create the array", Signal::TERM),
        ("random, small and large", Signal::INT),
        ("read back", Signal::TERM),
    ] {
        eprintln!("  {signal:?} at `{moment}`");
        let mut run = quick();
        run.line(&format!("boot 1: {moment}"));
        run.signal(signal);
        let ran = run.end();
        keeps_evidence(&ran);
        ran.agrees_on_findings();
    }
}

#[test]
fn an_interrupt_during_the_verdict_does_not_take_it_away() {
    let mut run = quick();
    run.line("legwatch: verdict");
    run.signal(Signal::INT);
    let ran = run.end();
    assert!(
        matches!(ran.code, Some(0 | 130)),
        "{:?} {:#?}",
        ran.code,
        ran.stderr
    );
    assert_eq!(ran.report()["outcome"], "clean");
}

#[test]
fn with_bisect_an_interrupt_stops_the_bisection() {
    let mut run = Running::run(Path::new("raid1-quick"), KERNEL, &["--bisect"]);
    run.line("boot 1: booting");
    run.signal(Signal::INT);
    run.end().ended_with(255);
}

#[test]
fn with_bisect_a_fault_of_ours_stops_the_bisection() {
    let mut run = Running::run(Path::new("raid1-quick"), KERNEL, &["--bisect"]);
    run.line("boot 1: booting");
    qemu_runs(&run);
    kill_process(run.witness(), Signal::ABORT).unwrap();
    run.end().ended_with(255);
}

/// Each verdict with `--bisect`, without git between; tests/vm/bisect.rs has git's view of them.
#[test]
fn with_bisect_a_verdict_stays_what_it_is() {
    let fails = scenario("check-fails");
    for (name, code) in [
        (Path::new("raid1-quick"), 0),
        (fails.as_path(), 1),
        (scenario("setup-fails").as_path(), 125),
    ] {
        run(name, KERNEL, &["--bisect"]).ended_with(code);
    }
}

#[test]
fn no_qemu_outlives_a_killed_supervisor_and_the_witness_keeps_what_it_saw() {
    for moment in ["booting", "random, small and large"] {
        let mut run = quick();
        run.line(&format!("boot 1: {moment}"));
        qemu_runs(&run);
        run.signal(Signal::KILL);
        let ran = run.end();
        assert_eq!(ran.code, None);
        let reasons = ran.reasons();
        assert!(
            reasons
                .iter()
                .any(|reason| reason.contains("legwatch's supervisor ended before its guest did")),
            "{reasons:#?}"
        );
        assert_eq!(ran.report()["outcome"], "inconclusive");
        ran.agrees_on_findings();
    }
}

#[test]
fn a_killed_witness_is_replaced_and_the_run_goes_on() {
    const MOMENTS: [&str; 4] = [
        "create the array",
        "random, small and large",
        "random, small and large",
        "read back",
    ];
    let mut run = quick();
    for (times, moment) in (1..).zip(MOMENTS) {
        run.line(&format!("boot 1: {moment}"));
        kill_process(run.witness(), Signal::KILL).unwrap();
        run.line(&format!("the run goes on ({times} of at most"));
        until("a witness", STEP, || run.has_witness());
    }
    let ran = run.end();
    ran.ended_with(0).check_agrees();
    let report = ran.report();
    assert_eq!(report["outcome"], "clean");
    assert_eq!(report["coverage"]["restarts"], MOMENTS.len());
}

#[test]
fn no_qemu_outlives_a_witness_that_crashed() {
    let mut run = quick();
    run.line("boot 1: random, small and large");
    qemu_runs(&run);
    kill_process(run.witness(), Signal::ABORT).unwrap();
    let ran = run.end();
    ran.ended_with(70);
    let last = ran.stderr.last().unwrap();
    for words in [
        "the witness's process ended before its verdict",
        "signal: 6",
        "legwatch check",
    ] {
        assert!(last.contains(words), "{words}: {last}");
    }
    assert!(!ran.folder.join("report.json").exists());
    // The journal is whole but for its last moments.
    let check = std::process::Command::new(env!("CARGO_BIN_EXE_legwatch"))
        .arg("check")
        .arg(&ran.folder)
        .output()
        .unwrap();
    assert_eq!(check.status.code(), Some(125), "{check:#?}");
    let text = String::from_utf8(check.stdout).unwrap();
    assert!(text.contains("the run did not end in order"), "{text}");
}

#[test]
fn a_killed_qemu_is_a_lost_guest() {
    let mut run = quick();
    run.line("boot 1: random, small and large");
    qemu_runs(&run);
    kill_process(run.processes("qemu-system-x86_64")[0], Signal::KILL).unwrap();
    let ran = run.end();
    ran.ended_with(125)
        .because("the guest was lost: QEMU ended (signal 9")
        .check_agrees();
}

#[test]
fn a_guest_that_is_lost_while_it_boots_is_started_once_more() {
    let mut run = quick();
    run.line("boot 1: booting");
    qemu_runs(&run);
    kill_process(run.processes("qemu-system-x86_64")[0], Signal::KILL).unwrap();
    let line = run.line("started once more");
    assert!(
        line.contains("lost while it booted (QEMU ended: signal 9"),
        "{line}"
    );
    let ran = run.end();
    ran.ended_with(0).check_agrees();
    assert_eq!(ran.report()["outcome"], "clean");
    assert!(
        ran.stdout.contains("lost while it booted"),
        "{}",
        ran.stdout
    );
}

fn qemu_runs(run: &Running) {
    until("QEMU's start", STEP, || {
        !run.processes("qemu-system-x86_64").is_empty()
    });
}
