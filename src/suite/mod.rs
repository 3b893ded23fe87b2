//! `legwatch test`: runs a campaign, several guests at once, each a `legwatch run` of its own. What is run and what is told of it is in
//! [`crate::campaign`]; here are processes, folders and signals.

pub mod choice;
mod command;
mod glob;
mod listing;
mod progress;
mod runner;
mod store;

pub use command::{merge, recorded, test};
pub use store::is_campaign;
