//! What a campaign shows while it goes on: on a terminal a bar and a line a guest, elsewhere a line a run. All of it goes to standard error.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::campaign::{RunResult, State, table};

/// The campaign's progress.
#[derive(Debug)]
pub(super) struct Progress {
    bars: Option<Bars>,
    done: u64,
    /// Runs in all, where that is known.
    all: Option<u64>,
    bad: u64,
}

#[derive(Debug)]
struct Bars {
    multi: MultiProgress,
    total: ProgressBar,
    jobs: Vec<ProgressBar>,
}

impl Progress {
    /// For so many runs and jobs.
    pub(super) fn new(all: Option<u64>, jobs: usize) -> Progress {
        let bars = std::io::stderr().is_terminal().then(|| {
            let style = |text: &str| ProgressStyle::with_template(text).expect("a fixed template");
            let multi = MultiProgress::new();
            let total = multi.add(match all {
                Some(all) => ProgressBar::new(all),
                None => ProgressBar::no_length(),
            });
            total.set_style(style(match all {
                Some(_) => "{elapsed_precise} {bar:30} {pos}/{len} {msg}",
                None => "{elapsed_precise} {spinner} {pos} runs {msg}",
            }));
            let jobs: Vec<ProgressBar> = (0..jobs)
                .map(|_| {
                    let bar = multi.add(ProgressBar::no_length());
                    bar.set_style(style("  {spinner} {wide_msg}"));
                    bar
                })
                .collect();
            for bar in jobs.iter().chain([&total]) {
                bar.enable_steady_tick(Duration::from_millis(120));
            }
            Bars { multi, total, jobs }
        });
        Progress {
            bars,
            done: 0,
            all,
            bad: 0,
        }
    }

    /// What a job is doing.
    pub(super) fn job(&self, job: usize, text: &str) {
        if let Some(bar) = self.bars.as_ref().and_then(|bars| bars.jobs.get(job)) {
            bar.set_message(text.to_owned());
        }
    }

    /// A line that stays.
    pub(super) fn line(&self, text: &str) {
        match &self.bars {
            Some(bars) => bars.multi.suspend(|| eprintln!("{text}")),
            None => eprintln!("{text}"),
        }
    }

    /// A run has ended.
    pub(super) fn ended(&mut self, result: &RunResult) {
        self.done += 1;
        let good = matches!(result.state, State::Passed | State::Skipped);
        self.bad += u64::from(!good);
        if let Some(bars) = &self.bars {
            bars.total.set_position(self.done);
            if self.bad > 0 {
                bars.total
                    .set_message(format!("{} not as expected", self.bad));
            }
            // What went well need not stay on the screen.
            if good {
                return;
            }
        }
        let of = self.all.map_or_else(String::new, |all| format!("/{all}"));
        self.line(&format!(
            "legwatch: [{}{of}] {}",
            self.done,
            table::line(result)
        ));
    }

    /// Takes the living lines away.
    pub(super) fn end(&self) {
        if let Some(bars) = &self.bars {
            for bar in bars.jobs.iter().chain([&bars.total]) {
                bar.finish_and_clear();
            }
        }
    }
}
