//! What legwatch is to reach, read from a small table of text: pure.

use std::fmt;

use crate::failure::Failure;

/// The targets of this project.
pub(crate) const TARGETS: &str = include_str!("targets.txt");

/// What a target is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Measure {
    /// Requests a second, to the baseline's.
    Ratio,
    /// The backend's CPU microseconds an operation.
    CpuUs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comparison {
    AtLeast,
    AtMost,
}

/// One line of the table.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Target {
    pub(crate) case: String,
    pub(crate) measure: Measure,
    comparison: Comparison,
    value: f64,
}

impl Target {
    pub(crate) fn met(&self, value: f64) -> bool {
        match self.comparison {
            Comparison::AtLeast => value >= self.value,
            Comparison::AtMost => value <= self.value,
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = match self.comparison {
            Comparison::AtLeast => '≥',
            Comparison::AtMost => '≤',
        };
        match self.measure {
            Measure::Ratio => write!(f, "{sign} {}", self.value),
            Measure::CpuUs => write!(f, "{sign} {} µs", self.value),
        }
    }
}

/// Reads the table: a line a target, `#` starts a comment.
pub(crate) fn parse(text: &str) -> Result<Vec<Target>, Failure> {
    let mut targets = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default();
        let words: Vec<&str> = line.split_whitespace().collect();
        if words.is_empty() {
            continue;
        }
        let wrong = |what: &str| Failure::Usage(format!("targets, line {}: {what}", index + 1));
        let [case, measure, comparison, value] = words[..] else {
            return Err(wrong("expected CASE MEASURE COMPARISON VALUE"));
        };
        targets.push(Target {
            case: case.to_owned(),
            measure: match measure {
                "ratio" => Measure::Ratio,
                "cpu_us" => Measure::CpuUs,
                _ => return Err(wrong("the measure is ratio or cpu_us")),
            },
            comparison: match comparison {
                ">=" => Comparison::AtLeast,
                "<=" => Comparison::AtMost,
                _ => return Err(wrong("the comparison is >= or <=")),
            },
            value: match value.parse::<f64>() {
                Ok(value) if value.is_finite() => value,
                _ => return Err(wrong("the value is a number")),
            },
        });
    }
    Ok(targets)
}

/// The target of a case in a measure.
pub(crate) fn find<'a>(targets: &'a [Target], case: &str, measure: Measure) -> Option<&'a Target> {
    targets
        .iter()
        .find(|target| target.case == case && target.measure == measure)
}

#[cfg(test)]
#[allow(
    dead_code,
    unused_imports,
    reason = "run by tests/bench_client.rs: a bench has no harness for them"
)]
mod tests {
    use super::*;

    #[test]
    fn a_line_becomes_a_target() {
        let targets = parse("# head\n\n4k-write-qd1 ratio >= 3.5 # why\nflush-qd1 cpu_us <= 4\n")
            .expect("two lines");
        assert_eq!(targets.len(), 2);
        let ratio = find(&targets, "4k-write-qd1", Measure::Ratio).expect("the first");
        assert!(ratio.met(3.5) && !ratio.met(3.4));
        assert_eq!(ratio.to_string(), "≥ 3.5");
        let cpu = find(&targets, "flush-qd1", Measure::CpuUs).expect("the second");
        assert!(cpu.met(4.0) && !cpu.met(4.1));
        assert_eq!(cpu.to_string(), "≤ 4 µs");
        assert_eq!(find(&targets, "flush-qd1", Measure::Ratio), None);
    }

    #[test]
    fn a_wrong_line_is_named() {
        for (text, part) in [
            ("a ratio >= 1\nb ratio >=", "line 2"),
            ("a speed >= 1", "measure"),
            ("a ratio > 1", "comparison"),
            ("a ratio >= fast", "number"),
            ("a ratio >= nan", "number"),
        ] {
            let message = parse(text).expect_err(text).to_string();
            assert!(message.contains(part), "{message}");
        }
    }

    #[test]
    fn every_target_is_of_a_case_that_exists() {
        let cases = crate::case::all(&[1, 32, 128], 8);
        for target in parse(TARGETS).expect("the built-in table") {
            assert!(
                cases.iter().any(|case| case.name == target.case),
                "{}",
                target.case
            );
        }
    }
}
