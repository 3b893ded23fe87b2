//! Which requests a rule hits, and what a budget withholds.

use super::*;

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
fn sectors_of_the_array_are_known_from_the_superblock_before_on() {
    // 1.0: at the end, and the array's sector 0 is the leg's.
    let end = (16 << 20) / 512 - 16;
    for (at, data) in [(8, 2048), (0, 1024), (end, 0)] {
        let (bench, mut client) = start(
            "[[fault]]\nlegs = [\"a\"]\non = [\"read\"]\narray = \"3+2\"\ndo = { fail = \"io-error\" }\n",
        );
        assert_eq!(client.read((data + 3) * 512, 512).unwrap(), [0; 512]);
        let block = superblock(at, data, 8192);
        assert_eq!(client.write(at * 512, &block), 0);
        for (sector, hit) in [(2, false), (3, true), (4, true), (5, false)] {
            let got = client.read((data + sector) * 512, 512);
            assert_eq!(
                got.is_err(),
                hit,
                "superblock at {at}, array sector {sector}"
            );
        }
        assert_eq!(client.write(at * 512, &[0; 4096]), 0);
        assert!(client.read((data + 3) * 512, 512).is_ok(), "no superblock");
        assert_eq!(super::end(bench, client).len(), 2);
    }
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
fn a_rule_can_look_at_what_is_in_flight_on_another_leg() {
    let bench = bench(
        "[[fault]]\nname = \"held\"\nlegs = [\"a\"]\non = [\"write\"]\ndo = { hold = { until_mark = \"go\" } }\n\
         [[fault]]\nlegs = [\"b\"]\non = [\"read\"]\nbeside = { leg = \"a\", in_flight = 2 }\ndo = { fail = \"io-error\" }\n",
    );
    let mut a = Client::connect(&bench, "a", 1, ALL);
    let mut b = Client::connect(&bench, "b", 1, ALL);
    assert_eq!(b.read(0, 512).unwrap(), [0; 512]);
    let held = |what: &What| matches!(what, What::Decided(d) if d.action == Action::Hold);
    submit_write(&mut a, 0, 0, 1, 1);
    bench.events.wait_count("the first", 1, held);
    assert_eq!(b.read(0, 512).unwrap(), [0; 512], "one is not enough");
    submit_write(&mut a, 9, 4096, 1, 2);
    bench.events.wait_count("the second", 2, held);
    assert_eq!(b.read(0, 512).unwrap_err(), EIO);
    bench.device().faults().mark("go");
    order(&mut a, 2);
    assert_eq!(b.read(0, 512).unwrap(), [0; 512]);
    drop((a, b));
    bench.stop();
}

#[test]
fn a_twin_that_failed_is_none() {
    let legs = ["a", "b"].map(|name| {
        let mut leg = mib(name);
        leg.data = SectorRange::new(Sector(0), 1024);
        leg
    });
    let rules = rules_of(
        "[[fault]]\nlegs = [\"a\"]\non = [\"write\"]\nnth = 1\ndo = { fail = \"io-error\" }\n\
         [[fault]]\nlegs = [\"b\"]\non = [\"write\"]\ntwin = { leg = \"a\", is = \"absent\" }\ndo = { fail = \"unsupported\" }\n",
        &legs,
    );
    let options = Options {
        rules: rules.unwrap(),
        ..Options::default()
    };
    let bench = Bench::with(&legs, &options);
    let mut a = Client::connect(&bench, "a", 1, ALL);
    let mut b = Client::connect(&bench, "b", 1, ALL);
    assert_eq!(a.write(0, &[1; 512]), EIO);
    assert_eq!(b.write(0, &[1; 512]), ENOTSUP, "a does not have it");
    assert_eq!(a.write(0, &[1; 512]), 0, "the guest tries again");
    assert_eq!(b.write(0, &[1; 512]), 0, "now it has");
    drop((a, b));
    bench.stop();
}
