//! Every action of a rule, through a foreign driver: what a guest sees (status, data, order), and what the journal says of it.
#![allow(
    clippy::cast_possible_truncation,
    clippy::wildcard_enum_match_arm,
    reason = "numbers of tests are small, and tests look for the events they are about"
)]

use std::time::Duration;

use crate::support::{ALL, Bench, Client, pattern};
use legwatch::block::{LegId, Sector, SectorRange, Status};
use legwatch::config::LegConfig;
use legwatch::device::Options;
use legwatch::event::{Action, Event, What};
use legwatch::scenario::rules_of;

const EIO: i32 = -5;
const ENOTSUP: i32 = -95;

fn mib(name: &str) -> LegConfig {
    LegConfig::memory(name, 16 << 20)
}

fn bench(rules: &str) -> Bench {
    let legs = [mib("a"), mib("b")];
    let options = Options {
        seed: 42,
        rules: rules_of(rules, &legs).unwrap(),
        ..Options::default()
    };
    Bench::with(&legs, &options)
}

fn start(rules: &str) -> (Bench, Client) {
    let bench = bench(rules);
    let client = Client::connect(&bench, "a", 1, ALL);
    (bench, client)
}

fn actions(events: &[Event]) -> Vec<Action> {
    events
        .iter()
        .filter_map(|event| match &event.what {
            What::Decided(decided) => Some(decided.action.clone()),
            _ => None,
        })
        .collect()
}

fn end(bench: Bench, client: Client) -> Vec<Action> {
    drop(client);
    actions(&bench.stop())
}

fn range(start: u64, count: u64) -> SectorRange {
    SectorRange::new(Sector(start), count).unwrap()
}

fn honest(bench: &Bench, sector: u64) -> [u8; 512] {
    bench
        .device()
        .read_sector(LegId(0), Sector(sector))
        .unwrap()
}

#[test]
fn fail_answers_with_the_error_and_stores_nothing() {
    let (bench, mut client) = start(
        "[[fault]]\non = [\"write\"]\nnth = 2\ndo = { fail = \"io-error\" }\n\
         [[fault]]\non = [\"flush\"]\ndo = { fail = \"unsupported\" }\n\
         [[fault]]\non = [\"read\"]\nsectors = \"100+1\"\ndo = { fail = \"io-error\" }\n",
    );
    assert_eq!(client.write(0, &[1; 512]), 0);
    assert_eq!(client.write(0, &[2; 512]), EIO);
    assert_eq!(client.write(512, &[3; 512]), 0);
    client.queues[0].flush(9).unwrap();
    assert_eq!(client.one(0, "the flush"), ENOTSUP);
    assert_eq!(client.read(0, 1024).unwrap(), [[1; 512], [3; 512]].concat());
    assert_eq!(client.read(100 * 512, 512).unwrap_err(), EIO);
    assert_eq!(client.read(99 * 512, 512).unwrap(), [0; 512]);
    let told = end(bench, client);
    let fail = |status| Action::Fail { status };
    assert_eq!(
        told,
        [
            fail(Status::IoErr),
            fail(Status::Unsupported),
            fail(Status::IoErr)
        ]
    );
}

#[test]
fn fail_has_stages() {
    for (stage, fetched, stored) in [
        ("before-fetch", false, 0),
        ("before-store", true, 0),
        ("before-answer", true, 7),
    ] {
        let rule = format!(
            "[[fault]]\non = [\"write\"]\nstage = \"{stage}\"\ndo = {{ fail = \"io-error\" }}\n"
        );
        let (bench, mut client) = start(&rule);
        assert_eq!(client.write(0, &[7; 512]), EIO, "{stage}");
        assert_eq!(client.read(0, 512).unwrap(), [stored; 512], "{stage}");
        drop(client);
        let events = bench.stop();
        let was = events.iter().any(|e| matches!(e.what, What::Fetched(_)));
        assert_eq!(was, fetched, "{stage}");
    }
}

#[test]
fn a_lost_write_is_acknowledged_and_can_be_healed() {
    let (bench, mut client) = start("[[fault]]\non = [\"write\"]\nnth = 2\ndo = \"lose\"\n");
    let (old, new) = (pattern(1, 4096), pattern(2, 4096));
    assert_eq!(client.write(4096, &old), 0);
    assert_eq!(client.write(4096, &new), 0);
    assert_eq!(client.read(4096, 4096).unwrap(), old, "the leg lies");
    assert_eq!(honest(&bench, 8), new[..512], "what it honestly holds");
    assert_eq!(bench.device().faults().lies(), [8, 0]);
    assert_eq!(bench.device().faults().heal(None, None).unwrap(), 8);
    assert_eq!(client.read(4096, 4096).unwrap(), new, "healed");
    let told = end(bench, client);
    assert_eq!(
        told,
        [
            Action::Lose {
                sectors: vec![range(8, 8)]
            },
            Action::Met
        ]
    );
}

#[test]
fn a_lie_ends_when_it_is_written_again() {
    let (bench, mut client) = start("[[fault]]\non = [\"write\"]\nnth = 1\ndo = \"lose\"\n");
    assert_eq!(client.write(0, &[1; 2048]), 0);
    assert_eq!(client.write(512, &[2; 1024]), 0);
    let read = client.read(0, 2048).unwrap();
    assert_eq!(read, [[0; 512], [2; 512], [2; 512], [0; 512]].concat());
    end(bench, client);
}

#[test]
fn a_lost_discard_keeps_the_data() {
    let (bench, mut client) = start("[[fault]]\non = [\"discard\"]\ndo = \"lose\"\n");
    assert_eq!(client.write(0, &[1; 4096]), 0);
    client.queues[0].discard(0, 4096, 5).unwrap();
    assert_eq!(client.one(0, "the discard"), 0);
    assert_eq!(client.read(0, 4096).unwrap(), [1; 4096]);
    assert_eq!(honest(&bench, 0), [0; 512]);
    end(bench, client);
}

#[test]
fn a_tear_stores_a_part() {
    for (keep, expected) in [("prefix", [1u8, 0, 0, 0]), ("suffix", [0, 0, 0, 1])] {
        for (answer, status) in [("ok", 0), ("io-error", EIO)] {
            let (bench, mut client) = start(&format!(
                "[[fault]]\non = [\"write\"]\ndo = {{ tear = {{ keep = \"{keep}\", sectors = 1, answer = \"{answer}\" }} }}\n"
            ));
            assert_eq!(client.write(0, &[1; 2048]), status);
            let read = client.read(0, 2048).unwrap();
            let got: Vec<u8> = read.chunks(512).map(|sector| sector[0]).collect();
            assert_eq!(got, expected, "{keep} {answer}");
            // What was not acknowledged is no lie.
            let lies = if status == 0 { 3 } else { 0 };
            assert_eq!(bench.device().faults().lies()[0], lies);
            end(bench, client);
        }
    }
}

#[test]
fn a_random_tear_is_the_same_for_the_same_seed() {
    let once = || {
        let (bench, mut client) =
            start("[[fault]]\non = [\"write\"]\ndo = { tear = { keep = \"random\" } }\n");
        assert_eq!(client.write(0, &[1; 32_768]), 0);
        let read = client.read(0, 32_768).unwrap();
        end(bench, client);
        read
    };
    let first = once();
    assert!(first.contains(&0) && first.contains(&1));
    assert_eq!(first, once());
}

#[test]
fn corruption_of_a_write_stays_and_guest_memory_is_left_alone() {
    for (how, expected) in [
        ("fill = 255", Some([255u8; 512])),
        ("stuck = { byte = 3, bit = 7, one = true }", {
            let mut one = [1; 512];
            one[3] = 0x81;
            Some(one)
        }),
        ("from_sector = 100", Some([9; 512])),
        ("flip_bits = 1", None),
        ("random = true", None),
    ] {
        let (bench, mut client) = start(&format!(
            "[[fault]]\non = [\"write\"]\nnth = 2\ndo = {{ corrupt = {{ {how} }} }}\n"
        ));
        assert_eq!(client.write(100 * 512, &[9; 512]), 0);
        assert_eq!(client.write(0, &[1; 512]), 0);
        assert_eq!(client.memory.bytes()[..512], [1; 512], "guest memory");
        let read = client.read(0, 512).unwrap();
        match expected {
            Some(expected) => assert_eq!(read, expected, "{how}"),
            None => {
                let flipped: u32 = read.iter().map(|b| (b ^ 1).count_ones()).sum();
                assert!(if how.starts_with("flip") {
                    flipped == 1
                } else {
                    flipped > 100
                });
            }
        }
        assert_eq!(client.read(0, 512).unwrap(), read, "it stays");
        assert_eq!(honest(&bench, 0), [1; 512]);
        end(bench, client);
    }
}

#[test]
fn corruption_of_a_read_is_once_or_stays() {
    for (sticky, second) in [(false, 1), (true, 255)] {
        let (bench, mut client) = start(&format!(
            "[[fault]]\non = [\"read\"]\nnth = 1\ndo = {{ corrupt = {{ fill = 255, sticky = {sticky} }} }}\n"
        ));
        assert_eq!(client.write(0, &[1; 512]), 0);
        assert_eq!(client.read(0, 512).unwrap(), [255; 512]);
        assert_eq!(client.read(0, 512).unwrap(), [second; 512]);
        assert_eq!(client.write(0, &[2; 512]), 0);
        assert_eq!(client.read(0, 512).unwrap(), [2; 512], "until rewritten");
        end(bench, client);
    }
}

#[test]
fn a_misdirected_write_is_elsewhere() {
    let (bench, mut client) = start(
        "[[fault]]\nlegs = [\"a\"]\non = [\"write\"]\nnth = 2\ndo = { misdirect = { to_sector = 50 } }\n\
         [[fault]]\nlegs = [\"a\"]\non = [\"write\"]\nnth = 3\ndo = { misdirect = { to_leg = \"b\" } }\n\
         [[fault]]\nlegs = [\"a\"]\non = [\"read\"]\nsectors = \"70+1\"\ndo = { misdirect = { to_sector = 0 } }\n",
    );
    let mut other = Client::connect(&bench, "b", 1, ALL);
    assert_eq!(client.write(0, &[1; 512]), 0);
    assert_eq!(client.write(0, &[2; 512]), 0);
    assert_eq!(client.read(0, 512).unwrap(), [1; 512]);
    assert_eq!(client.read(50 * 512, 512).unwrap(), [2; 512]);
    assert_eq!(client.write(512, &[3; 512]), 0);
    assert_eq!(client.read(512, 512).unwrap(), [0; 512]);
    assert_eq!(other.read(512, 512).unwrap(), [3; 512]);
    assert_eq!(client.read(70 * 512, 512).unwrap(), [1; 512]);
    drop(other);
    let told = end(bench, client);
    assert!(told.contains(&Action::Misdirect {
        leg: LegId(1),
        to: range(1, 1),
        lost: vec![range(1, 1)]
    }));
}

#[test]
fn a_stale_read_is_an_older_version() {
    let (bench, mut client) = start(
        "[[fault]]\non = [\"read\"]\nsectors = \"0+8\"\nevery = 2\ndo = { stale = { versions = 2 } }\n",
    );
    for byte in 1..=3 {
        assert_eq!(client.write(0, &[byte; 512]), 0);
    }
    assert_eq!(client.read(0, 512).unwrap(), [3; 512]);
    assert_eq!(client.read(0, 512).unwrap(), [1; 512]);
    assert_eq!(client.read(0, 512).unwrap(), [3; 512]);
    end(bench, client);
}

#[test]
fn bad_sectors_fail_until_they_are_written() {
    let (bench, mut client) =
        start("[[fault]]\non = [\"read\"]\nsectors = \"8+1\"\nnth = 1\ndo = \"bad-sectors\"\n");
    assert_eq!(client.write(4096, &[1; 1024]), 0);
    assert_eq!(client.read(4096, 512).unwrap_err(), EIO);
    assert_eq!(client.read(4096, 1024).unwrap_err(), EIO, "it stays bad");
    assert_eq!(
        client.read(4608, 512).unwrap(),
        [1; 512],
        "its neighbour is well"
    );
    assert_eq!(client.write(4096, &[2; 512]), 0);
    assert_eq!(client.read(4096, 512).unwrap(), [2; 512], "remapped");
    end(bench, client);
}

#[test]
fn read_only_and_dead() {
    let (bench, mut client) = start(
        "[[fault]]\nlegs = [\"a\"]\non = [\"write\"]\nnth = 2\ndo = \"read-only\"\n\
         [[fault]]\nlegs = [\"b\"]\non = [\"read\"]\nnth = 1\ndo = \"dead\"\n",
    );
    assert_eq!(client.write(0, &[1; 512]), 0);
    assert_eq!(client.write(0, &[2; 512]), EIO);
    assert_eq!(client.write(512, &[2; 512]), EIO);
    assert_eq!(client.read(0, 512).unwrap(), [1; 512]);
    let mut other = Client::connect(&bench, "b", 1, ALL);
    assert_eq!(other.write(0, &[1; 512]), 0);
    assert_eq!(other.read(0, 512).unwrap_err(), EIO);
    assert_eq!(other.write(0, &[1; 512]), EIO);
    other.queues[0].flush(3).unwrap();
    assert_eq!(other.one(0, "a flush"), EIO);
    bench.device().faults().heal(Some("b"), None).unwrap();
    assert_eq!(other.read(0, 512).unwrap(), [1; 512]);
    drop(other);
    end(bench, client);
}

/// Queues a write of one sector; the buffer is the client's memory at `at`.
fn submit_write(client: &mut Client, sector: u64, at: usize, byte: u8, context: u64) {
    client.memory.bytes()[at..at + 512].fill(byte);
    let from = (client.memory.addr() + at) as *const u8;
    // SAFETY: the buffer is the client's memory.
    unsafe { client.queues[0].write_raw(sector * 512, from, 512, context) }.unwrap();
    client.kick(0);
}

fn order(client: &mut Client, count: usize) -> Vec<u64> {
    let mut done = Vec::new();
    while done.len() < count {
        done.extend(
            client
                .collect(0, 1, "a completion")
                .into_iter()
                .map(|(c, ret)| {
                    assert_eq!(ret, 0);
                    c
                }),
        );
    }
    done
}

#[test]
fn a_held_request_waits_for_its_mark_its_rule_or_a_hand() {
    let (bench, mut client) = start(
        "[[fault]]\nname = \"held\"\non = [\"write\"]\nsectors = \"0+1\"\ndo = { hold = { until_mark = \"go\" } }\n\
         [[fault]]\nname = \"by rule\"\non = [\"write\"]\nsectors = \"1+1\"\ndo = { hold = { until_rule = \"other\" } }\n\
         [[fault]]\nname = \"by hand\"\non = [\"write\"]\nsectors = \"2+1\"\ndo = { hold = {} }\n\
         [[fault]]\nname = \"other\"\non = [\"write\"]\nsectors = \"3+1\"\ndo = { delay = { ms = 1 } }\n\
         [[fault]]\nname = \"in time\"\non = [\"write\"]\nsectors = \"4+1\"\ndo = { hold = { at_most_ms = 20 } }\n",
    );
    for sector in 0..3 {
        submit_write(&mut client, sector, sector as usize * 512, 1, sector);
    }
    submit_write(&mut client, 9, 8192, 1, 9);
    assert_eq!(order(&mut client, 1), [9]);
    assert_eq!(bench.device().in_flight().len(), 3);
    bench.device().faults().mark("go");
    assert_eq!(order(&mut client, 1), [0]);
    bench.device().faults().release(Some("by hand")).unwrap();
    assert_eq!(order(&mut client, 1), [2]);
    submit_write(&mut client, 3, 4096, 1, 3);
    let mut last = order(&mut client, 2);
    last.sort_unstable();
    assert_eq!(last, [1, 3]);
    submit_write(&mut client, 4, 4096, 1, 4);
    assert_eq!(order(&mut client, 1), [4]);
    bench.device().faults().release(Some("nobody")).unwrap_err();
    end(bench, client);
}

#[test]
fn what_is_never_answered_is_abandoned() {
    let (bench, mut client) = start("[[fault]]\non = [\"read\"]\ndo = \"never-answer\"\n");
    let at = client.memory.addr() as *mut u8;
    // SAFETY: the buffer is the client's memory.
    unsafe { client.queues[0].read_raw(0, at, 512, 1) }.unwrap();
    client.kick(0);
    bench
        .events
        .wait("the decision", |what| matches!(what, What::Decided(_)));
    assert_eq!(client.write(0, &[1; 512]), 0, "others go on");
    drop(client);
    let events = bench.stop();
    let abandoned = events.iter().any(|e| matches!(e.what, What::Abandoned(_)));
    assert!(abandoned);
}

#[test]
fn reordered_requests_come_behind_others() {
    let (bench, mut client) = start(
        "[[fault]]\non = [\"write\"]\nsectors = \"0+1\"\ndo = { reorder = { behind = 2, at_most_ms = 60000 } }\n",
    );
    for sector in 0..4 {
        submit_write(&mut client, sector, sector as usize * 512, 1, sector);
    }
    let order = order(&mut client, 4);
    let place = order.iter().position(|c| *c == 0).unwrap();
    assert!(place >= 2, "{order:?}");
    end(bench, client);
}

#[test]
fn delays_and_stalls_take_their_time() {
    let (bench, mut client) = start(
        "[[fault]]\non = [\"read\"]\ndo = { delay = { ms = 30, to_ms = 40 } }\n\
         [[fault]]\non = [\"flush\"]\ndo = { stall = { ms = 50 } }\n",
    );
    let begun = legwatch::clock::now();
    client.read(0, 512).unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(30));
    let begun = legwatch::clock::now();
    client.queues[0].flush(7).unwrap();
    client.kick(0);
    submit_write(&mut client, 0, 0, 1, 8);
    order(&mut client, 2);
    assert!(begun.elapsed() >= Duration::from_millis(50), "both wait");
    end(bench, client);
}

#[test]
fn a_late_and_a_split_fetch_see_what_changed() {
    for (action, expected) in [
        ("\"late-fetch\"", [2u8, 2]),
        ("{ split-fetch = { ms = 1 } }", [1, 2]),
    ] {
        let (bench, mut client) = start(&format!(
            "[[fault]]\non = [\"write\"]\ndo = {action}\n\
             [[fault]]\non = [\"write\"]\ndo = {{ hold = {{ until_mark = \"go\" }} }}\n"
        ));
        client.memory.bytes()[..1024].fill(1);
        let at = client.memory.addr() as *const u8;
        // SAFETY: the buffer is the client's memory.
        unsafe { client.queues[0].write_raw(0, at, 1024, 1) }.unwrap();
        client.kick(0);
        // A request behind it on the same queue: the first one's fate is sealed when it is answered.
        assert_eq!(
            {
                let at = (client.memory.addr() + 8192) as *mut u8;
                // SAFETY: the buffer is the client's memory.
                unsafe { client.queues[0].read_raw(8192, at, 512, 2) }.unwrap();
                client.kick(0);
                order(&mut client, 1)
            },
            [2]
        );
        client.memory.bytes()[..1024].fill(2);
        bench.device().faults().mark("go");
        assert_eq!(order(&mut client, 1), [1]);
        let read = client.read(0, 1024).unwrap();
        assert_eq!([read[0], read[512]], expected, "{action}");
        end(bench, client);
    }
}

#[test]
fn a_rule_can_wait_for_another_and_for_the_twin() {
    let legs = ["a", "b"].map(|name| {
        let mut leg = mib(name);
        leg.data = SectorRange::new(Sector(if name == "a" { 0 } else { 64 }), 1024);
        leg
    });
    let rules = rules_of(
        "[[fault]]\nname = \"first\"\nlegs = [\"a\"]\non = [\"write\"]\narray = \"5+1\"\ndo = { delay = { ms = 1 } }\n\
         [[fault]]\nlegs = [\"b\"]\non = [\"read\"]\nafter = { rule = \"first\" }\ndo = { fail = \"io-error\" }\n\
         [[fault]]\nlegs = [\"b\"]\non = [\"write\"]\ntwin = { leg = \"a\", is = \"acknowledged\" }\ndo = { fail = \"unsupported\" }\n",
        &legs,
    )
    .unwrap();
    let options = Options {
        rules,
        ..Options::default()
    };
    let bench = Bench::with(&legs, &options);
    let mut a = Client::connect(&bench, "a", 1, ALL);
    let mut b = Client::connect(&bench, "b", 1, ALL);
    assert_eq!(b.write(66 * 512, &[1; 512]), 0, "b is ahead of a");
    assert_eq!(a.write(2 * 512, &[1; 512]), 0);
    assert_eq!(a.write(3 * 512, &[1; 512]), 0);
    assert_eq!(b.write(67 * 512, &[1; 512]), ENOTSUP, "a has this one");
    assert_eq!(b.read(0, 512).unwrap(), [0; 512]);
    assert_eq!(a.write(5 * 512, &[1; 512]), 0);
    assert_eq!(b.read(0, 512).unwrap_err(), EIO, "a's array sector 5");
    drop((a, b));
    bench.stop();
}

#[test]
fn a_budget_keeps_one_leg_good() {
    let legs = [mib("a"), mib("b")];
    let options = Options {
        rules: rules_of("[[fault]]\non = [\"write\"]\ndo = \"lose\"\n", &legs).unwrap(),
        good_legs: 1,
        ..Options::default()
    };
    let bench = Bench::with(&legs, &options);
    let mut clients = ["a", "b"].map(|leg| Client::connect(&bench, leg, 1, ALL));
    for client in &mut clients {
        assert_eq!(client.write(0, &[1; 512]), 0);
    }
    let [a, b] = &mut clients;
    assert_eq!(a.read(0, 512).unwrap(), [0; 512], "lost");
    assert_eq!(b.read(0, 512).unwrap(), [1; 512], "withheld");
    assert_eq!(b.write(4096, &[2; 512]), 0);
    assert_eq!(b.read(4096, 512).unwrap(), [0; 512], "a is still good here");
    assert_eq!(bench.device().faults().withheld(), 1);
    drop(clients);
    let told = actions(&bench.stop());
    assert_eq!(told.iter().filter(|a| **a == Action::Withheld).count(), 1);
}

#[test]
fn a_power_cut_loses_what_was_not_flushed_and_nothing_else() {
    let once = |lying: bool| {
        let lie = if lying {
            "[[fault]]\non = [\"flush\"]\ndo = \"flush-lie\"\n"
        } else {
            ""
        };
        let (bench, mut client) = start(&format!(
            "{lie}[[fault]]\non = [\"write\"]\nsectors = \"9999+1\"\ndo = \"power-cut\"\n"
        ));
        bench.device().new_boot(1);
        assert_eq!(client.write(0, &[1; 16_384]), 0);
        client.queues[0].flush(3).unwrap();
        assert_eq!(client.one(0, "the flush"), 0);
        assert_eq!(client.write(16_384, &[2; 16_384]), 0);
        submit_write(&mut client, 9999, 0, 1, 5);
        bench.events.wait(
            "the cut",
            |what| matches!(what, What::Decided(d) if d.action == Action::PowerCut),
        );
        drop(client);
        bench.device().new_boot(2);
        let mut client = Client::connect(&bench, "a", 1, ALL);
        let read = client.read(0, 32_768).unwrap();
        drop(client);
        let events = bench.stop();
        let lost: usize = events
            .iter()
            .map(|event| match &event.what {
                What::Lost { digests, .. } => digests.len(),
                _ => 0,
            })
            .sum();
        (read, lost)
    };
    let (read, lost) = once(false);
    assert_eq!(read[..16_384], [1; 16_384], "flushed");
    let gone = read[16_384..].chunks(512).filter(|s| s[0] == 0).count();
    assert!(gone > 0 && gone < 32, "some of it: {gone}");
    assert_eq!(lost, gone);
    assert_eq!(once(false), (read, lost), "the seed decides");
    let (lied, _) = once(true);
    assert!(lied[..16_384].contains(&0), "the flush was a lie");
}

/// The blocks of TOML in the page's examples.
fn examples() -> Vec<String> {
    let page = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/faults.md");
    let page = std::fs::read_to_string(page).unwrap();
    page.split("```toml\n")
        .skip(1)
        .map(|rest| rest.split("```").next().unwrap().to_owned())
        .collect()
}

#[test]
fn every_action_has_an_example_that_fires() {
    use std::collections::BTreeSet;
    let legs = ["a", "b"].map(|name| LegConfig::memory(name, 1 << 20));
    let mut shown = BTreeSet::new();
    for example in examples() {
        let rules = rules_of(&example, &legs).unwrap();
        shown.extend(rules.iter().map(|rule| rule.action.name()));
        let options = Options {
            seed: 1,
            rules: rules.clone(),
            ..Options::default()
        };
        let bench = Bench::with(&legs, &options);
        for leg in ["a", "b"] {
            let mut client = Client::connect(&bench, leg, 1, ALL);
            for round in 0..6u64 {
                submit_write(&mut client, round, round as usize * 512, 1, 100 + round);
            }
            for round in 0..6u64 {
                let at = (client.memory.addr() + 65_536) as *mut u8;
                // SAFETY: the buffer is the client's memory.
                unsafe { client.queues[0].read_raw(0, at, 512, 200 + round) }.unwrap();
                client.kick(0);
            }
            client.queues[0].flush(300).unwrap();
            client.kick(0);
            let arrived = |what: &What| matches!(what, What::Arrived(a) if a.request.leg == LegId(u8::from(leg == "b")));
            bench.events.wait_count("all requests", 13, arrived);
        }
        for state in bench.device().faults().rules() {
            assert!(
                state.fired > 0 || state.rule.may_not_fire,
                "`{}` never fired",
                state.rule.name
            );
        }
        bench.stop();
    }
    let page = std::fs::read_to_string(
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/faults.md"),
    )
    .unwrap();
    assert_eq!(shown.len(), 18, "{shown:?}");
    for name in shown {
        assert!(
            page.contains(&format!("| {name}")) || page.contains(&format!(", {name}")),
            "{name} is in the table"
        );
    }
}
