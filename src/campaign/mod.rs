//! A campaign: which scenarios run on which kernels with which seeds, what each run has to show, what came of it, and how that is told. Pure: what
//! runs it is `suite`.
//!
//! A run is judged twice: by its own verdict, and by what the scenario expects of that kernel ([`Expectation`]). A kernel that is known to be bad passes
//! when it is found to be bad.

pub mod expectation;
pub mod junit;
pub mod ktap;
pub mod museum;
pub mod plan;
pub mod result;
pub mod same;
pub mod summary;
pub mod table;

pub use expectation::{Expectation, SuiteTable};
pub use plan::{Partition, Plan, Row};
pub use result::{RunResult, State};
pub use summary::{Summary, Tally};
