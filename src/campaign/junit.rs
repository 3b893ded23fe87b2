//! A campaign as JUnit XML: a suite a kernel, a case a run, and one for a row's runs that were not made. What could not be told is an error, never a failure
//! and never a success.

use std::time::Duration;

use quick_junit::{
    FlakyOrRerun, NonSuccessKind, Property, Report, TestCase, TestCaseStatus, TestRerun, TestSuite,
};

use super::museum;
use super::result::{RunResult, State};
use super::summary::Summary;

/// The document.
pub fn render(summary: &Summary) -> String {
    let mut report = Report::new("legwatch");
    let mut kernels: Vec<&str> = Vec::new();
    for row in &summary.plan.rows {
        if !kernels.contains(&row.kernel.as_str()) {
            kernels.push(&row.kernel);
        }
    }
    for kernel in kernels {
        let mut suite = TestSuite::new(kernel);
        let mut ms = 0;
        for row in summary.plan.rows.iter().filter(|row| row.kernel == kernel) {
            let title = museum::title(row);
            for result in summary.of_row(&row.key) {
                ms += result.ms;
                suite.add_test_case(case(&title, kernel, result));
            }
            if let Some(words) = summary.missing_words(row) {
                let mut status = TestCaseStatus::non_success(NonSuccessKind::Error);
                status.set_type("not-run").set_message(words);
                let mut case = TestCase::new(title, status);
                case.set_classname(kernel);
                suite.add_test_case(case);
            }
        }
        suite.set_time(Duration::from_millis(ms));
        report.add_test_suite(suite);
    }
    report.set_time(Duration::from_millis(
        summary.results.iter().map(|result| result.ms).sum(),
    ));
    report.to_string().expect("strings are written to a string")
}

fn case(title: &str, kernel: &str, result: &RunResult) -> TestCase {
    let error = |kind: &str| {
        let mut status = TestCaseStatus::non_success(NonSuccessKind::Error);
        status.set_type(kind).set_message(result.detail.as_str());
        status
    };
    let mut status = match result.state {
        State::Passed => TestCaseStatus::success(),
        State::Failed => {
            let mut status = TestCaseStatus::non_success(NonSuccessKind::Failure);
            let what = result.findings.iter().find(|found| found.decides);
            status
                .set_type(what.map_or("not-found", |found| found.what.as_str()))
                .set_message(result.detail.as_str())
                .set_description(description(result));
            status
        }
        State::Skipped => {
            let mut status = TestCaseStatus::skipped();
            status.set_message(result.detail.as_str());
            status
        }
        State::Inconclusive => error("inconclusive"),
        State::Lost => error("lost-guest"),
        State::Refused => error("refused"),
        State::Broken => error("broken"),
    };
    if let Some(why) = &result.lost_before {
        let mut first = TestRerun::new(NonSuccessKind::Error);
        first.set_type("lost-guest").set_message(why.as_str());
        status.add_rerun(first);
        // A run that did not end well is no flaky one.
        if result.state != State::Passed {
            status.set_rerun_kind(FlakyOrRerun::Rerun);
        }
    }
    let seed = result.planned_seed();
    let mut case = TestCase::new(format!("{title} seed {seed}"), status);
    case.set_classname(kernel)
        .set_time(Duration::from_millis(result.ms));
    if result.seed != seed {
        case.add_property(Property::new("seed", result.seed.to_string()));
    }
    if let Some(folder) = &result.folder {
        case.add_property(Property::new("folder", folder));
    }
    if !result.known.is_empty() {
        case.add_property(Property::new("known", result.known.join(" ")));
    }
    if !result.again.is_empty() {
        case.add_property(Property::new("again", &result.again));
    }
    case
}

fn description(result: &RunResult) -> String {
    let mut text = format!("{}\n", result.detail);
    for found in &result.findings {
        let sure = if found.decides {
            ""
        } else {
            " (does not decide)"
        };
        text.push_str(&format!("{}: {}{sure}\n", found.what, found.headline));
    }
    if !result.again.is_empty() {
        text.push_str(&format!("again: {}\n", result.again));
    }
    text
}
