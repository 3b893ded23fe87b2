//! The gate that all writers of the guest pass before each request, so that somebody can have them all at rest: for a quiet point.
//!
//! A writer enters, passes again and again, and leaves. Whoever wants quiet closes the gate; every writer then finishes what it has in flight,
//! tells the ends, and parks. When all are parked the quiet point's work runs, the generation goes up, and the gate opens. A writer whose
//! immutable buffers are used up is parked too and asks for the quiet point itself.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// The gate.
#[derive(Debug, Default)]
pub(super) struct Gate {
    state: Mutex<State>,
    changed: Condvar,
    /// A copy of `state.closed` for writers that only pass.
    closed: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    writers: usize,
    parked: usize,
    closed: bool,
    /// Quiet points that were reached.
    generation: u64,
}

impl Gate {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed
            .wait(state)
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// A writer begins; waits while the gate is closed. Leaves when the pass is dropped.
    pub(super) fn enter(&self) -> Pass<'_> {
        let mut state = self.state();
        while state.closed {
            state = self.wait(state);
        }
        state.writers += 1;
        Pass {
            gate: self,
            generation: state.generation,
        }
    }

    /// Whether writers are asked to park.
    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// Closes the gate, waits until all writers are parked, runs `work`, and opens the gate again. If another quiet point is under way, waits
    /// for its end first. `work` tells whether the point was reached: buffers are renewed only then.
    pub(super) fn quiet<T>(&self, work: impl FnOnce() -> (bool, T)) -> T {
        let mut state = self.state();
        while state.closed {
            state = self.wait(state);
        }
        self.close_and_work(state, work)
    }

    fn close_and_work<T>(
        &self,
        mut state: MutexGuard<'_, State>,
        work: impl FnOnce() -> (bool, T),
    ) -> T {
        state.closed = true;
        self.closed.store(true, Ordering::Relaxed);
        while state.parked < state.writers {
            state = self.wait(state);
        }
        drop(state);
        let (reached, out) = work();
        let mut state = self.state();
        if reached {
            state.generation += 1;
        }
        state.closed = false;
        self.closed.store(false, Ordering::Relaxed);
        drop(state);
        self.changed.notify_all();
        out
    }
}

/// A writer's right to write.
#[derive(Debug)]
pub(super) struct Pass<'a> {
    gate: &'a Gate,
    generation: u64,
}

impl Pass<'_> {
    /// Parks until the gate is open; to be called with nothing in flight and all ends told. True if a quiet point was reached since the
    /// writer last asked: immutable buffers are fresh.
    pub(super) fn park(&mut self) -> bool {
        let mut state = self.gate.state();
        if state.closed {
            state.parked += 1;
            self.gate.changed.notify_all();
            while state.closed {
                state = self.gate.wait(state);
            }
            state.parked -= 1;
        }
        let renewed = state.generation > self.generation;
        self.generation = state.generation;
        renewed
    }

    /// Parks and has a quiet point made, by `work` here or by somebody who was first. As [`Pass::park`]; an error is `work`'s own.
    pub(super) fn park_for_quiet<E>(
        &mut self,
        work: impl FnOnce() -> Result<(), E>,
    ) -> Result<bool, E> {
        let mut state = self.gate.state();
        if state.closed {
            drop(state);
            return Ok(self.park());
        }
        state.parked += 1;
        let outcome = self.gate.close_and_work(state, || {
            let outcome = work();
            (outcome.is_ok(), outcome)
        });
        self.gate.state().parked -= 1;
        outcome?;
        Ok(self.park())
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        self.gate.state().writers -= 1;
        self.gate.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU32;

    #[test]
    fn nobody_writes_during_a_quiet_point_and_it_comes_with_any_number_of_writers() {
        let gate = Gate::default();
        let busy = AtomicU32::new(0);
        let quiets = AtomicU32::new(0);
        let work = || {
            assert_eq!(busy.load(Ordering::SeqCst), 0);
            std::thread::sleep(std::time::Duration::from_millis(1));
            assert_eq!(busy.load(Ordering::SeqCst), 0);
            quiets.fetch_add(1, Ordering::SeqCst);
        };
        std::thread::scope(|scope| {
            for writer in 0..4u32 {
                let (gate, busy, work) = (&gate, &busy, &work);
                scope.spawn(move || {
                    let mut pass = gate.enter();
                    for request in 0..400 + 100 * writer {
                        if gate.is_closed() {
                            pass.park();
                        }
                        if request % 100 == 99 {
                            let renewed = pass
                                .park_for_quiet(|| {
                                    work();
                                    Ok::<(), ()>(())
                                })
                                .unwrap();
                            assert!(renewed);
                        }
                        busy.fetch_add(1, Ordering::SeqCst);
                        std::thread::yield_now();
                        busy.fetch_sub(1, Ordering::SeqCst);
                    }
                });
            }
            for _ in 0..5 {
                gate.quiet(|| (true, work()));
            }
        });
        assert!(quiets.load(Ordering::SeqCst) >= 5);
        assert_eq!(gate.state().writers, 0);
    }
}
