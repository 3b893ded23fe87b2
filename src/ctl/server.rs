//! The backend's side of `legwatch ctl`: one thread, one connection after the other. Everything that changes the legs is an event.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::config::LegConfig;
use crate::ctl::wire::{Answer, Done, LegStatus, Request, Status};
use crate::device::Device;
use crate::event::What;
use crate::fault;
use crate::scenario;
use crate::sequence::{Sequence, Tap};
use crate::vhost_user::{Socket, SocketError};

/// The longest request, in bytes.
const REQUEST_MAX: u64 = 1 << 20;
/// How long a client may take to say what it wants.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often the server looks whether it is over.
const TICK: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 100_000_000,
};
/// What the names of rules begin with that `hold` makes.
const BY_HAND: &str = "held by hand: ";

/// Why there is no control socket.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The socket.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The thread.
    #[error("no thread for the control socket")]
    Thread(#[from] std::io::Error),
}

/// The listening server; it ends when it is dropped.
#[derive(Debug)]
pub struct Server {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

struct Serving {
    device: Arc<Device>,
    legs: Vec<LegConfig>,
    tap: Tap,
    boot: u32,
}

impl Server {
    /// Listens at `path`. Volatile caches are modelled from now on, so that the power can be cut.
    ///
    /// # Errors
    /// [`ServerError`].
    pub fn start(
        path: &Path,
        device: Arc<Device>,
        legs: Vec<LegConfig>,
        sequence: &Sequence,
    ) -> Result<Server, ServerError> {
        let socket = Socket::listen(path)?;
        device.faults().model_caches();
        let over = Arc::new(AtomicBool::new(false));
        let ends = Arc::clone(&over);
        let mut serving = Serving {
            device,
            legs,
            tap: sequence.tap(),
            boot: 1,
        };
        let thread = std::thread::Builder::new()
            .name("control".into())
            .spawn(move || {
                while !ends.load(Ordering::Acquire) {
                    let mut fds = [PollFd::new(socket.listener(), PollFlags::IN)];
                    // Interrupted or not: the listener does not block.
                    let _again = poll(&mut fds, Some(&TICK));
                    while let Ok((stream, _)) = socket.listener().accept() {
                        // A client that goes away in the middle is its own affair.
                        let _client_gone = serving.talk(&stream);
                    }
                }
            })?;
        Ok(Server {
            over,
            thread: Some(thread),
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _panicked_aloud = thread.join();
        }
    }
}

impl Serving {
    fn talk(&mut self, stream: &UnixStream) -> std::io::Result<()> {
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut line = String::new();
        BufReader::new(stream.take(REQUEST_MAX)).read_line(&mut line)?;
        let answer = match serde_json::from_str::<Request>(&line) {
            Ok(request) => match self.meet(&request) {
                Ok(done) => Answer::Done(done),
                Err(why) => Answer::Refused(why),
            },
            Err(error) => Answer::Refused(format!("no request: {error}")),
        };
        let mut out = serde_json::to_vec(&answer).expect("an answer is plain data");
        out.push(b'\n');
        let mut stream = stream;
        stream.write_all(&out)
    }

    fn meet(&mut self, request: &Request) -> Result<Done, String> {
        let faults = Arc::clone(self.device.faults());
        let mut added = Vec::new();
        let said = match request {
            Request::Status => return Ok(Done::Status(self.status())),
            Request::Rules => return Ok(Done::Rules(faults.rules())),
            Request::Add { toml } => {
                let (rules, lines) = scenario::rules_and_lines(toml)?;
                if rules.is_empty() {
                    return Err("no [[fault]] in what was given".into());
                }
                let at_line = |at: usize, why: String| match lines.get(at) {
                    Some(line) => format!("line {line}: {why}"),
                    None => why,
                };
                if let Some(at) = fault::needs_qemu(&rules) {
                    return Err(at_line(at, fault::no_qemu(&rules[at])));
                }
                let done = faults.add(rules, &self.legs);
                added = done.map_err(|(at, why)| at_line(at, why))?;
                format!("added {}", added.join(", "))
            }
            Request::Remove { name } => {
                faults.remove(name)?;
                format!("removed {name}")
            }
            Request::Hold { leg } => {
                let name = format!("{BY_HAND}{leg}");
                if faults.rules().iter().any(|state| state.rule.name == name) {
                    return Err(format!("leg {leg} is held already; release lets it go"));
                }
                let (rule, _) = scenario::rules_and_lines(&format!(
                    "[[fault]]\nname = {name:?}\nlegs = [{leg:?}]\ndo = {{ hold = {{}} }}\n"
                ))?;
                let of_leg = |why: String| match why.split_once("`: ") {
                    Some((_, why)) => why.to_owned(),
                    None => why,
                };
                added = faults
                    .add(rule, &self.legs)
                    .map_err(|(_, why)| of_leg(why))?;
                format!("requests to leg {leg} are held; release lets them go")
            }
            Request::Release { rule } => {
                faults.release(rule.as_deref())?;
                let by_hand = |name: &String| {
                    name.starts_with(BY_HAND) && rule.as_ref().is_none_or(|rule| rule == name)
                };
                let names = faults.rules().into_iter().map(|state| state.rule.name);
                for name in names.filter(by_hand) {
                    faults.remove(&name)?;
                }
                "released".into()
            }
            Request::Heal { leg, rule } => {
                let sectors = faults.heal(leg.as_deref(), rule.as_deref())?;
                format!("{sectors} sectors healed")
            }
            Request::Mark { name } => {
                faults.mark(name);
                format!("mark {name}")
            }
            Request::Cut => {
                if faults.is_cut() {
                    return Err("the power is off already".into());
                }
                faults.cut();
                "the power is cut; end the guest, then say power-on (run does both itself)".into()
            }
            Request::PowerOn => {
                if !faults.is_cut() {
                    return Err("the power is on".into());
                }
                self.boot = self.boot.saturating_add(1);
                faults.new_boot(self.boot);
                "the power is on; caches have lost what they lose".into()
            }
        };
        self.tap.record(What::Hand {
            what: said.clone(),
            added,
        });
        Ok(Done::Said(said))
    }

    fn status(&self) -> Status {
        let faults = self.device.faults();
        let stats = self.device.stats();
        let lies = faults.lies();
        let legs = self
            .legs
            .iter()
            .zip(stats)
            .zip(lies)
            .map(|((leg, stats), lies)| LegStatus {
                name: leg.name.clone(),
                reads: stats.reads,
                writes: stats.writes,
                flushes: stats.flushes,
                discards: stats.discards,
                bytes_read: stats.bytes_read,
                bytes_written: stats.bytes_written,
                errors: stats.errors,
                in_flight: stats.in_flight,
                lies,
            });
        Status {
            legs: legs.collect(),
            rules: faults.rules().len() as u64,
            withheld: faults.withheld(),
            power: !faults.is_cut(),
        }
    }
}
