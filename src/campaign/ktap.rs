//! A campaign as KTAP, version 1 (Documentation/dev-tools/ktap.rst of the kernel): a test a kernel, a subtest a run.
//!
//! What could not be told has the directive ERROR, which KTAP has for a test that could not be executed.

use std::fmt::Write as _;

use super::result::State;
use super::summary::Summary;

/// The document.
pub fn render(summary: &Summary) -> String {
    let mut kernels: Vec<&str> = Vec::new();
    for row in &summary.plan.rows {
        if !kernels.contains(&row.kernel.as_str()) {
            kernels.push(&row.kernel);
        }
    }
    let mut out = format!("KTAP version 1\n1..{}\n", kernels.len());
    for (at, kernel) in kernels.iter().enumerate() {
        let mut lines = Vec::new();
        let mut worst = State::Passed;
        let mut any = false;
        for row in summary.plan.rows.iter().filter(|row| row.kernel == *kernel) {
            for result in summary.of_row(&row.key) {
                let (ok, directive) = match result.state {
                    State::Passed => (true, String::new()),
                    State::Failed => (false, String::new()),
                    State::Skipped => (true, format!(" # SKIP {}", plain(&result.detail))),
                    State::Inconclusive | State::Lost | State::Refused | State::Broken => (
                        false,
                        format!(
                            " # ERROR {}: {}",
                            result.state.word(),
                            plain(&result.detail)
                        ),
                    ),
                };
                any |= result.state == State::Passed;
                if !ok && worst != State::Failed {
                    worst = result.state;
                }
                let mut text = String::new();
                if result.state == State::Failed {
                    writeln!(text, "    # {}", plain(&result.detail))
                        .expect("a string takes everything");
                }
                if let Some(why) = &result.lost_before {
                    writeln!(text, "    # lost once: {}", plain(why))
                        .expect("a string takes everything");
                }
                write!(
                    text,
                    "    {} {} {}{directive}",
                    if ok { "ok" } else { "not ok" },
                    lines.len() + 1,
                    name(&row.scenario, result.seed)
                )
                .expect("a string takes everything");
                lines.push(text);
            }
        }
        // Runs without a result are announced and not told: a parser calls them missing.
        let kernel_has = |key: &&String| {
            summary.plan.rows.iter().any(|row| {
                row.kernel == *kernel
                    && key
                        .rsplit_once('@')
                        .is_some_and(|(begin, _)| begin == row.key)
            })
        };
        let missing = summary.missing.iter().filter(kernel_has).count();
        writeln!(out, "    KTAP version 1\n    1..{}", lines.len() + missing)
            .expect("a string takes everything");
        for line in &lines {
            out.push_str(line);
            out.push('\n');
        }
        let ok = worst == State::Passed && missing == 0;
        let skip = if ok && !any {
            " # SKIP nothing ran"
        } else {
            ""
        };
        writeln!(
            out,
            "{} {} {}{skip}",
            if ok { "ok" } else { "not ok" },
            at + 1,
            plain(kernel)
        )
        .expect("a string takes everything");
    }
    out
}

/// A test's name.
fn name(scenario: &str, seed: u64) -> String {
    format!("{} seed {seed}", plain(scenario))
}

/// A text that can't be taken for a directive, nor break the line.
fn plain(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '#' => '.',
            c if c.is_control() => ' ',
            c => c,
        })
        .collect()
}
