//! `legwatch ctl` against a live device: every request, what it does to the legs, and what is refused.
#![allow(
    clippy::wildcard_enum_match_arm,
    reason = "tests look for the events they are about"
)]

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use crate::support::{ALL, Client, pattern};
use legwatch::config::LegConfig;
use legwatch::ctl::server::Server;
use legwatch::ctl::wire::{Done, Request};
use legwatch::ctl::{CtlError, ask};
use legwatch::device::{Device, Options};
use legwatch::event::{EventNo, What};
use legwatch::sequence::Sequence;

const EIO: i32 = -5;

#[test]
fn rules_come_and_go_and_lies_are_healed() {
    let dir = tempfile::tempdir().unwrap();
    let legs = ["a", "b"].map(|name| LegConfig::memory(name, 1 << 20));
    let (sequence, mut collector) = Sequence::new(EventNo(0));
    let device = Device::start(&legs, dir.path(), &Options::default(), &sequence).unwrap();
    let device = Arc::new(device);
    let socket = dir.path().join("ctl.sock");
    let server = Server::start(&socket, device.clone(), legs.to_vec(), &sequence).unwrap();
    let mode = socket.metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "the owner's only");
    let said = |request: &Request| match ask(&socket, request).unwrap() {
        Done::Said(text) => text,
        other => panic!("{other:?}"),
    };
    let refused = |request: &Request| match ask(&socket, request) {
        Err(CtlError::Refused(why)) => why,
        other => panic!("{other:?}"),
    };
    let client = |leg: &str| Client::attach(&dir.path().join(format!("{leg}.sock")), 1, ALL);
    let mut a = client("a");
    let (old, new) = (pattern(1, 512), pattern(2, 512));
    assert_eq!(a.write(0, &old), 0);
    let toml = "[[fault]]\nname = \"gone\"\nlegs = [\"a\"]\non = [\"write\"]\nat_most = 1\ndo = \"lose\"\n";
    assert_eq!(said(&Request::Add { toml: toml.into() }), "added gone");
    assert!(refused(&Request::Add { toml: toml.into() }).contains("two rules have this name"));
    assert!(refused(&Request::Add { toml: "x".into() }).starts_with("line 1, column"));
    assert!(
        refused(&Request::Add {
            toml: String::new()
        })
        .contains("no [[fault]]")
    );
    let second_is_bad = "[[fault]]\ndo = \"lose\"\n[[fault]]\nlegs = [\"z\"]\ndo = \"lose\"\n";
    let why = refused(&Request::Add {
        toml: second_is_bad.into(),
    });
    assert!(
        why.starts_with("line 3: ") && why.contains("unknown leg `z`"),
        "{why}"
    );
    let unplug = "[[fault]]\ndo = { unplug = {} }\n".into();
    let why = refused(&Request::Add { toml: unplug });
    assert!(why.contains("`legwatch run`, which owns QEMU"), "{why}");
    assert_eq!(a.write(0, &new), 0);
    assert_eq!(a.read(0, 512).unwrap(), old);
    let Done::Rules(rules) = ask(&socket, &Request::Rules).unwrap() else {
        panic!("no rules")
    };
    assert_eq!((rules.len(), rules[0].fired), (1, 1));
    let Done::Status(status) = ask(&socket, &Request::Status).unwrap() else {
        panic!("no status")
    };
    assert_eq!((status.legs[0].lies, status.legs[0].writes), (1, 2));
    assert!(status.power);
    let heal = |leg: &str| Request::Heal {
        leg: Some(leg.into()),
        rule: None,
    };
    assert!(refused(&heal("z")).contains("unknown leg `z`"));
    assert_eq!(said(&heal("b")), "0 sectors healed");
    assert_eq!(said(&heal("a")), "1 sectors healed");
    assert_eq!(a.read(0, 512).unwrap(), new);
    let name = || "gone".to_owned();
    assert_eq!(said(&Request::Remove { name: name() }), "removed gone");
    assert!(refused(&Request::Remove { name: name() }).contains("no rule `gone`"));

    // A dead leg, revived.
    let toml = "[[fault]]\nlegs = [\"a\"]\nnth = 1\ndo = \"dead\"\n".into();
    said(&Request::Add { toml });
    assert_eq!(a.read(0, 512).unwrap_err(), EIO);
    assert_eq!(a.write(0, &new), EIO);
    said(&Request::Heal {
        leg: None,
        rule: None,
    });
    assert_eq!(a.read(0, 512).unwrap(), new);

    // Healing says what it means: a leg, a rule.
    let toml = "[[fault]]\nname = \"both\"\nnth = 1\ndo = \"dead\"\n".into();
    said(&Request::Add { toml });
    let mut b = client("b");
    assert_eq!(a.read(0, 512).unwrap_err(), EIO);
    assert_eq!(b.read(0, 512).unwrap_err(), EIO);
    said(&heal("b"));
    assert_eq!(a.read(0, 512).unwrap_err(), EIO, "b was healed, not a");
    assert_eq!(b.read(0, 512).unwrap(), [0; 512]);
    let heal_rule = |rule: &str| Request::Heal {
        leg: None,
        rule: Some(rule.into()),
    };
    assert!(refused(&heal_rule("z")).contains("no rule `z`"));
    said(&heal_rule("dead"));
    assert_eq!(a.read(0, 512).unwrap_err(), EIO, "by another rule");
    let of = Request::Release {
        rule: Some("both".into()),
    };
    assert_eq!(refused(&of), "rule `both` holds nothing: it is dead");
    said(&heal_rule("both"));
    assert_eq!(a.read(0, 512).unwrap(), new);
    drop(b);

    // What a rule holds goes on when it is taken away.
    let toml = "[[fault]]\nname = \"holds\"\non = [\"flush\"]\ndo = { hold = {} }\n".into();
    said(&Request::Add { toml });
    a.queues[0].flush(8).unwrap();
    a.kick(0);
    while device.in_flight().is_empty() {
        std::thread::yield_now();
    }
    let name = "holds".into();
    said(&Request::Remove { name });
    assert_eq!(a.collect(0, 1, "the flush"), [(8, 0)]);

    // Held by hand.
    let of = Request::Hold { leg: "z".into() };
    assert_eq!(refused(&of), "unknown leg `z`; the legs are a, b");
    said(&Request::Hold { leg: "a".into() });
    a.queues[0].flush(7).unwrap();
    a.kick(0);
    while device.in_flight().is_empty() {
        std::thread::yield_now();
    }
    said(&Request::Release { rule: None });
    assert_eq!(a.collect(0, 1, "the flush"), [(7, 0)]);
    assert_eq!(a.read(0, 512).unwrap(), new, "and nothing is held any more");
    said(&Request::Mark { name: "m".into() });

    // Power.
    assert!(refused(&Request::PowerOn).contains("the power is on"));
    said(&Request::Cut);
    assert!(refused(&Request::Cut).contains("off already"));
    drop(a);
    said(&Request::PowerOn);
    let mut a = client("a");
    assert_eq!(a.read(0, 512).unwrap(), new, "flushed before the cut");
    drop(a);
    drop(server);
    assert!(!socket.exists());
    assert!(matches!(
        ask(&socket, &Request::Status),
        Err(CtlError::Connect { .. })
    ));
    device.stop();
    drop(device);
    drop(sequence);
    let mut hands = 0;
    while let Ok(event) = collector.next(std::time::Duration::from_secs(10)) {
        hands += usize::from(matches!(event.what, What::Hand { .. }));
    }
    assert_eq!(hands, 17, "every change is on record");
}
