//! Events as Chrome's trace JSON, which Perfetto's viewer opens: a process a leg, requests as asynchronous spans, what is no request as instants, and
//! how many are in flight as a counter.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};

use serde_json::{Value, json};

use super::each;
use crate::block::{LegId, RequestId, Status};
use crate::event::What;
use crate::journal::Reader;

/// The guest's process in the trace; legs are theirs plus one.
const GUEST: u32 = 1;

/// Writes the trace.
///
/// # Errors
/// The journal's and the output's own.
pub fn chrome_trace<R: Read, W: Write>(reader: &mut Reader<R>, out: &mut W) -> io::Result<()> {
    let header = reader.header().clone();
    let process = |leg: LegId| GUEST + 1 + u32::from(leg.0);
    out.write_all(b"{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n")?;
    let name = |pid: u32, name: &str| json!({ "ph": "M", "name": "process_name", "pid": pid, "tid": 0, "ts": 0, "args": { "name": name } });
    let mut first = true;
    let mut put = |out: &mut W, value: &Value| -> io::Result<()> {
        if !first {
            out.write_all(b",\n")?;
        }
        first = false;
        serde_json::to_writer(&mut *out, value).map_err(io::Error::other)
    };
    put(out, &name(GUEST, "guest"))?;
    for (at, leg) in (0..).zip(&header.legs) {
        put(
            out,
            &name(process(LegId(at)), &format!("leg {}", leg.config.name)),
        )?;
    }
    let mut open: BTreeMap<RequestId, String> = BTreeMap::new();
    let mut in_flight: BTreeMap<LegId, i64> = BTreeMap::new();
    each(reader, |event| {
        let ts = event.time_us;
        match &event.what {
            What::Arrived(arrived) if arrived.request.leg != LegId::CONTROL => {
                let request = arrived.request;
                let ranges: Vec<String> = arrived.ranges.iter().map(ToString::to_string).collect();
                let name = format!("{} {}", arrived.operation, ranges.join(" "));
                let pid = process(request.leg);
                put(
                    out,
                    &json!({
                        "ph": "b", "cat": "request", "name": name, "id": id(request), "pid": pid, "tid": arrived.queue, "ts": ts,
                        "args": { "request": request.number, "event": event.no.0 }
                    }),
                )?;
                open.insert(request, name);
                let count = in_flight.entry(request.leg).or_default();
                *count += 1;
                put(out, &counter(pid, ts, *count))
            }
            What::Completed(completed) => match open.remove(&completed.request) {
                Some(name) => {
                    let status = match completed.status {
                        Status::Ok => "ok",
                        Status::IoErr => "error",
                        Status::Unsupported => "refused",
                    };
                    let pid = process(completed.request.leg);
                    put(
                        out,
                        &end(completed.request, &name, pid, ts, status, event.no.0),
                    )?;
                    let count = in_flight.entry(completed.request.leg).or_default();
                    *count -= 1;
                    put(out, &counter(pid, ts, *count))
                }
                None => Ok(()),
            },
            What::Abandoned(abandoned) => match open.remove(&abandoned.request) {
                Some(name) => {
                    let pid = process(abandoned.request.leg);
                    put(
                        out,
                        &end(abandoned.request, &name, pid, ts, "abandoned", event.no.0),
                    )?;
                    let count = in_flight.entry(abandoned.request.leg).or_default();
                    *count -= 1;
                    put(out, &counter(pid, ts, *count))
                }
                None => Ok(()),
            },
            What::Decided(decided) => {
                let what = crate::oracle::action_in_words(&decided.action);
                let name = format!("request {} {what}", decided.request.number);
                put(
                    out,
                    &instant("fault", &name, process(decided.request.leg), ts, event.no.0),
                )
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
                Some((who, what)) => put(out, &instant(&who, &what, GUEST, ts, event.no.0)),
                None => Ok(()),
            },
        }
    })?;
    out.write_all(b"\n]}\n")?;
    out.flush()
}

fn id(request: RequestId) -> String {
    format!("{}-{}", request.leg.0, request.number)
}

fn end(request: RequestId, name: &str, pid: u32, ts: u64, status: &str, no: u64) -> Value {
    json!({
        "ph": "e", "cat": "request", "name": name, "id": id(request), "pid": pid, "tid": 0, "ts": ts,
        "args": { "status": status, "event": no }
    })
}

fn counter(pid: u32, ts: u64, count: i64) -> Value {
    json!({ "ph": "C", "name": "in flight", "pid": pid, "tid": 0, "ts": ts, "args": { "requests": count } })
}

fn instant(cat: &str, name: &str, pid: u32, ts: u64, no: u64) -> Value {
    json!({ "ph": "i", "s": "p", "cat": cat, "name": name, "pid": pid, "tid": 0, "ts": ts, "args": { "event": no } })
}
