//! What a wrong content looks like: its entropy, and what it most likely is. A guess for the reader; nothing is decided by it.

use crate::finding::Nature;
use crate::stamp::Stamp;

/// Words of 8 bytes that look like addresses of a kernel, for a sector to be called kernel data.
const POINTERS_MIN: usize = 4;
/// Bits a byte from which 512 bytes are as good as random (512 random bytes have about 7.6).
const RANDOM_MILLIBITS: u32 = 7200;
/// The magic of an md superblock of version 1 and of a bitmap.
const MD_MAGIC: [u8; 4] = [0xfc, 0x4e, 0x2b, 0xa9];
const BITMAP_MAGIC: &[u8] = b"bitm";

/// Looks at a sector's content that should have been `expected`, in the run of this number.
pub(crate) fn look(bytes: &[u8], expected: Option<&Stamp>, run: u64) -> Nature {
    Nature {
        what: what(bytes, expected, run),
        entropy_millibits: entropy_millibits(bytes),
    }
}

/// Shannon's entropy in thousandths of a bit a byte, 0 to 8000.
pub(crate) fn entropy_millibits(bytes: &[u8]) -> u32 {
    let mut counts = [0u32; 256];
    for byte in bytes {
        counts[usize::from(*byte)] += 1;
    }
    let all = bytes.len().max(1) as f64;
    let bits: f64 = counts
        .iter()
        .filter(|count| **count > 0)
        .map(|count| {
            let share = f64::from(*count) / all;
            -share * share.log2()
        })
        .sum();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "0 to 8000 by definition"
    )]
    let millibits = (bits * 1000.0).round() as u32;
    millibits
}

fn what(bytes: &[u8], expected: Option<&Stamp>, run: u64) -> String {
    if let Some((stamp, whole)) = Stamp::read(bytes) {
        return of_a_stamp(&stamp, whole, expected, run);
    }
    if let Some(first) = bytes.first()
        && bytes.iter().all(|byte| byte == first)
    {
        return match first {
            0 => "zeros".into(),
            0x6b => "0x6b throughout: the slab allocator's poison of freed memory".into(),
            0x5a => "0x5a throughout: the slab allocator's poison of unwritten memory".into(),
            0xaa => "0xaa throughout: the poison of freed pages".into(),
            byte => format!("0x{byte:02x} throughout"),
        };
    }
    if bytes.starts_with(&MD_MAGIC) {
        return "an md superblock".into();
    }
    if bytes.starts_with(BITMAP_MAGIC) {
        return "an md bitmap".into();
    }
    if bytes.starts_with(b"\x7fELF") {
        return "the begin of an ELF file".into();
    }
    if let Some(share) = tail_of_a_stamp(bytes, expected) {
        return format!("{share} of 512 bytes are the expected stamp's: a mixture");
    }
    let printable = |byte: &&u8| matches!(**byte, 0x20..=0x7e | b'\n' | b'\t' | b'\r');
    if bytes.iter().filter(printable).count() * 10 >= bytes.len() * 9 {
        return "text".into();
    }
    let pointers = bytes
        .chunks_exact(8)
        .filter(|word| is_pointer(word))
        .count();
    if pointers >= POINTERS_MIN {
        return format!("pointer-like kernel data: {pointers} of 64 words are kernel addresses");
    }
    let zeros = bytes.iter().filter(|byte| **byte == 0).count();
    if entropy_millibits(bytes) >= RANDOM_MILLIBITS {
        "random, compressed or encrypted data".into()
    } else if zeros * 2 >= bytes.len() {
        "structured data, zeros for the most part".into()
    } else {
        "structured data".into()
    }
}

fn of_a_stamp(stamp: &Stamp, whole: bool, expected: Option<&Stamp>, run: u64) -> String {
    if !whole {
        return "a damaged stamp: its header is whole, its fill is not".into();
    }
    if stamp.run != run {
        return "a whole stamp of another run: what the leg held before, or memory that survived"
            .into();
    }
    match expected {
        Some(want) if (stamp.target, stamp.sector) != (want.target, want.sector) => {
            "another sector's stamp, whole: the right data at the wrong place".into()
        }
        Some(want) if stamp.writer == want.writer && stamp.sequence < want.sequence => {
            "an older version of this sector, whole".into()
        }
        Some(want) if stamp == want => "what was expected".into(),
        Some(_) | None => "another write's stamp, whole".into(),
    }
}

/// How many bytes are where the expected stamp has them, if that is more than chance and less than all.
fn tail_of_a_stamp(bytes: &[u8], expected: Option<&Stamp>) -> Option<usize> {
    let want = expected?.to_sector();
    let same = bytes.iter().zip(&want).filter(|(a, b)| a == b).count();
    (same >= 64 && same < want.len()).then_some(same)
}

/// An address of a 64-bit kernel: x86-64's upper half from 0xffff8000…, or arm64's. All ones and small negative numbers are none.
fn is_pointer(word: &[u8]) -> bool {
    let value = u64::from_le_bytes(word.try_into().expect("eight bytes"));
    (0xffff_0000_0000_0000..0xffff_ffff_ffff_0000).contains(&value) && value & 0xffff_ffff != 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::Sector;
    use crate::stamp::SplitMix64;

    fn stamp(sector: u64, sequence: u64) -> Stamp {
        Stamp {
            run: 7,
            target: 1,
            sector: Sector(sector),
            writer: 3,
            sequence,
        }
    }

    #[test]
    fn contents_are_told_apart() {
        let want = stamp(8200, 119);
        let look = |bytes: &[u8]| look(bytes, Some(&want), 7).what;
        assert_eq!(look(&[0; 512]), "zeros");
        assert!(look(&[0x6b; 512]).contains("freed"));
        assert!(look(&stamp(8200, 118).to_sector()).starts_with("an older version"));
        assert!(look(&stamp(8201, 119).to_sector()).starts_with("another sector's stamp"));
        let other = Stamp {
            run: 8,
            ..stamp(8200, 119)
        };
        assert!(look(&other.to_sector()).contains("another run"));
        let mut torn = want.to_sector();
        torn[300..].fill(0);
        assert!(look(&torn).starts_with("a damaged stamp"));
        let mut mixed = want.to_sector();
        mixed[..256].fill(0x11);
        assert!(look(&mixed).ends_with("a mixture"));
        let text: Vec<u8> = b"root:x:0:0:root\n"
            .iter()
            .copied()
            .cycle()
            .take(512)
            .collect();
        assert_eq!(look(&text), "text");
        let mut random = [0; 512];
        let mut words = SplitMix64(1);
        for word in random.chunks_exact_mut(8) {
            word.copy_from_slice(&words.next_u64().to_le_bytes());
        }
        assert!(look(&random).starts_with("random"));
        let mut kernel = [0; 512];
        for at in [0usize, 64, 128, 192, 256] {
            let address = 0xffff_8881_0234_5678u64 + at as u64;
            kernel[at..at + 8].copy_from_slice(&address.to_le_bytes());
        }
        assert!(look(&kernel).starts_with("pointer-like kernel data: 5"));
    }

    #[test]
    fn entropy_is_that_of_the_bytes() {
        assert_eq!(entropy_millibits(&[9; 512]), 0);
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(entropy_millibits(&all), 8000);
        assert_eq!(entropy_millibits(&[0, 1].repeat(256)), 1000);
    }
}
