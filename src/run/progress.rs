//! What a run shows while it goes on: one living line on a terminal, plain lines elsewhere. All of it goes to standard error.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::clock;
use crate::witness::wire::Live;

/// How often a plain line tells that a long stage goes on.
const PLAIN_EVERY: Duration = Duration::from_secs(30);

/// The run's progress.
#[derive(Debug)]
pub(super) struct Progress {
    bar: Option<ProgressBar>,
    stage: String,
    said: Instant,
}

impl Progress {
    /// On a terminal a living line, else plain lines.
    pub(super) fn new() -> Progress {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            bar.set_style(
                ProgressStyle::with_template("{spinner} {elapsed:>4} {wide_msg}")
                    .expect("a fixed template"),
            );
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        Progress {
            bar,
            stage: String::new(),
            said: clock::now(),
        }
    }

    /// A stage begins.
    pub(super) fn stage(&mut self, text: &str) {
        text.clone_into(&mut self.stage);
        self.said = clock::now();
        match &self.bar {
            Some(bar) => bar.set_message(self.stage.clone()),
            None => eprintln!("legwatch: {text}"),
        }
    }

    /// Live numbers.
    pub(super) fn live(&mut self, live: &Live, legs: &[String]) {
        let rates = legs
            .iter()
            .zip(live.completed.iter().zip(&live.in_flight))
            .map(|(leg, (completed, in_flight))| format!("{leg} {completed} (+{in_flight})"))
            .collect::<Vec<_>>()
            .join("  ");
        let text = format!(
            "{}   requests {rates}   findings {}",
            self.stage, live.findings
        );
        match &self.bar {
            Some(bar) => bar.set_message(text),
            None if clock::now().duration_since(self.said) >= PLAIN_EVERY => {
                self.said = clock::now();
                eprintln!("legwatch: {text}");
            }
            None => {}
        }
    }

    /// A line that stays.
    pub(super) fn line(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| eprintln!("{text}")),
            None => eprintln!("{text}"),
        }
    }

    /// Takes the living line away.
    pub(super) fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

impl Default for Progress {
    fn default() -> Progress {
        Progress::new()
    }
}
