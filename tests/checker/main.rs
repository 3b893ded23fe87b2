//! The checker over histories that a small model of a guest makes: honest ones never alarm, planted violations always do.

mod durable;
mod durable_errors;
mod excuses;
mod expect;
mod failing;
mod faults;
mod history;
mod honest;
mod known;
mod midst;
mod narrow;
mod overlap;
mod pages;
mod planted;
mod promises;
mod promises_errors;
mod promises_record;
mod promises_resync;
mod raid10;
mod random_md;
mod resized;
mod so_far;
mod stacks;
mod told;
mod verdicts;
mod watch;
