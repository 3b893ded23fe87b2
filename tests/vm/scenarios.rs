//! The scenarios with plain md raid1 on stock kernels: each ends clean, with what it has to show shown. docs/scenarios.md has what came of all of them.

use super::harness::{full, run};

/// The kernels of the whole matrix.
const KERNELS: [&str; 5] = ["5.10", "6.1", "6.12", "6.18", "7.3.4"];

/// The scenarios; with `LEGWATCH_FULL` on all of [`KERNELS`].
const SCENARIOS: [&str; 46] = [
    "bad-blocks",
    "bitmap-large-chunks",
    "bitmap-live",
    "bitmap-small-chunks",
    "buffered-pressure",
    "check-repair",
    "data-offsets",
    "degraded-start",
    "discard-one-leg",
    "discards",
    "failfast",
    "fio-verify",
    "flush-storm",
    "grow",
    "grow-legs",
    "grow-size",
    "kill-in-load",
    "kill-no-bitmap",
    "known-k1",
    "known-k2",
    "large-io",
    "legs-4k",
    "legs-mixed-blocks",
    "libaio",
    "metadata-0.90",
    "metadata-1.0",
    "metadata-1.1",
    "no-bad-block-log",
    "no-write-cache",
    "nowait",
    "one-at-a-time",
    "overlap",
    "read-repair",
    "readd-bitmap",
    "readd-no-bitmap",
    "repair-interrupted",
    "replacement",
    "resync-load",
    "scribblers",
    "serialize-policy",
    "slow-legs",
    "small-writers",
    "spare-recovery",
    "stop-assemble",
    "swap",
    "write-zeroes",
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

/// A test for each scenario on one kernel: what runs by default.
macro_rules! by_default {
    ($($test:ident: $scenario:literal on $kernel:literal;)*) => {
        const BY_DEFAULT: &[(&str, &str)] = &[$(($scenario, $kernel)),*];
        $(
            #[test]
            fn $test() {
                verdict($scenario, $kernel);
            }
        )*
    };
}

by_default! {
    bad_blocks_ends_clean: "bad-blocks" on "6.12";
    bitmap_live_ends_clean: "bitmap-live" on "7.3.4";
    check_repair_ends_clean: "check-repair" on "7.3.4";
    degraded_start_ends_clean: "degraded-start" on "6.1";
    discards_ends_clean: "discards" on "6.18";
    flush_storm_ends_clean: "flush-storm" on "6.1";
    grow_ends_clean: "grow" on "6.12";
    grow_legs_ends_clean: "grow-legs" on "7.3.4";
    grow_size_ends_clean: "grow-size" on "6.12";
    kill_in_load_ends_clean: "kill-in-load" on "6.12";
    known_k2_ends_clean: "known-k2" on "6.12";
    libaio_ends_clean: "libaio" on "5.10";
    metadata_0_90_ends_clean: "metadata-0.90" on "7.3.4";
    no_bad_block_log_ends_clean: "no-bad-block-log" on "7.3.4";
    nowait_ends_clean: "nowait" on "6.12";
    overlap_ends_clean: "overlap" on "6.12";
    readd_bitmap_ends_clean: "readd-bitmap" on "6.12";
    repair_interrupted_ends_clean: "repair-interrupted" on "7.3.4";
    replacement_ends_clean: "replacement" on "6.18";
}

#[test]
fn every_scenario_ends_clean_on_every_stock_kernel() {
    if !full() {
        return;
    }
    for scenario in SCENARIOS {
        for kernel in KERNELS {
            if !BY_DEFAULT.contains(&(scenario, kernel)) {
                verdict(scenario, kernel);
            }
        }
    }
}
