//! The checker: a fold over a run's events that ends in a verdict.
//!
//! The same code runs live and over a journal. Everything it says is derived from events in the order of their numbers, so both say the same.
//! One module a check; [`excuse`] has the reasons for which md may let legs differ.
//!
//! ```text
//! events ─ apply ─┬─ world: requests, shadows, md         what the legs hold
//!                 ├─ intents: the book (past: superseded)  what the workload meant
//!                 └─ judge (ack mark, flush, rest) ─ wrong ─ fold ─ findings
//! ```

mod ack_all;
mod all_legs;
mod buf_stable;
mod checker;
mod clean_eq;
mod coverage;
mod discard_all;
mod durable;
pub mod excuse;
mod excused;
mod expect;
mod fold;
mod guest;
mod injected;
mod intents;
mod judge;
pub mod known;
mod lag;
mod legs;
pub mod lost;
mod map;
mod moments;
mod nature;
mod past;
mod promise;
mod record;
mod rounds;
mod same_data;
mod same_pages;
mod so_far;
mod stamp;
mod story;
pub mod survive;
mod trouble;
mod verdict;
mod words;
mod world;
mod wrong;

pub use checker::{Checker, Wanted};
pub(crate) use fold::plain;
pub use lag::PairLag;
pub use map::{Layer, LegMap};
pub(crate) use moments::{in_words as action_in_words, moment as moment_in_words};
pub use so_far::SoFar;
pub use verdict::{Coverage, EndState, FaultCoverage, LegCoverage, Outcome, SyncPass, Verdict};
