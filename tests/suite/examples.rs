//! The job files in docs/examples: linted, parsed, and their commands run with a stand-in for legwatch whose command lines legwatch then reads itself.

use std::path::{Path, PathBuf};
use std::process::Command;

use clap::Parser as _;
use legwatch::cli::{Cli, Command as Sub, ReportArgs, TestArgs};
use serde_json::Value;

use super::formats::{have, python, run};

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("docs/examples")
        .join(name)
}

/// A YAML file as others read it.
fn yaml(name: &str) -> Option<Value> {
    let python = python("yaml")?;
    let script = "import json, sys, yaml\nprint(json.dumps(yaml.safe_load(open(sys.argv[1]))))";
    let (code, text) = run(python, &["-c", script, example(name).to_str().unwrap()]);
    assert_eq!(code, Some(0), "{name}: {text}");
    Some(serde_json::from_str(&text).unwrap())
}

/// What a shell gives legwatch when it runs this, in a folder with these parts.
fn told(shell: &[&str], variables: &[(&str, &str)], parts: &[&str]) -> Sub {
    let dir = tempfile::tempdir().unwrap();
    let bin = dir.path().join("bin");
    std::fs::create_dir(&bin).unwrap();
    let stand_in = bin.join("legwatch");
    std::fs::write(
        &stand_in,
        "#!/bin/sh\nprintf '%s\\0' legwatch \"$@\" > \"$TOLD\"\n",
    )
    .unwrap();
    std::fs::set_permissions(
        &stand_in,
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )
    .unwrap();
    for part in parts {
        std::fs::create_dir(dir.path().join(part)).unwrap();
    }
    let record = dir.path().join("told");
    let output = Command::new(shell[0])
        .args(&shell[1..])
        .env(
            "PATH",
            format!("{}:{}", bin.display(), std::env::var("PATH").unwrap()),
        )
        .env("TOLD", &record)
        .envs(variables.iter().copied())
        .current_dir(dir.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{shell:?}: {output:?}");
    let words = std::fs::read_to_string(record).unwrap();
    let words: Vec<&str> = words.trim_end_matches('\0').split('\0').collect();
    match Cli::try_parse_from(&words) {
        Ok(cli) => cli.command,
        Err(error) => panic!("legwatch does not understand {words:?}: {error}"),
    }
}

fn test_of(command: Sub) -> TestArgs {
    let Sub::Test(args) = command else {
        panic!("not `test`: {command:?}");
    };
    args
}

fn report_of(command: Sub) -> ReportArgs {
    let Sub::Report(args) = command else {
        panic!("not `report`: {command:?}");
    };
    args
}

/// Part K of N, into a folder of its own.
fn is_part(args: &TestArgs, part: u64, of: u64, folder: &str) {
    let partition = args.partition.expect("a partition");
    assert_eq!(partition, format!("hash:{part}/{of}").parse().unwrap());
    let out = args.out.as_deref().expect("a folder");
    assert!(out.ends_with(folder), "{out:?}");
    assert_eq!(args.kernel, ["debian:6.1", "debian:6.12", "debian:7.3.4"]);
}

#[test]
fn slurm_tasks_are_the_parts_of_a_campaign() {
    let path = example("slurm.sh");
    let path = path.to_str().unwrap();
    if have("shellcheck", &["--version"]) {
        assert_eq!(run("shellcheck", &[path]), (Some(0), String::new()));
    }
    for task in [1_u64, 8] {
        let number = task.to_string();
        let variables = [
            ("OUT", "/results"),
            ("SLURM_ARRAY_TASK_ID", number.as_str()),
            ("SLURM_ARRAY_TASK_COUNT", "8"),
            ("SLURM_CPUS_PER_TASK", "4"),
        ];
        let args = test_of(told(&["bash", path], &variables, &[]));
        is_part(&args, task, 8, &format!("part-{task}"));
        assert_eq!(args.jobs, Some(4));
    }
}

#[test]
fn gitlab_jobs_are_the_parts_of_a_campaign_and_one_merges_them() {
    let Some(file) = yaml("gitlab-ci.yml") else {
        return;
    };
    let parts = file["legwatch"]["parallel"].as_u64().unwrap();
    for part in [1, parts] {
        let (node, total) = (part.to_string(), parts.to_string());
        let variables = [
            ("CI_NODE_INDEX", node.as_str()),
            ("CI_NODE_TOTAL", total.as_str()),
        ];
        let script = file["legwatch"]["script"][0].as_str().unwrap();
        let args = test_of(told(&["sh", "-c", script], &variables, &[]));
        is_part(&args, part, parts, &format!("part-{part}"));
    }
    assert_eq!(file["legwatch-whole"]["needs"][0], "legwatch");
    let script = file["legwatch-whole"]["script"][0].as_str().unwrap();
    let args = report_of(told(&["sh", "-c", script], &[], &["part-1", "part-2"]));
    assert_eq!(args.merge, [Path::new("part-1"), Path::new("part-2")]);
    assert_eq!(args.out.as_deref(), Some(Path::new("whole")));
    // What the jobs leave is where the campaign's folder has it.
    let junit = &file["legwatch-whole"]["artifacts"]["reports"]["junit"];
    assert_eq!(junit, "whole/junit.xml");
}

#[test]
fn kubernetes_pods_are_the_parts_of_a_campaign() {
    let Some(file) = yaml("kubernetes.yaml") else {
        return;
    };
    assert_eq!(
        (&file["apiVersion"], &file["kind"]),
        (&"batch/v1".into(), &"Job".into())
    );
    let spec = &file["spec"];
    assert_eq!(spec["completionMode"], "Indexed");
    let parts = spec["completions"].as_u64().unwrap();
    let container = &spec["template"]["spec"]["containers"][0];
    let mut shell: Vec<&str> = Vec::new();
    for words in ["command", "args"] {
        shell.extend(
            container[words]
                .as_array()
                .unwrap()
                .iter()
                .map(|word| word.as_str().unwrap()),
        );
    }
    for index in [0, parts - 1] {
        let number = index.to_string();
        let args = test_of(told(&shell, &[("JOB_COMPLETION_INDEX", &number)], &[]));
        is_part(&args, index + 1, parts, &format!("part-{index}"));
    }
}
