//! Why the benchmark could not measure something.

use std::io;

/// A benchmark that failed, or one backend's part of it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("{what}")]
    Io {
        what: String,
        #[source]
        source: io::Error,
    },
    #[error("{0}")]
    Usage(String),
    #[error("{0}")]
    Backend(String),
    #[error("no completion for {seconds} s, {outstanding} requests outstanding")]
    Stalled { seconds: u64, outstanding: usize },
    #[error("request failed: {operation} of {bytes} bytes at {offset}, leg {leg}: errno {errno}")]
    Request {
        operation: &'static str,
        bytes: usize,
        offset: u64,
        leg: usize,
        errno: i32,
    },
    #[error("wrong data on leg {leg}, sector {sector}: {what}")]
    Data {
        leg: usize,
        sector: u64,
        what: String,
    },
}

/// Says what was being done when an I/O error came.
pub(crate) fn during(what: impl Into<String>) -> impl FnOnce(io::Error) -> Failure {
    let what = what.into();
    move |source| Failure::Io { what, source }
}

/// The error and its causes in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}
