//! `same-pages`: whether a leg's request points at the writer's own pages or at a copy. A diagnostic, never a finding by itself.
//!
//! Covers: sectors whose content is the stamp of a write whose buffer's pages the agent announced.
//!
//! Does not cover: pages that moved (announced twice with different frames: unknown), buffers never announced, guests behind an IOMMU or with bounce
//! buffers, encryption or thin layers below md. The first announced page is taken to hold the buffer's first byte.

use std::collections::{BTreeMap, BTreeSet};

use crate::mark::Pages;

const PAGE_BYTES: u64 = 4096;

/// Pages that are kept of all buffers: 16 GiB of them.
const PAGES_KEPT_MAX: usize = 4 << 20;

/// Where a request's sector points.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Points {
    /// At the writer's own page.
    Own,
    /// Elsewhere: a copy.
    Copy,
    /// Not known.
    Unknown,
}

/// A writer's buffer.
pub(crate) type Buffer = (u16, u16);

/// All announced buffers.
#[derive(Debug, Default)]
pub(crate) struct Announced {
    frames: BTreeMap<(Buffer, u64), u64>,
    owners: BTreeMap<u64, Buffer>,
    moved: BTreeSet<Buffer>,
}

impl Announced {
    /// The agent tells a buffer's pages.
    pub(crate) fn put(&mut self, pages: &Pages) {
        let buffer = (pages.writer, pages.slot);
        let mut page = u64::from(pages.first_page);
        for run in &pages.runs {
            for at in 0..u64::from(run.count) {
                if self.frames.len() >= PAGES_KEPT_MAX {
                    return;
                }
                let frame = run.frame.wrapping_add(at);
                if let Some(before) = self.frames.insert((buffer, page), frame)
                    && before != frame
                {
                    self.owners.remove(&before);
                    if !pages.pinned {
                        self.moved.insert(buffer);
                    }
                }
                self.owners.insert(frame, buffer);
                page += 1;
            }
        }
    }

    /// Where an address points, for the byte of a buffer that it should be.
    pub(crate) fn points(&self, buffer: Buffer, offset: usize, gpa: u64) -> Points {
        if self.moved.contains(&buffer) || gpa == 0 {
            return Points::Unknown;
        }
        match self.frames.get(&(buffer, offset as u64 / PAGE_BYTES)) {
            None => Points::Unknown,
            Some(frame) if *frame == gpa / PAGE_BYTES => Points::Own,
            Some(_) => Points::Copy,
        }
    }

    /// The buffer whose page an address lies in.
    pub(crate) fn owner(&self, gpa: u64) -> Option<Buffer> {
        self.owners.get(&(gpa / PAGE_BYTES)).copied()
    }

    /// The guest is gone, and its pages with it.
    pub(crate) fn clear(&mut self) {
        *self = Announced::default();
    }
}
