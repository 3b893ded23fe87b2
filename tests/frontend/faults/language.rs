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

const ON_ARRAY: &str =
    "[[fault]]\nlegs = [\"a\"]\non = [\"read\"]\narray = \"3+2\"\ndo = { fail = \"io-error\" }\n";

/// Whether a read of array sector 3 meets the rule, with the array's data at `data`.
fn meets(client: &mut Client, data: u64) -> bool {
    client.read((data + 3) * 512, 512).is_err()
}

#[test]
fn the_array_follows_what_the_medium_holds() {
    let (bench, mut client) = start(&format!(
        "{ON_ARRAY}[[fault]]\non = [\"write\"]\nsectors = \"0+24\"\nnth = 3\ndo = {{ tear = {{ keep = \"suffix\", sectors = 8, answer = \"io-error\" }} }}\n\
         [[fault]]\non = [\"write\"]\nsectors = \"0+24\"\nnth = 4\ndo = \"lose\"\n"
    ));
    let block = superblock(8, 2048, 8192);
    assert_eq!(client.write(8 * 512, &block), 0);
    assert!(meets(&mut client, 2048));
    // Discarded.
    client.queues[0].discard(4096, 4096, 5).unwrap();
    assert_eq!(client.one(0, "the discard"), 0);
    assert!(!meets(&mut client, 2048), "discarded");
    assert_eq!(client.write(8 * 512, &block), 0);
    assert!(meets(&mut client, 2048));
    client.queues[0].write_zeroes(4096, 4096, false, 6).unwrap();
    assert_eq!(client.one(0, "the zeroes"), 0);
    assert!(!meets(&mut client, 2048), "zeroed");
    // Torn and not acknowledged: the superblock's part of it was stored.
    let mut torn = vec![0; 4096];
    torn.extend(&block);
    assert_eq!(client.write(0, &torn), EIO);
    assert!(meets(&mut client, 2048), "torn");
    // Lost: the leg honestly holds it, so it counts.
    assert_eq!(client.write(8 * 512, &superblock(8, 1024, 8192)), 0);
    assert!(
        meets(&mut client, 1024) && !meets(&mut client, 2048),
        "lost"
    );
    drop(client);
    bench.stop();
}

#[test]
fn a_superblock_counts_when_it_is_stored() {
    let (bench, mut client) = start(&format!(
        "{ON_ARRAY}[[fault]]\non = [\"write\"]\nsectors = \"8+8\"\nstage = \"before-store\"\ndo = {{ hold = {{}} }}\n"
    ));
    let at = client.memory.addr() as *const u8;
    client.memory.bytes()[..4096].copy_from_slice(&superblock(8, 2048, 8192));
    // SAFETY: the buffer is the client's memory.
    unsafe { client.queues[0].write_raw(4096, at, 4096, 9) }.unwrap();
    client.kick(0);
    bench
        .events
        .wait("the fetch", |what| matches!(what, What::Fetched(_)));
    assert!(!meets(&mut client, 2048), "fetched, and not stored");
    bench.device().faults().release(None).unwrap();
    assert_eq!(order(&mut client, 1), [9]);
    assert!(meets(&mut client, 2048));
    end(bench, client);
}

#[test]
fn a_power_cut_that_rolls_a_superblock_back_takes_the_array_with_it() {
    let mut rolled_back = 0;
    for seed in 0..16 {
        let legs = [mib("a")];
        let rules = format!(
            "{ON_ARRAY}[[fault]]\non = [\"write\"]\nsectors = \"9999+1\"\ndo = \"power-cut\"\n"
        );
        let options = Options {
            seed,
            rules: rules_of(&rules, &legs).unwrap(),
            ..Options::default()
        };
        let bench = Bench::with(&legs, &options);
        bench.device().new_boot(1);
        let mut client = Client::connect(&bench, "a", 1, ALL);
        assert_eq!(client.write(8 * 512, &superblock(8, 2048, 8192)), 0);
        client.queues[0].flush(3).unwrap();
        assert_eq!(client.one(0, "the flush"), 0);
        assert_eq!(client.write(8 * 512, &superblock(8, 1024, 8192)), 0);
        assert!(meets(&mut client, 1024) && !meets(&mut client, 2048));
        bench.device().faults().cut();
        drop(client);
        bench.device().new_boot(2);
        let mut client = Client::connect(&bench, "a", 1, ALL);
        // The superblock's 512 bytes are one sector: whole, either way.
        let old = client.read(8 * 512, 512).unwrap() == superblock(8, 2048, 8192)[..512];
        assert_eq!(meets(&mut client, 2048), old, "seed {seed}");
        assert_eq!(meets(&mut client, 1024), !old, "seed {seed}");
        rolled_back += usize::from(old);
        drop(client);
        bench.stop();
    }
    assert!((1..16).contains(&rolled_back), "{rolled_back} of 16");
}

#[test]
fn an_array_on_a_part_and_on_a_leg_that_grows_is_found() {
    // A part: an array of version 1.0, whose data begins where the part does, is followed by one of 1.2, whose superblock lies amid that data.
    let mut leg = mib("a");
    leg.part = SectorRange::new(Sector(2048), 16_384);
    let options = Options {
        rules: rules_of(ON_ARRAY, &[leg.clone()]).unwrap(),
        ..Options::default()
    };
    let bench = Bench::with(&[leg], &options);
    let mut client = Client::connect(&bench, "a", 1, ALL);
    let last = 16_384 - 16;
    assert_eq!(
        client.write((2048 + last) * 512, &superblock(last, 0, 8192)),
        0
    );
    assert!(meets(&mut client, 2048));
    let mut newer = superblock(8, 1024, 8192);
    newer[200..208].copy_from_slice(&9u64.to_le_bytes());
    let checksum = legwatch::md::superblock::checksum_1(&newer, 2);
    newer[216..220].copy_from_slice(&checksum.to_le_bytes());
    assert_eq!(client.write((2048 + 8) * 512, &newer), 0);
    assert!(meets(&mut client, 2048 + 1024) && !meets(&mut client, 2048));
    drop(client);
    bench.stop();

    // A leg that grows: version 1.0 lies at its old end until md writes it at the new one.
    let (bench, mut client) = start(ON_ARRAY);
    let end = (16 << 20) / 512;
    assert_eq!(
        client.write((end - 16) * 512, &superblock(end - 16, 0, 8192)),
        0
    );
    assert!(meets(&mut client, 0));
    let grown = 2 * end;
    bench.device().resize(LegId(0), grown).unwrap();
    assert!(meets(&mut client, 0), "still at the old end");
    drop(client);
    let mut client = Client::connect(&bench, "a", 1, ALL);
    assert_eq!(
        client.write((grown - 16) * 512, &superblock(grown - 16, 0, 8192)),
        0
    );
    assert_eq!(client.write((end - 16) * 512, &[0; 4096]), 0);
    assert!(meets(&mut client, 0), "at the new end");
    assert_eq!(client.write((grown - 16) * 512, &[0; 4096]), 0);
    assert!(!meets(&mut client, 0), "nowhere");
    drop(client);
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
fn a_rule_can_look_at_a_twin_that_another_leg_holds() {
    let legs = ["a", "b"].map(|name| {
        let mut leg = mib(name);
        leg.data = SectorRange::new(Sector(0), 1024);
        leg
    });
    let rules = rules_of(
        "[[fault]]\nlegs = [\"a\"]\non = [\"write\"]\narray = \"5+1\"\ndo = { hold = {} }\n\
         [[fault]]\nlegs = [\"b\"]\non = [\"write\"]\ntwin = { leg = \"a\", is = \"in-flight\" }\ndo = { fail = \"unsupported\" }\n",
        &legs,
    );
    let options = Options {
        rules: rules.unwrap(),
        ..Options::default()
    };
    let bench = Bench::with(&legs, &options);
    let mut a = Client::connect(&bench, "a", 1, ALL);
    let mut b = Client::connect(&bench, "b", 1, ALL);
    submit_write(&mut a, 5, 0, 1, 1);
    let held = |what: &What| matches!(what, What::Decided(d) if d.action == Action::Hold);
    bench.events.wait("the hold", held);
    assert_eq!(b.write(6 * 512, &[1; 512]), 0, "another sector");
    assert_eq!(b.write(5 * 512, &[1; 512]), ENOTSUP, "a holds this one");
    bench.device().faults().release(None).unwrap();
    assert_eq!(order(&mut a, 1), [1]);
    assert_eq!(b.write(5 * 512, &[1; 512]), 0, "a has it");
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

/// What one leg alone was given (a recovery's copies, a repair, writes while another was out) shifts nothing: content tells which write is whose twin.
#[test]
fn a_twin_is_known_after_what_one_leg_alone_got() {
    let legs = ["a", "b"].map(|name| {
        let mut leg = mib(name);
        leg.data = SectorRange::new(Sector(0), 1024);
        leg
    });
    let rules = rules_of(
        "[[fault]]\nlegs = [\"b\"]\non = [\"write\"]\ntwin = { leg = \"a\", is = \"acknowledged\" }\ndo = { fail = \"unsupported\" }\n",
        &legs,
    );
    let options = Options {
        rules: rules.unwrap(),
        ..Options::default()
    };
    let bench = Bench::with(&legs, &options);
    let mut a = Client::connect(&bench, "a", 1, ALL);
    let mut b = Client::connect(&bench, "b", 1, ALL);
    for byte in 1..=3 {
        assert_eq!(b.write(5 * 512, &[byte; 512]), 0, "b alone");
    }
    assert_eq!(a.write(5 * 512, &[4; 1024]), 0);
    assert_eq!(b.write(5 * 512, &[9; 512]), 0, "no twin of a's");
    assert_eq!(b.write(5 * 512, &[4; 512]), ENOTSUP, "half of a's");
    assert_eq!(b.write(5 * 512, &[4; 512]), ENOTSUP, "tried again");
    for byte in 5..=7 {
        assert_eq!(a.write(5 * 512, &[byte; 512]), 0, "a alone");
    }
    assert_eq!(b.write(5 * 512, &[8; 512]), 0);
    assert_eq!(a.write(5 * 512, &[8; 512]), 0);
    assert_eq!(a.write(5 * 512, &[10; 512]), 0);
    assert_eq!(b.write(5 * 512, &[10; 512]), ENOTSUP);
    drop((a, b));
    bench.stop();
}

/// What hits a flush has no sectors, and takes the whole leg all the same.
#[test]
fn a_budget_counts_what_takes_a_whole_leg() {
    for action in [
        "\"flush-lie\"",
        "{ unplug = {} }",
        "\"read-only\"",
        "\"dead\"",
    ] {
        let legs = [mib("a"), mib("b")];
        let rules = format!("[[fault]]\non = [\"flush\"]\ndo = {action}\n");
        let options = Options {
            rules: rules_of(&rules, &legs).unwrap(),
            good_legs: 1,
            ..Options::default()
        };
        let bench = Bench::with(&legs, &options);
        for leg in ["a", "b"] {
            let mut client = Client::connect(&bench, leg, 1, ALL);
            client.queues[0].flush(1).unwrap();
            client.one(0, "a flush");
        }
        assert_eq!(bench.device().faults().withheld(), 1, "{action}");
        bench.device().faults().heal(Some("a"), None).unwrap();
        let mut client = Client::connect(&bench, "b", 1, ALL);
        client.queues[0].flush(1).unwrap();
        client.one(0, "a flush");
        assert_eq!(
            bench.device().faults().withheld(),
            1,
            "{action}: a is good again"
        );
        drop(client);
        bench.stop();
    }
}
