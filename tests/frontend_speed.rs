//! How fast a leg is, for a first look (`cargo test --release --test frontend_speed -- --ignored --nocapture`). The benchmark proper is `ci/bench`.
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::print_stdout,
    reason = "a table for the reader"
)]

mod frontend;

use std::os::fd::AsRawFd;
use std::time::Duration;

use frontend::{ALL, Client, await_readable};
use legwatch::config::{LegConfig, Record};
use legwatch::device::{Device, Options};
use legwatch::event::EventNo;
use legwatch::sequence::{NoEvent, Sequence};

/// Keeps `depth` requests in flight, asleep between completions; requests a second.
fn run(client: &mut Client, write: bool, bytes: usize, depth: u64, count: u64) -> f64 {
    let fd = client.transport.get_completion_fd(0);
    let at = client.memory.addr();
    let submit = |client: &mut Client, slot: u64, number: u64| {
        let offset = number * 7919 % ((32 << 20) / bytes as u64) * bytes as u64;
        let from = at + (slot as usize * bytes) % (4 << 20);
        // SAFETY: the buffer is the client's memory.
        unsafe {
            if write {
                client.queues[0].write_raw(offset, from as *const u8, bytes, slot)
            } else {
                client.queues[0].read_raw(offset, from as *mut u8, bytes, slot)
            }
        }
        .unwrap();
    };
    let begun = legwatch::clock::now();
    for slot in 0..depth {
        submit(client, slot, slot);
    }
    client.kick(0);
    let (mut sent, mut done) = (depth, 0);
    while done < count {
        let slots: Vec<u64> = client.queues[0].completions().map(|c| c.context).collect();
        if slots.is_empty() {
            await_readable(fd.as_raw_fd(), "completions");
            fd.read().unwrap();
            continue;
        }
        for slot in slots {
            done += 1;
            if sent < count {
                submit(client, slot, sent);
                sent += 1;
            }
        }
        if client.queues[0].avail_notif_needed() {
            client.kick(0);
        }
    }
    count as f64 / begun.elapsed().as_secs_f64()
}

#[test]
#[ignore = "a measurement"]
fn a_first_look_at_speed() {
    for (record, digest_again) in [(Record::Metadata, true), (Record::None, false)] {
        let dir = tempfile::tempdir().unwrap();
        let mut leg = LegConfig::memory("a", 64 << 20);
        leg.data = legwatch::block::SectorRange::new(legwatch::block::Sector(0), 131_072);
        let options = Options {
            record,
            digest_again,
            ..Options::default()
        };
        let (sequence, mut collector) = Sequence::new(EventNo(0));
        let device = Device::start(&[leg], dir.path(), &options, &sequence).unwrap();
        drop(sequence);
        let drain = std::thread::spawn(move || {
            let mut events = 0u64;
            while collector.next(Duration::from_secs(5)) != Err(NoEvent::Ended) {
                events += 1;
            }
            events
        });
        let mut client = Client::attach(&dir.path().join("a.sock"), 1, ALL);
        println!("digest again: {digest_again}");
        for (bytes, count) in [(4096, 100_000), (128 << 10, 10_000), (1 << 20, 2_000)] {
            for depth in [1, 32] {
                if bytes as u64 * depth > 4 << 20 {
                    continue;
                }
                let rate = |client: &mut Client, write| run(client, write, bytes, depth, count);
                rate(&mut client, true);
                let write = rate(&mut client, true);
                let read = rate(&mut client, false);
                println!(
                    "{bytes:>8} bytes, depth {depth:>3}: {write:>8.0} writes/s {read:>8.0} reads/s ({:.2} / {:.2} GB/s)",
                    write * bytes as f64 / 1e9,
                    read * bytes as f64 / 1e9
                );
            }
        }
        drop(client);
        device.stop();
        println!("{} events", drain.join().unwrap());
    }
}
