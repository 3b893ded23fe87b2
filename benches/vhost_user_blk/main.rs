//! Measures vhost-user-blk backends side by side with a foreign frontend: what `ci/bench` runs. docs/bench.md tells how to read it.
//!
//! A backend is known by its sockets only, so anything that speaks vhost-user-blk can be measured. The requests are the same for all, in
//! interleaved slices (A B C B C A …), so that what disturbs the machine disturbs all alike.

mod args;
mod backend;
mod case;
mod failure;
mod growth;
mod lane;
mod measure;
mod process;
mod run;
mod session;
mod stats;
mod table;
mod targets;
mod verify;

use std::process::ExitCode;

use clap::Parser;

use crate::args::Args;
use crate::failure::{Failure, chain, during};

fn main() -> ExitCode {
    if std::env::args_os().len() == 1 {
        // `cargo test --all-targets` runs benches too.
        say("nothing to measure without arguments: see --help, or use ci/bench");
        return ExitCode::SUCCESS;
    }
    match bench(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(failure) => {
            eprintln!("bench: {}", chain(&failure));
            ExitCode::from(if matches!(failure, Failure::Usage(_)) {
                2
            } else {
                1
            })
        }
    }
}

/// Whether all that was asked for could be measured, and held the right data.
fn bench(args: &Args) -> Result<bool, Failure> {
    let plan = run::Plan::new(args)?;
    if args.list {
        say(plan.list().trim_end());
        return Ok(true);
    }
    let report = run::run(&plan)?;
    say(&report.text);
    if let Some(path) = &args.out {
        std::fs::write(path, &report.text)
            .map_err(during(format!("writing {}", path.display())))?;
    }
    Ok(report.complete)
}

#[allow(
    clippy::print_stdout,
    reason = "the report is what this program is for"
)]
fn say(text: &str) {
    println!("{text}");
}
