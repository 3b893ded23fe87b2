//! The suite without guests: what other programs make of its reports, and what it refuses.

mod formats;
mod refused;
