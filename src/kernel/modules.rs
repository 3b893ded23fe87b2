//! A kernel's modules: which there are, what each needs, in which order they go in.
//!
//! Reads what depmod and the kernel's build leave beside the modules: `modules.dep` (hard dependencies, whole closure a line),
//! `modules.builtin`, `modules.softdep`, `modules.alias`. A module's name here is the kernel's: underscores, no path, no suffix.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The modules of one kernel.
#[derive(Debug, Default)]
pub struct Modules {
    /// Name to path below the modules folder.
    paths: BTreeMap<String, String>,
    /// Name to the names it needs, in the order they must be loaded.
    needs: BTreeMap<String, Vec<String>>,
    soft_before: BTreeMap<String, Vec<String>>,
    soft_after: BTreeMap<String, Vec<String>>,
    builtin: BTreeSet<String>,
    /// Alias without wildcards to the names that have it.
    aliases: BTreeMap<String, Vec<String>>,
    alias_text: String,
}

impl Modules {
    /// Reads the folder that holds `modules.dep`. A file that is absent holds nothing.
    ///
    /// # Errors
    /// A file that is there can't be read.
    pub fn read(dir: &Path) -> std::io::Result<Modules> {
        let text = |name: &str| match std::fs::read_to_string(dir.join(name)) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
            other => other,
        };
        Ok(Modules::parse(
            &text("modules.dep")?,
            &text("modules.builtin")?,
            &text("modules.softdep")?,
            &text("modules.alias")?,
        ))
    }

    /// The same from the files' texts.
    pub fn parse(dep: &str, builtin: &str, softdep: &str, alias: &str) -> Modules {
        let mut modules = Modules {
            alias_text: alias.to_owned(),
            ..Modules::default()
        };
        for line in dep.lines() {
            let Some((path, needs)) = line.split_once(':') else {
                continue;
            };
            let name = name_of(path);
            modules.paths.insert(name.clone(), path.trim().to_owned());
            // modprobe loads a line from its end to its start.
            modules
                .needs
                .insert(name, needs.split_whitespace().rev().map(name_of).collect());
        }
        modules.builtin = builtin
            .lines()
            .filter(|line| !line.is_empty())
            .map(name_of)
            .collect();
        for line in softdep.lines() {
            let mut words = line.split_whitespace();
            if words.next() != Some("softdep") {
                continue;
            }
            let Some(name) = words.next().map(name_of) else {
                continue;
            };
            let mut after = false;
            for word in words {
                match word {
                    "pre:" => after = false,
                    "post:" => after = true,
                    other => {
                        let list = if after {
                            &mut modules.soft_after
                        } else {
                            &mut modules.soft_before
                        };
                        list.entry(name.clone()).or_default().push(other.to_owned());
                    }
                }
            }
        }
        for line in alias.lines() {
            let mut words = line.split_whitespace();
            if let (Some("alias"), Some(pattern), Some(name)) =
                (words.next(), words.next(), words.next())
                && !pattern.contains(['*', '?', '['])
            {
                modules
                    .aliases
                    .entry(pattern.replace('-', "_"))
                    .or_default()
                    .push(name_of(name));
            }
        }
        modules
    }

    /// Whether the kernel has this module, built in or to load.
    pub fn has(&self, name: &str) -> bool {
        let name = name_of(name);
        self.builtin.contains(&name) || self.paths.contains_key(&name)
    }

    /// Whether nothing is known about this kernel's modules, not even which are built in.
    pub fn is_unknown(&self) -> bool {
        self.paths.is_empty() && self.builtin.is_empty()
    }

    /// Where a module lies, below the modules folder; nothing when it is built in or absent.
    pub fn path(&self, name: &str) -> Option<&Path> {
        self.paths.get(name).map(Path::new)
    }

    /// What to load for `wanted`, in load order, each once, without what is built in; and the wanted names that are not there.
    ///
    /// Soft dependencies are followed where this kernel has them, by name or by alias.
    pub fn load_order(&self, wanted: &[String]) -> (Vec<String>, Vec<String>) {
        let (mut order, mut missing) = (Vec::new(), Vec::new());
        let mut seen = BTreeSet::new();
        for name in wanted {
            if self.has(name) {
                self.visit(&name_of(name), &mut seen, &mut order);
            } else {
                missing.push(name.clone());
            }
        }
        (order, missing)
    }

    fn visit(&self, name: &str, seen: &mut BTreeSet<String>, order: &mut Vec<String>) {
        if !self.paths.contains_key(name) || !seen.insert(name.to_owned()) {
            return;
        }
        let soft = |list: &BTreeMap<String, Vec<String>>| -> Vec<String> {
            list.get(name)
                .into_iter()
                .flatten()
                .flat_map(|word| self.resolve(word))
                .collect()
        };
        for before in soft(&self.soft_before) {
            self.visit(&before, seen, order);
        }
        for need in self.needs.get(name).into_iter().flatten() {
            self.visit(need, seen, order);
        }
        order.push(name.to_owned());
        for after in soft(&self.soft_after) {
            self.visit(&after, seen, order);
        }
    }

    fn resolve(&self, word: &str) -> Vec<String> {
        let name = name_of(word);
        if self.has(&name) {
            return vec![name];
        }
        self.aliases.get(&name).cloned().unwrap_or_default()
    }

    /// `modules.dep`, `modules.alias` and `modules.softdep` cut down to the modules in `order`, uncompressed: enough for a
    /// `modprobe` in the guest.
    pub fn reduced_dep(&self, order: &[String]) -> String {
        let mut text = String::new();
        for name in order {
            let Some(path) = self.paths.get(name) else {
                continue;
            };
            text.push_str(&uncompressed(path));
            text.push(':');
            for need in self.needs.get(name).into_iter().flatten().rev() {
                if let Some(path) = self.paths.get(need) {
                    text.push(' ');
                    text.push_str(&uncompressed(path));
                }
            }
            text.push('\n');
        }
        text
    }

    /// The lines of `modules.alias` that name a module in `order`.
    pub fn reduced_alias(&self, order: &[String]) -> String {
        let kept: BTreeSet<&str> = order.iter().map(String::as_str).collect();
        let names_kept = |line: &&str| {
            line.rsplit(' ')
                .next()
                .is_some_and(|name| kept.contains(name_of(name).as_str()))
        };
        self.alias_text
            .lines()
            .filter(names_kept)
            .flat_map(|line| [line, "\n"])
            .collect()
    }
}

/// A module's path without the suffix of its compression.
pub fn uncompressed(path: &str) -> String {
    let (stem, suffix) = path.rsplit_once('.').unwrap_or((path, ""));
    if matches!(suffix, "xz" | "zst" | "gz") {
        stem.to_owned()
    } else {
        path.to_owned()
    }
}

/// `dm_mod` from `kernel/drivers/md/dm-mod.ko.xz`.
pub fn name_of(path: &str) -> String {
    let file = path.trim().rsplit('/').next().unwrap_or_default();
    file.split(".ko")
        .next()
        .unwrap_or_default()
        .replace('-', "_")
}

/// Every file below `dir` that is a module, as paths below `dir`, sorted.
///
/// # Errors
/// A folder can't be read.
pub fn find(dir: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(below) = folders.pop() {
        for entry in std::fs::read_dir(dir.join(&below))? {
            let entry = entry?;
            let path = below.join(entry.file_name());
            if entry.file_type()?.is_dir() {
                folders.push(path);
            } else if uncompressed(&path.to_string_lossy()).ends_with(".ko") {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Modules {
        Modules::parse(
            "kernel/drivers/md/md-mod.ko.xz:\n\
             kernel/drivers/md/raid1.ko.xz: kernel/drivers/md/md-mod.ko.xz\n\
             kernel/drivers/virtio/virtio_pci.ko: kernel/c.ko kernel/b.ko kernel/a.ko\n\
             kernel/a.ko:\nkernel/b.ko: kernel/a.ko\nkernel/c.ko: kernel/b.ko kernel/a.ko\n\
             kernel/crypto/crc32c_generic.ko.zst:\n\
             kernel/fs/btrfs.ko.zst:\n",
            "kernel/drivers/block/virtio_blk.ko\n",
            "# comment\nsoftdep btrfs pre: crypto-crc32c post: raid1 absent\nsoftdep raid1 post: btrfs\n",
            "alias crypto-crc32c crc32c_generic\nalias pci:v*d* virtio_pci\nalias md-raid1 raid1\n",
        )
    }

    #[test]
    fn the_order_puts_needs_first_and_follows_soft_dependencies_once() {
        let wanted = |names: &[&str]| {
            names
                .iter()
                .map(|name| (*name).to_owned())
                .collect::<Vec<_>>()
        };
        let (order, missing) = sample().load_order(&wanted(&[
            "virtio-pci",
            "virtio_blk",
            "btrfs",
            "md-mod",
            "nope",
        ]));
        assert_eq!(
            order,
            [
                "a",
                "b",
                "c",
                "virtio_pci",
                "crc32c_generic",
                "btrfs",
                "md_mod",
                "raid1"
            ]
        );
        assert_eq!(missing, ["nope"]);
    }

    #[test]
    fn names_paths_and_reduced_files() {
        let modules = sample();
        assert!(modules.has("virtio-blk") && modules.has("raid1") && !modules.has("dm_mod"));
        assert!(!modules.is_unknown() && Modules::default().is_unknown());
        assert_eq!(name_of("kernel/drivers/md/dm-mod.ko.xz"), "dm_mod");
        assert_eq!(uncompressed("a/b.ko.zst"), "a/b.ko");
        let order = ["md_mod".to_owned(), "raid1".to_owned()];
        assert_eq!(
            modules.reduced_dep(&order),
            "kernel/drivers/md/md-mod.ko:\nkernel/drivers/md/raid1.ko: kernel/drivers/md/md-mod.ko\n"
        );
        assert_eq!(modules.reduced_alias(&order), "alias md-raid1 raid1\n");
    }
}
