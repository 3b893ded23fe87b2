//! Real frontends over real sockets, without a VM: a foreign driver, hand-made rings, and everything that a connection can do.

mod control;
mod ctl;
mod driver;
mod export;
mod faults;
mod goes_on;
mod held;
mod hostile;
mod image;
mod inflight;
mod order;
mod raw;
mod resize;
mod resume;
mod slow_journal;
mod soak;
mod support;
