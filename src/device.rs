//! The assembly: legs, their sockets and their workers, and the control leg, over one sequence.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::block::{LEGS_MAX, LegId, RequestId, SECTOR_BYTES, Sector, SectorRange};
use crate::config::{LegConfig, MediumConfig, Record};
use crate::event::What;
use crate::fault::{COMPILED_IN, Rule};
use crate::leg::{
    Bell, Command, Commander, Connection, Control, ControlShared, ControlState, Disk, Faults, Lane,
    Left, LegParts, LegShared, LegStats, Plain, Rest, Role, Worker,
};
use crate::mark::SERIAL;
use crate::medium::{Lies, Medium, MediumError, MediumView};
use crate::sequence::Sequence;
use crate::vhost_user::{Backend, Listener, ListenerError, Socket, SocketError};
use crate::virtio::Limits;
use crate::watch::Watch;

/// What is read of a file leg at the start when nothing is known of where its data is: so much at its beginning and at its end.
const INITIAL_HEAD_BYTES: u64 = 16 << 20;
const INITIAL_TAIL_BYTES: u64 = 1 << 20;
/// Bytes of one [`What::Initial`] at most.
const INITIAL_BYTES: usize = 64 << 10;

/// How legs share threads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Threads {
    /// Memory legs share one on a machine of up to two CPUs; file legs, which can block, have one each. The control leg is with the first
    /// memory legs, or has one of its own.
    #[default]
    Auto,
    /// One for all.
    One,
    /// One a leg.
    PerLeg,
}

/// How the device works, beyond its legs.
#[derive(Clone, Debug)]
pub struct Options {
    /// Which payloads the events carry.
    pub record: Record,
    /// What is looked at.
    pub watch: Watch,
    /// How long a quiet point is waited for.
    pub quiet_limit: Duration,
    /// How long a worker looks at its rings before it sleeps, at most. Zero: it sleeps at once.
    pub spin_most: Duration,
    /// How legs share threads.
    pub threads: Threads,
    /// Where all that rules choose by chance comes from.
    pub seed: u64,
    /// The rules, checked and named.
    pub rules: Vec<Rule>,
    /// For every sector at least so many legs stay good, whatever rules say.
    pub good_legs: u8,
    /// Of memory legs, by their places, the memory files that they are in; without one, a leg's memory goes with the device.
    pub memory: Vec<Option<PathBuf>>,
    /// What there was before, if another process served these legs.
    pub goes_on: Option<GoesOn>,
}

/// What a device goes on from, after the process that served its legs was killed.
#[derive(Clone, Debug, Default)]
pub struct GoesOn {
    /// What each leg was doing.
    pub legs: Vec<Left>,
    /// The boot that goes on; 0: none yet.
    pub boot: u32,
    /// What the control leg had taken.
    pub control: ControlState,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            record: Record::Metadata,
            watch: Watch::default(),
            quiet_limit: Duration::from_secs(60),
            spin_most: Duration::from_micros(50),
            threads: Threads::Auto,
            seed: 0,
            rules: Vec::new(),
            good_legs: 0,
            memory: Vec::new(),
            goes_on: None,
        }
    }
}

/// Why a device can't start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// None, or too many.
    #[error("{0} legs; use 1 to {LEGS_MAX}")]
    Legs(usize),
    /// Two of one name.
    #[error("two legs are called `{0}`; give each its own name")]
    Names(String),
    /// A leg's configuration, in its own words.
    #[error("{0}")]
    Config(String),
    /// A leg's medium.
    #[error("leg {leg}")]
    Medium {
        /// Its name.
        leg: String,
        /// Why.
        #[source]
        source: MediumError,
    },
    /// A socket.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// A listener.
    #[error(transparent)]
    Listener(#[from] ListenerError),
    /// Threads or descriptors.
    #[error("starting a worker")]
    Worker(#[from] io::Error),
}

/// The running device. It goes on until [`Device::stop`] (or its drop), whatever frontends do.
#[derive(Debug)]
pub struct Device {
    legs: Vec<Leg>,
    control: Arc<ControlShared>,
    faults: Arc<Faults>,
    sockets: Vec<PathBuf>,
    running: Mutex<(Vec<Listener>, Vec<Running>)>,
    sequence: Sequence,
}

#[derive(Debug)]
struct Leg {
    shared: Arc<LegShared>,
    view: MediumView,
    plain: Plain,
    file: bool,
    /// The data area that the user declared.
    declared: Option<SectorRange>,
    /// There once the leg's worker is.
    commander: Option<Commander>,
}

struct Running {
    stop: Box<dyn Fn() + Send + Sync>,
    thread: Option<JoinHandle<()>>,
}

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Running").finish_non_exhaustive()
    }
}

impl Device {
    /// Opens all media, listens on `sockets`/NAME.sock for every leg and on `sockets`/control.sock, and starts the workers. Either everything
    /// runs afterwards or nothing does.
    ///
    /// # Errors
    /// [`StartError`], one sentence (with its source) for the user.
    pub fn start(
        legs: &[LegConfig],
        sockets: &Path,
        options: &Options,
        sequence: &Sequence,
    ) -> Result<Device, StartError> {
        check(legs)?;
        if !COMPILED_IN && !options.rules.is_empty() {
            let why = "this build is for the benchmark and can inject nothing; build it without bench-no-faults";
            return Err(StartError::Config(why.into()));
        }
        let faults = Arc::new(Faults::new(
            options.seed,
            legs.iter().map(|leg| leg.name.clone()).collect(),
            options.rules.clone(),
            options.good_legs,
        ));
        let mut parts = Vec::new();
        let mut built = Vec::new();
        let mut disks = Vec::new();
        for (config, id) in legs.iter().zip(0u8..) {
            let failed = |source| StartError::Medium {
                leg: config.name.clone(),
                source,
            };
            let memory = options.memory.get(usize::from(id));
            let memory = memory.and_then(Option::as_deref);
            let medium = Medium::open(config, memory).map_err(failed)?;
            let shared = Arc::new(LegShared::new(LegId(id), &config.name, config.data));
            if let Some(ahead) = sequence.ahead() {
                shared.keep_switch(Arc::clone(ahead));
            }
            if let Some(goes_on) = &options.goes_on {
                let left = goes_on.legs.get(usize::from(id));
                shared.goes_on_after(left.cloned().unwrap_or_default());
            }
            built.push(Leg {
                shared: Arc::clone(&shared),
                view: medium.view(),
                plain: Plain::new(config.crypt.as_ref()),
                file: matches!(config.medium, MediumConfig::File { .. }),
                declared: config.data,
                commander: None,
            });
            let lies = Arc::new(Lies::default());
            parts.push(LegParts {
                shared: Arc::clone(&shared),
                lies: Arc::clone(&lies),
                view: medium.view(),
            });
            let disk = Disk::new(
                shared,
                config,
                medium,
                Arc::clone(&faults),
                lies,
                options.record,
                &options.watch,
            );
            disks.push(disk.map_err(failed)?);
        }
        let names = legs.iter().map(|leg| leg.name.as_str());
        let made = names
            .chain(["control"])
            .map(|name| Socket::listen(&sockets.join(format!("{name}.sock"))))
            .collect::<Result<Vec<_>, _>>()?;
        let paths = made.iter().map(|socket| socket.path().to_owned()).collect();

        // One worker for each group of legs; the control leg is with the first.
        let waits: Vec<bool> = disks.iter().map(Disk::waits).collect();
        let bells = groups(&waits, options.threads)
            .into_iter()
            .map(|group| Ok((group, Arc::new(Bell::new()?))))
            .collect::<io::Result<Vec<_>>>()?;
        let all = bells.iter().map(|(_, bell)| Arc::clone(bell)).collect();
        faults.connect(all, parts);
        let (_, first) = bells.first().ok_or(StartError::Legs(0))?;
        let rest = Arc::new(Rest::new(
            built.iter().map(|leg| Arc::clone(&leg.shared)).collect(),
            Arc::clone(first),
        ));
        let control = Arc::new(ControlShared::default());
        if let Some(goes_on) = &options.goes_on {
            control.go_on(goes_on.control.clone());
            faults.new_boot(goes_on.boot);
        }
        let mut control_lane = Some(Lane::new(
            LegId::CONTROL,
            Role::Control(Control::new(
                Arc::clone(&control),
                Arc::clone(&rest),
                Arc::clone(&faults),
                options.quiet_limit,
            )),
        ));
        let mut disks: Vec<Option<Disk>> = disks.into_iter().map(Some).collect();
        let mut backends: Vec<Option<Backend>> = vec![None; legs.len() + 1];
        let mut workers = Vec::new();
        for (group, bell) in bells {
            let mut worker =
                Worker::new(bell, Arc::clone(&rest), sequence.tap(), options.spin_most)?;
            for at in group {
                let Some(disk) = disks[at].take() else {
                    continue;
                };
                let limits = disk.limits();
                let shared = Arc::clone(&built[at].shared);
                let lane = Lane::new(shared.id(), Role::Disk(Box::new(disk)));
                let connection = lane.connection();
                let commander = worker.add(lane);
                built[at].commander = Some(commander.clone());
                backends[at] = Some(Backend {
                    leg: shared.id(),
                    queues: legs[at].queues,
                    limits,
                    shared: Some(shared),
                    commander,
                    connection,
                });
            }
            if let Some(lane) = control_lane.take() {
                let connection = lane.connection();
                backends[legs.len()] = Some(control_backend(worker.add(lane), connection));
            }
            workers.push(worker);
        }
        let device = Device {
            legs: built,
            control,
            faults,
            sockets: paths,
            running: Mutex::default(),
            sequence: sequence.clone(),
        };
        // From here on a failure drops the device, which stops what runs.
        for worker in workers {
            let stop = Box::new(worker.stopper());
            let thread = std::thread::Builder::new()
                .name("leg".into())
                .spawn(move || worker.run())?;
            let running = Running {
                stop,
                thread: Some(thread),
            };
            device.lock().1.push(running);
        }
        for (socket, backend) in made.into_iter().zip(backends.into_iter().flatten()) {
            let listener = Listener::start(socket, backend, sequence.clone())?;
            device.lock().0.push(listener);
        }
        Ok(device)
    }

    fn lock(&self) -> MutexGuard<'_, (Vec<Listener>, Vec<Running>)> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the plan that the agent reads from now on; `false` if it is larger than its area.
    #[must_use = "a plan may be too large"]
    pub fn set_plan(&self, json: &[u8]) -> bool {
        self.control.set_plan(json)
    }

    /// A boot begins: its batches of marks count from 1 again, and the power is on.
    pub fn new_boot(&self, boot: u32) {
        self.control.new_boot();
        for leg in &self.legs {
            leg.shared.new_boot();
        }
        if let Some(ahead) = self.sequence.ahead() {
            ahead.new_boot();
        }
        self.faults.new_boot(boot);
    }

    /// The rules, to be looked at and changed.
    pub fn faults(&self) -> &Arc<Faults> {
        &self.faults
    }

    /// What a leg holds now in one sector. A write at the same moment may be seen half done: compare its digest.
    ///
    /// # Errors
    /// The medium's own; `NotFound` for no such leg, `UnexpectedEof` past its end.
    pub fn read_sector(&self, leg: LegId, sector: Sector) -> io::Result<[u8; SECTOR_BYTES]> {
        let leg = self.legs.get(leg.index()).ok_or(io::ErrorKind::NotFound)?;
        let mut out = [0; SECTOR_BYTES];
        leg.view.read(sector, &mut out)?;
        let plain = leg.plain.bytes(sector, &out);
        out.copy_from_slice(&plain);
        Ok(out)
    }

    /// Makes a leg larger and tells its frontend, which reads the size again (the guest's block layer then announces it). Whether a frontend
    /// was told: one without a channel for that sees the size when it connects again.
    ///
    /// # Errors
    /// The medium's own; `InvalidInput` for less than before, or no multiple of its block size; `NotFound` for no such leg.
    pub fn resize(&self, leg: LegId, sectors: u64) -> io::Result<bool> {
        let leg = self.legs.get(leg.index()).ok_or(io::ErrorKind::NotFound)?;
        leg.commander
            .as_ref()
            .and_then(|worker| worker.ask(|reply| Command::Grow(sectors, reply)))
            .ok_or(io::ErrorKind::BrokenPipe)??;
        Ok(leg.shared.tell_config_changed())
    }

    /// Requests that have arrived and not ended, over all legs.
    pub fn in_flight(&self) -> Vec<RequestId> {
        self.legs
            .iter()
            .flat_map(|leg| leg.shared.in_flight())
            .collect()
    }

    /// Live numbers, one entry a leg.
    pub fn stats(&self) -> Vec<LegStats> {
        self.legs.iter().map(|leg| leg.shared.stats()).collect()
    }

    /// The legs' sizes in sectors.
    pub fn sectors(&self) -> Vec<u64> {
        self.legs.iter().map(|leg| leg.view.sectors()).collect()
    }

    /// The sockets' paths: every leg's in order, then the control leg's.
    pub fn sockets(&self) -> &[PathBuf] {
        &self.sockets
    }

    /// Records what a file leg holds outside its declared data area before anything is written: [`What::Initial`], all-zero sectors left out.
    /// With none declared, its first 16 MiB and its last 1 MiB. A memory leg is all zeros, and nothing is recorded.
    ///
    /// # Errors
    /// The medium's own.
    pub fn leg_initial(&self, leg: LegId) -> io::Result<()> {
        let leg = self.legs.get(leg.index()).ok_or(io::ErrorKind::NotFound)?;
        if !leg.file {
            return Ok(());
        }
        let end = leg.view.sectors();
        let in_sectors = |bytes: u64| bytes / SECTOR_BYTES as u64;
        let parts = match leg.declared {
            Some(data) => [(0, data.start().0.min(end)), (data.end().0.min(end), end)],
            None => {
                let head = in_sectors(INITIAL_HEAD_BYTES).min(end);
                let tail = end.saturating_sub(in_sectors(INITIAL_TAIL_BYTES));
                [(0, head), (tail.max(head), end)]
            }
        };
        let mut tap = self.sequence.tap();
        let mut buffer = vec![0; INITIAL_BYTES];
        for (from, to) in parts {
            let mut at = from;
            while at < to {
                let count = (to - at).min(in_sectors(INITIAL_BYTES as u64));
                let bytes = &mut buffer[..crate::block::to_usize(count) * SECTOR_BYTES];
                leg.view.read(Sector(at), bytes)?;
                let mut sector = at;
                for run in bytes
                    .chunks_exact(SECTOR_BYTES)
                    .collect::<Vec<_>>()
                    .chunk_by(|a, b| zero(a) == zero(b))
                {
                    if !zero(run[0]) {
                        tap.record(What::Initial {
                            leg: leg.shared.id(),
                            start: Sector(sector),
                            bytes: leg.plain.bytes(Sector(sector), &run.concat()),
                        });
                    }
                    sector += run.len() as u64;
                }
                at += count;
            }
        }
        Ok(())
    }

    /// Ends all connections, abandons what is held, ends all threads and removes the sockets, within a second. Events of that still come, so
    /// the collector must be read (or dropped) meanwhile.
    ///
    /// The media stay readable. A second call does nothing.
    pub fn stop(&self) {
        let (listeners, workers) = std::mem::take(&mut *self.lock());
        for mut listener in listeners {
            listener.stop();
        }
        for worker in &workers {
            (worker.stop)();
        }
        for mut worker in workers {
            if let Some(thread) = worker.thread.take()
                && let Err(panic) = thread.join()
                && !std::thread::panicking()
            {
                // Our own bug goes on being loud.
                std::panic::resume_unwind(panic);
            }
        }
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        self.stop();
    }
}

fn zero(sector: &[u8]) -> bool {
    sector.iter().all(|byte| *byte == 0)
}

fn check(legs: &[LegConfig]) -> Result<(), StartError> {
    if legs.is_empty() || legs.len() > LEGS_MAX {
        return Err(StartError::Legs(legs.len()));
    }
    for (at, leg) in legs.iter().enumerate() {
        leg.check().map_err(StartError::Config)?;
        if legs[..at].iter().any(|other| other.name == leg.name) {
            return Err(StartError::Names(leg.name.clone()));
        }
    }
    Ok(())
}

fn control_backend(commander: Commander, connection: Arc<Connection>) -> Backend {
    let limits: Limits = crate::leg::CONTROL_LIMITS;
    debug_assert!(SERIAL.len() <= crate::virtio::defs::ID_BYTES);
    Backend {
        leg: LegId::CONTROL,
        // As many as a frontend may want to have for its CPUs.
        queues: 16,
        limits,
        shared: None,
        commander,
        connection,
    }
}

/// Which legs share a worker, by their places; of each leg, whether its medium may have to wait for a disk.
fn groups(waits: &[bool], threads: Threads) -> Vec<Vec<usize>> {
    let all = 0..waits.len();
    let waits = |leg: &usize| waits[*leg];
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    match threads {
        Threads::One => vec![all.collect()],
        Threads::PerLeg => all.map(|leg| vec![leg]).collect(),
        Threads::Auto => {
            let (apart, together): (Vec<_>, Vec<_>) = all.partition(|leg| cpus > 2 || waits(leg));
            let mut groups: Vec<Vec<usize>> = apart.into_iter().map(|leg| vec![leg]).collect();
            // A mark must not wait for a disk: the first group, which the control leg is with, has none that does.
            if !together.is_empty() || groups.iter().flatten().next().is_some_and(waits) {
                groups.insert(0, together);
            }
            groups
        }
    }
}
