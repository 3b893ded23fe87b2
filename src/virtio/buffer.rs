//! A request's data in guest memory. The guest may change it at any moment: nothing here makes a Rust slice of it, every access is a copy or a
//! comparison of raw bytes whose outcome may be torn but never unsound.

use smallvec::SmallVec;

use super::memory::Piece;
use crate::block::SECTOR_BYTES;
use crate::event::{Digests, Segment};

/// Pieces of guest memory in their order. Whoever has one keeps its [`super::Memory`] alive (see [`super::Pending`]).
#[derive(Debug, Default)]
pub struct GuestBuffer {
    pieces: SmallVec<[Piece; 4]>,
    bytes: u64,
}

fn size(len: u32) -> usize {
    // 32 bits fit on every supported host; a smaller number than the true one would be safe, too.
    usize::try_from(len).unwrap_or(0)
}

/// How much is copied before it is looked at: what stays in the first caches of a CPU.
const LOOK_BYTES: usize = 16 << 10;

impl GuestBuffer {
    /// Length in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Adds a piece at the end.
    pub(super) fn push(&mut self, piece: Piece) {
        self.bytes = self.bytes.saturating_add(u64::from(piece.len));
        self.pieces.push(piece);
    }

    /// Forgets all pieces.
    pub(super) fn clear(&mut self) {
        self.pieces.clear();
        self.bytes = 0;
    }

    /// Takes the last byte off.
    pub(super) fn split_last_byte(&mut self) -> Option<Piece> {
        let last = self.pieces.last_mut()?;
        last.len = last.len.saturating_sub(1);
        let byte = Piece {
            gpa: last.gpa.saturating_add(u64::from(last.len)),
            len: 1,
            host: last.host.wrapping_add(size(last.len)),
        };
        if last.len == 0 {
            self.pieces.pop();
        }
        self.bytes = self.bytes.saturating_sub(1);
        Some(byte)
    }

    /// Takes `N` bytes off the front and returns them; `None` if there are fewer.
    pub(super) fn split_front<const N: usize>(&mut self) -> Option<[u8; N]> {
        let mut out = [0; N];
        let mut at = 0;
        let mut gone = 0usize;
        for piece in &mut self.pieces {
            let here = size(piece.len).min(N.saturating_sub(at));
            if let Some(to) = out.get_mut(at..at.saturating_add(here)) {
                // SAFETY: the piece has `here` mapped bytes, `to` is `here` long.
                unsafe { std::ptr::copy_nonoverlapping(piece.host, to.as_mut_ptr(), here) };
            }
            at = at.saturating_add(here);
            let taken = u32::try_from(here).unwrap_or(0);
            piece.len = piece.len.saturating_sub(taken);
            piece.gpa = piece.gpa.saturating_add(u64::from(taken));
            piece.host = piece.host.wrapping_add(here);
            if piece.len > 0 {
                break;
            }
            gone = gone.saturating_add(1);
        }
        if at < N {
            return None;
        }
        self.pieces.drain(..gone);
        self.bytes = self
            .bytes
            .saturating_sub(u64::try_from(N).unwrap_or(u64::MAX));
        Some(out)
    }

    /// Guest-physical segments, neighbours joined.
    pub fn segments(&self) -> SmallVec<[Segment; 2]> {
        let mut segments: SmallVec<[Segment; 2]> = SmallVec::new();
        for piece in &self.pieces {
            if let Some(last) = segments.last_mut()
                && last.gpa.checked_add(u64::from(last.len)) == Some(piece.gpa)
                && let Some(len) = last.len.checked_add(piece.len)
            {
                last.len = len;
            } else {
                segments.push(Segment {
                    gpa: piece.gpa,
                    len: piece.len,
                });
            }
        }
        segments
    }

    /// Copies guest memory to `to`.
    ///
    /// # Panics
    /// If `to` has another length: the caller's mistake, not the guest's.
    pub fn copy_to(&self, to: &mut [u8]) {
        self.check(to.len());
        let mut to = to.as_mut_ptr();
        for piece in &self.pieces {
            let here = size(piece.len);
            // SAFETY: the piece's bytes are mapped; the lengths of all pieces add up to `to`'s, so `here` bytes are left in it.
            unsafe { std::ptr::copy_nonoverlapping(piece.host, to, here) };
            to = to.wrapping_add(here);
        }
    }

    /// Copies guest memory to `to`, and shows `look` what was copied, in whole sectors and in order, while it is still in the CPU's cache.
    ///
    /// # Panics
    /// If `to` has another length, or is no whole sectors.
    pub fn copy_to_looking(&self, to: &mut [u8], mut look: impl FnMut(&[u8])) {
        self.check(to.len());
        assert!(to.len().is_multiple_of(SECTOR_BYTES), "whole sectors");
        let (mut done, mut looked) = (0usize, 0usize);
        for piece in &self.pieces {
            let mut from = piece.host;
            let mut left = size(piece.len);
            while left > 0 {
                let here = left.min(LOOK_BYTES);
                if let Some(to) = to.get_mut(done..done.saturating_add(here)) {
                    // SAFETY: `here` bytes of the piece are left, and `to` is as long.
                    unsafe { std::ptr::copy_nonoverlapping(from, to.as_mut_ptr(), here) };
                }
                from = from.wrapping_add(here);
                left = left.saturating_sub(here);
                done = done.saturating_add(here);
                let whole = done.saturating_sub(done % SECTOR_BYTES);
                if whole.saturating_sub(looked) >= LOOK_BYTES || done == to.len() {
                    look(to.get(looked..whole).unwrap_or_default());
                    looked = whole;
                }
            }
        }
    }

    /// Copies `from` to guest memory, and shows `look` each part of it, in whole sectors and in order, just before it goes.
    ///
    /// # Panics
    /// If `from` has another length, or is no whole sectors.
    pub fn copy_from_looking(&self, from: &[u8], mut look: impl FnMut(&[u8])) {
        self.check(from.len());
        assert!(from.len().is_multiple_of(SECTOR_BYTES), "whole sectors");
        let mut pieces = self
            .pieces
            .iter()
            .map(|piece| (piece.host, size(piece.len)));
        let mut piece = pieces.next();
        for part in from.chunks(LOOK_BYTES) {
            look(part);
            let mut rest = part;
            while let (Some((to, room)), false) = (piece, rest.is_empty()) {
                let here = room.min(rest.len());
                // SAFETY: the piece has `room` mapped bytes left, `rest` has at least `here`.
                unsafe { std::ptr::copy_nonoverlapping(rest.as_ptr(), to, here) };
                rest = rest.get(here..).unwrap_or_default();
                piece = if here == room {
                    pieces.next()
                } else {
                    Some((to.wrapping_add(here), room.saturating_sub(here)))
                };
            }
        }
    }

    /// Copies `from` to guest memory.
    ///
    /// # Panics
    /// If `from` has another length.
    pub fn copy_from(&self, from: &[u8]) {
        self.check(from.len());
        let mut from = from.as_ptr();
        for piece in &self.pieces {
            let here = size(piece.len);
            // SAFETY: as in `copy_to`, the other way round.
            unsafe { std::ptr::copy_nonoverlapping(from, piece.host, here) };
            from = from.wrapping_add(here);
        }
    }

    /// Copies as much of `from` as there is room for, and returns how many bytes that was.
    pub fn copy_prefix(&self, from: &[u8]) -> u32 {
        let mut done = 0usize;
        for piece in &self.pieces {
            let rest = from.get(done..).unwrap_or(&[]);
            let here = size(piece.len).min(rest.len());
            // SAFETY: the piece has `here` mapped bytes, `rest` as well.
            unsafe { std::ptr::copy_nonoverlapping(rest.as_ptr(), piece.host, here) };
            done = done.saturating_add(here);
        }
        u32::try_from(done).unwrap_or(u32::MAX)
    }

    /// Whether guest memory holds exactly `bytes` now.
    ///
    /// # Panics
    /// If `bytes` has another length.
    pub fn equals(&self, bytes: &[u8]) -> bool {
        self.check(bytes.len());
        let mut at = bytes.as_ptr();
        self.pieces.iter().all(|piece| {
            let here = size(piece.len);
            // SAFETY: as in `copy_to`; memcmp reads raw bytes and makes no promise about them.
            let same = unsafe { libc::memcmp(piece.host.cast(), at.cast(), here) } == 0;
            at = at.wrapping_add(here);
            same
        })
    }

    /// CRC-32 of each sector that guest memory holds now; sectors may be cut anywhere into pieces.
    pub fn digests(&self) -> Digests {
        let mut digests = Digests::new();
        let mut sector = [0u8; SECTOR_BYTES];
        let mut filled = 0usize;
        for piece in &self.pieces {
            let mut from = piece.host;
            let mut left = size(piece.len);
            while left > 0 {
                let here = left.min(SECTOR_BYTES.saturating_sub(filled));
                // SAFETY: `here` bytes are left in the piece and in the sector.
                unsafe {
                    std::ptr::copy_nonoverlapping(
                        from,
                        sector.as_mut_ptr().wrapping_add(filled),
                        here,
                    );
                }
                from = from.wrapping_add(here);
                left = left.saturating_sub(here);
                filled = filled.saturating_add(here);
                if filled == SECTOR_BYTES {
                    digests.push(crc32fast::hash(&sector));
                    filled = 0;
                }
            }
        }
        digests
    }

    fn check(&self, len: usize) {
        assert_eq!(
            u64::try_from(len).ok(),
            Some(self.bytes),
            "as many bytes here as in the guest"
        );
    }
}

#[cfg(test)]
#[allow(
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    reason = "numbers of tests are small"
)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// However the guest cuts its buffer: what is copied is what is shown, once, in order, in whole sectors.
        #[test]
        fn what_is_copied_is_looked_at(sectors in 0usize..200, cuts in prop::collection::vec(0usize..100_000, 0..8), fill in any::<u8>()) {
            let len = sectors * SECTOR_BYTES;
            let mut guest: Vec<u8> = (0..len).map(|at| (at / 7) as u8 ^ fill).collect();
            let mut cuts: Vec<usize> = cuts.into_iter().filter(|cut| *cut < len).collect();
            cuts.sort_unstable();
            let host = guest.as_mut_ptr();
            let mut buffer = GuestBuffer::default();
            let ends = cuts.iter().copied().chain([len]);
            let starts = [0].into_iter().chain(cuts.iter().copied());
            for (start, end) in starts.zip(ends).filter(|(start, end)| start < end) {
                buffer.push(Piece { gpa: start as u64, len: (end - start) as u32, host: host.wrapping_add(start) });
            }
            let mut shown = Vec::new();
            let mut copy = vec![0; len];
            buffer.copy_to_looking(&mut copy, |part| {
                assert!(part.len().is_multiple_of(SECTOR_BYTES));
                shown.extend_from_slice(part);
            });
            prop_assert_eq!(&copy, &guest);
            prop_assert_eq!(&shown, &guest);
            let back: Vec<u8> = copy.iter().map(|byte| byte ^ 0x5a).collect();
            shown.clear();
            buffer.copy_from_looking(&back, |part| shown.extend_from_slice(part));
            prop_assert_eq!(&shown, &back);
            prop_assert!(buffer.equals(&back));
            prop_assert_eq!(&guest, &back);
        }
    }
}
