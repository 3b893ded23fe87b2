//! Which module may use which: the `use crate::` lines against a table. The pure ones know no device, no clock and no operating system.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// A module and what it may use. A module that is not here may use everything.
const TABLE: &[(&str, &[&str])] = &[
    ("block", &[]),
    ("stamp", &["block"]),
    ("crypt", &["block"]),
    ("mark", &["block"]),
    ("plan", &["crypt", "mark"]),
    ("event", &["block", "mark"]),
    ("config", &["block", "crypt"]),
    ("header", &["block", "config", "crypt", "plan"]),
    ("finding", &[]),
    ("watch", &["finding"]),
    ("fault", &["block", "config", "event", "stamp"]),
    ("shadow", &["block", "event"]),
    ("md", &["block", "shadow"]),
    (
        "oracle",
        &[
            "block", "config", "crypt", "event", "finding", "header", "mark", "md", "plan",
            "shadow", "release", "stamp", "watch",
        ],
    ),
    ("release", &[]),
    ("campaign", &["finding", "oracle", "release", "report"]),
    ("journal", &["block", "config", "event", "header", "mark"]),
    (
        "picture",
        &["block", "event", "header", "mark", "md", "oracle", "shadow"],
    ),
    (
        "report",
        &["block", "finding", "header", "oracle", "picture", "stamp"],
    ),
];

const PURE: &[&str] = &[
    "block", "campaign", "crypt", "release", "event", "mark", "stamp", "plan", "fault", "shadow",
    "oracle", "md", "finding", "header", "picture", "watch",
];

/// What a pure module must not name. (`serde`, `smallvec`, `thiserror` and the rest of std are fine.)
const IMPURE: &[&str] = &[
    "std::net",
    "std::os",
    "std::fs",
    "std::time::Instant",
    "std::time::SystemTime",
    "std::thread",
    "std::process",
    "std::env",
    "vm_memory",
    "vhost",
    "virtio_queue",
    "virtio_bindings",
    "rustix",
    "libc",
];

fn sources() -> Vec<(String, PathBuf)> {
    fn walk(dir: &Path, top: Option<&str>, out: &mut Vec<(String, PathBuf)>) {
        let mut entries: Vec<_> = std::fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        entries.sort();
        for path in entries {
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            let module = top.unwrap_or(&name).to_owned();
            if path.is_dir() {
                walk(&path, Some(&module), out);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                out.push((module, path));
            }
        }
    }
    let mut out = Vec::new();
    walk(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("src"),
        None,
        &mut out,
    );
    out
}

/// The code of a file: no comments, and nothing from the first test module on.
fn code(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap();
    let text = text.split("#[cfg(test)]").next().unwrap_or_default();
    text.lines()
        .map(|line| line.split("//").next().unwrap_or_default())
        .collect::<Vec<_>>()
        .join("\n")
}

/// The modules of this crate that a text names as `crate::module`.
fn used(code: &str) -> BTreeSet<String> {
    code.match_indices("crate::")
        .filter(|(at, _)| {
            !code[..*at].ends_with(|before: char| before.is_alphanumeric() || before == '_')
        })
        .flat_map(|(at, found)| {
            let rest = &code[at + found.len()..];
            let word = |text: &str| {
                text.trim_start()
                    .chars()
                    .take_while(|c| c.is_alphanumeric() || *c == '_')
                    .collect::<String>()
            };
            match rest.strip_prefix('{') {
                Some(list) => list
                    .split('}')
                    .next()
                    .unwrap_or_default()
                    .split(',')
                    .map(word)
                    .collect::<Vec<_>>(),
                None => vec![word(rest)],
            }
        })
        .filter(|word| word.starts_with(|first: char| first.is_lowercase()))
        .collect()
}

#[test]
fn modules_use_what_the_table_allows() {
    let table: BTreeMap<_, _> = TABLE.iter().copied().collect();
    let mut wrong = Vec::new();
    for (module, path) in sources() {
        let Some(allowed) = table.get(module.as_str()) else {
            continue;
        };
        if path.ends_with("tests.rs") {
            continue;
        }
        for word in used(&code(&path)) {
            if word != module && !allowed.contains(&word.as_str()) {
                wrong.push(format!(
                    "{} uses crate::{word}; {module} may use {allowed:?}",
                    path.display()
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn pure_modules_stay_pure() {
    let mut wrong = Vec::new();
    for (module, path) in sources() {
        if !PURE.contains(&module.as_str()) || path.ends_with("tests.rs") {
            continue;
        }
        let code = code(&path);
        for word in IMPURE {
            if code.match_indices(word).any(|(at, _)| {
                !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_')
                    && !code[at + word.len()..]
                        .starts_with(|c: char| c.is_alphanumeric() || c == '_')
            }) {
                wrong.push(format!("{} names {word}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn files_have_one_job() {
    let long: Vec<String> = sources()
        .into_iter()
        .filter_map(|(_, path)| {
            let lines = code(&path).lines().count();
            (lines > 650).then(|| format!("{}: {lines} lines", path.display()))
        })
        .collect();
    assert!(long.is_empty(), "{}", long.join("\n"));
}
