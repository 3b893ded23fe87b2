//! What dm-crypt makes of a sector: `aes-xts-plain64` with a key of 512 bits, both ways.
//!
//! The IV of a sector is its number on the crypt device (plus the table's `iv_offset`), 64 bits little-endian, in sectors of 512 bytes
//! (`drivers/md/dm-crypt.c:crypt_iv_plain64_gen`). Tables with a larger `sector_size` count otherwise and are not understood here.

use aes::Aes256;
use aes::cipher::KeyInit;
use serde::{Deserialize, Serialize};
use xts_mode::{Xts128, get_tweak_default};

use crate::block::{SECTOR_BYTES, Sector};

/// Bytes of a key: two of AES-256, data first, tweak second, as dm-crypt's table has them.
pub const KEY_BYTES: usize = 64;

/// A scenario's key. It guards nothing, and is shown like anything else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Key([u8; KEY_BYTES]);

impl TryFrom<String> for Key {
    type Error = String;

    fn try_from(text: String) -> Result<Key, String> {
        let bad = || {
            format!(
                "crypt_key: {} characters; give {} hexadecimal digits, as dmsetup's table has them (two different halves)",
                text.chars().count(),
                2 * KEY_BYTES
            )
        };
        let mut key = [0; KEY_BYTES];
        if text.len() != 2 * KEY_BYTES || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(bad());
        }
        for (at, to) in key.iter_mut().enumerate() {
            *to = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).map_err(|_| bad())?;
        }
        // The kernel refuses XTS with equal halves (crypto/xts.h:xts_verify_key) in FIPS mode; nobody wants it elsewhere.
        if key[..KEY_BYTES / 2] == key[KEY_BYTES / 2..] {
            return Err(bad());
        }
        Ok(Key(key))
    }
}

impl From<Key> for String {
    fn from(key: Key) -> String {
        use std::fmt::Write;
        key.0.iter().fold(String::new(), |mut out, byte| {
            write!(out, "{byte:02x}").expect("a string takes all text");
            out
        })
    }
}

/// The cipher with its key.
pub struct Crypt(Xts128<Aes256>);

impl std::fmt::Debug for Crypt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Crypt(aes-xts-plain64)")
    }
}

impl Crypt {
    /// The cipher with this key.
    pub fn new(key: &Key) -> Crypt {
        let (data, tweak) = key.0.split_at(KEY_BYTES / 2);
        let aes = |half: &[u8]| Aes256::new_from_slice(half).expect("half a key is 32 bytes");
        Crypt(Xts128::new(aes(data), aes(tweak)))
    }

    /// Encrypts whole sectors in place; `first` is the first one's IV, the others' follow.
    ///
    /// # Panics
    /// If `bytes` are no whole sectors.
    pub fn encrypt(&self, first: Sector, bytes: &mut [u8]) {
        self.0.encrypt_area(
            checked(bytes),
            SECTOR_BYTES,
            u128::from(first.0),
            get_tweak_default,
        );
    }

    /// Decrypts whole sectors in place; the counterpart of [`Crypt::encrypt`].
    ///
    /// # Panics
    /// If `bytes` are no whole sectors.
    pub fn decrypt(&self, first: Sector, bytes: &mut [u8]) {
        self.0.decrypt_area(
            checked(bytes),
            SECTOR_BYTES,
            u128::from(first.0),
            get_tweak_default,
        );
    }
}

fn checked(bytes: &mut [u8]) -> &mut [u8] {
    assert!(
        bytes.len().is_multiple_of(SECTOR_BYTES),
        "dm-crypt works on whole sectors"
    );
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        (0..text.len() / 2)
            .map(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap())
            .collect()
    }

    /// IEEE 1619-2007, annex B, vector 10: XTS-AES-256, data unit 0xff of 512 bytes 00 01 … ff 00 … ff.
    #[test]
    fn it_is_the_standards_xts_with_256_bits() {
        let key = "2718281828459045235360287471352662497757247093699959574966967627\
                   3141592653589793238462643383279502884197169399375105820974944592";
        let crypt = Crypt::new(&Key::try_from(key.to_owned()).unwrap());
        let plain: Vec<u8> = (0..512).map(|at| u8::try_from(at % 256).unwrap()).collect();
        let mut bytes = plain.clone();
        crypt.encrypt(Sector(0xff), &mut bytes);
        assert_eq!(
            bytes[..32],
            hex("1c3b3a102f770386e4836c99e370cf9bea00803f5e482357a4ae12d414a3e63b")[..]
        );
        crypt.decrypt(Sector(0xff), &mut bytes);
        assert_eq!(bytes, plain);
    }

    #[test]
    fn the_iv_counts_sectors() {
        let key = Key::try_from(format!("{:064x}{:064x}", 1, 2)).unwrap();
        let crypt = Crypt::new(&key);
        let mut both = [7; 2 * SECTOR_BYTES];
        crypt.encrypt(Sector(5), &mut both);
        let mut second = [7; SECTOR_BYTES];
        crypt.encrypt(Sector(6), &mut second);
        assert_eq!(both[SECTOR_BYTES..], second);
        assert_ne!(both[..SECTOR_BYTES], second);
    }

    #[test]
    fn a_key_is_512_bits_in_hexadecimal() {
        let good = format!("{:064x}{:064x}", 1, 2);
        assert_eq!(String::from(Key::try_from(good.clone()).unwrap()), good);
        for bad in [
            "",
            "12",
            &good[2..],
            &good.replace('1', "g"),
            &format!("{:064x}{:064x}", 1, 1),
        ] {
            let why = Key::try_from(bad.to_owned()).unwrap_err();
            assert!(why.contains("128 hexadecimal digits"), "{why}");
        }
    }
}
