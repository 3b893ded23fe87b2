//! JUnit and KTAP, read by parsers that others wrote. A parser that is not installed is named, and its test skipped.

use std::path::{Path, PathBuf};
use std::process::Command;

use junit_parser::TestSuites;
use legwatch::campaign::result::Found;
use legwatch::campaign::{Expectation, Plan, Row, RunResult, State, Summary, junit, ktap};

/// A campaign with every state there is on two kernels, with texts that try to break out of their places; one run is missing.
fn summary() -> Summary {
    let rows: Vec<Row> = State::ALL
        .iter()
        .flat_map(|state| {
            ["pinned:6.1", "/a tree/with #1 & <odd> \"name\""].map(|kernel| Row {
                key: format!("{}@{kernel}", state.word()),
                scenario: state.word().replace(' ', "-"),
                path: "x".into(),
                kernel: kernel.into(),
                version: String::new(),
                text_crc32: None,
                expect: Expectation::clean(),
                skip: None,
                unavailable: None,
                tries: 1,
            })
        })
        .collect();
    let plan = Plan {
        version: legwatch::campaign::plan::VERSION,
        legwatch: None,
        rows,
        seed: 7,
        repeat: Some(1),
        options: Vec::new(),
    };
    let results = plan
        .cells()
        .take(13)
        .map(|cell| RunResult {
            key: plan.key(cell),
            row: plan.rows[cell.row].key.clone(),
            seed: cell.seed,
            state: State::ALL[cell.row / 2],
            detail: "it's <so> & \"so\" # SKIP\nok 1 - ]]> \u{1b}[31m \u{1f}é".into(),
            outcome: None,
            release: None,
            findings: vec![Found {
                id: "x".into(),
                what: "stamp/absent".into(),
                decides: true,
                headline: "64 writes <never> reached".into(),
            }],
            known: vec!["K2".into()],
            ms: 1500,
            tries: 1,
            // A success, and a guest that was lost twice.
            lost_before: [0, 6].contains(&cell.row).then(|| "gone & done".into()),
            folder: Some("runs/x".into()),
            again: "legwatch run 'x y' --seed 7".into(),
        })
        .collect();
    Summary::new(plan, results, None)
}

/// Whether a program is there that was not made by us. With `LEGWATCH_FULL` it has to be.
pub(crate) fn have(program: &str, arguments: &[&str]) -> bool {
    let there = Command::new(program)
        .args(arguments)
        .output()
        .is_ok_and(|output| output.status.success());
    if !there {
        skipped(&format!(
            "`{program} {}` does not work here",
            arguments.join(" ")
        ));
    }
    there
}

/// A test that can't be made here.
///
/// # Panics
/// With `LEGWATCH_FULL`: there everything has to be.
fn skipped(why: &str) {
    assert!(std::env::var_os("LEGWATCH_FULL").is_none(), "{why}");
    eprintln!("skipped: {why}");
}

pub(crate) fn run(program: &str, arguments: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(program).args(arguments).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (
        output.status.code(),
        String::from_utf8_lossy(&text).into_owned(),
    )
}

#[test]
fn junit_parser_reads_every_state() {
    let xml = junit::render(&summary());
    let all: TestSuites = junit_parser::from_reader(xml.as_bytes()).unwrap();
    assert_eq!(
        (all.tests, all.failures, all.errors, all.skipped),
        (14, 2, 8, 2)
    );
    assert_eq!(all.suites.len(), 2);
    let first = &all.suites[0];
    assert_eq!(first.name, "pinned:6.1");
    let case = |name: &str| {
        let mut cases = first.cases.iter();
        cases
            .find(|case| case.original_name == format!("{name} seed 7"))
            .unwrap_or_else(|| panic!("no case {name}"))
    };
    assert!(case("passed").status.is_success());
    assert_eq!(case("passed").reruns.len(), 1);
    assert_eq!(case("passed").reruns[0].rerun_type, "lost-guest");
    assert!((case("passed").time - 1.5).abs() < 1e-6);
    let failure = case("failed").status.failure_as_ref();
    assert_eq!(failure.failure_type, "stamp/absent");
    assert!(failure.message.starts_with("it's <so> & \"so\""));
    // (This parser drops references such as &lt; from texts.)
    assert!(
        failure.text.contains("stamp/absent: 64 writes"),
        "{}",
        failure.text
    );
    assert!(case("skipped").status.is_skipped());
    for (name, kind) in [
        ("inconclusive", "inconclusive"),
        ("lost-guest", "lost-guest"),
        ("refused", "refused"),
        ("broken", "broken"),
    ] {
        assert_eq!(case(name).status.error_as_ref().error_type, kind);
    }
    // What was not run is told as well.
    let missing = all.suites[1].cases.last().unwrap();
    assert_eq!(missing.status.error_as_ref().error_type, "not-run");
    assert_eq!(missing.status.error_as_ref().message, "1 run not run");
}

/// A Python that has a module; Debian's own knows Debian's packages, where the first one on the path is another.
pub(crate) fn python(module: &str) -> Option<&'static str> {
    let all = ["python3", "/usr/bin/python3"];
    let import = format!("import {module}");
    let has = |python: &&str| {
        let output = Command::new(python).args(["-c", &import]).output();
        output.is_ok_and(|output| output.status.success())
    };
    let found = all.into_iter().find(has);
    if found.is_none() {
        skipped(&format!("no python3 has {module}"));
    }
    found
}

#[test]
fn python_junitparser_reads_it() {
    // Debian's own knows Debian's packages, where the first one on the path is another.
    let Some(python) = python("junitparser") else {
        return;
    };
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), junit::render(&summary())).unwrap();
    let script = "import sys, junitparser\nx = junitparser.JUnitXml.fromfile(sys.argv[1])\n\
                  x.update_statistics()\nprint(x.tests, x.failures, x.errors, x.skipped)";
    let (code, text) = run(python, &["-c", script, file.path().to_str().unwrap()]);
    assert_eq!((code, text.trim()), (Some(0), "14 2 8 2"), "{text}");
}

#[test]
fn xmllint_calls_it_well_formed() {
    if !have("xmllint", &["--version"]) {
        return;
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), junit::render(&summary())).unwrap();
    let (code, text) = run("xmllint", &["--noout", file.path().to_str().unwrap()]);
    assert_eq!((code, text.as_str()), (Some(0), ""));
}

/// Perl's TAP::Parser knows plans, results and SKIP; subtests are text to it.
#[test]
fn tap_parser_reads_every_kernel() {
    if !have("perl", &["-MTAP::Parser", "-e", "1"]) {
        return;
    }
    let text = ktap::render(&summary());
    let file = tempfile::NamedTempFile::new().unwrap();
    let script = "use TAP::Parser; local $/; open(my $f, '<', $ARGV[0]); my $p = TAP::Parser->new({tap => <$f>}); $p->run; \
                  printf \"%d %d %d %d %d\\n\", $p->tests_planned, $p->tests_run, scalar($p->passed), scalar($p->failed), scalar($p->parse_errors);";
    let parse = |text: &str| {
        std::fs::write(file.path(), text).unwrap();
        let path = file.path().to_str().unwrap();
        let (code, said) = run("perl", &["-e", script, path]);
        assert_eq!(code, Some(0), "{said}");
        said.trim().to_owned()
    };
    // Two kernels, both with failures.
    assert_eq!(parse(&text), "2 2 0 2 0", "{text}");
    // The runs of one kernel are a document of their own, indented: seven results, of which one passed and one is skipped.
    let mut blocks = text.split("KTAP version 1\n").skip(2).map(|block| {
        block
            .lines()
            .filter_map(|line| line.strip_prefix("    "))
            .collect::<Vec<_>>()
            .join("\n")
    });
    assert_eq!(parse(&blocks.next().unwrap()), "7 7 2 5 0");
    assert_eq!(parse(&blocks.next().unwrap()), "7 7 2 5 0");
}

/// The kernel's own parser, out of a kernel's source: `LEGWATCH_KUNIT` names its folder, or a linux-source tree is unpacked in /usr/src.
#[test]
fn the_kernels_own_parser_reads_it() {
    let Some(folder) = kunit() else {
        skipped(
            "no kunit_parser.py; name its folder (tools/testing/kunit of a kernel's source) in LEGWATCH_KUNIT",
        );
        return;
    };
    if !have("python3", &["--version"]) {
        return;
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), ktap::render(&summary())).unwrap();
    let script = "import sys\nsys.path.insert(0, sys.argv[1])\nimport kunit_parser\nfrom kunit_printer import Printer\nimport inspect, io\n\
                  lines = open(sys.argv[2]).read().splitlines()\n\
                  more = [Printer(io.StringIO())] if len(inspect.signature(kunit_parser.parse_run_tests).parameters) > 1 else []\n\
                  test = kunit_parser.parse_run_tests(lines, *more)\n\
                  c = test.counts\nprint()\nprint('counts', c.passed, c.failed, c.crashed, c.skipped, c.errors)\n\
                  print('subtests', *[len(t.subtests) for t in test.subtests])";
    let (code, text) = run(
        "python3",
        &[
            "-c",
            script,
            folder.to_str().unwrap(),
            file.path().to_str().unwrap(),
        ],
    );
    assert_eq!(code, Some(0), "{text}");
    let line = |word: &str| {
        text.lines()
            .find(|line| line.starts_with(word))
            .unwrap_or_else(|| panic!("{text}"))
            .to_owned()
    };
    // Two passed, two skipped; all others failed, the missing one too; and no error in the form.
    assert_eq!(line("counts"), "counts 2 10 0 2 0", "{text}");
    assert_eq!(line("subtests"), "subtests 7 7", "{text}");
}

fn kunit() -> Option<PathBuf> {
    let named = std::env::var_os("LEGWATCH_KUNIT").map(PathBuf::from);
    let sources = std::fs::read_dir("/usr/src")
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path().join("tools/testing/kunit"));
    named
        .into_iter()
        .chain(sources)
        .find(|folder: &PathBuf| Path::new(folder).join("kunit_parser.py").is_file())
}
