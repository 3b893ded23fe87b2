//! Which shared libraries a program needs, as the host's own loader finds them.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What kind of file goes into the guest.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// An x86-64 ELF that names this loader.
    Dynamic { loader: String },
    /// An x86-64 ELF without a loader: a static program or a shared library.
    Bare { needs_libraries: bool },
    /// An ELF for another machine.
    Foreign,
    /// No ELF.
    Other,
}

/// Looks at a file's first bytes and program headers.
pub(super) fn kind(bytes: &[u8]) -> Kind {
    if !bytes.starts_with(b"\x7fELF") {
        return Kind::Other;
    }
    // 64-bit, little-endian, x86-64.
    if bytes.get(4..6) != Some(&[2, 1]) || bytes.get(0x12..0x14) != Some(&[62, 0]) {
        return Kind::Foreign;
    }
    let mut needs_libraries = false;
    for (kind, segment) in segments(bytes).unwrap_or_default() {
        match kind {
            // PT_INTERP
            3 => {
                let path = segment.split(|byte| *byte == 0).next().unwrap_or_default();
                return Kind::Dynamic {
                    loader: String::from_utf8_lossy(path).into_owned(),
                };
            }
            // PT_DYNAMIC: pairs of tag and value; DT_NEEDED is 1. A static-pie has a table without it.
            2 => {
                needs_libraries |= segment
                    .chunks_exact(16)
                    .any(|pair| pair.starts_with(&1u64.to_le_bytes()))
            }
            _ => {}
        }
    }
    Kind::Bare { needs_libraries }
}

fn segments(elf: &[u8]) -> Option<Vec<(u32, &[u8])>> {
    let half = |at: usize| -> Option<usize> {
        Some(usize::from(u16::from_le_bytes(
            elf.get(at..at + 2)?.try_into().ok()?,
        )))
    };
    let long = |at: usize| -> Option<usize> {
        usize::try_from(u64::from_le_bytes(
            elf.get(at..at.checked_add(8)?)?.try_into().ok()?,
        ))
        .ok()
    };
    let (table, entry_len, count) = (long(0x20)?, half(0x36)?, half(0x38)?);
    let mut found = Vec::new();
    for index in 0..count {
        let header = table.checked_add(index.checked_mul(entry_len)?)?;
        header.checked_add(0x40)?;
        let kind = u32::from_le_bytes(elf.get(header..header + 4)?.try_into().ok()?);
        let (offset, len) = (long(header + 8)?, long(header + 0x20)?);
        // A segment can lie outside a stripped file; it is then nothing we look at.
        found.push((
            kind,
            elf.get(offset..offset.checked_add(len)?)
                .unwrap_or_default(),
        ));
    }
    Some(found)
}

/// The loader and libraries of `program`, by asking its loader; or what it said when one is not found.
///
/// This runs the loader, not the program: `loader --list PROGRAM`.
pub(super) fn of(program: &Path, loader: &str) -> Result<Vec<PathBuf>, String> {
    let output = Command::new(loader)
        .arg("--list")
        .arg(program)
        .env("LC_ALL", "C")
        .env_remove("LD_PRELOAD")
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("its loader {loader} can't be started: {error}"))?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr)
            .trim()
            .replace('\n', "; "));
    }
    parse(&String::from_utf8_lossy(&output.stdout), loader)
}

fn parse(list: &str, loader: &str) -> Result<Vec<PathBuf>, String> {
    let mut found = vec![PathBuf::from(loader)];
    for line in list.lines() {
        let (name, rest) = line
            .trim()
            .split_once("=>")
            .map_or((line.trim(), line.trim()), |(name, rest)| {
                (name.trim(), rest.trim())
            });
        if rest == "not found" {
            return Err(format!("its library {name} is not on this machine"));
        }
        let path = rest.split(" (").next().unwrap_or_default();
        if path.starts_with('/') {
            found.push(path.into());
        }
    }
    found.sort();
    found.dedup();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loaders_list() {
        let list = "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibudev.so.1 => /lib/x86_64-linux-gnu/libudev.so.1 (0x00007f)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        let found = parse(list, "/lib64/ld-linux-x86-64.so.2").unwrap();
        assert_eq!(
            found,
            [
                PathBuf::from("/lib/x86_64-linux-gnu/libudev.so.1"),
                "/lib64/ld-linux-x86-64.so.2".into()
            ]
        );
        assert!(
            parse("\tlibx.so => not found\n", "/l")
                .unwrap_err()
                .contains("libx.so")
        );
    }

    #[test]
    fn kinds_of_files() {
        assert_eq!(kind(b"#!/bin/sh"), Kind::Other);
        assert_eq!(kind(b"\x7fELF\x01\x01"), Kind::Foreign);
        let this = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        assert!(matches!(
            kind(&this),
            Kind::Dynamic { .. }
                | Kind::Bare {
                    needs_libraries: false
                }
        ));
        assert_eq!(
            kind(&this[..0x40]),
            Kind::Bare {
                needs_libraries: false
            }
        );
    }
}
