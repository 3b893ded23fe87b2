//! The command line, as typed. What it means is worked out in [`crate::run`], [`crate::serve`] and their like.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// A witness for mirrored storage that stands outside the guest.
///
/// legwatch is the disk under every leg of a mirror in a QEMU guest. It sees every request to every leg in one order, and says with proof
/// whether what the guest wrote reached all legs, identical and right.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 120, after_help = EXIT_CODES)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 clean · 1 findings · 125 inconclusive · 2 the user's mistake · 70 our own fault · 130 interrupted.\n\
With --bisect the last three are 255, which stops `git bisect run`.";

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Boot a guest on watched legs, run a scenario in it, and give a verdict.
    Run(RunArgs),
    /// Run scenarios on kernels, several guests at once, and report them together.
    Test(TestArgs),
    /// Write a commented scenario to start from.
    New(NewArgs),
    /// Serve legs to a QEMU of your own; verdict and exit code at SIGTERM or Ctrl-C.
    Serve(ServeArgs),
    /// Run the checker over a recorded run.
    Check(CheckArgs),
    /// Print the report of a recorded run.
    Report(ReportArgs),
    /// A recorded run in other tools' formats: dm-log-writes, blkparse's text, Chrome's trace.
    Export(ExportArgs),
    /// A leg's image at any number of a recorded run.
    Image(ImageArgs),
    /// What a check, an excuse or a known deviation is.
    Explain(ExplainArgs),
    /// Rules, marks and state of a live backend.
    Ctl(CtlArgs),
    /// Kernels: which there are, fetch one, what a kernel must have.
    Kernel {
        /// What about them.
        #[command(subcommand)]
        command: KernelCommand,
    },
    /// (internal) The witness under `run`: commands on standard input, notices on standard output.
    #[command(hide = true)]
    Witness {
        /// Its configuration, JSON.
        config: PathBuf,
        /// The run's witness was killed: go on where it was. What there is to know comes on standard input first.
        #[arg(long)]
        go_on: bool,
    },
}

/// `legwatch run`
#[derive(Debug, Args)]
pub struct RunArgs {
    /// A scenario's file, or the name of a built-in one (raid1, write-behind, …).
    pub scenario: PathBuf,
    /// debian:6.1 (the newest 6.1.x) | debian:6.16.3 | host | a built kernel tree | a bzImage[,modules=DIR].
    #[arg(long, default_value = "debian:6.12")]
    pub kernel: String,
    /// Seed of everything that is chosen by chance; printed, default: random.
    #[arg(long)]
    pub seed: Option<u64>,
    /// Folder for report, journal and console log; must be new or empty. Default: a fresh one, printed.
    #[arg(long)]
    pub out: Option<PathBuf>,
    /// How the guest is run.
    #[arg(long, value_enum, default_value_t = AccelArg::Auto)]
    pub accel: AccelArg,
    /// Exit codes for `git bisect run`: 2, 70 and 130 become 255.
    #[arg(long)]
    pub bisect: bool,
    /// End the run at the first proven finding.
    #[arg(long)]
    pub stop_on_finding: bool,
    /// What is printed at the end.
    #[arg(long, value_enum, default_value_t = ReportFormat::Text)]
    pub format: ReportFormat,
    /// Suspect findings decide too.
    #[arg(long)]
    pub strict: bool,
    /// Known deviations of stock kernels decide too.
    #[arg(long)]
    pub no_known: bool,
    /// Added to the kernel's command line.
    #[arg(long, value_name = "ARGS", allow_hyphen_values = true)]
    pub append: Option<String>,
    /// One more argument for QEMU (repeatable).
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    pub qemu: Vec<String>,
    /// Virtual CPUs, instead of the scenario's.
    #[arg(long)]
    pub smp: Option<u16>,
    /// The guest's memory in MiB, instead of the scenario's.
    #[arg(long, value_name = "MIB")]
    pub mem: Option<u32>,
    /// A socket for `legwatch ctl`.
    #[arg(long, value_name = "SOCKET")]
    pub control: Option<PathBuf>,
    /// A file to have in the guest: FILE or FILE:PATH-IN-GUEST (repeatable).
    #[arg(long, value_name = "FILE")]
    pub add: Vec<String>,
    /// A module of your own in place of the kernel's of that name, or on top, built for the kernel's release (repeatable).
    #[arg(long, value_name = "FILE.ko")]
    pub module: Vec<PathBuf>,
    /// Guests go on from boots that are saved in this folder, as those of `test --saved-boots` do (not with --shell, --gdb or --qemu).
    #[arg(long, value_name = "DIR")]
    pub saved_boots: Option<PathBuf>,
    /// A shell on the guest's console once the plan is done; a hang is then not looked for.
    #[arg(long)]
    pub shell: bool,
    /// The guest waits for gdb on a socket that is printed; a hang is then not looked for.
    #[arg(long)]
    pub gdb: bool,
}

/// `legwatch test`
#[derive(Debug, Args)]
pub struct TestArgs {
    /// Scenarios: files, folders of them, names of built-in ones ('stack-*' for several); default: all built-in ones. With --museum: names of bugs.
    pub paths: Vec<PathBuf>,
    /// The kernels, as for `run` (several, or repeated).
    #[arg(long, num_args = 1.., default_value = "debian:6.12")]
    pub kernel: Vec<String>,
    /// Real bugs of kernels that can be fetched: each must be found on the bad kernel, and not on the good one.
    #[arg(long, conflicts_with_all = ["kernel", "tag", "skip_tag"])]
    pub museum: bool,
    /// Only scenarios with this tag (repeatable: with any of them).
    #[arg(long, value_name = "TAG")]
    pub tag: Vec<String>,
    /// No scenarios with this tag (repeatable).
    #[arg(long, value_name = "TAG")]
    pub skip_tag: Vec<String>,
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// So many seeds of every scenario on every kernel, counted up; up to a million.
    #[arg(long, value_name = "N")]
    pub repeat: Option<u64>,
    /// Seeds counted up for so long (90s, 10m, 2h); ends at the first run that fails, is refused or breaks.
    #[arg(long = "for", value_name = "TIME", conflicts_with = "repeat", value_parser = crate::suite::choice::duration)]
    pub limit: Option<std::time::Duration>,
    /// Guests at once; default: as cores and memory allow.
    #[arg(long, value_name = "N")]
    pub jobs: Option<usize>,
    /// Only part K of N of all runs, by the hash of their names: hash:K/N. `report --merge` puts parts together.
    #[arg(long, value_name = "hash:K/N")]
    pub partition: Option<crate::campaign::Partition>,
    /// Each machine is booted once and saved, and guests go on from there: several times faster under TCG. A finding is then worth a run of its own.
    #[arg(long)]
    pub saved_boots: bool,
    /// Folder for results, reports, and a folder for every run; must be new or empty. Default: a fresh one, printed.
    #[arg(long)]
    pub out: Option<PathBuf>,
    /// Go on with the campaign in --out: runs that have a result are not made again.
    #[arg(long)]
    pub resume: bool,
    /// Every scenario has to be clean, whatever its [suite] table expects of a kernel; what it skips is skipped all the same.
    #[arg(long, conflicts_with = "museum")]
    pub no_expect: bool,
    /// Exit codes for `git bisect run`: 2, 70 and 130 become 255. With it goes --no-expect: findings are never as expected.
    #[arg(long, conflicts_with = "museum")]
    pub bisect: bool,
    /// Only tell which scenarios (or bugs) there are, as text or as the table in the docs.
    #[arg(long, value_enum, value_name = "FORMAT", num_args = 0..=1, require_equals = true, default_missing_value = "text")]
    pub list: Option<ListFormat>,
    /// With --list=markdown: how long runs took in this campaign's folder.
    #[arg(long, value_name = "DIR", requires = "list", conflicts_with = "museum")]
    pub times: Option<PathBuf>,
    /// How guests are run.
    #[arg(long, value_enum, default_value_t = AccelArg::Auto)]
    pub accel: AccelArg,
    /// Suspect findings decide too.
    #[arg(long)]
    pub strict: bool,
    /// Known deviations of stock kernels decide too.
    #[arg(long)]
    pub no_known: bool,
    /// Added to the kernels' command line.
    #[arg(long, value_name = "ARGS", allow_hyphen_values = true)]
    pub append: Option<String>,
    /// What is printed at the end.
    #[arg(long, value_enum, default_value_t = ReportFormat::Text)]
    pub format: ReportFormat,
}

/// `legwatch new`
#[derive(Debug, Args)]
pub struct NewArgs {
    /// Its name: small letters, digits and dashes; the file is NAME.toml in the current folder.
    pub name: String,
}

/// `legwatch serve`
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// A leg: NAME=mem:SIZE or NAME=file:PATH, then ,key=value for block_size, queues, read_only, write_cache, discard, write_zeroes, delay_ms,
    /// write_delay_ms, late_fetch, packed, event_idx, indirect, data=START+COUNT (repeatable, 1 to 8).
    #[arg(
        long = "leg",
        required_unless_present = "resume",
        value_name = "NAME=MEDIUM"
    )]
    pub legs: Vec<String>,
    /// Folder for the sockets (NAME.sock, control.sock).
    #[arg(long, required_unless_present = "resume")]
    pub sockets: Option<PathBuf>,
    /// Go on with the run in this folder, whose `legwatch serve` was killed: the same legs, sockets and journal.
    #[arg(
        long,
        value_name = "OUT",
        conflicts_with_all = ["legs", "sockets", "out", "control", "faults", "seed", "record", "watch", "plan", "strict", "no_known"]
    )]
    pub resume: Option<PathBuf>,
    /// Folder for report and journal; must be new or empty. Default: a fresh one, printed.
    #[arg(long)]
    pub out: Option<PathBuf>,
    /// A socket for `legwatch ctl`.
    #[arg(long, value_name = "SOCKET")]
    pub control: Option<PathBuf>,
    /// A file of `[[fault]]` rules (docs/faults.md).
    #[arg(long, value_name = "FILE")]
    pub faults: Option<PathBuf>,
    /// Seed of everything that rules choose by chance, where no plan has one.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Which payloads the journal keeps.
    #[arg(long, value_enum, default_value_t = RecordArg::Metadata)]
    pub record: RecordArg,
    /// What is watched: parts (crc, buffer, journal, shadow) and checks by name, comma-separated, each with `no-` before it to switch it off; `all`,
    /// `none`. What is off is said next to the verdict.
    #[arg(
        long,
        value_name = "CHECKS",
        value_delimiter = ',',
        default_value = "all"
    )]
    pub watch: Vec<String>,
    /// A plan for the agent in your guest, as JSON; without one the control leg only takes marks.
    #[arg(long)]
    pub plan: Option<PathBuf>,
    /// Suspect findings decide too.
    #[arg(long)]
    pub strict: bool,
    /// Known deviations of stock kernels decide too.
    #[arg(long)]
    pub no_known: bool,
    /// What is printed at the end.
    #[arg(long, value_enum, default_value_t = ReportFormat::Text)]
    pub format: ReportFormat,
}

/// `legwatch ctl`
#[derive(Debug, Args)]
pub struct CtlArgs {
    /// The backend's socket, as given to `serve --control` or `run --control`.
    pub socket: PathBuf,
    /// Print JSON.
    #[arg(long, global = true)]
    pub json: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: CtlCommand,
}

/// `legwatch ctl SOCKET …`
#[derive(Debug, Subcommand)]
pub enum CtlCommand {
    /// Live numbers of every leg.
    Status {
        /// Again and again, every so many milliseconds, as rates; until the backend ends.
        #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u32).range(10..))]
        every_ms: Option<u32>,
    },
    /// The rules.
    Rules {
        /// What about them.
        #[command(subcommand)]
        command: RulesCommand,
    },
    /// Hold all requests to a leg that arrive from now on.
    Hold {
        /// The leg.
        leg: String,
    },
    /// Let go what is held.
    Release {
        /// Only what this rule holds.
        rule: Option<String>,
    },
    /// Lift lies, and revive legs that rules made dead or read-only.
    Heal {
        /// Only this leg.
        #[arg(long)]
        leg: Option<String>,
        /// Only what this rule did.
        #[arg(long)]
        rule: Option<String>,
    },
    /// Set a mark that rules wait for.
    Mark {
        /// Its name.
        name: String,
    },
    /// Cut the power of all legs.
    Cut,
    /// Power is on again: caches have lost what they lose, requests are served.
    PowerOn,
}

/// `legwatch ctl SOCKET rules …`
#[derive(Debug, Subcommand)]
pub enum RulesCommand {
    /// All rules with their hits.
    List,
    /// More rules: `[[fault]]` tables as in a scenario, or @FILE.
    Add {
        /// TOML, or @FILE.
        rules: String,
    },
    /// Take a rule away; what it did stays until it is healed.
    Remove {
        /// Its name.
        name: String,
    },
}

/// `legwatch check`
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// The run's folder, or its journal.
    pub run: PathBuf,
    /// Suspect findings decide too.
    #[arg(long)]
    pub strict: bool,
    /// Known deviations of stock kernels decide too.
    #[arg(long)]
    pub no_known: bool,
    /// What is printed.
    #[arg(long, value_enum, default_value_t = ReportFormat::Text)]
    pub format: ReportFormat,
}

/// `legwatch explain`
#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// A check (bit-clear-eq), an excuse (12) or a known deviation (K2).
    pub name: String,
}

/// `legwatch report`
#[derive(Debug, Args)]
pub struct ReportArgs {
    /// The folder of a run, or of a campaign of `legwatch test`.
    #[arg(required_unless_present_any = ["merge", "diff"])]
    pub run: Option<PathBuf>,
    /// Campaigns that are parts of one (--partition), as the whole.
    #[arg(long, num_args = 1.., value_name = "DIR", conflicts_with = "run")]
    pub merge: Vec<PathBuf>,
    /// With --merge: folder for the whole's reports; must be new or empty.
    #[arg(long, requires = "merge")]
    pub out: Option<PathBuf>,
    /// Two runs, earlier and later: which findings are new, gone, the same. Exit code 1 if something new decides.
    #[arg(long, num_args = 2, value_names = ["EARLIER", "LATER"], conflicts_with_all = ["run", "merge"])]
    pub diff: Vec<PathBuf>,
    /// What is printed.
    #[arg(long, value_enum, default_value_t = ReportFormat::Text)]
    pub format: ReportFormat,
}

/// `legwatch export`
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// The run's folder, or its journal.
    pub run: PathBuf,
    /// What is written.
    #[arg(long, value_enum)]
    pub format: ExportFormat,
    /// The leg, for log-writes.
    #[arg(long, value_name = "NAME")]
    pub leg: Option<String>,
    /// A new file; without one, text goes to standard output.
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// What rules lost, tore or misdirected is as they made it.
    #[arg(long)]
    pub medium: bool,
    /// Go on where the journal does not have a payload.
    #[arg(long)]
    pub partial: bool,
}

/// `legwatch export --format`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ExportFormat {
    /// One leg's log as dm-log-writes writes it, with marks; for replay-log.
    LogWrites,
    /// Text as blkparse prints it.
    Blktrace,
    /// Chrome's trace JSON; for Perfetto's viewer.
    ChromeTrace,
}

/// `legwatch image`
#[derive(Debug, Args)]
pub struct ImageArgs {
    /// The run's folder, or its journal.
    pub run: PathBuf,
    /// The leg.
    #[arg(long, value_name = "NAME")]
    pub leg: String,
    /// The number of the sequence behind which it is built; without one, the end.
    #[arg(long, value_name = "NUMBER")]
    pub at: Option<u64>,
    /// The image; a new file.
    pub out: PathBuf,
    /// As the leg was, with what rules lost, tore or misdirected; else as an honest disk would be.
    #[arg(long)]
    pub medium: bool,
    /// What the leg held when the run began, for a leg that was no fresh one.
    #[arg(long, value_name = "FILE")]
    pub base: Option<PathBuf>,
    /// Go on where the journal does not have a payload.
    #[arg(long)]
    pub partial: bool,
}

/// `legwatch kernel …`
#[derive(Debug, Subcommand)]
pub enum KernelCommand {
    /// Kernels that can be fetched, and those in the cache.
    List,
    /// Fetch a kernel into the cache.
    Fetch {
        /// The kernel, as for `run --kernel`.
        kernel: String,
    },
    /// The fragment of a kernel configuration that the scenarios need.
    Config,
}

/// `--accel`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AccelArg {
    /// KVM if it runs a guest to completion here, else TCG.
    Auto,
    /// KVM or nothing.
    Kvm,
    /// Emulation.
    Tcg,
}

/// `--record`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum RecordArg {
    /// Writes outside known data areas.
    Metadata,
    /// All writes.
    All,
    /// None.
    None,
}

/// `test --list`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ListFormat {
    /// A line each.
    Text,
    /// A Markdown table.
    Markdown,
}

/// `--format`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ReportFormat {
    /// For people.
    Text,
    /// For programs; docs/report.schema.json describes it.
    Json,
    /// JUnit XML, for CI systems.
    Junit,
    /// KTAP, as the kernel's own tests print it.
    Ktap,
    /// For a browser, in one file.
    Html,
}
