//! What the frontend tests share: a running device whose events are collected, a client on the foreign `virtio-driver` crate, and waiting for
//! events rather than for time.
#![allow(
    dead_code,
    unused_imports,
    reason = "not every test program uses all of it"
)]
#![allow(
    clippy::cast_possible_truncation,
    clippy::wildcard_enum_match_arm,
    reason = "numbers of tests are small, and tests look for the events they are about"
)]

pub(crate) mod raw;

use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use legwatch::block::{LegId, RequestId};
use legwatch::config::LegConfig;
use legwatch::device::{Device, Options};
use legwatch::event::{Event, EventNo, What};
use legwatch::sequence::{NoEvent, Sequence};
use virtio_driver::{VhostUser, VirtioBlkQueue, VirtioBlkTransport, VirtioTransport};

/// Longer than anything takes on a loaded machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A device and its events.
pub(crate) struct Bench {
    pub(crate) device: Option<Device>,
    pub(crate) dir: tempfile::TempDir,
    pub(crate) events: Arc<Events>,
    collector: Option<std::thread::JoinHandle<()>>,
}

/// All events so far.
#[derive(Default)]
pub(crate) struct Events {
    list: Mutex<(Vec<Event>, bool)>,
    more: Condvar,
}

impl Events {
    /// Waits until some event fits; returns it.
    pub(crate) fn wait(&self, what: &str, fits: impl Fn(&What) -> bool) -> Event {
        self.wait_count(what, 1, fits).pop().unwrap()
    }

    /// Waits until `count` events fit; returns them.
    pub(crate) fn wait_count(
        &self,
        what: &str,
        count: usize,
        fits: impl Fn(&What) -> bool,
    ) -> Vec<Event> {
        let found = |events: &Vec<Event>| -> Vec<Event> {
            events.iter().filter(|e| fits(&e.what)).cloned().collect()
        };
        let list = self.list.lock().unwrap();
        let (list, timeout) = self
            .more
            .wait_timeout_while(list, PATIENCE, |(events, ended)| {
                found(events).len() < count && !*ended
            })
            .unwrap();
        let found = found(&list.0);
        assert!(
            found.len() >= count,
            "awaited {count} × {what}, timed out: {}; events: {:#?}",
            timeout.timed_out(),
            list.0.iter().rev().take(20).collect::<Vec<_>>()
        );
        found
    }

    /// All events so far.
    pub(crate) fn all(&self) -> Vec<Event> {
        self.list.lock().unwrap().0.clone()
    }

    /// The number of the first event that fits.
    pub(crate) fn number(&self, what: &str, fits: impl Fn(&What) -> bool) -> EventNo {
        self.wait(what, fits).no
    }
}

impl Bench {
    pub(crate) fn start(legs: &[LegConfig]) -> Bench {
        Bench::with(legs, &Options::default())
    }

    pub(crate) fn with(legs: &[LegConfig], options: &Options) -> Bench {
        let dir = tempfile::tempdir().unwrap();
        let (sequence, mut collector) = Sequence::new(EventNo(0));
        let device = Device::start(legs, dir.path(), options, &sequence).unwrap();
        let events = Arc::new(Events::default());
        let into = Arc::clone(&events);
        let collector = std::thread::spawn(move || {
            loop {
                match collector.next(Duration::from_secs(1)) {
                    Ok(event) => into.list.lock().unwrap().0.push(event),
                    Err(NoEvent::TimedOut) => {}
                    Err(NoEvent::Ended) => break,
                }
                into.more.notify_all();
            }
            into.list.lock().unwrap().1 = true;
            into.more.notify_all();
        });
        Bench {
            device: Some(device),
            dir,
            events,
            collector: Some(collector),
        }
    }

    pub(crate) fn device(&self) -> &Device {
        self.device.as_ref().unwrap()
    }

    pub(crate) fn socket(&self, name: &str) -> PathBuf {
        self.dir.path().join(format!("{name}.sock"))
    }

    /// Stops the device and returns all its events.
    pub(crate) fn stop(mut self) -> Vec<Event> {
        let begun = legwatch::clock::now();
        self.device.take().unwrap().stop();
        assert!(
            begun.elapsed() < Duration::from_secs(5),
            "stopping took {:?}",
            begun.elapsed()
        );
        self.collector.take().unwrap().join().unwrap();
        let events = self.events.all();
        check(&events);
        events
    }
}

/// What holds for every run: numbers without a gap, every request ends exactly once, its steps in order.
pub(crate) fn check(events: &[Event]) {
    use std::collections::BTreeMap;
    let mut steps: BTreeMap<RequestId, Vec<&'static str>> = BTreeMap::new();
    let mut last: BTreeMap<LegId, u64> = BTreeMap::new();
    for (event, no) in events.iter().zip(1..) {
        assert_eq!(event.no, EventNo(no), "numbers have no gap");
        let (request, step) = match &event.what {
            What::Arrived(e) => {
                let last = last.entry(e.request.leg).or_default();
                *last += 1;
                assert_eq!(e.request.number, *last, "requests are counted");
                (e.request, "arrived")
            }
            What::Fetched(e) => (e.request, "fetched"),
            What::Completed(e) => (e.request, "ended"),
            What::Abandoned(e) => (e.request, "ended"),
            _ => continue,
        };
        steps.entry(request).or_default().push(step);
    }
    for (request, steps) in steps {
        assert!(
            matches!(
                steps[..],
                ["arrived", "ended"] | ["arrived", "fetched", "ended"]
            ),
            "{request:?} went {steps:?}"
        );
    }
}

/// Memory that is shared with a device.
pub(crate) struct Shared {
    pub(crate) file: std::fs::File,
    at: *mut u8,
    len: usize,
}

// SAFETY: plain memory behind a pointer.
unsafe impl Send for Shared {}

impl Shared {
    pub(crate) fn new(len: usize) -> Shared {
        // SAFETY: system calls that make a new file and map it at an address of the kernel's choice.
        let (file, at) = unsafe {
            let fd = libc::memfd_create(c"frontend".as_ptr(), libc::MFD_CLOEXEC);
            assert!(fd >= 0, "memfd");
            let file = std::fs::File::from_raw_fd(fd);
            file.set_len(len as u64).unwrap();
            let at = libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                fd,
                0,
            );
            assert_ne!(at, libc::MAP_FAILED, "mapping");
            (file, at.cast())
        };
        Shared { file, at, len }
    }

    pub(crate) fn addr(&self) -> usize {
        self.at as usize
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: the mapping is ours; the device writes to it only while a request is in flight.
        unsafe { std::slice::from_raw_parts_mut(self.at, self.len) }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours.
        unsafe {
            libc::munmap(self.at.cast(), self.len);
        }
    }
}

/// Waits until `fd` can be read.
pub(crate) fn await_readable(fd: RawFd, what: &str) {
    let mut poll = libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one pollfd that outlives the call.
    let ready = unsafe { libc::poll(&mut poll, 1, PATIENCE.as_millis() as i32) };
    assert_eq!(ready, 1, "awaited {what}");
}

/// A foreign frontend with one buffer.
pub(crate) struct Client {
    pub(crate) queues: Vec<VirtioBlkQueue<'static, u64>>,
    pub(crate) transport: Box<VirtioBlkTransport>,
    pub(crate) memory: Shared,
}

/// What clients negotiate unless a test says otherwise: everything on split rings.
pub(crate) const ALL: u64 = !(1 << 34);

/// Everything, packed rings too. The client's own code for them takes no answer shorter than its buffers, so no errors.
pub(crate) const PACKED: u64 = !0;

impl Client {
    pub(crate) fn connect(bench: &Bench, leg: &str, queues: usize, features: u64) -> Client {
        Client::attach(&bench.socket(leg), queues, features)
    }

    pub(crate) fn attach(path: &std::path::Path, queues: usize, features: u64) -> Client {
        let vhost = VhostUser::new(path.to_str().unwrap(), features).unwrap();
        let mut transport: Box<VirtioBlkTransport> = Box::new(vhost);
        let memory = Shared::new(4 << 20);
        transport
            .map_mem_region(memory.addr(), memory.len(), memory.file.as_raw_fd(), 0)
            .unwrap();
        let mut queues = VirtioBlkQueue::setup_queues(transport.as_mut(), queues, 128).unwrap();
        for queue in &mut queues {
            queue.set_used_notif_enabled(true);
        }
        Client {
            queues,
            transport,
            memory,
        }
    }

    pub(crate) fn kick(&self, queue: usize) {
        self.transport
            .get_submission_notifier(queue)
            .notify()
            .unwrap();
    }

    /// Waits for `count` completions on a queue: (context, result).
    pub(crate) fn collect(&mut self, queue: usize, count: usize, what: &str) -> Vec<(u64, i32)> {
        let fd = self.transport.get_completion_fd(queue);
        let mut done = Vec::new();
        loop {
            done.extend(self.queues[queue].completions().map(|c| (c.context, c.ret)));
            if done.len() >= count {
                return done;
            }
            await_readable(fd.as_raw_fd(), what);
            fd.read().unwrap();
        }
    }

    /// Kicks and waits for the one request that was queued.
    pub(crate) fn one(&mut self, queue: usize, what: &str) -> i32 {
        self.kick(queue);
        let done = self.collect(queue, 1, what);
        assert_eq!(done.len(), 1, "{what}");
        done[0].1
    }

    /// Writes `bytes`, which go through the start of the client's memory.
    pub(crate) fn write(&mut self, offset: u64, bytes: &[u8]) -> i32 {
        self.memory.bytes()[..bytes.len()].copy_from_slice(bytes);
        let at = self.memory.addr() as *const u8;
        // SAFETY: the buffer is the client's memory, which outlives the request.
        unsafe { self.queues[0].write_raw(offset, at, bytes.len(), 1) }.unwrap();
        self.one(0, "a write")
    }

    /// Reads `len` bytes.
    pub(crate) fn read(&mut self, offset: u64, len: usize) -> Result<Vec<u8>, i32> {
        let at = (self.memory.addr() + (1 << 20)) as *mut u8;
        // SAFETY: as for writes.
        unsafe { self.queues[0].read_raw(offset, at, len, 2) }.unwrap();
        match self.one(0, "a read") {
            0 => Ok(self.memory.bytes()[1 << 20..(1 << 20) + len].to_vec()),
            error => Err(error),
        }
    }
}

/// Waits for what there is no event for.
pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = legwatch::clock::now();
    while !is_so() {
        assert!(
            begun.elapsed() < PATIENCE,
            "{what} was awaited for {PATIENCE:?}"
        );
        std::thread::yield_now();
    }
}

/// Bytes that name their place.
pub(crate) fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut words = legwatch::stamp::SplitMix64(seed);
    (0..len.div_ceil(8))
        .flat_map(|_| words.next_u64().to_le_bytes())
        .take(len)
        .collect()
}

/// The 4096 bytes of a superblock at this sector with this data area, all in sectors.
pub(crate) fn superblock(at: u64, data_offset: u64, size: u64) -> Vec<u8> {
    let mut bytes = vec![0; 4096];
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    put(0, &0xa92b_4efc_u32.to_le_bytes());
    put(4, &1u32.to_le_bytes());
    put(72, &1u32.to_le_bytes());
    put(80, &size.to_le_bytes());
    put(92, &2u32.to_le_bytes());
    put(128, &data_offset.to_le_bytes());
    put(144, &at.to_le_bytes());
    put(220, &2u32.to_le_bytes());
    let checksum = legwatch::md::superblock::checksum_1(&bytes, 2);
    bytes[216..220].copy_from_slice(&checksum.to_le_bytes());
    bytes
}
