//! What a connection begins with: its leg, and queues of which nothing is known yet.

use std::sync::Arc;

use vmm_sys_util::eventfd::EventFd;

use crate::block::LegId;
use crate::leg::{Commander, Connection, LegShared};
use crate::virtio::{Limits, RingAddresses};

/// What a connection needs to know of its leg.
#[derive(Clone, Debug)]
pub struct Backend {
    /// Which leg.
    pub leg: LegId,
    /// Queues that are offered.
    pub queues: u16,
    /// What requests are checked against, and so what is offered.
    pub limits: Limits,
    /// The leg as it outlives connections; none for the control leg.
    pub shared: Option<Arc<LegShared>>,
    /// The worker that serves the leg.
    pub commander: Commander,
    /// Where the worker ends the connection.
    pub connection: Arc<Connection>,
}

/// A queue as the frontend has described it so far.
#[derive(Debug, Default)]
pub(super) struct Vring {
    pub(super) size: u32,
    pub(super) addresses: Option<RingAddresses>,
    /// Where to go on, in the ring's own encoding; none: at its beginning.
    pub(super) base: Option<u32>,
    /// Set by the frontend; the inner one is missing if it asks for polling.
    pub(super) kick: Option<Option<EventFd>>,
    pub(super) call: Option<EventFd>,
    pub(super) error: Option<EventFd>,
    pub(super) enabled: bool,
    pub(super) running: bool,
}
