//! What a connection asks of the worker that serves its leg.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::lock;
use crate::virtio::{Memory, Ring};

/// Wakes a worker.
#[derive(Debug)]
pub struct Bell {
    fd: EventFd,
    rung: AtomicBool,
}

impl Bell {
    /// A silent bell.
    ///
    /// # Errors
    /// The system's, when it has no descriptors left.
    pub fn new() -> std::io::Result<Bell> {
        Ok(Bell {
            fd: EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?,
            rung: AtomicBool::new(false),
        })
    }

    /// Wakes the worker, or keeps it from going to sleep.
    pub fn ring(&self) {
        if !self.rung.swap(true, Ordering::SeqCst) {
            // The counter can't be full: it is rung once and emptied before it is rung again.
            let _never_full = self.fd.write(1);
        }
    }

    /// Whether it was rung since the last time.
    pub(super) fn take(&self) -> bool {
        self.rung.load(Ordering::Acquire) && self.rung.swap(false, Ordering::SeqCst)
    }

    /// Lets the worker sleep again. The flag is apart from this: a ring in between is seen by [`Bell::take`], or wakes once for nothing.
    pub(super) fn quiet(&self) {
        let _empty_is_fine = self.fd.read();
    }

    pub(super) fn fd(&self) -> &EventFd {
        &self.fd
    }
}

/// How requests end that a stopped queue still holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// They are answered now: the driver is there and waits (`VHOST_USER_GET_VRING_BASE`).
    Complete,
    /// They are not answered: nobody waits any more, or the ring is gone.
    Abandon,
}

/// A queue to be served.
#[derive(Debug)]
pub struct QueueStart {
    /// Its number.
    pub index: u16,
    /// Its ring.
    pub ring: Ring,
    /// How the driver wakes us; none: it never does, the ring must be looked at.
    pub kick: Option<EventFd>,
    /// How we wake the driver; none: never.
    pub call: Option<EventFd>,
    /// How we tell that the ring is broken.
    pub error: Option<EventFd>,
}

/// A wish. Those with a reply are done when it comes.
#[derive(Debug)]
pub enum Command {
    /// Serve a queue.
    Start(QueueStart, Sender<()>),
    /// Stop a queue; the reply is where to go on (`VHOST_USER_GET_VRING_BASE`), `None` if the queue was not served.
    Stop(u16, Ending, Sender<Option<u32>>),
    /// Stop all queues.
    StopAll(Ending, Sender<()>),
    /// Find all rings again in new memory; those that are not there are stopped.
    Remap(Arc<Memory>, Sender<()>),
    /// The leg grows to so many sectors.
    Grow(u64, Sender<std::io::Result<()>>),
    /// Go on with a queue, or take no more from it.
    Enable(u16, bool, Sender<()>),
    /// A queue is woken in another way.
    Kick(u16, Option<EventFd>),
    /// A queue has another way to wake the driver.
    Call(u16, Option<EventFd>),
    /// A queue has another way to tell that it is broken.
    Error(u16, Option<EventFd>),
}

/// The sending end, for one leg.
#[derive(Clone, Debug)]
pub struct Commander {
    lane: usize,
    inbox: Arc<Inbox>,
}

/// A worker's inbox.
#[derive(Debug)]
pub(super) struct Inbox {
    pub(super) bell: Arc<Bell>,
    pub(super) commands: Mutex<Vec<(usize, Command)>>,
    pub(super) quit: AtomicBool,
}

impl Commander {
    pub(super) fn new(lane: usize, inbox: Arc<Inbox>) -> Commander {
        Commander { lane, inbox }
    }

    /// Sends a command without a reply.
    pub fn send(&self, command: Command) {
        lock(&self.inbox.commands).push((self.lane, command));
        self.inbox.bell.ring();
    }

    /// Sends a command and waits until it is done; `None` if the worker is gone.
    pub fn ask<T>(&self, command: impl FnOnce(Sender<T>) -> Command) -> Option<T> {
        let (reply, answer): (Sender<T>, Receiver<T>) = channel();
        if self.inbox.quit.load(Ordering::Acquire) {
            return None;
        }
        self.send(command(reply));
        answer.recv().ok()
    }
}
