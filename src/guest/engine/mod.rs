//! How a writer's writes are made: one trait, and an implementation a kernel interface.
//!
//! An engine is one thread's. Writes are pushed, then submitted together, and every pushed write comes back exactly once from
//! [`Engine::reap`], with the kernel's result. Discards and flushes are not an engine's matter: the writer makes them itself.

mod aio;
mod sync;
mod uring;

use std::fs::File;
use std::io;
use std::sync::Arc;

use super::sys::Memory;
use crate::plan;

/// One write to be made. The memory at `address` is the pool's that the engine was made for, and stays mapped until the write came back.
#[derive(Clone, Copy, Debug)]
pub(super) struct WriteRequest {
    /// What the completion names the write by.
    pub(super) token: u32,
    /// Byte offset on the device.
    pub(super) offset_bytes: u64,
    /// First byte of the data, an offset into the pool.
    pub(super) pool_at: usize,
    /// Bytes.
    pub(super) len: usize,
}

/// The end of one write: its token, and 0 or the error number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Done {
    /// The write.
    pub(super) token: u32,
    /// Its outcome.
    pub(super) errno: u16,
}

impl Done {
    /// From the kernel's result: bytes written, or a negative error number. A short write counts as an I/O error: on a block device
    /// something of it failed.
    fn new(token: u32, result: i64, len: usize) -> Done {
        let errno = match u64::try_from(result) {
            Ok(written) if written == len as u64 => 0,
            Ok(_) => errno_of(libc::EIO),
            Err(_) => u16::try_from(result.unsigned_abs()).unwrap_or(u16::MAX),
        };
        Done { token, errno }
    }
}

/// An error number as marks carry it.
fn errno_of(raw: i32) -> u16 {
    u16::try_from(raw).unwrap_or(u16::MAX)
}

/// The error number of an I/O error as marks carry it.
pub(super) fn errno(error: &io::Error) -> u16 {
    errno_of(error.raw_os_error().unwrap_or(libc::EIO))
}

/// A way to write.
pub(super) trait Engine {
    /// Takes a write; nothing happens before [`Engine::submit`]. At most the depth given to [`open`] may be on the way.
    fn push(&mut self, pool: &Memory, request: WriteRequest);

    /// Hands all pushed writes to the kernel.
    fn submit(&mut self) -> io::Result<()>;

    /// Appends the writes that have ended; if `wait`, at least one (there must be one on the way).
    fn reap(&mut self, wait: bool, done: &mut Vec<Done>) -> io::Result<()>;

    /// Writes that were refused because they would have had to wait, and were made again.
    fn refused(&self) -> u64 {
        0
    }

    /// Whether the pool's pages are pinned for as long as the engine lives.
    fn pinned(&self) -> bool {
        false
    }
}

/// Makes the engine that a load asks for, or the nearest one that this kernel has; the text says what had to be made do with.
pub(super) fn open(
    wanted: plan::Engine,
    file: &Arc<File>,
    depth: u32,
    pool: &Memory,
) -> io::Result<(Box<dyn Engine>, Option<&'static str>)> {
    let uring = |kind| uring::Uring::new(Arc::clone(file), depth, kind, pool);
    Ok(match wanted {
        plan::Engine::IoUring => match uring(uring::Kind::Plain) {
            Ok(engine) => (Box::new(engine), None),
            Err(error) if unavailable(&error) => {
                let aio = aio::Aio::new(Arc::clone(file), depth)?;
                (
                    Box::new(aio),
                    Some("this kernel has no io_uring: writes went through libaio"),
                )
            }
            Err(error) => return Err(error),
        },
        plan::Engine::IoUringFixed => match uring(uring::Kind::Fixed) {
            Ok(engine) => (Box::new(engine), None),
            Err(error) if unavailable(&error) => {
                let aio = aio::Aio::new(Arc::clone(file), depth)?;
                (
                    Box::new(aio),
                    Some(
                        "this kernel has no io_uring: writes went through libaio, without pinned buffers",
                    ),
                )
            }
            Err(error) => return Err(error),
        },
        plan::Engine::IoUringNowait => (Box::new(uring(uring::Kind::Nowait)?), None),
        plan::Engine::Libaio => (Box::new(aio::Aio::new(Arc::clone(file), depth)?), None),
        plan::Engine::Sync | plan::Engine::Buffered => {
            (Box::new(sync::Sync::new(Arc::clone(file))), None)
        }
    })
}

/// Whether an error means that the kernel has no io_uring, or that it is switched off.
fn unavailable(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ENOSYS | libc::EPERM | libc::EACCES)
    )
}
