//! Violations planted into the records of real runs: what a real kernel did, but for one write of one leg. Each has to be told, and what was recorded is clean.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use legwatch::block::{Operation, RequestId, Status};
use legwatch::event::{Content, Event, What};
use legwatch::finding::Confidence;
use legwatch::header::RunHeader;
use legwatch::journal::Reader;
use legwatch::judge::Judge;
use legwatch::mark::Mark;
use legwatch::oracle::Verdict;

use super::harness::{full, run};

/// Twins arrive within so many events of each other.
const APART_MAX: u64 = 200;

/// What becomes of one leg's write.
#[derive(Clone, Copy, Debug)]
enum Plant {
    /// The leg is sent something else in one sector.
    Garbage,
    /// The leg is never sent it.
    Dropped,
}

/// Data that a leg was sent.
struct Sent {
    request: RequestId,
    at: u64,
    digests: Vec<u32>,
}

/// The request of a leg that an event is about, of those that carry a write through.
fn request_of(event: &Event) -> Option<RequestId> {
    if let What::Arrived(arrived) = &event.what {
        Some(arrived.request)
    } else if let What::Fetched(fetched) = &event.what {
        Some(fetched.request)
    } else if let What::Completed(end) = &event.what {
        Some(end.request)
    } else {
        None
    }
}

struct Record {
    header: RunHeader,
    events: Vec<Event>,
}

impl Record {
    fn read(folder: &Path) -> Record {
        let file = File::open(folder.join("journal")).unwrap();
        let mut reader = Reader::new(BufReader::new(file)).unwrap();
        let header = reader.header().clone();
        let mut events = Vec::new();
        while let Some(event) = reader.next_event().unwrap() {
            events.push(event);
        }
        Record { header, events }
    }

    /// Data writes of the workload's time that went well on a leg, and that another leg was sent, too.
    fn mirrored(&self) -> Vec<Sent> {
        let mut writes = BTreeSet::new();
        let mut sent: BTreeMap<RequestId, Sent> = BTreeMap::new();
        let mut done = Vec::new();
        let workload = self
            .events
            .iter()
            .skip_while(|event| !matches!(event.what, What::Mark(Mark::Target(_))));
        for event in workload {
            if let What::Arrived(arrived) = &event.what
                && arrived.operation == Operation::Write
            {
                writes.insert(arrived.request);
            } else if let What::Fetched(fetched) = &event.what
                && fetched.payload.is_none()
                && writes.contains(&fetched.request)
            {
                let one = Sent {
                    request: fetched.request,
                    at: event.no.0,
                    digests: fetched.digests.iter().copied().collect(),
                };
                sent.insert(fetched.request, one);
            } else if let What::Completed(end) = &event.what
                && end.status == Status::Ok
                && matches!(end.content, Content::Same)
            {
                done.extend(sent.remove(&end.request));
            }
        }
        let has_twin = |one: &Sent| {
            done.iter().any(|other: &Sent| {
                other.request.leg != one.request.leg
                    && other.at.abs_diff(one.at) < APART_MAX
                    && other.digests == one.digests
            })
        };
        let keep: Vec<bool> = done.iter().map(has_twin).collect();
        let mut keep = keep.into_iter();
        done.retain(|_| keep.next().unwrap());
        done
    }

    fn judged(&self, planted: Option<(RequestId, Plant, usize)>) -> Verdict {
        let mut judge = Judge::new(&self.header, false);
        for event in &self.events {
            let mut event = event.clone();
            if let Some((request, plant, sector)) = planted
                && request_of(&event) == Some(request)
            {
                match plant {
                    Plant::Dropped => continue,
                    Plant::Garbage => {
                        if let What::Fetched(fetched) = &mut event.what {
                            fetched.digests[sector] ^= 0x5a5a_1234;
                        }
                    }
                }
            }
            judge.apply(&event);
        }
        judge.finish()
    }
}

fn told(scenario: &str, kernel: &str, count: usize) {
    let ran = run(scenario, kernel, &[]);
    let record = Record::read(&ran.folder);
    let clean = record.judged(None);
    assert!(clean.findings.is_empty(), "{:#?}", clean.findings);
    let writes = record.mirrored();
    assert!(writes.len() > count, "{} writes", writes.len());
    for at in 0..count {
        // Spread over the run; a prime's steps meet other legs and lengths each time.
        let sent = &writes[(at * 7919 + writes.len() * at / count) % writes.len()];
        let plant = [Plant::Garbage, Plant::Dropped][at % 2];
        let sector = at * 31 % sent.digests.len();
        let verdict = record.judged(Some((sent.request, plant, sector)));
        let proven = |one: &legwatch::finding::Finding| one.confidence == Confidence::Proven;
        assert!(
            verdict.findings.iter().any(proven),
            "{scenario} on {kernel}, {plant:?}, sector {sector} of {:?} (#{}): {:#?}",
            sent.request,
            sent.at,
            verdict.findings
        );
    }
}

#[test]
fn whatever_write_a_leg_is_not_sent_as_it_should_be() {
    told("raid1-quick", "pinned:6.12", 20);
    if full() {
        for kernel in ["pinned:6.1", "pinned:6.12", "pinned:7.3.4"] {
            for scenario in [
                "raid1-three-legs",
                "raid1-bitmap",
                "check-repair",
                "flush-storm",
                "large-io",
                "legs-4k",
                "small-writers",
                "stack-crypt",
                "stack-lvm",
                "stack-raid10-four",
                "write-behind-first",
            ] {
                told(scenario, kernel, 20);
            }
        }
    }
}
