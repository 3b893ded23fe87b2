//! Out to others' tools, through the program: what is written, its keys and types, and what is refused. (`tests/frontend/export.rs` holds images and logs to
//! a real leg's bytes.)

#[path = "checker/history.rs"]
mod history;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use history::{History, Load};
use legwatch::block::{LegId, Operation};
use legwatch::config::Record;
use legwatch::event::{Action, Decided, What};
use legwatch::header::RuleHead;
use legwatch::journal::Writer;
use serde_json::Value;

/// What a guest may print.
const HOSTILE: &str = "</script>\"\\ \u{202e}{}";

/// A run's folder with a journal that has its payloads.
struct Run {
    dir: tempfile::TempDir,
    history: History,
}

impl Run {
    fn new() -> Run {
        let mut history = History::with_bitmap(2, None);
        history.header.record = Record::All;
        history.header.rules.push(RuleHead {
            name: "slow".into(),
            may_not_fire: true,
        });
        history.push(What::Console {
            line: HOSTILE.into(),
        });
        for at in 0..8 {
            history.honest(&Load::new(1, at + 1, 64 * at, 8));
        }
        let open = history.arrive_at(1, Operation::Read, 0, 8);
        history.push(What::Decided(Decided {
            request: open,
            rule: 0,
            action: Action::Delay { ms: 5 },
        }));
        history.flush(0);
        history.quiet();
        for event in &mut history.events {
            if let What::Fetched(fetched) = &mut event.what {
                let bytes = fetched.digests.len() * 512;
                fetched.payload.get_or_insert_with(|| vec![0xa5; bytes]);
            }
        }
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("run")).unwrap();
        let run = Run { dir, history };
        let mut writer = Writer::new(Vec::new(), &run.history.header).unwrap();
        for event in &run.history.events {
            writer.append(event).unwrap();
        }
        std::fs::write(run.path("run/journal"), writer.finish().unwrap()).unwrap();
        run
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn legwatch(&self, args: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_legwatch"))
            .args(args)
            .current_dir(self.dir.path())
            .output()
            .unwrap()
    }

    fn text(&self, args: &[&str]) -> String {
        let output = self.legwatch(args);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Exit code 2, one sentence with these words, and no file.
    fn refused(&self, args: &[&str], words: &str) {
        let output = self.legwatch(args);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(words) && said.lines().count() == 1, "{said}");
        assert!(!self.path("out").exists(), "{args:?} left a file");
    }

    fn count(&self, fits: impl Fn(&What) -> bool) -> usize {
        self.history
            .events
            .iter()
            .filter(|event| fits(&event.what))
            .count()
    }
}

fn is_legs(what: &What) -> bool {
    matches!(what, What::Arrived(arrived) if arrived.request.leg != LegId::CONTROL)
}

#[test]
fn chromes_trace_has_the_keys_and_types_of_its_format() {
    let run = Run::new();
    let text = run.text(&["export", "run", "--format", "chrome-trace"]);
    let trace: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(trace["displayTimeUnit"], "ms");
    let mut open: BTreeMap<(String, u64), (String, f64)> = BTreeMap::new();
    let mut names = BTreeMap::new();
    let (mut spans, mut faults, mut consoles, mut last) = (0, 0, 0, 0.0);
    for event in trace["traceEvents"].as_array().unwrap() {
        let text = |key: &str| {
            event[key]
                .as_str()
                .unwrap_or_else(|| panic!("{key} of {event}"))
                .to_owned()
        };
        let ts = event["ts"].as_f64().unwrap();
        assert!(ts >= last, "in order: {event}");
        last = ts;
        let pid = event["pid"].as_u64().unwrap();
        assert!(
            event["tid"].is_u64() && event["args"].is_object(),
            "{event}"
        );
        match text("ph").as_str() {
            "M" => {
                assert_eq!(text("name"), "process_name");
                names.insert(pid, event["args"]["name"].as_str().unwrap().to_owned());
            }
            "b" => {
                assert_eq!(text("cat"), "request");
                assert!(
                    open.insert((text("id"), pid), (text("name"), ts)).is_none(),
                    "{event}"
                );
            }
            "e" => {
                let (name, begun) = open.remove(&(text("id"), pid)).expect("a span that began");
                assert!(name == text("name") && begun <= ts, "{event}");
                spans += 1;
            }
            "C" => assert!(event["args"]["requests"].is_u64(), "{event}"),
            "i" => {
                assert_eq!(text("s"), "p");
                faults += usize::from(text("cat") == "fault");
                consoles += usize::from(text("name") == HOSTILE);
            }
            ph => panic!("ph {ph}"),
        }
    }
    let names: Vec<&str> = names.values().map(String::as_str).collect();
    assert_eq!(names, ["guest", "leg a", "leg b"]);
    assert_eq!((spans + open.len(), open.len()), (run.count(is_legs), 1));
    assert_eq!((faults, consoles), (1, 1));
}

#[test]
fn blktraces_text_has_its_columns() {
    let run = Run::new();
    let text = run.text(&["export", "run", "--format", "blktrace"]);
    let mut actions: BTreeMap<&str, usize> = BTreeMap::new();
    for line in text.lines() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [device, cpu, sequence, time, pid, action, rwbs, rest @ ..] = &fields[..] else {
            panic!("{line}");
        };
        let (major, minor) = device.split_once(',').unwrap();
        for number in [major, minor, cpu, sequence, pid] {
            number.parse::<u64>().unwrap();
        }
        time.parse::<f64>().unwrap();
        *actions.entry(action).or_default() += 1;
        match *action {
            "D" | "C" => {
                assert!(rwbs.chars().all(|c| "RWFDEN".contains(c)), "{line}");
                let [start, plus, count, ..] = rest else {
                    panic!("{line}")
                };
                assert_eq!(*plus, "+");
                start.parse::<u64>().unwrap();
                count.parse::<u64>().unwrap();
            }
            "m" => assert_eq!(*rwbs, "N"),
            action => panic!("action {action}"),
        }
    }
    let arrived = run.count(is_legs);
    assert_eq!((actions["D"], actions["C"]), (arrived, arrived - 1));
    assert!(text.contains("fault slow: request"), "{text}");
    assert!(text.contains(HOSTILE), "{text}");
}

#[test]
fn what_makes_no_sense_is_refused_and_leaves_nothing() {
    let run = Run::new();
    let last = run.history.events.last().unwrap().no.0;
    run.refused(
        &["image", "run", "--leg", "z", "out"],
        "no such leg; it has a, b",
    );
    run.refused(
        &["image", ".", "--leg", "a", "out"],
        "is no run of legwatch",
    );
    run.refused(
        &[
            "image",
            "run",
            "--leg",
            "a",
            "--at",
            &(last + 1).to_string(),
            "out",
        ],
        &format!("the journal ends at #{last}"),
    );
    run.refused(
        &["image", "run", "--leg", "a", "--base", "nothing", "out"],
        "can't be read",
    );
    run.refused(
        &["export", "run", "--format", "log-writes", "--out", "out"],
        "name it with --leg",
    );
    run.refused(
        &["export", "run", "--format", "log-writes", "--leg", "a"],
        "name it with --out",
    );
    // What is there stays.
    std::fs::write(run.path("mine"), "mine").unwrap();
    run.refused(&["image", "run", "--leg", "a", "mine"], "name a new file");
    assert_eq!(std::fs::read_to_string(run.path("mine")).unwrap(), "mine");
}

#[test]
fn without_payloads_an_image_is_refused_or_partial() {
    let run = Run::new();
    let bare = run.path("bare");
    let mut writer = Writer::new(Vec::new(), &run.history.header).unwrap();
    for event in &run.history.events {
        let mut event = event.clone();
        if let What::Fetched(fetched) = &mut event.what {
            fetched.payload = None;
        }
        writer.append(&event).unwrap();
    }
    std::fs::write(&bare, writer.finish().unwrap()).unwrap();
    run.refused(&["image", "bare", "--leg", "a", "out"], "record = \"all\"");
    let image = |args: &[&str], out: &str| -> Vec<u8> {
        let all = [args, &["--leg", "a", out]].concat();
        let output = run.legwatch(&all);
        assert!(output.status.success(), "{output:?}");
        std::fs::read(Path::new(&run.path(out))).unwrap()
    };
    let whole = image(&["image", "run"], "whole");
    let partial = image(&["image", "bare", "--partial"], "partial");
    assert_eq!(whole.len(), partial.len());
    assert_ne!(whole, partial);
    // A leg that was no fresh one: what it held shows where nothing was written.
    std::fs::write(run.path("base"), [7; 512]).unwrap();
    let based = image(&["image", "run", "--base", "base"], "based");
    assert_eq!((based[0], &based[512..]), (7, &whole[512..]));
}
