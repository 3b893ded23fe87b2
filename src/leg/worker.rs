//! The thread that serves queues.
//!
//! It looks at all rings; when nothing has come for a while it asks to be kicked and sleeps. How long "a while" is adapts: sleeping costs a
//! wake-up (40 to 150 µs), spinning costs a CPU that the guest may want. A sleep that was shorter than a spin would have been makes the next
//! spin longer, a long sleep makes it shorter, down to none.

use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::EventFd;

use super::command::{Bell, Command, Commander, Ending, Inbox, QueueStart};
use super::connection::Connection;
use super::control::Control;
use super::disk::Disk;
use super::lock;
use super::shared::Rest;
use crate::block::LegId;
use crate::clock;
use crate::cut_short::losses;
use crate::event::{FrontendChange, What};
use crate::sequence::Tap;
use crate::virtio::{Memory, Ring, RingFault};

/// Chains that are taken from one queue before the others have their turn.
const TURN_CHAINS: u32 = 64;
/// Used entries, or bytes of data, that are published together at most.
const PUBLISH_CHAINS: u32 = 16;
const PUBLISH_BYTES: u64 = 128 << 10;
/// How often a queue without a kick is looked at, in milliseconds.
const UNKICKED_MS: i32 = 1;
const EVENTS: usize = 32;
/// What woke a worker.
const BELL: u64 = 0;
const KICK: u64 = 1;

/// A queue that is served.
#[derive(Debug)]
pub(super) struct Queue {
    pub(super) index: u16,
    pub(super) ring: Ring,
    kick: Option<Watched>,
    call: Option<EventFd>,
    error: Option<EventFd>,
    enabled: bool,
    broken: bool,
    /// Whether all that it held when it was started was taken.
    looked: bool,
}

/// A kick that wakes the worker. It is never read: each one is an edge.
#[derive(Debug)]
struct Watched {
    kick: EventFd,
    epoll: Arc<Epoll>,
}

impl Watched {
    fn new(kick: EventFd, epoll: &Arc<Epoll>) -> Option<Watched> {
        let event = EpollEvent::new(EventSet::IN | EventSet::EDGE_TRIGGERED, KICK);
        epoll
            .ctl(ControlOperation::Add, kick.as_raw_fd(), event)
            .ok()?;
        Some(Watched {
            kick,
            epoll: Arc::clone(epoll),
        })
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        // Closing our descriptor is not enough: the frontend has the same open file, and it would go on waking us.
        let _was_added = self.epoll.ctl(
            ControlOperation::Delete,
            self.kick.as_raw_fd(),
            EpollEvent::default(),
        );
    }
}

/// What a lane does with chains.
#[derive(Debug)]
pub enum Role {
    /// A leg of the mirror.
    Disk(Box<Disk>),
    /// The control leg.
    Control(Control),
}

/// A leg with its queues.
#[derive(Debug)]
pub struct Lane {
    leg: LegId,
    role: Role,
    queues: Vec<Queue>,
    connection: Arc<Connection>,
}

impl Lane {
    /// A leg without queues yet.
    pub fn new(leg: LegId, role: Role) -> Lane {
        let connection = match &role {
            Role::Disk(disk) => disk.connection(),
            Role::Control(_) => Arc::default(),
        };
        Lane {
            leg,
            role,
            queues: Vec::new(),
            connection,
        }
    }

    /// Where the listener says who is connected.
    pub fn connection(&self) -> Arc<Connection> {
        Arc::clone(&self.connection)
    }

    /// A mapping was lost: if it is one of this leg's frontend, nothing of it is served any more.
    fn look_for_loss(&mut self, tap: &mut Tap) {
        if self
            .queues
            .iter()
            .any(|queue| queue.ring.memory().is_lost())
        {
            self.stop_all(Ending::Abandon, tap);
            self.connection
                .end("the file of the guest's memory was cut short while it was shared".to_owned());
        }
    }

    fn next_due(&self) -> Option<Instant> {
        match &self.role {
            Role::Disk(disk) => disk.next_due(),
            Role::Control(control) => control.next_due(),
        }
    }

    fn end_due(&mut self, tap: &mut Tap) -> bool {
        match &mut self.role {
            Role::Disk(disk) => disk.end_due(&mut self.queues, tap),
            Role::Control(control) => control.end_due(&mut self.queues, tap),
        }
    }

    fn end_held_of(&mut self, queue: Option<u16>, ending: Ending, tap: &mut Tap) {
        match &mut self.role {
            Role::Disk(disk) => disk.end_held_of(queue, &mut self.queues, ending, tap),
            Role::Control(control) => control.end_held_of(queue, &mut self.queues, ending, tap),
        }
    }

    fn record(&self, change: FrontendChange, tap: &mut Tap) {
        if self.leg != LegId::CONTROL || matches!(change, FrontendChange::Trouble(_)) {
            tap.record(What::Frontend {
                leg: self.leg,
                change,
            });
        }
    }

    /// Takes what is available on one queue; `true` if there was something.
    fn serve(&mut self, at: usize, tap: &mut Tap) -> bool {
        let Some(queue) = self.queues.get_mut(at) else {
            return false;
        };
        if !queue.enabled || queue.broken {
            return false;
        }
        let mut chains = 0u32;
        let mut bytes = 0u64;
        let fault = loop {
            match queue.ring.pop() {
                Ok(None) => break None,
                Err(fault) => break Some(fault),
                Ok(Some(head)) => {
                    match &mut self.role {
                        Role::Disk(disk) => {
                            bytes = bytes.saturating_add(disk.arrive(queue, head, tap));
                        }
                        Role::Control(control) => control.arrive(queue, head, tap),
                    }
                    chains = chains.saturating_add(1);
                    if chains.is_multiple_of(PUBLISH_CHAINS) || bytes >= PUBLISH_BYTES {
                        bytes = 0;
                        queue.publish();
                    }
                    if chains >= TURN_CHAINS {
                        break None;
                    }
                }
            }
        };
        queue.publish();
        let mut worked = chains > 0;
        if let Role::Disk(disk) = &mut self.role {
            disk.hang_up();
            if !queue.looked && chains < TURN_CHAINS {
                queue.looked = true;
                worked |= disk.shared.came_again(queue.index);
            }
        }
        if let Some(fault) = fault {
            self.broken(at, fault, tap);
        }
        worked
    }

    /// A ring makes no sense any more: nothing is taken from it again, what is held is still answered.
    fn broken(&mut self, at: usize, fault: RingFault, tap: &mut Tap) {
        let Some(queue) = self.queues.get_mut(at) else {
            return;
        };
        queue.broken = true;
        if let Some(error) = &queue.error {
            let _frontend_gone = error.write(1);
        }
        let text = format!("queue {} is stopped: {fault}", queue.index);
        self.record(FrontendChange::Trouble(text), tap);
    }

    /// Stops a queue; where to go on with it.
    fn stop(&mut self, index: u16, ending: Ending, tap: &mut Tap) -> Option<u32> {
        let at = self.queues.iter().position(|queue| queue.index == index)?;
        self.end_held_of(Some(index), ending, tap);
        let mut queue = self.queues.swap_remove(at);
        if ending == Ending::Complete {
            queue.publish();
        }
        self.record(FrontendChange::QueueStopped { queue: index }, tap);
        Some(queue.ring.base())
    }

    fn stop_all(&mut self, ending: Ending, tap: &mut Tap) {
        while let Some(queue) = self.queues.first() {
            let index = queue.index;
            self.stop(index, ending, tap);
        }
    }

    /// Records how long requests have waited for the checker, beyond what was `told`.
    fn tell_waits(&self, told: &mut Duration, tap: &mut Tap) {
        let more = tap.waited().saturating_sub(*told);
        let ms = u64::try_from(more.as_millis()).unwrap_or(u64::MAX);
        if ms > 0 && self.leg != LegId::CONTROL {
            *told = tap.waited();
            self.record(FrontendChange::Waited { ms }, tap);
        }
    }

    fn remap(&mut self, memory: &Arc<Memory>, tap: &mut Tap) {
        let mut gone = Vec::new();
        for queue in &mut self.queues {
            if let Err(fault) = queue.ring.remap(Arc::clone(memory)) {
                gone.push((queue.index, fault));
            }
        }
        for (index, fault) in gone {
            let text = format!("queue {index} is stopped: {fault}");
            self.record(FrontendChange::Trouble(text), tap);
            self.stop(index, Ending::Abandon, tap);
        }
    }
}

impl Queue {
    fn publish(&mut self) {
        if self.ring.publish()
            && let Some(call) = &self.call
        {
            // A frontend that is gone need not be told.
            let _frontend_gone = call.write(1);
        }
    }
}

/// A worker that does not run yet.
#[derive(Debug)]
pub struct Worker {
    lanes: Vec<Lane>,
    inbox: Arc<Inbox>,
    rest: Arc<Rest>,
    tap: Tap,
    epoll: Arc<Epoll>,
    spin: Spin,
    unkicked: bool,
    /// Mappings that were lost when it was last looked.
    losses: u64,
    /// How much of the tap's waiting was told already.
    waited: Duration,
}

/// How long to spin.
#[derive(Debug)]
struct Spin {
    most: Duration,
    now: Duration,
    since: Option<Instant>,
}

impl Spin {
    /// Nothing has come: whether to look again rather than sleep.
    fn again(&mut self) -> bool {
        if self.now.is_zero() {
            return false;
        }
        let now = clock::now();
        let since = *self.since.get_or_insert(now);
        now.duration_since(since) < self.now
    }

    fn slept(&mut self, slept: Duration, kicked: bool) {
        self.since = None;
        if kicked && slept <= self.most.saturating_mul(3) {
            let least = self.most.checked_div(4).unwrap_or_default();
            self.now = self.now.saturating_mul(2).max(least).min(self.most);
        } else if slept > self.most.saturating_mul(6) {
            self.now = self.now.checked_div(2).unwrap_or_default();
            if self.now < Duration::from_micros(2) {
                self.now = Duration::ZERO;
            }
        }
    }
}

impl Worker {
    /// A worker without lanes; `bell` wakes it.
    ///
    /// # Errors
    /// The system's, when it has no descriptors left.
    pub fn new(
        bell: Arc<Bell>,
        rest: Arc<Rest>,
        tap: Tap,
        spin_most: Duration,
    ) -> std::io::Result<Worker> {
        let epoll = Arc::new(Epoll::new()?);
        epoll.ctl(
            ControlOperation::Add,
            bell.fd().as_raw_fd(),
            EpollEvent::new(EventSet::IN, BELL),
        )?;
        Ok(Worker {
            lanes: Vec::new(),
            inbox: Arc::new(Inbox {
                bell,
                commands: Default::default(),
                quit: AtomicBool::new(false),
            }),
            rest,
            tap,
            epoll,
            spin: Spin {
                most: spin_most,
                now: spin_most,
                since: None,
            },
            unkicked: false,
            losses: losses(),
            waited: Duration::ZERO,
        })
    }

    /// Adds a leg; its connection talks through what is returned.
    pub fn add(&mut self, lane: Lane) -> Commander {
        self.lanes.push(lane);
        Commander::new(self.lanes.len().saturating_sub(1), Arc::clone(&self.inbox))
    }

    /// What ends the worker.
    pub fn stopper(&self) -> impl Fn() + Send + Sync + use<> {
        let inbox = Arc::clone(&self.inbox);
        move || {
            inbox.quit.store(true, Ordering::Release);
            inbox.bell.ring();
        }
    }

    /// Serves until it is stopped; then everything that is held is abandoned.
    pub fn run(mut self) {
        loop {
            if self.inbox.bell.take() {
                self.commands();
                if self.inbox.quit.load(Ordering::Acquire) {
                    for lane in &mut self.lanes {
                        lane.stop_all(Ending::Abandon, &mut self.tap);
                        lane.tell_waits(&mut self.waited, &mut self.tap);
                    }
                    // A command that comes now is dropped, and who asked learns that from its reply's end.
                    lock(&self.inbox.commands).clear();
                    return;
                }
            }
            let worked = self.pass();
            if losses() != self.losses {
                self.losses = losses();
                for lane in &mut self.lanes {
                    lane.look_for_loss(&mut self.tap);
                }
            }
            if worked {
                self.spin.since = None;
                self.rest.ended_some();
            } else if self.spin.again() {
                std::hint::spin_loop();
            } else {
                self.sleep();
            }
        }
    }

    /// One look at everything; `true` if something was done.
    fn pass(&mut self) -> bool {
        let mut worked = false;
        for lane in &mut self.lanes {
            for at in 0..lane.queues.len() {
                worked |= lane.serve(at, &mut self.tap);
            }
            if lane.next_due().is_some() && lane.end_due(&mut self.tap) {
                worked = true;
                for queue in &mut lane.queues {
                    queue.publish();
                }
            }
        }
        worked
    }

    fn sleep(&mut self) {
        let mut came = false;
        let mut due: Option<Instant> = None;
        for lane in &mut self.lanes {
            let mut faults = Vec::new();
            for (at, queue) in lane.queues.iter_mut().enumerate() {
                if !queue.enabled || queue.broken {
                    continue;
                }
                match queue.ring.kicks_on() {
                    Ok(more) => came |= more,
                    Err(fault) => faults.push((at, fault)),
                }
            }
            for (at, fault) in faults {
                lane.broken(at, fault, &mut self.tap);
            }
            due = match (due, lane.next_due()) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            };
        }
        if !came {
            let before = clock::now();
            let mut timeout_ms = due.map_or(-1, |due| {
                let micros = due.saturating_duration_since(before).as_micros();
                i32::try_from(micros.div_ceil(1000)).unwrap_or(i32::MAX)
            });
            if self.unkicked && !(0..=UNKICKED_MS).contains(&timeout_ms) {
                timeout_ms = UNKICKED_MS;
            }
            let mut events = [EpollEvent::default(); EVENTS];
            // Interrupted by a signal: just another look around.
            let woken = self.epoll.wait(timeout_ms, &mut events).unwrap_or(0);
            let mut kicked = false;
            for event in events.iter().take(woken) {
                if event.data() == BELL {
                    self.inbox.bell.quiet();
                } else {
                    kicked = true;
                }
            }
            self.spin
                .slept(clock::now().saturating_duration_since(before), kicked);
        }
        for queue in self.lanes.iter_mut().flat_map(|lane| &mut lane.queues) {
            queue.ring.kicks_off();
            // Whoever served the ring before may have shown answers without being able to notify: the driver looks again.
            if !queue.ring.is_fresh()
                && let Some(call) = &queue.call
            {
                let _frontend_gone = call.write(1);
            }
        }
    }

    fn commands(&mut self) {
        let commands = std::mem::take(&mut *lock(&self.inbox.commands));
        for (at, command) in commands {
            let Some(lane) = self.lanes.get_mut(at) else {
                continue;
            };
            // Who asked may have gone; nothing depends on the reply here.
            match command {
                Command::Start(start, reply) => {
                    lane.stop(start.index, Ending::Abandon, &mut self.tap);
                    lane.start(start, &self.epoll, &mut self.tap);
                    let _asker_gone = reply.send(());
                }
                Command::Stop(queue, ending, reply) => {
                    let base = lane.stop(queue, ending, &mut self.tap);
                    let _asker_gone = reply.send(base);
                }
                Command::StopAll(ending, reply) => {
                    lane.stop_all(ending, &mut self.tap);
                    lane.tell_waits(&mut self.waited, &mut self.tap);
                    let _asker_gone = reply.send(());
                }
                Command::Remap(memory, reply) => {
                    lane.remap(&memory, &mut self.tap);
                    let _asker_gone = reply.send(());
                }
                Command::Grow(sectors, reply) => {
                    let done = match &mut lane.role {
                        Role::Disk(disk) => disk.grow(sectors),
                        Role::Control(_) => Err(std::io::ErrorKind::Unsupported.into()),
                    };
                    let _asker_gone = reply.send(done);
                }
                Command::Enable(queue, enabled, reply) => {
                    if let Some(queue) = lane.queues.iter_mut().find(|q| q.index == queue) {
                        queue.enabled = enabled;
                    }
                    let _asker_gone = reply.send(());
                }
                Command::Kick(queue, kick) => {
                    if let Some(queue) = lane.queues.iter_mut().find(|q| q.index == queue) {
                        queue.kick = kick.and_then(|kick| Watched::new(kick, &self.epoll));
                    }
                }
                Command::Call(queue, call) => {
                    if let Some(queue) = lane.queues.iter_mut().find(|q| q.index == queue) {
                        queue.call = call;
                        // What was used while there was no call, or another one, must not wait for the next.
                        if let Some(call) = &queue.call {
                            let _frontend_gone = call.write(1);
                        }
                    }
                }
                Command::Error(queue, error) => {
                    if let Some(queue) = lane.queues.iter_mut().find(|q| q.index == queue) {
                        queue.error = error;
                    }
                }
            }
        }
        self.unkicked = self
            .lanes
            .iter()
            .flat_map(|lane| &lane.queues)
            .any(|queue| queue.kick.is_none());
        self.rest.ended_some();
    }
}

impl Lane {
    fn start(&mut self, start: QueueStart, epoll: &Arc<Epoll>, tap: &mut Tap) {
        self.record(
            FrontendChange::QueueStarted {
                queue: start.index,
                size: start.ring.size(),
            },
            tap,
        );
        self.queues.push(Queue {
            index: start.index,
            ring: start.ring,
            // A descriptor that can't be watched counts like none: the ring is looked at.
            kick: start.kick.and_then(|kick| Watched::new(kick, epoll)),
            call: start.call,
            error: start.error,
            enabled: true,
            broken: false,
            looked: false,
        });
        if let Some(queue) = self.queues.last_mut() {
            queue.ring.kicks_off();
            // Whoever served the ring before may have shown answers without being able to notify: the driver looks again.
            if !queue.ring.is_fresh()
                && let Some(call) = &queue.call
            {
                let _frontend_gone = call.write(1);
            }
        }
        if let Role::Disk(disk) = &mut self.role {
            disk.is_back();
        }
    }
}
