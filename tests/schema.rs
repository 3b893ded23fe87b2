//! report.json against docs/report.schema.json, by a validator of somebody else's; and two reports side by side.

use std::io::Write as _;
use std::process::{Command, Stdio};

#[path = "checker/history.rs"]
mod history;

use history::{History, Load, garbage};
use legwatch::event::{Action, Decided, What};
use legwatch::header::RuleHead;
use legwatch::mark::Mark;
use legwatch::oracle::{Outcome, Verdict};
use legwatch::report::diff::Difference;
use legwatch::report::json::Report;
use legwatch::report::text::Style;
use serde_json::{Value, json};

/// Python's jsonschema, as Debian packages it: what is wrong with each document; nothing where it fits the schema. Readers may meet fields that they do
/// not know; the schema has to know them all, so here it is closed.
const VALIDATE: &str = "
import json, sys
from jsonschema import Draft202012Validator as Validator
schema, documents = json.load(sys.stdin)
Validator.check_schema(schema)
def close(part):
    if isinstance(part, dict):
        if 'properties' in part:
            part.setdefault('additionalProperties', False)
        for one in part.values():
            close(one)
close(schema)
validator = Validator(schema)
print(json.dumps([[f'{list(error.path)}: {error.message[:200]}' for error in validator.iter_errors(one)] for one in documents]))
";

fn validate(documents: &[Value]) -> Vec<Vec<String>> {
    let schema: Value = serde_json::from_str(include_str!("../docs/report.schema.json")).unwrap();
    let mut python = Command::new("/usr/bin/python3")
        .args(["-c", VALIDATE])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("python3; vm/setup --tests installs it");
    let input = json!([schema, documents]).to_string();
    python
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    let output = python.wait_with_output().unwrap();
    assert!(
        output.status.success(),
        "python3-jsonschema (vm/setup --tests installs it): {}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).unwrap()
}

fn clean() -> (History, Verdict) {
    let mut history = History::with_bitmap(2, None);
    for (name, value) in [
        ("kernel.cmdline", "console=ttyS0"),
        ("module.raid1.build-id", "00ff17"),
        ("kernel.build-id", "aa"),
        ("md0.mismatch_cnt", "0"),
    ] {
        history.mark(Mark::Fact {
            name: name.into(),
            value: value.into(),
        });
    }
    history.header.provenance =
        json!({ "legwatch": "0.1.0", "kernel": "pinned:6.1", "qemu": "10.0" });
    history.honest(&Load::new(1, 1, 8, 8));
    finish(history)
}

/// Leg b never gets sector `at`, leg a has garbage behind it; a rule is on record.
fn wrong(at: u64) -> (History, Verdict) {
    let mut history = History::new(2, None);
    history.header.rules.push(RuleHead {
        name: "slow".into(),
        may_not_fire: true,
    });
    let (lost, odd) = (Load::new(1, 1, at, 8), Load::new(1, 2, at + 100, 1));
    history.begin(&lost);
    let request = history.write(0, at, &lost.contents());
    history.push(What::Decided(Decided {
        request,
        rule: 0,
        action: Action::Delay { ms: 1 },
    }));
    history.end(&lost);
    history.begin(&odd);
    history.write(0, at + 100, &[garbage(3)]);
    history.write(1, at + 100, &odd.contents());
    history.end(&odd);
    finish(history)
}

/// A run in which nothing was written.
fn nothing() -> (History, Verdict) {
    finish(History::new(2, None))
}

fn finish(mut history: History) -> (History, Verdict) {
    history.quiet();
    history.superblocks(true);
    history.power_off();
    let verdict = history.verdict();
    (history, verdict)
}

fn report((history, verdict): &(History, Verdict)) -> Report {
    Report::new(&history.header, verdict)
}

#[test]
fn reports_fit_their_schema_and_others_do_not() {
    let value = |report: &Report| -> Value { serde_json::from_str(&report.render()).unwrap() };
    let (clean, wrong, vague) = (report(&clean()), report(&wrong(200)), report(&nothing()));
    assert_eq!(
        [clean.outcome, wrong.outcome, vague.outcome],
        [Outcome::Clean, Outcome::Findings, Outcome::Inconclusive]
    );
    let good = value(&wrong);
    let again: Report = serde_json::from_value(good.clone()).unwrap();
    assert_eq!(again, wrong);
    let mut documents = vec![value(&clean), good.clone(), value(&vague)];
    let fit = documents.len();
    let bad = [
        ("/version", json!(2)),
        ("/outcome", json!("fine")),
        ("/findings/0/check", json!("unheard-of")),
        ("/findings/0/array/0/start", json!(-1)),
        ("/findings/0/first_wrong", json!("a text")),
        ("/coverage/legs/0/active", json!("yes")),
        ("/provenance", json!([])),
        ("/coverage/facts", json!({ "a": 1 })),
        ("/coverage/excused", json!({ "case 4": "many" })),
        (
            "/findings/0/example/expected",
            json!({ "what": "a", "digest": 1, "bytes": "", "unheard": 1 }),
        ),
    ];
    for (pointer, bad) in &bad {
        let mut changed = good.clone();
        *changed.pointer_mut(pointer).unwrap() = bad.clone();
        documents.push(changed);
    }
    let errors = validate(&documents);
    assert_eq!(errors.len(), documents.len());
    for (at, errors) in errors.iter().enumerate() {
        if at < fit {
            assert!(errors.is_empty(), "document {at}: {errors:#?}");
        } else {
            assert!(
                !errors.is_empty(),
                "{} changed, and it fits",
                bad[at - fit].0
            );
        }
    }
}

#[test]
fn what_the_guest_tells_of_itself_is_provenance() {
    let report = report(&clean());
    assert_eq!(report.provenance["qemu"], "10.0");
    let guest = &report.provenance["guest"];
    assert_eq!(guest["cmdline"], "console=ttyS0");
    assert_eq!(guest["release"], "6.1");
    assert_eq!(guest["tainted"], "0");
    assert_eq!(guest["modules"]["raid1"], "00ff17");
    assert!(guest.get("mismatch_cnt").is_none());
}

#[test]
fn findings_are_new_gone_or_the_same() {
    let (clean, one, other) = (report(&clean()), report(&wrong(200)), report(&wrong(400)));
    let ids: std::collections::BTreeSet<&str> =
        one.findings.iter().map(|one| one.id.as_str()).collect();
    assert_eq!(ids.len(), one.findings.len(), "identifiers are unique");

    let came = Difference::of(&clean, &one);
    assert_eq!(
        (came.new.len(), came.gone.len(), came.same.len()),
        (one.findings.len(), 0, 0)
    );
    assert_eq!(came.exit_code(), 1);
    let went = Difference::of(&one, &clean);
    assert_eq!((went.new.len(), went.gone.len()), (0, one.findings.len()));
    assert_eq!(went.exit_code(), 0);
    let again = Difference::of(&one, &report(&wrong(200)));
    assert_eq!(
        (again.new.len(), again.gone.len(), again.same.len()),
        (0, 0, one.findings.len())
    );
    assert!(again.same.iter().all(|pair| pair.ids[0] == pair.ids[1]));
    // Another seed, the same bug.
    let moved = Difference::of(&one, &other);
    assert_eq!(
        (moved.new.len(), moved.gone.len(), moved.exit_code()),
        (0, 0, 0)
    );
    assert!(moved.same.iter().all(|pair| pair.ids[0] != pair.ids[1]));
    let text = came.render(Style::Plain);
    assert!(text.starts_with(&format!(
        "{} new, 0 gone, 0 the same; clean before, findings now\n",
        one.findings.len()
    )));
}
