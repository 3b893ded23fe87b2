//! The way back to the frontend (vhost-user specification, "Back-end message types"): `VHOST_USER_BACKEND_CONFIG_CHANGE_MSG`, and no other.
//!
//! The `vhost` crate keeps the channel's descriptor to itself and has no such message to send. So `VHOST_USER_SET_BACKEND_REQ_FD` is taken from
//! the socket before the crate sees it.

use std::io;
use std::io::Write;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

use vmm_sys_util::sock_ctrl_msg::ScmSocket;

/// `VHOST_USER_SET_BACKEND_REQ_FD`
const SET_BACKEND_REQ_FD: u32 = 21;
/// `VHOST_USER_BACKEND_CONFIG_CHANGE_MSG`
const CONFIG_CHANGE: u32 = 2;
/// A header: request, flags, size of what follows.
const HEADER_BYTES: usize = 12;
const VERSION: u32 = 1;
const REPLY: u32 = 1 << 2;
const NEED_REPLY: u32 = 1 << 3;

fn header(request: u32, flags: u32, bytes: u32) -> [u8; HEADER_BYTES] {
    let mut raw = [0; HEADER_BYTES];
    let words = [request, VERSION | flags, bytes].map(u32::to_le_bytes);
    for (to, from) in raw.iter_mut().zip(words.iter().flatten()) {
        *to = *from;
    }
    raw
}

fn words(raw: [u8; HEADER_BYTES]) -> [u32; 3] {
    let [a0, a1, a2, a3, b0, b1, b2, b3, c0, c1, c2, c3] = raw;
    [[a0, a1, a2, a3], [b0, b1, b2, b3], [c0, c1, c2, c3]].map(u32::from_le_bytes)
}

/// The header of the next message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Next {
    /// Which message.
    pub(super) request: u32,
    flags: u32,
}

impl Next {
    /// Whether it is the one that brings a channel.
    pub(super) fn is_channel(self) -> bool {
        self.request == SET_BACKEND_REQ_FD && self.flags & REPLY == 0
    }

    /// Whether it asks to be told if it was done, and the frontend is told by nothing else.
    pub(super) fn wants_ack(self) -> bool {
        self.flags & NEED_REPLY != 0 && !NOT_ACKNOWLEDGED.contains(&self.request)
    }
}

/// Messages that have another answer than done or not done (what a frontend gets, and the device's state), and those that negotiate features: the
/// `vhost` crate believes in features that were refused, and no longer answers as the frontend expects.
const NOT_ACKNOWLEDGED: [u32; 14] = [1, 2, 6, 11, 15, 16, 17, 24, 31, 36, 40, 41, 42, 43];

/// The next message's header. Takes nothing from the socket. A header that has not come whole is left to the one who waits for it.
pub(super) fn next(stream: &UnixStream) -> Option<Next> {
    let mut raw = [0u8; HEADER_BYTES];
    // SAFETY: a system call with a buffer of the length that it is told.
    let got = unsafe {
        libc::recv(
            stream.as_raw_fd(),
            raw.as_mut_ptr().cast(),
            raw.len(),
            libc::MSG_PEEK | libc::MSG_DONTWAIT,
        )
    };
    let [request, flags, _] = words(raw);
    (usize::try_from(got) == Ok(HEADER_BYTES)).then_some(Next { request, flags })
}

/// Takes the message that [`Next::is_channel`]: the channel, and whether the frontend waits for a reply.
///
/// # Errors
/// The socket's, or `InvalidData` for a message that is none: it has no body and one descriptor, a stream socket.
pub(super) fn take(stream: &UnixStream) -> io::Result<(UnixStream, bool)> {
    let mut raw = [0; HEADER_BYTES];
    // The room that the kernel is given for one descriptor is enough for two: each of them is ours to close.
    let mut fds = [-1; 2];
    let mut into = [libc::iovec {
        iov_base: raw.as_mut_ptr().cast(),
        iov_len: raw.len(),
    }];
    // SAFETY: the one buffer is `raw`, which outlives the call, with its length.
    let (got, came) = unsafe { stream.recv_with_fds(&mut into, &mut fds) }
        .map_err(|error| io::Error::from_raw_os_error(error.errno()))?;
    let came = fds.iter().take(came).filter(|fd| **fd >= 0);
    // SAFETY: descriptors that have just come, which nobody else knows of.
    let mut files: Vec<OwnedFd> = came
        .map(|fd| unsafe { OwnedFd::from_raw_fd(*fd) })
        .collect();
    let [_, flags, bytes] = words(raw);
    let one = files.len() == 1 && got == HEADER_BYTES && bytes == 0;
    let file = files.pop().filter(|_| one);
    let file = file.ok_or(io::ErrorKind::InvalidData)?;
    let mut kind: libc::c_int = 0;
    let mut len = libc::socklen_t::try_from(size_of::<libc::c_int>()).unwrap_or(4);
    // SAFETY: a system call on an open descriptor; `kind` has the length that it is told.
    let asked = unsafe {
        libc::getsockopt(
            file.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_TYPE,
            (&raw mut kind).cast(),
            &raw mut len,
        )
    };
    if asked != 0 || kind != libc::SOCK_STREAM {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let channel = UnixStream::from(file);
    // A frontend that does not read must not hold us up.
    channel.set_nonblocking(true)?;
    Ok((channel, flags & NEED_REPLY != 0))
}

/// Replies to the message: done.
///
/// # Errors
/// The socket's.
pub(super) fn acknowledge(mut stream: &UnixStream, done: bool) -> io::Result<()> {
    stream.write_all(&header(SET_BACKEND_REQ_FD, REPLY, 8))?;
    stream.write_all(&u64::from(!done).to_le_bytes())
}

/// Tells the frontend that the config space has changed; it reads it then.
///
/// # Errors
/// The channel's: the frontend is gone, or reads nothing.
pub(super) fn config_changed(mut channel: &UnixStream) -> io::Result<()> {
    channel.write_all(&header(CONFIG_CHANGE, 0, 0))
}
