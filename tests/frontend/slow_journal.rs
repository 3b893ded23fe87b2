//! A disk under the journal that is slower than the guest: requests wait for it, no event is lost, and the report says so.
#![allow(
    clippy::cast_possible_truncation,
    clippy::wildcard_enum_match_arm,
    reason = "numbers of tests are small, and tests look for the events they are about"
)]

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use legwatch::block::{LegId, Status};
use legwatch::config::LegConfig;
use legwatch::device::{Device, Options};
use legwatch::event::{EventNo, FrontendChange, What};
use legwatch::header::{LegHead, RunHeader};
use legwatch::journal::{Reader, Writer};
use legwatch::judge::Judge;
use legwatch::sequence::{NoEvent, Sequence};

use crate::support::{ALL, Client, check, until};

/// Events that a worker can be ahead of the journal.
const ROOM: u64 = 8192;
const WRITES: u64 = 12_000;
const BATCH: u64 = 32;

/// A disk whose first writes take until the guest's requests wait for them, and a little longer.
struct SlowDisk {
    bytes: Vec<u8>,
    slow: u32,
    sequence: Sequence,
    taken: Arc<AtomicU64>,
}

impl Write for SlowDisk {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // The header comes before the guest does.
        if self.slow > 0 && !self.bytes.is_empty() {
            self.slow -= 1;
            let taken = self.taken.load(Ordering::Acquire);
            until("a request that waits for the journal", || {
                self.sequence.last().0 > taken + ROOM
            });
            std::thread::sleep(Duration::from_millis(20));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_slow_disk_under_the_journal_slows_the_guest_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (sequence, mut collector) = Sequence::new(EventNo(0));
    let legs = [LegConfig::memory("a", 1 << 20)];
    let device = Device::start(&legs, dir.path(), &Options::default(), &sequence).unwrap();
    let heads = legs.iter().zip(device.sectors());
    let heads = heads.map(|(leg, sectors)| LegHead {
        config: leg.clone(),
        sectors,
    });
    let header = RunHeader::new(1, 1, heads.collect());
    let taken = Arc::new(AtomicU64::new(0));
    let disk = SlowDisk {
        bytes: Vec::new(),
        slow: 2,
        sequence: sequence.clone(),
        taken: Arc::clone(&taken),
    };
    let journal = std::thread::spawn({
        let header = header.clone();
        move || {
            let mut journal = Writer::new(disk, &header).unwrap();
            loop {
                match collector.next(Duration::from_secs(1)) {
                    Ok(event) => {
                        let end = event.what == What::End;
                        taken.store(event.no.0, Ordering::Release);
                        journal.append(&event).unwrap();
                        if end {
                            return journal.finish().unwrap().bytes;
                        }
                    }
                    Err(NoEvent::TimedOut) => {}
                    Err(NoEvent::Ended) => panic!("there was no end"),
                }
            }
        }
    });
    let mut client = Client::attach(&dir.path().join("a.sock"), 1, ALL);
    for batch in 0..WRITES / BATCH {
        for slot in 0..BATCH {
            let at = client.memory.addr() as *const u8;
            let place = (batch * BATCH + slot) % 256 * 4096;
            // SAFETY: the buffer is the client's memory.
            unsafe { client.queues[0].write_raw(place, at, 4096, slot) }.unwrap();
        }
        client.kick(0);
        let done = client.collect(0, BATCH as usize, "writes over a slow journal");
        assert!(done.iter().all(|(_, ret)| *ret == 0));
    }
    drop(client);
    device.stop();
    sequence.tap().record(What::End);
    let bytes = journal.join().unwrap();
    let mut reader = Reader::new(&bytes[..]).unwrap();
    let mut judge = Judge::new(reader.header(), false);
    let mut events = Vec::new();
    while let Some(event) = reader.next_event().unwrap() {
        judge.apply(&event);
        events.push(event);
    }
    assert_eq!(events.pop().map(|event| event.what), Some(What::End));
    check(&events);
    let completed =
        |what: &What| matches!(what, What::Completed(done) if done.status == Status::Ok);
    let count = events.iter().filter(|event| completed(&event.what)).count();
    assert_eq!(count as u64, WRITES);
    let waited: u64 = events
        .iter()
        .map(|event| match &event.what {
            What::Frontend {
                leg: LegId(0),
                change: FrontendChange::Waited { ms },
            } => *ms,
            _ => 0,
        })
        .sum();
    assert!(waited >= 40, "{waited} ms");
    let notes = judge.finish().notes;
    let told = format!("requests waited {waited} ms in all");
    assert!(notes.iter().any(|note| note.contains(&told)), "{notes:?}");
}
