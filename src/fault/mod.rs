//! Faults: rules that make a leg misbehave, decided once a request, purely, and recorded with the request they hit.
//!
//! | file | job |
//! | --- | --- |
//! | `rule` | a rule as it is written: match, action, budget |
//! | `check` | whether a list of rules makes sense, before anything starts |
//! | `decide` | from a request to its fate |
//! | `act` | what a rule that hits makes of a request |
//! | `chance` | a generator for each leg, rule and request |
//! | `damage` | what a corruption does to bytes |
//!
//! What a rule decides by chance depends on the run's seed, the leg, the rule's name and the request's number on its leg, and on nothing else:
//! adding a rule does not shift another's choices. Counting matches (`nth`, `every`, `at_most`) goes by leg as well. Only `after`, `twin`, `beside`,
//! `during`, marks and times look beyond the leg; they depend on the order in which things happened, which the journal has.

/// Whether this build can inject anything. All can, but the one that the benchmark compares with.
pub const COMPILED_IN: bool = !cfg!(feature = "bench-no-faults");

mod act;
mod chance;
mod check;
mod damage;
mod decide;
mod rule;

pub use chance::chance;
pub use check::{check, check_alone, check_steps, name_all, needs_qemu, no_qemu};
pub use damage::damage;
pub use decide::{
    Around, Chance, Decision, LEG_DELAY, LEG_LATE_FETCH, LEG_WRITE_DELAY, LegRules, Nothing, Seen,
    Store, Wait,
};
pub use rule::{
    After, Answer, Beside, Corrupt, Delay, Disconnect, Do, Hold, Misdirect, Op, Part, Reorder,
    Resize, Rule, Span, SplitFetch, Stage, Stale, Stall, Stuck, Tear, Twin, TwinIs, Unplug,
};

#[cfg(test)]
mod tests;
