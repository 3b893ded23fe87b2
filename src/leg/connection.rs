//! The socket that a leg's frontend is connected by, to be ended from the other side: by who serves the queues.

use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Mutex;
use std::time::Duration;

use super::lock;

/// A leg's connection, if there is one.
#[derive(Debug, Default)]
pub struct Connection {
    stream: Mutex<Option<UnixStream>>,
    why: Mutex<Option<String>>,
    /// For how long nobody is to listen once the connection has ended.
    away: Mutex<Option<Duration>>,
}

impl Connection {
    /// A frontend is connected, or is no longer.
    pub fn set(&self, stream: Option<UnixStream>) {
        *lock(&self.stream) = stream;
    }

    /// Ends the connection; `why` is what the listener records.
    pub fn end(&self, why: String) {
        *lock(&self.why) = Some(why);
        self.shut_down();
    }

    /// Ends the connection; its thread then lets nobody connect for `away`.
    pub(super) fn hang_up(&self, away: Duration) {
        *lock(&self.away) = Some(away);
        self.shut_down();
    }

    fn shut_down(&self) {
        if let Some(stream) = &*lock(&self.stream) {
            // It may be gone by itself.
            let _gone = stream.shutdown(Shutdown::Both);
        }
    }

    /// Why the connection was ended from this side, if it was.
    pub fn take_why(&self) -> Option<String> {
        lock(&self.why).take()
    }

    /// Whether a rule has ended the connection, and for how long nobody is to listen now. Asked once.
    pub fn take_away(&self) -> Option<Duration> {
        lock(&self.away).take()
    }
}
