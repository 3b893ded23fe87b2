//! The control leg through a foreign driver: the plan, marks, quiet points. And starts that can not be.
#![allow(
    clippy::cast_possible_truncation,
    clippy::wildcard_enum_match_arm,
    reason = "numbers of tests are small, and tests look for the events they are about"
)]

use std::time::Duration;

use crate::support::{ALL, Bench, Client};
use legwatch::block::{LegId, RequestId};
use legwatch::config::{LegConfig, MediumConfig};
use legwatch::device::{Device, Options, Threads};
use legwatch::event::What;
use legwatch::mark::{self, Mark};

const EIO: i32 = -5;

fn mib(name: &str) -> LegConfig {
    LegConfig::memory(name, 16 << 20)
}

#[test]
fn marks_travel_over_the_control_leg() {
    let mut leg = mib("a");
    leg.delay_ms = 100;
    let bench = Bench::start(&[leg]);
    assert!(bench.device().set_plan(b"{\"steps\":[]}"));
    let mut control = Client::connect(&bench, "control", 1, ALL);
    let area = control.read(0, 8192).unwrap();
    assert_eq!(mark::decode_plan(&area), Ok(&b"{\"steps\":[]}"[..]));
    let marks_at = mark::MARKS_START * 512;
    assert_eq!(control.read(marks_at, 512).unwrap(), [0; 512]);

    let step = |step| Mark::StepBegin { step };
    let mut two = mark::encode_mark(1, &step(1)).to_vec();
    two.extend(mark::encode_mark(2, &step(2)));
    assert_eq!(control.write(marks_at, &two), 0);
    assert_eq!(control.write(marks_at + 4096, &two), 0, "a retry");
    assert_eq!(control.write(marks_at, &[3; 512]), EIO, "no batch");
    assert_eq!(control.write(0, &two), EIO, "the plan");

    // A quiet point waits for the leg's request.
    let mut client = Client::connect(&bench, "a", 1, ALL);
    client.queues[0].flush(1).unwrap();
    client.kick(0);
    bench
        .events
        .wait("the arrival", |what| matches!(what, What::Arrived(_)));
    let quiet = Mark::Quiet {
        id: 5,
        pending: String::new(),
    };
    assert_eq!(control.write(marks_at, &mark::encode_mark(3, &quiet)), 0);
    assert_eq!(client.collect(0, 1, "the flush"), [(1, 0)]);
    bench.device().new_boot(2);
    assert_eq!(control.write(marks_at, &two), 0, "another boot's");
    drop((client, control));

    let events = bench.stop();
    let told: Vec<String> = events
        .iter()
        .filter_map(|event| match &event.what {
            What::Mark(Mark::StepBegin { step }) => Some(format!("step {step}")),
            What::Mark(Mark::Quiet { id, .. }) => Some(format!("mark {id}")),
            What::Quiet { id, pending } => Some(format!("quiet {id} {pending:?}")),
            What::Completed(_) => Some("completed".into()),
            _ => None,
        })
        .collect();
    assert_eq!(
        told,
        [
            "step 1",
            "step 2",
            "mark 5",
            "completed",
            "quiet 5 []",
            "step 1",
            "step 2"
        ]
    );
}

#[test]
fn a_quiet_point_is_given_up_at_its_limit() {
    let mut leg = mib("a");
    leg.delay_ms = 3_600_000;
    let options = Options {
        quiet_limit: Duration::from_millis(50),
        threads: Threads::PerLeg,
        ..Options::default()
    };
    let bench = Bench::with(&[mib("b"), leg], &options);
    let mut client = Client::connect(&bench, "a", 1, ALL);
    client.queues[0].flush(1).unwrap();
    client.kick(0);
    bench
        .events
        .wait("the arrival", |what| matches!(what, What::Arrived(_)));
    let mut control = Client::connect(&bench, "control", 1, ALL);
    let quiet = Mark::Quiet {
        id: 1,
        pending: String::new(),
    };
    let batch = mark::encode_mark(1, &quiet);
    assert_eq!(control.write(mark::MARKS_START * 512, &batch), 0);
    let event = bench
        .events
        .wait("the quiet point", |what| matches!(what, What::Quiet { .. }));
    let What::Quiet { pending, .. } = event.what else {
        unreachable!()
    };
    assert_eq!(
        pending,
        [RequestId {
            leg: LegId(1),
            number: 1
        }]
    );
    drop((client, control));
    bench.stop();
}

#[test]
fn a_start_that_can_not_be_is_refused_in_a_sentence_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (sequence, _collector) = legwatch::sequence::Sequence::new(legwatch::event::EventNo(0));
    let start = |legs: &[LegConfig]| {
        let error = Device::start(legs, dir.path(), &Options::default(), &sequence).unwrap_err();
        let source = std::error::Error::source(&error).map(ToString::to_string);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        format!("{error}: {}", source.unwrap_or_default())
    };
    assert!(start(&[]).starts_with("0 legs"));
    assert!(start(&[mib("a"), mib("a")]).contains("called `a`"));
    assert!(start(&[LegConfig::memory("a", 0)]).contains("size 0"));
    let mut missing = mib("a");
    missing.medium = MediumConfig::File {
        path: "/nowhere/image".into(),
    };
    assert!(start(&[missing]).contains("opening /nowhere/image"));
    let _taken = std::os::unix::net::UnixListener::bind(dir.path().join("b.sock")).unwrap();
    let error = Device::start(
        &[mib("a"), mib("b")],
        dir.path(),
        &Options::default(),
        &sequence,
    );
    assert!(error.unwrap_err().to_string().contains("is taken"));
    assert!(!dir.path().join("a.sock").exists());
}
