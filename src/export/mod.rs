//! Out to others' tools: a leg's log for `replay-log`, events for blktrace's eyes and for Perfetto, and a leg's image at any number of the sequence.
//! All of it comes from the journal alone. What a guest names goes into text and JSON escaped, and never into a path.

mod blkparse;
mod chrome;
mod command;
mod effects;
mod image;
mod log_writes;

pub use blkparse::blkparse;
pub use chrome::chrome_trace;
pub use command::{export, image as image_command};
pub use effects::{Effect, Effects, Side};
pub use image::{Built, build};
pub use log_writes::{Logged, log_writes};

use std::io;

use crate::journal::Reader;

/// Runs over what is left of a journal.
pub(crate) fn each<R: io::Read>(
    reader: &mut Reader<R>,
    mut take: impl FnMut(&crate::event::Event) -> io::Result<()>,
) -> io::Result<()> {
    while let Some(event) = reader.next_event()? {
        take(&event)?;
    }
    Ok(())
}
