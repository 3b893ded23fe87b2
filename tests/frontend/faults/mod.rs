//! Every action of a rule, through a foreign driver: what a guest sees (status, data, order), and what the journal says of it.
#![allow(
    clippy::cast_possible_truncation,
    clippy::wildcard_enum_match_arm,
    reason = "numbers of tests are small, and tests look for the events they are about"
)]

mod connection;
mod content;
mod examples;
mod fail;
mod language;
mod model;
mod power;
mod time;

use crate::support::{ALL, Bench, Client, pattern, superblock};
use legwatch::block::{LegId, Sector, SectorRange, Status};
use legwatch::config::LegConfig;
use legwatch::device::Options;
use legwatch::event::{Action, Event, What};
use legwatch::scenario::rules_of;

pub(super) const EIO: i32 = -5;
pub(super) const ENOTSUP: i32 = -95;

pub(super) fn mib(name: &str) -> LegConfig {
    LegConfig::memory(name, 16 << 20)
}

pub(super) fn bench(rules: &str) -> Bench {
    let legs = [mib("a"), mib("b")];
    let options = Options {
        seed: 42,
        rules: rules_of(rules, &legs).unwrap(),
        ..Options::default()
    };
    Bench::with(&legs, &options)
}

pub(super) fn start(rules: &str) -> (Bench, Client) {
    let bench = bench(rules);
    let client = Client::connect(&bench, "a", 1, ALL);
    (bench, client)
}

pub(super) fn actions(events: &[Event]) -> Vec<Action> {
    events
        .iter()
        .filter_map(|event| match &event.what {
            What::Decided(decided) => Some(decided.action.clone()),
            _ => None,
        })
        .collect()
}

pub(super) fn end(bench: Bench, client: Client) -> Vec<Action> {
    drop(client);
    actions(&bench.stop())
}

pub(super) fn range(start: u64, count: u64) -> SectorRange {
    SectorRange::new(Sector(start), count).unwrap()
}

pub(super) fn honest(bench: &Bench, sector: u64) -> [u8; 512] {
    bench
        .device()
        .read_sector(LegId(0), Sector(sector))
        .unwrap()
}

/// Queues a write of one sector; the buffer is the client's memory at `at`.
pub(super) fn submit_write(client: &mut Client, sector: u64, at: usize, byte: u8, context: u64) {
    client.memory.bytes()[at..at + 512].fill(byte);
    let from = (client.memory.addr() + at) as *const u8;
    // SAFETY: the buffer is the client's memory.
    unsafe { client.queues[0].write_raw(sector * 512, from, 512, context) }.unwrap();
    client.kick(0);
}

pub(super) fn order(client: &mut Client, count: usize) -> Vec<u64> {
    let mut done = Vec::new();
    while done.len() < count {
        done.extend(
            client
                .collect(0, 1, "a completion")
                .into_iter()
                .map(|(c, ret)| {
                    assert_eq!(ret, 0);
                    c
                }),
        );
    }
    done
}
