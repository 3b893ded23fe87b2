//! Campaigns that need no guest: kernels that a scenario is not for, that lack what it needs or that can't be had, and records of others.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output};

use legwatch::campaign::plan::{Cell, VERSION};
use legwatch::campaign::result::Found;
use legwatch::campaign::{Expectation, Partition, Plan, Row, RunResult, State};
use serde_json::Value;
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

    fn report(&self, out: &str) -> Value {
        let path = self.dir.join(out).join("report.json");
        serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
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
        text_crc32: Some(1),
        expect: Expectation::clean(),
        skip: None,
        unavailable: None,
        tries: 1,
    }
}

fn plan(rows: Vec<Row>, repeat: Option<u64>) -> Plan {
    Plan {
        version: VERSION,
        legwatch: Some(env!("CARGO_PKG_VERSION").into()),
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
fn a_timed_campaign_ends_at_a_run_that_is_refused() {
    let bench = Bench::new();
    let (code, output) = bench.run(&[
        "test", "one.toml", "--kernel", "tree", "--for", "20s", "--jobs", "1", "--out", "c",
    ]);
    assert_eq!(code, Some(2), "{output:?}");
    let report = bench.report("c");
    assert_eq!(report["results"].as_array().unwrap().len(), 1);
    assert_eq!(report["results"][0]["state"], "refused");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains(" a minute; no finding in 1 run; "), "{said}");
}

#[test]
fn parts_lose_no_result_to_one_that_lacked_the_kernel() {
    let bench = Bench::new();
    for repeat in [Some(3), None] {
        let had = plan(vec![row("one", "debian:6.12")], repeat);
        let mut lacked = had.clone();
        lacked.rows[0].version = String::new();
        lacked.rows[0].unavailable = Some("unreachable".into());
        let first = RunResult {
            tries: 0,
            ..result(&lacked, 0, 1, State::Inconclusive)
        };
        bench.record("lacked", &lacked, &[first]);
        let failed = result(&had, 0, 2, State::Failed);
        bench.record("had", &had, &[failed, result(&had, 0, 3, State::Passed)]);
        for order in [["lacked", "had"], ["had", "lacked"]] {
            let mut arguments = vec!["report", "--format", "json", "--merge"];
            arguments.extend(order);
            let (code, text) = bench.printed(&arguments);
            assert_eq!(code, 1, "{text}");
            let report: Value = serde_json::from_str(&text).unwrap();
            assert_eq!(report["results"].as_array().unwrap().len(), 3, "{text}");
            assert_eq!(report["plan"]["rows"][0]["version"], "6.12.117");
        }
    }
}

#[test]
fn parts_that_differ_are_refused_with_what_differs() {
    let bench = Bench::new();
    let one = plan(vec![row("one", "debian:6.12")], Some(2));
    bench.record("a", &one, &[]);
    let differs = |change: &dyn Fn(&mut Plan), words: &str| {
        let mut other = one.clone();
        change(&mut other);
        bench.record("b", &other, &[]);
        let (code, line) = bench.refusal(&["report", "--merge", "a", "b"]);
        assert_eq!(code, 2, "{line}");
        let whole = format!("a and b are of different campaigns: {words}; merge parts of one");
        assert!(line.ends_with(&whole), "{line}");
    };
    differs(
        &|plan| plan.rows[0].version = "6.12.118".into(),
        "kernel debian:6.12 is 6.12.117 in the one and 6.12.118 in the other",
    );
    differs(
        &|plan| plan.rows[0].text_crc32 = Some(2),
        "the text of scenario one differs",
    );
    let ours = format!("the one is of legwatch {}", env!("CARGO_PKG_VERSION"));
    differs(
        &|plan| plan.legwatch = Some("0.0.9".into()),
        &format!("{ours}, the other of legwatch 0.0.9"),
    );
    differs(
        &|plan| plan.legwatch = None,
        &format!("{ours}, the other of an older legwatch"),
    );
}

#[test]
fn a_record_of_an_older_legwatch_is_read() {
    let bench = Bench::new();
    let plan = plan(vec![row("one", "debian:6.12")], Some(1));
    bench.record("old", &plan, &[result(&plan, 0, 1, State::Passed)]);
    let text = std::fs::read_to_string(bench.results("old")).unwrap();
    let version = format!("\"legwatch\":\"{}\",", env!("CARGO_PKG_VERSION"));
    let older = text.replace(&version, "").replace("\"text_crc32\":1,", "");
    assert_eq!(older.len() + version.len() + 15, text.len(), "{text}");
    bench.put("old", &older);
    let (code, text) = bench.printed(&["report", "old"]);
    assert_eq!(code, 0, "{text}");
    let (code, text) = bench.printed(&["report", "--merge", "old"]);
    assert_eq!(code, 0, "{text}");
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
fn a_campaign_goes_on_where_a_kernel_was_unavailable_and_only_with_what_it_was_begun_with() {
    let bench = Bench::new();
    let begun = ["test", "one.toml", "--kernel", "bzImage", "--out", "c"];
    assert_eq!(bench.printed(&begun).0, 125);
    let mut again = begun.to_vec();
    again.push("--resume");

    // As if the kernel had been unavailable.
    let text = std::fs::read_to_string(bench.results("c")).unwrap();
    let mut lines = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    let (mut header, mut run) = (lines.next().unwrap(), lines.next().unwrap());
    let row = &mut header["plan"]["rows"][0];
    row["skip"] = Value::Null;
    row["version"] = "".into();
    row["unavailable"] = "unreachable".into();
    run["state"] = "inconclusive".into();
    run["detail"] = "unreachable".into();
    bench.put("c", &format!("{header}\n{run}\n"));
    let (code, output) = bench.run(&again);
    assert_eq!(code, Some(125), "{output:?}");
    let report = bench.report("c");
    assert_eq!(report["results"].as_array().unwrap().len(), 1);
    assert_eq!(report["results"][0]["state"], "skipped");
    assert_eq!(report["plan"]["rows"][0]["version"], "6.1.0");
    // The record is that of the report.
    assert_eq!(std::fs::read_to_string(bench.results("c")).unwrap(), text);

    let refused = |words: &str| {
        let (code, line) = bench.refusal(&again);
        assert_eq!(code, 2, "{line}");
        assert!(
            line.contains("c holds another campaign") && line.contains(words),
            "{line}"
        );
    };
    let file = bench.dir.join("one.toml");
    std::fs::write(&file, SCENARIO.replace("\"x\"", "\"y\"")).unwrap();
    refused("the text of scenario one differs");
    std::fs::write(&file, SCENARIO).unwrap();
    std::fs::write(bench.dir.join("bzImage"), bzimage("6.1.9")).unwrap();
    refused("kernel bzImage is 6.1.0 in the one and 6.1.9 in the other");
    std::fs::write(bench.dir.join("bzImage"), bzimage("6.1.0")).unwrap();
    let version = format!("\"legwatch\":\"{}\"", env!("CARGO_PKG_VERSION"));
    bench.put("c", &text.replace(&version, "\"legwatch\":\"0.0.9\""));
    refused("the one is of legwatch 0.0.9, the other of legwatch ");
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
fn with_bisect_no_kernel_is_expected_to_be_bad() {
    let bench = Bench::new();
    let expects = |more: &[&str], code: i32| {
        let mut arguments = vec!["test", "one.toml", "--kernel", "tree", "--out", "c"];
        arguments.extend(more);
        assert_eq!(bench.printed(&arguments).0, code);
        let outcome = bench.report("c")["plan"]["rows"][0]["expect"]["outcome"].clone();
        std::fs::remove_dir_all(bench.dir.join("c")).unwrap();
        outcome
    };
    assert_eq!(expects(&[], 2), "findings");
    assert_eq!(expects(&["--no-expect"], 2), "clean");
    assert_eq!(expects(&["--bisect"], 255), "clean");
    // A scenario that is not for the kernel is skipped all the same.
    let skipped = [
        "test", "one.toml", "--kernel", "bzImage", "--bisect", "--out", "s",
    ];
    assert_eq!(bench.printed(&skipped).0, 125);
    assert_eq!(bench.report("s")["results"][0]["state"], "skipped");
}

#[test]
fn a_part_without_runs_says_so_and_has_done_what_it_was_given() {
    let bench = Bench::new();
    let part = |k: u64| format!("hash:{k}/3");
    for k in 1..=3 {
        let has = part(k).parse::<Partition>().unwrap().has("one@bzImage@1");
        for length in [["--repeat", "2"], ["--for", "1h"]] {
            let (part, out) = (part(k), format!("{k}{}", length[0]));
            let mut arguments = vec!["test", "one.toml", "--kernel", "bzImage"];
            arguments.extend(["--partition", &part, "--out", &out]);
            arguments.extend(length);
            let (code, text) = bench.printed(&arguments);
            let again = bench.printed(&["report", &out]);
            assert_eq!(again, (code, text.clone()));
            if has {
                assert_eq!(code, 125, "{text}");
            } else {
                assert_eq!(
                    (code, text.as_str()),
                    (0, "✓ no run falls into this part\n")
                );
            }
        }
    }
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
