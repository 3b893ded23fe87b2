//! Guests that go on from a saved boot: as good as others, with a clock and random numbers of their own; and a saved boot that is of no use costs time only.

use std::collections::BTreeSet;
use std::path::Path;

use legwatch::clock::unix_s;

use super::harness::{Ran, Running, scenario};

const KERNEL: &str = "pinned:6.12";

/// Says of each boot of a run the random number and the clock.
fn told(run: &Path) -> Vec<(String, u64)> {
    let console = std::fs::read_to_string(run.join("console.log")).unwrap();
    let told = console.lines().filter_map(|line| {
        let (_, told) = line.split_once("woken ")?;
        let (uuid, clock) = told.trim().split_once(' ')?;
        Some((uuid.to_owned(), clock.parse().ok()?))
    });
    told.collect()
}

#[test]
fn a_campaigns_guests_go_on_from_a_saved_boot() {
    let before = unix_s();
    let scenario = scenario("woken");
    let campaign = Running::start(&[
        "test",
        scenario.to_str().unwrap(),
        "--kernel",
        KERNEL,
        "--jobs",
        "1",
        "--repeat",
        "3",
        "--saved-boots",
    ]);
    let campaign = campaign.end();
    campaign.ended_with(0);
    let mut uuids = BTreeSet::new();
    for (result, boot) in (0..).zip(["fresh", "saved", "saved"]) {
        let result = &campaign.report()["results"][result];
        assert_eq!(result["state"], "passed");
        let run = campaign.folder.join(result["folder"].as_str().unwrap());
        let report = std::fs::read_to_string(run.join("report.json")).unwrap();
        let report: serde_json::Value = serde_json::from_str(&report).unwrap();
        assert_eq!(report["provenance"]["boot"], boot, "{report:#}");
        assert_eq!(report["coverage"]["boots"], 2);
        let console = std::fs::read_to_string(run.join("console.log")).unwrap();
        assert_eq!(console.contains("Linux version"), boot == "fresh");
        let told = told(&run);
        assert_eq!(told.len(), 2, "{console}");
        for (uuid, clock) in told {
            assert!(uuids.insert(uuid), "{uuids:?}");
            assert!(
                (before..=unix_s() + 1).contains(&clock),
                "{clock}, {before}"
            );
        }
    }
}

#[test]
fn a_saved_boot_of_no_use_is_done_without() {
    let boots = tempfile::tempdir_in("/tmp").unwrap();
    let scenario = scenario("woken");
    let run = |boot: &str| -> Ran {
        let folder = boots.path().to_str().unwrap();
        let ran = Running::run(&scenario, KERNEL, &["--saved-boots", folder]).end();
        ran.ended_with(0);
        assert_eq!(ran.report()["provenance"]["boot"], boot);
        ran
    };
    run("fresh");
    run("saved");
    let mut files = std::fs::read_dir(boots.path().join("boots")).unwrap();
    let saved = files.next().unwrap().unwrap().path();
    assert!(files.next().is_none());
    std::fs::write(&saved, "no machine was ever like this").unwrap();
    let ran = run("saved");
    let said = ran.stderr.join("\n");
    assert!(said.contains("boots afresh"), "{said}");
    let console = std::fs::read_to_string(ran.folder.join("console.log")).unwrap();
    assert!(console.contains("Linux version"));
}
