//! The frontend keeps what is in flight: nothing acknowledged is lost, nothing that was shown is done again, whether a connection ends or the
//! whole witness is killed.
#![allow(
    clippy::cast_possible_truncation,
    clippy::wildcard_enum_match_arm,
    reason = "numbers of tests are small, and tests look for the events they are about"
)]

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::support::raw::{Raw, SIZE};
use crate::support::{Bench, PATIENCE, pattern};
use legwatch::config::LegConfig;
use legwatch::event::What;
use legwatch::stamp::SplitMix64;
use vhost::VhostBackend;
use vhost::vhost_user::VhostUserFrontend;
use vhost::vhost_user::message::VhostUserInflight;

const FEATURES: u64 = 1 << 32 | 1 << 28;
/// Requests of three descriptors that fit the ring.
const SLOTS: u16 = SIZE / 3;

/// Asks for a region.
fn region(raw: &mut Raw, queues: u16) -> (VhostUserInflight, File) {
    let wanted = VhostUserInflight {
        num_queues: queues,
        queue_size: SIZE,
        ..VhostUserInflight::default()
    };
    let (made, file) = raw.vhost.get_inflight_fd(&wanted).unwrap();
    assert!({ made.mmap_size } >= u64::from(queues) * u64::from(SIZE) * 16);
    (made, file)
}

fn hand_over(raw: &mut Raw, region: &(VhostUserInflight, File)) {
    raw.vhost
        .set_inflight_fd(&region.0, region.1.as_raw_fd())
        .unwrap();
}

#[test]
fn a_connection_that_ends_leaves_its_requests_to_the_next() {
    for with_region in [true, false] {
        // Writes are late, reads are not: completions out of order.
        let mut leg = LegConfig::memory("a", 16 << 20);
        leg.write_delay_ms = 60_000;
        let bench = Bench::start(&[leg]);
        let mut raw = Raw::connect(&bench, "a", 2, FEATURES);
        let kept = region(&mut raw, 2);
        if with_region {
            hand_over(&mut raw, &kept);
        }
        raw.start(1, 0);
        raw.request(1, 0, 1, 0, 512);
        raw.request(1, 1, 0, 8, 512);
        raw.request(1, 2, 1, 16, 512);
        raw.request(1, 3, 0, 24, 512);
        raw.kick(1);
        raw.await_used(1, 2, "both reads");
        bench
            .events
            .wait_count("four arrivals", 4, |e| matches!(e, What::Arrived(_)));
        raw.again(&bench.socket("a"));
        bench
            .events
            .wait_count("two abandoned", 2, |e| matches!(e, What::Abandoned(_)));
        if with_region {
            hand_over(&mut raw, &kept);
        }
        // What a frontend takes for the next one, when nobody told it: the used index.
        raw.resume(1, 2);
        raw.kick(1);
        let arrived = bench
            .events
            .wait_count("again", 6, |e| matches!(e, What::Arrived(_)));
        let ranges: Vec<u64> = arrived[4..6]
            .iter()
            .map(|event| match &event.what {
                What::Arrived(arrived) => arrived.ranges[0].start().0,
                _ => unreachable!(),
            })
            .collect();
        // Without the region the two last of the ring are taken for those that are open.
        assert_eq!(ranges, if with_region { [0, 16] } else { [16, 24] });
        // GET_VRING_BASE answers what is held; then nothing is in flight, and the ring's own index is right.
        assert_eq!(raw.vhost.get_vring_base(1).unwrap(), 4);
        assert_eq!(raw.used(1), 4);
        if with_region {
            hand_over(&mut raw, &kept);
            raw.start(1, 4);
            raw.request(1, 1, 0, 8, 512);
            raw.kick(1);
            raw.await_used(1, 5, "a new read");
        }
        bench.stop();
    }
}

#[test]
fn a_region_that_makes_no_sense_is_refused() {
    let bench = Bench::start(&[LegConfig::memory("a", 16 << 20)]);
    let mut raw = Raw::connect(&bench, "a", 1, FEATURES);
    let mut wrong = region(&mut raw, 1);
    wrong.0.mmap_size += 4096;
    raw.vhost
        .set_inflight_fd(&wrong.0, wrong.1.as_raw_fd())
        .unwrap_err();
    // It was told, and the connection goes on.
    let many = VhostUserInflight {
        num_queues: 100,
        queue_size: SIZE,
        ..VhostUserInflight::default()
    };
    assert!(raw.vhost.get_inflight_fd(&many).is_err());
    bench.stop();
}

/// The witness as a program, killed when it is dropped.
struct Witness(Child);

impl Witness {
    fn start(dir: &Path, round: u32) -> Witness {
        let leg = format!(
            "a=file:{},delay_ms=1,late_fetch=true",
            dir.join("image").display()
        );
        let child = Command::new(env!("CARGO_BIN_EXE_legwatch"))
            .args(["serve", "--leg", &leg, "--sockets"])
            .arg(dir)
            .arg("--out")
            .arg(dir.join(format!("out{round}")))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let begun = legwatch::clock::now();
        while UnixStream::connect(dir.join("a.sock")).is_err() {
            assert!(begun.elapsed() < PATIENCE, "awaited the socket");
            std::thread::sleep(Duration::from_millis(2));
        }
        Witness(child)
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        // SIGKILL; it may be gone already.
        let _gone = self.0.kill();
        self.0.wait().unwrap();
    }
}

#[test]
fn kill_minus_nine_under_load_loses_and_repeats_nothing() {
    const ROUNDS: u32 = 50;
    const BYTES: usize = 4096;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    let image = File::create(&path).unwrap();
    image.set_len(8 << 20).unwrap();
    let image = File::open(&path).unwrap();
    let socket = dir.path().join("a.sock");
    let mut witness = Witness::start(dir.path(), 0);
    let mut raw = Raw::attach(&socket, 1, FEATURES);
    let kept = region(&mut raw, 1);
    hand_over(&mut raw, &kept);
    raw.start(0, 0);
    let mut dice = SplitMix64(9);
    // By slot: what it writes, until it is acknowledged; by place: what is there.
    let mut open: Vec<Option<(u64, u64)>> = vec![None; usize::from(SLOTS)];
    let mut holds = std::collections::BTreeMap::new();
    let (mut submitted, mut seen, mut seed) = (0u16, 0u16, 0u64);
    let mut found_open = 0;
    for round in 1..=ROUNDS {
        let until = 20 + dice.below(200);
        for _ in 0..until {
            for slot in 0..SLOTS {
                if open[usize::from(slot)].is_none() {
                    seed += 1;
                    // A place for each slot and some to choose from: no two are in flight for one.
                    let place = (u64::from(slot) * 16 + dice.below(16)) * BYTES as u64;
                    raw.write(0, slot, place / 512, &pattern(seed, BYTES));
                    open[usize::from(slot)] = Some((place, seed));
                    submitted = submitted.wrapping_add(1);
                }
            }
            raw.kick(0);
            take(&mut raw, &mut seen, &mut open, &mut holds);
            std::thread::sleep(Duration::from_micros(dice.below(300)));
        }
        drop(witness);
        take(&mut raw, &mut seen, &mut open, &mut holds);
        found_open += open.iter().flatten().count();
        witness = Witness::start(dir.path(), round);
        raw.again(&socket);
        hand_over(&mut raw, &kept);
        let used = raw.used(0);
        raw.resume(0, used);
        raw.kick(0);
        let begun = legwatch::clock::now();
        while seen != submitted {
            assert!(begun.elapsed() < PATIENCE, "round {round}: {open:?}");
            take(&mut raw, &mut seen, &mut open, &mut holds);
            std::thread::yield_now();
        }
        assert!(open.iter().all(Option::is_none), "each came back once");
        for (place, seed) in &holds {
            let mut bytes = vec![0; BYTES];
            image.read_exact_at(&mut bytes, *place).unwrap();
            assert!(bytes == pattern(*seed, BYTES), "round {round}, {place:#x}");
        }
    }
    assert!(found_open > 0, "a kill never met a request in flight");
}

/// Takes what has come back.
fn take(
    raw: &mut Raw,
    seen: &mut u16,
    open: &mut [Option<(u64, u64)>],
    holds: &mut std::collections::BTreeMap<u64, u64>,
) {
    while *seen != raw.used(0) {
        let head = raw.used_head(0, *seen);
        *seen = seen.wrapping_add(1);
        let (place, seed) = open[usize::from(head / 3)].take().expect("came back once");
        holds.insert(place, seed);
    }
}
