//! `legwatch kernel list|fetch|config`.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use crate::cache::Cache;
use crate::cli::KernelCommand;
use crate::failure::{Failure, put};
use crate::kernel;

/// Runs the command.
///
/// # Errors
/// [`Failure`].
pub fn run(command: &KernelCommand) -> Result<u8, Failure> {
    match command {
        KernelCommand::List => {
            let cache = Cache::open().map_err(Failure::user)?;
            let cached: BTreeSet<String> = kernel::list_cached(&cache)?
                .into_iter()
                .map(|kernel| kernel.abi)
                .collect();
            let mut text = String::new();
            for candidate in kernel::list_archive(&cache)? {
                let spec = format!("debian:{}", candidate.upstream());
                let here = if cached.contains(&candidate.abi) {
                    "  in the cache"
                } else {
                    ""
                };
                writeln!(text, "{spec:<18} {}{here}", candidate.abi)
                    .expect("a string takes everything");
            }
            put(&text)?;
        }
        KernelCommand::Fetch { kernel: spec } => {
            let cache = Cache::open().map_err(Failure::user)?;
            let kernel = kernel::resolve(spec, &cache)?;
            put(&format!("{}  {}\n", kernel.release, kernel.image.display()))?;
        }
        KernelCommand::Config => put(&kernel::needs::fragment(&[]))?,
    }
    Ok(0)
}
