//! The command line.

use std::path::PathBuf;

use clap::Parser;

/// Measures vhost-user-blk backends side by side: the same requests, interleaved in short slices, medians and ratios to the first one.
#[derive(Debug, Parser)]
#[command(name = "ci/bench", max_term_width = 120)]
pub(crate) struct Args {
    /// One more backend: NAME=COMMAND (run by sh; makes {dir}/a.sock and {dir}/b.sock; {dir}, {size}, {legwatch}, {qsd} are filled in), or
    /// NAME@SOCKET[,SOCKET][,pid=PID] for one that runs already.
    #[arg(long = "backend", value_name = "SPEC")]
    pub(crate) more: Vec<String>,
    /// Which of the known ones, the baseline first: qsd, qsd-one-thread, blkverify, quorum, blklogwrites, legwatch, legwatch-file,
    /// legwatch-file-none, those of --watch, none.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "qsd,blkverify,quorum,blklogwrites,legwatch,legwatch-file"
    )]
    pub(crate) backends: Vec<String>,
    /// Also legwatch with each part of its watching switched off in turn, and with none: in four cases, or in those of --filter.
    #[arg(long)]
    pub(crate) watch: bool,
    /// Only legwatch, beside itself started twice and beside a build that can inject nothing: what being able to costs where no rule is there. In
    /// four cases, or in those of --filter.
    #[arg(long, conflicts_with_all = ["backends", "watch", "growth", "count"])]
    pub(crate) faults: bool,
    /// Only these cases; what is no case's whole name stands for all whose name contains it.
    #[arg(long, value_delimiter = ',')]
    pub(crate) filter: Vec<String>,
    /// Slices of each case on each backend.
    #[arg(long, default_value_t = 5)]
    pub(crate) rounds: u32,
    /// How long a slice is; a tenth more before it is not counted.
    #[arg(long, default_value_t = 700)]
    pub(crate) slice_ms: u64,
    /// Queue depths of the 4 KiB cases.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 32, 128])]
    pub(crate) depth: Vec<usize>,
    /// Queue depth of the large sequential cases.
    #[arg(long, default_value_t = 8)]
    pub(crate) sequential_depth: usize,
    /// A minute or two: 2 rounds of short slices, to see that it works; too short for figures.
    #[arg(long)]
    pub(crate) quick: bool,
    /// Run N operations of each case once instead of slices, and print the rates (to profile a backend).
    #[arg(long, value_name = "N")]
    pub(crate) count: Option<u64>,
    /// Then, how the cost of legwatch grows with legs, queues, the medium's size, and over N writes (with `--backends none`: that alone).
    #[arg(long, value_name = "N", num_args = 0..=1, default_missing_value = "10000000", value_parser = clap::value_parser!(u64).range(10..))]
    pub(crate) growth: Option<u64>,
    /// Check the data too: random reads and writes of known content before and after the measuring, then all is read back.
    #[arg(long)]
    pub(crate) verify: bool,
    /// Seed of that content.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// Size of each disk in MiB.
    #[arg(long, default_value_t = 256)]
    pub(crate) size_mib: u64,
    /// Entries of each ring.
    #[arg(long, default_value_t = 512)]
    pub(crate) queue_size: u16,
    /// Never sleep while waiting for completions.
    #[arg(long)]
    pub(crate) busy_poll: bool,
    /// Packed rings.
    #[arg(long)]
    pub(crate) packed: bool,
    /// Do not negotiate event indices.
    #[arg(long)]
    pub(crate) no_event_idx: bool,
    /// Write the report here too.
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
    /// Folder for images and sockets, best on tmpfs. Default: a fresh one in /dev/shm, removed at the end.
    #[arg(long)]
    pub(crate) dir: Option<PathBuf>,
    /// The legwatch to measure.
    #[arg(long, default_value = "target/release/legwatch")]
    pub(crate) legwatch: String,
    /// The one that can inject nothing (built with the feature bench-no-faults), for --faults.
    #[arg(long, default_value = "target/release/legwatch-no-faults")]
    pub(crate) legwatch_no_faults: String,
    /// The qemu-storage-daemon to measure.
    #[arg(long, default_value = "qemu-storage-daemon")]
    pub(crate) storage_daemon: String,
    /// List cases and backends.
    #[arg(long)]
    pub(crate) list: bool,
    /// (cargo passes it)
    #[arg(long, hide = true)]
    pub(crate) bench: bool,
}
