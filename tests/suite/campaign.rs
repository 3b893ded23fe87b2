//! Campaigns that need no guest: kernels that a scenario is not for, that lack what it needs or that can't be had, and records of others.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output};

use legwatch::campaign::plan::{Cell, VERSION};
use legwatch::campaign::result::Found;
use legwatch::campaign::{Expectation, Plan, Row, RunResult, State};
use tempfile::TempDir;

/// A scenario that is for no 6.1 and expects findings on 6.2.
const SCENARIO: &str = r#"name = "one"
about = "x"
[legs.a]
size = "1M"
[[workload]]
write = { device = "/dev/md0", writes = 1 }
[suite]
[[suite.skip]]
kernels = ["6.1"]
why = "it is not for 6.1"
[[suite.expect]]
kernels = ["6.2"]
outcome = "findings"
check = "stamp"
why = "6.2 is bad"
"#;

/// A folder with the scenario, a bzImage that says that it is 6.1.0, and a tree of 6.2.0 that lacks everything.
struct Bench {
    _top: TempDir,
    dir: PathBuf,
}

impl Bench {
    fn new() -> Bench {
        let top = tempfile::tempdir().unwrap();
        let dir = top.path().join("w");
        std::fs::create_dir_all(dir.join("tree/arch/x86/boot")).unwrap();
        let write = |name: &str, bytes: &[u8]| std::fs::write(dir.join(name), bytes).unwrap();
        write("one.toml", SCENARIO.as_bytes());
        write("bzImage", &bzimage("6.1.0"));
        write("tree/arch/x86/boot/bzImage", &bzimage("6.2.0"));
        write("tree/Kbuild", b"");
        write("tree/.config", b"");
        write(
            "qemu",
            b"#!/bin/sh\necho 'QEMU emulator version 10.0.2 (stand-in)'\n",
        );
        std::fs::set_permissions(dir.join("qemu"), PermissionsExt::from_mode(0o755)).unwrap();
        Bench { _top: top, dir }
    }

    /// Runs legwatch, which has to end by itself.
    fn run(&self, arguments: &[&str]) -> (Option<i32>, Output) {
        let output = Command::new("timeout")
            .args(["-s", "KILL", "60", env!("CARGO_BIN_EXE_legwatch")])
            .args(arguments)
            .env("LEGWATCH_CACHE", self.dir.join("../cache"))
            .env("LEGWATCH_GUEST", env!("CARGO_BIN_EXE_legwatch-guest"))
            .env("LEGWATCH_QEMU", self.dir.join("qemu"))
            .current_dir(&self.dir)
            .output()
            .unwrap();
        let code = output.status.code();
        assert!(code.is_some(), "{arguments:?} did not end: {output:?}");
        (code, output)
    }

    /// As [`Bench::run`]: its exit code and what it printed.
    fn printed(&self, arguments: &[&str]) -> (i32, String) {
        let (code, output) = self.run(arguments);
        (code.unwrap(), String::from_utf8(output.stdout).unwrap())
    }

    /// The exit code, and the line that refuses.
    fn refusal(&self, arguments: &[&str]) -> (i32, String) {
        let (code, output) = self.run(arguments);
        let text = String::from_utf8(output.stderr).unwrap();
        (code.unwrap(), text.lines().last().unwrap().to_owned())
    }

    /// Writes the record of a campaign.
    fn record(&self, out: &str, plan: &Plan, results: &[RunResult]) {
        let header = serde_json::json!({ "plan": plan, "partition": null });
        let lines = std::iter::once(header)
            .chain(results.iter().map(|one| serde_json::to_value(one).unwrap()));
        let text: String = lines.map(|line| format!("{line}\n")).collect();
        self.put(out, &text);
    }

    fn put(&self, out: &str, text: &str) {
        std::fs::create_dir_all(self.dir.join(out)).unwrap();
        std::fs::write(self.results(out), text).unwrap();
    }

    fn results(&self, out: &str) -> PathBuf {
        self.dir.join(out).join("results.jsonl")
    }
}

/// As much of a bzImage as tells a release.
fn bzimage(release: &str) -> Vec<u8> {
    let mut bytes = vec![0; 0x400];
    bytes[0x202..0x206].copy_from_slice(b"HdrS");
    bytes[0x20e..0x210].copy_from_slice(&0x100_u16.to_le_bytes());
    bytes[0x300..0x300 + release.len()].copy_from_slice(release.as_bytes());
    bytes
}

fn row(scenario: &str, kernel: &str) -> Row {
    Row {
        key: format!("{scenario}@{kernel}"),
        scenario: scenario.into(),
        path: scenario.into(),
        kernel: kernel.into(),
        version: "6.12.117".into(),
        expect: Expectation::clean(),
        skip: None,
        unavailable: None,
        tries: 1,
    }
}

fn plan(rows: Vec<Row>, repeat: Option<u64>) -> Plan {
    Plan {
        version: VERSION,
        rows,
        seed: 1,
        repeat,
        options: Vec::new(),
    }
}

fn result(plan: &Plan, row: usize, seed: u64, state: State) -> RunResult {
    RunResult {
        key: plan.key(Cell { row, seed }),
        row: plan.rows[row].key.clone(),
        seed,
        state,
        detail: state.word().into(),
        outcome: None,
        release: None,
        findings: Vec::<Found>::new(),
        known: Vec::new(),
        ms: 1000,
        tries: 1,
        lost_before: None,
        folder: None,
        again: String::new(),
    }
}

#[test]
fn a_campaign_in_which_nothing_can_run_ends() {
    let bench = Bench::new();
    let (code, text) = bench.printed(&[
        "test", "one.toml", "--kernel", "bzImage", "--for", "1h", "--out", "c",
    ]);
    assert_eq!(code, 125, "{text}");
    assert!(text.contains("1 run: 1 skipped"), "{text}");
    let mut unavailable = plan(vec![row("one", "debian:6.12")], None);
    unavailable.rows[0].unavailable = Some("unreachable".into());
    bench.record("u", &unavailable, &[]);
    for arguments in [
        &["report", "c"][..],
        &["report", "u"],
        &["report", "--merge", "c"],
        &["report", "--merge", "u"],
    ] {
        assert_eq!(bench.printed(arguments).0, 125, "{arguments:?}");
    }
}

#[test]
fn a_result_of_no_row_is_refused_and_one_beyond_the_seeds_is_counted() {
    let bench = Bench::new();
    let plan = plan(vec![row("one", "debian:6.12")], Some(1));
    let passed = result(&plan, 0, 1, State::Passed);
    bench.record(
        "c",
        &plan,
        &[passed.clone(), result(&plan, 0, 7, State::Failed)],
    );
    assert_eq!(bench.printed(&["report", "c"]).0, 1);
    let astray = RunResult {
        row: "two@debian:6.12".into(),
        ..passed
    };
    bench.record("c", &plan, &[astray]);
    let (code, line) = bench.refusal(&["report", "c"]);
    assert_eq!(code, 2, "{line}");
    assert!(line.contains("line 2 is no result"), "{line}");
    assert!(line.contains("no row two@debian:6.12"), "{line}");
}

#[test]
fn kernels_whose_runs_were_never_made_are_not_green() {
    let bench = Bench::new();
    let kernels = ["k1", "k2", "k3"];
    let rows = kernels.map(|kernel| row("one", kernel)).to_vec();
    let plan = plan(rows, Some(700));
    let results: Vec<RunResult> = (0..3)
        .map(|row| result(&plan, row, 1, State::Passed))
        .collect();
    bench.record("c", &plan, &results);
    let (code, ktap) = bench.printed(&["report", "c", "--format", "ktap"]);
    assert_eq!(code, 125);
    for (number, kernel) in (1..).zip(kernels) {
        let verdict = format!("\nnot ok {number} {kernel}\n");
        assert!(ktap.contains(&verdict), "{ktap}");
    }
    let told = "    not ok 2 one # ERROR 699 runs not run\n";
    assert_eq!(ktap.matches(told).count(), 3, "{ktap}");
    let (_, xml) = bench.printed(&["report", "c", "--format", "junit"]);
    let junit = junit_parser::from_reader(xml.as_bytes()).unwrap();
    assert_eq!((junit.tests, junit.errors), (6, 3), "{xml}");
    for suite in &junit.suites {
        let error = suite.cases[1].status.error_as_ref();
        assert_eq!(error.error_type, "not-run");
        assert_eq!(error.message, "699 runs not run");
    }
    let (_, table) = bench.printed(&["report", "c"]);
    assert!(table.contains("✓ passed, 699 not run"), "{table}");
}

#[test]
fn the_museums_cases_are_named_by_bug_and_side() {
    let bench = Bench::new();
    let of = |id: &str, kernel: &str| Row {
        key: format!("{id}@{kernel}"),
        ..row("resync-stale-read", kernel)
    };
    // Two bugs of one scenario on one kernel, and a race that took three seeds.
    let plan = plan(
        vec![
            of("K4:bad", "pinned:6.12"),
            of("K5:bad", "pinned:6.12"),
            of("K4:good", "pinned:6.1"),
        ],
        Some(3),
    );
    let results: Vec<RunResult> = plan
        .cells()
        .map(|cell| RunResult {
            seed: 3,
            ..result(&plan, cell.row, cell.seed, State::Passed)
        })
        .collect();
    bench.record("c", &plan, &results);
    let (code, xml) = bench.printed(&["report", "c", "--format", "junit"]);
    assert_eq!(code, 0);
    let junit = junit_parser::from_reader(xml.as_bytes()).unwrap();
    let cases: Vec<&str> = junit
        .suites
        .iter()
        .flat_map(|suite| &suite.cases)
        .map(|case| case.original_name.as_str())
        .collect();
    let mut names = Vec::new();
    for id in ["K4:bad", "K5:bad", "K4:good"] {
        names.extend((1..=3).map(|seed| format!("{id} resync-stale-read seed {seed}")));
    }
    assert_eq!(cases, names);
    let (_, ktap) = bench.printed(&["report", "c", "--format", "ktap"]);
    for name in &names {
        assert_eq!(ktap.matches(&format!(" {name}\n")).count(), 1, "{ktap}");
    }
    assert!(ktap.contains("    # seed 3\n    ok 1 K4:bad"), "{ktap}");
}

#[test]
fn a_bug_that_is_named_twice_is_one() {
    let bench = Bench::new();
    let (code, text) = bench.printed(&["test", "--museum", "K4", "K1", "K4", "--list"]);
    assert_eq!((code, text.lines().count()), (0, 2), "{text}");
}

#[test]
fn numbers_that_would_never_end_are_refused() {
    let bench = Bench::new();
    for (arguments, words) in [
        (["--repeat", "18446744073709551615"], "--for"),
        (["--partition", "hash:1/18446744073709551615"], "hash:K/N"),
    ] {
        let mut all = vec!["test", "one.toml", "--kernel", "bzImage"];
        all.extend(arguments);
        let (code, output) = bench.run(&all);
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(code, Some(2), "{text}");
        assert!(text.contains(words), "{text}");
    }
}
