//! A foreign driver, `virtio-driver`, over real sockets, without a VM.
#![allow(
    clippy::cast_possible_truncation,
    clippy::wildcard_enum_match_arm,
    clippy::cast_precision_loss,
    reason = "numbers of tests are small, and tests look for the events they are about"
)]

use std::os::fd::AsRawFd;

use crate::support::{ALL, Bench, Client, PACKED, Shared, pattern, superblock};
use legwatch::block::{LegId, Operation, Sector, SectorRange, Status, sector_digests};
use legwatch::config::{LegConfig, MediumConfig};
use legwatch::device::{Device, Options, StartError, Threads};
use legwatch::event::{Completed, Content, FrontendChange, What};
use legwatch::medium::MediumError;

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

#[test]
fn two_legs_in_mirror_fashion_read_back_the_same() {
    let bench = Bench::start(&[mib("a"), mib("b")]);
    let mut legs = ["a", "b"].map(|name| Client::connect(&bench, name, 1, ALL));
    for round in 0..200u64 {
        let len = [512, 4096, 65_536, 1 << 20][(round % 4) as usize];
        let offset = (round * 7_001 * 512) % ((16 << 20) - len as u64);
        let bytes = pattern(round, len);
        for leg in &mut legs {
            leg.memory.bytes()[..len].copy_from_slice(&bytes);
            let at = leg.memory.addr() as *const u8;
            // SAFETY: the buffer is the client's memory.
            unsafe { leg.queues[0].write_raw(offset, at, len, round) }.unwrap();
            leg.kick(0);
        }
        for leg in &mut legs {
            assert_eq!(leg.collect(0, 1, "a mirrored write"), [(round, 0)]);
            assert!(leg.read(offset, len).unwrap() == bytes, "round {round}");
        }
    }
    drop(legs);
    bench.stop();
}

#[test]
fn many_requests_on_many_queues_all_end_right() {
    for (threads, features) in [
        (Threads::One, ALL),
        (Threads::PerLeg, ALL),
        (Threads::One, PACKED),
        (Threads::PerLeg, PACKED & !(1 << 29)),
        (Threads::One, PACKED & !(1 << 28)),
    ] {
        let options = Options {
            threads,
            ..Options::default()
        };
        let mut leg = mib("a");
        leg.queues = 4;
        let bench = Bench::with(&[leg, mib("b")], &options);
        let mut client = Client::connect(&bench, "a", 4, features);
        let all = pattern(3, 1 << 20);
        client.memory.bytes()[..1 << 20].copy_from_slice(&all);
        for round in 0..100u64 {
            for queue in 0..4 {
                for slot in 0..30u64 {
                    // Slots of 4 KiB, each written by one queue, the rounds shifting what goes where.
                    let place = (queue as u64 * 30 + slot) * 4096;
                    let from = (place + round * 512) % ((1 << 20) - 4096);
                    let at = (client.memory.addr() + from as usize) as *const u8;
                    // SAFETY: the buffer is the client's memory.
                    unsafe { client.queues[queue].write_raw(place, at, 4096, slot) }.unwrap();
                }
                client.kick(queue);
            }
            for queue in 0..4 {
                let done = client.collect(queue, 30, "writes on four queues");
                assert!(done.iter().all(|(_, ret)| *ret == 0));
            }
        }
        let back = client.read(0, 120 * 4096).unwrap();
        for (slot, bytes) in back.chunks(4096).enumerate() {
            let from = (slot * 4096 + 99 * 512) % ((1 << 20) - 4096);
            assert!(bytes == &all[from..from + 4096], "slot {slot}");
        }
        drop(client);
        let events = bench.stop();
        let completed = events
            .iter()
            .filter(|e| matches!(&e.what, What::Completed(c) if c.status == Status::Ok))
            .count();
        assert_eq!(completed, 12_001);
    }
}

/// Writes of several shapes, a flush and what is left of the rest: what the leg holds afterwards.
fn session(features: u64, queues: usize) -> Vec<u8> {
    let bench = Bench::start(&[mib("a")]);
    let mut client = Client::connect(&bench, "a", queues, features);
    for (at, len) in [
        (0, 512),
        (8192, 4096),
        (65_536, 131_072),
        (4096u64, 512usize),
    ] {
        assert_eq!(client.write(at, &pattern(at, len)), 0);
    }
    if features & 1 << 9 != 0 {
        client.queues[0].flush(3).unwrap();
        assert_eq!(client.one(0, "a flush"), 0);
    }
    if features & 1 << 13 != 0 {
        client.queues[0].discard(65_536, 4096, 4).unwrap();
    } else if features & 1 << 14 != 0 {
        client.queues[0]
            .write_zeroes(65_536, 4096, true, 4)
            .unwrap();
    } else {
        assert_eq!(client.write(65_536, &[0; 4096]), 0);
        return client.read(0, 256 << 10).unwrap();
    }
    assert_eq!(client.one(0, "zeros"), 0);
    let held = client.read(0, 256 << 10).unwrap();
    drop(client);
    bench.stop();
    held
}

#[test]
fn every_subset_of_ring_features_gives_the_same() {
    let expected = session(ALL, 1);
    // Size and segment limits, block size, flush, topology, switch, queues, discard, write zeroes; alone and together.
    let device = [1u32, 2, 6, 9, 10, 11, 12, 13, 14];
    for ring in [0u64, 1 << 28, 1 << 29, 1 << 28 | 1 << 29] {
        for packed in [0, 1 << 34] {
            let base = !(ring | packed);
            for off in device
                .map(|bit| 1 << bit)
                .into_iter()
                .chain([0, 1 << 13 | 1 << 14, 0x7e46])
            {
                let features = base & !off;
                assert!(session(features, 1) == expected, "features {features:#x}");
            }
        }
    }
}

#[test]
fn what_is_not_offered_is_refused_with_the_reason() {
    let bench = Bench::start(&[mib("a")]);
    // In order, ring reset, secure erase.
    for bit in [35u32, 40, 16] {
        let refused = crate::support::raw::Raw::refused(&bench, "a", 1 << bit);
        assert!(refused, "bit {bit}");
        let text = format!("features {:#x}, which were not offered", 1u64 << bit);
        bench.events.wait("the reason", |what| {
            matches!(what, What::Frontend { change: legwatch::event::FrontendChange::Disconnected(Some(why)), .. } if why.contains(&text))
        });
    }
    bench.stop();
}

fn flush_discard_zero(bench: &Bench) {
    let mut client = Client::connect(bench, "a", 1, ALL);
    let bytes = pattern(5, 1 << 20);
    assert_eq!(client.write(0, &bytes), 0);
    client.queues[0].flush(1).unwrap();
    assert_eq!(client.one(0, "a flush"), 0);
    client.queues[0].discard(4096, 512 << 10, 1).unwrap();
    assert_eq!(client.one(0, "a discard"), 0);
    client.queues[0]
        .write_zeroes(600 << 10, 4096, false, 1)
        .unwrap();
    assert_eq!(client.one(0, "a write zeroes"), 0);
    client.queues[0]
        .write_zeroes(700 << 10, 64 << 10, true, 1)
        .unwrap();
    assert_eq!(client.one(0, "a write zeroes with unmap"), 0);
    let mut model = bytes;
    model[4096..4096 + (512 << 10)].fill(0);
    model[600 << 10..(600 << 10) + 4096].fill(0);
    model[700 << 10..(700 << 10) + (64 << 10)].fill(0);
    assert!(client.read(0, 1 << 20).unwrap() == model);
    // Past the end, and a sector half on the device.
    client.queues[0].discard(16 << 20, 4096, 1).unwrap();
    assert_eq!(client.one(0, "a discard past the end"), EIO);
    assert_eq!(client.write(16 << 20, &[1; 512]), EIO);
    assert_eq!(client.write((16 << 20) - 512, &[1; 1024]), EIO);
    assert_eq!(client.read(u64::MAX / 512 * 512, 512), Err(EIO));
}

#[test]
fn flush_discard_and_write_zeroes_on_memory() {
    let bench = Bench::start(&[mib("a")]);
    flush_discard_zero(&bench);
    let kinds: Vec<String> = bench
        .stop()
        .iter()
        .filter_map(|event| match &event.what {
            What::Arrived(arrived) => Some(arrived.operation.to_string()),
            _ => None,
        })
        .collect();
    assert_eq!(
        kinds[1..5],
        ["FLUSH", "DISCARD", "WRITE_ZEROES", "WRITE_ZEROES(unmap)"]
    );
}

#[test]
fn flush_discard_and_write_zeroes_on_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    std::fs::File::create(&path)
        .unwrap()
        .set_len(16 << 20)
        .unwrap();
    let mut leg = mib("a");
    leg.medium = MediumConfig::File { path: path.clone() };
    let bench = Bench::start(&[leg.clone()]);
    flush_discard_zero(&bench);
    assert!(matches!(
        Device::start(
            &[leg.clone()],
            dir.path(),
            &Options::default(),
            &legwatch::sequence::Sequence::new(legwatch::event::EventNo(0)).0
        ),
        Err(StartError::Medium {
            source: MediumError::InUse { .. },
            ..
        })
    ));
    bench.stop();
    // What was there before is told at the next start, zeros left out, and the data area as well.
    for (data, expected) in [(None, true), (SectorRange::new(Sector(0), 2048), false)] {
        leg.data = data;
        let bench = Bench::start(&[leg.clone()]);
        bench.device().leg_initial(LegId(0)).unwrap();
        let events = bench.stop();
        let initial: Vec<(u64, usize)> = events
            .iter()
            .filter_map(|event| match &event.what {
                What::Initial { start, bytes, .. } => Some((start.0, bytes.len())),
                _ => None,
            })
            .collect();
        assert_eq!(
            initial.first(),
            expected.then_some(&(0, 4096)),
            "{initial:?}"
        );
        assert!(initial.iter().all(|(start, _)| *start < 2048));
    }
}

#[test]
fn blocks_of_4096_and_read_only_legs() {
    let mut four = mib("a");
    four.block_size = 4096;
    let mut read_only = mib("b");
    read_only.read_only = true;
    let bench = Bench::start(&[four, read_only]);
    let mut client = Client::connect(&bench, "a", 1, ALL);
    let config = client.transport.get_config().unwrap();
    assert_eq!(u32::from(config.blk_size), 4096);
    assert_eq!(u64::from(config.capacity), 32_768);
    assert_eq!(client.write(0, &[7; 4096]), 0);
    assert_eq!(client.write(0, &[7; 512]), EIO);
    assert_eq!(client.write(512, &[7; 4096]), EIO);
    assert_eq!(client.read(4096, 512), Err(EIO));
    drop(client);
    let mut client = Client::connect(&bench, "b", 1, ALL);
    let features = client.transport.get_features();
    assert_ne!(features & 1 << 5, 0, "VIRTIO_BLK_F_RO");
    assert_eq!(
        features & (1 << 13 | 1 << 14),
        0,
        "no discard, no write zeroes"
    );
    assert_eq!(client.write(0, &[7; 512]), EIO);
    client.queues[0].discard(0, 512, 1).unwrap();
    assert_eq!(client.one(0, "a discard"), ENOTSUP);
    assert_eq!(client.read(0, 512).unwrap(), [0; 512]);
    drop(client);
    bench.stop();
}

#[test]
fn what_is_switched_off_is_not_offered() {
    let mut leg = mib("a");
    (leg.write_cache, leg.discard, leg.write_zeroes) = (false, false, false);
    let bench = Bench::start(&[leg]);
    let mut client = Client::connect(&bench, "a", 1, ALL);
    let features = client.transport.get_features();
    assert_eq!(features & (1 << 9 | 1 << 11 | 1 << 13 | 1 << 14), 0);
    client.queues[0].flush(1).unwrap();
    assert_eq!(client.one(0, "a flush"), ENOTSUP);
    client.queues[0].write_zeroes(0, 512, true, 1).unwrap();
    assert_eq!(client.one(0, "write zeroes"), ENOTSUP);
    drop(client);
    bench.stop();
}

#[test]
fn memory_comes_and_goes_under_a_running_queue() {
    let bench = Bench::start(&[mib("a")]);
    let mut client = Client::connect(&bench, "a", 1, ALL);
    for round in 0..20u64 {
        let mut more = Shared::new(1 << 20);
        client
            .transport
            .map_mem_region(more.addr(), more.len(), more.file.as_raw_fd(), 0)
            .unwrap();
        let bytes = pattern(round, 4096);
        more.bytes()[..4096].copy_from_slice(&bytes);
        let at = more.addr() as *const u8;
        // SAFETY: the buffer is alive until the answer.
        unsafe { client.queues[0].write_raw(round * 4096, at, 4096, 1) }.unwrap();
        assert_eq!(client.one(0, "a write from new memory"), 0);
        client
            .transport
            .unmap_mem_region(more.addr(), more.len())
            .unwrap();
        // SAFETY: as before; the device must refuse, as the memory is no longer shared.
        unsafe { client.queues[0].write_raw(round * 4096, at, 4096, 1) }.unwrap();
        assert_eq!(client.one(0, "a write from memory that is gone"), EIO);
        assert_eq!(client.read(round * 4096, 4096).unwrap(), bytes);
    }
    drop(client);
    bench.stop();
}

#[test]
fn payloads_are_kept_outside_the_data_area() {
    let mut leg = mib("a");
    leg.data = SectorRange::new(Sector(2048), 4096);
    let bench = Bench::start(&[leg]);
    let mut client = Client::connect(&bench, "a", 1, ALL);
    for sector in [16, 2047, 2048, 6143, 6144] {
        assert_eq!(client.write(sector * 512, &[1; 512]), 0);
    }
    assert_eq!(client.write(2047 * 512, &[1; 1024]), 0, "half in it");
    // A superblock says better, from the next request on; and no longer, once it is overwritten.
    assert_eq!(client.write(8 * 512, &superblock(8, 1024, 6144)), 0);
    for sector in [1023, 1024, 2047, 6144, 7168] {
        assert_eq!(client.write(sector * 512, &[1; 512]), 0);
    }
    assert_eq!(client.write(8 * 512, &[0; 4096]), 0);
    assert_eq!(client.write(2047 * 512, &[1; 512]), 0);
    drop(client);
    let kept: Vec<bool> = bench
        .stop()
        .iter()
        .filter_map(|event| match &event.what {
            What::Fetched(fetched) => Some(fetched.payload.is_some()),
            _ => None,
        })
        .collect();
    let declared = [true, true, false, false, true, true];
    let told = [true, true, false, false, false, true];
    assert_eq!(kept, [&declared[..], &told[..], &[true, true]].concat());
}

#[test]
fn a_medium_that_fails_is_an_error_to_the_guest_and_a_line_for_us() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    let file = std::fs::File::create(&path).unwrap();
    file.set_len(1 << 20).unwrap();
    let mut leg = mib("a");
    leg.medium = MediumConfig::File { path };
    let bench = Bench::start(&[leg]);
    let mut client = Client::connect(&bench, "a", 1, ALL);
    file.set_len(4096).unwrap();
    assert_eq!(client.read(0, 4096).unwrap(), [0; 4096]);
    assert_eq!(client.read(8192, 4096), Err(EIO));
    bench.events.wait("the medium's error", |what| {
        matches!(what, What::Frontend { change: FrontendChange::Trouble(why), .. } if why.contains("request 2: the medium failed"))
    });
    drop(client);
    bench.stop();
}
