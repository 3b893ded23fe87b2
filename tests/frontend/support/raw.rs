//! A frontend that does as it is told: hand-made rings on the `vhost` crate's messages.

use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU16, Ordering};

use vhost::vhost_user::message::{VhostUserHeaderFlag, VhostUserProtocolFeatures};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::{Bench, PATIENCE, Shared};

pub(crate) const SIZE: u16 = 16;
pub(crate) const QUEUE_BYTES: usize = 0x4000;
pub(crate) const BUFFERS: usize = 0x1_0000;
pub(crate) const GPA: u64 = 0x4000_0000;

/// One queue's ring and descriptors.
pub(crate) struct Queue {
    pub(crate) at: usize,
    pub(crate) next: u16,
    pub(crate) kick: EventFd,
    pub(crate) call: EventFd,
    pub(crate) error: EventFd,
}

/// A frontend that does as it is told.
pub(crate) struct Raw {
    pub(crate) vhost: Frontend,
    pub(crate) memory: Shared,
    pub(crate) queues: Vec<Queue>,
    pub(crate) features: u64,
}

impl Raw {
    pub(crate) fn connect(bench: &Bench, leg: &str, queues: usize, features: u64) -> Raw {
        Raw::attach(&bench.socket(leg), queues, features)
    }

    /// A frontend of the leg that listens at `path`, with new memory.
    pub(crate) fn attach(path: &std::path::Path, queues: usize, features: u64) -> Raw {
        let (vhost, features) = Raw::greet(path, features);
        let eventfd = || EventFd::new(EFD_NONBLOCK).unwrap();
        let queues = (0..queues)
            .map(|index| Queue {
                at: index * QUEUE_BYTES,
                next: 0,
                kick: eventfd(),
                call: eventfd(),
                error: eventfd(),
            })
            .collect();
        let raw = Raw {
            vhost,
            memory: Shared::new(1 << 20),
            queues,
            features,
        };
        raw.vhost.set_mem_table(&[raw.region()]).unwrap();
        raw
    }

    /// Talks to another backend, with the same memory and rings.
    pub(crate) fn again(&mut self, path: &std::path::Path) {
        // SAFETY: a system call on a descriptor that is open as long as `vhost` is.
        unsafe { libc::shutdown(self.vhost.as_raw_fd(), libc::SHUT_RDWR) };
        (self.vhost, _) = Raw::greet(path, self.features);
        self.vhost.set_mem_table(&[self.region()]).unwrap();
    }

    fn greet(path: &std::path::Path, features: u64) -> (Frontend, u64) {
        let mut vhost = Frontend::connect(path, 16).unwrap();
        vhost.set_owner().unwrap();
        let features = vhost.get_features().unwrap() & (features | 1 << 30);
        let protocol = vhost.get_protocol_features().unwrap();
        vhost
            .set_protocol_features(
                protocol
                    & (VhostUserProtocolFeatures::MQ
                        | VhostUserProtocolFeatures::CONFIG
                        | VhostUserProtocolFeatures::REPLY_ACK
                        | VhostUserProtocolFeatures::RESET_DEVICE
                        | VhostUserProtocolFeatures::INFLIGHT_SHMFD
                        | VhostUserProtocolFeatures::BACKEND_REQ
                        | VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS),
            )
            .unwrap();
        vhost.set_features(features).unwrap();
        vhost.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
        (vhost, features)
    }

    /// Whether features that were not offered, set all the same, are refused.
    pub(crate) fn refused(bench: &Bench, leg: &str, more: u64) -> bool {
        let mut vhost = Frontend::connect(bench.socket(leg), 16).unwrap();
        vhost.set_owner().unwrap();
        let features = vhost.get_features().unwrap();
        assert_eq!(features & more, 0, "offered");
        vhost.get_protocol_features().unwrap();
        vhost
            .set_protocol_features(VhostUserProtocolFeatures::REPLY_ACK)
            .unwrap();
        vhost.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
        vhost.set_features(features | more).is_err()
    }

    pub(crate) fn started(bench: &Bench, leg: &str, queues: usize) -> Raw {
        let mut raw = Raw::connect(bench, leg, queues, 1 << 32 | 1 << 28);
        for index in 0..queues {
            raw.start(index, 0);
        }
        raw
    }

    pub(crate) fn region(&self) -> VhostUserMemoryRegionInfo {
        VhostUserMemoryRegionInfo {
            guest_phys_addr: GPA,
            memory_size: self.memory.len() as u64,
            userspace_addr: self.memory.addr() as u64,
            mmap_offset: 0,
            mmap_handle: self.memory.file.as_raw_fd(),
        }
    }

    pub(crate) fn start(&mut self, index: usize, base: u16) {
        self.queues[index].next = base;
        self.resume(index, base);
    }

    /// Starts a queue from `base` on, whatever is in its ring.
    pub(crate) fn resume(&mut self, index: usize, base: u16) {
        let queue = &self.queues[index];
        let at = (self.memory.addr() + queue.at) as u64;
        self.vhost.set_vring_num(index, SIZE).unwrap();
        self.vhost.set_vring_base(index, base).unwrap();
        let addresses = VringConfigData {
            queue_max_size: SIZE,
            queue_size: SIZE,
            flags: 0,
            desc_table_addr: at,
            avail_ring_addr: at + 0x1000,
            used_ring_addr: at + 0x2000,
            log_addr: None,
        };
        self.vhost.set_vring_addr(index, &addresses).unwrap();
        let queue = &self.queues[index];
        self.vhost.set_vring_call(index, &queue.call).unwrap();
        self.vhost.set_vring_err(index, &queue.error).unwrap();
        self.vhost.set_vring_kick(index, &queue.kick).unwrap();
        if self.features & 1 << 30 != 0 {
            self.vhost.set_vring_enable(index, true).unwrap();
        }
    }

    pub(crate) fn put(&mut self, at: usize, bytes: &[u8]) {
        self.memory.bytes()[at..at + bytes.len()].copy_from_slice(bytes);
    }

    pub(crate) fn word(&self, at: usize) -> &AtomicU16 {
        // SAFETY: an aligned word of the shared memory.
        unsafe { AtomicU16::from_ptr((self.memory.addr() + at) as *mut u16) }
    }

    pub(crate) fn used(&self, index: usize) -> u16 {
        self.word(self.queues[index].at + 0x2002)
            .load(Ordering::Acquire)
    }

    /// The head of a used entry.
    pub(crate) fn used_head(&mut self, index: usize, entry: u16) -> u16 {
        let at = self.queues[index].at + 0x2004 + usize::from(entry % SIZE) * 8;
        u16::from_le_bytes(self.memory.bytes()[at..at + 2].try_into().unwrap())
    }

    /// The length of a used entry.
    pub(crate) fn used_len(&mut self, index: usize, entry: u16) -> u32 {
        let at = self.queues[index].at + 0x2004 + usize::from(entry % SIZE) * 8 + 4;
        u32::from_le_bytes(self.memory.bytes()[at..at + 4].try_into().unwrap())
    }

    pub(crate) fn descriptor(&mut self, index: usize, at: u16, desc: (u64, u32, u16, u16)) {
        let mut raw = Vec::new();
        raw.extend(desc.0.to_le_bytes());
        raw.extend(desc.1.to_le_bytes());
        raw.extend(desc.2.to_le_bytes());
        raw.extend(desc.3.to_le_bytes());
        self.put(self.queues[index].at + usize::from(at) * 16, &raw);
    }

    /// Makes the chain at `head` available, without a kick.
    pub(crate) fn offer(&mut self, index: usize, head: u16) {
        let queue = &mut self.queues[index];
        let (at, next) = (queue.at, queue.next);
        queue.next = next.wrapping_add(1);
        self.put(
            at + 0x1004 + usize::from(next % SIZE) * 2,
            &head.to_le_bytes(),
        );
        self.word(at + 0x1002)
            .store(next.wrapping_add(1), Ordering::Release);
    }

    pub(crate) fn kick(&self, index: usize) {
        self.queues[index].kick.write(1).unwrap();
    }

    /// Lays and offers a request (see [`Raw::lay`]). A device that polls may take it before this returns: what it reads must lie there before.
    pub(crate) fn request(
        &mut self,
        index: usize,
        slot: u16,
        kind: u32,
        sector: u64,
        len: u32,
    ) -> (usize, usize) {
        let places = self.lay(index, slot, kind, sector, len);
        self.offer(index, slot * 3);
        places
    }

    /// Lays and offers a WRITE of `bytes`. Returns where the status is.
    pub(crate) fn write(&mut self, index: usize, slot: u16, sector: u64, bytes: &[u8]) -> usize {
        let len = u32::try_from(bytes.len()).unwrap();
        let (data, status) = self.lay(index, slot, 1, sector, len);
        self.put(data, bytes);
        self.offer(index, slot * 3);
        status
    }

    /// A request in descriptors 3·slot … : header, data of `len` bytes, status, not offered yet. Returns where data and status are.
    pub(crate) fn lay(
        &mut self,
        index: usize,
        slot: u16,
        kind: u32,
        sector: u64,
        len: u32,
    ) -> (usize, usize) {
        let base = BUFFERS + index * 0x4_0000 + usize::from(slot) * 0x2000;
        let gpa = GPA + base as u64;
        let mut header = kind.to_le_bytes().to_vec();
        header.extend([0; 4]);
        header.extend(sector.to_le_bytes());
        self.put(base, &header);
        self.put(base + 0x1fff, &[0xaa]);
        let head = slot * 3;
        self.descriptor(index, head, (gpa, 16, 1, head + 1));
        if len > 0 {
            let flags = if kind == 1 { 1 } else { 3 };
            self.descriptor(index, head + 1, (gpa + 0x200, len, flags, head + 2));
        } else {
            self.descriptor(index, head, (gpa, 16, 1, head + 2));
        }
        self.descriptor(index, head + 2, (gpa + 0x1fff, 1, 2, 0));
        (base + 0x200, base + 0x1fff)
    }

    /// Waits until the used index is `index`.
    pub(crate) fn await_used(&self, queue: usize, index: u16, what: &str) {
        let begun = legwatch::clock::now();
        while self.used(queue) != index {
            assert!(begun.elapsed() < PATIENCE, "awaited {what}");
            std::thread::yield_now();
        }
    }

    pub(crate) fn status(&mut self, at: usize) -> u8 {
        self.memory.bytes()[at]
    }
}
