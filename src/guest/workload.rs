//! A write step: opens the target, divides the memory, runs the writers, adds up what they did.

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;

use super::control::Marker;
use super::generator::Generator;
use super::target::Target;
use super::writer::{self, Order, Tally};
use super::{Error, Shared, context, mapping, sys};
use crate::block::to_usize;
use crate::mark::{self, Mark};
use crate::plan::{Engine, IMMUTABLE_POOL_BYTES, WriteLoad};

/// Runs a write step. Failed requests are told by marks and do not fail the step; the text is for its end mark.
pub(super) fn run(
    shared: &Shared,
    marker: &mut Marker,
    step: u32,
    load: &WriteLoad,
    background: bool,
) -> Result<String, Error> {
    let target = shared.target(&load.device, load.target)?;
    let (mapping, unknown) = match load.mapping {
        Some(mapping) => (mapping, String::new()),
        None => mapping::find(&target.path, shared.crypt_key.as_ref()),
    };
    marker.tell(&Mark::Target(mark::Target {
        target: load.target,
        device: load.device.clone(),
        sectors: target.geometry.sectors,
        mapping,
    }))?;
    let only_one = !background && load.writers == 1 && shared.background() == 0;
    let orders = orders(shared, load, &target, only_one)?;
    let tally = run_writers(orders)?;
    let mut notes: Vec<String> = tally.notes.into_iter().map(str::to_owned).collect();
    if !unknown.is_empty() {
        notes.insert(0, unknown);
    }
    if load.engine == Engine::IoUringNowait {
        notes.push(format!(
            "{} writes were refused with NOWAIT and made again",
            tally.refused
        ));
    }
    marker.tell(&Mark::WorkloadEnd {
        step,
        acked: tally.acked,
        failed: tally.failed,
        refused: tally.refused,
        note: notes.join("; "),
    })?;
    Ok(match tally.failed {
        0 => format!("{} requests acknowledged", tally.acked),
        failed => format!("{} requests acknowledged, {failed} failed", tally.acked),
    })
}

fn orders<'a>(
    shared: &'a Shared,
    load: &'a WriteLoad,
    target: &'a Target,
    only_one: bool,
) -> Result<Vec<Order<'a>>, Error> {
    let open = || {
        let dsync = if load.dsync { libc::O_DSYNC } else { 0 };
        match load.engine {
            Engine::Buffered => OpenOptions::new()
                .read(true)
                .write(true)
                .custom_flags(dsync)
                .open(&target.path),
            Engine::IoUring
            | Engine::IoUringFixed
            | Engine::IoUringNowait
            | Engine::Libaio
            | Engine::Sync => sys::open_direct(&target.path, dsync),
        }
    };
    let file = Arc::new(open().map_err(context(format!("opening {}", load.device)))?);
    let memory = match sys::available_bytes() {
        0 => IMMUTABLE_POOL_BYTES,
        available => IMMUTABLE_POOL_BYTES.min(available / 4),
    };
    let discards = load.discard_percent > 0 && target.discards();
    writer::busy_of(load.pattern, load.writers)
        .into_iter()
        .zip(0..load.writers)
        .map(|(busy, index)| {
            let generator = Generator::new(
                load,
                shared.seed,
                index,
                target.geometry.sectors,
                target.geometry.block_sectors,
            )?;
            let writer = load.first_writer.checked_add(index).ok_or_else(|| {
                Error::new(format!(
                    "workload on {}: writer numbers past 65535",
                    load.device
                ))
            })?;
            Ok(Order {
                shared,
                load,
                target,
                file: Arc::clone(&file),
                writer,
                generator,
                busy,
                pool_bytes: to_usize(memory / u64::from(load.writers)),
                only_one,
                discards,
            })
        })
        .collect()
}

/// What all writers did; their different notes once.
#[derive(Debug, Default)]
struct Sum {
    acked: u64,
    failed: u64,
    refused: u64,
    notes: BTreeSet<&'static str>,
}

fn run_writers(orders: Vec<Order<'_>>) -> Result<Sum, Error> {
    let no_discards = orders
        .iter()
        .any(|order| order.load.discard_percent > 0 && !order.discards);
    std::thread::scope(|scope| {
        let threads = orders
            .into_iter()
            .map(|order| {
                std::thread::Builder::new()
                    .name(format!("writer {}", order.writer))
                    .stack_size(512 << 10)
                    .spawn_scoped(scope, move || writer::run(order))
                    .map_err(context("starting a writer"))
            })
            .collect::<Result<Vec<_>, _>>()?;
        let mut sum = Sum::default();
        let mut failure = None;
        for thread in threads {
            match thread.join().expect("a writer does not panic") {
                Ok(Tally {
                    acked,
                    failed,
                    refused,
                    notes,
                }) => {
                    sum.acked += acked;
                    sum.failed += failed;
                    sum.refused += refused;
                    sum.notes.extend(notes);
                }
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        if no_discards {
            sum.notes
                .insert("the device takes no discards: they became writes");
        }
        failure.map_or(Ok(sum), Err)
    })
}
