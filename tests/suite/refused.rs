//! Bad input to `test`, `new` and `report --merge`: one sentence, exit code 2, nothing written.

use std::path::Path;
use std::process::{Command, Output};

use tempfile::TempDir;

fn legwatch(dir: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_legwatch"))
        .args(arguments)
        .env("LEGWATCH_CACHE", dir.join("../cache"))
        .env("LEGWATCH_GUEST", env!("CARGO_BIN_EXE_legwatch-guest"))
        .current_dir(dir)
        .output()
        .unwrap()
}

/// A folder to run in, beside one for the cache.
fn bench() -> (TempDir, std::path::PathBuf) {
    let top = tempfile::tempdir().unwrap();
    let dir = top.path().join("w");
    std::fs::create_dir(&dir).unwrap();
    (top, dir)
}

fn mistake(dir: &Path, arguments: &[&str], words: &[&str]) {
    let before = std::fs::read_dir(dir).unwrap().count();
    let output = legwatch(dir, arguments);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {text}");
    assert!(output.stdout.is_empty(), "{output:?}");
    for word in words {
        assert!(text.contains(word), "`{word}` is not in: {text}");
    }
    assert_eq!(std::fs::read_dir(dir).unwrap().count(), before, "{text}");
}

#[test]
fn a_campaign_that_makes_no_sense_is_refused() {
    let (_top, dir) = bench();
    std::fs::create_dir(dir.join("empty")).unwrap();
    std::fs::create_dir(dir.join("full")).unwrap();
    std::fs::write(dir.join("full/file"), "mine").unwrap();
    std::fs::write(dir.join("broken.toml"), "name = \"x").unwrap();
    for (arguments, words) in [
        (
            &["test", "no-such"][..],
            &["no scenario no-such", "raid1-quick"][..],
        ),
        (&["test", "broken.toml"], &["broken.toml: line 1"]),
        (&["test", "empty"], &["holds no scenario"]),
        (
            &["test", "stak-*"],
            &["no built-in scenario has a name like `stak-*`", "--list"],
        ),
        (
            &["test", "--tag", "nothing"],
            &["no scenario has the tag nothing", "quick"],
        ),
        (&["test", "--for", "10"], &["`10` is no time"]),
        (&["test", "--for", "10m", "--repeat", "2"], &["--repeat"]),
        (&["test", "--partition", "hash:3/2"], &["hash:K/N"]),
        (&["test", "--repeat", "0"], &["--repeat 0"]),
        (&["test", "--jobs", "0"], &["--jobs 0"]),
        (&["test", "--resume"], &["--resume", "--out"]),
        (&["test", "--out", "full"], &["full is not empty"]),
        (&["test", "--out", "full/file"], &["is not a folder"]),
        (
            &["test", "--kernel", "debian:x"],
            &["is no Debian kernel version"],
        ),
        (
            &["test", "--kernel", "/nonexistent/bzImage"],
            &["there is nothing at"],
        ),
        (
            &["test", "--museum", "nothing"],
            &["the museum has no bug `nothing`", "write-behind-reads"],
        ),
        (&["test", "--museum", "--kernel", "host"], &["--kernel"]),
        (&["report", "full"], &["is no run of legwatch"]),
        (&["report"], &["required"]),
        (
            &["report", "--merge", "full"],
            &["is no campaign of legwatch"],
        ),
        (
            &["report", "--merge", "full", "--out", "full"],
            &["is not empty"],
        ),
        (&["new", "No Name"], &["is no name for a scenario"]),
    ] {
        mistake(&dir, arguments, words);
    }
}

#[test]
fn a_mistake_stops_a_bisection() {
    let (_top, dir) = bench();
    for arguments in [
        &["test", "no-such", "--bisect"][..],
        &["test", "--bisect", "--jobs", "x"],
        &["test", "--bisect", "--kernel", "/nonexistent/tree"],
    ] {
        let output = legwatch(&dir, arguments);
        assert_eq!(output.status.code(), Some(255), "{arguments:?}: {output:?}");
        assert!(!output.stderr.is_empty());
    }
}

#[test]
fn a_new_scenario_is_written_once() {
    let (_top, dir) = bench();
    let output = legwatch(&dir, &["new", "slow-leg"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let text = std::fs::read_to_string(dir.join("slow-leg.toml")).unwrap();
    assert!(text.contains("name = \"slow-leg\""));
    mistake(&dir, &["new", "slow-leg"], &["it is there already"]);
    assert_eq!(
        std::fs::read_to_string(dir.join("slow-leg.toml")).unwrap(),
        text
    );
    let listed = legwatch(&dir, &["test", "--list", "slow-leg.toml"]);
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert!(listed.starts_with("slow-leg "), "{listed}");
    // What is commented out there is right as well.
    let told = text.replace("# [[", "[[").replace("# name", "name");
    let bare: String = told
        .lines()
        .map(|line| {
            let bare = line.strip_prefix("# ").unwrap_or(line);
            let key = bare.split(" = ").next().unwrap_or_default();
            let is_key =
                bare.contains(" = ") && key.chars().all(|c| c.is_ascii_lowercase() || c == '_');
            if is_key {
                format!("{bare}\n")
            } else {
                format!("{line}\n")
            }
        })
        .collect();
    std::fs::write(dir.join("all.toml"), bare).unwrap();
    let all = legwatch(&dir, &["test", "--list", "all.toml"]);
    assert_eq!(
        all.status.code(),
        Some(0),
        "{}",
        String::from_utf8_lossy(&all.stderr)
    );
}
