//! Plain pwrite, direct or through the page cache as the file was opened: a submit makes the pushed writes one after the other.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use super::{Done, Engine, WriteRequest};
use crate::guest::sys::Memory;

/// The engine.
#[derive(Debug)]
pub(super) struct Sync {
    file: Arc<File>,
    pushed: Vec<(WriteRequest, *const u8)>,
    done: Vec<Done>,
}

impl Sync {
    /// Writes to `file`.
    pub(super) fn new(file: Arc<File>) -> Sync {
        Sync {
            file,
            pushed: Vec::new(),
            done: Vec::new(),
        }
    }
}

impl Engine for Sync {
    fn push(&mut self, pool: &Memory, request: WriteRequest) {
        self.pushed.push((request, pool.address(request.pool_at)));
    }

    fn submit(&mut self) -> io::Result<()> {
        for (request, address) in self.pushed.drain(..) {
            let result = loop {
                // SAFETY: the caller keeps the pool's `len` bytes at `address` mapped until the write came back (`WriteRequest`); the kernel
                // only reads them.
                let result = unsafe {
                    libc::pwrite(
                        self.file.as_raw_fd(),
                        address.cast(),
                        request.len,
                        request.offset_bytes.cast_signed(),
                    )
                };
                let error = io::Error::last_os_error().raw_os_error().unwrap_or(0);
                match result {
                    -1 if error == libc::EINTR => {}
                    -1 => break -i64::from(error),
                    written => break i64::try_from(written).unwrap_or(i64::MAX),
                }
            };
            self.done
                .push(Done::new(request.token, result, request.len));
        }
        Ok(())
    }

    fn reap(&mut self, _wait: bool, done: &mut Vec<Done>) -> io::Result<()> {
        done.append(&mut self.done);
        Ok(())
    }
}
