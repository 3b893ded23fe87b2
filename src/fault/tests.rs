use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::block::{LegId, Operation, RequestId, Sector, SectorRange, Status};
use crate::config::LegConfig;
use crate::event::Action;

fn rule(action: Do) -> Rule {
    let mut rule: Rule = serde_json::from_value(serde_json::json!({ "do": "lose" })).unwrap();
    rule.action = action;
    rule
}

fn named(name: &str, action: Do) -> Rule {
    Rule {
        name: name.into(),
        ..rule(action)
    }
}

fn leg_rules(leg: u8, seed: u64, rules: &[Rule]) -> LegRules {
    let legs = ["a".to_owned(), "b".to_owned()];
    let names: Vec<String> = rules.iter().map(|rule| rule.name.clone()).collect();
    let mut all = LegRules::new(&LegConfig::memory("a", 1 << 20), LegId(leg), seed);
    for (number, rule) in (0..).zip(rules) {
        all.add(number, rule, &legs, &names);
    }
    all
}

fn ask(rules: &mut LegRules, leg: u8, number: u64, operation: Operation) -> Decision {
    let range = SectorRange::new(Sector(8), 16).unwrap();
    let seen = Seen {
        request: RequestId {
            leg: LegId(leg),
            number,
        },
        operation,
        ranges: &[range],
        in_flight: 1,
        sectors: 2048,
        digest: None,
    };
    rules.decide(&seen, &Nothing)
}

#[test]
fn a_legs_own_delays_add_up_and_are_recorded() {
    let mut config = LegConfig::memory("a", 512);
    assert!(LegRules::new(&config, LegId(0), 0).is_empty());
    config.delay_ms = 5;
    config.write_delay_ms = 7;
    config.late_fetch = true;
    let mut rules = LegRules::new(&config, LegId(0), 0);
    let read = ask(&mut rules, 0, 1, Operation::Read);
    assert_eq!(read.delay, Duration::from_millis(5));
    assert_eq!(read.decided.len(), 1);
    let write = ask(&mut rules, 0, 2, Operation::Write);
    assert_eq!(write.delay, Duration::from_millis(12));
    assert!(write.late_fetch);
    assert_eq!(
        write.decided.iter().map(|d| d.rule).collect::<Vec<_>>(),
        [LEG_DELAY, LEG_WRITE_DELAY, LEG_LATE_FETCH]
    );
}

#[test]
fn counts_are_of_matches() {
    let fail = || Do::Fail(Answer::IoError);
    let with = |change: fn(&mut Rule)| {
        let mut one = named("x", fail());
        change(&mut one);
        let mut rules = leg_rules(0, 1, &[one]);
        (1..=8)
            .filter(|number| {
                let operation = if number % 2 == 0 {
                    Operation::Write
                } else {
                    Operation::Read
                };
                ask(&mut rules, 0, *number, operation).fail.is_some()
            })
            .collect::<Vec<u64>>()
    };
    assert_eq!(with(|_| {}), [1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!(with(|r| r.nth = Some(3)), [3]);
    assert_eq!(with(|r| r.every = Some(3)), [3, 6]);
    assert_eq!(with(|r| r.at_most = Some(2)), [1, 2]);
    assert_eq!(with(|r| r.on = vec![Op::Write]), [2, 4, 6, 8]);
    assert_eq!(
        with(|r| {
            r.on = vec![Op::Write];
            r.nth = Some(2);
        }),
        [4]
    );
    assert_eq!(
        with(|r| {
            r.from_request = Some(3);
            r.to_request = Some(4);
        }),
        [3, 4]
    );
    assert_eq!(with(|r| r.depth = Some(2)), [0u64; 0]);
    assert_eq!(with(|r| r.sectors = "24+1".parse().ok()), [0u64; 0]);
    assert_eq!(with(|r| r.sectors = "23+9".parse().ok()).len(), 8);
    assert_eq!(with(|r| r.legs = vec!["b".into()]), [0u64; 0]);
    assert_eq!(with(|r| r.boots = vec![2]), [0u64; 0]);
    assert_eq!(with(|r| r.from_mark = Some("m".into())), [0u64; 0]);
}

/// A world of one boot, one time, one mark, one step.
struct Around1 {
    boot: u32,
    ms: u64,
    mark: &'static str,
    step: &'static str,
}

impl Around for Around1 {
    fn boot(&self) -> u32 {
        self.boot
    }
    fn elapsed_ms(&self) -> u64 {
        self.ms
    }
    fn marked(&self, mark: &str) -> bool {
        mark == self.mark
    }
    fn runs(&self, step: &str) -> bool {
        step == self.step
    }
    fn fired(&self, _rule: u16) -> u64 {
        0
    }
    fn releases(&self, _rule: u16) -> u64 {
        0
    }
    fn fire(&self, _rule: u16) {}
    fn of_array(&self, _leg: LegId, _array: SectorRange) -> Option<SectorRange> {
        None
    }
    fn in_flight(&self, _leg: LegId) -> u64 {
        0
    }
    fn sectors(&self, leg: LegId) -> Option<u64> {
        (leg == LegId(1)).then_some(64)
    }
    fn twin(
        &self,
        _leg: LegId,
        _range: SectorRange,
        _digest: u32,
        _other: LegId,
    ) -> Option<TwinIs> {
        None
    }
    fn may_damage(&self, _leg: LegId, _ranges: &[SectorRange]) -> bool {
        true
    }
}

#[test]
fn boots_times_marks_and_steps_are_those_of_now() {
    let now = Around1 {
        boot: 2,
        ms: 50,
        mark: "m",
        step: "s",
    };
    let some = |word: &str| Some(word.to_owned());
    let with = |change: &dyn Fn(&mut Rule)| {
        let mut one = named("x", Do::Fail(Answer::IoError));
        change(&mut one);
        let range = SectorRange::new(Sector(8), 16).unwrap();
        let seen = Seen {
            request: RequestId {
                leg: LegId(0),
                number: 1,
            },
            operation: Operation::Write,
            ranges: &[range],
            in_flight: 3,
            sectors: 2048,
            digest: None,
        };
        let decision = leg_rules(0, 1, &[one]).decide(&seen, &now);
        decision.fail.is_some()
    };
    assert!(with(&|r| r.boots = vec![1, 2]) && !with(&|r| r.boots = vec![1, 3]));
    assert!(with(&|r| r.from_ms = Some(50)) && !with(&|r| r.from_ms = Some(51)));
    assert!(with(&|r| r.to_ms = Some(50)) && !with(&|r| r.to_ms = Some(49)));
    assert!(with(&|r| r.from_mark = some("m")) && !with(&|r| r.from_mark = some("n")));
    assert!(with(&|r| r.to_mark = some("n")) && !with(&|r| r.to_mark = some("m")));
    assert!(with(&|r| r.during = some("s")) && !with(&|r| r.during = some("t")));
    assert!(with(&|r| r.depth = Some(3)) && !with(&|r| r.depth = Some(4)));
}

#[test]
fn a_request_is_misdirected_to_another_place_within_the_other_leg() {
    let now = Around1 {
        boot: 1,
        ms: 0,
        mark: "",
        step: "",
    };
    let place = |start: u64, to_sector, to_leg: Option<&str>| {
        let to = Misdirect {
            to_sector,
            to_leg: to_leg.map(str::to_owned),
        };
        let range = SectorRange::new(Sector(start), 16).unwrap();
        let seen = Seen {
            request: RequestId {
                leg: LegId(0),
                number: 1,
            },
            operation: Operation::Write,
            ranges: &[range],
            in_flight: 1,
            sectors: 2048,
            digest: None,
        };
        let mut rules = leg_rules(0, 1, &[named("m", Do::Misdirect(to))]);
        let decision = rules.decide(&seen, &now);
        let (_, leg, there) = decision.misdirect?;
        Some((leg.0, there.start().0))
    };
    assert_eq!(place(8, Some(100), None), Some((0, 100)));
    assert_eq!(place(8, Some(5000), None), Some((0, 2032)), "to the end");
    assert_eq!(place(8, None, Some("b")), Some((1, 8)));
    assert_eq!(place(500, None, Some("b")), Some((1, 48)), "b is small");
    assert_eq!(place(8, Some(8), None), None, "its own place");
    assert_eq!(place(2032, Some(5000), None), None, "its own place");
    assert_eq!(place(8, Some(8), Some("a")), None, "its own place");
}

#[test]
fn a_read_that_makes_a_leg_read_only_is_answered() {
    let mut rules = leg_rules(0, 1, &[named("ro", Do::ReadOnly)]);
    let read = ask(&mut rules, 0, 1, Operation::Read);
    assert_eq!(read.fail, None);
    assert_eq!(read.decided[0].action, Action::ReadOnly);
    assert!(ask(&mut rules, 0, 2, Operation::Write).fail.is_some());
    assert_eq!(ask(&mut rules, 0, 3, Operation::Read).fail, None);
    let mut rules = leg_rules(0, 1, &[named("ro", Do::ReadOnly)]);
    assert!(ask(&mut rules, 0, 1, Operation::Write).fail.is_some());
}

#[test]
fn the_dead_stay_dead_until_they_are_healed() {
    let mut dead = named("dead", Do::Dead);
    dead.nth = Some(2);
    let mut rules = leg_rules(0, 1, &[dead]);
    let fails =
        |rules: &mut LegRules, number| ask(rules, 0, number, Operation::Read).fail.is_some();
    assert!(!fails(&mut rules, 1));
    assert!(fails(&mut rules, 2));
    assert!(fails(&mut rules, 3));
    rules.heal(Some(1));
    assert!(fails(&mut rules, 3), "another rule's");
    rules.heal(Some(0));
    assert!(!fails(&mut rules, 4));
    let mut rules = leg_rules(0, 1, &[named("dies", Do::Dead)]);
    assert!(fails(&mut rules, 1), "the request that it hit");
    rules.keep_only(&[]);
    assert!(rules.is_empty());
}

#[test]
fn a_tear_loses_what_it_says() {
    for (keep, sectors, expected) in [
        (Part::Prefix, Some(3), vec!["11+13"]),
        (Part::Suffix, Some(3), vec!["8+13"]),
        (Part::Prefix, None, vec!["16+8"]),
    ] {
        let tear = Do::Tear(Tear {
            keep,
            sectors,
            answer: Answer::Ok,
        });
        let decision = ask(
            &mut leg_rules(0, 1, &[named("t", tear)]),
            0,
            1,
            Operation::Write,
        );
        let Action::Tear { lost, status } = &decision.decided[0].action else {
            panic!("{decision:?}")
        };
        assert_eq!(*status, Status::Ok);
        let lost: Vec<String> = lost.iter().map(ToString::to_string).collect();
        assert_eq!(lost, expected);
    }
}

#[test]
fn a_delay_with_a_tail_has_that_tail() {
    let tail = named(
        "tail",
        Do::Delay(Delay {
            ms: 10,
            to_ms: None,
            p99_ms: Some(200),
        }),
    );
    let mut rules = leg_rules(0, 7, &[tail]);
    let mut all: Vec<u128> = (1..=4000)
        .map(|number| {
            ask(&mut rules, 0, number, Operation::Write)
                .delay
                .as_millis()
        })
        .collect();
    all.sort_unstable();
    assert!((9..=11).contains(&all[2000]), "median {}", all[2000]);
    assert!((140..=280).contains(&all[3960]), "p99 {}", all[3960]);
}

#[test]
fn what_makes_no_sense_is_refused_in_words() {
    let legs = [
        LegConfig::memory("a", 1 << 20),
        LegConfig::memory("b", 1 << 20),
    ];
    let check = |text: &str| crate::scenario::rules_of(text, &legs).unwrap_err();
    let past = "[[fault]]\nsectors = \"2048+8\"\ndo = \"lose\"\n";
    assert!(check(past).contains("past the end of every leg"));
    let grows = "[[fault]]\nlegs = [\"b\"]\ndo = { resize = { sectors = 4096 } }\n";
    crate::scenario::rules_of(&format!("{past}{grows}"), &legs).unwrap();
    for (text, expected) in [
        ("do = \"explode\"", "line 2, column 6: unknown variant"),
        ("do = \"tear\"", "line 2, column 6: it can't stand alone"),
        (
            "legs = [\"c\"]\ndo = \"lose\"",
            "line 1: fault `lose`: unknown leg `c`; the legs are a, b",
        ),
        ("colour = 1\ndo = \"lose\"", "unknown field `colour`"),
        (
            "on = [\"read\"]\ndo = \"lose\"",
            "lose does nothing to a read, only to write, discard, write-zeroes",
        ),
        ("nth = 0\ndo = \"lose\"", "nth = 0: it can inject nothing"),
        ("nth = 2\nevery = 2\ndo = \"lose\"", "contradicts"),
        ("probability = 1.5\ndo = \"lose\"", "probability = 1.5"),
        ("sectors = \"5\"\ndo = \"lose\"", "write START+COUNT"),
        (
            "sectors = \"9999+1\"\ndo = \"lose\"",
            "past the end of every leg",
        ),
        (
            "on = [\"flush\"]\nsectors = \"0+8\"\ndo = \"dead\"",
            "a flush has no sectors",
        ),
        (
            "from_request = 9\nto_request = 3\ndo = \"lose\"",
            "3 is before 9",
        ),
        (
            "after = { rule = \"x\" }\ndo = \"lose\"",
            "there is no rule `x`",
        ),
        (
            "name = \"x\"\nafter = { rule = \"x\" }\ndo = \"lose\"",
            "which waits for it",
        ),
        (
            "legs = [\"a\"]\ntwin = { leg = \"a\", is = \"absent\" }\ndo = \"lose\"",
            "its own leg",
        ),
        (
            "legs = [\"a\"]\ntwin = { leg = \"a\", is = \"absent\" }\ndo = \"lose\"",
            "name another",
        ),
        (
            "on = [\"read\"]\ntwin = { leg = \"b\", is = \"absent\" }\ndo = { delay = { ms = 9 } }",
            "only writes have twins",
        ),
        ("do = { fail = \"ok\" }", "no failure"),
        ("do = { delay = { ms = 0 } }", "it can inject nothing"),
        ("do = { delay = { ms = 9, to_ms = 3 } }", "from 9 to 3"),
        (
            "do = { corrupt = { fill = 1, random = true } }",
            "exactly one",
        ),
        ("do = { corrupt = {} }", "exactly one"),
        ("do = { misdirect = {} }", "to where"),
        ("do = { stale = {} }", "sectors = \"START+COUNT\""),
        ("do = \"lose\"\nstage = \"before-answer\"", "no such stage"),
        (
            "from_mark = \"m\"\nto_mark = \"m\"\ndo = \"lose\"",
            "are the same",
        ),
        (
            "array = \"2048+8\"\ndo = \"lose\"",
            "array sectors 2048+8 are past the end of every leg",
        ),
        (
            "do = { misdirect = { to_sector = 2048 } }",
            "to_sector = 2048 is past the end",
        ),
        (
            "legs = [\"a\"]\ndo = { misdirect = { to_leg = \"b\", to_sector = 2048 } }",
            "to_sector = 2048 is past the end",
        ),
        (
            "do = { corrupt = { from_sector = 2048 } }",
            "from_sector = 2048 is past the end",
        ),
        ("do = { hold = { at_most_ms = 0 } }", "at most 0 ms"),
        (
            "do = { reorder = { behind = 1, at_most_ms = 0 } }",
            "at_most_ms = 0",
        ),
        ("depth = 0\ndo = \"dead\"", "depth = 0 is no condition"),
        (
            "nth = 9\nfrom_request = 3\nto_request = 10\ndo = \"dead\"",
            "nth = 9, and requests 3 to 10 are 8: it can inject nothing",
        ),
        (
            "every = 6\nto_request = 5\ndo = \"dead\"",
            "every = 6, and requests 1 to 5 are 5",
        ),
        (
            "after = { rule = \"x\", times = 3 }\ndo = \"dead\"\n[[fault]]\nname = \"x\"\nnth = 7\ndo = \"lose\"",
            "after: `x` fires 2 times at most, never 3",
        ),
        (
            "after = { rule = \"x\", times = 5 }\ndo = \"dead\"\n[[fault]]\nname = \"x\"\nlegs = [\"a\"]\nat_most = 4\ndo = \"lose\"",
            "after: `x` fires 4 times at most, never 5",
        ),
        (
            "boots = [1]\nafter = { rule = \"x\" }\ndo = \"dead\"\n[[fault]]\nname = \"x\"\nboots = [2]\ndo = \"lose\"",
            "after: `x` fires in boot 2 at the earliest, and this rule is over with boot 1",
        ),
        (
            "legs = []\ndo = \"lose\"",
            "line 2, column 8: an empty list",
        ),
        ("do = \"lose\"\non = []", "line 3, column 6: an empty list"),
        ("do = \"lose\"\nboots = []", "an empty list"),
        (
            "legs = [\"a\", \"a\"]\ndo = \"lose\"",
            "legs names `a` twice",
        ),
        (
            "depth = 131073\ndo = \"lose\"",
            "depth = 131073, and the queues have room for 131072 at most",
        ),
        (
            "legs = [\"a\"]\nbeside = { leg = \"b\", in_flight = 999999 }\ndo = \"lose\"",
            "beside.in_flight = 999999, and the queues have room",
        ),
        ("do = { corrupt = { flip_bits = 4097 } }", "use 1 to 4096"),
        (
            "sectors = \"0+1\"\ndo = { misdirect = { to_sector = 0 } }",
            "misdirected to its own place",
        ),
        (
            "legs = [\"a\"]\ndo = { misdirect = { to_leg = \"a\" } }",
            "misdirected to its own place",
        ),
        (
            "from_mark = \"m\"\ndo = { hold = { until_mark = \"m\" } }",
            "`m` is set before the rule begins",
        ),
        (
            "do = { hold = { until_rule = \"nobody\" } }",
            "until_rule: there is no rule `nobody`",
        ),
        (
            "name = \"x\"\nlegs = [\"a\"]\nnth = 2\ndo = { hold = { until_rule = \"x\" } }",
            "`x` fires once",
        ),
    ] {
        let text = format!("[[fault]]\n{text}\n");
        let message = check(&text).replace("`own` leg", "own leg");
        let fits = message.contains(expected)
            || message.contains(&expected.replace("its own", "the rule's own"));
        assert!(fits, "{expected:?} is not in {message:?}");
    }
    let two =
        "[[fault]]\ndo = \"lose\"\n\n[[fault]]\nname = \"bad\"\nlegs = [\"z\"]\ndo = \"dead\"\n";
    assert!(
        check(two).starts_with("line 4: fault `bad`"),
        "{}",
        check(two)
    );
}

#[test]
fn what_no_leg_takes_is_refused() {
    let mut a = LegConfig::memory("a", 1 << 20);
    let b = LegConfig::memory("b", 1 << 20);
    a.write_cache = false;
    a.discard = false;
    a.write_zeroes = false;
    let legs = [a.clone(), b];
    let on = |legs: &[LegConfig], text: &str| {
        crate::scenario::rules_of(&format!("[[fault]]\n{text}\n"), legs)
    };
    for text in [
        "legs = [\"a\"]\ndo = \"flush-lie\"",
        "legs = [\"a\"]\non = [\"flush\", \"discard\"]\ndo = \"dead\"",
        "legs = [\"a\"]\non = [\"write-zeroes\"]\ndo = \"lose\"",
    ] {
        let why = on(&legs, text).unwrap_err();
        assert!(
            why.starts_with("line 1: ") && why.contains("no leg of the rule takes"),
            "{why}"
        );
        // Another leg takes it.
        on(&legs, &text.replace("legs = [\"a\"]", "")).unwrap();
    }
    a.read_only = true;
    let why = on(&[a.clone()], "do = { tear = { keep = \"prefix\" } }").unwrap_err();
    assert!(
        why.contains("no leg of the rule takes a write (its"),
        "{why}"
    );
    on(&[a], "do = \"dead\"").unwrap();
}

fn chancy() -> impl Strategy<Value = Rule> {
    let actions = prop_oneof![
        Just(Do::Lose),
        Just(Do::Fail(Answer::IoError)),
        Just(Do::Tear(Tear {
            keep: Part::Random,
            sectors: None,
            answer: Answer::Ok
        })),
        Just(Do::Delay(Delay {
            ms: 1,
            to_ms: Some(900),
            p99_ms: None
        })),
        Just(Do::Corrupt(Corrupt {
            flip_bits: Some(3),
            ..Corrupt::default()
        })),
    ];
    (
        actions,
        prop::option::of((1u32..=20).prop_map(|n| f64::from(n) / 20.0)),
        "[a-e]{1,4}",
    )
        .prop_map(|(action, probability, name)| Rule {
            name,
            probability,
            ..rule(action)
        })
}

/// What one rule decided about each request, whatever the others did.
fn decisions(
    rules: &mut LegRules,
    leg: u8,
    numbers: &[u64],
    names: &[String],
    of: &str,
) -> Vec<(u64, Action)> {
    let mut out = Vec::new();
    for number in numbers {
        let decision = ask(rules, leg, *number, Operation::Write);
        out.extend(
            decision
                .decided
                .into_iter()
                .filter(|d| names[usize::from(d.rule)] == of)
                .map(|d| (*number, d.action)),
        );
    }
    out.sort_by_key(|(number, _)| *number);
    out
}

proptest! {
    #[test]
    fn a_decision_depends_on_seed_leg_rule_and_number_alone(
        seed in any::<u64>(),
        leg in 0u8..2,
        mine in chancy(),
        others in prop::collection::vec(chancy(), 0..4),
        at in 0usize..5,
        turn in 0usize..40,
    ) {
        let others: Vec<Rule> = others.into_iter().filter(|other| other.name != mine.name).collect();
        let mut numbers: Vec<u64> = (1..=40).collect();
        let names = |rules: &[Rule]| rules.iter().map(|r| r.name.clone()).collect::<Vec<_>>();
        let alone = [mine.clone()];
        let expected = decisions(&mut leg_rules(leg, seed, &alone), leg, &numbers, &names(&alone), &mine.name);
        // Among others, in another place, asked in another order: the same.
        let mut all = others;
        all.insert(at.min(all.len()), mine.clone());
        numbers.rotate_left(turn);
        let got = decisions(&mut leg_rules(leg, seed, &all), leg, &numbers, &names(&all), &mine.name);
        prop_assert_eq!(expected, got);
    }

    #[test]
    fn a_rule_reads_back_as_it_was_written(mine in chancy()) {
        let text = serde_json::to_string(&mine).unwrap();
        prop_assert_eq!(serde_json::from_str::<Rule>(&text).unwrap(), mine);
    }

    #[test]
    fn flipped_bits_are_as_many_as_asked(seed in any::<u64>(), bits in 1u32..40) {
        let mut bytes = vec![0u8; 1024];
        let corrupt = Corrupt { flip_bits: Some(bits), ..Corrupt::default() };
        damage(&corrupt, crate::stamp::SplitMix64(seed), &mut bytes);
        prop_assert_eq!(bytes.iter().map(|b| b.count_ones()).sum::<u32>(), bits);
    }
}
