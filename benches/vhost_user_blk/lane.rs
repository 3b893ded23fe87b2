//! One thread's way to a device, or to the two devices of a mirror: queue, doorbell, call, buffers.

use std::fs::File;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use memmap2::MmapMut;
use virtio_driver::{EventFd, QueueNotifier, VirtioBlkQueue, VirtioBlkTransport};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use crate::case::Operation;
use crate::failure::{Failure, during};

/// How long a backend may take for a request before the benchmark gives it up.
const STALL_SECONDS: u16 = 20;

/// One request slot's buffer and a device's queue each.
pub(crate) struct Lane {
    legs: Vec<LegQueue>,
    call: Epoll,
    busy_poll: bool,
    arena: MmapMut,
    /// What `submit` was given, a slot each, so that a failed request can be named.
    pending: Vec<Pending>,
    outstanding: usize,
}

#[derive(Clone, Copy)]
struct Pending {
    operation: Operation,
    offset: u64,
    bytes: usize,
}

struct LegQueue {
    queue: VirtioBlkQueue<'static, usize>,
    doorbell: Box<dyn QueueNotifier>,
    /// Held open for `call`.
    _call: Arc<EventFd>,
    unannounced: bool,
}

impl Lane {
    /// A lane over one queue of each device, with buffers that all of them may reach.
    pub(crate) fn new(
        devices: &mut [Box<VirtioBlkTransport>],
        queues: Vec<VirtioBlkQueue<'static, usize>>,
        queue_index: usize,
        arena_bytes: usize,
        busy_poll: bool,
    ) -> Result<Lane, Failure> {
        let memory = rustix::fs::memfd_create("bench-buffers", rustix::fs::MemfdFlags::CLOEXEC)
            .map(File::from)
            .map_err(|errno| during("memfd_create")(errno.into()))?;
        memory
            .set_len(u64::try_from(arena_bytes).unwrap_or(u64::MAX))
            .map_err(during("memory for the client's buffers"))?;
        // SAFETY: the file is ours alone and keeps its length; the backend writes to it only while a read of ours is outstanding.
        let arena =
            unsafe { MmapMut::map_mut(&memory) }.map_err(during("mapping the client's buffers"))?;
        let call = Epoll::new().map_err(during("epoll"))?;
        let mut legs = Vec::new();
        for (device, queue) in devices.iter_mut().zip(queues) {
            device
                .map_mem_region(arena.as_ptr().addr(), arena.len(), memory.as_raw_fd(), 0)
                .map_err(during("sharing the client's buffers with the backend"))?;
            let fd = device.get_completion_fd(queue_index);
            // Edge-triggered: one system call a wake-up, the counter is never read.
            let event = EpollEvent::new(EventSet::IN | EventSet::EDGE_TRIGGERED, 0);
            call.ctl(ControlOperation::Add, fd.as_raw_fd(), event)
                .map_err(during("epoll"))?;
            let doorbell = device.get_submission_notifier(queue_index);
            let mut leg = LegQueue {
                queue,
                doorbell,
                _call: fd,
                unannounced: false,
            };
            leg.queue.set_used_notif_enabled(false);
            legs.push(leg);
        }
        Ok(Lane {
            legs,
            call,
            busy_poll,
            arena,
            pending: Vec::new(),
            outstanding: 0,
        })
    }

    pub(crate) fn legs(&self) -> usize {
        self.legs.len()
    }

    pub(crate) fn outstanding(&self) -> usize {
        self.outstanding
    }

    pub(crate) fn arena_bytes(&self) -> usize {
        self.arena.len()
    }

    /// Part of the buffers. Only for parts that no outstanding request uses.
    pub(crate) fn buffer(&mut self, start: usize, bytes: usize) -> &mut [u8] {
        &mut self.arena[start..start + bytes]
    }

    /// Puts a request into a leg's ring; `ring` tells the backend. A slot's buffer starts at `slot × bytes`.
    pub(crate) fn submit(
        &mut self,
        leg: usize,
        operation: Operation,
        offset: u64,
        bytes: usize,
        slot: usize,
    ) -> Result<(), Failure> {
        self.submit_at(
            leg,
            operation,
            offset,
            slot * bytes..(slot + 1) * bytes,
            slot,
        )
    }

    /// As `submit`, with a buffer anywhere in the lane's.
    pub(crate) fn submit_at(
        &mut self,
        leg: usize,
        operation: Operation,
        offset: u64,
        buffer: Range<usize>,
        slot: usize,
    ) -> Result<(), Failure> {
        let (address, bytes) = (self.arena[buffer.clone()].as_mut_ptr(), buffer.len());
        let pending = Pending {
            operation,
            offset,
            bytes,
        };
        if self.pending.len() <= slot {
            self.pending.resize(slot + 1, pending);
        }
        self.pending[slot] = pending;
        let LegQueue {
            queue, unannounced, ..
        } = &mut self.legs[leg];
        let put = match operation {
            // SAFETY: address and length are within the arena (sliced above), which lives and is mapped for the backend until the lane
            // goes; the caller leaves the slot alone until its completion.
            Operation::Read => unsafe { queue.read_raw(offset, address, bytes, slot) },
            // SAFETY: as above.
            Operation::Write => unsafe { queue.write_raw(offset, address, bytes, slot) },
            Operation::Flush => queue.flush(slot),
        };
        put.map_err(during("putting a request into the ring"))?;
        *unannounced = true;
        self.outstanding += 1;
        Ok(())
    }

    /// Tells the backends about what was put into their rings, where they want to be told.
    pub(crate) fn ring(&mut self) -> Result<(), Failure> {
        for leg in self.legs.iter_mut().filter(|leg| leg.unannounced) {
            leg.unannounced = false;
            // The crate orders the ring's index before the look at the suppression flag only with event indices.
            fence(Ordering::SeqCst);
            if leg.queue.avail_notif_needed() {
                leg.doorbell
                    .notify()
                    .map_err(during("kicking the backend"))?;
            }
        }
        Ok(())
    }

    /// Takes every completion that is there, without waiting; how many there were.
    pub(crate) fn reap(&mut self, mut done: impl FnMut(usize, usize)) -> Result<usize, Failure> {
        let mut count = 0;
        for (index, leg) in self.legs.iter_mut().enumerate() {
            for completion in leg.queue.completions() {
                let slot = completion.context;
                if completion.ret != 0 {
                    let Pending {
                        operation,
                        offset,
                        bytes,
                    } = self.pending[slot];
                    return Err(Failure::Request {
                        operation: operation.name(),
                        bytes,
                        offset,
                        leg: index,
                        errno: -completion.ret,
                    });
                }
                done(index, slot);
                count += 1;
            }
        }
        self.outstanding -= count;
        Ok(count)
    }

    /// Waits for a completion: asleep, as a guest does, or spinning.
    pub(crate) fn wait(&mut self) -> Result<(), Failure> {
        if self.busy_poll {
            std::hint::spin_loop();
            return Ok(());
        }
        for leg in &mut self.legs {
            leg.queue.set_used_notif_enabled(true);
        }
        // As in `ring`: asked to be called first, looked then.
        fence(Ordering::SeqCst);
        let woken = if self
            .legs
            .iter_mut()
            .any(|leg| leg.queue.completions().has_next())
        {
            Ok(1)
        } else {
            let mut events = [EpollEvent::default(); 2];
            self.call.wait(i32::from(STALL_SECONDS) * 1000, &mut events)
        };
        for leg in &mut self.legs {
            leg.queue.set_used_notif_enabled(false);
        }
        match woken {
            Ok(0) => Err(Failure::Stalled {
                seconds: STALL_SECONDS.into(),
                outstanding: self.outstanding,
            }),
            Ok(_) => Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => Ok(()),
            Err(error) => Err(during("waiting for a completion")(error)),
        }
    }
}
