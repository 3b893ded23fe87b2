//! The tables in the docs are what the command prints.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use legwatch::finding::Check;
use legwatch::scenario::Scenario;

/// The rows of a table without its last columns, which only a campaign can tell.
fn rows(text: &str, left_out: usize) -> Vec<String> {
    let rows = text
        .lines()
        .filter(|line| line.starts_with("| ") && !line.starts_with("| ---"));
    rows.map(|row| {
        let cells: Vec<&str> = row.split(" | ").collect();
        cells[..cells.len() - left_out].join(" | ")
    })
    .collect()
}

fn holds(file: &str, arguments: &[&str], left_out: usize) {
    let output = Command::new(env!("CARGO_BIN_EXE_legwatch"))
        .args(arguments)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let printed = rows(&String::from_utf8(output.stdout).unwrap(), left_out);
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("docs")
        .join(file);
    let text = std::fs::read_to_string(path).unwrap();
    let at = text
        .find(&printed[0])
        .unwrap_or_else(|| panic!("docs/{file} has no such table"));
    let table: String = text[at..]
        .lines()
        .take_while(|line| line.starts_with('|'))
        .map(|line| format!("{line}\n"))
        .collect();
    let written = rows(&table, left_out);
    for row in &printed {
        assert!(
            written.contains(row),
            "docs/{file} lacks what `legwatch {}` prints: {row}",
            arguments.join(" ")
        );
    }
    for row in &written {
        assert!(
            printed.contains(row),
            "docs/{file} has what `legwatch {}` does not print: {row}",
            arguments.join(" ")
        );
    }
}

/// The scenarios' checks that have a trigger.
fn has_trigger(check: &Check) -> bool {
    !matches!(check, Check::SamePages)
}

#[test]
fn each_check_is_triggered_where_the_table_says() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: &str| std::fs::read_to_string(root.join(path)).unwrap();
    let text = read("docs/checks.md");
    let at = text.find("| check | triggered in |").unwrap();
    let table: BTreeMap<&str, Vec<&str>> = text[at..]
        .lines()
        .skip(2)
        .map_while(|line| {
            line.strip_prefix("| ")?
                .strip_suffix(" |")?
                .split_once(" | ")
        })
        .map(|(check, scenarios)| (check, scenarios.split(", ").collect()))
        .collect();
    let guests =
        read("tests/vm/scenarios.rs") + &read("tests/vm/stacks.rs") + &read("tests/vm/faults.rs");
    for check in Check::LEGS.into_iter().filter(has_trigger) {
        let scenarios = table.get(check.name()).unwrap_or_else(|| {
            panic!(
                "docs/checks.md says of no scenario that it triggers {}",
                check.name()
            )
        });
        for name in scenarios {
            let path = root.join(format!("vm/scenarios/{name}.toml"));
            let scenario = Scenario::load(&path).unwrap();
            assert!(
                scenario
                    .expect
                    .triggered
                    .iter()
                    .any(|one| one == check.name()),
                "{name} does not demand {}",
                check.name()
            );
            assert!(
                guests.contains(&format!("\"{name}\"")),
                "no test in tests/vm runs {name}"
            );
        }
    }
    for name in table.keys() {
        assert!(
            Check::LEGS.iter().any(|check| check.name() == *name),
            "docs/checks.md says where {name} is triggered, which is no check"
        );
    }
}

#[test]
fn every_scenario_has_tags_and_the_docs_tell_each() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(root.join("docs/suite.md")).unwrap();
    let at = text.find("| tag | its scenarios |").unwrap();
    let mut told: BTreeMap<&str, usize> = text[at..]
        .lines()
        .skip(2)
        .map_while(|line| line.strip_prefix("| `")?.split_once("` | "))
        .map(|(tag, _)| (tag, 0))
        .collect();
    for file in std::fs::read_dir(root.join("vm/scenarios")).unwrap() {
        let scenario = Scenario::load(&file.unwrap().path()).unwrap();
        let tags = &scenario.suite.tags;
        assert!(!tags.is_empty(), "{} has no tag", scenario.name);
        for tag in tags {
            let count = told.get_mut(tag.as_str()).unwrap_or_else(|| {
                panic!(
                    "{}: docs/suite.md does not tell the tag {tag}",
                    scenario.name
                )
            });
            *count += 1;
        }
    }
    for (tag, count) in told {
        assert!(
            count > 0,
            "docs/suite.md has the tag {tag}, and no scenario has it"
        );
    }
}

#[test]
fn every_scenario_is_built_in() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("vm/scenarios");
    for file in std::fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_legwatch"))
            .args(["test", "--list", name])
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(0), "{name}: {output:?}");
    }
}

#[test]
fn the_table_of_scenarios_is_as_printed() {
    holds("scenarios.md", &["test", "--list=markdown"], 1);
}

#[test]
fn the_table_of_the_museums_bugs_is_as_printed() {
    holds("museum.md", &["test", "--museum", "--list=markdown"], 0);
}
