//! What a run shows while it goes on: two living lines on a terminal, plain lines elsewhere. All of it goes to standard error.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::clock;
use crate::witness::wire::Live;

/// How often a plain line tells that a long stage goes on.
const PLAIN_EVERY: Duration = Duration::from_secs(30);
/// In place of [`PLAIN_EVERY`]: seconds, in the environment. `legwatch test` reads its runs' lines that way.
pub(crate) const EVERY_VARIABLE: &str = "LEGWATCH_LIVE_SECONDS";
/// Over how long rates are taken.
const RATE_OVER: Duration = Duration::from_secs(1);

/// The run's progress.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    plain_every: Duration,
    stage: String,
    said: Instant,
    last: String,
    rates: Rates,
}

/// Completed requests a second, a leg each.
#[derive(Debug)]
struct Rates {
    since: Instant,
    completed: Vec<u64>,
    rates: Vec<u64>,
}

impl Rates {
    fn take(&mut self, completed: &[u64], now: Instant) {
        let over = now.duration_since(self.since);
        if over < RATE_OVER {
            return;
        }
        let ms = u64::try_from(over.as_millis()).unwrap_or(u64::MAX).max(1);
        let before = |at: usize| self.completed.get(at).copied().unwrap_or(0);
        self.rates = completed
            .iter()
            .enumerate()
            .map(|(at, now)| now.saturating_sub(before(at)).saturating_mul(1000) / ms)
            .collect();
        self.completed = completed.to_vec();
        self.since = now;
    }
}

impl Progress {
    /// On a terminal the stage and, below it, the numbers; else plain lines.
    pub(crate) fn new() -> Progress {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            bar.set_style(
                ProgressStyle::with_template("{spinner} {elapsed:>4} {prefix}\n  {wide_msg}")
                    .expect("a fixed template"),
            );
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        let asked = std::env::var(EVERY_VARIABLE).ok();
        let asked = asked.and_then(|text| text.parse().ok());
        Progress {
            bar,
            plain_every: asked.map_or(PLAIN_EVERY, Duration::from_secs),
            stage: String::new(),
            said: clock::now(),
            last: String::new(),
            rates: Rates {
                since: clock::now(),
                completed: Vec::new(),
                rates: Vec::new(),
            },
        }
    }

    /// A stage begins.
    pub(crate) fn stage(&mut self, text: &str) {
        self.name(text);
        if self.bar.is_none() {
            eprintln!("legwatch: {text}");
        }
    }

    /// A stage begins that needs no line of its own.
    pub(crate) fn name(&mut self, text: &str) {
        text.clone_into(&mut self.stage);
        self.said = clock::now();
        if let Some(bar) = &self.bar {
            bar.set_prefix(self.stage.clone());
        }
    }

    /// Live numbers.
    pub(crate) fn live(&mut self, live: &Live, legs: &[String]) {
        let now = clock::now();
        self.rates.take(&live.completed, now);
        let text = in_words(live, &self.rates.rates, legs);
        match &self.bar {
            Some(bar) => bar.set_message(text),
            None if now.duration_since(self.said) >= self.plain_every => {
                self.said = now;
                let text = format!("{}  {text}", self.stage);
                // Where nothing goes on, nothing is told.
                if text != self.last {
                    eprintln!("legwatch: {text}");
                }
                self.last = text;
            }
            None => {}
        }
    }

    /// A line that stays.
    pub(crate) fn line(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| eprintln!("{text}")),
            None => eprintln!("{text}"),
        }
    }

    /// Takes the living line away.
    pub(crate) fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// What was found, what differs now, what rules did; then a leg each its rate and what it has in flight. Where the terminal is narrow, the end is cut off.
fn in_words(live: &Live, rates: &[u64], legs: &[String]) -> String {
    let mut text = format!("findings {}", live.findings);
    for (what, count) in [("suspect", live.suspect), ("faults", live.faults)] {
        if count > 0 {
            text.push_str(&format!("  {what} {count}"));
        }
    }
    let (unequal, more) = live.unequal;
    text.push_str(&format!(
        "  unequal {unequal}{}",
        if more { "+" } else { "" }
    ));
    for (at, leg) in legs.iter().enumerate() {
        let rate = rates.get(at).copied().unwrap_or(0);
        let in_flight = live.in_flight.get(at).copied().unwrap_or(0);
        text.push_str(&format!("  {leg} {rate}/s +{in_flight}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_a_rate_a_leg_and_all_counts() {
        let begun = clock::now();
        let mut rates = Rates {
            since: begun,
            completed: Vec::new(),
            rates: Vec::new(),
        };
        rates.take(&[100, 50], begun);
        assert!(rates.rates.is_empty(), "no time has passed");
        rates.take(&[1000, 0], begun + Duration::from_secs(2));
        rates.take(&[4000, 20], begun + Duration::from_secs(4));
        let live = Live {
            completed: vec![4000, 20],
            in_flight: vec![3, 0],
            unequal: (40, true),
            faults: 2,
            findings: 1,
            ..Live::default()
        };
        let legs = ["a".to_owned(), "b".to_owned()];
        assert_eq!(
            in_words(&live, &rates.rates, &legs),
            "findings 1  faults 2  unequal 40+  a 1500/s +3  b 10/s +0"
        );
    }
}
