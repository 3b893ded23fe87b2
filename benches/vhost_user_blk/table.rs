//! The report: figures to Markdown. Pure.

use std::fmt::Write;

use crate::stats::{self, Paired, Slice, Summary, cpu_us, ratio, summarize};
use crate::targets::{Measure, Target, find};

/// What one backend gave in one case.
#[derive(Clone, Debug)]
pub(crate) enum Cell {
    Slices(Vec<Slice>),
    /// Why there is nothing.
    Nothing(String),
    /// It is not measured in this case.
    NotAsked,
}

impl Cell {
    fn slices(&self) -> &[Slice] {
        match self {
            Cell::Slices(slices) => slices,
            Cell::Nothing(_) | Cell::NotAsked => &[],
        }
    }
}

/// One case's cells, in the order of the backends.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) case: String,
    pub(crate) block_bytes: usize,
    pub(crate) cells: Vec<Cell>,
}

/// Backends whose figures stand against the targets.
fn has_targets(backend: &str) -> bool {
    backend.starts_with("legwatch")
}

/// Ratios to the first backend, a row a case; targets where there are some.
pub(crate) fn ratios(backends: &[String], rows: &[Row], targets: &[Target]) -> String {
    let mut table = vec![vec!["case".to_owned()]];
    if let Some(baseline) = backends.first() {
        table[0].push(format!("{baseline}, req/s"));
    }
    table[0].extend(backends.iter().skip(1).cloned());
    table[0].push("target".to_owned());
    for row in rows {
        let target = find(targets, &row.case, Measure::Ratio);
        let baseline = row.cells.first().map_or(&[][..], Cell::slices);
        let mut line = vec![
            row.case.clone(),
            summarize(baseline).map_or_else(nothing, |it| count(it.rate)),
        ];
        for (backend, cell) in backends.iter().zip(&row.cells).skip(1) {
            line.push(match ratio(cell.slices(), baseline) {
                Some(ratio) => format!(
                    "{ratio:.2}{}",
                    mark(target.filter(|_| has_targets(backend)), ratio)
                ),
                None => nothing(),
            });
        }
        line.push(target.map(ToString::to_string).unwrap_or_default());
        table.push(line);
    }
    markdown(&table)
}

/// What watching costs: CPU µs an operation, and the rate to that with everything on, of each backend that watches less than another.
pub(crate) fn costs(backends: &[String], rows: &[Row]) -> Option<String> {
    // legwatch-file-none is legwatch-file's, and all others are legwatch's.
    let whole_of = |name: &str| match name.strip_prefix("legwatch-")? {
        "file" => None,
        rest if rest.starts_with("file-") => Some("legwatch-file"),
        _ => Some("legwatch"),
    };
    let at = |name: &str| backends.iter().position(|other| other == name);
    let mut table = vec![
        ["case", "backend", "CPU µs", "everything on", "rate"]
            .map(str::to_owned)
            .to_vec(),
    ];
    for row in rows {
        for (backend, cell) in backends.iter().zip(&row.cells) {
            let Some(whole) = whole_of(backend).and_then(at).map(|at| &row.cells[at]) else {
                continue;
            };
            let (Some(less), Some(all)) = (summarize(cell.slices()), summarize(whole.slices()))
            else {
                continue;
            };
            let cpu = |cpu: Option<f64>| cpu.map_or_else(nothing, |cpu| format!("{cpu:.2}"));
            let rate = ratio(cell.slices(), whole.slices());
            table.push(vec![
                row.case.clone(),
                backend.clone(),
                cpu(less.backend_cpu_us),
                cpu(all.backend_cpu_us),
                rate.map_or_else(nothing, |rate| format!("{rate:.2}")),
            ]);
        }
    }
    (table.len() > 1).then(|| markdown(&table))
}

/// Each backend against the first, round by round: CPU time an operation, time an operation, both as medians with their 95 % intervals.
pub(crate) fn paired(backends: &[String], rows: &[Row]) -> String {
    let head = [
        "case",
        "backend",
        "rounds",
        "CPU an operation",
        "95 %",
        "time an operation",
        "95 %",
    ];
    let mut table = vec![head.map(str::to_owned).to_vec()];
    let change = |paired: Option<Paired>| match paired {
        Some(Paired { ratio, low, high }) => {
            let percent = |ratio: f64| format!("{:+.1}", 100.0 * (ratio - 1.0));
            [
                format!("{} %", percent(ratio)),
                format!("{} to {}", percent(low), percent(high)),
            ]
        }
        None => [nothing(), nothing()],
    };
    for row in rows {
        let baseline = row.cells.first().map_or(&[][..], Cell::slices);
        for (backend, cell) in backends.iter().zip(&row.cells).skip(1) {
            let slices = cell.slices();
            let [cpu, cpu_interval] = change(stats::paired(slices, baseline, cpu_us));
            let time = |slice: &Slice| Some(1.0 / slice.rate()).filter(|time| time.is_finite());
            let [time, time_interval] = change(stats::paired(slices, baseline, time));
            let rounds = slices.len().min(baseline.len()).to_string();
            table.push(vec![
                row.case.clone(),
                backend.clone(),
                rounds,
                cpu,
                cpu_interval,
                time,
                time_interval,
            ]);
        }
    }
    markdown(&table)
}

/// Every figure, a row a case and backend.
pub(crate) fn details(backends: &[String], rows: &[Row], targets: &[Target]) -> String {
    let head = [
        "case",
        "backend",
        "req/s",
        "spread",
        "MiB/s",
        "p50 µs",
        "p99 µs",
        "CPU µs",
        "target",
        "client CPU µs",
    ];
    let mut table = vec![head.map(str::to_owned).to_vec()];
    for row in rows {
        for (backend, cell) in backends.iter().zip(&row.cells) {
            let Some(Summary {
                rate,
                spread_percent,
                p50_us,
                p99_us,
                backend_cpu_us,
                client_cpu_us,
            }) = summarize(cell.slices())
            else {
                continue;
            };
            let target = find(targets, &row.case, Measure::CpuUs).filter(|_| has_targets(backend));
            let mib = rate * f64::from(u32::try_from(row.block_bytes).unwrap_or(u32::MAX))
                / f64::from(1 << 20);
            table.push(vec![
                row.case.clone(),
                backend.clone(),
                count(rate),
                format!("{spread_percent:.0} %"),
                if row.case.starts_with("flush") {
                    nothing()
                } else {
                    count(mib)
                },
                format!("{p50_us:.1}"),
                format!("{p99_us:.1}"),
                backend_cpu_us.map_or_else(nothing, |cpu| format!("{cpu:.2}{}", mark(target, cpu))),
                target.map(ToString::to_string).unwrap_or_default(),
                format!("{client_cpu_us:.2}"),
            ]);
        }
    }
    markdown(&table)
}

/// What could not be measured, and why, each reason once a backend.
pub(crate) fn gaps(backends: &[String], rows: &[Row]) -> Vec<String> {
    let mut lines: Vec<(String, Vec<&str>)> = Vec::new();
    for (index, backend) in backends.iter().enumerate() {
        for row in rows {
            if let Some(Cell::Nothing(why)) = row.cells.get(index) {
                let line = format!("{backend}: {why}");
                match lines.iter_mut().find(|(other, _)| *other == line) {
                    Some((_, cases)) => cases.push(&row.case),
                    None => lines.push((line, vec![&row.case])),
                }
            }
        }
    }
    let text = |(line, cases): (String, Vec<&str>)| match cases.len() == rows.len() {
        true => format!("{line} (all cases)"),
        false => format!("{line} ({})", cases.join(", ")),
    };
    lines.into_iter().map(text).collect()
}

fn mark(target: Option<&Target>, value: f64) -> &'static str {
    match target.map(|target| target.met(value)) {
        Some(true) => " ✓",
        Some(false) => " ✗",
        None => "",
    }
}

fn nothing() -> String {
    "–".to_owned()
}

/// A number as one reads it: digits in threes.
pub(crate) fn count(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

/// A Markdown table: the first row is the head, the first column is left-aligned, the others are to the right.
pub(crate) fn markdown(rows: &[Vec<String>]) -> String {
    let Some(head) = rows.first() else {
        return String::new();
    };
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or(0)
            .max(3)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let mut text = String::new();
    for (index, row) in rows.iter().enumerate() {
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let pad = " ".repeat(width - cell.chars().count());
            let (before, after) = if column == 0 {
                ("", pad.as_str())
            } else {
                (pad.as_str(), "")
            };
            write!(text, "| {before}{cell}{after} ").ok();
        }
        text.push_str("|\n");
        if index == 0 {
            for (column, width) in widths.iter().enumerate() {
                let rule = "-".repeat(width - 1);
                text.push_str(&if column == 0 {
                    format!("| {rule}- ")
                } else {
                    format!("| {rule}: ")
                });
            }
            text.push_str("|\n");
        }
    }
    text
}

#[cfg(test)]
#[allow(
    dead_code,
    unused_imports,
    reason = "run by tests/bench_client.rs: a bench has no harness for them"
)]
mod tests {
    use super::*;
    use crate::targets::parse;

    fn slices(operations: u64) -> Cell {
        let slice = Slice {
            operations,
            seconds: 1.0,
            backend_cpu: Some(0.5),
            client_cpu: 0.1,
            p50_us: 10.0,
            p99_us: 20.04,
        };
        Cell::Slices(vec![slice])
    }

    fn rows() -> (Vec<String>, Vec<Row>) {
        let backends = ["qsd", "legwatch", "other"].map(str::to_owned).to_vec();
        let gone = Cell::Nothing("it is not there".to_owned());
        let rows = vec![
            Row {
                case: "4k-write-qd1".to_owned(),
                block_bytes: 4096,
                cells: vec![slices(10_000), slices(60_000), slices(5_000)],
            },
            Row {
                case: "flush-qd1".to_owned(),
                block_bytes: 4096,
                cells: vec![slices(1_234_567), gone.clone(), gone],
            },
        ];
        (backends, rows)
    }

    #[test]
    fn ratios_stand_beside_their_targets() {
        let (backends, rows) = rows();
        let targets = parse("4k-write-qd1 ratio >= 5").expect("a target");
        let text = ratios(&backends, &rows, &targets);
        let expected = "\
| case         | qsd, req/s | legwatch | other | target |
| ------------ | ---------: | -------: | ----: | -----: |
| 4k-write-qd1 |     10 000 |   6.00 ✓ |  0.50 |    ≥ 5 |
| flush-qd1    |  1 234 567 |        – |     – |        |
";
        assert_eq!(text, expected);
    }

    #[test]
    fn details_have_a_row_for_each_measured_cell() {
        let (backends, rows) = rows();
        let text = details(
            &backends,
            &rows,
            &parse("4k-write-qd1 cpu_us <= 4").expect("a target"),
        );
        assert_eq!(text.lines().count(), 2 + 4);
        let ours = text
            .lines()
            .find(|line| line.contains("legwatch"))
            .expect("our row");
        let cells: Vec<&str> = ours.split('|').map(str::trim).collect();
        assert_eq!(
            cells[3..11],
            [
                "60 000",
                "0 %",
                "234",
                "10.0",
                "20.0",
                "8.33 ✗",
                "≤ 4 µs",
                "1.67"
            ]
        );
    }

    #[test]
    fn what_watching_costs_stands_beside_everything_on() {
        let names = |names: [&str; 3]| names.map(str::to_owned).to_vec();
        let row = Row {
            case: "4k-write-qd1".to_owned(),
            block_bytes: 4096,
            cells: vec![slices(10_000), slices(50_000), slices(100_000)],
        };
        let text = costs(
            &names(["qsd", "legwatch", "legwatch-no-crc"]),
            std::slice::from_ref(&row),
        );
        let text = text.expect("a table");
        let cells: Vec<&str> = text
            .lines()
            .last()
            .expect("a row")
            .split('|')
            .map(str::trim)
            .collect();
        assert_eq!(
            cells[1..6],
            ["4k-write-qd1", "legwatch-no-crc", "5.00", "10.00", "2.00"]
        );
        // Nothing to compare with, nothing to say.
        let alone = names(["qsd", "legwatch-file", "legwatch-no-crc"]);
        assert_eq!(costs(&alone, &[row]), None);
    }

    #[test]
    fn gaps_are_told_once_a_reason() {
        let (backends, rows) = rows();
        assert_eq!(
            gaps(&backends, &rows),
            [
                "legwatch: it is not there (flush-qd1)",
                "other: it is not there (flush-qd1)"
            ]
        );
    }
}
