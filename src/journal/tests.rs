use super::*;
use crate::block::{LegId, Operation, RequestId, SECTOR_BYTES, Sector, SectorRange, Status};
use crate::config::LegConfig;
use crate::event::{
    Abandoned, Action, Arrived, Completed, Content, Decided, Event, EventNo, Fetched,
    FrontendChange, GuestEnd, Segment, What,
};
use crate::header::{LegHead, RunHeader};
use crate::mark::{Admin, AdminAction, AdminPhase, Mark, PageRun, Pages, SyncLook, any_intent};
use proptest::prelude::*;
use std::time::Duration;

fn header() -> RunHeader {
    RunHeader::new(
        3,
        4,
        vec![LegHead {
            config: LegConfig::memory("a", 1 << 20),
            sectors: 2048,
        }],
    )
}

fn request() -> impl Strategy<Value = RequestId> {
    (any::<u8>(), any::<u64>()).prop_map(|(leg, number)| RequestId {
        leg: LegId(leg),
        number,
    })
}

fn range() -> impl Strategy<Value = SectorRange> {
    (0..u64::MAX / 2, 0..u64::MAX / 2)
        .prop_map(|(start, count)| SectorRange::new(Sector(start), count).unwrap())
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        Just(Operation::Read),
        Just(Operation::Write),
        Just(Operation::Flush),
        Just(Operation::Discard),
        Just(Operation::WriteZeroes),
        Just(Operation::WriteZeroesUnmap),
        Just(Operation::GetId),
        any::<u32>().prop_map(Operation::Unsupported),
    ]
}

fn digests() -> impl Strategy<Value = crate::event::Digests> {
    prop::collection::vec(any::<u32>(), 0..20).prop_map(crate::event::Digests::from_vec)
}

fn requests_of_legs() -> impl Strategy<Value = What> {
    let status = prop_oneof![
        Just(Status::Ok),
        Just(Status::IoErr),
        Just(Status::Unsupported)
    ];
    let content = prop_oneof![
        Just(Content::NotTaken),
        Just(Content::Same),
        digests().prop_map(Content::Changed),
        digests().prop_map(Content::Returned),
    ];
    prop_oneof![
        (
            request(),
            any::<u16>(),
            operation(),
            prop::collection::vec(range(), 0..4),
            prop::collection::vec(any::<(u64, u32)>(), 0..4)
        )
            .prop_map(|(request, queue, operation, ranges, segments)| {
                What::Arrived(Arrived {
                    request,
                    queue,
                    operation,
                    ranges: ranges.into_iter().collect(),
                    segments: segments
                        .into_iter()
                        .map(|(gpa, len)| Segment { gpa, len })
                        .collect(),
                })
            }),
        (request(), any::<u16>(), any::<Option<u32>>()).prop_map(|(request, rule, delay)| {
            What::Decided(Decided {
                request,
                rule,
                action: delay.map_or(Action::LateFetch, |ms| Action::Delay { ms }),
            })
        }),
        (
            request(),
            digests(),
            prop::option::of(prop::collection::vec(any::<u8>(), 0..600))
        )
            .prop_map(|(request, digests, payload)| What::Fetched(Fetched {
                request,
                digests,
                payload
            })),
        (request(), status, content).prop_map(|(request, status, content)| {
            What::Completed(Completed {
                request,
                status,
                content,
            })
        }),
        (request(), any::<bool>())
            .prop_map(|(request, applied)| What::Abandoned(Abandoned { request, applied })),
    ]
}

fn marks() -> impl Strategy<Value = Mark> {
    prop_oneof![
        any_intent().prop_map(Mark::Intent),
        (
            any::<(u16, u16, u32, bool)>(),
            prop::collection::vec(any::<(u64, u32)>(), 0..5)
        )
            .prop_map(|((writer, slot, first_page, pinned), runs)| {
                Mark::Pages(Pages {
                    writer,
                    slot,
                    first_page,
                    pinned,
                    runs: runs
                        .into_iter()
                        .map(|(frame, count)| PageRun { frame, count })
                        .collect(),
                })
            }),
        (any::<u32>(), any::<bool>(), ".*").prop_map(|(step, ok, detail)| Mark::StepEnd {
            step,
            ok,
            detail
        }),
        (any::<u16>(), any::<u64>(), any::<u32>()).prop_map(|(target, sector, digest)| {
            Mark::BadRead {
                target,
                sector: Sector(sector),
                head: "00".into(),
                digest,
            }
        }),
        (0usize..6, any::<bool>(), any::<Option<u64>>(), ".*").prop_map(
            |(action, ok, mismatches, leg)| Mark::Admin(Admin {
                action: AdminAction::ALL[action],
                phase: if ok {
                    AdminPhase::Begin
                } else {
                    AdminPhase::End { ok, mismatches }
                },
                legs: vec![leg],
            })
        ),
        (".*", ".*", any::<u64>(), any::<u64>()).prop_map(|(action, leg, done, all)| {
            let legs = vec![leg];
            Mark::Sync(SyncLook {
                action,
                legs,
                done,
                all,
            })
        }),
        any::<bool>().prop_map(|ok| Mark::Finish { ok }),
    ]
}

fn what() -> impl Strategy<Value = What> {
    let sectors = || {
        prop::collection::vec(any::<u8>(), 0..3).prop_map(|fill| {
            fill.into_iter()
                .flat_map(|byte| [byte; SECTOR_BYTES])
                .collect::<Vec<u8>>()
        })
    };
    prop_oneof![
        4 => requests_of_legs(),
        2 => marks().prop_map(What::Mark),
        1 => any::<u32>().prop_map(|boot| What::Boot { boot }),
        1 => (any::<u8>(), prop_oneof![
            Just(FrontendChange::Connected),
            any::<u64>().prop_map(FrontendChange::Features),
            any::<(u16, u16)>().prop_map(|(queue, size)| FrontendChange::QueueStarted { queue, size }),
            any::<u16>().prop_map(|queue| FrontendChange::QueueStopped { queue }),
            Just(FrontendChange::Reset),
            any::<Option<String>>().prop_map(FrontendChange::Disconnected),
            any::<u64>().prop_map(|ms| FrontendChange::Waited { ms }),
        ]).prop_map(|(leg, change)| What::Frontend { leg: LegId(leg), change }),
        1 => (any::<u32>(), prop::collection::vec(request(), 0..4)).prop_map(|(id, pending)| What::Quiet { id, pending }),
        1 => ".*".prop_map(|line| What::Console { line }),
        1 => (any::<u8>(), 0..1u64 << 40, digests(), prop::option::of(sectors())).prop_map(|(leg, start, digests, payload)| What::Lost {
            payload, leg: LegId(leg), start: Sector(start), digests }),
        1 => (any::<u8>(), 0..1u64 << 40, digests(), prop::option::of(sectors())).prop_map(|(leg, start, digests, payload)| What::Found {
            payload, leg: LegId(leg), start: Sector(start), digests }),
        1 => (any::<u64>(), any::<u64>()).prop_map(|(kept, missing)| What::Restarted { kept, missing }),
        1 => (any::<u8>(), 0..1u64 << 40, sectors()).prop_map(|(leg, start, bytes)| What::Initial { leg: LegId(leg), start: Sector(start), bytes }),
        1 => (any::<u32>(), any::<Option<String>>()).prop_map(|(boot, why)| What::GuestEnded {
            boot,
            how: why.map_or(GuestEnd::PoweredOff, |why| GuestEnd::Hung { why }),
        }),
        1 => (any::<u8>(), any::<u64>(), any::<u64>(), sectors()).prop_map(|(leg, sector, version, bytes)| What::Evidence {
            leg: LegId(leg), sector: Sector(sector), version: EventNo(version), bytes,
        }),
        1 => Just(What::End),
    ]
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    prop::collection::vec((1u64..1000, any::<u64>(), what()), 0..20).prop_map(|steps| {
        let mut no = 0;
        steps
            .into_iter()
            .map(|(step, time_us, what)| {
                no += step;
                Event {
                    no: EventNo(no),
                    time_us,
                    what,
                }
            })
            .collect()
    })
}

fn written(events: &[Event]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new(), &header()).unwrap();
    for event in events {
        writer.append(event).unwrap();
    }
    writer.finish().unwrap()
}

fn read(bytes: &[u8]) -> (Vec<Event>, Option<Tail>) {
    let mut reader = Reader::new(bytes).unwrap();
    let mut events = Vec::new();
    while let Some(event) = reader.next_event().unwrap() {
        events.push(event);
    }
    (events, reader.tail().cloned())
}

proptest! {
    #[test]
    fn events_come_back(events in events()) {
        prop_assert_eq!(read(&written(&events)), (events, None));
    }

    #[test]
    fn a_torn_tail_loses_only_itself(events in events(), cut in 1usize..4000) {
        let bytes = written(&events);
        let least = written(&[]).len();
        let len = bytes.len().saturating_sub(cut).max(least);
        let (some, tail) = read(&bytes[..len]);
        prop_assert_eq!(&some[..], &events[..some.len()]);
        match tail {
            None => prop_assert_eq!(written(&some).len(), len),
            Some(tail) => {
                prop_assert_eq!(tail.at + tail.dropped_bytes, len as u64);
                prop_assert_eq!(tail.at, written(&some).len() as u64);
                prop_assert!(some.len() < events.len());
            }
        }
    }

    #[test]
    fn a_flipped_byte_ends_the_journal_there(events in events(), at: prop::sample::Index, bit in 0u8..8) {
        let mut bytes = written(&events);
        let least = written(&[]).len();
        prop_assume!(bytes.len() > least);
        let at = least + at.index(bytes.len() - least);
        bytes[at] ^= 1 << bit;
        let (some, tail) = read(&bytes);
        prop_assert_eq!(&some[..], &events[..some.len()]);
        prop_assert!(tail.is_some());
    }

    #[test]
    fn any_bytes_are_survived(noise in prop::collection::vec(any::<u8>(), 0..400), behind_header: bool) {
        let mut bytes = if behind_header { written(&[]) } else { Vec::new() };
        bytes.extend(noise);
        if let Ok(mut reader) = Reader::new(&bytes[..]) {
            while let Some(_event) = reader.next_event().unwrap() {}
        }
    }

    #[test]
    fn any_payload_is_survived(payload in prop::collection::vec(any::<u8>(), 0..200), kind in 0u8..20) {
        let mut payload = payload;
        if let Some(first) = payload.first_mut() {
            *first = kind;
        }
        if let Some(event) = codec::decode(&payload) {
            // What decodes encodes to something that decodes to the same.
            let mut again = Vec::new();
            codec::encode(&event, &mut again);
            prop_assert_eq!(codec::decode(&again), Some(event));
        }
    }
}

#[test]
fn another_version_is_refused_by_name() {
    let mut other = header();
    other.version = 9;
    let bytes = Writer::new(Vec::new(), &other).unwrap().finish().unwrap();
    assert!(matches!(
        Reader::new(&bytes[..]),
        Err(ReadError::Version(9))
    ));
    assert!(matches!(Reader::new(&b"no"[..]), Err(ReadError::NoJournal)));
}

#[test]
fn what_is_held_back_is_bounded_in_time_and_bytes() {
    let mut writer = Writer::new(Vec::new(), &header()).unwrap();
    let event = |no| Event {
        no: EventNo(no),
        time_us: 0,
        what: What::Console {
            line: "x".repeat(1000),
        },
    };
    writer.append(&event(1)).unwrap();
    assert!(!writer.maybe_flush(Duration::from_millis(10)).unwrap());
    assert!(writer.maybe_flush(FLUSH_AFTER).unwrap());
    for no in 2..2000 {
        writer.append(&event(no)).unwrap();
    }
    let all = writer.bytes();
    let out = writer.finish().unwrap();
    assert_eq!(out.len() as u64, all);
    assert_eq!(read(&out).0.len(), 1999);
}
