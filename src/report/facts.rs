//! Provenance as lines for people: where a run comes from, a name and a value each.

use serde_json::Value;

use super::json;
use crate::header::RunHeader;
use crate::oracle::Coverage;

/// What `report.json` has as provenance, flat; nothing for what is not known.
pub(super) fn provenance(header: &RunHeader, coverage: &Coverage) -> Vec<(String, String)> {
    let mut facts = vec![
        ("run".to_owned(), header.run.to_string()),
        ("seed".to_owned(), header.seed.to_string()),
    ];
    flatten("", &json::provenance(header, coverage), &mut facts);
    facts
}

/// What the guest told besides: how its arrays are, and what the scenario asked for.
pub(super) fn others(coverage: &Coverage) -> impl Iterator<Item = (String, String)> {
    let facts = coverage.facts.iter();
    let facts = facts.filter(|(name, _)| !json::is_provenance(name));
    facts.map(|(name, value)| (name.clone(), value.clone()))
}

fn flatten(name: &str, value: &Value, facts: &mut Vec<(String, String)>) {
    let text = match value {
        Value::Object(fields) => {
            let dot = if name.is_empty() { "" } else { "." };
            for (field, value) in fields {
                flatten(&format!("{name}{dot}{field}"), value, facts);
            }
            return;
        }
        Value::Null => return,
        Value::Array(values) => {
            let text = |value: &Value| {
                value
                    .as_str()
                    .map_or_else(|| value.to_string(), str::to_owned)
            };
            values.iter().map(text).collect::<Vec<_>>().join(", ")
        }
        Value::String(text) => text.clone(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
    };
    if !text.is_empty() {
        facts.push((name.to_owned(), text));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fact_is_a_line_and_what_is_not_known_is_none() {
        let mut facts = Vec::new();
        let value = serde_json::json!({
            "qemu": "10.0", "own_modules": [], "packages": ["a 1", "b 2"], "release": null,
            "guest": { "tainted": "0", "modules": { "raid1": "00ff" } },
        });
        flatten("", &value, &mut facts);
        facts.sort();
        let lines: Vec<String> = facts
            .iter()
            .map(|(name, value)| format!("{name}: {value}"))
            .collect();
        assert_eq!(
            lines,
            [
                "guest.modules.raid1: 00ff",
                "guest.tainted: 0",
                "packages: a 1, b 2",
                "qemu: 10.0"
            ]
        );
    }
}
