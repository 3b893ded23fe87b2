//! `git bisect run` with legwatch: kernels stand in for commits, each of which names one. Good, bad, cannot be built, cannot be tested, and a mistake.

use std::path::Path;
use std::process::{Command, Output};

use super::harness::full;

fn git(dir: &Path, args: &[&str]) -> Output {
    Command::new("git")
        .args([
            "-c",
            "user.name=x",
            "-c",
            "user.email=x@example.org",
            "-c",
            "init.defaultBranch=main",
        ])
        .args(args)
        .current_dir(dir)
        .env("LEGWATCH", env!("CARGO_BIN_EXE_legwatch"))
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("HOME", std::env::var_os("HOME").unwrap_or_default())
        .output()
        .unwrap()
}

fn done(dir: &Path, args: &[&str]) -> String {
    let output = git(dir, args);
    assert!(output.status.success(), "git {args:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// What a bisection runs for each commit; `make` stands for the kernel's.
const STEP: &str = "./make || exit 125; exec \"$LEGWATCH\" run write-behind --kernel \"$(cat kernel)\" --seed 1 --bisect";

/// A repository with a commit for each kernel; the commits, oldest first. A kernel that is empty does not build.
fn repository(dir: &Path, kernels: &[&str]) -> Vec<String> {
    done(dir, &["init", "--quiet"]);
    std::fs::write(dir.join("make"), "#!/bin/sh\n[ -s kernel ]\n").unwrap();
    std::fs::set_permissions(
        dir.join("make"),
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )
    .unwrap();
    std::fs::write(dir.join(".gitignore"), "legwatch-run-*\n").unwrap();
    kernels
        .iter()
        .enumerate()
        .map(|(at, kernel)| {
            std::fs::write(dir.join("kernel"), kernel).unwrap();
            std::fs::write(dir.join("number"), at.to_string()).unwrap();
            done(dir, &["add", "--all"]);
            done(
                dir,
                &["commit", "--quiet", "--message", &format!("{at}: {kernel}")],
            );
            done(dir, &["rev-parse", "HEAD"])
        })
        .collect()
}

fn bisect(dir: &Path, commits: &[String]) -> Output {
    done(
        dir,
        &["bisect", "start", commits.last().unwrap(), &commits[0]],
    );
    git(dir, &["bisect", "run", "sh", "-c", STEP])
}

#[test]
fn the_first_bad_kernel_is_found_past_those_that_cannot_be_tested() {
    let dir = tempfile::tempdir().unwrap();
    // Write-behind is not seen on 6.1 in this layout, which is inconclusive: skipped, as is what does not build.
    let mut kernels = vec![
        "pinned:6.12",
        "pinned:6.1",
        "",
        "pinned:6.12",
        "pinned:6.16.3",
        "pinned:6.16.3",
    ];
    if full() {
        kernels.splice(4..4, ["debian:6.12.43", "pinned:6.12", "debian:6.12.57"]);
        kernels.extend(["", "pinned:6.16.3"]);
    }
    let commits = repository(dir.path(), &kernels);
    let output = bisect(dir.path(), &commits);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{text}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let first = kernels
        .iter()
        .position(|kernel| kernel.contains("6.16.3"))
        .unwrap();
    assert!(
        text.contains(&format!("{} is the first bad commit", commits[first])),
        "{text}"
    );
    let log = done(dir.path(), &["bisect", "log"]);
    eprintln!("{log}");
    // Every answer was given at least once in this sequence: good, bad, skip.
    for answer in ["git bisect good", "git bisect bad", "git bisect skip"] {
        assert!(log.contains(answer), "{answer}: {log}");
    }
}

#[test]
fn a_mistake_of_ours_stops_the_bisection() {
    for kernel in ["debian:nonsense", "/nonexistent/tree"] {
        let dir = tempfile::tempdir().unwrap();
        let commits = repository(dir.path(), &["pinned:6.12", kernel, "pinned:6.16.3"]);
        let output = bisect(dir.path(), &commits);
        assert!(!output.status.success(), "{output:?}");
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        assert!(text.contains("255"), "{text}");
        // The commit was neither called good nor bad nor skipped: it is still the one to be tested.
        assert_eq!(done(dir.path(), &["rev-parse", "HEAD"]), commits[1]);
        let log = done(dir.path(), &["bisect", "log"]);
        assert!(!log.contains("skip"), "{log}");
    }
}
