//! `legwatch explain`: what a check, an excuse or a known deviation is, from the same text as the documentation.

use crate::cli::ExplainArgs;
use crate::failure::Failure;
use crate::oracle::known;

const TEXT: &str = include_str!("../docs/checks.md");

/// A name that nothing has.
#[derive(Debug, thiserror::Error)]
#[error("`{name}` is no check, excuse or known deviation; there are: {all}")]
pub struct Unknown {
    name: String,
    all: String,
}

/// Prints the section of a name: `bit-clear-eq`, `case 12` or `12`, `K2`.
///
/// # Errors
/// [`Failure`], if there is none.
pub fn explain(args: &ExplainArgs) -> Result<u8, Failure> {
    use std::io::Write as _;
    let text = section(&args.name).ok_or_else(|| {
        Failure::user(Unknown {
            name: args.name.clone(),
            all: names().collect::<Vec<_>>().join(", "),
        })
    })?;
    // Whoever closed the pipe has read enough.
    let _closed = std::io::stdout().lock().write_all(text.as_bytes());
    Ok(0)
}

/// The names that have a section.
fn names() -> impl Iterator<Item = &'static str> {
    TEXT.lines().filter_map(|line| line.strip_prefix("### "))
}

fn section(name: &str) -> Option<String> {
    let name = name.trim().to_lowercase();
    let heading =
        names().find(|have| have.to_lowercase() == name || **have == format!("case {name}"))?;
    let body: Vec<&str> = TEXT
        .lines()
        .skip_while(|line| line.strip_prefix("### ") != Some(heading))
        .skip(1)
        .take_while(|line| !line.starts_with('#'))
        .collect();
    let mut text = format!("{heading}\n\n{}\n", body.join("\n").trim());
    let check = crate::finding::Check::LEGS
        .iter()
        .find(|check| check.name() == heading);
    if let Some(check) = check {
        text.push_str(&format!("\nPromise: {}.\n", check.promise()));
    }
    for entry in known::entries().iter().filter(|entry| entry.id == heading) {
        text.push_str(&format!(
            "\n{}: {}.\n  shown for {}; open for {}\n",
            entry.check.name(),
            entry.what,
            entry.kernels.join(", "),
            entry.perhaps.join(", ")
        ));
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::Check;

    #[test]
    fn every_check_excuse_and_deviation_has_its_section() {
        for check in Check::LEGS {
            let text = section(check.name()).unwrap();
            assert!(text.contains("Promise: "), "{text}");
        }
        for case in 1..=19 {
            assert!(section(&case.to_string()).is_some(), "{case}");
        }
        for entry in known::entries() {
            assert!(section(&entry.id).is_some_and(|text| text.contains(&entry.what)));
        }
        assert!(section("k2").is_some() && section("K99").is_none());
    }
}
