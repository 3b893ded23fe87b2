//! What md's own writes say as the run goes on: superblocks, bits, checkpoints.

use crate::block::{LegId, Sector, SectorRange};
use crate::header::RunHeader;
use crate::md::{BitmapCopy, IN_SYNC, Parts, Superblock};
use crate::shadow::Bytes;

/// Chunks that one line names.
const CHUNKS_MAX: usize = 6;

/// One leg's metadata.
#[derive(Debug)]
struct Leg {
    parts: Parts,
    bytes: Bytes,
    superblock: Option<Superblock>,
    bitmap: Option<BitmapCopy>,
}

/// What is new, in words.
#[derive(Debug, Default)]
pub(super) struct News {
    pub(super) superblock: Option<String>,
    pub(super) bitmap: Option<String>,
    /// Sectors done and in all.
    pub(super) progress: Option<(u64, u64)>,
}

/// All legs' metadata.
#[derive(Debug)]
pub(super) struct Metadata {
    legs: Vec<Leg>,
}

impl Metadata {
    pub(super) fn new(header: &RunHeader) -> Metadata {
        let leg = |head: &crate::header::LegHead| Leg {
            parts: Parts::new(head.part()),
            bytes: Bytes::default(),
            superblock: None,
            bitmap: None,
        };
        Metadata {
            legs: header.legs.iter().map(leg).collect(),
        }
    }

    /// The leg's first data sector, as far as its superblock tells.
    pub(super) fn data_start(&self, leg: LegId) -> Option<u64> {
        let superblock = self.legs.get(leg.index())?.superblock.as_ref()?;
        Some(superblock.data_offset)
    }

    /// A leg has grown: this is what md has of it now.
    pub(super) fn grew(&mut self, leg: LegId, part: SectorRange) {
        if let Some(leg) = self.legs.get_mut(leg.index()) {
            leg.parts.grow(part);
        }
    }

    /// A leg got these sectors.
    pub(super) fn wrote(&mut self, leg: LegId, start: u64, payload: &[u8]) -> News {
        let mut news = News::default();
        let Some(leg) = self.legs.get_mut(leg.index()) else {
            return news;
        };
        if let Some(superblock) = &leg.superblock
            && superblock.data().contains(Sector(start))
        {
            return news;
        }
        leg.bytes.put(Sector(start), payload);
        // Laid anew, as by a resize: no bit is the same one.
        leg.bitmap
            .take_if(|copy| copy.is_laid_anew(Sector(start), payload));
        if let Some(copy) = &mut leg.bitmap {
            let changed = copy.apply(Sector(start), payload);
            news.bitmap = in_words(&changed);
        }
        let found = leg.parts.find(&leg.bytes).ok();
        if found.is_some() && found != leg.superblock {
            if let Some(now) = &found {
                news.superblock = Some(superblock_in_words(now, leg.superblock.as_ref()));
                news.progress = progress(now, leg.superblock.as_ref());
            }
            leg.superblock = found;
        }
        if leg.bitmap.is_none()
            && let Some(place) = leg.superblock.as_ref().and_then(|one| one.bitmap)
        {
            leg.bitmap = BitmapCopy::read(place, u64::MAX, &leg.bytes).ok();
        }
        news
    }
}

fn in_words(changed: &[(u64, bool)]) -> Option<String> {
    let list = |wanted: bool, name: &str| {
        let chunks: Vec<String> = changed
            .iter()
            .filter(|(_, set)| *set == wanted)
            .map(|(chunk, _)| chunk.to_string())
            .collect();
        if chunks.is_empty() {
            return String::new();
        }
        let more = if chunks.len() > CHUNKS_MAX {
            " …"
        } else {
            ""
        };
        let shown = chunks[..chunks.len().min(CHUNKS_MAX)].join(" ");
        format!("{} bits {name}: {shown}{more}", chunks.len())
    };
    let parts = [list(true, "set"), list(false, "cleared")];
    let text: Vec<&str> = parts
        .iter()
        .map(String::as_str)
        .filter(|text| !text.is_empty())
        .collect();
    (!text.is_empty()).then(|| text.join("; "))
}

fn superblock_in_words(now: &Superblock, before: Option<&Superblock>) -> String {
    let state = match now.resync_offset {
        IN_SYNC => "clean".to_owned(),
        0 => "dirty".to_owned(),
        at => format!("resync at {at}"),
    };
    let recovery = now
        .recovery_offset
        .map_or_else(String::new, |at| format!(", recovered to {at}"));
    let roles = match before {
        Some(before) if before.roles != now.roles => ", roles changed",
        _ => "",
    };
    format!(
        "superblock: events {}, {state}{recovery}{roles}",
        now.events
    )
}

/// A checkpoint; the end of a resync or recovery that was under way is one as well.
fn progress(now: &Superblock, before: Option<&Superblock>) -> Option<(u64, u64)> {
    let under_way = |one: &Superblock| {
        one.recovery_offset.or_else(|| {
            (one.resync_offset != IN_SYNC && one.resync_offset != 0).then_some(one.resync_offset)
        })
    };
    match (under_way(now), before.and_then(under_way)) {
        (Some(done), _) => Some((done, now.size)),
        (None, Some(_)) => Some((now.size, now.size)),
        (None, None) => None,
    }
}
