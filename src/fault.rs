//! What a rule decides about a request: once, purely, from the leg's configuration. (The language of rules grows here.)

use std::time::Duration;

use smallvec::SmallVec;

use crate::block::{LegId, Operation, RequestId};
use crate::config::LegConfig;
use crate::event::{Action, Decided};

/// The rules of one leg.
#[derive(Clone, Debug, Default)]
pub struct LegRules {
    delay_ms: u32,
    write_delay_ms: u32,
    late_fetch: bool,
}

/// What happens to one request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// How long its answer is held back, from its arrival.
    pub delay: Duration,
    /// Whether a write's payload is fetched just before completion.
    pub late_fetch: bool,
    /// Which rules did that, to be recorded.
    pub decided: SmallVec<[Decided; 2]>,
}

impl LegRules {
    /// The rules that a leg's configuration means: number 0 is `delay_ms`, 1 `write_delay_ms`, 2 `late_fetch`.
    pub fn new(config: &LegConfig) -> LegRules {
        LegRules {
            delay_ms: config.delay_ms,
            write_delay_ms: config.write_delay_ms,
            late_fetch: config.late_fetch,
        }
    }

    /// Whether no request can be hit.
    pub fn is_empty(&self) -> bool {
        self.delay_ms == 0 && self.write_delay_ms == 0 && !self.late_fetch
    }

    /// Decides about a request.
    pub fn decide(&self, leg: LegId, number: u64, operation: Operation) -> Decision {
        let mut decision = Decision::default();
        let write = operation == Operation::Write;
        let mut hit = |rule, action| {
            decision.decided.push(Decided {
                request: RequestId { leg, number },
                rule,
                action,
            });
        };
        if self.delay_ms > 0 {
            hit(0, Action::Delay { ms: self.delay_ms });
            decision.delay += Duration::from_millis(u64::from(self.delay_ms));
        }
        if write && self.write_delay_ms > 0 {
            hit(
                1,
                Action::Delay {
                    ms: self.write_delay_ms,
                },
            );
            decision.delay += Duration::from_millis(u64::from(self.write_delay_ms));
        }
        if write && self.late_fetch {
            hit(2, Action::LateFetch);
            decision.late_fetch = true;
        }
        decision
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_add_up_and_are_recorded() {
        let mut config = LegConfig::memory("a", 512);
        assert!(LegRules::new(&config).is_empty());
        config.delay_ms = 5;
        config.write_delay_ms = 7;
        config.late_fetch = true;
        let rules = LegRules::new(&config);
        let read = rules.decide(LegId(0), 1, Operation::Read);
        assert_eq!(read.delay, Duration::from_millis(5));
        assert_eq!(read.decided.len(), 1);
        let write = rules.decide(LegId(0), 2, Operation::Write);
        assert_eq!(write.delay, Duration::from_millis(12));
        assert!(write.late_fetch);
        assert_eq!(
            write.decided.iter().map(|d| d.rule).collect::<Vec<_>>(),
            [0, 1, 2]
        );
    }
}
