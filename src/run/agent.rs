//! Where the guest's agent is: beside this program, or where `ci/build` puts the static one.

use std::path::PathBuf;

/// The environment's word on where the agent is.
const VARIABLE: &str = "LEGWATCH_GUEST";
const NAME: &str = "legwatch-guest";

/// Why there is no agent.
#[derive(Debug, thiserror::Error)]
pub(super) enum AgentError {
    /// The variable names no file.
    #[error("{VARIABLE} names {}, which is no file; build the agent with ci/build", .0.display())]
    Named(PathBuf),
    /// It is nowhere.
    #[error("the guest's agent {NAME} is not beside {}; build it with ci/build, or name it in {VARIABLE}", .0.display())]
    Nowhere(PathBuf),
    /// This program does not know where it is.
    #[error("this program's own path can't be read")]
    Self_(#[from] std::io::Error),
}

/// The agent's program: the static one where it was built.
///
/// # Errors
/// [`AgentError`].
pub(super) fn find() -> Result<PathBuf, AgentError> {
    if let Some(named) = std::env::var_os(VARIABLE).map(PathBuf::from) {
        return if named.is_file() {
            Ok(named)
        } else {
            Err(AgentError::Named(named))
        };
    }
    let program = std::env::current_exe()?;
    let beside = program.parent().unwrap_or(&program).to_owned();
    // In a build tree: target/release/legwatch and target/x86_64-unknown-linux-gnu/guest/legwatch-guest.
    let built = beside
        .parent()
        .map(|target| target.join("x86_64-unknown-linux-gnu/guest").join(NAME));
    [built, Some(beside.join(NAME))]
        .into_iter()
        .flatten()
        .find(|path| path.is_file())
        .ok_or(AgentError::Nowhere(program))
}
