//! The one place that reads a clock.
//!
//! Time is for delays, time-outs, progress and the report's durations. No verdict and no fault decision may depend on it.

use std::time::{Instant, SystemTime};

/// The monotonic clock's reading.
#[allow(clippy::disallowed_methods, reason = "this is the one place")]
pub fn now() -> Instant {
    Instant::now()
}

/// The host's wall clock, in seconds since 1970; 0 before that. For a guest's clock, and for nothing of ours.
#[allow(clippy::disallowed_methods, reason = "this is the one place")]
pub fn unix_s() -> u64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
