//! The witness as the process that `run` starts: commands on standard input, notices on standard output, a JSON line each.

use std::io::{BufRead, Write};
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};

use crate::event::GuestEnd;
use crate::failure::Failure;
use crate::witness::Witness;
use crate::witness::wire::{Command, GoOn, Notice, WitnessConfig};

/// Runs until the supervisor says that it is over, or is gone. The verdict is told as a notice, and so is a failure: the exit code is 0 unless the
/// witness itself could not do its work.
///
/// # Errors
/// [`Failure`], if there is nobody to tell.
pub fn main(config: &Path, go_on: bool) -> Result<u8, Failure> {
    let (notices, told) = channel();
    let printer = std::thread::Builder::new()
        .name("notices".into())
        .spawn(move || print_notices(&told))
        .map_err(Failure::internal)?;
    let result = serve(config, go_on, notices.clone());
    if let Err(failure) = &result {
        let user = matches!(failure, Failure::User(_));
        let _printer_is_gone = notices.send(Notice::Failed {
            message: failure.to_string(),
            user,
        });
    }
    drop(notices);
    let _printer_panicked = printer.join();
    Ok(result.map_or_else(|failure| failure.exit(), |()| 0))
}

fn serve(
    config: &Path,
    go_on: bool,
    notices: std::sync::mpsc::Sender<Notice>,
) -> Result<(), Failure> {
    let text = std::fs::read_to_string(config).map_err(Failure::internal)?;
    let config: WitnessConfig = serde_json::from_str(&text).map_err(Failure::internal)?;
    let mut lines = std::io::stdin().lock().lines();
    // The boot that goes on.
    let mut guest = None;
    let mut told = 0;
    let mut witness = if go_on {
        let first = lines.next().transpose().map_err(Failure::internal)?;
        let known: GoOn =
            serde_json::from_str(&first.unwrap_or_default()).map_err(Failure::internal)?;
        let (witness, went_on) = Witness::go_on(&config, &known, notices.clone())?;
        (guest, told) = (went_on.guest, went_on.told);
        witness
    } else {
        Witness::start(&config, notices.clone())?
    };
    let _nobody_listens = notices.send(Notice::Ready {
        sockets: witness.sockets(),
        told,
    });
    for line in lines {
        let line = line.map_err(Failure::internal)?;
        match serde_json::from_str(&line).map_err(Failure::internal)? {
            Command::Boot { boot, plan } => {
                witness.boot(boot, &plan)?;
                guest = Some(boot);
            }
            Command::Console { line } => witness.console(line),
            Command::Hand { what } => witness.hand(what),
            Command::CatchUp => witness.catch_up(),
            Command::GuestEnded { boot, how } => {
                witness.guest_ended(boot, how);
                guest = None;
            }
            Command::Finish { interrupted } => {
                let summary = witness.finish(interrupted)?;
                let _nobody_listens = notices.send(Notice::Done(summary));
                return Ok(());
            }
        }
    }
    // The supervisor is gone, and QEMU with it: keep what there is.
    if let Some(boot) = guest {
        let why = "legwatch's supervisor ended before its guest did".into();
        witness.guest_ended(boot, GuestEnd::Lost { why });
    }
    witness.finish(true)?;
    // It made the folder, and can't remove it any more.
    let _stays = std::fs::remove_dir(&config.sockets);
    Ok(())
}

fn print_notices(told: &Receiver<Notice>) {
    let mut out = std::io::stdout().lock();
    for notice in told {
        let mut line = serde_json::to_string(&notice).expect("a notice is plain data");
        line.push('\n');
        if out
            .write_all(line.as_bytes())
            .and_then(|()| out.flush())
            .is_err()
        {
            return;
        }
    }
}
