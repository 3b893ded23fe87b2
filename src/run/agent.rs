//! Where the guest's agent is: beside this program, or where `ci/build` puts the static one.

use std::path::{Path, PathBuf};

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
    candidates(&program)
        .into_iter()
        .find(|path| path.is_file())
        .ok_or(AgentError::Nowhere(program))
}

/// Where it can be, the likeliest first. In a build tree the static one is target/x86_64-unknown-linux-gnu/guest/legwatch-guest, and this program
/// target/release/legwatch or, as a test, target/release/deps/NAME. What lies beside this program may be a dynamic build of `cargo build`.
fn candidates(program: &Path) -> Vec<PathBuf> {
    let built = program
        .ancestors()
        .skip(2)
        .take(2)
        .map(|target| target.join("x86_64-unknown-linux-gnu/guest").join(NAME));
    let beside = program.parent().map(|folder| folder.join(NAME));
    built.chain(beside).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_tree_is_searched_before_the_programs_own_folder() {
        for program in ["/t/release/legwatch", "/t/debug/deps/vm-0123"] {
            let found = candidates(Path::new(program));
            let built = Path::new("/t/x86_64-unknown-linux-gnu/guest/legwatch-guest");
            assert!(found.iter().any(|path| path == built), "{found:?}");
            assert_eq!(found.last().unwrap().parent(), Path::new(program).parent());
        }
    }
}
