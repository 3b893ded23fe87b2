//! The thread that accepts a frontend, serves it until it goes, and accepts again.

use std::io;
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use vhost::vhost_user::{BackendReqHandler, Error};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::backend::Backend;
use super::channel;
use super::handler::Handler;
use super::socket::Socket;
use crate::clock;
use crate::event::{FrontendChange, What};
use crate::leg::lock;
use crate::sequence::Sequence;

/// Why a listener can't run.
#[derive(Debug, thiserror::Error)]
#[error("starting a listener")]
pub struct ListenerError(#[from] io::Error);

/// A leg's socket, being served. Connections come one after the other; a second frontend waits until the first has gone.
#[derive(Debug)]
pub struct Listener {
    stop: Arc<Stop>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Stop {
    wished: AtomicBool,
    fd: EventFd,
    connection: Mutex<Option<UnixStream>>,
}

impl Listener {
    /// Starts to accept.
    ///
    /// # Errors
    /// [`ListenerError`], when the system has no descriptors or threads left.
    pub fn start(
        socket: Socket,
        backend: Backend,
        sequence: Sequence,
    ) -> Result<Listener, ListenerError> {
        let stop = Arc::new(Stop {
            wished: AtomicBool::new(false),
            fd: EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?,
            connection: Mutex::default(),
        });
        let thread = {
            let stop = Arc::clone(&stop);
            std::thread::Builder::new()
                .name("vhost-user".into())
                .spawn(move || accept(socket, &backend, &sequence, &stop))?
        };
        Ok(Listener {
            stop,
            thread: Some(thread),
        })
    }

    /// Ends the connection and the listening, and removes the socket's file.
    pub fn stop(&mut self) {
        self.stop.wished.store(true, Ordering::SeqCst);
        let _never_full = self.stop.fd.write(1);
        if let Some(connection) = &*lock(&self.stop.connection) {
            // It may be gone by itself.
            let _gone = connection.shutdown(Shutdown::Both);
        }
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            // The panic was reported where it happened.
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Waits until `fd` can be read; `false` if it is time to stop.
fn readable(fd: i32, stop: &Stop) -> bool {
    let watch = |fd| libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    };
    let mut fds = [watch(stop.fd.as_raw_fd()), watch(fd)];
    loop {
        // SAFETY: `fds` is an array of two that outlives the call.
        let ready = unsafe { libc::poll(fds.as_mut_ptr(), 2, -1) };
        if stop.wished.load(Ordering::SeqCst) {
            return false;
        }
        if ready > 0 {
            return true;
        }
    }
}

fn accept(mut socket: Socket, backend: &Backend, sequence: &Sequence, stop: &Stop) {
    while readable(socket.listener().as_raw_fd(), stop) {
        let Ok((stream, _)) = socket.listener().accept() else {
            // Gone again, or no descriptors: the poll above waits for the next.
            continue;
        };
        if stream.set_nonblocking(false).is_err() {
            continue;
        }
        *lock(&stop.connection) = stream.try_clone().ok();
        backend.connection.set(stream.try_clone().ok());
        serve(stream, backend, sequence, stop);
        backend.connection.set(None);
        *lock(&stop.connection) = None;
        let Some(away) = backend.connection.take_away() else {
            continue;
        };
        let path = socket.path().to_owned();
        drop(socket);
        if !pause(away, stop) {
            return;
        }
        socket = match Socket::listen(&path) {
            Ok(socket) => socket,
            Err(error) => {
                let change = FrontendChange::Trouble(format!(
                    "the socket that a rule closed can't be opened again: {error}"
                ));
                let leg = backend.leg;
                sequence.tap().record(What::Frontend { leg, change });
                return;
            }
        };
    }
}

/// Waits; `false` if it is time to stop.
fn pause(long: Duration, stop: &Stop) -> bool {
    let until = clock::now().checked_add(long);
    loop {
        let left = until.map(|until| until.saturating_duration_since(clock::now()));
        let left = left.unwrap_or_default();
        if left.is_zero() {
            return true;
        }
        let mut wished = libc::pollfd {
            fd: stop.fd.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        let ms = libc::c_int::try_from(left.as_micros().div_ceil(1000)).unwrap_or(libc::c_int::MAX);
        // SAFETY: `wished` is one entry that outlives the call.
        unsafe { libc::poll(&raw mut wished, 1, ms) };
        if stop.wished.load(Ordering::SeqCst) {
            return false;
        }
    }
}

/// The one message that the `vhost` crate does not hand on.
fn take_channel(stream: &UnixStream, handler: &Mutex<Handler>) -> Result<(), Error> {
    let (channel, wants_reply) = channel::take(stream).map_err(Error::SocketError)?;
    let done = lock(handler).use_channel(channel);
    if wants_reply && !matches!(done, Ok(false)) {
        channel::acknowledge(stream, done.is_ok()).map_err(Error::SocketError)?;
    }
    done.map(|_| ())
}

/// One connection, to its end.
fn serve(stream: UnixStream, backend: &Backend, sequence: &Sequence, stop: &Stop) {
    let mut handler = Handler::new(backend.clone(), sequence.tap());
    handler.record(FrontendChange::Connected);
    let handler = Arc::new(Mutex::new(handler));
    let ours = stream.try_clone();
    let mut requests = BackendReqHandler::from_stream(stream, Arc::clone(&handler));
    let why = loop {
        if !readable(requests.as_raw_fd(), stop) {
            break None;
        }
        let next = ours.as_ref().ok().and_then(channel::next);
        lock(&handler).take_trouble();
        let handled = match (&ours, next) {
            (Ok(ours), Some(next)) if next.is_channel() => take_channel(ours, &handler),
            _ => requests.handle_request(),
        };
        match handled {
            Ok(()) => {}
            Err(Error::Disconnected) => break None,
            Err(Error::SocketBroken(error)) if error.kind() == io::ErrorKind::ConnectionReset => {
                break None;
            }
            Err(error) => {
                let mut handler = lock(&handler);
                let trouble = handler.take_trouble();
                // Our own refusal, of a message that was read to its end, and told to who wanted to know: the frontend may do something else.
                if let (Some(why), Some(next)) = (&trouble, next)
                    && next.wants_ack()
                    && handler.acknowledges()
                {
                    handler.record(FrontendChange::Trouble(format!("refused: {why}")));
                    continue;
                }
                let message =
                    next.map_or(String::new(), |next| format!("message {}, ", next.request));
                let text = format!("{message}{error}");
                break Some(trouble.map_or(text.clone(), |why| format!("{text}: {why}")));
            }
        }
    };
    let ours = backend.connection.take_why();
    let why = if stop.wished.load(Ordering::SeqCst) {
        None
    } else {
        ours.or(why)
    };
    // First the end of everything that is served, then the end of the connection: who sees that knows that memory is left alone.
    lock(&handler).end(why);
    drop(requests);
}
