//! `legwatch`: reads the command line, runs the command, and is the only place that exits.

use std::process::ExitCode;

use clap::Parser;
use legwatch::cli::{Cli, Command};
use legwatch::failure::{self, EXIT_INTERNAL, EXIT_USER, Failure};
use legwatch::{
    ctl, explain, export, kernel_command, new_scenario, recorded, run, serve, suite, witness,
};

fn main() -> ExitCode {
    std::panic::set_hook(Box::new(|panic| {
        eprintln!("legwatch: our own fault, please report it: {panic}");
        // A broken invariant anywhere makes every verdict worthless: the whole process ends.
        #[allow(
            clippy::exit,
            reason = "the panic hook ends the process with the documented exit code"
        )]
        std::process::exit(i32::from(EXIT_INTERNAL));
    }));
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _nobody_listens = error.print();
            let exit = if error.use_stderr() { EXIT_USER } else { 0 };
            let bisect = std::env::args_os().any(|word| word == "--bisect");
            return ExitCode::from(if bisect { failure::bisect(exit) } else { exit });
        }
    };
    let bisect = matches!(&cli.command, Command::Run(args) if args.bisect)
        || matches!(&cli.command, Command::Test(args) if args.bisect);
    let exit = command(&cli.command).unwrap_or_else(|failure| {
        eprintln!("legwatch: {failure}");
        failure.exit()
    });
    ExitCode::from(if bisect { failure::bisect(exit) } else { exit })
}

fn command(command: &Command) -> Result<u8, Failure> {
    match command {
        Command::Run(args) => run::run(args),
        Command::Test(args) => suite::test(args),
        Command::New(args) => new_scenario::write(args),
        Command::Serve(args) => serve::serve(args),
        Command::Check(args) => recorded::check(args),
        Command::Report(args) => recorded::report(args),
        Command::Export(args) => export::export(args),
        Command::Image(args) => export::image_command(args),
        Command::Explain(args) => explain::explain(args),
        Command::Ctl(args) => ctl::ctl(args),
        Command::Kernel { command } => kernel_command::run(command),
        Command::Witness { config, go_on } => witness::process::main(config, *go_on),
    }
}
