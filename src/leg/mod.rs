//! A leg's pipeline: a chain arrives, is parsed, decided about, fetched, applied, completed, and every step is an event.
//!
//! | file | job |
//! | --- | --- |
//! | `shared` | what others may know of a leg while it runs: counters, requests in flight, its data area |
//! | `disk` | one request's way, from its avail entry to its used entry |
//! | `areas` | where metadata and data are, read from the leg's own superblock |
//! | `plain` | content as the record tells it, decrypted where the guest encrypts it |
//! | `faults` | what the rules of all legs share: hits, marks, twins, budget, power |
//! | `faulty` | a request's way where rules or lies are about |
//! | `store` | what rules make of a request that changes a leg |
//! | `twins` | which write of one leg is the twin of which write of another |
//! | `held` | requests that wait for their time |
//! | `parked` | requests that wait for something else than a time |
//! | `control` | the control leg: the plan to read, marks to write, quiet points |
//! | `worker` | the thread that serves queues: polls, spins, sleeps, keeps time |
//! | `connection` | the frontend's socket, to be ended from this side |
//! | `command` | what a connection asks of a worker |
//!
//! A leg is served by one worker, whatever its queues: its request counter, its medium and its timers have one owner and need no lock. A
//! worker can serve several legs (what is best depends on the machine's cores).
//!
//! ```text
//! pop ─ number ─ parse ─ Arrived ─ decide ─ [number ─ copy ─ Fetched] ─ (held until due) ─ digest ─ number ─ Completed ─ used ─ publish
//! ```
#![warn(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

mod areas;
mod command;
mod connection;
mod control;
mod disk;
mod faults;
mod faulty;
mod held;
mod parked;
mod plain;
mod shared;
mod store;
mod twins;
mod worker;

use std::sync::{Mutex, MutexGuard, PoisonError};

pub use command::{Bell, Command, Commander, Ending, QueueStart};
pub use connection::Connection;
pub use control::{Control, ControlShared, ControlState, LIMITS as CONTROL_LIMITS};
pub use disk::Disk;
pub use faults::{Faults, LegParts, RuleState};
pub use plain::Plain;
pub use shared::{Left, LegShared, LegStats, Rest, Teller};
pub use worker::{Lane, Role, Worker};

/// A lock whose data is valid after every statement: a panic elsewhere does not matter to it.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
