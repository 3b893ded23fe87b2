//! Batches of marks and the plan as bytes.
//!
//! One batch is one sector, so neither merging nor splitting in the guest's block layer matters. Layout of a batch, little-endian:
//! `LMRK` (4), kind u8 (1 intents, 2 JSON, 3 pages), count u8, payload bytes u16, batch number u32 from 1 within the boot, CRC-32 u32 of the sector
//! with this field 0; payload from byte 16. A batch number may come twice (the guest's kernel retried the write): the second is ignored.

use super::{
    Admin, Intent, IntentFlags, IntentKind, Mark, PLAN_COUNT, PageRun, Pages, Phase, SyncLook,
};
use crate::block::{SECTOR_BYTES, Sector};

/// The most intents that one batch carries.
pub const INTENTS_MAX: usize = PAYLOAD_MAX / INTENT_BYTES;
/// The most page runs that one batch carries.
pub const PAGE_RUNS_MAX: usize = (PAYLOAD_MAX - PAGES_HEADER) / PAGE_RUN_BYTES;
/// The most bytes of JSON that one batch carries.
pub const JSON_MAX: usize = PAYLOAD_MAX;

const MAGIC: [u8; 4] = *b"LMRK";
const HEADER: usize = 16;
const PAYLOAD_MAX: usize = SECTOR_BYTES - HEADER;
const INTENT_BYTES: usize = 32;
const PAGES_HEADER: usize = 16;
const PAGE_RUN_BYTES: usize = 12;

/// Digests in one [`Mark::Survey`] at most: what fits a batch however long the numbers are.
pub const SURVEY_MAX: usize = 36;

/// Why a sector of the marks area is no batch.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadBatch {
    /// No magic.
    #[error("no batch of marks: wrong magic")]
    Magic,
    /// Torn or hostile.
    #[error("batch of marks with a wrong checksum")]
    Checksum,
    /// Right checksum, wrong content.
    #[error("batch of marks that makes no sense: {0}")]
    Content(String),
}

/// Writes one batch of intents into a sector.
///
/// # Panics
/// If there are none or more than [`INTENTS_MAX`].
pub fn encode_intents(batch: u32, intents: &[Intent]) -> [u8; SECTOR_BYTES] {
    assert!(
        (1..=INTENTS_MAX).contains(&intents.len()),
        "a batch has 1 to {INTENTS_MAX} intents"
    );
    let mut out = [0; SECTOR_BYTES];
    for (intent, to) in intents
        .iter()
        .zip(out[HEADER..].chunks_exact_mut(INTENT_BYTES))
    {
        let (ended, errno) = match intent.phase {
            Phase::Begin => (0, 0),
            Phase::End { errno } => (1, errno),
        };
        to[0] = ended
            | match intent.kind {
                IntentKind::Write => 0,
                IntentKind::Discard => 1,
                IntentKind::Flush => 2,
                IntentKind::Unstamped => 3,
            } << 1;
        let f = intent.flags;
        to[1] = [f.immutable, f.dsync, f.buffered, f.pinned, f.alone]
            .into_iter()
            .enumerate()
            .fold(0, |bits, (at, flag)| bits | u8::from(flag) << at);
        to[2..4].copy_from_slice(&intent.writer.to_le_bytes());
        to[4..6].copy_from_slice(&intent.slot.to_le_bytes());
        to[6..8].copy_from_slice(&errno.to_le_bytes());
        to[8..10].copy_from_slice(&intent.target.to_le_bytes());
        to[12..16].copy_from_slice(&intent.count.to_le_bytes());
        to[16..24].copy_from_slice(&intent.sequence.to_le_bytes());
        to[24..32].copy_from_slice(&intent.sector.0.to_le_bytes());
    }
    seal(
        &mut out,
        batch,
        1,
        intents.len(),
        intents.len() * INTENT_BYTES,
    );
    out
}

/// Writes one batch of page runs into a sector.
///
/// # Panics
/// If there are none or more than [`PAGE_RUNS_MAX`] runs.
pub fn encode_pages(batch: u32, pages: &Pages) -> [u8; SECTOR_BYTES] {
    assert!(
        (1..=PAGE_RUNS_MAX).contains(&pages.runs.len()),
        "a batch has 1 to {PAGE_RUNS_MAX} runs"
    );
    let mut out = [0; SECTOR_BYTES];
    let payload = &mut out[HEADER..];
    payload[0..2].copy_from_slice(&pages.writer.to_le_bytes());
    payload[2..4].copy_from_slice(&pages.slot.to_le_bytes());
    payload[4..8].copy_from_slice(&pages.first_page.to_le_bytes());
    payload[8] = u8::from(pages.pinned);
    for (run, to) in pages
        .runs
        .iter()
        .zip(payload[PAGES_HEADER..].chunks_exact_mut(PAGE_RUN_BYTES))
    {
        to[0..8].copy_from_slice(&run.frame.to_le_bytes());
        to[8..12].copy_from_slice(&run.count.to_le_bytes());
    }
    seal(
        &mut out,
        batch,
        3,
        pages.runs.len(),
        PAGES_HEADER + pages.runs.len() * PAGE_RUN_BYTES,
    );
    out
}

/// Writes one mark as a batch of its own. Texts in it are cut until it fits.
pub fn encode_mark(batch: u32, mark: &Mark) -> [u8; SECTOR_BYTES] {
    match mark {
        Mark::Intent(intent) => return encode_intents(batch, std::slice::from_ref(intent)),
        Mark::Pages(pages) => return encode_pages(batch, pages),
        Mark::Hello(_)
        | Mark::Target(_)
        | Mark::StepBegin { .. }
        | Mark::StepEnd { .. }
        | Mark::WorkloadEnd { .. }
        | Mark::ReadBackEnd { .. }
        | Mark::BadRead { .. }
        | Mark::Survey { .. }
        | Mark::Quiet { .. }
        | Mark::Fact { .. }
        | Mark::Admin(_)
        | Mark::Sync(_)
        | Mark::Finish { .. } => {}
    }
    let mut mark = mark.clone();
    let json = loop {
        let json = serde_json::to_vec(&mark).expect("a mark is plain data");
        if json.len() <= JSON_MAX {
            break json;
        }
        shorten(&mut mark);
    };
    let mut out = [0; SECTOR_BYTES];
    out[HEADER..HEADER + json.len()].copy_from_slice(&json);
    seal(&mut out, batch, 2, 1, json.len());
    out
}

/// Halves the longest text of a mark.
fn shorten(mark: &mut Mark) {
    let text = match mark {
        Mark::Hello(hello) => {
            if hello.agent.len() > hello.release.len() {
                &mut hello.agent
            } else {
                &mut hello.release
            }
        }
        Mark::Target(target) => &mut target.device,
        Mark::StepEnd { detail, .. } => detail,
        Mark::WorkloadEnd { note, .. } => note,
        Mark::BadRead { head, .. } => head,
        Mark::Quiet { pending, .. } => pending,
        Mark::Fact { name, value } => {
            if name.len() > value.len() {
                name
            } else {
                value
            }
        }
        Mark::Admin(Admin { legs, .. }) | Mark::Sync(SyncLook { legs, .. }) => {
            let longest = legs.iter_mut().max_by_key(|name| name.len());
            longest.expect("an action without legs fits a batch")
        }
        Mark::Intent(_)
        | Mark::Pages(_)
        | Mark::StepBegin { .. }
        | Mark::ReadBackEnd { .. }
        | Mark::Survey { .. }
        | Mark::Finish { .. } => {
            unreachable!("a mark without text fits a batch")
        }
    };
    let mut at = text.len() / 2;
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    text.truncate(at);
}

fn seal(out: &mut [u8; SECTOR_BYTES], batch: u32, kind: u8, count: usize, payload_bytes: usize) {
    out[0..4].copy_from_slice(&MAGIC);
    out[4] = kind;
    out[5] = u8::try_from(count).expect("bounded by the batch's size");
    out[6..8].copy_from_slice(
        &u16::try_from(payload_bytes)
            .expect("bounded by the batch's size")
            .to_le_bytes(),
    );
    out[8..12].copy_from_slice(&batch.to_le_bytes());
    out[12..16].fill(0);
    let crc = crc32fast::hash(out);
    out[12..16].copy_from_slice(&crc.to_le_bytes());
}

/// Reads one sector of the marks area: its batch number and its marks.
///
/// # Errors
/// [`BadBatch`], for any bytes that [`encode_mark`] and its siblings did not make. Never panics: the guest writes this.
pub fn decode(bytes: &[u8; SECTOR_BYTES]) -> Result<(u32, Vec<Mark>), BadBatch> {
    if bytes[0..4] != MAGIC {
        return Err(BadBatch::Magic);
    }
    let mut zeroed = *bytes;
    zeroed[12..16].fill(0);
    if crc32fast::hash(&zeroed) != u32_at(bytes, 12) {
        return Err(BadBatch::Checksum);
    }
    let batch = u32_at(bytes, 8);
    let count = usize::from(bytes[5]);
    let payload = bytes[HEADER..]
        .get(..usize::from(u16_at(bytes, 6)))
        .ok_or_else(|| BadBatch::Content("payload longer than a sector".into()))?;
    let marks = match bytes[4] {
        1 if count * INTENT_BYTES == payload.len() => payload
            .chunks_exact(INTENT_BYTES)
            .map(|raw| decode_intent(raw).map(Mark::Intent))
            .collect::<Result<Vec<_>, _>>()?,
        2 => {
            let mark: Mark = serde_json::from_slice(payload)
                .map_err(|error| BadBatch::Content(error.to_string()))?;
            if matches!(mark, Mark::Intent(_) | Mark::Pages(_)) {
                return Err(BadBatch::Content("an intent or pages as JSON".into()));
            }
            vec![mark]
        }
        3 if PAGES_HEADER + count * PAGE_RUN_BYTES == payload.len() => vec![Mark::Pages(Pages {
            writer: u16_at(payload, 0),
            slot: u16_at(payload, 2),
            first_page: u32_at(payload, 4),
            pinned: payload[8] != 0,
            runs: payload[PAGES_HEADER..]
                .chunks_exact(PAGE_RUN_BYTES)
                .map(|raw| PageRun {
                    frame: u64_at(raw, 0),
                    count: u32_at(raw, 8),
                })
                .collect(),
        })],
        kind => {
            return Err(BadBatch::Content(format!(
                "kind {kind} with {count} entries in {} bytes",
                payload.len()
            )));
        }
    };
    Ok((batch, marks))
}

fn decode_intent(raw: &[u8]) -> Result<Intent, BadBatch> {
    let ended = raw[0] & 1 != 0;
    let kind = match raw[0] >> 1 {
        0 => IntentKind::Write,
        1 => IntentKind::Discard,
        2 => IntentKind::Flush,
        3 => IntentKind::Unstamped,
        other => return Err(BadBatch::Content(format!("intent kind {other}"))),
    };
    let flag = |at: u8| raw[1] & (1 << at) != 0;
    let (sector, count) = (Sector(u64_at(raw, 24)), u32_at(raw, 12));
    if sector.checked_add(u64::from(count)).is_none() {
        return Err(BadBatch::Content("intent past the end of numbers".into()));
    }
    Ok(Intent {
        phase: if ended {
            Phase::End {
                errno: u16_at(raw, 6),
            }
        } else {
            Phase::Begin
        },
        kind,
        target: u16_at(raw, 8),
        writer: u16_at(raw, 2),
        sequence: u64_at(raw, 16),
        sector,
        count,
        slot: u16_at(raw, 4),
        flags: IntentFlags {
            immutable: flag(0),
            dsync: flag(1),
            buffered: flag(2),
            pinned: flag(3),
            alone: flag(4),
        },
    })
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().expect("two bytes"))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// The plan area's content: header and JSON, padded to whole sectors. `None` if the plan is larger than its area.
pub fn encode_plan(json: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(SECTOR_BYTES + json.len() + SECTOR_BYTES);
    out.extend_from_slice(b"LEGPLAN1");
    out.extend_from_slice(&u32::try_from(json.len()).ok()?.to_le_bytes());
    out.extend_from_slice(&crc32fast::hash(json).to_le_bytes());
    out.extend_from_slice(json);
    out.resize(out.len().next_multiple_of(SECTOR_BYTES), 0);
    (out.len() as u64 <= PLAN_COUNT * SECTOR_BYTES as u64).then_some(out)
}

/// The plan's JSON out of the plan area's content (which may be cut anywhere behind the JSON).
///
/// # Errors
/// A sentence, if this is no plan.
pub fn decode_plan(bytes: &[u8]) -> Result<&[u8], &'static str> {
    if bytes.len() < HEADER || &bytes[0..8] != b"LEGPLAN1" {
        return Err("the control leg holds no plan");
    }
    let len = usize::try_from(u32_at(bytes, 8)).map_err(|_| "the plan is too long")?;
    let json = bytes[HEADER..].get(..len).ok_or("the plan is cut off")?;
    if crc32fast::hash(json) != u32_at(bytes, 12) {
        return Err("the plan's checksum is wrong");
    }
    Ok(json)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Any mark about an intent.
    pub(crate) fn any_intent() -> impl Strategy<Value = Intent> {
        (
            any::<(bool, u16, u16, u16, u64)>(),
            0u64..1 << 50,
            any::<u32>(),
            0u8..4,
            any::<(u16, u8)>(),
        )
            .prop_map(
                |((end, errno, target, writer, sequence), sector, count, kind, (slot, bits))| {
                    Intent {
                        phase: if end {
                            Phase::End { errno }
                        } else {
                            Phase::Begin
                        },
                        kind: [
                            IntentKind::Write,
                            IntentKind::Discard,
                            IntentKind::Flush,
                            IntentKind::Unstamped,
                        ][usize::from(kind)],
                        target,
                        writer,
                        sequence,
                        sector: Sector(sector),
                        count,
                        slot,
                        flags: IntentFlags {
                            immutable: bits & 1 != 0,
                            dsync: bits & 2 != 0,
                            buffered: bits & 4 != 0,
                            pinned: bits & 8 != 0,
                            alone: bits & 16 != 0,
                        },
                    }
                },
            )
    }

    proptest! {
        #[test]
        fn intents_come_back(intents in prop::collection::vec(any_intent(), 1..=INTENTS_MAX), batch: u32) {
            let decoded = decode(&encode_intents(batch, &intents)).unwrap();
            prop_assert_eq!(decoded, (batch, intents.into_iter().map(Mark::Intent).collect::<Vec<_>>()));
        }

        #[test]
        fn any_bytes_are_survived(mut bytes in prop::collection::vec(any::<u8>(), SECTOR_BYTES), sealed: bool, kind in 0u8..5, len in 0usize..700) {
            if sealed {
                let whole: &mut [u8; SECTOR_BYTES] = bytes.as_mut_slice().try_into().unwrap();
                let count = usize::from(whole[5]);
                seal(whole, 1, kind, count, len);
            }
            let _outcome_is_free = decode(bytes.as_slice().try_into().unwrap());
        }
    }

    #[test]
    fn a_long_text_is_cut_and_not_refused() {
        let mark = Mark::StepEnd {
            step: 3,
            ok: false,
            detail: "ä\"\n".repeat(1000),
        };
        let (_, marks) = decode(&encode_mark(9, &mark)).unwrap();
        assert!(
            matches!(&marks[..], [Mark::StepEnd { step: 3, ok: false, detail }] if detail.starts_with('ä') && detail.len() > 50)
        );
    }

    #[test]
    fn the_longest_survey_fits_a_batch() {
        let mark = Mark::Survey {
            target: u16::MAX,
            sector: Sector(u64::MAX),
            digests: vec![u32::MAX; SURVEY_MAX],
        };
        let (_, marks) = decode(&encode_mark(1, &mark)).unwrap();
        assert_eq!(marks, [mark]);
    }

    #[test]
    fn a_flipped_bit_is_seen() {
        let mut bytes = encode_mark(1, &Mark::Finish { ok: true });
        bytes[300] ^= 1;
        assert_eq!(decode(&bytes), Err(BadBatch::Checksum));
    }

    #[test]
    fn a_plan_comes_back() {
        let area = encode_plan(b"{\"x\":1}").unwrap();
        assert_eq!(area.len() % SECTOR_BYTES, 0);
        assert_eq!(decode_plan(&area), Ok(&b"{\"x\":1}"[..]));
        decode_plan(&area[..20]).unwrap_err();
    }
}
