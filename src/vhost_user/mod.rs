//! The vhost-user protocol: sockets, one connection at a time a leg, and what a frontend may ask. Our own handler on the `vhost` crate's
//! protocol types; a leg's state lives in [`crate::leg`], outside any connection.
//!
//! | file | job |
//! | --- | --- |
//! | `socket` | where a leg listens: path, permissions, stale and taken sockets |
//! | `backend` | what a connection begins with |
//! | `channel` | the way back to the frontend: the config space has changed |
//! | `handler` | one connection's state: features, memory, rings; one method a message |
//! | `listener` | the thread that accepts, serves and accepts again; closes the socket for a while if a rule says so |
#![warn(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

mod backend;
mod channel;
mod handler;
mod listener;
mod socket;

pub use backend::Backend;
pub use handler::Handler;
pub use listener::{Listener, ListenerError};
pub use socket::{Socket, SocketError};
