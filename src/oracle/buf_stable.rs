//! `buf-stable`: a buffer that its writer never touches again does not change while a leg's request reads from it.
//!
//! Covers: data-area writes whose buffer held something else just before completion than at fetch, where the fetched content is the stamp of a write from an
//! immutable buffer, or the request points at pages that the agent announced for such a buffer. The page was reused by somebody else: it was
//! not held.
//!
//! Does not cover: metadata areas (bitmap pages change in flight by design), buffered and re-used buffers (legal, case 12: the sector is
//! tainted until it is written again), runs without the agent, changes that were over before our second look. A request that outlives its step
//! makes the finding suspect: the promise about the buffer ended with the step.

use crate::event::Digests;

/// The runs of a request's sectors whose content changed, as (first, count).
pub(crate) fn changed(fetched: &Digests, now: &Digests) -> Vec<(usize, usize)> {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for at in 0..fetched.len() {
        if now.get(at) == fetched.get(at) {
            continue;
        }
        match runs.last_mut() {
            Some((first, count)) if *first + *count == at => *count += 1,
            Some(_) | None => runs.push((at, 1)),
        }
    }
    runs
}
