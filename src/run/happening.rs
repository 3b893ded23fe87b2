//! Everything that the supervisor waits for, in one channel.

use std::sync::mpsc::Sender;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::qemu::ConsoleLine;
use crate::witness::wire::Notice;

/// Something happened.
#[derive(Debug)]
pub enum Happening {
    /// The witness said something.
    Notice(Notice),
    /// The witness said something that nobody understands.
    Nonsense(String),
    /// The witness's process ended.
    WitnessGone,
    /// A line of the guest's console, or of QEMU's own.
    Console(ConsoleLine),
    /// Ctrl-C, or a request to end.
    Interrupted,
}

/// Turns SIGINT, SIGTERM and SIGHUP into happenings, for the rest of the process's life.
///
/// # Errors
/// If the handlers can't be set.
pub fn catch_signals(happenings: Sender<Happening>) -> std::io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            for _signal in signals.forever() {
                if happenings.send(Happening::Interrupted).is_err() {
                    return;
                }
            }
        })?;
    Ok(())
}
