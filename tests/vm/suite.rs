//! Campaigns with real guests: what passes, what a lost guest is, what an interrupt leaves, and parts that make a whole.

use std::process::Command;

use rustix::process::{Signal, kill_process};
use serde_json::Value;

use super::harness::{Ran, Running, STEP, scenario, until};

const KERNEL: &str = "pinned:6.12";

fn campaign(args: &[&str]) -> Running {
    let mut all = vec!["test", "--jobs", "1"];
    all.extend(args);
    Running::start(&all)
}

impl Ran {
    /// The campaign's results: row, state, detail.
    fn states(&self) -> Vec<(String, String)> {
        let report = self.report();
        let results = report["results"].as_array().unwrap();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        results
            .iter()
            .map(|result| (text(&result["key"]), text(&result["state"])))
            .collect()
    }

    fn legwatch(&self, args: &[&str]) -> (Option<i32>, String) {
        let output = Command::new(env!("CARGO_BIN_EXE_legwatch"))
            .args(args)
            .current_dir(self.folder.parent().unwrap())
            .output()
            .unwrap();
        (
            output.status.code(),
            String::from_utf8(output.stdout).unwrap(),
        )
    }
}

/// Results without what differs from run to run.
fn timeless(report: &Value) -> Vec<Value> {
    let mut results = report["results"].as_array().unwrap().clone();
    for result in &mut results {
        for name in ["ms", "folder"] {
            result.as_object_mut().unwrap().remove(name);
        }
    }
    results
}

#[test]
fn a_bad_kernel_passes_when_it_is_found_and_parts_make_the_whole() {
    let rows = [
        "write-behind",
        "--kernel",
        "pinned:6.1",
        "pinned:6.12",
        "pinned:6.16.3",
    ];
    let whole = campaign(&rows).end();
    whole.ended_with(0);
    let state =
        |kernel: &str, state: &str| (format!("write-behind@pinned:{kernel}@1"), state.to_owned());
    assert_eq!(
        whole.states(),
        [
            state("6.1", "skipped"),
            state("6.12", "passed"),
            state("6.16.3", "passed")
        ]
    );
    assert!(whole.stdout.contains("✓ stamp/absent"), "{}", whole.stdout);
    let bad = &whole.report()["results"][2];
    assert_eq!(bad["outcome"], "findings");
    assert_eq!(bad["findings"][0]["what"], "stamp/absent");
    // Each run is one of its own, and its report is in its folder.
    let run = whole.folder.join(bad["folder"].as_str().unwrap());
    assert!(run.join("journal").is_file() && run.join("report.txt").is_file());
    let xml = std::fs::read(whole.folder.join("junit.xml")).unwrap();
    let junit = junit_parser::from_reader(&xml[..]).unwrap();
    assert_eq!(
        (junit.tests, junit.skipped, junit.failures, junit.errors),
        (3, 1, 0, 0)
    );

    // Two machines.
    let parts: Vec<Ran> = ["hash:1/2", "hash:2/2"]
        .map(|part| {
            let mut args = rows.to_vec();
            args.extend(["--partition", part]);
            campaign(&args).end()
        })
        .into();
    let count = |ran: &Ran| ran.report()["results"].as_array().unwrap().len();
    assert_eq!(count(&parts[0]) + count(&parts[1]), 3);
    let folders: Vec<&str> = parts
        .iter()
        .map(|part| part.folder.to_str().unwrap())
        .collect();
    let mut args = vec!["report", "--format", "json", "--merge"];
    args.extend(&folders);
    let (code, merged) = whole.legwatch(&args);
    assert_eq!(code, Some(0), "{merged}");
    let merged: Value = serde_json::from_str(&merged).unwrap();
    assert_eq!(timeless(&merged), timeless(&whole.report()));
    assert_eq!(merged["plan"], whole.report()["plan"]);
    assert_eq!(merged["tally"], whole.report()["tally"]);
    // One part alone is not the whole.
    let (code, _) = whole.legwatch(&["report", "--merge", folders[0]]);
    assert_eq!(code, Some(125));
}

#[test]
fn an_interrupt_keeps_what_was_done_and_the_rest_can_follow() {
    let mut run = campaign(&["raid1-quick", "--kernel", KERNEL, "--repeat", "2"]);
    run.line("[1/2]");
    until("the second guest", STEP, || {
        !run.processes("qemu-system-x86_64").is_empty()
    });
    run.signal(Signal::INT);
    let ran = run.end();
    ran.ended_with(130);
    assert_eq!(ran.states().len(), 1);
    assert_eq!(
        ran.report()["missing"],
        serde_json::json!(["raid1-quick@pinned:6.12@2"])
    );
    let out = ran.folder.to_str().unwrap();
    let again = [
        "test",
        "raid1-quick",
        "--kernel",
        KERNEL,
        "--repeat",
        "2",
        "--jobs",
        "1",
        "--resume",
        "--out",
        out,
    ];
    let (code, text) = ran.legwatch(&again);
    assert_eq!(code, Some(0), "{text}");
    assert_eq!(ran.states().len(), 2);
    assert_eq!(ran.report()["missing"], serde_json::json!([]));
}

#[test]
fn a_lost_guest_is_tried_once_more_and_never_passed_or_failed() {
    // A run starts a guest that is lost in its boot once more itself, and the suite such a run.
    for (kills, code, state) in [(2, 0, "passed"), (4, 125, "lost")] {
        let mut run = campaign(&["raid1-quick", "--kernel", KERNEL]);
        let mut killed = Vec::new();
        while killed.len() < kills {
            until("a guest", STEP, || {
                let guests = run.processes("qemu-system-x86_64");
                guests.iter().any(|guest| !killed.contains(guest))
            });
            let guests = run.processes("qemu-system-x86_64");
            for guest in guests
                .into_iter()
                .filter(|guest| !killed.contains(guest))
                .collect::<Vec<_>>()
            {
                // It may be a shell that becomes QEMU: whichever it is, it is the guest.
                kill_process(guest, Signal::KILL).unwrap();
                killed.push(guest);
            }
        }
        run.exit();
        let ran = run.end();
        ran.ended_with(code);
        let result = &ran.report()["results"][0];
        assert_eq!(result["state"], state, "{result:#}");
        let lost = result["lost_before"].as_str().unwrap();
        assert!(lost.contains("the guest was lost"), "{lost}");
        assert_eq!(ran.report()["tally"]["lost_once"], 1);
        // Both tries are kept.
        for try_of in ["", ".2"] {
            let folder = format!("runs/raid1-quick@pinned-6.12@1{try_of}/report.json");
            assert!(ran.folder.join(&folder).is_file(), "{folder}");
        }
    }
}

// A killed witness of a scenario with rules is not replaced.
#[test]
fn a_run_that_breaks_is_our_fault_and_stops_a_bisection() {
    for (more, code) in [(&[][..], 70), (&["--bisect"][..], 255)] {
        let mut args = vec!["fault-dead-leg", "--kernel", KERNEL];
        args.extend(more);
        let mut run = campaign(&args);
        until("a guest", STEP, || {
            !run.processes("qemu-system-x86_64").is_empty()
        });
        kill_process(run.witness(), Signal::KILL).unwrap();
        run.exit();
        let ran = run.end();
        ran.ended_with(code);
        assert_eq!(ran.states()[0].1, "broken");
        let detail = &ran.report()["results"][0]["detail"];
        let detail = detail.as_str().unwrap();
        assert!(detail.contains("the witness's process ended"), "{detail}");
    }
}

#[test]
fn exit_codes_with_bisect_are_those_that_git_understands() {
    let fails = scenario("check-fails");
    let refuses = scenario("setup-fails");
    for (arguments, code) in [
        (["raid1-quick", "--kernel", KERNEL], 0),
        ([fails.to_str().unwrap(), "--kernel", KERNEL], 1),
        // Skipped there, and so nothing has passed.
        (["write-behind", "--kernel", "pinned:6.1"], 125),
        ([refuses.to_str().unwrap(), "--kernel", KERNEL], 125),
    ] {
        let mut args = arguments.to_vec();
        args.push("--bisect");
        campaign(&args).end().ended_with(code);
    }
    let run = campaign(&["raid1-quick", "--kernel", KERNEL, "--bisect"]);
    until("a guest", STEP, || {
        !run.processes("qemu-system-x86_64").is_empty()
    });
    run.signal(Signal::INT);
    run.end().ended_with(255);
}

#[test]
fn no_qemu_outlives_a_killed_campaign_and_its_runs_keep_what_they_saw() {
    let mut run = campaign(&["raid1-quick", "--kernel", KERNEL]);
    run.line("1 runs");
    until("a guest", STEP, || {
        !run.processes("qemu-system-x86_64").is_empty()
    });
    run.signal(Signal::KILL);
    let ran = run.end();
    assert_eq!(ran.code, None);
    let report = ran
        .folder
        .join("runs/raid1-quick@pinned-6.12@1/report.json");
    assert!(report.is_file());
    // The campaign's own report can still be asked for.
    let (code, text) = ran.legwatch(&["report", ran.folder.to_str().unwrap()]);
    assert_eq!(code, Some(125), "{text}");
    assert!(text.contains("1 not run"), "{text}");
}

#[test]
fn a_timed_campaign_ends_at_the_first_finding_and_tells_its_rate() {
    let path = scenario("check-fails");
    let ran = campaign(&[path.to_str().unwrap(), "--kernel", KERNEL, "--for", "1h"]).end();
    ran.ended_with(1);
    assert_eq!(ran.states().len(), 1);
    assert!(ran.stdout.contains("✗ check-step/step"), "{}", ran.stdout);
    assert!(
        ran.stderr.last().unwrap().contains(" a minute"),
        "{:?}",
        ran.stderr.last()
    );
    let ktap = std::fs::read_to_string(ran.folder.join("ktap.txt")).unwrap();
    assert!(
        ktap.contains("\n    not ok 1 check-fails seed 1\n"),
        "{ktap}"
    );
}

#[test]
fn a_new_scenario_runs_and_is_clean() {
    let dir = tempfile::tempdir().unwrap();
    let made = Command::new(env!("CARGO_BIN_EXE_legwatch"))
        .args(["new", "fresh-one"])
        .current_dir(dir.path())
        .output()
        .unwrap();
    assert_eq!(made.status.code(), Some(0), "{made:?}");
    super::harness::run(dir.path().join("fresh-one.toml"), KERNEL, &[]).compared_all(2, 400);
}
