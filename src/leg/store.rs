//! What rules make of a request that changes a leg: what is fetched, what is stored, and the lies that lie over it.

use std::collections::BTreeMap;

use super::disk::{Disk, Job, Outcome, keeps_for_content};
use super::faulty::{Fate, bytes_of};
use super::shared::count;
use crate::block::{Operation, SECTOR_BYTES, Sector, SectorRange, Status, to_usize};
use crate::event::{Digests, Fetched, What};
use crate::fault::{Decision, Stage, Store, damage};
use crate::medium::Lie;
use crate::sequence::Tap;
use crate::stamp::SplitMix64;

impl Disk {
    /// What the leg returns for a range.
    pub(super) fn returned(&self, range: SectorRange) -> std::io::Result<Vec<u8>> {
        let mut bytes = vec![0; bytes_of(range)];
        self.medium.read(range, &mut bytes)?;
        self.faulty.lies.with(|lies| lies.apply(range, &mut bytes));
        Ok(bytes)
    }

    /// Honest content is about to change: keeps what caches, stale reads and lost writes may need. Returns the lies that lay over it.
    fn overwrite(&mut self, range: SectorRange) -> std::io::Result<(Vec<u8>, BTreeMap<u64, Lie>)> {
        let mut old = vec![0; bytes_of(range)];
        self.medium.read(range, &mut old)?;
        self.outdate(range, &old);
        let lies = self.faulty.lies.with(|lies| {
            lies.apply(range, &mut old);
            lies.take(range)
        });
        self.faulty.kept.overwritten(range, &old);
        Ok((old, lies))
    }

    /// What the medium has of a range is about to be an older version.
    fn outdate(&mut self, range: SectorRange, old: &[u8]) {
        if let Some(volatile) = &mut self.faulty.volatile {
            if self.shared.write_through() {
                volatile.written_through(range);
            } else {
                volatile.overwritten(range, old);
            }
        }
    }

    /// Makes a sector stay what it was, over what the medium holds now.
    fn stay(&self, range: SectorRange, old: &[u8], lies: &BTreeMap<u64, Lie>, rule: u16) {
        self.faulty.lies.with(|overlay| {
            for (sector, block) in range.sectors().zip(old.as_chunks::<SECTOR_BYTES>().0) {
                let unreadable = lies.get(&sector.0).is_some_and(|lie| lie.bytes.is_none());
                let bytes = (!unreadable).then(|| Box::new(*block));
                overlay.put(sector, rule, bytes);
            }
        });
    }

    /// Fetches a write's payload.
    pub(super) fn fetch(&mut self, job: &Job, fate: &Fate, tap: &mut Tap) -> (Vec<u8>, Digests) {
        let range = job.ranges.first().copied().unwrap_or_default();
        let keep = self.keeps_payload(range);
        let no = tap.number();
        let mut new = vec![0; bytes_of(range)];
        job.pending.data().copy_to(&mut new);
        if let Some(first) = new.get_mut(..fate.half.len()) {
            first.copy_from_slice(&fate.half);
        }
        let digests = self.plain.digests(range.start(), &new);
        tap.push(
            no,
            What::Fetched(Fetched {
                request: self.id(job.number),
                digests: digests.clone(),
                payload: (keep || keeps_for_content(self.record, &new))
                    .then(|| self.plain.bytes(range.start(), &new)),
            }),
        );
        count(&self.shared.counts().bytes_written, new.len() as u64);
        (new, digests)
    }

    /// Fetches a write's payload, unless that was done, and stores what rules let through.
    pub(super) fn store_faulty(
        &mut self,
        job: &Job,
        fate: &mut Fate,
        tap: &mut Tap,
    ) -> (Status, Digests) {
        let Some(range) = job.ranges.first().copied() else {
            return (Status::IoErr, Digests::new());
        };
        let early = fate.fetched.take();
        let was_early = early.is_some();
        let (mut new, digests) = early.unwrap_or_else(|| self.fetch(job, fate, tap));
        if let Some((_, Stage::BeforeStore)) = fate.decision.fail {
            self.faulty
                .unstored
                .retain(|(number, _)| *number != job.number);
            return (Status::Ok, digests);
        }
        let stored = if was_early {
            self.put_late(job.number, range, &mut new, &fate.decision)
        } else {
            self.put(range, &new, &fate.decision)
        };
        let settled = stored.and_then(|()| self.settle());
        (self.answer(settled, job.number, tap), digests)
    }

    /// Stores what was fetched a while ago; sectors of requests that were fetched after it and are stored already stay theirs.
    fn put_late(
        &mut self,
        number: u64,
        range: SectorRange,
        new: &mut [u8],
        decision: &Decision,
    ) -> std::io::Result<()> {
        let at = self.faulty.unstored.iter().position(|one| one.0 == number);
        let overtaken = at.map(|at| self.faulty.unstored.remove(at).1);
        let overtaken = overtaken.unwrap_or_default();
        let mut lies = BTreeMap::new();
        let theirs: Vec<SectorRange> = overtaken
            .ranges()
            .filter_map(|part| part.intersection(range))
            .collect();
        for part in theirs {
            let from = to_usize(part.start().0.saturating_sub(range.start().0));
            let from = from.saturating_mul(SECTOR_BYTES);
            if let Some(bytes) = new.get_mut(from..from.saturating_add(bytes_of(part))) {
                self.medium.read(part, bytes)?;
            }
            lies.append(&mut self.faulty.lies.with(|overlay| overlay.take(part)));
        }
        self.put(range, new, decision)?;
        self.faulty.lies.with(|overlay| {
            for (sector, lie) in lies {
                overlay.put(Sector(sector), lie.rule, lie.bytes);
            }
        });
        Ok(())
    }

    /// A range is stored: what was fetched before and is not stored yet must leave it alone.
    fn overtake(&mut self, range: SectorRange) {
        for (_, overtaken) in &mut self.faulty.unstored {
            overtaken.insert(range);
        }
    }

    fn put(&mut self, range: SectorRange, new: &[u8], decision: &Decision) -> std::io::Result<()> {
        self.overtake(range);
        let (old, lies) = self.overwrite(range)?;
        let failed = decision
            .fail
            .is_some_and(|(status, _)| status != Status::Ok);
        if let (true, Store::Part(kept)) = (failed, &decision.store) {
            // A torn write that is not acknowledged is no lie: an honest disk may do that.
            for (at, sector) in range.sectors().enumerate() {
                let from = at.saturating_mul(SECTOR_BYTES);
                if kept.get(at) == Some(&true)
                    && let Some(one) = SectorRange::new(sector, 1)
                    && let Some(block) = new.get(from..from.saturating_add(SECTOR_BYTES))
                {
                    self.medium.write(one, block)?;
                }
            }
            self.changed(range);
            return Ok(());
        }
        self.medium.write(range, new)?;
        self.changed(range);
        if let Some((rule, leg, there)) = decision.misdirect {
            self.stay(range, &old, &lies, rule);
            if let Some(part) = self.faulty.faults.part(leg) {
                let fits = there.end().0 <= part.view.sectors();
                if fits {
                    part.lies.with(|lies| lies.put_range(there, rule, new));
                }
            }
        }
        match &decision.store {
            Store::Whole => {}
            Store::Nothing => self.stay(range, &old, &lies, decision.lost_by),
            Store::Part(kept) => {
                for (at, sector) in range.sectors().enumerate() {
                    let from = at.saturating_mul(SECTOR_BYTES);
                    if kept.get(at) == Some(&false)
                        && let Some(one) = SectorRange::new(sector, 1)
                        && let Some(block) = old.get(from..from.saturating_add(SECTOR_BYTES))
                    {
                        self.stay(one, block, &lies, decision.lost_by);
                    }
                }
            }
        }
        for (rule, corrupt, dice) in &decision.corrupt {
            let mut bytes = match corrupt.from_sector.and_then(|at| self.elsewhere(at, range)) {
                Some(from) => self.returned(from)?,
                None => new.to_vec(),
            };
            damage(corrupt, SplitMix64(dice.0), &mut bytes);
            let rule = *rule;
            self.faulty
                .lies
                .with(|lies| lies.put_range(range, rule, &bytes));
        }
        if let Some(rule) = decision.bad {
            self.faulty.lies.with(|lies| {
                for sector in range.sectors() {
                    lies.put(sector, rule, None);
                }
            });
        }
        if self.faulty.lies.any() {
            self.faulty.faults.changed();
        }
        Ok(())
    }

    /// As many sectors as `range` has, from `start` on, or up to the leg's end.
    pub(super) fn elsewhere(&self, start: u64, range: SectorRange) -> Option<SectorRange> {
        let last = self.limits.sectors.checked_sub(range.count())?;
        SectorRange::new(Sector(start.min(last)), range.count())
    }

    /// Zeros a range piece by piece: it may be far larger than what is worth having in memory, and most of it zeros already.
    pub(super) fn zero_faulty(&mut self, job: &Job, decision: &Decision, tap: &mut Tap) -> Outcome {
        let lost = (decision.store == Store::Nothing).then_some(decision.lost_by);
        let unmap = job.operation != Operation::WriteZeroes;
        let result = job
            .ranges
            .iter()
            .flat_map(|range| pieces(*range))
            .try_for_each(|piece| self.zero_piece(piece, unmap, lost))
            .and_then(|()| self.settle());
        for range in &job.ranges {
            self.changed(*range);
        }
        if lost.is_some() {
            self.faulty.faults.changed();
        }
        Outcome::plain(self.answer(result, job.number, tap))
    }

    /// Zeros one piece; if a rule loses that, the leg goes on to return what it returned.
    fn zero_piece(
        &mut self,
        piece: SectorRange,
        unmap: bool,
        lost: Option<u16>,
    ) -> std::io::Result<()> {
        self.overtake(piece);
        let mut old = vec![0; bytes_of(piece)];
        self.medium.read(piece, &mut old)?;
        let changes = !is_zeros(&old);
        // Zeros over zeros are no other version of anything: what a power cut may leave stays what it was.
        if changes || self.shared.write_through() {
            self.outdate(piece, &old);
        }
        let lies = self.faulty.lies.with(|lies| {
            lies.apply(piece, &mut old);
            lies.take(piece)
        });
        self.faulty.kept.overwritten(piece, &old);
        if changes || unmap {
            self.medium.zero(piece, unmap)?;
        }
        match lost {
            Some(rule) if changes || !lies.is_empty() => self.stay(piece, &old, &lies, rule),
            Some(_) | None => {}
        }
        Ok(())
    }
}

fn is_zeros(bytes: &[u8]) -> bool {
    const ZEROS: [u8; 4096] = [0; 4096];
    bytes
        .chunks(ZEROS.len())
        .all(|part| ZEROS.starts_with(part))
}

/// A range in pieces of 1 MiB, which is whole blocks of any leg: blocks are lost at a power cut whole or not at all.
fn pieces(range: SectorRange) -> impl Iterator<Item = SectorRange> {
    const SECTORS: u64 = 2048;
    let (start, end) = (range.start().0, range.end().0);
    let starts = std::iter::successors(Some(start), |at| at.checked_add(SECTORS));
    starts
        .take_while(move |at| *at < end)
        .filter_map(move |at| SectorRange::new(Sector(at), SECTORS.min(end.saturating_sub(at))))
}
