//! Why a command ended without a verdict, the exit code for it, and what does not end it.

use std::error::Error;
use std::fmt;
use std::io::Write;

use crate::kernel::KernelError;

/// A command that can't give a verdict.
#[derive(Debug)]
pub enum Failure {
    /// The user's mistake, in one sentence: what, where, what to do.
    User(Box<dyn Error + Send + Sync>),
    /// It could not be tested on this machine: no verdict, and nobody's mistake.
    Inconclusive(Box<dyn Error + Send + Sync>),
    /// Our own fault.
    Internal(Box<dyn Error + Send + Sync>),
    /// Interrupted before there was anything to judge.
    Interrupted,
}

/// Exit code: findings.
pub const EXIT_FINDINGS: u8 = 1;
/// Exit code: the user's mistake.
pub const EXIT_USER: u8 = 2;
/// Exit code: our own fault.
pub const EXIT_INTERNAL: u8 = 70;
/// Exit code: inconclusive; `git bisect run` skips.
pub const EXIT_INCONCLUSIVE: u8 = 125;
/// Exit code: interrupted.
pub const EXIT_INTERRUPTED: u8 = 130;
/// Exit code that stops `git bisect run`.
const EXIT_STOP_BISECT: u8 = 255;

impl Failure {
    /// A mistake of the user's.
    pub fn user(error: impl Into<Box<dyn Error + Send + Sync>>) -> Failure {
        Failure::User(error.into())
    }

    /// A fault of our own.
    pub fn internal(error: impl Into<Box<dyn Error + Send + Sync>>) -> Failure {
        Failure::Internal(error.into())
    }

    /// A test that could not be made.
    pub fn inconclusive(error: impl Into<Box<dyn Error + Send + Sync>>) -> Failure {
        Failure::Inconclusive(error.into())
    }

    /// The exit code without `--bisect`.
    pub fn exit(&self) -> u8 {
        match self {
            Failure::User(_) => EXIT_USER,
            Failure::Inconclusive(_) => EXIT_INCONCLUSIVE,
            Failure::Internal(_) => EXIT_INTERNAL,
            Failure::Interrupted => EXIT_INTERRUPTED,
        }
    }
}

/// The exit code as `git bisect run` needs it: it takes 1 to 124 for bad and 125 for skip, and must stop where nothing was judged.
pub fn bisect(exit: u8) -> u8 {
    match exit {
        EXIT_USER | EXIT_INTERNAL | EXIT_INTERRUPTED => EXIT_STOP_BISECT,
        other => other,
    }
}

impl From<KernelError> for Failure {
    fn from(error: KernelError) -> Failure {
        if error.is_unavailable() {
            Failure::inconclusive(error)
        } else {
            Failure::user(error)
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::User(error) | Failure::Inconclusive(error) | Failure::Internal(error) => {
                f.write_str(&chain(error.as_ref()))
            }
            Failure::Interrupted => f.write_str("interrupted"),
        }
    }
}

/// The error and its causes, each once, on one line.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    // Others' messages may have several lines; ours is one.
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    lines.collect::<Vec<_>>().join("; ")
}

/// Puts a text on standard output. A reader that went away (`| head`) is no failure.
///
/// # Errors
/// [`Failure`]: it can't be written.
pub fn put(text: &str) -> Result<(), Failure> {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::internal(error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistake_stops_a_bisection_and_a_verdict_does_not() {
        let codes = [
            0,
            EXIT_FINDINGS,
            EXIT_INCONCLUSIVE,
            EXIT_USER,
            EXIT_INTERNAL,
            EXIT_INTERRUPTED,
        ];
        assert_eq!(codes.map(bisect), [0, 1, 125, 255, 255, 255]);
    }

    #[test]
    fn causes_are_told_once() {
        let cause = std::io::Error::other("no such luck");
        let error = crate::run::out::OutError::Io {
            path: "/x".into(),
            source: cause,
        };
        assert_eq!(
            Failure::user(error).to_string(),
            "output folder /x can't be used: no such luck"
        );
    }
}
