//! A campaign as KTAP, version 1 (Documentation/dev-tools/ktap.rst of the kernel): a test a kernel, a subtest a run, and one for a row's runs that were not
//! made.
//!
//! What could not be told has the directive ERROR, which KTAP has for a test that could not be executed.

use std::fmt::Write as _;

use super::museum;
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
            let title = plain(&museum::title(row));
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
                let seed = result.planned_seed();
                if result.seed != seed {
                    writeln!(text, "    # seed {}", result.seed)
                        .expect("a string takes everything");
                }
                if let Some(why) = &result.lost_before {
                    writeln!(text, "    # lost once: {}", plain(why))
                        .expect("a string takes everything");
                }
                write!(
                    text,
                    "    {} {} {title} seed {seed}{directive}",
                    if ok { "ok" } else { "not ok" },
                    lines.len() + 1,
                )
                .expect("a string takes everything");
                lines.push(text);
            }
            if let Some(words) = summary.missing_words(row) {
                if worst != State::Failed {
                    worst = State::Inconclusive;
                }
                lines.push(format!(
                    "    not ok {} {title} # ERROR {words}",
                    lines.len() + 1
                ));
            }
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
