//! What the record tells of a leg's content: the content itself, or, where the guest keeps ciphertext on the leg, the plaintext.
//!
//! The edge where dm-crypt under the array ends for everybody behind it: digests and payloads of events are the plaintext's, so md's metadata can
//! be read, and legs can be compared whatever their keys and offsets. The medium, and what rules do to it, stay as they are on the wire.

use std::sync::Arc;

use crate::block::{Sector, sector_digests};
use crate::crypt::{Crypt, Key};
use crate::event::Digests;

/// How a leg's content is looked at.
#[derive(Clone, Debug, Default)]
pub struct Plain(Option<Arc<Crypt>>);

/// A request's content, part by part.
#[derive(Debug)]
pub(super) struct Look<'a> {
    plain: Option<&'a Plain>,
    start: Sector,
    digests: Digests,
}

impl Look<'_> {
    /// Takes the CRC-32 of each sector of the next part.
    pub(super) fn at(&mut self, part: &[u8]) {
        let Some(plain) = self.plain else { return };
        if plain.decrypts() {
            let at = Sector(self.start.0.saturating_add(self.digests.len() as u64));
            self.digests.extend(plain.digests(at, part));
        } else {
            self.digests.extend(sector_digests(part));
        }
    }

    /// The request's content comes once more, from its beginning.
    pub(super) fn again(&mut self) {
        self.digests.clear();
    }

    /// What was seen; none if it was not wanted.
    pub(super) fn done(self) -> Digests {
        self.digests
    }
}

impl Plain {
    /// As it is without a key, decrypted with one.
    pub fn new(key: Option<&Key>) -> Plain {
        Plain(key.map(|key| Arc::new(Crypt::new(key))))
    }

    /// Looks at a request's content as it passes, from sector `start` on; unless it is `wanted`, there is nothing to tell.
    pub(super) fn look(&self, start: Sector, wanted: bool) -> Look<'_> {
        Look {
            plain: wanted.then_some(self),
            start,
            digests: Digests::new(),
        }
    }

    /// CRC-32 of each sector; `first` is the first one's number on the leg.
    pub fn digests(&self, first: Sector, bytes: &[u8]) -> Digests {
        match &self.0 {
            None => sector_digests(bytes).collect(),
            Some(crypt) => {
                let mut plain = bytes.to_vec();
                crypt.decrypt(first, &mut plain);
                sector_digests(&plain).collect()
            }
        }
    }

    /// The content as events carry it.
    pub fn bytes(&self, first: Sector, bytes: &[u8]) -> Vec<u8> {
        let mut plain = bytes.to_vec();
        if let Some(crypt) = &self.0 {
            crypt.decrypt(first, &mut plain);
        }
        plain
    }

    /// Whether it differs from what is on the wire.
    pub fn decrypts(&self) -> bool {
        self.0.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn with_a_key_it_is_the_plaintext_that_is_told() {
        let key = Key::try_from(format!("{:064x}{:064x}", 1, 2)).unwrap();
        let clear = [3; 1024];
        let mut wire = clear;
        Crypt::new(&key).encrypt(Sector(9), &mut wire);
        let plain = Plain::new(Some(&key));
        assert_eq!(plain.bytes(Sector(9), &wire), clear);
        let digests: Digests = sector_digests(&clear).collect();
        assert_eq!(plain.digests(Sector(9), &wire), digests);
        assert_eq!(Plain::default().digests(Sector(9), &clear), digests);
        assert_ne!(plain.digests(Sector(8), &wire), digests);
    }
}
