//! What is built again from a journal is what the legs of a real guest hold, and others' tools know it.

use std::path::Path;
use std::process::{Command, Output};

use legwatch::event::What;
use legwatch::journal::Reader;
use serde_json::Value;

use super::harness::run;

/// Both legs are files, and stay when the run is over.
fn scenario(dir: &Path) -> String {
    let leg = |name: &str| {
        let path = dir.join(format!("{name}.img"));
        let image = std::fs::File::create_new(&path).unwrap();
        image.set_len(64 << 20).unwrap();
        format!("[legs.{name}]\nfile = {path:?}\n")
    };
    format!(
        r#"
name = "recorded"
about = "All payloads are kept."
record = "all"
{}{}
[[setup]]
name = "create the array"
run = "mdadm --create /dev/md0 --run --assume-clean --level=1 --raid-devices=2 --bitmap=internal --bitmap-chunk=64K /dev/legs/a /dev/legs/b"
[[workload]]
name = "random writes"
write = {{ device = "/dev/md0", start = 16384, count = 65536, writes = 300, writers = 2, sizes = [512, "4K", "32K"], pattern = "random", depth = 16 }}
[[workload]]
name = "a discard"
run = "blkdiscard -o 1048576 -l 4194304 /dev/md0"
[[workload]]
quiet = true
[[workload]]
name = "more"
write = {{ device = "/dev/md0", start = 16384, count = 65536, writes = 100, depth = 4 }}
[[check]]
name = "read back"
read_back = "/dev/md0"
"#,
        leg("a"),
        leg("b")
    )
}

fn output(program: &str, args: &[&str]) -> Output {
    let output = Command::new(program).args(args).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {output:?}");
    output
}

/// A line of `mdadm --examine`.
fn examine(image: &Path, key: &str) -> String {
    let output = output("mdadm", &["--examine", image.to_str().unwrap()]);
    let text = String::from_utf8(output.stdout).unwrap();
    let line = text.lines().find(|line| line.trim().starts_with(key));
    line.unwrap_or_else(|| panic!("no {key} in {text}"))
        .trim()
        .to_owned()
}

#[test]
fn a_leg_is_built_again_from_the_journal_and_others_tools_know_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("recorded.toml");
    std::fs::write(&path, scenario(dir.path())).unwrap();
    let ran = run(&path, "pinned:6.12", &[]);
    ran.ended_with(0);
    let folder = ran.folder.to_str().unwrap();
    let legwatch = |args: &[&str]| output(env!("CARGO_BIN_EXE_legwatch"), args);

    for leg in ["a", "b"] {
        let out = dir.path().join(format!("{leg}.built"));
        legwatch(&["image", folder, "--leg", leg, out.to_str().unwrap()]);
        let (built, held) = (
            std::fs::read(&out).unwrap(),
            std::fs::read(dir.path().join(format!("{leg}.img"))).unwrap(),
        );
        let differ = built
            .iter()
            .zip(&held)
            .position(|(one, other)| one != other);
        assert_eq!((differ, built.len()), (None, held.len()), "leg {leg}");
        assert!(examine(&out, "State :").ends_with("clean"));
    }

    // In the middle of the load, the same array.
    let file = std::fs::File::open(ran.folder.join("journal")).unwrap();
    let mut reader = Reader::new(std::io::BufReader::new(file)).unwrap();
    let (mut numbers, mut rest) = (Vec::new(), None);
    while let Some(event) = reader.next_event().unwrap() {
        if let What::Quiet { id, .. } = event.what {
            rest.get_or_insert((id, event.no.0));
        } else if matches!(event.what, What::Fetched(_)) {
            numbers.push(event.no.0);
        }
    }
    let middle = numbers[numbers.len() / 2].to_string();
    let out = dir.path().join("middle");
    legwatch(&[
        "image",
        folder,
        "--leg",
        "b",
        "--at",
        &middle,
        out.to_str().unwrap(),
    ]);
    let uuid = |image: &Path| examine(image, "Array UUID");
    assert_eq!(uuid(&out), uuid(&dir.path().join("a.img")));
    assert!(examine(&out, "State :").ends_with("active"));

    let trace = legwatch(&["export", folder, "--format", "chrome-trace"]);
    let trace: Value = serde_json::from_slice(&trace.stdout).unwrap();
    assert!(trace["traceEvents"].as_array().unwrap().len() > numbers.len());
    let log = dir.path().join("log");
    legwatch(&[
        "export",
        folder,
        "--format",
        "log-writes",
        "--leg",
        "a",
        "--out",
        log.to_str().unwrap(),
    ]);
    // Its source is public; whoever has built it names it, as ci/full does.
    let Some(replay) = std::env::var_os("LEGWATCH_REPLAY_LOG") else {
        println!("skipped: LEGWATCH_REPLAY_LOG names no replay-log (ci/full builds one)");
        return;
    };
    let replayed = |name: &str, more: &[&str]| {
        let onto = dir.path().join(name);
        let file = std::fs::File::create_new(&onto).unwrap();
        file.set_len(64 << 20).unwrap();
        let [log, to] = [&log, &onto].map(|path| path.to_str().unwrap());
        let args = [&["--log", log, "--replay", to], more].concat();
        output(replay.to_str().unwrap(), &args);
        onto
    };
    let same = |one: &Path, other: &Path| {
        let (one_held, other_held) = (std::fs::read(one).unwrap(), std::fs::read(other).unwrap());
        assert!(one_held == other_held, "{one:?} is not {other:?}");
    };
    let whole = replayed("replayed", &[]);
    same(&whole, &dir.path().join("a.img"));
    assert!(examine(&whole, "State :").ends_with("clean"));
    // To a mark in the middle, where the legs are at rest: what legwatch makes of the same point.
    let (id, at) = rest.expect("a quiet point");
    let part = replayed(
        "replayed-part",
        &["--end-mark", &format!("quiet-{id}-#{at}")],
    );
    let built = dir.path().join("a.part");
    let [at, built_path] = [&at.to_string(), built.to_str().unwrap()];
    legwatch(&["image", folder, "--leg", "a", "--at", at, built_path]);
    same(&part, &built);
    assert_eq!(uuid(&built), uuid(&whole));
    assert_ne!(
        std::fs::read(&part).unwrap(),
        std::fs::read(&whole).unwrap(),
        "the middle is not the end"
    );
}
