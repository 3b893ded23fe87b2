//! What a power cut takes.

use super::*;
use crate::support::raw::Raw;
use legwatch::device::Threads;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use vhost::vhost_user::VhostUserFrontend;
use vhost::vhost_user::message::VhostUserConfigFlags;

#[test]
fn a_power_cut_loses_what_was_not_flushed_and_nothing_else() {
    let once = |lying: bool| {
        let lie = if lying {
            "[[fault]]\non = [\"flush\"]\ndo = \"flush-lie\"\n"
        } else {
            ""
        };
        let (bench, mut client) = start(&format!(
            "{lie}[[fault]]\non = [\"write\"]\nsectors = \"9999+1\"\ndo = \"power-cut\"\n"
        ));
        bench.device().new_boot(1);
        assert_eq!(client.write(0, &[1; 16_384]), 0);
        client.queues[0].flush(3).unwrap();
        assert_eq!(client.one(0, "the flush"), 0);
        assert_eq!(client.write(16_384, &[2; 16_384]), 0);
        submit_write(&mut client, 9999, 0, 1, 5);
        bench.events.wait(
            "the cut",
            |what| matches!(what, What::Decided(d) if d.action == Action::PowerCut),
        );
        drop(client);
        bench.device().new_boot(2);
        let mut client = Client::connect(&bench, "a", 1, ALL);
        let read = client.read(0, 32_768).unwrap();
        drop(client);
        let events = bench.stop();
        let lost: usize = events
            .iter()
            .map(|event| match &event.what {
                What::Lost { digests, .. } => digests.len(),
                _ => 0,
            })
            .sum();
        (read, lost)
    };
    let (read, lost) = once(false);
    assert_eq!(read[..16_384], [1; 16_384], "flushed");
    let gone = read[16_384..].chunks(512).filter(|s| s[0] == 0).count();
    assert!(gone > 0 && gone < 32, "some of it: {gone}");
    assert_eq!(lost, gone);
    assert_eq!(once(false), (read, lost), "the seed decides");
    let (lied, _) = once(true);
    assert!(lied[..16_384].contains(&0), "the flush was a lie");
}

/// With the write cache off what is answered is durable, whatever was in the cache before; with blocks of 4096 bytes, blocks are lost whole.
#[test]
fn what_is_written_through_is_never_lost_and_blocks_are_whole() {
    let mut lost = 0;
    for seed in 0..24 {
        let mut leg = mib("a");
        leg.block_size = 4096;
        let legs = [leg];
        let rules = "[[fault]]\non = [\"write\"]\nsectors = \"9992+8\"\ndo = \"power-cut\"\n";
        let options = Options {
            seed,
            rules: rules_of(rules, &legs).unwrap(),
            ..Options::default()
        };
        let bench = Bench::with(&legs, &options);
        bench.device().new_boot(1);
        // VERSION_1, INDIRECT_DESC, FLUSH, CONFIG_WCE: else there is no cache to begin with.
        let mut raw = Raw::connect(&bench, "a", 1, 1 << 32 | 1 << 28 | 1 << 9 | 1 << 11);
        raw.start(0, 0);
        let write = |raw: &mut Raw, sector, byte| {
            let used = raw.used(0);
            raw.write(0, 0, sector, &[byte; 4096]);
            raw.kick(0);
            raw.await_used(0, used.wrapping_add(1), "a write");
        };
        for byte in 1..=3 {
            write(&mut raw, 0, byte);
            write(&mut raw, 8, byte);
        }
        raw.vhost
            .set_config(32, VhostUserConfigFlags::WRITABLE, &[0])
            .unwrap();
        write(&mut raw, 0, 4);
        write(&mut raw, 16, 4);
        bench.device().faults().cut();
        drop(raw);
        bench.device().new_boot(2);
        let mut client = Client::connect(&bench, "a", 1, ALL);
        let read = client.read(0, 3 * 4096).unwrap();
        assert_eq!(read[..4096], [4; 4096], "seed {seed}: written through");
        assert_eq!(read[8192..], [4; 4096], "seed {seed}: written through");
        let cached = &read[4096..8192];
        assert_eq!(cached, [cached[0]; 4096], "seed {seed}: a block is whole");
        assert!(cached[0] <= 3);
        lost += usize::from(cached[0] < 3);
        drop(client);
        bench.stop();
    }
    assert!((4..24).contains(&lost), "{lost} of 24");
}

/// The power goes on all legs at one number of the sequence: whatever has a later one is no answer, on whichever thread.
#[test]
fn no_leg_answers_after_the_number_of_the_cut() {
    for round in 0..60u64 {
        let legs = ["a", "b", "c"].map(mib);
        let rules = "[[fault]]\nlegs = [\"a\"]\non = [\"write\"]\nsectors = \"9999+1\"\ndo = \"power-cut\"\n";
        let options = Options {
            seed: round,
            rules: rules_of(rules, &legs).unwrap(),
            threads: Threads::PerLeg,
            ..Options::default()
        };
        let bench = Bench::with(&legs, &options);
        bench.device().new_boot(1);
        let (over, answered) = (AtomicBool::new(false), AtomicU64::new(0));
        std::thread::scope(|scope| {
            for leg in ["b", "c"] {
                let (bench, over, answered) = (&bench, &over, &answered);
                scope.spawn(move || {
                    let mut client = Client::connect(bench, leg, 1, ALL);
                    let from = client.memory.addr() as *const u8;
                    let mut free: Vec<u64> = (0..32).collect();
                    while !over.load(Ordering::Acquire) {
                        for context in free.drain(..) {
                            // SAFETY: the buffer is the client's memory.
                            unsafe {
                                client.queues[0].write_raw(context * 512, from, 512, context)
                            }
                            .unwrap();
                        }
                        client.kick(0);
                        free.extend(client.queues[0].completions().map(|done| done.context));
                        answered.fetch_add(free.len() as u64, Ordering::AcqRel);
                    }
                });
            }
            let mut client = Client::connect(&bench, "a", 1, ALL);
            crate::support::until("both loads", || {
                answered.load(Ordering::Acquire) > 100 + round * 7
            });
            submit_write(&mut client, 9999, 0, 1, 5);
            bench.events.wait(
                "the cut",
                |what| matches!(what, What::Decided(d) if d.action == Action::PowerCut),
            );
            over.store(true, Ordering::Release);
        });
        let events = bench.stop();
        let cut = events
            .iter()
            .find(|event| matches!(&event.what, What::Decided(d) if d.action == Action::PowerCut));
        let cut = cut.unwrap().no;
        let late: Vec<_> = events
            .iter()
            .filter(|event| event.no > cut && matches!(event.what, What::Completed(_)))
            .collect();
        assert!(late.is_empty(), "round {round}: after {cut:?}: {late:?}");
    }
}
