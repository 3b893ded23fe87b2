//! Requests that are held: delays, late fetches, and frontends or devices that go meanwhile.
#![allow(
    clippy::cast_possible_truncation,
    clippy::wildcard_enum_match_arm,
    reason = "numbers of tests are small, and tests look for the events they are about"
)]

use std::time::Duration;

use crate::support::{ALL, Bench, Client, pattern};
use legwatch::block::{LegId, Sector};
use legwatch::config::LegConfig;
use legwatch::event::{Content, FrontendChange, What};

fn mib(name: &str) -> LegConfig {
    LegConfig::memory(name, 16 << 20)
}

#[test]
fn a_delayed_write_is_stored_at_once_and_answered_late() {
    let mut leg = mib("a");
    leg.write_delay_ms = 60;
    let bench = Bench::start(&[leg]);
    let mut client = Client::connect(&bench, "a", 1, ALL);
    let begun = legwatch::clock::now();
    assert_eq!(client.write(0, &pattern(1, 4096)), 0);
    assert!(begun.elapsed() >= Duration::from_millis(60));
    // A read overtakes the write: out of order is legal.
    client.memory.bytes()[..512].fill(9);
    let at = client.memory.addr();
    // SAFETY: the buffers are the client's memory.
    unsafe {
        client.queues[0]
            .write_raw(0, at as *const u8, 512, 10)
            .unwrap();
        client.queues[0]
            .read_raw(0, (at + 8192) as *mut u8, 512, 11)
            .unwrap();
    }
    client.kick(0);
    assert_eq!(client.collect(0, 1, "the read"), [(11, 0)]);
    assert_eq!(bench.device().in_flight().len(), 1);
    assert_eq!(client.memory.bytes()[8192..8704], [9; 512]);
    // The guest changes the buffer while its write is in flight.
    client.memory.bytes()[100] = 1;
    assert_eq!(client.collect(0, 1, "the write"), [(10, 0)]);
    assert!(bench.device().in_flight().is_empty());
    assert_eq!(
        bench.device().read_sector(LegId(0), Sector(0)).unwrap(),
        [9; 512]
    );
    drop(client);
    let events = bench.stop();
    let contents: Vec<_> = events
        .iter()
        .filter_map(|event| match &event.what {
            What::Completed(completed) => Some(&completed.content),
            _ => None,
        })
        .collect();
    assert!(
        matches!(
            contents[..],
            [Content::Same, Content::Returned(_), Content::Changed(_)]
        ),
        "{contents:?}"
    );
    let decided = events
        .iter()
        .filter(|event| matches!(event.what, What::Decided(_)))
        .count();
    assert_eq!(decided, 2, "each write's delay");
}

#[test]
fn a_late_fetch_sees_what_the_buffer_holds_at_the_end() {
    let mut leg = mib("a");
    // Long enough for a busy machine to change the buffer in.
    (leg.write_delay_ms, leg.late_fetch) = (3000, true);
    let bench = Bench::start(&[leg]);
    let mut client = Client::connect(&bench, "a", 1, ALL);
    client.memory.bytes()[..512].fill(1);
    let at = client.memory.addr() as *const u8;
    // SAFETY: the buffer is the client's memory.
    unsafe { client.queues[0].write_raw(0, at, 512, 1) }.unwrap();
    client.kick(0);
    bench
        .events
        .wait("the arrival", |what| matches!(what, What::Arrived(_)));
    client.memory.bytes()[..512].fill(2);
    assert_eq!(client.collect(0, 1, "the write"), [(1, 0)]);
    assert_eq!(
        bench.device().read_sector(LegId(0), Sector(0)).unwrap(),
        [2; 512]
    );
    drop(client);
    bench.stop();
}

#[test]
fn a_frontend_that_goes_in_mid_flight_leaves_abandoned_requests() {
    let mut leg = mib("a");
    leg.delay_ms = 3_600_000;
    let bench = Bench::start(&[leg]);
    for round in 0..3 {
        let mut client = Client::connect(&bench, "a", 1, ALL);
        let at = client.memory.addr();
        // SAFETY: the buffers are the client's memory.
        unsafe {
            client.queues[0]
                .write_raw(0, at as *const u8, 512, 1)
                .unwrap();
            client.queues[0]
                .read_raw(0, (at + 4096) as *mut u8, 512, 2)
                .unwrap();
        }
        client.kick(0);
        bench
            .events
            .wait_count("two arrivals", 2 * (round + 1), |what| {
                matches!(what, What::Arrived(_))
            });
        drop(client);
        bench.events.wait_count("the end", round + 1, |what| {
            matches!(
                what,
                What::Frontend {
                    change: FrontendChange::Disconnected(None),
                    ..
                }
            )
        });
        assert!(bench.device().in_flight().is_empty());
    }
    let events = bench.stop();
    let applied: Vec<bool> = events
        .iter()
        .filter_map(|event| match &event.what {
            What::Abandoned(abandoned) => Some(abandoned.applied),
            _ => None,
        })
        .collect();
    assert_eq!(applied, [true, false].repeat(3));
}

#[test]
fn stopping_with_requests_held_is_quick() {
    let mut leg = mib("a");
    leg.delay_ms = 3_600_000;
    let bench = Bench::start(&[leg, mib("b")]);
    let mut client = Client::connect(&bench, "a", 1, ALL);
    client.queues[0].flush(1).unwrap();
    client.kick(0);
    bench
        .events
        .wait("the arrival", |what| matches!(what, What::Arrived(_)));
    let socket = bench.socket("a");
    let events = bench.stop();
    assert!(!socket.exists());
    assert!(
        events
            .iter()
            .any(|event| matches!(event.what, What::Abandoned(_)))
    );
}
