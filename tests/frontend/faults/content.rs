//! What is stored and what is read: losses, tears, corruption, other places, older versions, late fetches.

use super::*;

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
fn a_misdirected_read_brings_another_legs_sectors() {
    let bench = bench(
        "[[fault]]\nlegs = [\"a\"]\non = [\"read\"]\nnth = 1\ndo = { misdirect = { to_leg = \"b\", to_sector = 8 } }\n",
    );
    let mut a = Client::connect(&bench, "a", 1, ALL);
    let mut b = Client::connect(&bench, "b", 1, ALL);
    assert_eq!(a.write(0, &[1; 512]), 0);
    assert_eq!(b.write(8 * 512, &[2; 512]), 0);
    assert_eq!(a.read(0, 512).unwrap(), [2; 512]);
    assert_eq!(a.read(0, 512).unwrap(), [1; 512], "once");
    drop(b);
    let told = end(bench, a);
    let to = range(8, 1);
    let leg = LegId(1);
    assert_eq!(
        told,
        [Action::Misdirect {
            leg,
            to,
            lost: vec![]
        }]
    );
}

#[test]
fn a_read_is_corrupted_in_every_way() {
    for (how, expected) in [
        ("stuck = { byte = 3, bit = 0, one = false }", {
            let mut one = [1; 512];
            one[3] = 0;
            Some(one)
        }),
        ("from_sector = 100", Some([9; 512])),
        ("flip_bits = 3", None),
        ("random = true", None),
    ] {
        let (bench, mut client) = start(&format!(
            "[[fault]]\non = [\"read\"]\nnth = 1\ndo = {{ corrupt = {{ {how} }} }}\n"
        ));
        assert_eq!(client.write(100 * 512, &[9; 512]), 0);
        assert_eq!(client.write(0, &[1; 512]), 0);
        let read = client.read(0, 512).unwrap();
        match expected {
            Some(expected) => assert_eq!(read, expected, "{how}"),
            None => {
                let flipped: u32 = read.iter().map(|byte| (byte ^ 1).count_ones()).sum();
                assert!(
                    flipped == 3 || (how.starts_with("random") && flipped > 100),
                    "{how}"
                );
            }
        }
        assert_eq!(client.read(0, 512).unwrap(), [1; 512], "{how}: once");
        assert_eq!(end(bench, client), [Action::CorruptAnswer]);
    }
}

/// A request that would go past the other leg's end goes to its end, by that leg's size; one that would stay where it is is left alone.
#[test]
fn a_misdirected_request_stays_within_the_other_leg() {
    let legs = [mib("a"), LegConfig::memory("b", 1 << 20)];
    let rules = "[[fault]]\nlegs = [\"a\"]\non = [\"write\"]\nsectors = \"5000+8\"\ndo = { misdirect = { to_leg = \"b\" } }\n\
         [[fault]]\nname = \"home\"\nlegs = [\"a\"]\non = [\"write\"]\nmay_not_fire = true\ndo = { misdirect = { to_sector = 7000 } }\n";
    let options = Options {
        rules: rules_of(rules, &legs).unwrap(),
        ..Options::default()
    };
    let bench = Bench::with(&legs, &options);
    let mut a = Client::connect(&bench, "a", 1, ALL);
    let mut b = Client::connect(&bench, "b", 1, ALL);
    assert_eq!(a.write(7000 * 512, &[3; 512]), 0);
    assert_eq!(a.read(7000 * 512, 512).unwrap(), [3; 512]);
    assert_eq!(bench.device().faults().lies(), [0, 0], "its own place");
    bench.device().faults().remove("home").unwrap();
    assert_eq!(a.write(5000 * 512, &[1; 1024]), 0);
    assert_eq!(a.read(5000 * 512, 1024).unwrap(), [0; 1024]);
    assert_eq!(b.read(2046 * 512, 1024).unwrap(), [1; 1024], "b's end");
    drop(b);
    let to = range(2046, 2);
    let lost = vec![range(5000, 2)];
    let leg = LegId(1);
    let misdirected = Action::Misdirect { leg, to, lost };
    assert_eq!(end(bench, a), [misdirected, Action::Met, Action::Met]);
}

/// Far more than is looked at at once, with data here and there: every sector is what an honest leg, or the lie, makes it.
#[test]
fn a_large_discard_is_lost_or_done_everywhere() {
    const BYTES: u64 = 5 << 20;
    let places = [0u64, (1 << 20) - 512, 1 << 20, 3 << 20, BYTES - 512];
    for lost in [true, false] {
        let rule = if lost {
            "on = [\"discard\"]\ndo = \"lose\"\n"
        } else {
            "on = [\"discard\"]\ndo = { delay = { ms = 1 } }\n"
        };
        let (bench, mut client) = start(&format!("[[fault]]\n{rule}"));
        for (at, byte) in places.iter().zip(1..) {
            assert_eq!(client.write(*at, &[byte; 512]), 0);
        }
        assert_eq!(client.write(BYTES, &[9; 512]), 0);
        client.queues[0].discard(0, BYTES, 5).unwrap();
        assert_eq!(client.one(0, "the discard"), 0);
        for (at, byte) in places.iter().zip(1u8..) {
            let returned = if lost { byte } else { 0 };
            assert_eq!(client.read(*at, 512).unwrap(), [returned; 512], "{at}");
            assert_eq!(honest(&bench, at / 512), [0; 512], "{at}");
        }
        assert_eq!(client.read(BYTES, 512).unwrap(), [9; 512], "behind it");
        assert_eq!(client.read(4096, 512).unwrap(), [0; 512]);
        bench.device().faults().heal(None, None).unwrap();
        for at in places {
            assert_eq!(client.read(at, 512).unwrap(), [0; 512], "healed");
        }
        end(bench, client);
    }
}
