//! Hand-made rings and messages: what no well-behaved frontend does, and what protocol messages do to requests in flight.
#![allow(
    clippy::cast_possible_truncation,
    clippy::wildcard_enum_match_arm,
    clippy::cast_precision_loss,
    reason = "numbers of tests are small, and tests look for the events they are about"
)]

use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::support::raw::{BUFFERS, GPA, QUEUE_BYTES, Raw, SIZE};
use crate::support::{ALL, Bench, Client, Shared, await_readable, pattern};
use legwatch::block::{LegId, Operation, Sector, Status};
use legwatch::config::LegConfig;
use legwatch::event::{FrontendChange, What};
use legwatch::stamp::SplitMix64;
use vhost::VhostBackend;
use vhost::vhost_user::VhostUserFrontend;
use vhost::vhost_user::message::{VHOST_USER_CONFIG_OFFSET, VhostUserConfigFlags};
use vmm_sys_util::eventfd::EventFd;

fn mib(name: &str) -> LegConfig {
    LegConfig::memory(name, 16 << 20)
}

fn change(wanted: FrontendChange) -> impl Fn(&What) -> bool {
    move |what| matches!(what, What::Frontend { change, .. } if *change == wanted)
}

fn trouble(text: &'static str) -> impl Fn(&What) -> bool {
    move |what| matches!(what, What::Frontend { change: FrontendChange::Trouble(why), .. } if why.contains(text))
}

fn still_works(bench: &Bench, leg: &str) {
    let mut client = Client::connect(bench, leg, 1, ALL);
    let bytes = pattern(77, 4096);
    assert_eq!(client.write(0, &bytes), 0);
    assert_eq!(client.read(0, 4096).unwrap(), bytes);
}

#[test]
fn garbage_on_the_socket_ends_that_connection_alone() {
    let bench = Bench::start(&[mib("a"), mib("b")]);
    let _other = Client::connect(&bench, "b", 1, ALL);
    let mut dice = SplitMix64(1);
    for round in 0..300u64 {
        let mut stream = UnixStream::connect(bench.socket("a")).unwrap();
        let mut bytes = Vec::new();
        for _ in 0..1 + dice.below(5) {
            if round % 4 != 0 {
                // A header that makes sense, with whatever behind it.
                let size = [0u32, 8, 8, 12, 40, 40, 300][dice.below(7) as usize];
                bytes.extend((1 + dice.below(46) as u32).to_le_bytes());
                bytes.extend((1u32 | (dice.below(2) as u32) << 3).to_le_bytes());
                bytes.extend(size.to_le_bytes());
                let small = dice.below(2) == 0;
                bytes.extend((0..size).map(|_| {
                    if small {
                        dice.below(3) as u8
                    } else {
                        dice.next_u64() as u8
                    }
                }));
            } else {
                bytes.extend((0..dice.below(100)).map(|_| dice.next_u64() as u8));
            }
        }
        // The other side may hang up at any byte.
        let _refused = stream.write_all(&bytes);
        if round % 3 == 0 {
            // Wait for the end or for answers, but not for ever: a partial message is legal and is waited for.
            stream
                .set_read_timeout(Some(Duration::from_millis(5)))
                .unwrap();
            let _nothing = stream.read(&mut [0; 64]);
        }
    }
    still_works(&bench, "a");
    drop(_other);
    still_works(&bench, "b");
    bench.stop();
}

#[test]
fn every_chain_with_a_place_for_it_gets_a_status() {
    let bench = Bench::start(&[mib("a")]);
    let mut raw = Raw::started(&bench, "a", 1);
    // (what, header bytes, flags of the data descriptor, its length, expected status, expected length)
    let (data, status) = raw.request(0, 0, 0, 0, 512);
    raw.kick(0);
    raw.await_used(0, 1, "a read");
    assert_eq!((raw.status(status), raw.used_len(0, 0)), (0, 513));
    assert_eq!(raw.memory.bytes()[data..data + 512], [0; 512]);
    // An odd length, an unknown type, a place past the end.
    let (_, odd) = raw.request(0, 0, 1, 0, 511);
    let (_, unknown) = raw.request(0, 1, 99, 0, 0);
    let (_, past) = raw.request(0, 2, 0, 1 << 60, 512);
    raw.kick(0);
    raw.await_used(0, 4, "three bad requests");
    assert_eq!(raw.status(odd), 1);
    assert_eq!(raw.status(unknown), 2);
    assert_eq!(raw.status(past), 1);
    assert_eq!([1, 2, 3].map(|e| raw.used_len(0, e)), [1, 1, 0]);
    // No header, no status, a loop, an address from nowhere.
    let gpa = GPA + BUFFERS as u64;
    raw.put(BUFFERS, &[0xaa; 64]);
    raw.descriptor(0, 0, (gpa, 1, 2, 0));
    raw.descriptor(0, 1, (gpa, 16, 0, 0));
    raw.descriptor(0, 2, (gpa, 16, 1, 2));
    raw.descriptor(0, 3, (u64::MAX - 3, 16, 1, 4));
    raw.descriptor(0, 4, (gpa + 1, 1, 2, 0));
    for head in 0..4 {
        raw.offer(0, head);
    }
    raw.kick(0);
    raw.await_used(0, 8, "four malformed chains");
    assert_eq!(raw.memory.bytes()[BUFFERS..BUFFERS + 3], [1, 1, 0xaa]);
    assert_eq!([4, 5, 6, 7].map(|e| raw.used_len(0, e)), [1, 0, 0, 1]);
    // Get-id into a buffer of 20, and of 5.
    for len in [20, 5] {
        let before = raw.used(0);
        let (data, status) = raw.request(0, 0, 8, 0, len);
        raw.kick(0);
        raw.await_used(0, before + 1, "get-id");
        assert_eq!(raw.status(status), 0);
        assert_eq!(raw.used_len(0, before), len + 1);
        let mut id = [0; 20];
        id[0] = b'a';
        assert_eq!(
            raw.memory.bytes()[data..data + len as usize],
            id[..len as usize]
        );
    }
    drop(raw);
    let events = bench.stop();
    let arrived = events
        .iter()
        .filter(|e| matches!(e.what, What::Arrived(_)))
        .count();
    assert_eq!(arrived, 10, "every chain counts");
    assert!(
        events.iter().any(
            |e| matches!(&e.what, What::Arrived(a) if a.operation == Operation::Unsupported(99))
        )
    );
}

#[test]
fn a_range_list_of_the_largest_size_is_taken() {
    let bench = Bench::start(&[mib("a")]);
    let mut client = Client::connect(&bench, "a", 1, ALL);
    assert_eq!(client.write(0, &vec![7; 1 << 20]), 0);
    drop(client);
    let mut raw = Raw::started(&bench, "a", 1);
    for (ranges, expected) in [(32u64, 0u8), (33, 1)] {
        // Reuses the write layout: the data descriptor is readable.
        let (data, status) = raw.lay(0, 0, 1, 0, ranges as u32 * 16);
        raw.put(BUFFERS, &13u32.to_le_bytes());
        for range in 0..ranges {
            let mut bytes = (range * 4).to_le_bytes().to_vec();
            bytes.extend(1u32.to_le_bytes());
            bytes.extend(0u32.to_le_bytes());
            raw.put(data + range as usize * 16, &bytes);
        }
        let before = raw.used(0);
        raw.offer(0, 0);
        raw.kick(0);
        raw.await_used(0, before + 1, "a write zeroes of many ranges");
        assert_eq!(raw.status(status), expected, "{ranges} ranges");
    }
    let sector = |at| bench.device().read_sector(LegId(0), Sector(at)).unwrap();
    for range in 0..32 {
        assert_eq!(sector(range * 4), [0; 512]);
        assert_eq!(sector(range * 4 + 1), [7; 512]);
    }
    drop(raw);
    bench.stop();
}

#[test]
fn get_vring_base_answers_what_is_held_at_once() {
    let mut leg = mib("a");
    leg.delay_ms = 3_600_000;
    let bench = Bench::start(&[leg]);
    let mut raw = Raw::started(&bench, "a", 1);
    let status = raw.write(0, 0, 8, &[5; 512]);
    let (_, flush) = raw.request(0, 1, 4, 0, 0);
    raw.kick(0);
    bench
        .events
        .wait_count("two arrivals", 2, |w| matches!(w, What::Arrived(_)));
    let begun = legwatch::clock::now();
    assert_eq!(raw.vhost.get_vring_base(0).unwrap(), 2);
    assert!(begun.elapsed() < Duration::from_secs(1));
    assert_eq!((raw.status(status), raw.status(flush)), (0, 0));
    assert_eq!(raw.used(0), 2);
    assert!(bench.device().in_flight().is_empty());
    // Nothing is served until it is started again, from where it was.
    raw.request(0, 0, 4, 0, 0);
    raw.kick(0);
    raw.start(0, 2);
    raw.queues[0].next = 3;
    bench
        .events
        .wait_count("the third arrival", 3, |w| matches!(w, What::Arrived(_)));
    drop(raw);
    let events = bench.stop();
    let ends: Vec<bool> = events
        .iter()
        .filter_map(|e| match &e.what {
            What::Completed(_) => Some(true),
            What::Abandoned(_) => Some(false),
            _ => None,
        })
        .collect();
    assert_eq!(ends, [true, true, false]);
}

#[test]
fn a_reset_abandons_and_the_connection_can_begin_anew() {
    let mut leg = mib("a");
    leg.delay_ms = 200;
    let bench = Bench::start(&[leg]);
    let mut raw = Raw::started(&bench, "a", 1);
    let status = raw.write(0, 0, 8, &[5; 512]);
    raw.kick(0);
    bench
        .events
        .wait("the arrival", |w| matches!(w, What::Arrived(_)));
    raw.vhost.reset_device().unwrap();
    assert_eq!(raw.status(status), 0xaa, "guest memory is left alone");
    bench.events.wait(
        "the abandoned write",
        |w| matches!(w, What::Abandoned(a) if a.applied),
    );
    bench
        .events
        .wait("the reset", change(FrontendChange::Reset));
    raw.vhost.set_features(raw.features).unwrap();
    raw.vhost.set_mem_table(&[raw.region()]).unwrap();
    raw.memory.bytes()[..QUEUE_BYTES].fill(0);
    raw.start(0, 0);
    let (_, status) = raw.request(0, 0, 0, 8, 512);
    raw.kick(0);
    raw.await_used(0, 1, "a read after the reset");
    assert_eq!(raw.status(status), 0);
    drop(raw);
    bench.stop();
}

#[test]
fn the_write_cache_switch_reads_back_and_nothing_else_can_be_written() {
    let bench = Bench::start(&[mib("a")]);
    let mut raw = Raw::started(&bench, "a", 1);
    let at = 32;
    let get = |raw: &mut Raw| {
        let (_, bytes) = raw
            .vhost
            .get_config(at, 1, VhostUserConfigFlags::empty(), &[0])
            .unwrap();
        bytes[0]
    };
    assert!(at < VHOST_USER_CONFIG_OFFSET);
    assert_eq!(get(&mut raw), 1);
    for value in [0, 1, 0] {
        raw.vhost
            .set_config(at, VhostUserConfigFlags::WRITABLE, &[value])
            .unwrap();
        assert_eq!(get(&mut raw), value);
    }
    // The switch is the leg's, not the connection's: a frontend that comes again finds it where the guest left it.
    drop(raw);
    let mut raw = Raw::started(&bench, "a", 1);
    assert_eq!(get(&mut raw), 0);
    raw.vhost.reset_device().unwrap();
    assert_eq!(get(&mut raw), 1);
    raw.vhost
        .set_config(0, VhostUserConfigFlags::WRITABLE, &[1])
        .unwrap_err();
    bench.events.wait(
        "the reason",
        trouble("config space at 0, which can't be written"),
    );
    // The frontend was told, and may do something else.
    assert_eq!(get(&mut raw), 1);
    drop(raw);
    bench.stop();
}

#[test]
fn memory_that_is_cut_short_ends_that_connection_alone() {
    let bench = Bench::start(&[mib("a"), mib("b")]);
    let mut other = Client::connect(&bench, "b", 1, ALL);
    for kind in [1, 0] {
        let mut raw = Raw::started(&bench, "a", 1);
        let (data, _) = raw.lay(0, 1, kind, 8, 14 * 512);
        raw.put(data, &[7; 14 * 512]);
        // The data's second page goes; ring and header stay.
        let keep = (data as u64).next_multiple_of(4096);
        raw.memory.file.set_len(keep).unwrap();
        raw.offer(0, 3);
        raw.kick(0);
        let ends = if kind == 1 { 1 } else { 2 };
        bench.events.wait_count("the end of the connection", ends, |w| {
            matches!(w, What::Frontend { leg: LegId(0), change: FrontendChange::Disconnected(Some(why)) } if why.contains("cut short"))
        });
    }
    // What came from memory that was gone is not called done.
    let events = bench.events.all();
    let done = events.iter().filter(|event| {
        matches!(&event.what, What::Completed(completed) if completed.request.leg == LegId(0) && completed.status == Status::Ok)
    });
    assert_eq!(done.count(), 0, "{events:#?}");
    assert_eq!(other.write(0, &[1; 512]), 0);
    drop(other);
    still_works(&bench, "a");
    still_works(&bench, "b");
    bench.stop();
}

#[test]
fn a_ring_that_jumps_is_stopped_and_the_other_queue_goes_on() {
    let bench = Bench::start(&[mib("a")]);
    let mut raw = Raw::started(&bench, "a", 2);
    raw.word(raw.queues[0].at + 0x1002)
        .store(SIZE + 1, Ordering::Release);
    raw.kick(0);
    bench.events.wait("the fault", trouble("jumped"));
    await_readable(raw.queues[0].error.as_raw_fd(), "the error eventfd");
    let (_, status) = raw.request(1, 0, 4, 0, 0);
    raw.kick(1);
    raw.await_used(1, 1, "the other queue's flush");
    assert_eq!(raw.status(status), 0);
    assert_eq!(raw.vhost.get_vring_base(0).unwrap(), 0);
    // A head past the table.
    raw.offer(1, SIZE);
    raw.kick(1);
    bench
        .events
        .wait("the fault", trouble("names descriptor 16"));
    drop(raw);
    still_works(&bench, "a");
    bench.stop();
}

#[test]
fn indices_wrap_and_a_disabled_queue_waits() {
    let bench = Bench::start(&[mib("a")]);
    let mut raw = Raw::connect(&bench, "a", 1, ALL);
    raw.word(0x2002).store(65_530, Ordering::Release);
    raw.word(0x1002).store(65_530, Ordering::Release);
    raw.start(0, 65_530);
    for round in 0..40u16 {
        let (_, status) = raw.request(0, round % 5, 4, 0, 0);
        raw.kick(0);
        raw.await_used(0, 65_530u16.wrapping_add(round + 1), "a flush");
        assert_eq!(raw.status(status), 0);
    }
    raw.vhost.set_vring_enable(0, false).unwrap();
    let arrived = bench.device().stats()[0].arrived;
    raw.request(0, 0, 4, 0, 0);
    raw.kick(0);
    // A later message is answered, so the worker has looked at its commands since the kick.
    raw.vhost.set_mem_table(&[raw.region()]).unwrap();
    assert_eq!(bench.device().stats()[0].arrived, arrived);
    raw.vhost.set_vring_enable(0, true).unwrap();
    raw.await_used(0, 65_530u16.wrapping_add(41), "the flush that waited");
    drop(raw);
    bench.stop();
}

#[test]
fn a_new_memory_table_keeps_held_requests_and_rings() {
    let mut leg = mib("a");
    leg.delay_ms = 150;
    let bench = Bench::start(&[leg]);
    let mut raw = Raw::started(&bench, "a", 1);
    let status = raw.write(0, 0, 8, &[5; 512]);
    raw.kick(0);
    bench
        .events
        .wait("the arrival", |w| matches!(w, What::Arrived(_)));
    // The same file elsewhere in the guest, the same addresses of ours: rings are found again, the held request has its old pages.
    let mut region = raw.region();
    region.guest_phys_addr = 0x10_0000_0000;
    raw.vhost.set_mem_table(&[region]).unwrap();
    raw.await_used(0, 1, "the held write");
    assert_eq!(raw.status(status), 0);
    // A table without the ring stops the queue.
    let (_, status) = raw.request(0, 1, 4, 0, 0);
    raw.kick(0);
    bench
        .events
        .wait_count("the second arrival", 2, |w| matches!(w, What::Arrived(_)));
    region.userspace_addr = 0x1000;
    raw.vhost.set_mem_table(&[region]).unwrap();
    bench.events.wait(
        "the stop",
        change(FrontendChange::QueueStopped { queue: 0 }),
    );
    assert_eq!(raw.status(status), 0xaa);
    drop(raw);
    let events = bench.stop();
    let statuses: Vec<_> = events
        .iter()
        .filter_map(|e| match &e.what {
            What::Completed(c) => Some(Some(c.status)),
            What::Abandoned(_) => Some(None),
            _ => None,
        })
        .collect();
    // The second request's chain is not in the new memory: refused, but it is held all the same only if it could be parsed.
    assert_eq!(statuses[0], Some(Status::Ok));
    assert_eq!(statuses.len(), 2);
}

#[test]
fn a_second_frontend_waits_and_odd_descriptors_are_refused() {
    let bench = Bench::start(&[mib("a")]);
    let raw = Raw::started(&bench, "a", 1);
    let path = bench.socket("a");
    let second = std::thread::spawn(move || {
        let mut client = Client::attach(&path, 1, ALL);
        assert_eq!(client.write(0, &[1; 512]), 0);
    });
    let file = Shared::new(4096);
    // SAFETY: the descriptor is a copy of the test's own file's.
    let odd: EventFd = unsafe {
        use std::os::fd::{FromRawFd, IntoRawFd};
        EventFd::from_raw_fd(file.file.try_clone().unwrap().into_raw_fd())
    };
    raw.vhost.set_vring_kick(0, &odd).unwrap_err();
    drop(raw);
    second.join().unwrap();
    let events = bench.stop();
    assert!(events.iter().any(|e| matches!(
        &e.what,
        What::Frontend { change: FrontendChange::Trouble(why), .. } if why.contains("refused: a descriptor that is no eventfd")
    )));
}

#[test]
fn random_rings_are_survived() {
    let bench = Bench::start(&[mib("a"), mib("b")]);
    let mut dice = SplitMix64(9);
    for _ in 0..200 {
        let mut raw = Raw::started(&bench, "a", 1);
        for at in 0..SIZE {
            let gpa = match dice.below(6) {
                0 => dice.next_u64(),
                1 => GPA + (1 << 20) - dice.below(64),
                // Rings are guest memory, too, and may be overwritten by what we return.
                2 => GPA + dice.below(0x3000),
                _ => GPA + BUFFERS as u64 + dice.below(0x8000),
            };
            let len = match dice.below(4) {
                0 => 16,
                1 => dice.next_u64() as u32,
                _ => dice.below(2048) as u32,
            };
            let next = if dice.below(20) == 0 {
                999
            } else {
                dice.below(16) as u16
            };
            raw.descriptor(0, at, (gpa, len, dice.below(8) as u16, next));
        }
        for at in 0..0x8000 / 16 {
            let mut header = [0u32, 1, 4, 8, 11, 13, 77][dice.below(7) as usize]
                .to_le_bytes()
                .to_vec();
            header.extend([0; 4]);
            header.extend(dice.below(40_000).to_le_bytes());
            raw.put(BUFFERS + at * 16, &header);
        }
        for _ in 0..SIZE {
            let head = dice.below(16) as u16;
            raw.offer(0, head);
        }
        raw.kick(0);
        let before = bench.device().stats()[0].arrived;
        let _base = raw.vhost.get_vring_base(0).unwrap();
        assert!(bench.device().stats()[0].arrived >= before);
    }
    still_works(&bench, "a");
    still_works(&bench, "b");
    bench.stop();
}
