//! Stacks over, under and in place of md: clean on a stock kernel, and what is lost below them is found.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::harness::{Ran, full, run};

const KERNEL: &str = "pinned:6.12";

/// Scenarios for every change.
const SAMPLE: &[&str] = &["stack-dm-mirror", "stack-linear", "stack-raid10-four"];
/// Scenarios whose stamps are compared on the wire.
const MAPPED: &[&str] = &[
    "stack-bcache-backing",
    "stack-crypt",
    "stack-crypt-legs",
    "stack-crypt-write-behind",
    "stack-dm-mirror",
    "stack-dm-raid1",
    "stack-linear",
    "stack-lvm",
    "stack-raid10",
    "stack-raid10-four",
];
/// Scenarios whose legs are compared with each other alone.
const UNMAPPED: &[&str] = &[
    "stack-bcache-cache",
    "stack-bcache-writeback",
    "stack-ext4",
    "stack-xfs",
];
/// Those whose stamps are compared in which something is planted.
const PLANTED: &[&str] = &[
    "stack-crypt",
    "stack-crypt-legs",
    "stack-dm-mirror",
    "stack-dm-raid1",
    "stack-linear",
    "stack-lvm",
    "stack-raid10",
    "stack-raid10-four",
];

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("vm/scenarios/{name}.toml"))
}

fn chosen(names: &'static [&'static str]) -> impl Iterator<Item = &'static str> {
    let wanted = |name: &&str| full() || SAMPLE.contains(name);
    names.iter().copied().filter(wanted)
}

fn number(coverage: &Value, name: &str) -> u64 {
    coverage[name].as_u64().unwrap()
}

/// Clean, and every stamped sector compared on both legs.
fn is_clean(ran: &Ran) {
    ran.ended_with(0);
    assert_eq!(ran.findings(), Vec::<Value>::new(), "{}", ran.stdout);
    let report = ran.report();
    let coverage = &report["coverage"];
    let intended = number(coverage, "sectors_intended");
    assert!(intended > 0, "{}", ran.stdout);
    assert_eq!(
        number(coverage, "sectors_compared"),
        intended,
        "{}",
        ran.stdout
    );
    assert_eq!(number(coverage, "intents_unmapped"), 0);
    assert!(number(coverage, "twins_compared") > 0);
    assert!(number(coverage, "read_back_good") > 0);
    assert_eq!(number(coverage, "read_back_bad"), 0);
    let legs = coverage["legs"].as_array().unwrap();
    // The leg of dm-mirror's region log mirrors nothing.
    let mut mirrored = legs.iter().filter(|leg| leg["name"] != "log");
    assert!(legs.len() >= 2 && mirrored.all(|leg| leg["active"] == true));
}

#[test]
fn stacks_are_clean_on_a_stock_kernel() {
    for name in chosen(MAPPED) {
        let ran = run(path(name), KERNEL, &[]);
        is_clean(&ran);
        ran.agrees_on_findings();
    }
}

#[test]
fn stacks_without_stamps_on_the_wire_are_clean_on_a_stock_kernel() {
    for name in chosen(UNMAPPED) {
        let ran = run(path(name), KERNEL, &[]);
        ran.ended_with(0);
        ran.agrees_on_findings();
    }
}

/// The scenario with leg b behind a device-mapper table that loses what is written to a part of it.
fn spoilt(name: &str, dir: &Path) -> PathBuf {
    const SETUP: &str = r#"[[setup]]
name = "leg b loses what is written to a part of it"
run = '''
disk=$(readlink -f /dev/legs/b)
size=$(blockdev --getsz $disk)
{
  echo "0 24576 linear $disk 0"
  echo "24576 40960 flakey $disk 24576 0 1 1 drop_writes"
  echo "65536 $((size - 65536)) linear $disk 65536"
} >/tmp/spoilt
DM_DISABLE_UDEV=1 dmsetup create spoilt /tmp/spoilt
ln -sf /dev/mapper/spoilt /dev/legs/b
'''

"#;
    let text = std::fs::read_to_string(path(name)).unwrap();
    let guest = match text.find("binaries = [") {
        Some(_) => text.replacen("binaries = [", "binaries = [\"dmsetup\", ", 1),
        None => text.replacen("[guest]\n", "[guest]\nbinaries = [\"dmsetup\"]\n", 1),
    };
    let modules = guest.replacen("modules = [", "modules = [\"dm-mod\", \"dm-flakey\", ", 1);
    let at = modules.find("[[setup]]").unwrap();
    let path = dir.join(format!("{name}.toml"));
    std::fs::write(
        &path,
        format!("{}{SETUP}{}", &modules[..at], &modules[at..]),
    )
    .unwrap();
    path
}

#[test]
fn writes_that_a_leg_loses_under_a_stack_are_found() {
    let dir = tempfile::tempdir().unwrap();
    for name in chosen(PLANTED) {
        let ran = run(spoilt(name, dir.path()), KERNEL, &[]);
        ran.ended_with(1);
        let finding = ran.finding("stamp", "absent", &["b"]);
        assert_eq!(finding["confidence"], "proven", "{name}\n{}", ran.stdout);
        // Nothing is held against the leg that is good.
        let alone = serde_json::json!(["a"]);
        let wrong = ran
            .findings()
            .into_iter()
            .find(|finding| finding["legs"] == alone);
        assert!(wrong.is_none(), "{name}: {wrong:#?}\n{}", ran.stdout);
    }
}
