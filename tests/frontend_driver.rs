//! A foreign driver, `virtio-driver`, over real sockets, without a VM.

mod frontend;

use std::time::Duration;

use frontend::{ALL, Bench, Client, pattern};
use legwatch::block::{LegId, Operation, Sector, Status, sector_digests};
use legwatch::config::{LegConfig, MediumConfig};
use legwatch::event::{Completed, Content, FrontendChange, What};

const EIO: i32 = -5;
const ENOTSUP: i32 = -95;

fn mib(name: &str) -> LegConfig {
    LegConfig::memory(name, 16 << 20)
}

#[test]
fn a_write_comes_back_and_its_events_tell_all() {
    let bench = Bench::start(&[mib("a")]);
    let mut client = Client::connect(&bench, "a", 1, ALL);
    let bytes = pattern(1, 8192);
    assert_eq!(client.write(4096, &bytes), 0);
    assert_eq!(client.read(4096, 8192).unwrap(), bytes);
    assert_eq!(
        bench.device().read_sector(LegId(0), Sector(9)).unwrap(),
        bytes[512..1024]
    );
    let stats = bench.device().stats()[0];
    assert_eq!((stats.writes, stats.reads, stats.in_flight), (1, 1, 0));
    drop(client);
    let events = bench.stop();
    let digests: Vec<u32> = sector_digests(&bytes).collect();
    let mut story = events.iter().filter_map(|event| match &event.what {
        What::Arrived(_) | What::Fetched(_) | What::Completed(_) => Some(&event.what),
        _ => None,
    });
    let Some(What::Arrived(write)) = story.next() else {
        panic!("{events:#?}")
    };
    assert_eq!(write.operation, Operation::Write);
    assert_eq!(write.ranges[0].to_string(), "8+16");
    assert_eq!(write.segments.iter().map(|s| s.len).sum::<u32>(), 8192);
    let Some(What::Fetched(fetched)) = story.next() else {
        panic!("{events:#?}")
    };
    assert_eq!(fetched.digests[..], digests[..]);
    assert_eq!(fetched.payload.as_deref(), Some(&bytes[..]));
    assert!(matches!(
        story.next(),
        Some(What::Completed(Completed {
            status: Status::Ok,
            content: Content::Same,
            ..
        }))
    ));
    assert!(matches!(story.next(), Some(What::Arrived(read)) if read.operation == Operation::Read));
    assert!(matches!(
        story.next(),
        Some(What::Completed(Completed { status: Status::Ok, content: Content::Returned(d), .. })) if d[..] == digests[..]
    ));
    assert!(story.next().is_none());
}
