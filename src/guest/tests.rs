//! Whole plans without a guest: the agent on a plain file, with a plain file as the control leg. What the marks say is held against itself
//! and against what is in the file afterwards.

#![allow(
    clippy::wildcard_enum_match_arm,
    reason = "a test looks for the few marks that it is about"
)]

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::control::Control;
use super::disks::Disks;
use super::steps;
use super::sys::SharedNumber;
use crate::block::{SECTOR_BYTES, Sector, SectorRange, to_usize};
use crate::mark::{self, IntentKind, Mark, Phase};
use crate::plan::{
    Buffers, Engine, PLAN_VERSION, Pattern, Plan, Step, StepAction, StepKind, WriteLoad,
};
use crate::stamp::Stamp;

const RUN: u64 = 0x1234;
const TARGET_SECTORS: u64 = 32768;

struct Bench {
    dir: tempfile::TempDir,
    marks: Vec<Mark>,
    ok: bool,
}

impl Bench {
    fn target(dir: &Path) -> PathBuf {
        dir.join("target")
    }

    /// Runs the steps that `make` gives for the target's path.
    fn run(make: impl FnOnce(String) -> Vec<Step>) -> Bench {
        let dir = tempfile::tempdir().unwrap();
        let target = Bench::target(dir.path());
        File::create(&target)
            .unwrap()
            .set_len(TARGET_SECTORS * 512)
            .unwrap();
        let plan = Plan {
            version: PLAN_VERSION,
            run: RUN,
            seed: 5,
            boot: 1,
            legs: Vec::new(),
            crypt_key: None,
            woken: None,
            steps: make(target.to_str().unwrap().to_owned()),
        };
        let control_path = dir.path().join("control");
        let control = File::create(&control_path).unwrap();
        control.set_len(mark::CONTROL_SECTORS * 512).unwrap();
        let area = mark::encode_plan(&serde_json::to_vec(&plan).unwrap()).unwrap();
        control.write_all_at(&area, 0).unwrap();
        let control = Control::open(&control_path, SharedNumber::new().unwrap()).unwrap();
        let ok = steps::run_plan(&control, &mut Disks::default(), None).unwrap();
        let written = control.written.lock().unwrap();
        let marks = written
            .iter()
            .flat_map(|sector| mark::decode(sector).unwrap().1)
            .collect();
        Bench { dir, marks, ok }
    }

    fn facts(&self) -> Vec<(&str, &str)> {
        self.marks
            .iter()
            .filter_map(|mark| match mark {
                Mark::Fact { name, value } => Some((name.as_str(), value.as_str())),
                _ => None,
            })
            .collect()
    }

    fn step_ends(&self) -> Vec<(u32, bool, &str)> {
        self.marks
            .iter()
            .filter_map(|mark| match mark {
                Mark::StepEnd { step, ok, detail } => Some((*step, *ok, detail.as_str())),
                _ => None,
            })
            .collect()
    }

    fn read_backs(&self) -> Vec<(u64, u64)> {
        self.marks
            .iter()
            .filter_map(|mark| match mark {
                Mark::ReadBackEnd { good, bad, .. } => Some((*good, *bad)),
                _ => None,
            })
            .collect()
    }

    /// Each request's begin comes before its one end; what the marks say is on the target is there. Returns (requests, most in flight, requests
    /// that met another one).
    fn check_intents(&self) -> (usize, usize, usize) {
        let mut flying = BTreeMap::new();
        let mut expected: BTreeMap<u64, Option<Stamp>> = BTreeMap::new();
        let (mut count, mut most, mut met) = (0, 0, 0);
        for mark in &self.marks {
            let Mark::Intent(intent) = mark else { continue };
            let range = SectorRange::new(intent.sector, u64::from(intent.count)).unwrap();
            let key = (intent.writer, intent.sequence);
            if intent.phase == Phase::Begin {
                let meets = |other: &SectorRange| other.intersection(range).is_some();
                met += usize::from(flying.values().any(meets));
                assert_eq!(flying.insert(key, range), None, "{intent:?} begins twice");
                (count, most) = (count + 1, most.max(flying.len()));
                continue;
            }
            assert_eq!(intent.phase, Phase::End { errno: 0 }, "{intent:?}");
            assert_eq!(flying.remove(&key), Some(range), "{intent:?} had no begin");
            for sector in range.sectors() {
                let unsure = flying.values().any(|other| other.contains(sector));
                let stamp = Stamp {
                    run: RUN,
                    target: intent.target,
                    sector,
                    writer: intent.writer,
                    sequence: intent.sequence,
                };
                let sure = intent.kind == IntentKind::Write && !unsure;
                expected.insert(sector.0, sure.then_some(stamp));
            }
        }
        assert_eq!(flying.len(), 0, "requests without an end");
        if met == 0 {
            let bytes = std::fs::read(Bench::target(self.dir.path())).unwrap();
            for (sector, stamp) in expected {
                let Some(stamp) = stamp else { continue };
                let at = to_usize(sector) * SECTOR_BYTES;
                let found = Stamp::read(&bytes[at..at + SECTOR_BYTES]);
                assert_eq!(found, Some((stamp, true)), "sector {sector}");
            }
        }
        (count, most, met)
    }
}

fn step(kind: StepKind, action: StepAction) -> Step {
    Step {
        kind,
        name: format!("{kind:?}"),
        action,
        background: false,
    }
}

fn load(device: &str, change: impl FnOnce(&mut WriteLoad)) -> WriteLoad {
    let mut load = super::generator::tests::load(Pattern::Shared, 2, 300);
    load.device = device.to_owned();
    change(&mut load);
    load
}

fn write(load: WriteLoad) -> Step {
    step(StepKind::Workload, StepAction::Write(Box::new(load)))
}

fn read_back(device: &str) -> Step {
    let device = device.to_owned();
    step(StepKind::Check, StepAction::ReadBack { device })
}

fn shell(kind: StepKind, command: &str, timeout_s: u32) -> Step {
    let command = command.to_owned();
    step(kind, StepAction::Shell { command, timeout_s })
}

#[test]
fn every_engine_writes_what_its_marks_say_and_reads_it_back() {
    for engine in [
        Engine::IoUring,
        Engine::IoUringFixed,
        Engine::IoUringNowait,
        Engine::Libaio,
        Engine::Sync,
        Engine::Buffered,
    ] {
        for buffers in [Buffers::Immutable, Buffers::Reuse] {
            let bench = Bench::run(|device| {
                let load = load(&device, |l| {
                    (l.engine, l.buffers, l.depth) = (engine, buffers, 8);
                    (l.fsync_every, l.discard_percent) = (50, 10);
                });
                vec![write(load), read_back(&device)]
            });
            assert!(bench.ok, "{engine:?} {buffers:?}: {:?}", bench.step_ends());
            let (requests, most, met) = bench.check_intents();
            assert!((300..320).contains(&requests), "{requests}");
            assert!(
                most <= 16 && met == 0,
                "{engine:?}: {most} in flight, {met} met"
            );
            let [(good, 0)] = bench.read_backs()[..] else {
                panic!("{engine:?} {buffers:?}: {:?}", bench.read_backs())
            };
            assert!(good > 5000, "{good}");
        }
    }
}

#[test]
fn requests_meet_only_where_the_pattern_wants_it() {
    for (pattern, meets) in [
        (Pattern::Sequential, false),
        (Pattern::Random, false),
        (Pattern::Shared, false),
        (Pattern::OverlapOwn, true),
        (Pattern::Overlap, true),
    ] {
        let bench = Bench::run(|device| {
            let load = load(&device, |l| {
                (l.pattern, l.depth, l.engine) = (pattern, 16, Engine::Libaio);
                l.count = 2000;
            });
            vec![write(load), read_back(&device)]
        });
        let (requests, _, met) = bench.check_intents();
        assert_eq!((requests, met > 0), (300, meets), "{pattern:?}");
        assert!(bench.ok, "{pattern:?}: {:?}", bench.read_backs());
    }
}

#[test]
fn the_same_seed_makes_the_same_requests() {
    let requests = || {
        let bench = Bench::run(|device| vec![write(load(&device, |_| {}))]);
        let mut all: Vec<_> = bench
            .marks
            .iter()
            .filter_map(|mark| match mark {
                Mark::Intent(i) if i.phase == Phase::Begin => {
                    Some((i.writer, i.sequence, i.sector, i.count))
                }
                _ => None,
            })
            .collect();
        all.sort_unstable();
        all
    };
    assert_eq!(requests(), requests());
}

#[test]
fn a_wrong_sector_is_found_and_told() {
    let bench = Bench::run(|device| {
        let load = load(&device, |l| {
            (l.pattern, l.writers, l.writes) = (Pattern::Sequential, 1, 20);
            l.sizes = vec![4096];
        });
        let spoil =
            format!("dd if=/dev/zero of={device} bs=512 seek=17 count=2 conv=notrunc,fsync");
        vec![
            write(load),
            shell(StepKind::Setup, &spoil, 20),
            read_back(&device),
        ]
    });
    assert!(!bench.ok);
    assert_eq!(bench.read_backs(), [(158, 2)]);
    let told: Vec<Sector> = bench
        .marks
        .iter()
        .filter_map(|mark| match mark {
            Mark::BadRead { sector, head, .. } => {
                assert_eq!(head, &"0".repeat(96));
                Some(*sector)
            }
            _ => None,
        })
        .collect();
    assert_eq!(told, [Sector(17), Sector(18)]);
    assert!(bench.marks.contains(&Mark::Finish { ok: false }));
}

#[test]
fn scribbled_writes_are_told_as_unstamped_and_not_read_back() {
    let bench = Bench::run(|device| {
        let load = load(&device, |l| {
            (l.buffers, l.engine) = (Buffers::Scribble, Engine::IoUring);
        });
        vec![write(load), read_back(&device)]
    });
    let unstamped = |mark: &&Mark| matches!(mark, Mark::Intent(i) if i.kind == IntentKind::Unstamped && !i.flags.immutable);
    assert_eq!(bench.marks.iter().filter(unstamped).count(), 600);
    assert_eq!(bench.read_backs(), [(0, 0)]);
}

#[test]
fn used_up_immutable_buffers_are_renewed_at_a_quiet_point_of_all_writers() {
    let bench = Bench::run(|device| {
        let mut one = write(load(&device, |l| {
            (l.sizes, l.writes, l.count) = (vec![1 << 20], 220, 0);
            l.engine = Engine::IoUringFixed;
        }));
        one.background = true;
        vec![
            one,
            step(StepKind::Workload, StepAction::Join),
            read_back(&device),
        ]
    });
    assert!(bench.ok, "{:?}", bench.step_ends());
    let mut flying = 0;
    let mut quiets = 0;
    for mark in &bench.marks {
        match mark {
            Mark::Intent(i) if i.phase == Phase::Begin => flying += 1,
            Mark::Intent(_) => flying -= 1,
            Mark::Quiet { id, pending } => {
                quiets += 1;
                assert_eq!((*id, pending.as_str(), flying), (quiets, "", 0));
            }
            _ => {}
        }
    }
    assert!(quiets >= 2, "{quiets} quiet points");
    assert_eq!(bench.check_intents().2, 0);
}

#[test]
fn shell_steps_tell_how_they_ended_and_a_failed_setup_ends_the_plan() {
    let bench = Bench::run(|_| {
        vec![
            shell(StepKind::Setup, "echo fine; sleep 3 &", 20),
            shell(StepKind::Workload, "echo why it failed >&2; exit 3", 20),
            shell(StepKind::Workload, "sleep 300 & sleep 300", 1),
            step(
                StepKind::Setup,
                StepAction::Fact {
                    name: "host".into(),
                    path: "/proc/sys/kernel/ostype".into(),
                },
            ),
            shell(StepKind::Setup, "kill -9 $$", 20),
            shell(StepKind::Setup, "true", 20),
        ]
    });
    assert_eq!(
        bench.step_ends(),
        [
            (0, true, "exit code 0"),
            (1, false, "exit code 3; its last line: why it failed"),
            (2, false, "not done after 1 s, killed"),
            (3, true, "Linux"),
            (4, false, "killed by signal 9"),
        ]
    );
    assert!(bench.facts().contains(&("host", "Linux")));
    assert_eq!(bench.marks.last(), Some(&Mark::Finish { ok: false }));
}

#[test]
fn background_steps_run_beside_and_are_stopped_when_the_plan_is_given_up() {
    let begun = crate::clock::now();
    let bench = Bench::run(|device| {
        let mut sleeper = shell(StepKind::Workload, "sleep 300", 600);
        sleeper.background = true;
        let mut writer = write(load(&device, |l| l.writes = 1_000_000));
        writer.background = true;
        vec![
            sleeper,
            writer,
            shell(StepKind::Check, "sleep 0.3; false", 20),
            shell(StepKind::Check, "true", 20),
        ]
    });
    assert!(!bench.ok);
    assert!(crate::clock::now().duration_since(begun).as_secs() < 60);
    let ends = bench.step_ends();
    assert_eq!(ends.len(), 3, "{ends:?}");
    assert_eq!(ends[0], (2, false, "exit code 1"));
    assert_eq!(bench.check_intents().2, 0);
}

#[test]
fn what_cannot_be_done_is_said() {
    let bench =
        Bench::run(|device| vec![read_back(&device), write(load("/dev/null/none", |_| {}))]);
    let (_, ok, detail) = bench.step_ends()[0];
    assert!(
        !ok && detail.starts_with("no workload of this plan has written to "),
        "{detail}"
    );
    assert_eq!(bench.step_ends().len(), 1, "a failed check ends the plan");
}
