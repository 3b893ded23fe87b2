//! Known content: fills a disk with it, changes it under load, reads it back.
//!
//! Every sector's bytes follow from the seed, its number and how often it was written. While a request is in flight no other touches its
//! sectors, so what a read must return is known exactly. Not covered: reads that race with writes, and what survives a backend's end.

use crate::case::{Operation, mix};
use crate::failure::Failure;
use crate::lane::Lane;

/// Fill and read-back are done in requests of this size.
const STRIDE_BYTES: usize = 0x4_0000;
/// Outstanding requests of fill and read-back, and of the load.
const STRIDE_SLOTS: usize = 8;
const LOAD_SLOTS: usize = 32;
/// A request of the load is at most this large, and its slot's buffer exactly so.
const LOAD_SECTORS_MAX: u64 = 128;

/// Buffers that are needed in the lane.
pub(crate) const ARENA_BYTES: usize = 0x40_0000;

const SECTOR: usize = 512;

/// What a disk must hold, all legs alike.
pub(crate) struct Content {
    seed: u64,
    /// How often each sector was written since it was filled.
    generations: Vec<u32>,
}

impl Content {
    /// A disk's content after `fill`.
    pub(crate) fn new(seed: u64, capacity_bytes: u64) -> Content {
        let sectors = usize::try_from(capacity_bytes).unwrap_or(usize::MAX) / SECTOR;
        Content {
            seed,
            generations: vec![0; sectors],
        }
    }

    fn sectors(&self) -> u64 {
        self.generations.len() as u64
    }

    fn generation(&self, sector: u64) -> u32 {
        usize::try_from(sector)
            .ok()
            .and_then(|sector| self.generations.get(sector).copied())
            .unwrap_or(0)
    }

    fn advance(&mut self, first: u64, count: u64) {
        for sector in first..first + count {
            if let Some(generation) = usize::try_from(sector)
                .ok()
                .and_then(|sector| self.generations.get_mut(sector))
            {
                *generation += 1;
            }
        }
    }

    fn words(&self, sector: u64, generation: u32) -> impl Iterator<Item = [u8; 8]> {
        let base = mix(mix(self.seed ^ sector) ^ u64::from(generation));
        (0..SECTOR as u64 / 8)
            .map(move |index| (base ^ index.wrapping_mul(0x9e37_79b9_7f4a_7c15)).to_le_bytes())
    }

    fn write_into(&self, buffer: &mut [u8], first: u64) {
        for (sector, bytes) in (first..).zip(buffer.chunks_exact_mut(SECTOR)) {
            let words = self.words(sector, self.generation(sector));
            for (word, value) in bytes.chunks_exact_mut(8).zip(words) {
                word.copy_from_slice(&value);
            }
        }
    }

    fn check(&self, buffer: &[u8], first: u64, leg: usize) -> Result<(), Failure> {
        for (sector, bytes) in (first..).zip(buffer.chunks_exact(SECTOR)) {
            let holds = |generation| {
                bytes
                    .chunks_exact(8)
                    .zip(self.words(sector, generation))
                    .all(|(word, value)| word == value)
            };
            let wanted = self.generation(sector);
            if holds(wanted) {
                continue;
            }
            let what = match (0..wanted).rev().find(|&older| holds(older)) {
                Some(older) => format!("write {older} of this sector instead of write {wanted}"),
                None => format!("neither write {wanted} of this sector nor an older one"),
            };
            return Err(Failure::Data { leg, sector, what });
        }
        Ok(())
    }

    /// Writes the first content to every leg.
    pub(crate) fn fill(&mut self, lane: &mut Lane) -> Result<(), Failure> {
        self.generations.fill(0);
        self.sweep(lane, Operation::Write, None)
    }

    /// Reads every leg whole and compares.
    pub(crate) fn read_back(&mut self, lane: &mut Lane) -> Result<(), Failure> {
        (0..lane.legs()).try_for_each(|leg| self.sweep(lane, Operation::Read, Some(leg)))
    }

    /// One operation over the whole disk, on one leg or on all.
    fn sweep(
        &mut self,
        lane: &mut Lane,
        operation: Operation,
        only: Option<usize>,
    ) -> Result<(), Failure> {
        let stride = (STRIDE_BYTES / SECTOR) as u64;
        let mut requests = (0..self.sectors() / stride).map(|index| index * stride);
        let legs = only.map_or(0..lane.legs(), |leg| leg..leg + 1);
        let mut slots = [(0, 0); STRIDE_SLOTS];
        let mut free: Vec<usize> = (0..STRIDE_SLOTS).collect();
        loop {
            while let Some(&slot) = free.last() {
                let Some(first) = requests.next() else { break };
                free.pop();
                slots[slot] = (first, legs.len());
                if operation == Operation::Write {
                    self.write_into(lane.buffer(slot * STRIDE_BYTES, STRIDE_BYTES), first);
                }
                for leg in legs.clone() {
                    lane.submit(leg, operation, first * 512, STRIDE_BYTES, slot)?;
                }
            }
            lane.ring()?;
            if lane.outstanding() == 0 {
                return Ok(());
            }
            let mut done = Vec::new();
            lane.reap(|leg, slot| {
                slots[slot].1 -= 1;
                if slots[slot].1 == 0 {
                    done.push((leg, slot));
                }
            })?;
            if done.is_empty() {
                lane.wait()?;
            }
            for (leg, slot) in done {
                if operation == Operation::Read {
                    self.check(
                        lane.buffer(slot * STRIDE_BYTES, STRIDE_BYTES),
                        slots[slot].0,
                        leg,
                    )?;
                }
                free.push(slot);
            }
        }
    }

    /// Random reads and writes of 1 to 128 sectors, each read compared; then a flush.
    pub(crate) fn load(&mut self, lane: &mut Lane, count: u64) -> Result<(), Failure> {
        let slot_bytes = usize::try_from(LOAD_SECTORS_MAX).unwrap_or(usize::MAX) * SECTOR;
        let mut slots: Vec<Option<Busy>> = (0..LOAD_SLOTS).map(|_| None).collect();
        let mut issued = 0;
        loop {
            for slot in 0..slots.len() {
                if issued == count || slots[slot].is_some() {
                    continue;
                }
                let random = mix(self.seed.rotate_left(32) ^ issued);
                issued += 1;
                let sectors = 1 + random % LOAD_SECTORS_MAX;
                let first = mix(random) % (self.sectors() - sectors);
                if slots
                    .iter()
                    .flatten()
                    .any(|busy| first < busy.first + busy.sectors && busy.first < first + sectors)
                {
                    continue;
                }
                let write = mix(random ^ 1).is_multiple_of(2);
                let bytes = usize::try_from(sectors).unwrap_or(usize::MAX) * SECTOR;
                let at = slot * slot_bytes;
                let legs = if write {
                    self.advance(first, sectors);
                    self.write_into(lane.buffer(at, bytes), first);
                    0..lane.legs()
                } else {
                    let leg = usize::try_from(random >> 60).unwrap_or(0) % lane.legs();
                    leg..leg + 1
                };
                let operation = if write {
                    Operation::Write
                } else {
                    Operation::Read
                };
                slots[slot] = Some(Busy {
                    first,
                    sectors,
                    write,
                    bytes,
                    legs_left: legs.len(),
                });
                for leg in legs {
                    lane.submit_at(leg, operation, first * 512, at..at + bytes, slot)?;
                }
            }
            lane.ring()?;
            if lane.outstanding() == 0 && issued == count {
                break;
            }
            let mut done = Vec::new();
            lane.reap(|leg, slot| {
                if let Some(busy) = &mut slots[slot] {
                    busy.legs_left -= 1;
                    if busy.legs_left == 0 {
                        done.push((leg, slot));
                    }
                }
            })?;
            if done.is_empty() && lane.outstanding() > 0 {
                lane.wait()?;
            }
            for (leg, slot) in done {
                if let Some(busy) = slots[slot].take()
                    && !busy.write
                {
                    self.check(lane.buffer(slot * slot_bytes, busy.bytes), busy.first, leg)?;
                }
            }
        }
        for leg in 0..lane.legs() {
            lane.submit_at(leg, Operation::Flush, 0, 0..0, 0)?;
        }
        lane.ring()?;
        while lane.outstanding() > 0 {
            if lane.reap(|_leg, _slot| {})? == 0 {
                lane.wait()?;
            }
        }
        Ok(())
    }
}

/// A request of the load that is in flight.
struct Busy {
    first: u64,
    sectors: u64,
    write: bool,
    bytes: usize,
    legs_left: usize,
}

#[cfg(test)]
#[allow(
    dead_code,
    unused_imports,
    reason = "run by tests/bench_client.rs: a bench has no harness for them"
)]
mod tests {
    use super::*;

    #[test]
    fn the_content_is_of_seed_sector_and_generation() {
        let mut content = Content::new(7, 1 << 20);
        let mut buffer = vec![0; 2048];
        content.write_into(&mut buffer, 100);
        content.check(&buffer, 100, 0).expect("as written");
        content.check(&buffer, 101, 0).expect_err("another place");
        Content::new(8, 1 << 20)
            .check(&buffer, 100, 0)
            .expect_err("another seed");

        content.advance(103, 1);
        let stale = content
            .check(&buffer, 100, 1)
            .expect_err("sector 103 was written again")
            .to_string();
        assert!(
            stale.contains("leg 1, sector 103")
                && stale.contains("write 0 of this sector instead of write 1"),
            "{stale}"
        );
        content.write_into(&mut buffer, 100);
        content.check(&buffer, 100, 0).expect("written again");
        buffer[3 * 512 + 511] ^= 1;
        let wrong = content
            .check(&buffer, 100, 0)
            .expect_err("one bit")
            .to_string();
        assert!(wrong.contains("neither"), "{wrong}");
    }
}
