//! Events as blkparse prints them: `D` where a request arrived at a leg, `C` where it was answered, `m` for everything that is no request.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};

use super::each;
use crate::block::{LegId, Operation, RequestId, Status};
use crate::event::What;
use crate::journal::Reader;

/// The major number that virtio disks often have.
const MAJOR: u32 = 252;

/// Writes the text.
///
/// # Errors
/// The journal's and the output's own.
pub fn blkparse<R: Read, W: Write>(reader: &mut Reader<R>, out: &mut W) -> io::Result<()> {
    let header = reader.header().clone();
    let mut open: BTreeMap<RequestId, (u16, Operation, u64, u64)> = BTreeMap::new();
    each(reader, |event| {
        let (no, us) = (event.no.0, event.time_us);
        let time = format!("{:>5}.{:09}", us / 1_000_000, us % 1_000_000 * 1000);
        let line = |out: &mut W, leg: LegId, queue: u16, action: &str, rest: &str| {
            let minor = u32::from(leg.0) * 16;
            writeln!(
                out,
                "{MAJOR:>3},{minor:<3} {queue:>2} {no:>8} {time} {:>5} {action:>2} {rest}",
                0
            )
        };
        match &event.what {
            What::Arrived(arrived) if arrived.request.leg != LegId::CONTROL => {
                let start = arrived.ranges.first().map_or(0, |range| range.start().0);
                let count = arrived.ranges.iter().map(|range| range.count()).sum();
                let request = (arrived.queue, arrived.operation, start, count);
                open.insert(arrived.request, request);
                let rest = format!(
                    "{:>3} {start} + {count} [leg {} {}]",
                    rwbs(arrived.operation),
                    header.leg_name(arrived.request.leg),
                    arrived.request.number
                );
                line(out, arrived.request.leg, arrived.queue, "D", &rest)
            }
            What::Completed(completed) => match open.remove(&completed.request) {
                Some((queue, operation, start, count)) => {
                    let error = match completed.status {
                        Status::Ok => 0,
                        Status::IoErr => -5,
                        Status::Unsupported => -95,
                    };
                    let rest = format!("{:>3} {start} + {count} [{error}]", rwbs(operation));
                    line(out, completed.request.leg, queue, "C", &rest)
                }
                None => Ok(()),
            },
            What::Abandoned(abandoned) => match open.remove(&abandoned.request) {
                Some((queue, operation, start, count)) => {
                    let rest = format!("{:>3} {start} + {count} [abandoned]", rwbs(operation));
                    line(out, abandoned.request.leg, queue, "C", &rest)
                }
                None => Ok(()),
            },
            What::Decided(decided) => {
                let rule = header.rules.get(usize::from(decided.rule)).map_or_else(
                    || format!("rule {}", decided.rule),
                    |rule| rule.name.clone(),
                );
                let what = crate::oracle::action_in_words(&decided.action);
                let rest = format!(
                    "  N fault {rule}: request {} {what}",
                    decided.request.number
                );
                line(out, decided.request.leg, 0, "m", &one_line(&rest))
            }
            What::Boot { .. }
            | What::Frontend { .. }
            | What::Arrived(_)
            | What::Fetched(_)
            | What::Mark(_)
            | What::Quiet { .. }
            | What::Lost { .. }
            | What::Found { .. }
            | What::Restarted { .. }
            | What::Hand { .. }
            | What::Console { .. }
            | What::Initial { .. }
            | What::GuestEnded { .. }
            | What::Evidence { .. }
            | What::End => match crate::oracle::moment_in_words(&header, event) {
                Some((who, what)) => line(
                    out,
                    LegId(0),
                    0,
                    "m",
                    &one_line(&format!("  N {who}: {what}")),
                ),
                None => Ok(()),
            },
        }
    })?;
    out.flush()
}

fn one_line(text: &str) -> String {
    text.replace(|c: char| c.is_control(), " ")
}

/// Blkparse's letters.
fn rwbs(operation: Operation) -> &'static str {
    match operation {
        Operation::Read => "R",
        Operation::Write => "W",
        Operation::Flush => "FN",
        Operation::Discard => "D",
        Operation::WriteZeroes | Operation::WriteZeroesUnmap => "DE",
        Operation::GetId | Operation::Unsupported(_) => "N",
    }
}
