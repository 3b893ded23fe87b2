//! io_uring: with plain buffers, with the pool registered as one fixed buffer (whose pages are then pinned, and the bio's own), or with writes that
//! don't wait: what the kernel refuses for that (EAGAIN, or EOPNOTSUPP where a driver knows no such thing) is made again without the flag. The caller
//! sees one write, of which the legs may have seen a part twice.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use io_uring::{IoUring, opcode, types};

use super::{Done, Engine, WriteRequest};
use crate::block::to_usize;
use crate::guest::sys::Memory;

/// How writes are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Plain buffers.
    Plain,
    /// The pool as a fixed buffer.
    Fixed,
    /// Plain buffers and RWF_NOWAIT.
    Nowait,
}

/// The engine.
pub(super) struct Uring {
    ring: IoUring,
    file: Arc<File>,
    kind: Kind,
    /// What is on the way, by token, where a write may have to be made again.
    on_the_way: Vec<Option<(WriteRequest, *const u8)>>,
    refused: u64,
}

impl Uring {
    /// Writes to `file`, at most `depth` at a time.
    pub(super) fn new(file: Arc<File>, depth: u32, kind: Kind, pool: &Memory) -> io::Result<Uring> {
        let ring = IoUring::new(depth.next_power_of_two())?;
        if kind == Kind::Fixed {
            let whole = libc::iovec {
                iov_base: pool.address(0).cast_mut().cast(),
                iov_len: pool.len(),
            };
            // SAFETY: the iovec is the pool's mapping; its pages are pinned by the kernel, so even an early unmapping would be safe.
            unsafe { ring.submitter().register_buffers(&[whole]) }?;
        }
        let places = if kind == Kind::Nowait { depth } else { 0 };
        Ok(Uring {
            ring,
            file,
            kind,
            on_the_way: vec![None; to_usize(u64::from(places))],
            refused: 0,
        })
    }

    /// Puts a write into the ring; `flags` as for pwritev2.
    fn put(&mut self, request: WriteRequest, address: *const u8, flags: i32) {
        let file = types::Fd(self.file.as_raw_fd());
        let len = u32::try_from(request.len).expect("a write has at most 1 MiB");
        let entry = if self.kind == Kind::Fixed {
            opcode::WriteFixed::new(file, address, len, 0)
                .offset(request.offset_bytes)
                .build()
        } else {
            opcode::Write::new(file, address, len)
                .offset(request.offset_bytes)
                .rw_flags(flags)
                .build()
        };
        // The length comes back with the token, so that a short write is seen.
        let entry = entry.user_data(u64::from(request.token) << 32 | u64::from(len));
        // SAFETY: the caller keeps the data mapped until the write came back (`WriteRequest`), the kernel only reads it, and the file
        // lives as long as the ring.
        unsafe { self.ring.submission().push(&entry) }
            .expect("the ring has a place for each write on the way");
    }

    /// Whether a write was refused because it would have had to wait; it is then in the ring again.
    fn made_again(&mut self, token: u32, result: i32) -> bool {
        let Some(place) = self.on_the_way.get_mut(to_usize(u64::from(token))) else {
            return false;
        };
        let Some((request, address)) = place.take() else {
            return false;
        };
        if !matches!(-result, libc::EAGAIN | libc::EOPNOTSUPP) {
            return false;
        }
        self.refused += 1;
        self.put(request, address, 0);
        true
    }
}

impl Engine for Uring {
    fn push(&mut self, pool: &Memory, request: WriteRequest) {
        let address = pool.address(request.pool_at);
        let nowait = self.kind == Kind::Nowait;
        if let Some(place) = self.on_the_way.get_mut(to_usize(u64::from(request.token))) {
            *place = Some((request, address));
        }
        self.put(request, address, if nowait { libc::RWF_NOWAIT } else { 0 });
    }

    fn submit(&mut self) -> io::Result<()> {
        while !self.ring.submission().is_empty() {
            match self.ring.submit() {
                Err(error)
                    if matches!(
                        error.raw_os_error(),
                        Some(libc::EINTR | libc::EAGAIN | libc::EBUSY)
                    ) =>
                {
                    std::thread::yield_now();
                }
                outcome => {
                    outcome?;
                }
            }
        }
        Ok(())
    }

    fn reap(&mut self, wait: bool, done: &mut Vec<Done>) -> io::Result<()> {
        loop {
            let before = done.len();
            let ended: Vec<(u32, u64, i32)> = self
                .ring
                .completion()
                .map(|entry| {
                    let token = u32::try_from(entry.user_data() >> 32).expect("32 bits are left");
                    (
                        token,
                        entry.user_data() & u64::from(u32::MAX),
                        entry.result(),
                    )
                })
                .collect();
            for (token, len, result) in ended {
                if !self.made_again(token, result) {
                    done.push(Done::new(token, i64::from(result), to_usize(len)));
                }
            }
            self.submit()?;
            if done.len() > before || !wait {
                return Ok(());
            }
            match self.ring.submit_and_wait(1) {
                Err(error) if error.raw_os_error() != Some(libc::EINTR) => return Err(error),
                _ => {}
            }
        }
    }

    fn refused(&self) -> u64 {
        self.refused
    }

    fn pinned(&self) -> bool {
        self.kind == Kind::Fixed
    }
}

impl std::fmt::Debug for Uring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Uring")
            .field("kind", &self.kind)
            .finish_non_exhaustive()
    }
}
