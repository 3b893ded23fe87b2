//! Facts that are told without being asked for: what kernel this is, once; how the arrays are, at each quiet point.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::path::Path;

use super::control::Marker;
use super::{Error, md};
use crate::mark::Mark;

/// The type of a note with a build-id.
const NT_GNU_BUILD_ID: u32 = 3;
/// Modules whose build-id is told when they are there.
const MODULES: [&str; 9] = [
    "raid1",
    "raid10",
    "md_mod",
    "dm_mod",
    "dm_mirror",
    "dm_raid",
    "dm_crypt",
    "bcache",
    "virtio_blk",
];

/// Tells facts, each of the lasting ones once.
#[derive(Debug, Default)]
pub(super) struct Facts {
    told: BTreeSet<String>,
}

impl Facts {
    fn once(
        &mut self,
        marker: &mut Marker,
        name: &str,
        value: Option<String>,
    ) -> Result<(), Error> {
        match value {
            Some(value) if self.told.insert(name.to_owned()) => tell(marker, name, value),
            _ => Ok(()),
        }
    }

    /// What the kernel is; modules that were loaded since the last call.
    pub(super) fn provenance(&mut self, marker: &mut Marker) -> Result<(), Error> {
        if self.told.is_empty() {
            let line = |path: &str| md::attribute(Path::new(path));
            self.once(marker, "kernel.version", line("/proc/version"))?;
            self.once(marker, "kernel.cmdline", line("/proc/cmdline"))?;
            let config = fs::read("/proc/config.gz").ok();
            let hash = config.map(|bytes| format!("{:08x}", crc32fast::hash(&bytes)));
            self.once(marker, "kernel.config-crc32", hash)?;
            self.once(marker, "kernel.build-id", build_id("/sys/kernel/notes"))?;
        }
        for module in MODULES {
            let name = format!("module.{module}.build-id");
            if !self.told.contains(&name) {
                let notes = format!("/sys/module/{module}/notes/.note.gnu.build-id");
                self.once(marker, &name, build_id(&notes))?;
            }
        }
        Ok(())
    }

    /// How the arrays are now, and [`Facts::provenance`].
    pub(super) fn arrays(&mut self, marker: &mut Marker) -> Result<(), Error> {
        for (name, value) in md::facts() {
            tell(marker, &name, value)?;
        }
        self.provenance(marker)
    }
}

/// Tells one fact.
pub(super) fn tell(marker: &mut Marker, name: &str, value: String) -> Result<(), Error> {
    marker.tell(&Mark::Fact {
        name: name.to_owned(),
        value,
    })
}

/// The build-id in a file of ELF notes, in hexadecimal.
fn build_id(notes: &str) -> Option<String> {
    find_build_id(&fs::read(notes).ok()?)
}

fn find_build_id(mut notes: &[u8]) -> Option<String> {
    let u32_at = |notes: &[u8], at: usize| {
        let raw = notes.get(at..at + 4)?;
        Some(u32::from_le_bytes(raw.try_into().expect("four bytes")))
    };
    loop {
        let name_len = usize::try_from(u32_at(notes, 0)?).ok()?;
        let id_len = usize::try_from(u32_at(notes, 4)?).ok()?;
        let kind = u32_at(notes, 8)?;
        let id_at = 12 + name_len.next_multiple_of(4);
        let name = notes.get(12..12 + name_len)?;
        let id = notes.get(id_at..id_at + id_len)?;
        if kind == NT_GNU_BUILD_ID && name == b"GNU\0" {
            return Some(id.iter().fold(String::new(), |mut out, byte| {
                write!(out, "{byte:02x}").expect("a string takes all text");
                out
            }));
        }
        notes = notes.get(id_at + id_len.next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_build_id_is_found_behind_other_notes_and_rubbish_is_none() {
        let note = |name: &[u8], kind: u32, id: &[u8]| {
            let mut out = Vec::new();
            for word in [
                u32::try_from(name.len()).unwrap(),
                u32::try_from(id.len()).unwrap(),
                kind,
            ] {
                out.extend_from_slice(&word.to_le_bytes());
            }
            out.extend_from_slice(name);
            out.resize(out.len().next_multiple_of(4), 0);
            out.extend_from_slice(id);
            out.resize(out.len().next_multiple_of(4), 0);
            out
        };
        let mut notes = note(b"Xen\0", 3, b"12345");
        notes.extend(note(b"GNU\0", 3, &[0xab, 0x01]));
        assert_eq!(find_build_id(&notes).as_deref(), Some("ab01"));
        assert_eq!(find_build_id(&notes[..30]), None);
        assert_eq!(find_build_id(&[0xff; 40]), None);
    }
}
