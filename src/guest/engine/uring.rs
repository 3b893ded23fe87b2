//! io_uring, with plain buffers or with the pool registered as one fixed buffer (whose pages are then pinned, and the bio's own).

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use io_uring::{IoUring, opcode, types};

use super::{Done, Engine, WriteRequest};
use crate::block::to_usize;
use crate::guest::sys::Memory;

/// The engine.
pub(super) struct Uring {
    ring: IoUring,
    file: Arc<File>,
    fixed: bool,
}

impl Uring {
    /// Writes to `file`, at most `depth` at a time; `fixed` registers the pool.
    pub(super) fn new(
        file: Arc<File>,
        depth: u32,
        fixed: bool,
        pool: &Memory,
    ) -> io::Result<Uring> {
        let ring = IoUring::new(depth.next_power_of_two())?;
        if fixed {
            let whole = libc::iovec {
                iov_base: pool.address(0).cast_mut().cast(),
                iov_len: pool.len(),
            };
            // SAFETY: the iovec is the pool's mapping; its pages are pinned by the kernel, so even an early unmapping would be safe.
            unsafe { ring.submitter().register_buffers(&[whole]) }?;
        }
        Ok(Uring { ring, file, fixed })
    }
}

impl Engine for Uring {
    fn push(&mut self, pool: &Memory, request: WriteRequest) {
        let file = types::Fd(self.file.as_raw_fd());
        let address = pool.address(request.pool_at);
        let len = u32::try_from(request.len).expect("a write has at most 1 MiB");
        let entry = if self.fixed {
            opcode::WriteFixed::new(file, address, len, 0)
                .offset(request.offset_bytes)
                .build()
        } else {
            opcode::Write::new(file, address, len)
                .offset(request.offset_bytes)
                .build()
        };
        // The length comes back with the token, so that a short write is seen.
        let entry = entry.user_data(u64::from(request.token) << 32 | u64::from(len));
        // SAFETY: the caller keeps the data mapped until the write came back (`WriteRequest`), the kernel only reads it, and the file
        // lives as long as the ring.
        unsafe { self.ring.submission().push(&entry) }
            .expect("the ring has a place for each write on the way");
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
            done.extend(self.ring.completion().map(|entry| {
                let token = u32::try_from(entry.user_data() >> 32).expect("32 bits are left");
                let len = to_usize(entry.user_data() & u64::from(u32::MAX));
                Done::new(token, i64::from(entry.result()), len)
            }));
            if done.len() > before || !wait {
                return Ok(());
            }
            match self.ring.submit_and_wait(1) {
                Err(error) if error.raw_os_error() != Some(libc::EINTR) => return Err(error),
                _ => {}
            }
        }
    }

    fn pinned(&self) -> bool {
        self.fixed
    }
}

impl std::fmt::Debug for Uring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Uring")
            .field("fixed", &self.fixed)
            .finish_non_exhaustive()
    }
}
