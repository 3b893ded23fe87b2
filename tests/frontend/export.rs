//! What is exported of a run is what the leg held: images at any number of the sequence, and the log that `replay-log` replays.

use std::fs::File;
use std::io::{Cursor, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use crate::support::{ALL, Bench, Client, pattern};
use legwatch::block::{LegId, Sector, to_usize};
use legwatch::config::{LegConfig, Record};
use legwatch::device::Options;
use legwatch::event::{Event, EventNo, What};
use legwatch::export::{Built, Logged, Side, build, log_writes};
use legwatch::header::{LegHead, RunHeader};
use legwatch::journal::{Reader, Writer};
use legwatch::scenario::rules_of;
use legwatch::stamp::SplitMix64;

const SECTORS: u64 = 2048;
const BYTES: usize = 2048 * 512;
/// Lost, torn, sent to leg b and failed writes, and lost discards, in this order, from these sectors on.
const RULES: &str = "
[[fault]]
legs = ['a']
on = ['write', 'discard']
sectors = '1024+64'
do = 'lose'
[[fault]]
legs = ['a']
on = ['write']
sectors = '1280+64'
do = { tear = { keep = 'random' } }
[[fault]]
legs = ['a']
on = ['write']
sectors = '1536+64'
do = { misdirect = { to_leg = 'b', to_sector = 200 } }
";

/// A leg as it was behind a number.
struct Moment {
    no: EventNo,
    shadow: Vec<u8>,
    medium: Vec<u8>,
}

fn moment(bench: &Bench, client: &mut Client) -> Moment {
    let medium: Vec<u8> = (0..SECTORS / 1024)
        .flat_map(|at| client.read(at * 1024 * 512, 1024 * 512).unwrap())
        .collect();
    let shadow = (0..SECTORS)
        .flat_map(|at| bench.device().read_sector(LegId(0), Sector(at)).unwrap())
        .collect();
    // Every read that was answered before has its number.
    let no = bench.events.all().last().unwrap().no;
    Moment { no, shadow, medium }
}

/// Random writes, many at a time and over one another; discards and flushes between.
fn load(client: &mut Client, dice: &mut SplitMix64, rounds: u64) {
    for _ in 0..rounds {
        let mut waiting = 0;
        for slot in 0..16u64 {
            let count = 1 + dice.next_u64() % 32;
            let at = dice.next_u64() % (SECTORS - count);
            match dice.next_u64() % 10 {
                0 => client.queues[0]
                    .discard(at * 512, count * 512, slot)
                    .unwrap(),
                1 => client.queues[0].flush(slot).unwrap(),
                _ => {
                    let (from, len) = (to_usize(slot) << 14, to_usize(count) * 512);
                    let bytes = pattern(dice.next_u64(), len);
                    client.memory.bytes()[from..from + len].copy_from_slice(&bytes);
                    let buffer = (client.memory.addr() + from) as *const u8;
                    // SAFETY: the buffer is the client's memory, and no two requests share it.
                    unsafe { client.queues[0].write_raw(at * 512, buffer, len, slot) }.unwrap();
                }
            }
            waiting += 1;
        }
        client.kick(0);
        let done = client.collect(0, waiting, "the load");
        assert!(done.iter().all(|(_, status)| *status == 0), "{done:?}");
    }
}

fn journal(legs: &[LegConfig], events: &[Event]) -> Vec<u8> {
    let heads = legs.iter().map(|config| LegHead {
        config: config.clone(),
        sectors: SECTORS,
    });
    let header = RunHeader::new(1, 1, heads.collect());
    let mut writer = Writer::new(Vec::new(), &header).unwrap();
    for event in events {
        writer.append(event).unwrap();
    }
    writer.finish().unwrap()
}

fn image(journal: &[u8], side: Side, at: EventNo) -> (Vec<u8>, Built) {
    let file = tempfile::tempfile().unwrap();
    file.set_len(BYTES as u64).unwrap();
    let built = build(
        &mut Reader::new(journal).unwrap(),
        LegId(0),
        side,
        at,
        &file,
    )
    .unwrap();
    let mut bytes = vec![0; BYTES];
    file.read_exact_at(&mut bytes, 0).unwrap();
    (bytes, built)
}

fn same(one: &[u8], other: &[u8], what: &str) {
    let sectors = one.chunks(512).zip(other.chunks(512));
    let differ: Vec<usize> = sectors
        .enumerate()
        .filter(|(_, (one, other))| one != other)
        .map(|(at, _)| at)
        .collect();
    assert!(
        differ.is_empty() && one.len() == other.len(),
        "{what}: sectors {differ:?} differ"
    );
}

#[test]
fn an_image_is_the_leg_at_that_number_and_the_log_leads_to_it() {
    let legs = [
        LegConfig::memory("a", BYTES as u64),
        LegConfig::memory("b", BYTES as u64),
    ];
    let options = Options {
        seed: 5,
        record: Record::All,
        rules: rules_of(RULES, &legs).unwrap(),
        ..Options::default()
    };
    let bench = Bench::with(&legs, &options);
    let mut client = Client::connect(&bench, "a", 1, ALL);
    let mut dice = SplitMix64(11);
    let moments: Vec<Moment> = (0..4)
        .map(|_| {
            load(&mut client, &mut dice, 24);
            moment(&bench, &mut client)
        })
        .collect();
    drop(client);
    let healed = bench.device().faults().heal(Some("a"), None).unwrap();
    let events = bench.stop();
    let mut hand = events.last().unwrap().clone();
    hand.no.0 += 1;
    hand.what = What::Hand {
        what: format!("{healed} sectors healed"),
        added: Vec::new(),
    };
    let after_heal = journal(&legs, &[&events[..], &[hand]].concat());
    let journal = journal(&legs, &events);
    for moment in &moments {
        for (side, held) in [
            (Side::Shadow, &moment.shadow),
            (Side::Medium, &moment.medium),
        ] {
            let (bytes, built) = image(&journal, side, moment.no);
            assert_eq!((built.at, built.missing), (moment.no, 0));
            same(&bytes, held, &format!("{side:?} at {}", moment.no));
        }
    }
    let last = moments.last().unwrap();
    // Which sectors told the truth again after a heal is not on record: all that lied may have.
    let (_, built) = image(&after_heal, Side::Medium, EventNo(u64::MAX));
    assert!(
        healed > 0 && built.missing >= healed,
        "{built:?}, {healed} healed"
    );
    let (bytes, built) = image(&after_heal, Side::Shadow, EventNo(u64::MAX));
    assert_eq!(built.missing, 0);
    same(&bytes, &last.shadow, "the shadow after a heal");
    assert_ne!(last.shadow, last.medium, "rules lied");
    for (side, held) in [(Side::Shadow, &last.shadow), (Side::Medium, &last.medium)] {
        let mut log = Cursor::new(Vec::new());
        let logged = log_writes(
            &mut Reader::new(&journal[..]).unwrap(),
            LegId(0),
            side,
            &mut log,
        )
        .unwrap();
        assert!(logged.entries > 1000 && logged.missing == 0, "{logged:?}");
        same(
            &replay(log.get_ref(), &logged),
            held,
            &format!("{side:?}, replayed"),
        );
        if let Some(program) = std::env::var_os("LEGWATCH_REPLAY_LOG") {
            same(
                &foreign(Path::new(&program), log.get_ref()),
                held,
                "replayed by replay-log",
            );
        }
    }
}

/// Replays a log, as the kernel's documentation lays it out.
fn replay(log: &[u8], logged: &Logged) -> Vec<u8> {
    let word = |at: usize| u64::from_le_bytes(log[at..at + 8].try_into().unwrap());
    assert_eq!(
        (word(0), word(8), word(16)),
        (0x006a_7366_7773_6872, 1, logged.entries)
    );
    assert_eq!(log[24..28], 512u32.to_le_bytes());
    let (mut held, mut at) = (vec![0; BYTES], 512);
    for _ in 0..logged.entries {
        let [sector, sectors, flags] = [word(at), word(at + 8), word(at + 16)];
        at += 512;
        let (from, len) = (to_usize(sector) * 512, to_usize(sectors) * 512);
        match flags {
            0 => {
                held[from..from + len].copy_from_slice(&log[at..at + len]);
                at += len;
            }
            4 => held[from..from + len].fill(0),
            1 | 8 => assert_eq!(sectors, 0),
            flags => panic!("flags {flags}"),
        }
    }
    assert_eq!(at, log.len(), "nothing behind the last entry");
    held
}

/// Replays a log with somebody else's program.
fn foreign(program: &Path, log: &[u8]) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let [at, onto] = ["log", "image"].map(|name| dir.path().join(name));
    std::fs::write(&at, log).unwrap();
    let mut image = File::create_new(&onto).unwrap();
    image.set_len(BYTES as u64).unwrap();
    let output = Command::new(program)
        .arg("--log")
        .arg(&at)
        .arg("--replay")
        .arg(&onto)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    image.seek(SeekFrom::Start(0)).unwrap();
    std::fs::read(&onto).unwrap()
}
