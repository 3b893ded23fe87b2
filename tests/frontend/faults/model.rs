//! A leg under random writes, flushes, discards, faults, heals and cuts, against a model that is too simple to be wrong.

use super::*;
use proptest::prelude::*;

/// Sectors that are written; those from `LOSES` on lose every write, from `CORRUPTS` on every write is stored as fives.
const SECTORS: u64 = 24;
const LOSES: u64 = 12;
const CORRUPTS: u64 = 18;
const FIVES: u8 = 0x55;

#[derive(Clone, Copy, Debug)]
enum Step {
    Write(u64, u64, u8),
    Discard(u64, u64),
    Flush,
    Heal,
    Cut,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let at = || (0..SECTORS, 1..6u64);
    let step = prop_oneof![
        8 => (at(), 1..=255u8).prop_map(|((s, n), b)| Step::Write(s, n, b)),
        2 => at().prop_map(|(s, n)| Step::Discard(s, n)),
        2 => Just(Step::Flush),
        1 => Just(Step::Heal),
        1 => Just(Step::Cut),
    ];
    prop::collection::vec(step, 1..50)
}

/// What a sector holds, what it returns, and all that it held since the last flush.
#[derive(Clone, Default)]
struct Model {
    honest: u8,
    lie: Option<u8>,
    since_flush: Vec<u8>,
}

impl Model {
    fn put(&mut self, byte: u8) {
        self.since_flush.push(self.honest);
        self.honest = byte;
    }

    fn returned(&self) -> u8 {
        self.lie.unwrap_or(self.honest)
    }
}

/// The whole area, a byte a sector.
fn area(client: &mut Client) -> Vec<u8> {
    let read = client.read(0, SECTORS as usize * 512).unwrap();
    let sectors = read.chunks(512).map(|sector| {
        assert!(
            sector.iter().all(|byte| *byte == sector[0]),
            "a sector is whole"
        );
        sector[0]
    });
    sectors.collect()
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
             [[fault]]\nlegs = [\"b\"]\nmay_not_fire = true\ndo = \"power-cut\"\n",
            CORRUPTS - LOSES, SECTORS - CORRUPTS,
        );
        let options = Options { seed, rules: rules_of(&rules, &legs).unwrap(), ..Options::default() };
        let bench = Bench::with(&legs, &options);
        bench.device().new_boot(1);
        let mut boot = 1;
        let mut client = Client::connect(&bench, "a", 1, ALL);
        let mut model = vec![Model::default(); SECTORS as usize];
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
                        sector.lie = if corrupts { Some(FIVES) } else { loses.then_some(was) };
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
                    model.iter_mut().for_each(|sector| sector.since_flush.clear());
                }
                Step::Heal => {
                    let lies = model.iter().filter(|sector| sector.lie.is_some()).count() as u64;
                    prop_assert_eq!(bench.device().faults().heal(Some("a"), None).unwrap(), lies);
                    model.iter_mut().for_each(|sector| sector.lie = None);
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
