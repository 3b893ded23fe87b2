//! How a target's sectors lie on the array: down through partitions, device-mapper tables and bcache, to an array.
//!
//! An array is an md device, or a device-mapper mirror (`mirror`, `raid raid1`). On the way down sectors may be shifted (partition, `linear`, `delay`,
//! a bcache that writes through), and encrypted once (`crypt`, with the scenario's key). Whatever else there is, nothing is known, and no wrong
//! guess is made: the target's mapping is then [`Mapping::Unknown`], with the reason.

use std::fs::File;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::md::attribute;
use crate::crypt::Key;
use crate::mark::Mapping;

/// Devices on top of each other that are followed.
const LAYERS_MAX: usize = 16;
/// The kernel's directory of block devices.
const CLASS: &str = "/sys/class/block";

/// What a device is, one layer.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Layer {
    /// The mirror.
    Array,
    /// Its sector 0 is sector `offset` of another device.
    Shifted { device: String, offset: u64 },
    /// The same, encrypted: the IV of its sector 0 is `iv`.
    Encrypted {
        device: String,
        offset: u64,
        iv: u64,
    },
}

/// The mapping of a device, and why it is unknown (else empty).
pub(super) fn find(path: &Path, key: Option<&Key>) -> (Mapping, String) {
    let found = kernel_name(path).and_then(|name| follow(&name, |name| layer(name, key)));
    match found {
        Ok(mapping) => (mapping, String::new()),
        Err(why) => (
            Mapping::Unknown,
            format!("how {} lies on an array is unknown: {why}", path.display()),
        ),
    }
}

/// The kernel's name of a device: its node may have any name.
fn kernel_name(path: &Path) -> Result<String, String> {
    let metadata = path.metadata().map_err(|error| error.to_string())?;
    if !metadata.file_type().is_block_device() {
        return Err("it is no block device".into());
    }
    let device = metadata.rdev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    named(&format!("{major}:{minor}")).ok_or_else(|| format!("no device {major}:{minor}"))
}

/// The kernel's name of a device by its numbers, `MAJOR:MINOR`.
fn named(number: &str) -> Option<String> {
    let link = Path::new("/sys/dev/block").join(number).canonicalize();
    file_name(&link.ok()?)
}

fn follow(name: &str, look: impl Fn(&str) -> Result<Layer, String>) -> Result<Mapping, String> {
    let mut name = name.to_owned();
    let (mut shift, mut first_iv) = (0u64, None);
    let too_far = || "its sectors are too far out".to_owned();
    for _ in 0..LAYERS_MAX {
        let (device, offset) = match look(&name)? {
            Layer::Array => {
                return Ok(match (first_iv, shift) {
                    (Some(iv), offset) => Mapping::Crypt { offset, iv },
                    (None, 0) => Mapping::Identity,
                    (None, offset) => Mapping::Offset(offset),
                });
            }
            Layer::Shifted { device, offset } => (device, offset),
            Layer::Encrypted { device, offset, iv } => {
                if first_iv.is_some() {
                    return Err("it is encrypted twice".into());
                }
                first_iv = Some(shift.checked_add(iv).ok_or_else(too_far)?);
                (device, offset)
            }
        };
        shift = shift.checked_add(offset).ok_or_else(too_far)?;
        name = device;
    }
    Err(format!(
        "more than {LAYERS_MAX} devices on top of each other"
    ))
}

fn layer(name: &str, key: Option<&Key>) -> Result<Layer, String> {
    let class = Path::new(CLASS).join(name);
    let has = |file: &str| class.join(file).exists();
    if has("md") {
        Ok(Layer::Array)
    } else if has("partition") {
        let offset = attribute(&class.join("start")).and_then(|text| text.parse().ok());
        let device = class.canonicalize().ok().and_then(|path| parent(&path));
        match (device, offset) {
            (Some(device), Some(offset)) => Ok(Layer::Shifted { device, offset }),
            _ => Err(format!("where the partition {name} begins is not told")),
        }
    } else if has("dm") {
        table_layer(name, &dm_table(&class, name)?, key, named)
    } else if name.starts_with("bcache") && has("bcache") {
        bcache(name, &class)
    } else {
        Err(format!("{name} is no array, and on none"))
    }
}

fn file_name(path: &Path) -> Option<String> {
    Some(path.file_name()?.to_string_lossy().into_owned())
}

fn parent(path: &Path) -> Option<String> {
    file_name(path.parent()?)
}

fn dm_table(class: &Path, name: &str) -> Result<String, String> {
    let number = attribute(&class.join("dev")).unwrap_or_default();
    let (major, minor) = number.split_once(':').unwrap_or_default();
    let output = Command::new("dmsetup")
        .args(["table", "--showkeys", "--major", major, "--minor", minor])
        .output()
        .map_err(|error| format!("dmsetup, to read the table of {name}: {error}"))?;
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr);
        return Err(format!("dmsetup table of {name}: {}", why.trim()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// What a device-mapper table makes of a device. `named` gives the name of a device by its numbers.
fn table_layer(
    name: &str,
    table: &str,
    key: Option<&Key>,
    named: impl Fn(&str) -> Option<String>,
) -> Result<Layer, String> {
    let named = |number: &str| named(number).ok_or_else(|| format!("no device {number}"));
    let mut shifted: Option<(String, u64)> = None;
    let lines: Vec<Vec<&str>> = table
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    for line in &lines {
        match line[..] {
            [_, _, "mirror", ..] | [_, _, "raid", "raid1", ..] if lines.len() == 1 => {
                return Ok(Layer::Array);
            }
            [
                _,
                _,
                "crypt",
                cipher,
                text,
                iv,
                number,
                offset,
                ref options @ ..,
            ] if lines.len() == 1 => {
                let number_of =
                    |text: &str| text.parse().map_err(|_| format!("a table with {text}"));
                let (iv, offset) = (number_of(iv)?, number_of(offset)?);
                plain_crypt(cipher, text, options, key)?;
                let device = named(number)?;
                return Ok(Layer::Encrypted { device, offset, iv });
            }
            [start, _, "linear" | "delay", number, offset, ..] => {
                let shift = start
                    .parse::<u64>()
                    .ok()
                    .zip(offset.parse::<u64>().ok())
                    .and_then(|(start, offset)| offset.checked_sub(start))
                    .ok_or_else(|| format!("{name} has parts in another order"))?;
                let here = (number.to_owned(), shift);
                if shifted.as_ref().is_some_and(|before| *before != here) {
                    return Err(format!("{name} has parts that do not follow each other"));
                }
                shifted = Some(here);
            }
            [_, _, kind, ..] => return Err(format!("{name} has a device-mapper target `{kind}`")),
            _ => return Err(format!("{name} has a table that is not understood")),
        }
    }
    let (number, offset) = shifted.ok_or_else(|| format!("{name} has no table"))?;
    let device = named(&number)?;
    Ok(Layer::Shifted { device, offset })
}

/// Whether dm-crypt does what [`crate::crypt`] does (`drivers/md/dm-crypt.c:crypt_ctr_optional`).
fn plain_crypt(
    cipher: &str,
    text: &str,
    options: &[&str],
    key: Option<&Key>,
) -> Result<(), String> {
    if !matches!(cipher, "aes-xts-plain64" | "capi:xts(aes)-plain64") {
        return Err(format!("dm-crypt with {cipher}, and not aes-xts-plain64"));
    }
    if key.is_none_or(|key| String::from(*key) != text.to_lowercase()) {
        return Err("dm-crypt with another key than the scenario's crypt_key".into());
    }
    let harmless = |option: &&&str| {
        matches!(
            **option,
            "allow_discards"
                | "same_cpu_crypt"
                | "submit_from_crypt_cpus"
                | "no_read_workqueue"
                | "no_write_workqueue"
                | "high_priority"
                | "sector_size:512"
        )
    };
    match options.iter().skip(1).find(|option| !harmless(option)) {
        Some(option) => Err(format!("dm-crypt with the option {option}")),
        None => Ok(()),
    }
}

/// A bcache device lies on its backing device, behind its superblock, unless it writes back (`drivers/md/bcache/super.c:read_super`).
fn bcache(name: &str, class: &Path) -> Result<Layer, String> {
    let here = class
        .join("bcache")
        .canonicalize()
        .map_err(|error| format!("{name}: {error}"))?;
    let modes = attribute(&here.join("cache_mode")).unwrap_or_default();
    let mode = modes
        .split(['[', ']'])
        .nth(1)
        .ok_or_else(|| format!("{name} tells no cache mode"))?;
    if mode == "writeback" {
        return Err(format!(
            "{name} writes back: the array gets what was written later"
        ));
    }
    let device = parent(&here).ok_or_else(|| format!("{name} has no backing device"))?;
    let mut superblock = [0; 192];
    File::open(PathBuf::from("/dev").join(&device))
        .and_then(|file| file.read_exact_at(&mut superblock, 4096))
        .map_err(|error| format!("the superblock of {name} on {device}: {error}"))?;
    let offset = data_offset(&superblock)
        .ok_or_else(|| format!("the superblock of {name} on {device} is not understood"))?;
    Ok(Layer::Shifted { device, offset })
}

/// Where a backing device's data begins, in sectors (`struct cache_sb_disk`, `include/uapi/linux/bcache.h` up to 5.15, then `drivers/md/bcache/`).
fn data_offset(superblock: &[u8; 192]) -> Option<u64> {
    const MAGIC: [u8; 16] = [
        0xc6, 0x85, 0x73, 0xf6, 0x4e, 0x1a, 0x45, 0xca, 0x82, 0x65, 0xf5, 0x7f, 0x48, 0xba, 0x6d,
        0x81,
    ];
    const DATA_START_DEFAULT: u64 = 16;
    let u64_at =
        |at: usize| u64::from_le_bytes(superblock[at..at + 8].try_into().expect("eight bytes"));
    if superblock[24..40] != MAGIC {
        return None;
    }
    match u64_at(16) {
        1 => Some(DATA_START_DEFAULT),
        4 | 6 => Some(u64_at(184)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> Key {
        Key::try_from(format!("{:064x}{:064x}", 1, 2)).unwrap()
    }

    fn of(table: &str) -> Result<Layer, String> {
        table_layer("dm-0", table, Some(&key()), |number| {
            Some(format!("disk-{number}"))
        })
    }

    #[test]
    fn tables_that_shift_encrypt_or_mirror_are_understood() {
        let shifted = |offset| {
            Ok(Layer::Shifted {
                device: "disk-9:0".into(),
                offset,
            })
        };
        assert_eq!(of("0 100 linear 9:0 2048\n"), shifted(2048));
        assert_eq!(of("0 100 linear 9:0 8\n100 50 linear 9:0 108"), shifted(8));
        assert_eq!(of("0 100 delay 9:0 0 5"), shifted(0));
        let key = String::from(key());
        for options in [
            "",
            " 1 allow_discards",
            " 2 no_read_workqueue sector_size:512",
        ] {
            assert_eq!(
                of(&format!(
                    "0 100 crypt aes-xts-plain64 {key} 7 9:0 16{options}"
                )),
                Ok(Layer::Encrypted {
                    device: "disk-9:0".into(),
                    offset: 16,
                    iv: 7
                })
            );
        }
        assert_eq!(
            of("0 9 mirror core 2 8 nosync 2 9:0 0 9:1 0"),
            Ok(Layer::Array)
        );
        assert_eq!(
            of("0 9 raid raid1 3 0 region_size 8 2 - 9:0 - 9:1"),
            Ok(Layer::Array)
        );
    }

    #[test]
    fn what_is_not_understood_is_unknown_and_why_is_told() {
        let key = String::from(key());
        let other = "3".repeat(128);
        for (table, why) in [
            (
                "0 100 linear 9:0 8\n100 50 linear 9:1 108".to_owned(),
                "do not follow",
            ),
            (
                "0 100 linear 9:0 100\n100 50 linear 9:0 0".to_owned(),
                "another order",
            ),
            ("0 100 zero".to_owned(), "`zero`"),
            (String::new(), "no table"),
            (
                format!("0 9 crypt aes-cbc-essiv {key} 0 9:0 0"),
                "aes-cbc-essiv",
            ),
            (
                format!("0 9 crypt aes-xts-plain64 {other} 0 9:0 0"),
                "another key",
            ),
            (
                format!(
                    "0 9 crypt aes-xts-plain64 {key} 0 9:0 0 2 sector_size:4096 iv_large_sectors"
                ),
                "sector_size:4096",
            ),
            ("0 9 raid raid5_ls 3 0 2 - 9:0 - 9:1".to_owned(), "`raid`"),
        ] {
            let error = of(&table).unwrap_err();
            assert!(error.contains(why), "{table}: {error}");
        }
    }

    #[test]
    fn shifts_and_ivs_add_up_through_the_layers() {
        let look = |name: &str| match name {
            "lv" => Ok(Layer::Shifted {
                device: "crypt".into(),
                offset: 100,
            }),
            "crypt" => Ok(Layer::Encrypted {
                device: "part".into(),
                offset: 16,
                iv: 5,
            }),
            "part" => Ok(Layer::Shifted {
                device: "md0".into(),
                offset: 2048,
            }),
            "md0" => Ok(Layer::Array),
            _ => Err("none".into()),
        };
        assert_eq!(
            follow("lv", look),
            Ok(Mapping::Crypt {
                offset: 2164,
                iv: 105
            })
        );
        assert_eq!(follow("part", look), Ok(Mapping::Offset(2048)));
        assert_eq!(follow("md0", look), Ok(Mapping::Identity));
        let twice = |name: &str| match name {
            "top" => Ok(Layer::Encrypted {
                device: "crypt".into(),
                offset: 0,
                iv: 0,
            }),
            other => look(other),
        };
        assert_eq!(follow("top", twice), Err("it is encrypted twice".into()));
        let round = |_: &str| {
            Ok(Layer::Shifted {
                device: "itself".into(),
                offset: 1,
            })
        };
        assert!(follow("itself", round).unwrap_err().contains("16 devices"));
    }

    #[test]
    fn a_backing_device_tells_where_its_data_begins() {
        let mut superblock = [0; 192];
        assert_eq!(data_offset(&superblock), None);
        superblock[24..40].copy_from_slice(&[
            0xc6, 0x85, 0x73, 0xf6, 0x4e, 0x1a, 0x45, 0xca, 0x82, 0x65, 0xf5, 0x7f, 0x48, 0xba,
            0x6d, 0x81,
        ]);
        superblock[16] = 1;
        assert_eq!(data_offset(&superblock), Some(16));
        superblock[16] = 4;
        superblock[185] = 8;
        assert_eq!(data_offset(&superblock), Some(2048));
        superblock[16] = 3;
        assert_eq!(data_offset(&superblock), None);
    }
}
