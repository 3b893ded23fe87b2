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
        // Announced and not told, a run would take the next kernel's line for its own in some parsers.
        for key in &summary.missing {
            let row = summary.plan.rows.iter().find(|row| {
                let seed = key
                    .strip_prefix(&row.key)
                    .and_then(|rest| rest.strip_prefix('@'));
                row.kernel == *kernel && seed.is_some_and(|seed| seed.parse::<u64>().is_ok())
            });
            let (Some(row), Some((_, seed))) = (row, key.rsplit_once('@')) else {
                continue;
            };
            if worst != State::Failed {
                worst = State::Inconclusive;
            }
            lines.push(format!(
                "    not ok {} {} seed {seed} # ERROR not run",
                lines.len() + 1,
                plain(&row.scenario)
            ));
        }
        writeln!(out, "    KTAP version 1\n    1..{}", lines.len())
            .expect("a string takes everything");
        for line in &lines {
            out.push_str(line);
            out.push('\n');
        }
        let ok = worst == State::Passed;
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
