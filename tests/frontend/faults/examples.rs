//! The examples of docs/faults.md.

use super::*;

/// The blocks of TOML in the page's examples.
fn examples() -> Vec<String> {
    let page = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/faults.md");
    let page = std::fs::read_to_string(page).unwrap();
    page.split("```toml\n")
        .skip(1)
        .map(|rest| rest.split("```").next().unwrap().to_owned())
        .collect()
}

#[test]
fn every_action_has_an_example_that_fires() {
    use std::collections::BTreeSet;
    let legs = ["a", "b"].map(|name| LegConfig::memory(name, 1 << 20));
    let mut shown = BTreeSet::new();
    for example in examples() {
        let rules = rules_of(&example, &legs).unwrap();
        shown.extend(rules.iter().map(|rule| rule.action.name()));
        let options = Options {
            seed: 1,
            rules: rules.clone(),
            ..Options::default()
        };
        let bench = Bench::with(&legs, &options);
        for leg in ["a", "b"] {
            let mut client = Client::connect(&bench, leg, 1, ALL);
            for round in 0..6u64 {
                submit_write(&mut client, round, round as usize * 512, 1, 100 + round);
            }
            for round in 0..6u64 {
                let at = (client.memory.addr() + 65_536) as *mut u8;
                // SAFETY: the buffer is the client's memory.
                unsafe { client.queues[0].read_raw(0, at, 512, 200 + round) }.unwrap();
                client.kick(0);
            }
            client.queues[0].flush(300).unwrap();
            client.kick(0);
            let arrived = |what: &What| matches!(what, What::Arrived(a) if a.request.leg == LegId(u8::from(leg == "b")));
            bench.events.wait_count("all requests", 13, arrived);
        }
        for state in bench.device().faults().rules() {
            assert!(
                state.fired > 0 || state.rule.may_not_fire,
                "`{}` never fired",
                state.rule.name
            );
        }
        bench.stop();
    }
    let page = std::fs::read_to_string(
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/faults.md"),
    )
    .unwrap();
    assert_eq!(shown.len(), 21, "{shown:?}");
    for name in shown {
        assert!(
            page.contains(&format!("| {name}")) || page.contains(&format!(", {name}")),
            "{name} is in the table"
        );
    }
}
