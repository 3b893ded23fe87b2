//! The suite without guests: what other programs make of its reports and examples, and what it refuses.

mod campaign;
mod docs;
mod examples;
mod formats;
mod refused;
