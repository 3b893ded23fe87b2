//! Images on tmpfs, whose pages are used where they are: what the foreign client reads, what lies in the file, and what happens when somebody cuts it short.
#![allow(
    clippy::cast_possible_truncation,
    reason = "numbers of tests are small"
)]

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;

use legwatch::config::{LegConfig, MediumConfig};
use legwatch::event::{Content, FrontendChange, What};
use legwatch::stamp::SplitMix64;

use crate::support::{ALL, Bench, Client, pattern};

const EIO: i32 = -5;
const BYTES: u64 = 4 << 20;

/// An empty image on tmpfs, and a leg on it.
fn leg() -> (tempfile::TempDir, PathBuf, LegConfig) {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let path = dir.path().join("image");
    File::create(&path).unwrap().set_len(BYTES).unwrap();
    let mut leg = LegConfig::memory("a", BYTES);
    leg.medium = MediumConfig::File { path: path.clone() };
    (dir, path, leg)
}

#[test]
fn client_file_and_model_agree_on_what_is_there() {
    let (_dir, path, leg) = leg();
    let bench = Bench::start(&[leg]);
    let mut client = Client::connect(&bench, "a", 1, ALL);
    let file = File::open(&path).unwrap();
    let mut model = vec![0u8; BYTES as usize];
    assert_eq!(client.read(0, 1 << 20).unwrap(), model[..1 << 20]);
    assert_eq!(file.metadata().unwrap().blocks(), 0, "holes stay holes");
    let mut dice = SplitMix64(25);
    for step in 0..600 {
        let sectors = 1 + dice.below(64);
        let start = dice.below(BYTES / 512 - sectors);
        let (at, len) = ((start * 512) as usize, (sectors * 512) as usize);
        let part = at..at + len;
        match dice.below(8) {
            0 => {
                client.queues[0].discard(at as u64, len as u64, 0).unwrap();
                client.kick(0);
                assert_eq!(client.one(0, "a discard"), 0);
                model[part.clone()].fill(0);
            }
            1..4 => {
                let bytes = pattern(step, len);
                assert_eq!(client.write(at as u64, &bytes), 0);
                model[part.clone()].copy_from_slice(&bytes);
            }
            _ => {}
        }
        assert_eq!(client.read(at as u64, len).unwrap(), model[part.clone()]);
        let mut there = vec![1; len];
        file.read_exact_at(&mut there, at as u64).unwrap();
        assert_eq!(there, model[part], "step {step}");
    }
    drop(client);
    // No buffer changed in flight, and none is said to have.
    let (mut same, mut changed) = (0, 0);
    for event in bench.stop() {
        if let What::Completed(done) = event.what {
            same += u32::from(done.content == Content::Same);
            changed += u32::from(matches!(done.content, Content::Changed(_)));
        }
    }
    assert!(same > 100 && changed == 0, "{same} {changed}");
}

#[test]
fn an_image_that_is_cut_short_is_an_error_and_nothing_else() {
    let (_dir, path, leg) = leg();
    let bench = Bench::start(&[leg]);
    let mut client = Client::connect(&bench, "a", 1, ALL);
    let bytes = pattern(3, 1 << 20);
    for _ in 0..2 {
        assert_eq!(client.write(0, &bytes), 0);
        assert_eq!(client.read(0, bytes.len()).unwrap(), bytes);
    }
    let file = File::options().write(true).open(&path).unwrap();
    file.set_len(64 << 10).unwrap();
    assert_eq!(
        client.read(32 << 10, 64 << 10),
        Err(EIO),
        "half of it is gone"
    );
    bench.events.wait("the medium's error", |what| {
        matches!(what, What::Frontend { change: FrontendChange::Trouble(why), .. } if why.contains("the medium failed"))
    });
    assert_eq!(client.read(0, 64 << 10).unwrap(), bytes[..64 << 10]);
    // What is written makes it long again, as on any file.
    assert_eq!(client.write(256 << 10, &bytes[..4096]), 0);
    assert_eq!(client.read(256 << 10, 4096).unwrap(), bytes[..4096]);
    assert_eq!(client.read(128 << 10, 4096).unwrap(), [0; 4096]);
    drop(client);
    bench.stop();
}
