//! Linux native AIO by its system calls, for kernels without io_uring.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use super::{Done, Engine, WriteRequest};
use crate::guest::sys::Memory;

const IOCB_CMD_PWRITE: u16 = 1;

/// What io_getevents fills in (`struct io_event`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct Event {
    data: u64,
    object: u64,
    result: i64,
    result2: i64,
}

/// The engine.
#[derive(Debug)]
pub(super) struct Aio {
    context: libc::c_ulong,
    file: Arc<File>,
    pushed: Vec<(WriteRequest, *const u8)>,
    events: Vec<Event>,
}

impl Aio {
    /// Writes to `file`, at most `depth` at a time.
    pub(super) fn new(file: Arc<File>, depth: u32) -> io::Result<Aio> {
        let mut context: libc::c_ulong = 0;
        // SAFETY: io_setup writes the context's handle to the address given, which is valid for that and holds 0 as it must.
        if unsafe { libc::syscall(libc::SYS_io_setup, depth, &raw mut context) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Aio {
            context,
            file,
            pushed: Vec::new(),
            events: vec![Event::default(); usize::try_from(depth).unwrap_or(1)],
        })
    }
}

impl Engine for Aio {
    fn push(&mut self, pool: &Memory, request: WriteRequest) {
        self.pushed.push((request, pool.address(request.pool_at)));
    }

    fn submit(&mut self) -> io::Result<()> {
        let blocks: Vec<libc::iocb> = self
            .pushed
            .iter()
            .map(|(request, address)| {
                // SAFETY: an iocb is plain numbers; all zeros is a valid one.
                let mut block: libc::iocb = unsafe { std::mem::zeroed() };
                // The length comes back with the token, so that a short write is seen.
                block.aio_data = u64::from(request.token) << 32 | request.len as u64;
                block.aio_lio_opcode = IOCB_CMD_PWRITE;
                block.aio_fildes = self.file.as_raw_fd().unsigned_abs();
                block.aio_buf = address.addr() as u64;
                block.aio_nbytes = request.len as u64;
                block.aio_offset = request.offset_bytes.cast_signed();
                block
            })
            .collect();
        let pointers: Vec<*const libc::iocb> = blocks.iter().map(std::ptr::from_ref).collect();
        let mut at = 0;
        while at < pointers.len() {
            let left = pointers.len() - at;
            // SAFETY: `pointers[at..]` are `left` pointers to iocbs that live until the call returns (the kernel copies them); the caller
            // keeps the data that they point to mapped until the writes came back (`WriteRequest`), and the kernel only reads it.
            let taken = unsafe {
                libc::syscall(
                    libc::SYS_io_submit,
                    self.context,
                    left,
                    pointers.as_ptr().add(at),
                )
            };
            match usize::try_from(taken) {
                Ok(taken) => at += taken,
                Err(_) => {
                    let error = io::Error::last_os_error();
                    match error.raw_os_error() {
                        // The queue is full for the moment: writes on the way will make room.
                        Some(libc::EAGAIN | libc::EINTR) => std::thread::yield_now(),
                        _ => return Err(error),
                    }
                }
            }
        }
        self.pushed.clear();
        Ok(())
    }

    fn reap(&mut self, wait: bool, done: &mut Vec<Done>) -> io::Result<()> {
        loop {
            // SAFETY: `events` is as long as the number given; the kernel writes at most so many of them.
            let count = unsafe {
                libc::syscall(
                    libc::SYS_io_getevents,
                    self.context,
                    libc::c_long::from(wait),
                    self.events.len(),
                    self.events.as_mut_ptr(),
                    std::ptr::null_mut::<libc::timespec>(),
                )
            };
            match usize::try_from(count) {
                Ok(count) => {
                    done.extend(self.events[..count].iter().map(|event| {
                        let token = u32::try_from(event.data >> 32).expect("32 bits are left");
                        let len = crate::block::to_usize(event.data & u64::from(u32::MAX));
                        Done::new(token, event.result, len)
                    }));
                    return Ok(());
                }
                Err(_) => {
                    let error = io::Error::last_os_error();
                    if error.kind() != io::ErrorKind::Interrupted {
                        return Err(error);
                    }
                }
            }
        }
    }
}

impl Drop for Aio {
    fn drop(&mut self) {
        // SAFETY: the context is this value's own, made by io_setup; destroying it waits for what is on the way.
        let _gone = unsafe { libc::syscall(libc::SYS_io_destroy, self.context) };
    }
}
