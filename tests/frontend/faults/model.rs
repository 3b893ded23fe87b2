//! A leg under random writes, flushes, discards, faults, heals, cuts, stops and lost connections, against a model that is too simple to be wrong.

use super::connection::{await_another, socket_at};
use super::*;
use proptest::prelude::*;

/// Sectors that are written by the way; those from `LOSES` on lose every write, from `CORRUPTS` on every write is stored as fives.
const SECTORS: u64 = 24;
const LOSES: u64 = 12;
const CORRUPTS: u64 = 18;
const FIVES: u8 = 0x55;
/// A write to it is stored and waits for its answer; to `LATE`, it waits for its store.
const HELD: u64 = 24;
const LATE: u64 = 25;
/// All that is read and compared.
const ALL_SECTORS: u64 = 26;
/// A write to it ends the connection; to `DIES`, the leg dies.
const DROPS: u64 = 40;
const DIES: u64 = 41;
/// So many flushes are true before one that lies.
const LYING_FLUSH: u64 = 3;

#[derive(Clone, Copy, Debug)]
enum Step {
    Write(u64, u64, u8),
    Discard(u64, u64),
    Flush,
    /// Of lies: all, those of the rule that loses, or of the one that corrupts.
    Heal(Option<&'static str>),
    Cut,
    /// The frontend goes and comes again.
    Stop,
    /// A rule ends the connection.
    Disconnect,
    /// A rule kills the leg, which then is healed.
    Die,
    /// A write to this sector is held; then released, or its frontend goes.
    Hold(u64, u8, bool),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let at = || (0..SECTORS, 1..6u64);
    let step = prop_oneof![
        8 => (at(), 1..=255u8).prop_map(|((s, n), b)| Step::Write(s, n, b)),
        2 => at().prop_map(|(s, n)| Step::Discard(s, n)),
        2 => Just(Step::Flush),
        1 => prop_oneof![Just(None), Just(Some("lose")), Just(Some("corrupt"))].prop_map(Step::Heal),
        2 => Just(Step::Cut),
        1 => Just(Step::Stop),
        1 => Just(Step::Disconnect),
        1 => Just(Step::Die),
        1 => (HELD..=LATE, 1..=255u8, any::<bool>()).prop_map(|(s, b, r)| Step::Hold(s, b, r)),
    ];
    prop::collection::vec(step, 1..50)
}

/// What a sector holds, what it returns, and all that it held since the last flush.
#[derive(Clone, Default)]
struct Model {
    honest: u8,
    lie: Option<(&'static str, u8)>,
    since_flush: Vec<u8>,
}

impl Model {
    fn put(&mut self, byte: u8) {
        self.since_flush.push(self.honest);
        self.honest = byte;
    }

    fn returned(&self) -> u8 {
        self.lie.map_or(self.honest, |(_, byte)| byte)
    }
}

/// The whole area, a byte a sector.
fn area(client: &mut Client) -> Vec<u8> {
    let read = client.read(0, ALL_SECTORS as usize * 512).unwrap();
    let sectors = read.chunks(512).map(|sector| {
        assert!(
            sector.iter().all(|byte| *byte == sector[0]),
            "a sector is whole"
        );
        sector[0]
    });
    sectors.collect()
}

/// A write of one sector to `sector` is held; then it is released, or the client goes. The client, and whether the write was stored.
fn hold(bench: &Bench, mut client: Client, sector: u64, byte: u8, release: bool) -> (Client, bool) {
    let of = |what: &What| match what {
        What::Arrived(arrived) if arrived.ranges.first() == Some(&range(sector, 1)) => {
            Some(arrived.request)
        }
        _ => None,
    };
    let before = bench.events.all();
    let before = before.iter().filter(|e| of(&e.what).is_some()).count();
    submit_write(&mut client, sector, 4096, byte, 7);
    let arrived = bench
        .events
        .wait_count("the write", before + 1, |what| of(what).is_some());
    let request = of(&arrived[before].what).unwrap();
    let held = |what: &What| matches!(what, What::Decided(d) if d.request == request && d.action == Action::Hold);
    bench.events.wait("the hold", held);
    if release {
        let rule = if sector == HELD { "held" } else { "late" };
        bench.device().faults().release(Some(rule)).unwrap();
        assert_eq!(order(&mut client, 1), [7]);
        return (client, true);
    }
    drop(client);
    let ended = |what: &What| match what {
        What::Completed(completed) => completed.request == request,
        What::Abandoned(abandoned) => abandoned.request == request,
        _ => false,
    };
    let ended = bench.events.wait("the end of the write", ended);
    let stored = match &ended.what {
        What::Abandoned(abandoned) => abandoned.applied,
        _ => true,
    };
    if sector == HELD {
        assert!(stored, "it was stored at its arrival");
    }
    (Client::connect(bench, "a", 1, ALL), stored)
}

fn disconnect(bench: &Bench, mut client: Client) -> Client {
    let path = bench.socket("a");
    let before = socket_at(&path);
    submit_write(&mut client, DROPS, 4096, 1, 7);
    await_another(&path, before);
    drop(client);
    Client::connect(bench, "a", 1, ALL)
}

fn die(bench: &Bench, client: &mut Client) {
    assert_eq!(client.write(DIES * 512, &[1; 512]), EIO);
    assert_eq!(client.write(0, &[1; 512]), EIO);
    assert_eq!(client.read(0, 512).unwrap_err(), EIO);
    let heal = |leg, rule| bench.device().faults().heal(Some(leg), Some(rule)).unwrap();
    heal("b", "dies");
    heal("a", "held");
    assert_eq!(
        client.read(0, 512).unwrap_err(),
        EIO,
        "another leg, another rule"
    );
    heal("a", "dies");
}

fn cut(bench: &Bench, client: Client, boot: u32) -> Client {
    bench.device().faults().cut();
    drop(client);
    bench.device().new_boot(boot);
    Client::connect(bench, "a", 1, ALL)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 200, ..ProptestConfig::default() })]
    #[test]
    fn a_leg_agrees_with_a_naive_model(steps in steps(), seed in any::<u64>()) {
        let legs = [mib("a"), mib("b")];
        let rules = format!(
            "[[fault]]\nlegs = [\"a\"]\non = [\"write\"]\nsectors = \"{LOSES}+{}\"\ndo = \"lose\"\n\
             [[fault]]\nlegs = [\"a\"]\non = [\"write\"]\nsectors = \"{CORRUPTS}+{}\"\ndo = {{ corrupt = {{ fill = {FIVES} }} }}\n\
             [[fault]]\nlegs = [\"a\"]\non = [\"flush\"]\nevery = {LYING_FLUSH}\ndo = \"flush-lie\"\n\
             [[fault]]\nname = \"held\"\nlegs = [\"a\"]\non = [\"write\"]\nsectors = \"{HELD}+1\"\ndo = {{ hold = {{}} }}\n\
             [[fault]]\nname = \"late\"\nlegs = [\"a\"]\non = [\"write\"]\nsectors = \"{LATE}+1\"\nstage = \"before-store\"\ndo = {{ hold = {{}} }}\n\
             [[fault]]\nlegs = [\"a\"]\non = [\"write\"]\nsectors = \"{DROPS}+1\"\ndo = {{ disconnect = {{ ms = 1 }} }}\n\
             [[fault]]\nname = \"dies\"\nlegs = [\"a\", \"b\"]\non = [\"write\"]\nsectors = \"{DIES}+1\"\ndo = \"dead\"\n\
             [[fault]]\nlegs = [\"b\"]\nmay_not_fire = true\ndo = \"power-cut\"\n",
            CORRUPTS - LOSES, SECTORS - CORRUPTS,
        );
        let options = Options { seed, rules: rules_of(&rules, &legs).unwrap(), ..Options::default() };
        let bench = Bench::with(&legs, &options);
        bench.device().new_boot(1);
        let (mut boot, mut flushes) = (1, 0);
        let mut client = Client::connect(&bench, "a", 1, ALL);
        let mut model = vec![Model::default(); ALL_SECTORS as usize];
        for step in steps {
            let of = |s: u64, n: u64| s as usize..(s + n).min(SECTORS) as usize;
            match step {
                Step::Write(s, n, byte) => {
                    let part = of(s, n);
                    prop_assert_eq!(client.write(s * 512, &vec![byte; part.len() * 512]), 0);
                    // A rule hits the whole request that touches its sectors.
                    let loses = part.clone().any(|at| (LOSES..CORRUPTS).contains(&(at as u64)));
                    let corrupts = part.clone().any(|at| at as u64 >= CORRUPTS);
                    for sector in &mut model[part] {
                        let was = sector.returned();
                        sector.put(byte);
                        sector.lie = if corrupts { Some(("corrupt", FIVES)) } else { loses.then_some(("lose", was)) };
                    }
                }
                Step::Discard(s, n) => {
                    let part = of(s, n);
                    client.queues[0].discard(s * 512, part.len() as u64 * 512, 5).unwrap();
                    prop_assert_eq!(client.one(0, "a discard"), 0);
                    for sector in &mut model[part] {
                        sector.put(0);
                        sector.lie = None;
                    }
                }
                Step::Flush => {
                    client.queues[0].flush(6).unwrap();
                    prop_assert_eq!(client.one(0, "a flush"), 0);
                    flushes += 1;
                    if flushes % LYING_FLUSH != 0 {
                        model.iter_mut().for_each(|sector| sector.since_flush.clear());
                    }
                }
                Step::Heal(rule) => {
                    let heals = |sector: &Model| sector.lie.is_some_and(|(by, _)| rule.is_none_or(|rule| rule == by));
                    let lies = model.iter().filter(|sector| heals(sector)).count() as u64;
                    prop_assert_eq!(bench.device().faults().heal(Some("a"), rule).unwrap(), lies);
                    for sector in &mut model {
                        if heals(sector) {
                            sector.lie = None;
                        }
                    }
                }
                Step::Stop => {
                    drop(client);
                    client = Client::connect(&bench, "a", 1, ALL);
                }
                Step::Disconnect => client = disconnect(&bench, client),
                Step::Die => die(&bench, &mut client),
                Step::Hold(sector, byte, release) => {
                    let stored;
                    (client, stored) = hold(&bench, client, sector, byte, release);
                    if stored {
                        let sector = &mut model[sector as usize];
                        sector.put(byte);
                        sector.lie = None;
                    }
                }
                Step::Cut => {
                    boot += 1;
                    client = cut(&bench, client, boot);
                    let now = area(&mut client);
                    for (at, sector) in model.iter_mut().enumerate() {
                        // What was lost is what an honest disk has then; a lie about it is over.
                        let honest = honest(&bench, at as u64)[0];
                        let kept = honest == sector.honest && now[at] == sector.returned();
                        let lost = sector.since_flush.contains(&honest) && now[at] == honest;
                        prop_assert!(kept || lost, "sector {}: {} of {:?}", at, now[at], sector.since_flush);
                        *sector = Model { honest, ..Model::default() };
                    }
                    // Which lies are left can't be seen where they say what is true: all are lifted.
                    bench.device().faults().heal(Some("a"), None).unwrap();
                    model.iter_mut().for_each(|sector| sector.lie = None);
                }
            }
            let read = area(&mut client);
            let expected: Vec<u8> = model.iter().map(Model::returned).collect();
            prop_assert_eq!(read, expected);
        }
        drop(client);
        bench.stop();
    }
}
