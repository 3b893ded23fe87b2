//! A frontend that means harm, on a witness that is a process of its own: messages with descriptors that are too many, too few or of the wrong kind, connections
//! that break off at every byte, memory that comes and goes under load, and discards of more than anybody has room for. The witness goes on, and
//! nothing of it is left behind: descriptors, threads, mappings, memory.
#![allow(
    clippy::cast_possible_truncation,
    reason = "numbers of tests are small"
)]

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use vhost::VhostBackend;
use vhost::vhost_user::VhostUserFrontend;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};
use vmm_sys_util::sock_ctrl_msg::ScmSocket;

use crate::support::raw::{BUFFERS, GPA, Raw};
use crate::support::{ALL, Bench, Client, PATIENCE, Shared, pattern};
use legwatch::config::LegConfig;
use legwatch::stamp::SplitMix64;

/// The witness as a program.
struct Witness {
    child: Child,
    dir: tempfile::TempDir,
}

impl Witness {
    fn start(leg: &str) -> Witness {
        let dir = tempfile::tempdir().unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_legwatch"))
            .args(["serve", "--leg", leg, "--sockets"])
            .arg(dir.path().join("s"))
            .arg("--out")
            .arg(dir.path().join("out"))
            .arg("--control")
            .arg(dir.path().join("ctl.sock"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let witness = Witness { child, dir };
        crate::support::until("the socket", || witness.socket().exists());
        witness
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("s/a.sock")
    }

    fn proc(&self, what: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{what}", self.child.id()))
    }

    /// Descriptors, threads, mappings of what frontends share.
    fn weight(&self) -> (usize, usize, usize) {
        let count = |what| std::fs::read_dir(self.proc(what)).unwrap().count();
        let maps = std::fs::read_to_string(self.proc("maps")).unwrap();
        let shared = |line: &&str| line.contains("/memfd:");
        (
            count("fd"),
            count("task"),
            maps.lines().filter(shared).count(),
        )
    }

    /// Waits until it weighs no more than `before`; a connection that has ended is put away a moment later.
    fn is_as_before(&self, before: (usize, usize, usize)) {
        let begun = legwatch::clock::now();
        loop {
            let now = self.weight();
            if now == before {
                return;
            }
            assert!(
                begun.elapsed() < PATIENCE,
                "descriptors, threads, mappings: {before:?} before, {now:?} now"
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The most memory that it ever had, in KiB.
    fn most_memory(&self) -> u64 {
        let status = std::fs::read_to_string(self.proc("status")).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM:"));
        let words = line.unwrap().split_whitespace().nth(1);
        words.unwrap().parse().unwrap()
    }

    fn serves(&self) {
        let mut client = Client::attach(&self.socket(), 1, ALL);
        let bytes = pattern(77, 4096);
        assert_eq!(client.write(0, &bytes), 0);
        assert_eq!(client.read(0, 4096).unwrap(), bytes);
    }

    /// SIGTERM. A verdict is given: it ended in order.
    fn end(mut self) {
        let pid = libc::pid_t::try_from(self.child.id()).unwrap();
        // SAFETY: a signal to our own child, which was not waited for.
        unsafe { libc::kill(pid, libc::SIGTERM) };
        let begun = legwatch::clock::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                // Nothing was intended, so nothing was exercised.
                assert_eq!(status.code(), Some(125));
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "awaited the verdict");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        // It may be gone already.
        let _gone = self.child.kill();
        let _was_waited_for = self.child.wait();
    }
}

/// A message: its number, what follows the header, its descriptors.
struct Message(u32, Vec<u8>, Vec<OwnedFd>);

impl Message {
    fn bytes(&self, flags: u32) -> Vec<u8> {
        let mut bytes = Vec::new();
        for word in [self.0, 1 | flags, self.1.len() as u32] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend(&self.1);
        bytes
    }

    fn fds(&self) -> Vec<RawFd> {
        self.2.iter().map(AsRawFd::as_raw_fd).collect()
    }
}

fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// A queue's number and a value, of 32 bits each.
fn pair(index: u32, value: u32) -> Vec<u8> {
    words(&[u64::from(index) | u64::from(value) << 32])
}

fn eventfd() -> OwnedFd {
    let fd = EventFd::new(EFD_NONBLOCK).unwrap();
    // SAFETY: a new descriptor of its own, which nothing else closes.
    unsafe { OwnedFd::from_raw_fd(libc::dup(fd.as_raw_fd())) }
}

/// What a frontend says from its greeting to a queue that runs, and to its end.
fn session(memory: &Shared) -> Vec<Message> {
    let shared = || OwnedFd::from(memory.file.try_clone().unwrap());
    let at = memory.addr() as u64;
    let region = [GPA, memory.len() as u64, at, 0];
    let table = [&[1], &region[..]].concat();
    let inflight = [4096, 0, 1 | 16 << 16];
    let other = Shared::new(1 << 16);
    let more = [0, GPA + (1 << 30), 1 << 16, at + (1 << 40), 0];
    let (channel, _theirs) = UnixStream::pair().unwrap();
    let plain = |number, body| Message(number, body, Vec::new());
    let with = |number, body, fd| Message(number, body, vec![fd]);
    vec![
        plain(1, Vec::new()),
        plain(3, Vec::new()),
        plain(15, Vec::new()),
        plain(
            16,
            words(&[1 | 1 << 3 | 1 << 5 | 1 << 9 | 1 << 12 | 1 << 13 | 1 << 15]),
        ),
        plain(17, Vec::new()),
        plain(2, words(&[1 << 32 | 1 << 30 | 1 << 28])),
        with(21, Vec::new(), channel.into()),
        plain(36, Vec::new()),
        plain(24, [pair(0, 60), vec![0; 64]].concat()),
        with(5, words(&table), shared()),
        with(37, words(&more), other.file.try_clone().unwrap().into()),
        plain(31, words(&inflight)),
        with(
            32,
            words(&inflight),
            Shared::new(8192).file.try_clone().unwrap().into(),
        ),
        plain(8, pair(0, 16)),
        plain(10, pair(0, 0)),
        plain(9, words(&[0, at, at + 0x2000, at + 0x1000, 0])),
        with(13, words(&[0]), eventfd()),
        with(14, words(&[0]), eventfd()),
        with(12, words(&[0]), eventfd()),
        plain(18, pair(0, 1)),
        plain(25, [pair(32, 1), words(&[1])[..5].to_vec()].concat()),
        plain(38, words(&more)),
        plain(11, pair(0, 0)),
        plain(34, Vec::new()),
    ]
}

#[test]
fn a_connection_that_breaks_off_anywhere_leaves_nothing_behind() {
    let witness = Witness::start("a=mem:16M");
    witness.serves();
    let before = {
        // What the first connections made once stays.
        std::thread::sleep(Duration::from_millis(100));
        witness.weight()
    };
    let memory = Shared::new(1 << 20);
    let all = session(&memory);
    for last in 0..all.len() {
        let whole = all[last].bytes(1 << 3).len();
        for cut in [0, 1, 11, 12, 13, whole - 1, whole] {
            if cut > whole {
                continue;
            }
            let mut stream = UnixStream::connect(witness.socket()).unwrap();
            stream.set_write_timeout(Some(PATIENCE)).unwrap();
            for (at, message) in all[..=last].iter().enumerate() {
                let bytes = message.bytes(if message.0 == 2 { 0 } else { 1 << 3 });
                let bytes = if at == last {
                    &bytes[..cut.min(bytes.len())]
                } else {
                    &bytes[..]
                };
                if bytes.is_empty() {
                    break;
                }
                let sent = if message.2.is_empty() {
                    stream.write(bytes)
                } else {
                    let sent = stream.send_with_fds(&[bytes], &message.fds());
                    sent.map_err(|error| std::io::Error::from_raw_os_error(error.errno()))
                };
                // It may have hung up at what it does not like.
                if sent.is_err() {
                    break;
                }
            }
        }
    }
    witness.is_as_before(before);
    witness.serves();
    witness.is_as_before(before);
    witness.end();
}

/// Descriptors of every kind but the one that is asked for.
fn odd(dice: &mut SplitMix64) -> OwnedFd {
    match dice.below(8) {
        0 => File::open("/dev/null").unwrap().into(),
        1 => File::open("/").unwrap().into(),
        2 => UnixStream::pair().unwrap().0.into(),
        3 => eventfd(),
        4 => File::open("/proc/self/maps").unwrap().into(),
        5 => Shared::new(4096).file.try_clone().unwrap().into(),
        6 => {
            // Memory that can only be read.
            let shared = Shared::new(1 << 20);
            File::open(format!("/proc/self/fd/{}", shared.file.as_raw_fd()))
                .unwrap()
                .into()
        }
        _ => std::io::pipe().unwrap().0.into(),
    }
}

#[test]
fn wrong_descriptors_and_numbers_are_survived_and_closed() {
    let witness = Witness::start("a=mem:16M");
    witness.serves();
    std::thread::sleep(Duration::from_millis(100));
    let before = witness.weight();
    let memory = Shared::new(1 << 20);
    let mut dice = SplitMix64(4);
    for round in 0..400 {
        let mut stream = UnixStream::connect(witness.socket()).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_millis(2)))
            .unwrap();
        let spoilt = dice.below(24) as usize;
        for (at, mut message) in session(&memory).into_iter().enumerate() {
            if at == spoilt || (round % 4 == 0 && dice.below(4) == 0) {
                match dice.below(4) {
                    0 => message.2.clear(),
                    1 => message.2 = (0..1 + dice.below(40)).map(|_| odd(&mut dice)).collect(),
                    2 => {
                        for word in message.1.chunks_mut(8) {
                            if dice.below(2) == 0 {
                                let new = match dice.below(4) {
                                    0 => dice.next_u64(),
                                    1 => u64::MAX - dice.below(0x2000),
                                    2 => 1 << dice.below(64),
                                    _ => dice.below(70_000),
                                };
                                let len = word.len();
                                word.copy_from_slice(&new.to_le_bytes()[..len]);
                            }
                        }
                    }
                    _ => {
                        let len = dice.below(600) as usize;
                        message.1.resize(len, 7);
                    }
                }
            }
            let flags = if dice.below(2) == 0 { 0 } else { 1 << 3 };
            let sent = if message.2.is_empty() {
                stream.write(&message.bytes(flags)).is_ok()
            } else {
                stream
                    .send_with_fds(&[&message.bytes(flags)[..]], &message.fds())
                    .is_ok()
            };
            if !sent {
                break;
            }
        }
        let _answers = stream.read(&mut [0; 4096]);
    }
    witness.is_as_before(before);
    witness.serves();
    witness.is_as_before(before);
    witness.end();
}

/// Memory is replaced, split, added to and taken from while requests are on their way: all are answered, with the right data.
#[test]
fn memory_changes_under_load_and_nothing_is_lost() {
    let bench = Bench::start(&[LegConfig::memory("a", 16 << 20)]);
    let mut raw = Raw::started(&bench, "a", 1);
    let extra = Shared::new(1 << 16);
    let whole = raw.region();
    let mut more = whole;
    more.guest_phys_addr = GPA + (1 << 30);
    more.memory_size = 1 << 16;
    more.userspace_addr = extra.addr() as u64;
    more.mmap_handle = extra.file.as_raw_fd();
    // In two, cut amid the buffers: a request's pages are in both.
    let cut = (BUFFERS + 0x1400) as u64;
    let (mut low, mut high) = (whole, whole);
    low.memory_size = cut;
    high.guest_phys_addr += cut;
    high.userspace_addr += cut;
    high.memory_size -= cut;
    high.mmap_offset = cut;
    for round in 0..200u64 {
        let used = raw.used(0);
        let bytes = pattern(round + 1, 4096);
        let statuses: Vec<usize> = (0..4)
            .map(|slot| raw.write(0, slot, 64 * round + 8 * u64::from(slot), &bytes))
            .collect();
        raw.kick(0);
        match round % 4 {
            0 => {
                raw.vhost.set_mem_table(&[low, high]).unwrap();
            }
            1 => {
                raw.vhost.set_mem_table(&[whole]).unwrap();
            }
            2 => {
                raw.vhost.add_mem_region(&more).unwrap();
                raw.vhost.remove_mem_region(&more).unwrap();
                raw.vhost.remove_mem_region(&more).unwrap_err();
            }
            _ => {
                // What is taken is answered; the rest waits in the ring.
                let base = raw.vhost.get_vring_base(0).unwrap() as u16;
                assert_eq!(raw.used(0), base);
                let next = raw.queues[0].next;
                raw.resume(0, base);
                assert_eq!(raw.queues[0].next, next);
                raw.kick(0);
            }
        }
        raw.await_used(0, used.wrapping_add(4), "four writes");
        for status in statuses {
            assert_eq!(raw.status(status), 0, "round {round}");
        }
        let (data, status) = raw.request(0, 0, 0, 64 * round + 16, 4096);
        raw.kick(0);
        raw.await_used(0, used.wrapping_add(5), "a read");
        assert_eq!(raw.status(status), 0);
        assert_eq!(
            raw.memory.bytes()[data..data + 4096],
            bytes,
            "round {round}"
        );
    }
    drop(raw);
    bench.stop();
}

/// A discard under modelled caches looks at what it discards, and keeps no more of it than what is there.
#[test]
fn discards_of_gigabytes_take_no_memory() {
    const BYTES: u64 = 2 << 30;
    let witness = Witness::start("a=mem:2G");
    let mut client = Client::attach(&witness.socket(), 1, ALL);
    let bytes = pattern(3, 64 << 10);
    let places = [0, BYTES / 2, BYTES - bytes.len() as u64];
    for at in places {
        assert_eq!(client.write(at, &bytes), 0);
    }
    for at in [0, BYTES / 2] {
        client.queues[0].discard(at, BYTES / 2, 9).unwrap();
        assert_eq!(client.one(0, "a discard"), 0);
    }
    for at in places {
        assert_eq!(client.read(at, 4096).unwrap(), [0; 4096]);
    }
    let most = witness.most_memory();
    assert!(most < 512 << 10, "{most} KiB");
    drop(client);
    witness.end();
}
