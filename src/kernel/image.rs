//! Kernel images: what a bzImage says about itself, and the ELF inside it.
//!
//! Offsets are those of the x86 boot protocol (`Documentation/arch/x86/boot.rst` of Linux). Under TCG a kernel that unpacks itself
//! costs half a second a boot, so the ELF is taken out once, on the host, and booted through its PVH entry where it has one. It is
//! the same code; what is skipped is the unpacker, and with it KASLR.

use std::path::Path;
use std::process::{Command, Stdio};

/// The longest release string read: the kernel's own limit (`__NEW_UTS_LEN`).
const RELEASE_LEN_MAX: usize = 64;
/// An unpacked kernel larger than this, in bytes, is no kernel.
const ELF_LEN_MAX: usize = 1 << 30;
/// The ELF note that holds the PVH entry point (`XEN_ELFNOTE_PHYS32_ENTRY`).
const PVH_ENTRY_NOTE: u32 = 18;

/// The `uname -r` of a bzImage, or nothing when these bytes are no bzImage.
pub(super) fn release(image: &[u8]) -> Option<String> {
    if image.get(0x202..0x206)? != b"HdrS" {
        return None;
    }
    let offset = usize::from(u16::from_le_bytes(
        image.get(0x20e..0x210)?.try_into().ok()?,
    )) + 0x200;
    let text = image.get(offset..)?;
    let end = text
        .iter()
        .take(RELEASE_LEN_MAX + 1)
        .position(|byte| *byte == b' ' || *byte == 0)?;
    let release = std::str::from_utf8(text.get(..end)?).ok()?;
    let plain = !release.is_empty()
        && release
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && byte != b'/');
    plain.then(|| release.to_owned())
}

/// The ELF that a bzImage unpacks to, when the host has the unpacker for it and the ELF has a PVH entry.
///
/// `None` costs nothing but boot time: the bzImage itself is booted then.
pub(super) fn extract_pvh(image: &[u8], scratch: &Path) -> Option<Vec<u8>> {
    release(image)?;
    let word = |at: usize| -> Option<usize> {
        usize::try_from(u32::from_le_bytes(image.get(at..at + 4)?.try_into().ok()?)).ok()
    };
    let setup_sectors = match *image.get(0x1f1)? {
        0 => 4, // as the boot protocol says
        sectors => usize::from(sectors),
    };
    let start = (setup_sectors + 1) * 512 + word(0x248)?;
    let payload = image.get(start..start.checked_add(word(0x24c)?)?)?;
    // Every format but gzip has the unpacked length appended, which the command-line tools take for garbage.
    let (tool, payload): (&[&str], &[u8]) = match payload {
        [0x1f, 0x8b, ..] => (&["gzip", "-dc"], payload),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => {
            (&["xz", "-dc"], payload.get(..payload.len() - 4)?)
        }
        [0x28, 0xb5, 0x2f, 0xfd, ..] => (&["zstd", "-dcq"], payload.get(..payload.len() - 4)?),
        _ => return None,
    };
    let packed = scratch.join("payload");
    std::fs::write(&packed, payload).ok()?;
    let (program, arguments) = tool.split_first()?;
    let output = Command::new(program)
        .args(arguments)
        .stdin(std::fs::File::open(&packed).ok()?)
        .stderr(Stdio::null())
        .output()
        .ok()?;
    let _ = std::fs::remove_file(&packed);
    let elf = output.stdout;
    (output.status.success() && elf.len() <= ELF_LEN_MAX && has_pvh_entry(&elf)).then_some(elf)
}

/// Whether an x86-64 ELF kernel has the note with the PVH entry point, without which QEMU refuses to boot it.
fn has_pvh_entry(elf: &[u8]) -> bool {
    notes(elf).is_some_and(|segments| segments.iter().any(|segment| segment_has_pvh(segment)))
}

/// The PT_NOTE segments of a 64-bit little-endian ELF.
fn notes(elf: &[u8]) -> Option<Vec<&[u8]>> {
    if elf.get(..6)? != b"\x7fELF\x02\x01" {
        return None;
    }
    let half = |at: usize| -> Option<usize> {
        Some(usize::from(u16::from_le_bytes(
            elf.get(at..at + 2)?.try_into().ok()?,
        )))
    };
    let long = |at: usize| -> Option<usize> {
        usize::try_from(u64::from_le_bytes(elf.get(at..at + 8)?.try_into().ok()?)).ok()
    };
    let (table, entry_len, count) = (long(0x20)?, half(0x36)?, half(0x38)?);
    let mut segments = Vec::new();
    for index in 0..count {
        let header = table.checked_add(index.checked_mul(entry_len)?)?;
        header.checked_add(0x38)?;
        if elf.get(header..header + 4)? == 4u32.to_le_bytes() {
            let offset = long(header + 8)?;
            segments.push(elf.get(offset..offset.checked_add(long(header + 0x20)?)?)?);
        }
    }
    Some(segments)
}

fn segment_has_pvh(mut notes: &[u8]) -> bool {
    let word = |bytes: &[u8], at: usize| -> Option<u32> {
        Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
    };
    while let (Some(name_len), Some(value_len), Some(kind)) =
        (word(notes, 0), word(notes, 4), word(notes, 8))
    {
        if kind == PVH_ENTRY_NOTE && notes.get(12..16) == Some(b"Xen\0") {
            return true;
        }
        let padded = |len: u32| {
            usize::try_from(len)
                .ok()
                .and_then(|len| len.checked_next_multiple_of(4))
        };
        let next = padded(name_len)
            .zip(padded(value_len))
            .and_then(|(name, value)| name.checked_add(value)?.checked_add(12));
        match next.and_then(|next| notes.get(next..)) {
            Some(rest) => notes = rest,
            None => return false,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bzimage(release: &str) -> Vec<u8> {
        let mut image = vec![0u8; 0x400];
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x20e..0x210].copy_from_slice(&0x100u16.to_le_bytes());
        let text = format!("{release} (builder@host) #1 SMP\0");
        image[0x300..0x300 + text.len()].copy_from_slice(text.as_bytes());
        image
    }

    #[test]
    fn the_release_is_read_from_the_header() {
        assert_eq!(
            release(&bzimage("6.1.0-56-cloud-amd64")).as_deref(),
            Some("6.1.0-56-cloud-amd64")
        );
        assert_eq!(release(&bzimage("../up")), None);
        assert_eq!(release(b"MZ"), None);
        assert_eq!(release(&bzimage("6.1")[..0x300]), None);
        assert!(extract_pvh(&bzimage("6.1"), Path::new("/nonexistent")).is_none());
    }

    #[test]
    fn the_pvh_note_is_found_among_others() {
        let mut notes = Vec::new();
        for (kind, value) in [(6u32, &b"linux\0"[..]), (18, &[0u8; 8][..])] {
            notes.extend(4u32.to_le_bytes());
            notes.extend(u32::try_from(value.len()).unwrap().to_le_bytes());
            notes.extend(kind.to_le_bytes());
            notes.extend(b"Xen\0");
            notes.extend(value);
            notes.resize(notes.len().next_multiple_of(4), 0);
        }
        assert!(segment_has_pvh(&notes));
        assert!(!segment_has_pvh(&notes[..20]));
        assert!(!segment_has_pvh(&[0xff; 64]));
        assert!(!has_pvh_entry(b"\x7fELF\x02\x01 short"));
    }
}
