//! How fast journal and checker are, without a device: `cargo bench --bench checker`.

#[path = "../tests/checker/history.rs"]
mod history;

use std::time::Instant;

use history::{History, Load};
use legwatch::journal::{Reader, Writer};
use legwatch::oracle::{Checker, EndState, Outcome};

#[allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "it measures"
)]
fn main() {
    let mut history = History::new(2, None);
    history.superblocks(false);
    for at in 0..50_000u64 {
        history.honest(&Load::new(1, at + 1, (at * 8) % 8192, 8));
    }
    history.superblocks(true);
    history.quiet();
    history.power_off();
    let count = history.events.len();
    let rate = |since: Instant| {
        format!(
            "{:.0} events/s",
            count as f64 / since.elapsed().as_secs_f64()
        )
    };

    let start = Instant::now();
    let mut writer = Writer::new(Vec::with_capacity(64 << 20), &history.header).unwrap();
    for event in &history.events {
        writer.append(event).unwrap();
    }
    let bytes = writer.finish().unwrap();
    println!(
        "write {} ({} bytes an event)",
        rate(start),
        bytes.len() / count
    );

    let start = Instant::now();
    let mut reader = Reader::new(&bytes[..]).unwrap();
    let mut read = 0;
    while reader.next_event().unwrap().is_some() {
        read += 1;
    }
    assert_eq!(read, count);
    println!("read  {}", rate(start));

    let start = Instant::now();
    let mut checker = Checker::new(&history.header);
    for event in &history.events {
        checker.apply(event);
    }
    let verdict = checker.finish(EndState::default());
    println!("check {}", rate(start));
    assert_eq!(verdict.outcome, Outcome::Clean);
}
