//! A writer's buffers: where each write's data lies, when that memory may be written to again, and where it is in guest-physical memory.
//!
//! All of a writer's buffers are one pool of pages. A *slot* is the pool's page that a buffer begins at, so what was told about a slot's
//! pages stays true however the pool is divided later. With `immutable` buffers the pool is handed out from start to end and is *exhausted*
//! then: only a declared quiet point ([`Buffers::renew`]) makes it fresh. Else it is `depth` places, each used again at once.

use std::collections::BTreeMap;

use super::sys::{self, Memory, PAGE_BYTES};
use super::{Error, context};
use crate::mark::{PageRun, Pages};

/// The most slots a writer whose pages are told before each use: pagemap costs a system call, a mark a request to the control leg.
const TOLD_MAX: usize = 48;
/// The same for pinned pages, which are told once.
const TOLD_PINNED_MAX: usize = 256;

/// A place in the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// First byte, at a page's start.
    pub(super) at: usize,
    /// Bytes.
    pub(super) len: usize,
}

impl Place {
    /// The slot, as marks name it.
    pub(super) fn slot(self) -> u16 {
        u16::try_from(self.at / PAGE_BYTES).expect("a pool has less than 65536 pages")
    }

    fn pages(self) -> usize {
        self.len.div_ceil(PAGE_BYTES)
    }
}

/// One writer's buffers.
#[derive(Debug)]
pub(super) struct Buffers {
    memory: Memory,
    /// Bytes of a place that is used again; `None` for immutable buffers.
    stride: Option<usize>,
    /// Immutable: the first byte not handed out. Else unused.
    next: usize,
    /// Places to use again.
    free: Vec<usize>,
    /// The frames that were told, by slot.
    told: BTreeMap<u16, Vec<u64>>,
}

impl Buffers {
    /// A pool of `pool_bytes` to hand out once.
    pub(super) fn immutable(pool_bytes: usize) -> Result<Buffers, Error> {
        let memory = Memory::new(pool_bytes).map_err(context("memory for a writer's buffers"))?;
        Ok(Buffers {
            memory,
            stride: None,
            next: 0,
            free: Vec::new(),
            told: BTreeMap::new(),
        })
    }

    /// `places` places of `place_bytes` each.
    pub(super) fn reused(places: usize, place_bytes: usize) -> Result<Buffers, Error> {
        let stride = place_bytes.next_multiple_of(PAGE_BYTES);
        let memory =
            Memory::new(places * stride).map_err(context("memory for a writer's buffers"))?;
        Ok(Buffers {
            memory,
            stride: Some(stride),
            next: 0,
            free: (0..places).rev().map(|place| place * stride).collect(),
            told: BTreeMap::new(),
        })
    }

    /// The pool.
    pub(super) fn memory(&self) -> &Memory {
        &self.memory
    }

    /// A place of `len` bytes; `None` when an immutable pool is exhausted, or all places are in use.
    pub(super) fn take(&mut self, len: usize) -> Option<Place> {
        let at = if self.stride.is_some() {
            self.free.pop()?
        } else {
            let at = self.next;
            let end = at + len.next_multiple_of(PAGE_BYTES);
            if end > self.memory.len() {
                return None;
            }
            self.next = end;
            at
        };
        Some(Place { at, len })
    }

    /// A place's write is over.
    pub(super) fn give_back(&mut self, place: Place) {
        if self.stride.is_some() {
            self.free.push(place.at);
        }
    }

    /// The place taken last was not used after all.
    pub(super) fn undo(&mut self, place: Place) {
        if self.stride.is_some() {
            self.free.push(place.at);
        } else {
            self.next = place.at;
        }
    }

    /// A quiet point has been declared with nothing in flight: immutable buffers start anew.
    pub(super) fn renew(&mut self) {
        self.next = 0;
    }

    /// A place's bytes.
    pub(super) fn bytes_mut(&mut self, place: Place) -> &mut [u8] {
        &mut self.memory.bytes_mut()[place.at..place.at + place.len]
    }

    /// Changes a place's content, for a write that is in flight.
    pub(super) fn scribble(&mut self, place: Place, round: usize) {
        // One byte of each sector's fill, another one each time.
        for sector in (place.at..place.at + place.len).step_by(512) {
            self.memory.scribble(sector + 64 + round % 448);
        }
    }

    /// What is to be told about a place's pages, if that is new and the place is one of those that are told about.
    pub(super) fn news(&mut self, writer: u16, place: Place, pinned: bool) -> Option<Pages> {
        let slot = place.slot();
        let told = self.told.get(&slot);
        let enough = told.is_some_and(|frames| frames.len() >= place.pages());
        let max = if pinned { TOLD_PINNED_MAX } else { TOLD_MAX };
        if (pinned && enough) || (told.is_none() && self.told.len() >= max) {
            return None;
        }
        let frames = sys::frames(self.memory.address(place.at), place.pages())?;
        if told.is_some_and(|told| told.starts_with(&frames)) {
            return None;
        }
        Some(self.tell(writer, slot, pinned, frames))
    }

    /// What is to be told about a place's pages after its write: only if they were told before and have moved.
    pub(super) fn moved(&mut self, writer: u16, place: Place) -> Option<Pages> {
        let slot = place.slot();
        let told = self.told.get(&slot)?;
        let frames = sys::frames(self.memory.address(place.at), place.pages())?;
        if told.starts_with(&frames) {
            return None;
        }
        Some(self.tell(writer, slot, false, frames))
    }

    fn tell(&mut self, writer: u16, slot: u16, pinned: bool, frames: Vec<u64>) -> Pages {
        let runs = runs(&frames);
        self.told.insert(slot, frames);
        Pages {
            writer,
            slot,
            first_page: 0,
            pinned,
            runs,
        }
    }
}

/// Frames as runs.
fn runs(frames: &[u64]) -> Vec<PageRun> {
    let mut out: Vec<PageRun> = Vec::new();
    for frame in frames {
        match out.last_mut() {
            Some(run) if run.frame + u64::from(run.count) == *frame => run.count += 1,
            _ => out.push(PageRun {
                frame: *frame,
                count: 1,
            }),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_immutable_place_is_handed_out_once_until_renewed() {
        let mut buffers = Buffers::immutable(5 * PAGE_BYTES).unwrap();
        let one = buffers.take(512).unwrap();
        let two = buffers.take(2 * PAGE_BYTES).unwrap();
        assert_eq!((one.slot(), two.slot()), (0, 1));
        buffers.give_back(one);
        let three = buffers.take(PAGE_BYTES + 1).unwrap();
        assert_eq!(three.slot(), 3);
        assert_eq!(buffers.take(1), None);
        buffers.renew();
        assert_eq!(buffers.take(1), Some(Place { at: 0, len: 1 }));
    }

    #[test]
    fn a_reused_place_comes_back_at_once() {
        let mut buffers = Buffers::reused(2, 8192).unwrap();
        let one = buffers.take(512).unwrap();
        let two = buffers.take(8192).unwrap();
        assert_eq!((one.slot(), two.slot()), (0, 2));
        assert_eq!(buffers.take(512), None);
        buffers.give_back(two);
        assert_eq!(buffers.take(512).unwrap().slot(), 2);
    }

    #[test]
    fn frames_become_runs() {
        let run = |frame, count| PageRun { frame, count };
        assert_eq!(runs(&[5, 6, 7, 9, 8]), [run(5, 3), run(9, 1), run(8, 1)]);
    }
}
