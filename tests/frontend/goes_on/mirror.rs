//! A guest with a mirror, and the witness that watches it, of which the test is the supervisor.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};

use crate::support::PATIENCE;
use crate::support::raw::{Raw, SIZE};
use legwatch::block::{SECTOR_BYTES, Sector, SectorRange};
use legwatch::config::{LegConfig, MediumConfig, Record};
use legwatch::header::{Expect, StepHead};
use legwatch::mark::{Intent, IntentFlags, IntentKind, MARKS_START, Mark, Phase, encode_mark};
use legwatch::plan::{PLAN_VERSION, Plan, StepKind};
use legwatch::stamp::{SplitMix64, Stamp};
use legwatch::witness::wire::{self, GoOn, Notice, WitnessConfig};
use vhost::vhost_user::VhostUserFrontend;
use vhost::vhost_user::message::VhostUserInflight;

const FEATURES: u64 = 1 << 32 | 1 << 28;
const SLOTS: u16 = SIZE / 3;
pub(super) const SECTORS: u64 = 4096;
const RUN: u64 = 4711;
/// Sectors of a write.
const COUNT: u64 = 4;
const LEGS: usize = 2;
/// The frontends: the legs' and then the control leg's.
pub(super) const CONTROL: usize = LEGS;

/// The witness as the program that `legwatch run` starts, by somebody who keeps what has to outlive it.
pub(super) struct Kept {
    pub(super) dir: tempfile::TempDir,
    pub(super) config: PathBuf,
    pub(super) _files: Vec<File>,
}

pub(super) struct Witness {
    pub(super) child: Child,
    pub(super) stdin: ChildStdin,
    pub(super) notices: Receiver<Notice>,
    pub(super) told: u64,
}

impl Kept {
    pub(super) fn new(memory: bool) -> Kept {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        std::fs::create_dir(&out).unwrap();
        let mut files = Vec::new();
        let mut kept = |name: &str| {
            let file: File = rustix::fs::memfd_create(name, rustix::fs::MemfdFlags::CLOEXEC)
                .unwrap()
                .into();
            let path = format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd());
            files.push(file);
            PathBuf::from(path)
        };
        let mut legs = Vec::new();
        let mut media = Vec::new();
        for name in ["a", "b"] {
            let mut leg = LegConfig::memory(name, SECTORS * 512);
            leg.data = SectorRange::new(Sector(0), SECTORS);
            if memory {
                media.push(Some(kept(name)));
            } else {
                let path = dir.path().join(name);
                File::create(&path).unwrap().set_len(SECTORS * 512).unwrap();
                leg.medium = MediumConfig::File { path };
                // Some requests are in flight whenever it is killed.
                leg.write_delay_ms = 1;
            }
            legs.push(leg);
        }
        let config = WitnessConfig {
            run: RUN,
            seed: 1,
            legs,
            sockets: dir.path().to_owned(),
            out,
            record: Record::Metadata,
            scenario: String::new(),
            crypt_key: None,
            steps: vec![vec![StepHead {
                kind: StepKind::Workload,
                name: "load".into(),
            }]],
            rules: Vec::new(),
            good_legs: 0,
            control: None,
            ahead: Some(kept("ahead")),
            memory: media,
            watch: Vec::new(),
            expect: Expect::default(),
            strict: false,
            no_known: false,
            provenance: serde_json::Value::Null,
            again: String::new(),
        };
        let path = dir.path().join("witness.json");
        std::fs::write(&path, serde_json::to_vec(&config).unwrap()).unwrap();
        Kept {
            config: path,
            dir,
            _files: files,
        }
    }

    pub(super) fn out(&self) -> PathBuf {
        self.dir.path().join("out")
    }

    pub(super) fn socket(&self, at: usize) -> PathBuf {
        self.dir
            .path()
            .join(["a.sock", "b.sock", "control.sock"][at])
    }

    pub(super) fn start(&self, go_on: Option<&GoOn>) -> Witness {
        let mut witness = self.spawn(go_on);
        witness.told = witness.wait("its sockets", |notice| match notice {
            Notice::Ready { told, .. } => Some(told),
            _ => None,
        });
        witness
    }

    /// A witness that may not listen yet.
    pub(super) fn spawn(&self, go_on: Option<&GoOn>) -> Witness {
        let mut child = Command::new(env!("CARGO_BIN_EXE_legwatch"))
            .arg("witness")
            .arg(&self.config)
            .args(go_on.map(|_| "--go-on"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        if let Some(go_on) = go_on {
            writeln!(stdin, "{}", serde_json::to_string(go_on).unwrap()).unwrap();
        }
        let stdout = child.stdout.take().unwrap();
        let (sender, notices) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(serde_json::from_str(&line).unwrap()).is_err() {
                    return;
                }
            }
        });
        Witness {
            child,
            stdin,
            notices,
            told: 0,
        }
    }
}

impl Witness {
    pub(super) fn tell(&mut self, command: &wire::Command) {
        writeln!(self.stdin, "{}", serde_json::to_string(command).unwrap()).unwrap();
    }

    pub(super) fn wait<T>(&mut self, what: &str, wanted: impl Fn(Notice) -> Option<T>) -> T {
        loop {
            let notice = self
                .notices
                .recv_timeout(PATIENCE)
                .unwrap_or_else(|error| panic!("awaited {what}: {error}"));
            assert!(!matches!(notice, Notice::Failed { .. }), "{notice:?}");
            if let Some(found) = wanted(notice) {
                return found;
            }
        }
    }

    /// SIGKILL. The news that were told before.
    pub(super) fn kill(mut self) -> u64 {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.notices
            .iter()
            .filter(|notice| notice.is_news())
            .count() as u64
    }
}

/// What a slot of the mirror does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Doing {
    Nothing,
    Begin(Intent),
    /// On its way to the legs; those that have it.
    Write(Intent, [bool; LEGS]),
    End,
}

/// A guest with a mirror: it announces every write, makes it on both legs, and says that it is done.
pub(super) struct Mirror {
    pub(super) raws: Vec<Raw>,
    pub(super) regions: Vec<(VhostUserInflight, File)>,
    pub(super) submitted: Vec<u16>,
    pub(super) seen: Vec<u16>,
    pub(super) slots: Vec<Doing>,
    pub(super) batch: u32,
    pub(super) sequence: u64,
    /// Writes that leg b does not get from now on.
    pub(super) lose: bool,
    pub(super) dice: SplitMix64,
    pub(super) holds: std::collections::BTreeMap<u64, u64>,
    /// Requests that were open when the witness was killed.
    pub(super) met: usize,
}

pub(super) fn plan() -> Plan {
    Plan {
        version: PLAN_VERSION,
        run: RUN,
        seed: 1,
        boot: 1,
        legs: vec!["a".into(), "b".into()],
        crypt_key: None,
        woken: None,
        steps: Vec::new(),
    }
}

impl Mirror {
    pub(super) fn connect(kept: &Kept) -> Mirror {
        let mut mirror = Mirror {
            raws: Vec::new(),
            regions: Vec::new(),
            submitted: vec![0; LEGS + 1],
            seen: vec![0; LEGS + 1],
            slots: vec![Doing::Nothing; usize::from(SLOTS)],
            batch: 0,
            sequence: 0,
            lose: false,
            dice: SplitMix64(3),
            holds: std::collections::BTreeMap::new(),
            met: 0,
        };
        for at in 0..=CONTROL {
            let mut raw = Raw::attach(&kept.socket(at), 1, FEATURES);
            let wanted = VhostUserInflight {
                num_queues: 1,
                queue_size: SIZE,
                ..VhostUserInflight::default()
            };
            let region = raw.vhost.get_inflight_fd(&wanted).unwrap();
            raw.vhost
                .set_inflight_fd(&region.0, region.1.as_raw_fd())
                .unwrap();
            raw.start(0, 0);
            mirror.raws.push(raw);
            mirror.regions.push(region);
        }
        mirror
    }

    pub(super) fn again(&mut self, kept: &Kept) {
        for at in 0..=CONTROL {
            self.one_again(kept, at);
        }
    }

    pub(super) fn one_again(&mut self, kept: &Kept, at: usize) {
        let raw = &mut self.raws[at];
        raw.again(&kept.socket(at));
        let region = &self.regions[at];
        raw.vhost
            .set_inflight_fd(&region.0, region.1.as_raw_fd())
            .unwrap();
        let used = raw.used(0);
        raw.resume(0, used);
        raw.kick(0);
    }

    pub(super) fn put(&mut self, at: usize, slot: u16, sector: u64, bytes: &[u8]) {
        self.raws[at].write(0, slot, sector, bytes);
        self.raws[at].kick(0);
        self.submitted[at] = self.submitted[at].wrapping_add(1);
    }

    pub(super) fn mark(&mut self, slot: u16, mark: &Mark) {
        self.batch += 1;
        let batch = encode_mark(self.batch, mark);
        self.put(CONTROL, slot, MARKS_START, &batch);
    }

    /// A mark while nothing else goes on, to its answer.
    pub(super) fn say(&mut self, mark: &Mark) {
        assert!(self.is_idle());
        self.mark(0, mark);
        self.raws[CONTROL].await_used(0, self.submitted[CONTROL], "a mark's answer");
        self.seen[CONTROL] = self.submitted[CONTROL];
    }

    pub(super) fn is_idle(&self) -> bool {
        self.slots.iter().all(|slot| *slot == Doing::Nothing)
    }

    /// Takes every answer that there is, and goes on with the slots they are for.
    pub(super) fn take(&mut self) {
        for at in 0..=CONTROL {
            while self.seen[at] != self.raws[at].used(0) {
                let head = self.raws[at].used_head(0, self.seen[at]);
                self.seen[at] = self.seen[at].wrapping_add(1);
                let slot = usize::from(head / 3);
                let data = crate::support::raw::BUFFERS + slot * 0x2000 + 0x1fff;
                assert_eq!(self.raws[at].status(data), 0, "frontend {at}, slot {slot}");
                self.answered(at, slot);
            }
        }
    }

    pub(super) fn answered(&mut self, at: usize, slot: usize) {
        let number = slot as u16;
        match (self.slots[slot], at) {
            (Doing::Begin(intent), CONTROL) => {
                let mut bytes = vec![0; intent.count as usize * SECTOR_BYTES];
                for (sector, to) in (intent.sector.0..).zip(bytes.chunks_exact_mut(SECTOR_BYTES)) {
                    stamp(sector, intent.sequence).write(to);
                }
                let lost = self.lose;
                self.lose = false;
                self.slots[slot] = Doing::Write(intent, [false, lost]);
                self.put(0, number, intent.sector.0, &bytes);
                if !lost {
                    self.put(1, number, intent.sector.0, &bytes);
                }
            }
            (Doing::Write(intent, mut done), leg) if leg < LEGS => {
                assert!(!std::mem::replace(&mut done[leg], true), "came back once");
                self.slots[slot] = Doing::Write(intent, done);
                if done == [true; LEGS] {
                    for sector in intent.sector.0..intent.sector.0 + COUNT {
                        self.holds.insert(sector, intent.sequence);
                    }
                    let end = Intent {
                        phase: Phase::End { errno: 0 },
                        ..intent
                    };
                    self.slots[slot] = Doing::End;
                    self.mark(number, &Mark::Intent(end));
                }
            }
            (Doing::End, CONTROL) => self.slots[slot] = Doing::Nothing,
            (doing, _) => panic!("an answer of {at} to a slot that is {doing:?}"),
        }
    }

    /// Begins a write on every slot that is free.
    pub(super) fn begin(&mut self) {
        for slot in 0..SLOTS {
            if self.slots[usize::from(slot)] != Doing::Nothing {
                continue;
            }
            self.sequence += 1;
            // A place for each slot and some to choose from: no two are in flight for one.
            let place = u64::from(slot) * 64 + self.dice.below(16);
            let intent = Intent {
                phase: Phase::Begin,
                kind: IntentKind::Write,
                target: 1,
                writer: 1,
                sequence: self.sequence,
                sector: Sector(place * COUNT),
                count: COUNT as u32,
                slot,
                flags: IntentFlags::default(),
            };
            self.slots[usize::from(slot)] = Doing::Begin(intent);
            self.mark(slot, &Mark::Intent(intent));
        }
    }

    pub(super) fn settle(&mut self) {
        let begun = legwatch::clock::now();
        while !self.is_idle() {
            assert!(begun.elapsed() < PATIENCE, "{:?}", self.slots);
            self.take();
            std::thread::yield_now();
        }
    }

    /// The load, until `until` writes have begun since.
    pub(super) fn load(&mut self, until: u64) {
        let until = self.sequence + until;
        let begun = legwatch::clock::now();
        while self.sequence < until {
            assert!(begun.elapsed() < PATIENCE, "{:?}", self.slots);
            self.begin();
            self.take();
            std::thread::yield_now();
        }
    }

    /// Reads everything back from both legs.
    pub(super) fn verify(&mut self) {
        let holds = self.holds.clone();
        for leg in 0..LEGS {
            for (sector, sequence) in &holds {
                let (data, _) = self.raws[leg].request(0, 0, 0, *sector, 512);
                self.raws[leg].kick(0);
                self.submitted[leg] = self.submitted[leg].wrapping_add(1);
                self.raws[leg].await_used(0, self.submitted[leg], "a read");
                self.seen[leg] = self.submitted[leg];
                let bytes = &self.raws[leg].memory.bytes()[data..data + SECTOR_BYTES];
                assert!(
                    bytes == stamp(*sector, *sequence).to_sector(),
                    "leg {leg}, sector {sector}"
                );
            }
        }
    }
}

pub(super) fn stamp(sector: u64, sequence: u64) -> Stamp {
    Stamp {
        run: RUN,
        target: 1,
        sector: Sector(sector),
        writer: 1,
        sequence,
    }
}
