//! Sockets that close, devices that go, legs that grow.

use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

use super::*;
use crate::support::PATIENCE;
use crate::support::raw::Raw;
use legwatch::event::FrontendChange;
use vhost::vhost_user::VhostUserFrontend;
use vhost::vhost_user::message::VhostUserConfigFlags;

fn is_disconnected(what: &What) -> bool {
    let change = |change: &FrontendChange| matches!(change, FrontendChange::Disconnected(_));
    matches!(what, What::Frontend { leg: LegId(0), change: of } if change(of))
}

/// Which socket it is that is at `path` now.
pub(super) fn socket_at(path: &Path) -> Option<(u64, i64, i64)> {
    let metadata = path.metadata().ok()?;
    Some((metadata.ino(), metadata.ctime(), metadata.ctime_nsec()))
}

/// Waits until another socket than `before` is there, and listened at.
pub(super) fn await_another(path: &Path, before: Option<(u64, i64, i64)>) {
    crate::support::until("the socket again", || {
        let now = socket_at(path);
        now.is_some() && now != before && UnixStream::connect(path).is_ok()
    });
}

#[test]
fn a_closed_socket_is_opened_again_and_nothing_is_answered_in_between() {
    let (bench, mut client) = start(
        "[[fault]]\nlegs = [\"a\"]\non = [\"write\"]\nnth = 2\ndo = { disconnect = { ms = 30 } }\n\
         [[fault]]\nlegs = [\"a\"]\non = [\"write\"]\nsectors = \"50+1\"\ndo = { hold = { until_mark = \"go\" } }\n",
    );
    let mut other = Client::connect(&bench, "b", 1, ALL);
    let path = bench.socket("a");
    let before = socket_at(&path);
    assert_eq!(client.write(0, &[1; 512]), 0);
    submit_write(&mut client, 0, 4096, 2, 7);
    bench
        .events
        .wait("the end of the connection", is_disconnected);
    assert_eq!(other.write(0, &[9; 512]), 0, "the other leg goes on");
    // The dead connection's driver can't be told; whatever it asks now is read by nobody.
    submit_write(&mut client, 3, 8192, 3, 8);
    drop(client);
    await_another(&path, before);
    let mut client = Client::connect(&bench, "a", 1, ALL);
    assert_eq!(
        client.read(0, 512).unwrap(),
        [1; 512],
        "the second write was not stored"
    );
    assert_eq!(client.read(3 * 512, 512).unwrap(), [0; 512]);
    assert_eq!(client.write(0, &[4; 512]), 0);
    assert_eq!(client.read(0, 512).unwrap(), [4; 512]);
    drop(other);
    drop(client);
    let events = bench.stop();
    assert_eq!(actions(&events), [Action::Disconnect { ms: 30 }]);
    let abandoned: Vec<_> = events
        .iter()
        .filter_map(|event| match &event.what {
            What::Abandoned(abandoned) => Some(abandoned.applied),
            _ => None,
        })
        .collect();
    assert_eq!(abandoned, [false], "the write that met the rule");
}

/// Who sees the end of the connection finds in the ring what was answered before it. The notification may have met a frontend that no longer
/// listened: who connects again is notified of it once more.
#[test]
fn what_was_answered_before_the_end_is_in_the_ring_and_is_notified_of_again() {
    let bench = bench(
        "[[fault]]\nlegs = [\"a\"]\non = [\"write\"]\nnth = 3\ndo = { disconnect = { ms = 1 } }\n",
    );
    let event_index = 1 << 29;
    let mut raw = Raw::connect(&bench, "a", 1, 1 << 32 | 1 << 28 | event_index);
    raw.start(0, 0);
    let path = bench.socket("a");
    let before = socket_at(&path);
    assert!(
        raw.queues[0].call.read().is_err(),
        "nothing to tell of a fresh ring"
    );
    for slot in 0..3 {
        raw.write(0, slot, u64::from(slot), &[7; 512]);
    }
    raw.kick(0);
    let mut byte = 0u8;
    // SAFETY: one byte, for a buffer of one.
    let end = unsafe { libc::recv(raw.vhost.as_raw_fd(), (&raw mut byte).cast(), 1, 0) };
    assert_eq!((end, raw.used(0)), (0, 2));
    bench
        .events
        .wait("the end of the connection", is_disconnected);
    let _nobody_heard_it = raw.queues[0].call.read();
    await_another(&path, before);
    raw.again(&path);
    raw.resume(0, 2);
    raw.await_used(0, 3, "the write that met the rule");
    // The driver's used event is 0 still, so that the third answer alone asks for no notification.
    crate::support::until("a notification", || raw.queues[0].call.read().is_ok());
    drop(raw);
    bench.stop();
}

#[test]
fn a_leg_grows_when_a_rule_says_so_and_its_frontend_is_told() {
    const SECTORS: u64 = 32_768;
    let bench = bench(
        "[[fault]]\nlegs = [\"a\"]\non = [\"read\"]\nnth = 2\ndo = { resize = { sectors = 65536 } }\n",
    );
    let mut raw = Raw::started(&bench, "a", 1);
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    ours.set_read_timeout(Some(PATIENCE)).unwrap();
    raw.vhost.set_backend_request_fd(&theirs).unwrap();
    let read = |raw: &mut Raw, sector: u64| {
        let used = raw.used(0);
        let (_, status) = raw.request(0, 0, 0, sector, 512);
        raw.kick(0);
        raw.await_used(0, used.wrapping_add(1), "a read");
        raw.status(status)
    };
    assert_eq!(read(&mut raw, SECTORS), 1, "past the end");
    assert_eq!(read(&mut raw, 0), 0);
    assert_eq!(read(&mut raw, SECTORS), 1, "still");
    assert_eq!(read(&mut raw, 0), 0, "the read that the rule hits");
    let mut message = [0; 12];
    ours.read_exact(&mut message).unwrap();
    assert_eq!(message[0], 2, "the config space has changed");
    let flags = VhostUserConfigFlags::empty();
    let (_, bytes) = raw.vhost.get_config(0, 8, flags, &[0; 8]).unwrap();
    assert_eq!(u64::from_le_bytes(bytes.try_into().unwrap()), 65_536);
    assert_eq!(read(&mut raw, 65_535), 0);
    drop(raw);
    assert_eq!(actions(&bench.stop()), [Action::Resize { sectors: 65_536 }]);
}

#[test]
fn an_unplug_is_asked_for_and_the_request_is_served() {
    let (bench, mut client) = start(
        "[[fault]]\non = [\"write\"]\nnth = 1\ndo = { unplug = { ms = 5 } }\n\
         [[fault]]\non = [\"write\"]\nnth = 2\ndo = { unplug = { back = false } }\n",
    );
    assert_eq!(client.write(0, &[1; 512]), 0);
    assert_eq!(client.write(0, &[2; 512]), 0);
    assert_eq!(client.read(0, 512).unwrap(), [2; 512]);
    let told = end(bench, client);
    assert_eq!(
        told,
        [Action::Unplug { ms: Some(5) }, Action::Unplug { ms: None }]
    );
}
