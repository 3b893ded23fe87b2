//! What is excused when a run ends: how many sectors by case, and the first one of each case with the requests that brought what the legs hold there.

use std::collections::BTreeMap;

use super::checker::Checker;
use super::world::leg_sector;
use crate::block::{RequestId, Sector};
use crate::event::EventNo;
use crate::finding::StoryLine;
use crate::md::ArrayKey;
use crate::shadow::Version;

impl Checker {
    /// Excused sectors by case, and the first of each case in the order of the sequence.
    pub(super) fn excused_at_end(&self) -> (BTreeMap<u8, u64>, BTreeMap<u8, StoryLine>) {
        let mut counts: BTreeMap<u8, u64> = BTreeMap::new();
        let mut firsts: BTreeMap<u8, (EventNo, ArrayKey, Sector)> = BTreeMap::new();
        for (key, table) in &self.excused {
            for (sector, case) in table.iter() {
                *counts.entry(*case).or_default() += 1;
                let versions = self.held(*key, sector);
                let Some(no) = versions.map(|(_, version)| version.no).min() else {
                    continue;
                };
                let first = firsts.entry(*case).or_insert((no, *key, sector));
                if no < first.0 {
                    *first = (no, *key, sector);
                }
            }
        }
        let firsts = firsts.into_iter().filter_map(|(case, (_, key, sector))| {
            let told = self.tell_excused(key, sector)?;
            Some((case, told))
        });
        (counts, firsts.collect())
    }

    /// What the legs of an array hold in one of its sectors, and the requests that brought it; initial content has none.
    fn held(&self, key: ArrayKey, sector: Sector) -> impl Iterator<Item = (RequestId, Version)> {
        let members = self.world.md.array(key).map(|array| &array.members[..]);
        members
            .unwrap_or_default()
            .iter()
            .filter_map(move |member| {
                let at = leg_sector(member, sector)?;
                let version = self.world.shadow(member.leg).current(at);
                let request = RequestId {
                    leg: member.leg,
                    number: version.request,
                };
                (version.request > 0).then_some((request, version))
            })
    }

    fn tell_excused(&self, key: ArrayKey, sector: Sector) -> Option<StoryLine> {
        let mut first: Option<StoryLine> = None;
        let mut told = Vec::new();
        for (request, version) in self.held(key, sector) {
            let Some(past) = self.world.requests.past(request) else {
                continue;
            };
            let line = self.request_in_words(request.leg, past);
            let changed = if version.changed {
                ", its buffer changed in flight"
            } else {
                ""
            };
            told.push(format!("{}{changed}", line.what));
            if first
                .as_ref()
                .is_none_or(|before| line.event < before.event)
            {
                first = Some(line);
            }
        }
        Some(StoryLine {
            what: format!(
                "array sector {}: {}",
                self.world.md.on_whole(key, sector),
                told.join("; ")
            ),
            ..first?
        })
    }
}
