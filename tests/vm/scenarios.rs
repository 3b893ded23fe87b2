//! The scenarios with plain md raid1 on stock kernels: each ends clean, with what it has to show shown. docs/scenarios.md has what came of all of them.

use super::harness::{full, run};

/// The kernels of the whole matrix.
const KERNELS: [&str; 5] = ["5.10", "6.1", "6.12", "6.18", "7.3.4"];

/// The scenarios, each with the kernels that it runs on by default; with `LEGWATCH_FULL` on all of [`KERNELS`].
const SCENARIOS: &[(&str, &[&str])] = &[
    ("bad-blocks", &["6.12"]),
    ("bitmap-large-chunks", &[]),
    ("bitmap-live", &["7.3.4"]),
    ("bitmap-small-chunks", &[]),
    ("buffered-pressure", &[]),
    ("check-repair", &[]),
    ("data-offsets", &[]),
    ("degraded-start", &["6.1"]),
    ("discard-one-leg", &[]),
    ("discards", &["6.18"]),
    ("failfast", &[]),
    ("fio-verify", &[]),
    ("flush-storm", &["6.1"]),
    ("grow", &["6.12"]),
    ("kill-in-load", &["6.12"]),
    ("kill-no-bitmap", &[]),
    ("known-k1", &[]),
    ("known-k2", &["6.12"]),
    ("large-io", &[]),
    ("legs-4k", &[]),
    ("legs-mixed-blocks", &[]),
    ("libaio", &["5.10"]),
    ("metadata-0.90", &["7.3.4"]),
    ("metadata-1.0", &[]),
    ("metadata-1.1", &[]),
    ("no-write-cache", &[]),
    ("nowait", &["6.12"]),
    ("one-at-a-time", &[]),
    ("overlap", &["6.12"]),
    ("read-repair", &[]),
    ("readd-bitmap", &["6.12"]),
    ("readd-no-bitmap", &[]),
    ("replacement", &["6.18"]),
    ("resync-load", &[]),
    ("scribblers", &[]),
    ("serialize-policy", &[]),
    ("slow-legs", &[]),
    ("small-writers", &[]),
    ("spare-recovery", &[]),
    ("stop-assemble", &[]),
    ("swap", &[]),
    ("write-zeroes", &[]),
];

/// Where a scenario can't show what it is for: the words of the reason.
const INCONCLUSIVE: &[(&str, &str, &str)] = &[];

fn verdict(scenario: &str, kernel: &str) {
    let ran = run(scenario, &format!("pinned:{kernel}"), &[]);
    let reason = INCONCLUSIVE
        .iter()
        .find(|(name, release, _)| (*name, *release) == (scenario, kernel));
    match reason {
        Some((_, _, words)) => {
            ran.ended_with(125).because(words);
        }
        None => {
            ran.ended_with(0);
        }
    }
    ran.agrees_on_findings();
}

#[test]
fn scenarios_end_clean_on_stock_kernels() {
    for (scenario, kernels) in SCENARIOS {
        for kernel in *kernels {
            verdict(scenario, kernel);
        }
    }
}

#[test]
fn every_scenario_ends_clean_on_every_stock_kernel() {
    if !full() {
        return;
    }
    for (scenario, kernels) in SCENARIOS {
        for kernel in KERNELS.iter().filter(|kernel| !kernels.contains(*kernel)) {
            verdict(scenario, kernel);
        }
    }
}
