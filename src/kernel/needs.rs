//! What a guest's kernel must have, by name.
//!
//! A need is one Kconfig symbol and, where it can be one, the module it becomes. The names of sets are what a scenario asks for:
//! `raid1`, `dm-crypt`, `xfs`. The same table answers "what does this kernel lack" and prints the fragment to build one with.

use std::fmt::Write as _;

/// One thing that a kernel has or lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Need {
    /// The Kconfig symbol without `CONFIG_`.
    pub config: &'static str,
    /// The module's name with underscores; empty when it can't be a module.
    pub module: &'static str,
    /// What breaks without it.
    pub why: &'static str,
}

const fn need(config: &'static str, module: &'static str, why: &'static str) -> Need {
    Need {
        config,
        module,
        why,
    }
}

/// What every guest needs.
pub const BASE: &[Need] = &[
    need("64BIT", "", "the agent is a 64-bit program"),
    need("BINFMT_ELF", "", "the agent is a program"),
    need("BINFMT_SCRIPT", "", "steps can be shell scripts"),
    need(
        "BLK_DEV_INITRD",
        "",
        "the guest's files come in an initramfs",
    ),
    need("BLOCK", "", "legs are block devices"),
    need("DEVTMPFS", "", "device nodes appear by themselves"),
    need("FUTEX", "", "the agent has threads"),
    need("PCI", "", "legs are PCI devices"),
    need(
        "PROC_FS",
        "",
        "/proc/mdstat and /proc/self/pagemap are read",
    ),
    need(
        "SERIAL_8250_CONSOLE",
        "",
        "oops and panic are read from the serial console",
    ),
    need("SYSFS", "", "md's state is read from sysfs"),
    need("TMPFS", "", "steps need a place for files"),
    need("VIRTIO_BLK", "virtio_blk", "legs are virtio-blk devices"),
    need("VIRTIO_PCI", "virtio_pci", "legs are virtio devices on PCI"),
];

/// The sets a scenario can ask for beyond [`BASE`].
const SETS: &[(&str, &[Need])] = &[
    ("md", MD),
    (
        "raid1",
        &[MD[0], need("MD_RAID1", "raid1", "the array is a raid1")],
    ),
    (
        "raid10",
        &[MD[0], need("MD_RAID10", "raid10", "the array is a raid10")],
    ),
    ("dm", DM),
    (
        "dm-mirror",
        &[
            DM[0],
            need("DM_MIRROR", "dm_mirror", "the mirror is a dm-mirror"),
        ],
    ),
    (
        "dm-raid",
        &[
            DM[0],
            MD[0],
            need("MD_RAID1", "raid1", "dm-raid's raid1"),
            need("DM_RAID", "dm_raid", "the mirror is a dm-raid"),
        ],
    ),
    (
        "dm-crypt",
        &[
            DM[0],
            need("DM_CRYPT", "dm_crypt", "legs or array are encrypted"),
            need("CRYPTO_AES", "aes_generic", "dm-crypt's cipher"),
            need("CRYPTO_XTS", "xts", "dm-crypt's cipher mode"),
        ],
    ),
    (
        "dm-log-writes",
        &[
            DM[0],
            need(
                "DM_LOG_WRITES",
                "dm_log_writes",
                "writes are logged in the guest",
            ),
        ],
    ),
    (
        "bcache",
        &[need("BCACHE", "bcache", "the array is behind a bcache")],
    ),
    (
        "ext4",
        &[need("EXT4_FS", "ext4", "the workload runs on ext4")],
    ),
    ("xfs", &[need("XFS_FS", "xfs", "the workload runs on xfs")]),
    (
        "btrfs",
        &[need("BTRFS_FS", "btrfs", "the workload runs on btrfs")],
    ),
    (
        "io_uring",
        &[need(
            "IO_URING",
            "",
            "the workload submits through io_uring",
        )],
    ),
    (
        "aio",
        &[need("AIO", "", "the workload submits through libaio")],
    ),
    (
        "pagemap",
        &[need(
            "PROC_PAGE_MONITOR",
            "",
            "the agent reads the physical pages of its buffers",
        )],
    ),
];

const MD: &[Need] = &[need("BLK_DEV_MD", "md_mod", "the array is an md device")];
const DM: &[Need] = &[need(
    "BLK_DEV_DM",
    "dm_mod",
    "the array is a device-mapper device",
)];

/// Symbols that [`fragment`] must turn on too: menus that hide others, what PVH depends on, and the second processor that races need.
const MENUS: &[&str] = &[
    "MD",
    "BLK_DEV",
    "VIRTIO_MENU",
    "MODULES",
    "MODULE_UNLOAD",
    "PRINTK",
    "SERIAL_8250",
    "TTY",
    "SMP",
    "HYPERVISOR_GUEST",
    "PARAVIRT",
    "PVH",
];

/// Worth having in a kernel that hunts storage bugs. Slow under TCG, so only comments in the fragment.
const HUNTING: &[&str] = &[
    "KASAN",
    "PROVE_LOCKING",
    "DEBUG_LIST",
    "DEBUG_PAGEALLOC",
    "SLUB_DEBUG_ON",
    "DETECT_HUNG_TASK",
    "KALLSYMS",
];

/// The needs of the set called `name`, or nothing when there is no such set.
pub fn set(name: &str) -> Option<&'static [Need]> {
    SETS.iter()
        .find(|(set, _)| *set == name)
        .map(|(_, needs)| *needs)
}

/// The names that [`set`] knows.
pub fn set_names() -> impl Iterator<Item = &'static str> {
    SETS.iter().map(|(name, _)| *name)
}

/// A Kconfig fragment with everything that these sets need; every set when none is named. Unknown names are left out.
pub fn fragment(sets: &[&str]) -> String {
    let mut text = String::from(
        "# What legwatch needs of a guest's kernel. In a kernel tree:\n\
         #   ./scripts/kconfig/merge_config.sh THIS_FILE              a small kernel, of defaults and this\n\
         #   make x86_64_defconfig && ./scripts/kconfig/merge_config.sh .config THIS_FILE\n\
         #   make bzImage modules\n",
    );
    let _ = writeln!(text, "\n# every guest");
    for config in MENUS {
        let _ = writeln!(text, "CONFIG_{config}=y");
    }
    let mut written: Vec<&str> = Vec::new();
    let mut write = |text: &mut String, needs: &[Need]| {
        for need in needs {
            if !written.contains(&need.config) {
                written.push(need.config);
                let _ = writeln!(text, "CONFIG_{}=y # {}", need.config, need.why);
            }
        }
    };
    write(&mut text, BASE);
    for (name, needs) in SETS {
        if sets.is_empty() || sets.contains(name) {
            let _ = writeln!(text, "\n# {name}");
            write(&mut text, needs);
        }
    }
    let _ = writeln!(text, "\n# Find more, run slower:");
    for config in HUNTING {
        let _ = writeln!(text, "# CONFIG_{config}=y");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_is_found_by_name() {
        assert!(
            set("raid1")
                .unwrap()
                .iter()
                .any(|need| need.module == "raid1")
        );
        assert_eq!(set("raid7"), None);
        assert!(set_names().all(|name| set(name).is_some()));
    }

    #[test]
    fn the_fragment_names_each_symbol_once() {
        let text = fragment(&[]);
        let mut symbols: Vec<&str> = text
            .lines()
            .filter(|line| line.starts_with("CONFIG_"))
            .filter_map(|line| line.split('=').next())
            .collect();
        let count = symbols.len();
        symbols.sort_unstable();
        symbols.dedup();
        assert_eq!(symbols.len(), count);
        assert!(text.contains("\nCONFIG_MD_RAID1=y"));
        assert!(!fragment(&["raid10"]).contains("MD_RAID1="));
    }
}
