//! Mixed load for as long as one likes (`LEGWATCH_SOAK_MINUTES`, `ci/soak`; a few seconds without): foreign frontends that come, go in the middle of their work,
//! reset the device, and change features and queue counts, on a witness that is a process of its own. Data are right, no request is stuck, and
//! nothing leaks: memory, descriptors, threads.

#![allow(
    clippy::cast_possible_truncation,
    reason = "numbers of tests are small"
)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::support::raw::Raw;
use crate::support::{ALL, Client, PACKED, PATIENCE, pattern};
use legwatch::stamp::SplitMix64;
use vhost::vhost_user::VhostUserFrontend;

/// Slots of a client; each has a part of the disk and of the client's memory for itself.
const SLOTS: u64 = 32;
const SLOT_SECTORS: u64 = 1024;
const SLOT_BUFFER: u64 = 64 << 10;
/// How much a slot moves at most, in sectors.
const MOST_SECTORS: u64 = SLOT_BUFFER / 512;
/// What the witness's memory may grow by once every sector was written several times.
const GROWTH_KIB: u64 = 64 << 10;

/// The witness as a program.
struct Witness {
    child: Child,
    dir: PathBuf,
}

impl Witness {
    fn start(dir: &Path) -> Witness {
        let image = dir.join("b.img");
        std::fs::File::create(&image)
            .unwrap()
            .set_len(16 << 20)
            .unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_legwatch"))
            .args(["serve", "--leg", "a=mem:16M,queues=4", "--leg", "c=mem:16M"])
            .arg("--leg")
            .arg(format!("b=file:{},queues=4", image.display()))
            .args(["--record", "none", "--sockets"])
            .arg(dir.join("s"))
            .arg("--out")
            .arg(dir.join("out"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let witness = Witness {
            child,
            dir: dir.to_owned(),
        };
        let begun = legwatch::clock::now();
        while !["a", "b", "c"]
            .iter()
            .all(|leg| witness.socket(leg).exists())
        {
            assert!(begun.elapsed() < PATIENCE, "awaited the sockets");
            std::thread::sleep(Duration::from_millis(5));
        }
        witness
    }

    fn socket(&self, leg: &str) -> PathBuf {
        self.dir.join(format!("s/{leg}.sock"))
    }

    /// Anonymous memory in KiB, threads, descriptors.
    fn weight(&self) -> (u64, u64, usize) {
        let proc = PathBuf::from(format!("/proc/{}", self.child.id()));
        let status = std::fs::read_to_string(proc.join("status")).unwrap();
        let get = |name: &str| -> u64 {
            let line = status.lines().find(|line| line.starts_with(name)).unwrap();
            line.split_whitespace().nth(1).unwrap().parse().unwrap()
        };
        let fds = std::fs::read_dir(proc.join("fd")).unwrap().count();
        (get("RssAnon:"), get("Threads:"), fds)
    }

    /// What it weighs when it has nothing to do: threads and descriptors stay as they are for a while.
    fn at_rest(&self) -> (u64, u64, usize) {
        let begun = legwatch::clock::now();
        let (mut last, mut same) = (self.weight(), 0);
        while same < 10 {
            assert!(begun.elapsed() < PATIENCE, "awaited rest");
            std::thread::sleep(Duration::from_millis(30));
            let now = self.weight();
            same = if (now.1, now.2) == (last.1, last.2) {
                same + 1
            } else {
                0
            };
            last = now;
        }
        last
    }

    /// SIGTERM, and its exit code.
    fn end(mut self) -> i32 {
        let pid = libc::pid_t::try_from(self.child.id()).unwrap();
        // SAFETY: a signal to our own child, which was not waited for.
        unsafe { libc::kill(pid, libc::SIGTERM) };
        let begun = legwatch::clock::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code().expect("it ended by itself");
            }
            assert!(begun.elapsed() < PATIENCE * 5, "awaited the verdict");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        // It may be gone already.
        let _gone = self.child.kill();
        let _was_waited_for = self.child.wait();
    }
}

/// What a sector holds: the seed of its content, 0 for zeros.
fn content(seed: u64, sector: u64) -> Vec<u8> {
    match seed {
        0 => vec![0; 512],
        seed => pattern(seed ^ sector << 32, 512),
    }
}

/// What a slot does.
#[derive(Clone, Debug)]
enum Doing {
    Nothing,
    Read(u64, u64),
    /// Becomes this seed.
    Change(u64, u64, u64),
    Flush,
}

/// A disk as it should be.
struct Model {
    seeds: Vec<u64>,
    /// Sectors that may have become this: their change was in flight when the frontend went.
    maybe: BTreeMap<u64, u64>,
    next: u64,
    done: u64,
}

impl Model {
    fn check(&mut self, start: u64, bytes: &[u8]) {
        for (sector, got) in (start..).zip(bytes.chunks(512)) {
            let seed = &mut self.seeds[sector as usize];
            if let Some(other) = self.maybe.remove(&sector)
                && content(other, sector) == got
            {
                *seed = other;
            }
            assert!(
                content(*seed, sector) == got,
                "sector {sector} is not what was written ({seed})"
            );
        }
    }
}

/// One connection of a foreign client, to its end.
fn session(socket: &Path, model: &mut Model, dice: &mut SplitMix64) {
    let queues = 1 + dice.below(4) as usize;
    let off = [0, 1 << 28, 1 << 29, 1 << 28 | 1 << 29][dice.below(4) as usize];
    let layout = if dice.below(2) == 0 { ALL } else { PACKED };
    let mut client = Client::attach(socket, queues, layout & !off);
    let mut doing = vec![Doing::Nothing; SLOTS as usize];
    let depth = 1 + dice.below(SLOTS);
    let rounds = 20 + dice.below(100);
    for round in 0..rounds {
        for slot in 0..depth {
            if !matches!(doing[slot as usize], Doing::Nothing) {
                continue;
            }
            let most = [8, MOST_SECTORS][dice.below(2) as usize];
            let count = 1 + dice.below(most);
            let start = slot * SLOT_SECTORS + dice.below(SLOT_SECTORS - count);
            let at = client.memory.addr() + (slot * SLOT_BUFFER) as usize;
            let (offset, len) = (start * 512, (count * 512) as usize);
            let queue = &mut client.queues[slot as usize % queues];
            doing[slot as usize] = match dice.below(20) {
                0..=9 => {
                    model.next += 1;
                    let seed = model.next;
                    let bytes: Vec<u8> = (start..start + count)
                        .flat_map(|sector| content(seed, sector))
                        .collect();
                    let from = (slot * SLOT_BUFFER) as usize;
                    client.memory.bytes()[from..from + len].copy_from_slice(&bytes);
                    // SAFETY: the slot's own part of the client's memory, left alone until the request ends.
                    unsafe { queue.write_raw(offset, at as *const u8, len, slot) }.unwrap();
                    Doing::Change(start, count, seed)
                }
                10..=16 => {
                    // SAFETY: as above.
                    unsafe { queue.read_raw(offset, at as *mut u8, len, slot) }.unwrap();
                    Doing::Read(start, count)
                }
                17 => {
                    queue.discard(offset, len as u64, slot).unwrap();
                    Doing::Change(start, count, 0)
                }
                18 => {
                    queue
                        .write_zeroes(offset, len as u64, count.is_multiple_of(2), slot)
                        .unwrap();
                    Doing::Change(start, count, 0)
                }
                _ => {
                    queue.flush(slot).unwrap();
                    Doing::Flush
                }
            };
        }
        (0..queues).for_each(|queue| client.kick(queue));
        if round + 1 == rounds && dice.below(2) == 0 {
            // Gone in the middle of it.
            break;
        }
        // At least one of each queue that has some; all, in the last round.
        for queue in 0..queues {
            let open = (0..SLOTS as usize)
                .filter(|slot| slot % queues == queue && !matches!(doing[*slot], Doing::Nothing))
                .count();
            let least = if round + 1 == rounds {
                open
            } else {
                open.min(1)
            };
            for (slot, result) in client.collect(queue, least, "completions") {
                let what = std::mem::replace(&mut doing[slot as usize], Doing::Nothing);
                assert_eq!(result, 0, "{what:?}");
                model.done += 1;
                match what {
                    Doing::Read(start, count) => {
                        let from = (slot * SLOT_BUFFER) as usize;
                        let bytes =
                            client.memory.bytes()[from..from + (count * 512) as usize].to_vec();
                        model.check(start, &bytes);
                    }
                    Doing::Change(start, count, seed) => {
                        for sector in start..start + count {
                            model.seeds[sector as usize] = seed;
                            model.maybe.remove(&sector);
                        }
                    }
                    Doing::Flush => {}
                    Doing::Nothing => panic!("slot {slot} came back twice"),
                }
            }
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    drop(client);
    // What was in flight happened or not, sector by sector; a look now tells, as the next frontend is served after the last one's end.
    for what in doing {
        if let Doing::Change(start, count, seed) = what {
            model
                .maybe
                .extend((start..start + count).map(|sector| (sector, seed)));
        }
    }
    if !model.maybe.is_empty() {
        let mut client = Client::attach(socket, 1, ALL);
        for sector in model.maybe.keys().copied().collect::<Vec<_>>() {
            let bytes = client.read(sector * 512, 512).unwrap();
            model.check(sector, &bytes);
        }
    }
}

/// Hand-made rings with a reset in the middle of the work.
fn resets(socket: &Path, dice: &mut SplitMix64) {
    let mut raw = Raw::attach(socket, 1, 1 << 32 | 1 << 28);
    raw.start(0, 0);
    let sector = dice.below(1024) * 8;
    let bytes = pattern(dice.next_u64(), 4096);
    raw.write(0, 0, sector, &bytes);
    raw.kick(0);
    raw.await_used(0, 1, "a write");
    for slot in 1..4 {
        raw.request(0, slot, 0, sector, 4096);
    }
    raw.kick(0);
    raw.vhost.reset_device().unwrap();
    drop(raw);
    let mut client = Client::attach(socket, 1, ALL);
    assert!(
        client.read(sector * 512, 4096).unwrap() == bytes,
        "after a reset"
    );
}

#[test]
fn mixed_load_leaves_nothing_behind() {
    let minutes: f64 = std::env::var("LEGWATCH_SOAK_MINUTES")
        .ok()
        .map_or(0.05, |text| text.parse().expect("a number of minutes"));
    let length = Duration::from_secs_f64(minutes * 60.0);
    let dir = tempfile::tempdir().unwrap();
    let witness = Witness::start(dir.path());
    let begun: Instant = legwatch::clock::now();
    let over = AtomicBool::new(false);
    let (mut weights, mut sessions) = (Vec::new(), 0u64);
    for leg in ["a", "b", "c"] {
        let mut client = Client::attach(&witness.socket(leg), 1, ALL);
        client.read(0, 512).unwrap();
    }
    let before = witness.at_rest();
    let done: u64 = std::thread::scope(|scope| {
        let (over, witness) = (&over, &witness);
        let disks: Vec<_> = (0u64..)
            .zip(["a", "b"])
            .map(|(seed, leg)| {
                scope.spawn(move || {
                    let mut dice = SplitMix64(seed);
                    let mut model = Model {
                        seeds: vec![0; (SLOTS * SLOT_SECTORS) as usize],
                        maybe: BTreeMap::new(),
                        next: seed << 40,
                        done: 0,
                    };
                    let mut sessions = 0u64;
                    while !over.load(Ordering::Relaxed) || sessions == 0 {
                        session(&witness.socket(leg), &mut model, &mut dice);
                        sessions += 1;
                    }
                    // All of it, once more.
                    let mut client = Client::attach(&witness.socket(leg), 1, ALL);
                    for start in (0..SLOTS * SLOT_SECTORS).step_by(1024) {
                        let bytes = client.read(start * 512, 512 << 10).unwrap();
                        model.check(start, &bytes);
                    }
                    (sessions, model.done)
                })
            })
            .collect();
        let reset = scope.spawn(move || {
            let mut dice = SplitMix64(99);
            let mut sessions = 0u64;
            while !over.load(Ordering::Relaxed) || sessions == 0 {
                resets(&witness.socket("c"), &mut dice);
                sessions += 1;
                std::thread::sleep(Duration::from_millis(20));
            }
            (sessions, 0)
        });
        while begun.elapsed() < length && disks.iter().chain([&reset]).all(|t| !t.is_finished()) {
            std::thread::sleep(Duration::from_millis(250).min(length));
            weights.push(witness.weight());
        }
        over.store(true, Ordering::Relaxed);
        let ends = disks
            .into_iter()
            .chain([reset])
            .map(|thread| thread.join().unwrap());
        ends.map(|(of, done)| {
            sessions += of;
            done
        })
        .sum()
    });
    let after = witness.at_rest();
    assert_eq!(
        (after.1, after.2),
        (before.1, before.2),
        "threads, descriptors"
    );
    let settled = weights
        .iter()
        .take(weights.len().div_ceil(3))
        .map(|weight| weight.0)
        .max()
        .unwrap_or(before.0);
    println!(
        "soak: {:.1} minutes, {sessions} sessions, {done} requests of two disks; KiB, threads, descriptors: {before:?} before, {settled} KiB after a third, {after:?} after",
        begun.elapsed().as_secs_f64() / 60.0
    );
    if minutes >= 2.0 {
        assert!(
            after.0 <= settled + GROWTH_KIB,
            "{settled} KiB after a third, {} KiB at the end",
            after.0
        );
    }
    assert!(done > 0);
    // No array, no agent: nothing that could be called clean, and nothing wrong.
    assert_eq!(witness.end(), 125);
    let out = dir.path().join("out");
    let again = Command::new(env!("CARGO_BIN_EXE_legwatch"))
        .arg("check")
        .arg(&out)
        .output()
        .unwrap();
    assert_eq!(again.status.code(), Some(125));
    let report = std::fs::read_to_string(out.join("report.txt")).unwrap();
    assert_eq!(
        String::from_utf8_lossy(&again.stdout),
        report,
        "live and from the journal"
    );
}
