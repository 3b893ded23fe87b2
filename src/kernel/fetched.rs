//! Debian's kernels in the cache: fetched, unpacked, and all laid out alike.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::{Deserialize, Serialize};

use super::archive::{Archive, Candidate};
use super::pins::PinnedPackage;
use super::{Kernel, KernelError, debian_version, depmod, image, io_error, run};
use crate::cache::Cache;

/// Raised when what is kept for a kernel changes, so that old caches are built again.
const LAYOUT: u32 = 1;

/// What is kept beside a fetched kernel.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    release: String,
    packages: Vec<PinnedPackage>,
}

/// The kernel from the cache, or from the archive into the cache.
pub(super) fn fetched(
    spec: &str,
    candidate: &Candidate,
    cache: &Cache,
) -> Result<Kernel, KernelError> {
    let name = format!("kernels/{}_{}.{LAYOUT}", candidate.abi, candidate.version);
    let dir = cache.path(&name);
    if !dir.exists() {
        let _lock = cache.lock(&format!("kernel-{}_{}", candidate.abi, candidate.version))?;
        // Somebody else may have been at it while we waited for the lock.
        if !dir.exists() {
            let scratch = cache.scratch()?;
            let files = Archive::new(cache).download(spec, &candidate.packages, scratch.path())?;
            let unpacked = scratch.path().join("unpacked");
            for file in &files {
                run(
                    Command::new("dpkg-deb").arg("-x").arg(file).arg(&unpacked),
                    "dpkg-deb",
                    &format!("unpacking {}", file.display()),
                )?;
            }
            let ready = scratch.path().join("ready");
            arrange(spec, &unpacked, &ready, &candidate.packages)?;
            cache.publish(&ready, &name)?;
        }
    }
    let path = dir.join("kernel.json");
    let text = fs::read_to_string(&path).map_err(io_error("read", &path))?;
    let kept: Kept =
        serde_json::from_str(&text).map_err(|error| io_error("read", &path)(error.into()))?;
    for (pinned, kept) in candidate.packages.iter().zip(&kept.packages) {
        if pinned.sha256 != kept.sha256 {
            return Err(KernelError::Sha256 {
                spec: spec.into(),
                package: pinned.name.clone(),
                expected: pinned.sha256.clone(),
                found: kept.sha256.clone(),
            });
        }
    }
    let optional = |name: &str| Some(dir.join(name)).filter(|path| path.exists());
    Ok(Kernel {
        spec: spec.into(),
        modules: optional(&format!("lib/modules/{}", kept.release)),
        release: kept.release,
        image: dir.join("vmlinuz"),
        vmlinux: optional("vmlinux"),
        config: optional("config"),
        packages: kept.packages,
    })
}

/// Moves an unpacked package, of whatever layout, to the one layout of the cache.
fn arrange(
    spec: &str,
    unpacked: &Path,
    ready: &Path,
    packages: &[PinnedPackage],
) -> Result<(), KernelError> {
    fs::create_dir_all(ready.join("lib/modules")).map_err(io_error("make", ready))?;
    let folders = [
        unpacked.join("usr/lib/modules"),
        unpacked.join("lib/modules"),
    ];
    let releases: Vec<PathBuf> = folders
        .iter()
        .flat_map(fs::read_dir)
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .collect();
    let lost = || KernelError::NoImage {
        spec: spec.into(),
        path: unpacked.to_owned(),
    };
    let named = |dir: &Path, prefix: &str| -> Option<PathBuf> {
        let entries = fs::read_dir(dir).ok()?;
        entries.flatten().map(|entry| entry.path()).find(|path| {
            path.file_name().is_some_and(|name| {
                let name = name.to_string_lossy();
                name == prefix
                    || name
                        .strip_prefix(prefix)
                        .is_some_and(|rest| rest.starts_with('-'))
            })
        })
    };
    let places: Vec<PathBuf> = std::iter::once(unpacked.join("boot"))
        .chain(releases.iter().cloned())
        .collect();
    let find = |prefix: &str| places.iter().find_map(|dir| named(dir, prefix));

    let image = find("vmlinuz").ok_or_else(lost)?;
    let bytes = fs::read(&image).map_err(io_error("read", &image))?;
    let release = image::release(&bytes).ok_or_else(lost)?;
    if let Some(elf) = image::extract_pvh(&bytes, ready) {
        let path = ready.join("vmlinux");
        fs::write(&path, elf).map_err(io_error("write", &path))?;
    }
    let take = |from: &Path, to: PathBuf| fs::rename(from, &to).map_err(io_error("move", from));
    take(&image, ready.join("vmlinuz"))?;
    if let Some(config) = find("config") {
        take(&config, ready.join("config"))?;
    }
    if let Some(dir) = releases.iter().find(|dir| dir.join("kernel").exists()) {
        take(dir, ready.join("lib/modules").join(&release))?;
        // Parts of the same release that another package brought.
        for other in releases.iter().filter(|other| *other != dir) {
            for entry in fs::read_dir(other).into_iter().flatten().flatten() {
                let target = ready
                    .join("lib/modules")
                    .join(&release)
                    .join(entry.file_name());
                if !target.exists() {
                    take(&entry.path(), target)?;
                }
            }
        }
        depmod(ready, &release)?;
    }
    let path = ready.join("kernel.json");
    let kept = Kept {
        release,
        packages: packages.to_vec(),
    };
    let text = serde_json::to_string_pretty(&kept)
        .map_err(|error| io_error("write", &path)(error.into()))?;
    fs::write(&path, text).map_err(io_error("write", &path))
}

/// The Debian kernels in the cache, oldest first.
///
/// # Errors
/// The cache can't be read.
pub fn list_cached(cache: &Cache) -> Result<Vec<Candidate>, KernelError> {
    let dir = cache.path("kernels");
    let entries = match fs::read_dir(&dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(io_error("read", &dir))?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry
            .map_err(io_error("read", &dir))?
            .path()
            .join("kernel.json");
        // A folder of another layout, or one being removed, is no kernel of ours.
        let Ok(text) = fs::read_to_string(&path) else {
            continue;
        };
        let Ok(kept) = serde_json::from_str::<Kept>(&text) else {
            continue;
        };
        let version = kept
            .packages
            .first()
            .map(|package| package.version.clone())
            .unwrap_or_default();
        found.push(Candidate {
            abi: kept.release,
            version,
            packages: kept.packages,
        });
    }
    found.sort_by(|a, b| debian_version::compare(&a.version, &b.version));
    found.dedup();
    Ok(found)
}
