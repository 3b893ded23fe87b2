//! The one place that reads a clock.
//!
//! Time is for delays, time-outs, progress and the report's durations. No verdict and no fault decision may depend on it.

use std::time::Instant;

/// The monotonic clock's reading.
#[allow(clippy::disallowed_methods, reason = "this is the one place")]
pub fn now() -> Instant {
    Instant::now()
}
