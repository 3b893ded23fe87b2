//! `legwatch kernel list|fetch|config`.

use std::collections::BTreeSet;
use std::io::Write;

use crate::cache::Cache;
use crate::cli::KernelCommand;
use crate::failure::Failure;
use crate::kernel;

/// Runs the command.
///
/// # Errors
/// [`Failure`].
pub fn run(command: &KernelCommand) -> Result<u8, Failure> {
    let mut out = std::io::stdout().lock();
    match command {
        KernelCommand::List => {
            let cache = Cache::open().map_err(Failure::user)?;
            let cached: BTreeSet<String> = kernel::list_cached(&cache)?
                .into_iter()
                .map(|kernel| kernel.abi)
                .collect();
            for candidate in kernel::list_archive(&cache)? {
                let spec = format!("debian:{}", candidate.upstream());
                let here = if cached.contains(&candidate.abi) {
                    "  in the cache"
                } else {
                    ""
                };
                writeln!(out, "{spec:<18} {}{here}", candidate.abi).map_err(Failure::internal)?;
            }
        }
        KernelCommand::Fetch { kernel: spec } => {
            let cache = Cache::open().map_err(Failure::user)?;
            let kernel = kernel::resolve(spec, &cache)?;
            writeln!(out, "{}  {}", kernel.release, kernel.image.display())
                .map_err(Failure::internal)?;
        }
        KernelCommand::Config => {
            write!(out, "{}", kernel::needs::fragment(&[])).map_err(Failure::internal)?
        }
    }
    Ok(0)
}
