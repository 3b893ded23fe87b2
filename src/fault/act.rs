//! What a rule that hits makes of a request.

use std::time::Duration;

use super::chance::chance;
use super::decide::{Around, Chance, Decision, Known, Seen, Store, Wait};
use super::rule::{Answer, Delay, Do, Misdirect, Op, Part, Stage};
use crate::block::{LegId, Sector, SectorRange, Status};
use crate::event::Action;
use crate::stamp::SplitMix64;

impl Known {
    pub(super) fn act(
        &self,
        seen: &Seen<'_>,
        op: Op,
        seed: u64,
        around: &dyn Around,
        decision: &mut Decision,
    ) {
        let number = self.number;
        let mut dice = chance(seed, &self.rule.name, seen.request);
        // The first draw was the probability's.
        dice.next_u64();
        let own = seen.ranges.to_vec();
        let early = self.rule.stage == Some(Stage::BeforeFetch);
        let middle = self.rule.stage == Some(Stage::BeforeStore);
        let action = match &self.rule.action {
            Do::Fail(answer) => {
                let status = status(*answer);
                let stage = self.rule.stage.unwrap_or(Stage::BeforeFetch);
                decision.fail.get_or_insert((status, stage));
                Action::Fail { status }
            }
            Do::NeverAnswer => {
                decision.never = true;
                decision.late_fetch |= early;
                decision.late_store |= middle;
                Action::NeverAnswer
            }
            Do::Delay(delay) => {
                let ms = how_long(delay, &mut dice);
                decision.delay += Duration::from_millis(u64::from(ms));
                decision.late_fetch |= early;
                decision.late_store |= middle;
                Action::Delay { ms }
            }
            Do::Hold(hold) => {
                let wait = Wait::Release {
                    mark: hold.until_mark.clone(),
                    rule: self.until_rule.map(|rule| (rule, around.fired(rule))),
                    by: number,
                    released: around.releases(number),
                };
                let most = hold.at_most_ms.map(|ms| Duration::from_millis(ms.into()));
                decision.waits.push((wait, most));
                decision.late_fetch |= early;
                decision.late_store |= middle;
                Action::Hold
            }
            Do::Reorder(reorder) => {
                let most = Duration::from_millis(reorder.at_most_ms.into());
                decision
                    .waits
                    .push((Wait::Behind(reorder.behind), Some(most)));
                Action::Reorder {
                    behind: reorder.behind,
                }
            }
            Do::Lose => {
                decision.store = Store::Nothing;
                decision.lost_by = number;
                Action::Lose { sectors: own }
            }
            Do::Tear(tear) => {
                let count = own.first().map_or(0, |range| range.count());
                let kept = kept(tear.keep, tear.sectors, count, &mut dice);
                let status = status(tear.answer);
                let lost = own
                    .first()
                    .map_or_else(Vec::new, |range| lost(*range, &kept));
                decision.store = Store::Part(kept);
                decision.lost_by = number;
                if status != Status::Ok {
                    decision.fail.get_or_insert((status, Stage::BeforeAnswer));
                }
                Action::Tear { lost, status }
            }
            Do::Corrupt(corrupt) => {
                decision
                    .corrupt
                    .push((number, *corrupt, Chance(dice.next_u64())));
                if op == Op::Write || corrupt.sticky {
                    Action::Corrupt { sectors: own }
                } else {
                    Action::CorruptAnswer
                }
            }
            Do::Misdirect(to) => {
                let (leg, Some(there)) = self.misdirected(to, seen, around) else {
                    return;
                };
                decision.misdirect = Some((number, leg, there));
                decision.lost_by = number;
                let lost = if op == Op::Write { own } else { Vec::new() };
                Action::Misdirect {
                    leg,
                    to: there,
                    lost,
                }
            }
            Do::Stale(stale) => {
                decision.stale = Some((number, stale.versions));
                Action::Stale
            }
            Do::LateFetch => {
                decision.late_fetch = true;
                Action::LateFetch
            }
            Do::SplitFetch(split) => {
                decision.split_fetch = true;
                decision.delay += Duration::from_millis(split.ms.into());
                Action::SplitFetch { ms: split.ms }
            }
            Do::FlushLie => {
                decision.flush_lie = true;
                Action::FlushLie
            }
            Do::Stall(stall) => {
                decision.stall = Some((Duration::from_millis(stall.ms.into()), stall.queue));
                Action::Stall { ms: stall.ms }
            }
            Do::BadSectors => {
                decision.bad = Some(number);
                Action::BadSectors { sectors: own }
            }
            Do::Dead => {
                decision.fail = Some((Status::IoErr, Stage::BeforeFetch));
                Action::Dead
            }
            Do::ReadOnly => {
                if seen.operation.modifies() {
                    decision.fail = Some((Status::IoErr, Stage::BeforeFetch));
                }
                Action::ReadOnly
            }
            Do::PowerCut => {
                decision.cut = true;
                decision.never = true;
                Action::PowerCut
            }
            Do::Disconnect(disconnect) => {
                decision.disconnect = Some(Duration::from_millis(disconnect.ms.into()));
                decision.never = true;
                Action::Disconnect { ms: disconnect.ms }
            }
            Do::Unplug(unplug) => Action::Unplug {
                ms: unplug.back.then_some(unplug.ms),
            },
            Do::Resize(resize) => {
                decision.resize = Some(resize.sectors);
                Action::Resize {
                    sectors: resize.sectors,
                }
            }
        };
        decision.hit(seen, number, action);
    }

    /// Where a request goes instead. What would go past the end goes to the end.
    pub(super) fn misdirected(
        &self,
        to: &Misdirect,
        seen: &Seen<'_>,
        around: &dyn Around,
    ) -> (LegId, Option<SectorRange>) {
        let own = seen.request.leg;
        let leg = self.to_leg.unwrap_or(own);
        let other = if leg == own {
            None
        } else {
            around.sectors(leg)
        };
        let there = seen.ranges.first().and_then(|range| {
            let last = other.unwrap_or(seen.sectors).saturating_sub(range.count());
            let start = to.to_sector.unwrap_or(range.start().0).min(last);
            SectorRange::new(Sector(start), range.count())
        });
        (leg, there)
    }
}

fn status(answer: Answer) -> Status {
    match answer {
        Answer::Ok => Status::Ok,
        Answer::IoError => Status::IoErr,
        Answer::Unsupported => Status::Unsupported,
    }
}

fn how_long(delay: &Delay, dice: &mut SplitMix64) -> u32 {
    if let Some(to) = delay.to_ms {
        let more = dice.below(u64::from(to.saturating_sub(delay.ms)) + 1);
        return delay.ms.saturating_add(u32::try_from(more).unwrap_or(0));
    }
    let Some(p99) = delay.p99_ms else {
        return delay.ms;
    };
    // A log-normal: twelve uniform numbers make a normal one; 2.326 standard deviations are its 99th percentile.
    let sum: u64 = (0..12).map(|_| dice.next_u64() >> 44).sum();
    #[allow(
        clippy::cast_precision_loss,
        reason = "20 bits each are exact in a double"
    )]
    let normal = sum as f64 / (1u64 << 20) as f64 - 6.0;
    let median = f64::from(delay.ms.max(1));
    let ratio = f64::from(p99.max(1)) / median;
    let ms = median * ratio.powf(normal / 2.326);
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "clamped to what fits"
    )]
    let ms = ms.round().clamp(0.0, 3_600_000.0) as u32;
    ms
}

fn kept(part: Part, sectors: Option<u64>, count: u64, dice: &mut SplitMix64) -> Vec<bool> {
    let all = crate::block::to_usize(count);
    let most = count.saturating_sub(1);
    match part {
        Part::Prefix => {
            let keep = crate::block::to_usize(sectors.unwrap_or(count / 2).min(most));
            (0..all).map(|at| at < keep).collect()
        }
        Part::Suffix => {
            let keep = crate::block::to_usize(sectors.unwrap_or(count / 2).min(most));
            (0..all).map(|at| at >= all - keep).collect()
        }
        Part::Random => match sectors {
            None => {
                let mut kept: Vec<bool> = (0..all).map(|_| dice.below(2) == 1).collect();
                // A tear loses something.
                if kept.iter().all(|kept| *kept)
                    && let Some(one) = kept.get_mut(crate::block::to_usize(dice.below(count)))
                {
                    *one = false;
                }
                kept
            }
            Some(keep) => {
                let mut kept = vec![false; all];
                let mut left = keep.min(most);
                while left > 0 {
                    let at = crate::block::to_usize(dice.below(count));
                    if !kept[at] {
                        kept[at] = true;
                        left -= 1;
                    }
                }
                kept
            }
        },
    }
}

/// The sectors of `range` that are not kept, as ranges.
fn lost(range: SectorRange, kept: &[bool]) -> Vec<SectorRange> {
    let mut at = range.start().0;
    let mut out = Vec::new();
    for run in kept.chunk_by(|a, b| a == b) {
        if run.first() == Some(&false)
            && let Some(part) = SectorRange::new(Sector(at), run.len() as u64)
        {
            out.push(part);
        }
        at += run.len() as u64;
    }
    out
}
