//! Order: what is submitted to leg B only once leg A's completion was seen has arrived after it, in the one sequence, every time.
//!
//! `LEGWATCH_ORDER_COUNT` sets how often (default 50,000; `ci/full` runs a million). Half of them with a worker for both legs, half with one each.
#![allow(
    clippy::cast_possible_truncation,
    clippy::wildcard_enum_match_arm,
    clippy::cast_precision_loss,
    clippy::print_stdout,
    reason = "numbers of tests are small, and tests look for the events they are about"
)]

use std::os::fd::AsRawFd;
use std::time::Duration;

use crate::support::{ALL, Client, await_readable};
use legwatch::block::LegId;
use legwatch::config::{LegConfig, Record};
use legwatch::device::{Device, Options, Threads};
use legwatch::event::{EventNo, What};
use legwatch::sequence::{NoEvent, Sequence};

/// The next completion, looked for a short while before sleeping, as guests do.
fn wait(client: &mut Client) {
    for _ in 0..200 {
        if client.queues[0].completions().next().is_some() {
            return;
        }
        std::hint::spin_loop();
    }
    let fd = client.transport.get_completion_fd(0);
    loop {
        if client.queues[0].completions().next().is_some() {
            return;
        }
        await_readable(fd.as_raw_fd(), "a completion");
        fd.read().unwrap();
    }
}

fn submit(client: &mut Client, round: u64) {
    let at = client.memory.addr() as *const u8;
    let offset = round % 1000 * 512;
    // SAFETY: the buffer is the client's memory.
    unsafe { client.queues[0].write_raw(offset, at, 512, round) }.unwrap();
    if client.queues[0].avail_notif_needed() {
        client.kick(0);
    }
}

fn run(threads: Threads, count: u64) {
    let dir = tempfile::tempdir().unwrap();
    let legs = ["a", "b"].map(|name| LegConfig::memory(name, 1 << 20));
    let options = Options {
        record: Record::None,
        threads,
        ..Options::default()
    };
    let (sequence, mut collector) = Sequence::new(EventNo(0));
    let device = Device::start(&legs, dir.path(), &options, &sequence).unwrap();
    drop(sequence);
    let checker = std::thread::spawn(move || {
        // Requests alternate strictly, so at any number at most one is between arrival and completion.
        let mut expected = (LegId(0), 1u64);
        let mut open = None;
        let mut checked = 0u64;
        loop {
            let event = match collector.next(Duration::from_secs(60)) {
                Ok(event) => event,
                Err(NoEvent::Ended) => return checked,
                Err(NoEvent::TimedOut) => panic!("no event for a minute"),
            };
            match event.what {
                What::Arrived(arrived) => {
                    assert_eq!(
                        open, None,
                        "{} arrived before the other completed",
                        event.no
                    );
                    let request = arrived.request;
                    assert_eq!((request.leg, request.number), expected);
                    open = Some(request);
                }
                What::Completed(completed) => {
                    assert_eq!(open.take(), Some(completed.request));
                    checked += 1;
                    expected = match expected {
                        (LegId(0), number) => (LegId(1), number),
                        (_, number) => (LegId(0), number + 1),
                    };
                }
                _ => {}
            }
        }
    });
    let mut clients =
        ["a", "b"].map(|leg| Client::attach(&dir.path().join(format!("{leg}.sock")), 1, ALL));
    let begun = legwatch::clock::now();
    for round in 0..count {
        for client in &mut clients {
            submit(client, round);
            wait(client);
        }
    }
    let took = begun.elapsed();
    drop(clients);
    // The device holds the sequence: the collector ends when it is gone.
    drop(device);
    assert_eq!(checker.join().unwrap(), 2 * count);
    println!(
        "{threads:?}: {count} times A then B in {took:?}, {:.1} µs a request, no exception",
        took.as_secs_f64() * 1e6 / (2 * count) as f64
    );
}

#[test]
fn a_completed_before_b_arrived_every_time() {
    let count: u64 = std::env::var("LEGWATCH_ORDER_COUNT").map_or(50_000, |text| {
        text.parse().expect("LEGWATCH_ORDER_COUNT is a number")
    });
    run(Threads::One, count / 2);
    run(Threads::PerLeg, count - count / 2);
}
