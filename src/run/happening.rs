//! Everything that the supervisor waits for, in one channel.

use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};

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
    /// Something was done to the guest's devices, as a rule wants it.
    Hand(String),
    /// It could not be done.
    HandFailed(String),
    /// A guest could not go on from a saved boot.
    NotResumed(String),
    /// Ctrl-C, or a request to end.
    Interrupted,
}

/// SIGINT, SIGTERM and SIGHUP, caught for the rest of the process's life.
#[derive(Debug, Default)]
pub struct Interrupts {
    listener: Arc<Mutex<Option<Sender<Happening>>>>,
}

impl Interrupts {
    /// Catches the signals. As long as nobody listens, nothing was begun that needs an end, and a signal ends the process with `exit`.
    ///
    /// # Errors
    /// If the handlers can't be set.
    pub fn catch(exit: u8) -> std::io::Result<Interrupts> {
        let interrupts = Interrupts::default();
        let listener = Arc::clone(&interrupts.listener);
        let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
        std::thread::Builder::new()
            .name("signals".into())
            .spawn(move || {
                for _signal in signals.forever() {
                    let listener = listener.lock().unwrap_or_else(PoisonError::into_inner);
                    match &*listener {
                        // A listener that is gone is at its end already.
                        Some(listener) => drop(listener.send(Happening::Interrupted)),
                        None => {
                            eprintln!("legwatch: interrupted");
                            #[allow(
                                clippy::exit,
                                reason = "nothing was begun, and the thread that would end the process may be waiting for an archive"
                            )]
                            std::process::exit(i32::from(exit));
                        }
                    }
                }
            })?;
        Ok(interrupts)
    }

    /// From now on signals are happenings.
    pub fn listen(&self, happenings: Sender<Happening>) {
        *self.listener.lock().unwrap_or_else(PoisonError::into_inner) = Some(happenings);
    }
}
