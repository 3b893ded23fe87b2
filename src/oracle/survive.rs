//! Any bytes as what a guest writes where metadata is: decoders and checks survive them. The body of the fuzz target `metadata`, and of a property test.

use smallvec::SmallVec;

use super::checker::Checker;
use super::verdict::{EndState, Outcome};
use crate::block::{LegId, Operation, RequestId, SECTOR_BYTES, Sector, SectorRange, Status};
use crate::config::LegConfig;
use crate::event::{
    Abandoned, Arrived, Completed, Content, Digests, Event, EventNo, Fetched, GuestEnd, What,
};
use crate::header::{LegHead, RunHeader};
use crate::md::superblock::{checksum_0, checksum_1};

const LEG_SECTORS: u64 = 16_384;
/// Where metadata may be: superblocks 1.1, 1.2, 1.0, 0.90, bitmap, bad-block list, data.
const PLACES: [u64; 8] = [0, 8, LEG_SECTORS - 16, LEG_SECTORS - 128, 16, 24, 32, 4096];
/// Bytes that say what is done with the content behind them.
const HEAD: usize = 8;

/// Takes the bytes for a list of requests to two legs and runs the checker over it. Each is eight bytes (leg, place, what is made right, which request it is and how it is answered, whether it
/// is left open and the guest killed after it, the time until the next, and two spare ones) and up to a sector of content; the rest of its 4096 bytes is zeros, with
/// the magic, version, position and checksum of a superblock or bitmap put in where that is asked for, so that the bytes behind them are believed.
///
/// # Panics
/// If a decoder or a check does: that is what is looked for. Also if a run that nobody ended in order is called clean.
pub fn survive(bytes: &[u8]) {
    let heads = ["a", "b"]
        .map(|name| LegHead {
            config: LegConfig::memory(name, LEG_SECTORS * SECTOR_BYTES as u64),
            sectors: LEG_SECTORS,
        })
        .to_vec();
    let mut checker = Checker::new(&RunHeader::new(1, 1, heads));
    let (mut no, mut time_us) = (0, 0u64);
    let mut apply = |what, later_us: u64| {
        no += 1;
        time_us = time_us.saturating_add(later_us).saturating_add(1);
        checker.apply(&Event {
            no: EventNo(no),
            time_us,
            what,
        });
    };
    let mut boot = 1;
    apply(What::Boot { boot }, 0);
    for (number, piece) in (1..).zip(bytes.chunks(HEAD + SECTOR_BYTES)) {
        if piece.len() < HEAD {
            break;
        }
        let (head, content) = piece.split_at(HEAD);
        let at = PLACES[usize::from(head[1]) % PLACES.len()];
        let page = page(at, head[2], content);
        let request = RequestId {
            leg: LegId(head[0] & 1),
            number,
        };
        let sectors = if head[3] & 1 == 0 { 8 } else { 1 };
        let Some(range) = SectorRange::new(Sector(at), sectors) else {
            continue;
        };
        let operation = if head[3] & 2 == 0 {
            Operation::Write
        } else {
            Operation::Read
        };
        let payload = &page[..crate::block::to_usize(sectors) * SECTOR_BYTES];
        let digests: Digests = crate::block::sector_digests(payload).collect();
        let arrived = What::Arrived(Arrived {
            request,
            queue: 0,
            operation,
            ranges: [range].into_iter().collect(),
            segments: SmallVec::new(),
        });
        apply(arrived, u64::from(head[5]) << 16);
        let content = if operation == Operation::Write {
            let fetched = What::Fetched(Fetched {
                request,
                digests,
                payload: Some(payload.to_vec()),
            });
            apply(fetched, 0);
            Content::Same
        } else {
            Content::Returned(digests)
        };
        let status = if head[3] & 12 == 12 {
            Status::IoErr
        } else {
            Status::Ok
        };
        let ended = if head[4] & 1 == 0 {
            What::Completed(Completed {
                request,
                status,
                content,
            })
        } else {
            What::Abandoned(Abandoned {
                request,
                applied: head[4] & 4 != 0,
            })
        };
        apply(ended, 0);
        if head[4] & 2 != 0 {
            let why = "cut".to_owned();
            let how = GuestEnd::Killed { why };
            apply(What::GuestEnded { boot, how }, 0);
            boot += 1;
            apply(What::Boot { boot }, 0);
        }
    }
    let verdict = checker.finish(EndState::default());
    assert_ne!(verdict.outcome, Outcome::Clean, "the run has no end");
}

/// 4096 bytes for a place; the bits of `right` say what is made right.
fn page(at: u64, right: u8, content: &[u8]) -> Vec<u8> {
    let mut page = vec![0; 8 * SECTOR_BYTES];
    page[..content.len()].copy_from_slice(content);
    let mut put = |at: usize, bytes: &[u8]| page[at..at + bytes.len()].copy_from_slice(bytes);
    match right & 3 {
        1 => {
            put(0, &0xa92b_4efcu32.to_le_bytes());
            put(4, &1u32.to_le_bytes());
            put(144, &at.to_le_bytes());
            if right & 4 != 0 {
                put(16, &[7; 16]);
                put(72, &1u32.to_le_bytes());
                put(80, &8192u64.to_le_bytes());
                put(92, &2u32.to_le_bytes());
                put(128, &2048u64.to_le_bytes());
                put(220, &2u32.to_le_bytes());
                put(256, &[0, 0, 1, 0]);
            }
            let max_dev = u32::from_le_bytes([page[220], page[221], page[222], page[223]]);
            let sum = checksum_1(&page, max_dev);
            page[216..220].copy_from_slice(&sum.to_le_bytes());
        }
        2 => {
            put(0, &0xa92b_4efcu32.to_le_bytes());
            put(4, &0u32.to_le_bytes());
            put(8, &90u32.to_le_bytes());
            let sum = checksum_0(&page);
            page[152..156].copy_from_slice(&sum.to_le_bytes());
        }
        3 => {
            put(0, b"bitm");
            put(4, &4u32.to_le_bytes());
            if right & 4 != 0 {
                put(8, &[7; 16]);
                put(40, &8192u64.to_le_bytes());
                put(52, &65536u32.to_le_bytes());
            }
        }
        _ => {}
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn piece() -> impl Strategy<Value = Vec<u8>> {
        (
            prop::array::uniform8(any::<u8>()),
            prop::collection::vec(any::<u8>(), SECTOR_BYTES),
            any::<bool>(),
        )
            .prop_map(|(head, mut content, sparse)| {
                if sparse {
                    for (at, byte) in content.iter_mut().enumerate() {
                        if *byte > 16 || at < 64 {
                            *byte = 0;
                        }
                    }
                }
                [&head[..], &content].concat()
            })
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(pieces in prop::collection::vec(piece(), 0..24), cut in 0usize..300) {
            let mut bytes = pieces.concat();
            bytes.truncate(bytes.len().saturating_sub(cut));
            survive(&bytes);
        }
    }
}
