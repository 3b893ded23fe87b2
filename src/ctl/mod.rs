//! `legwatch ctl`: rules, marks and state of a live backend, over a socket that is its owner's only.
//!
//! One request and one answer a connection, each a line of JSON; [`wire`] has the words. [`server`] is the backend's side.

pub mod server;
pub mod wire;

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use crate::cli::{CtlArgs, CtlCommand, RulesCommand};
use crate::ctl::wire::{Answer, Done, Request, Status};
use crate::failure::{Failure, put};

/// Why the backend can't be asked.
#[derive(Debug, thiserror::Error)]
pub enum CtlError {
    /// Nobody listens.
    #[error("no backend listens at {}: {source}; start one with `serve --control` or `run --control`", .path.display())]
    Connect {
        /// The socket.
        path: std::path::PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The conversation broke off.
    #[error("the backend did not answer")]
    Talk(#[from] std::io::Error),
    /// It says something odd.
    #[error("the backend's answer makes no sense: {0}")]
    Nonsense(#[from] serde_json::Error),
    /// It refuses.
    #[error("{0}")]
    Refused(String),
    /// The rules' file can't be read.
    #[error("rules {}: {source}", .path.display())]
    File {
        /// The file.
        path: std::path::PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// Asks the backend and prints its answer.
///
/// # Errors
/// [`Failure`], with the backend's refusal in its own words.
pub fn ctl(args: &CtlArgs) -> Result<u8, Failure> {
    if let CtlCommand::Status { every_ms: Some(ms) } = args.command {
        return watch(args, Duration::from_millis(ms.into()));
    }
    let request = request(&args.command).map_err(Failure::user)?;
    let done = ask(&args.socket, &request).map_err(Failure::user)?;
    let text = if args.json {
        let mut line = serde_json::to_string(&done).map_err(Failure::internal)?;
        line.push('\n');
        line
    } else {
        in_words(&done)
    };
    put(&text)?;
    Ok(0)
}

/// Prints the backend's live numbers again and again until it ends, which is no error.
fn watch(args: &CtlArgs, every: Duration) -> Result<u8, Failure> {
    let mut before: Option<Status> = None;
    loop {
        let status = match ask(&args.socket, &Request::Status) {
            Ok(Done::Status(status)) => status,
            Ok(Done::Said(_) | Done::Rules(_)) => return Ok(0),
            Err(_) if before.is_some() => return Ok(0),
            Err(error) => return Err(Failure::user(error)),
        };
        let text = if args.json {
            let line = serde_json::to_string(&Done::Status(status.clone()));
            format!("{}\n", line.map_err(Failure::internal)?)
        } else {
            rates(before.as_ref(), &status, every)
        };
        let mut out = std::io::stdout();
        if out
            .write_all(text.as_bytes())
            .and_then(|()| out.flush())
            .is_err()
        {
            // Whoever closed the pipe has seen enough.
            return Ok(0);
        }
        before = Some(status);
        std::thread::sleep(every);
    }
}

/// A line a leg: what it did since the last look, a second.
fn rates(before: Option<&Status>, now: &Status, every: Duration) -> String {
    let seconds = every.as_secs_f64();
    #[allow(clippy::cast_precision_loss, reason = "for the eye")]
    let rate = |was: Option<u64>, is: u64| is.saturating_sub(was.unwrap_or(is)) as f64 / seconds;
    let mut out = String::new();
    for (at, leg) in now.legs.iter().enumerate() {
        let was = before.and_then(|before| before.legs.get(at));
        out.push_str(&format!(
            "leg {}: {:.0} reads/s, {:.0} writes/s, {:.0} flushes/s, {:.1} MiB/s; {} in flight, {} errors, {} lies\n",
            leg.name,
            rate(was.map(|leg| leg.reads), leg.reads),
            rate(was.map(|leg| leg.writes), leg.writes),
            rate(was.map(|leg| leg.flushes), leg.flushes),
            rate(
                was.map(|leg| leg.bytes_read.saturating_add(leg.bytes_written)),
                leg.bytes_read.saturating_add(leg.bytes_written)
            ) / f64::from(1 << 20),
            leg.in_flight,
            leg.errors,
            leg.lies
        ));
    }
    out
}

fn request(command: &CtlCommand) -> Result<Request, CtlError> {
    Ok(match command {
        CtlCommand::Status { .. } => Request::Status,
        CtlCommand::Rules {
            command: RulesCommand::List,
        } => Request::Rules,
        CtlCommand::Rules {
            command: RulesCommand::Add { rules },
        } => {
            let toml = match rules.strip_prefix('@') {
                None => rules.clone(),
                Some(path) => std::fs::read_to_string(path).map_err(|source| CtlError::File {
                    path: path.into(),
                    source,
                })?,
            };
            Request::Add { toml }
        }
        CtlCommand::Rules {
            command: RulesCommand::Remove { name },
        } => Request::Remove { name: name.clone() },
        CtlCommand::Hold { leg } => Request::Hold { leg: leg.clone() },
        CtlCommand::Release { rule } => Request::Release { rule: rule.clone() },
        CtlCommand::Heal { leg, rule } => Request::Heal {
            leg: leg.clone(),
            rule: rule.clone(),
        },
        CtlCommand::Mark { name } => Request::Mark { name: name.clone() },
        CtlCommand::Cut => Request::Cut,
        CtlCommand::PowerOn => Request::PowerOn,
    })
}

/// Asks the backend at `socket`.
///
/// # Errors
/// [`CtlError`]; [`CtlError::Refused`] in the backend's words.
pub fn ask(socket: &Path, request: &Request) -> Result<Done, CtlError> {
    let mut stream = UnixStream::connect(socket).map_err(|source| CtlError::Connect {
        path: socket.to_owned(),
        source,
    })?;
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer)?;
    match serde_json::from_str(&answer)? {
        Answer::Done(done) => Ok(done),
        Answer::Refused(why) => Err(CtlError::Refused(why)),
    }
}

fn in_words(done: &Done) -> String {
    let mut out = String::new();
    let mut line = |text: String| {
        out.push_str(&text);
        out.push('\n');
    };
    match done {
        Done::Said(text) => line(text.clone()),
        Done::Rules(rules) => {
            if rules.is_empty() {
                line("no rules".into());
            }
            for state in rules {
                let legs = if state.rule.legs.is_empty() {
                    "all legs".to_owned()
                } else {
                    state.rule.legs.join(", ")
                };
                line(format!(
                    "{:<20} {:<14} {legs}: hit {} times",
                    state.rule.name,
                    state.rule.action.name(),
                    state.fired
                ));
            }
        }
        Done::Status(status) => {
            let Status {
                legs,
                rules,
                withheld,
                power,
            } = status;
            line(format!(
                "power {}, {rules} rules, {withheld} decisions withheld",
                if *power { "on" } else { "off" }
            ));
            for leg in legs {
                line(format!(
                    "leg {}: {} reads, {} writes, {} flushes, {} discards, {} errors; {} in flight; {} sectors are lies",
                    leg.name,
                    leg.reads,
                    leg.writes,
                    leg.flushes,
                    leg.discards,
                    leg.errors,
                    leg.in_flight,
                    leg.lies
                ));
            }
        }
    }
    out
}
