//! A leg grows under its frontend, which is told.
#![allow(
    clippy::wildcard_enum_match_arm,
    reason = "tests look for the events they are about"
)]

use std::io::Read;
use std::os::unix::net::UnixStream;

use crate::support::raw::Raw;
use crate::support::{Bench, PATIENCE};
use legwatch::block::LegId;
use legwatch::config::{LegConfig, MediumConfig};
use vhost::vhost_user::VhostUserFrontend;
use vhost::vhost_user::message::VhostUserConfigFlags;

const SECTORS: u64 = 2048;

fn size(raw: &mut Raw) -> u64 {
    let (_, bytes) = raw
        .vhost
        .get_config(0, 8, VhostUserConfigFlags::empty(), &[0; 8])
        .unwrap();
    u64::from_le_bytes(bytes.try_into().unwrap())
}

/// The status of a read of one sector at `sector`.
fn read(raw: &mut Raw, sector: u64) -> u8 {
    let used = raw.used(0);
    let (_, status) = raw.request(0, 0, 0, sector, 512);
    raw.kick(0);
    raw.await_used(0, used.wrapping_add(1), "a read");
    raw.status(status)
}

#[test]
fn a_leg_grows_and_the_frontend_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    let image = std::fs::File::create(&path).unwrap();
    image.set_len(SECTORS * 512).unwrap();
    let mut file = LegConfig::memory("file", 0);
    file.medium = MediumConfig::File { path: path.clone() };
    let legs = [LegConfig::memory("mem", SECTORS * 512), file];
    let bench = Bench::start(&legs);
    for (id, leg) in [(LegId(0), "mem"), (LegId(1), "file")] {
        let mut raw = Raw::started(&bench, leg, 1);
        assert_eq!((size(&mut raw), read(&mut raw, SECTORS)), (SECTORS, 1));
        assert!(
            !bench.device().resize(id, SECTORS + 8).unwrap(),
            "no channel yet"
        );
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(PATIENCE)).unwrap();
        raw.vhost.set_backend_request_fd(&theirs).unwrap();
        drop(theirs);
        assert!(bench.device().resize(id, SECTORS * 2).unwrap(), "told");
        let mut message = [0; 12];
        ours.read_exact(&mut message).unwrap();
        assert_eq!(message, [2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(size(&mut raw), SECTORS * 2);
        assert_eq!(read(&mut raw, SECTORS * 2 - 1), 0);
        assert_eq!(read(&mut raw, SECTORS * 2), 1);
        // Never smaller, never without bound, and only legs that are there.
        bench.device().resize(id, SECTORS).unwrap_err();
        bench.device().resize(id, u64::MAX).unwrap_err();
        bench.device().resize(LegId(7), SECTORS).unwrap_err();
        // The channel ends with its connection.
        drop(raw);
        assert_eq!(ours.read(&mut message).unwrap(), 0, "closed");
        let mut raw = Raw::started(&bench, leg, 1);
        assert_eq!(size(&mut raw), SECTORS * 2);
    }
    assert_eq!(bench.device().sectors(), [SECTORS * 2; 2]);
    assert_eq!(image.metadata().unwrap().len(), SECTORS * 1024);
    bench.stop();
}

#[test]
fn a_channel_that_is_no_socket_ends_the_connection_alone() {
    let bench = Bench::start(&[LegConfig::memory("a", SECTORS * 512)]);
    let mut raw = Raw::started(&bench, "a", 1);
    let file = std::fs::File::open("/dev/null").unwrap();
    raw.vhost.set_backend_request_fd(&file).unwrap_err();
    drop(raw);
    let mut raw = Raw::started(&bench, "a", 1);
    assert_eq!(read(&mut raw, 0), 0);
    bench.stop();
}
