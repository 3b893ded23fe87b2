//! Kernels that are on this machine: the running one, a built tree, a bzImage.

use std::fs;
use std::path::{Path, PathBuf};

use super::{Kernel, KernelError, depmod, image, io_error, modules};
use crate::cache::{self, Cache};

pub(super) fn host(spec: &str, cache: &Cache) -> Result<Kernel, KernelError> {
    let release = rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned();
    let modules = ["/lib/modules", "/usr/lib/modules"]
        .map(|dir| Path::new(dir).join(&release))
        .into_iter()
        .find(|dir| dir.is_dir());
    let boot = PathBuf::from(format!("/boot/vmlinuz-{release}"));
    let image = modules
        .iter()
        .map(|dir| dir.join("vmlinuz"))
        .find(|path| path.exists());
    let image = if boot.exists() {
        boot
    } else {
        image.ok_or(KernelError::NotThere {
            spec: spec.into(),
            path: boot,
        })?
    };
    let config =
        Some(PathBuf::from(format!("/boot/config-{release}"))).filter(|path| path.exists());
    bzimage(spec, &image, modules.as_deref(), config, cache)
}

pub(super) fn tree(spec: &str, path: &Path, cache: &Cache) -> Result<Kernel, KernelError> {
    let path = &fs::canonicalize(path).map_err(io_error("open", path))?;
    let image = path.join("arch/x86/boot/bzImage");
    for (file, missing) in [
        (path.join("Kbuild"), "Kbuild"),
        (image.clone(), "arch/x86/boot/bzImage"),
    ] {
        if !file.exists() {
            return Err(KernelError::NoTree {
                spec: spec.into(),
                path: path.clone(),
                missing,
            });
        }
    }
    let config = Some(path.join(".config")).filter(|path| path.exists());
    // A tree keeps its modules where they were built, and lists them here.
    let modules = path
        .join("modules.order")
        .exists()
        .then_some(path.as_path());
    bzimage(spec, &image, modules, config, cache)
}

/// A kernel from its parts. `modules` is a folder with `modules.dep`, or any folder with modules below it.
pub(super) fn bzimage(
    spec: &str,
    image: &Path,
    modules: Option<&Path>,
    config: Option<PathBuf>,
    cache: &Cache,
) -> Result<Kernel, KernelError> {
    let no_image = || KernelError::NoImage {
        spec: spec.into(),
        path: image.to_owned(),
    };
    if image.is_dir() {
        return Err(no_image());
    }
    let bytes = fs::read(image).map_err(io_error("read", image))?;
    let release = image::release(&bytes).ok_or_else(no_image)?;
    let image = fs::canonicalize(image).map_err(io_error("open", image))?;
    let vmlinux = format!("images/{}-{:016x}", bytes.len(), cache::digest(&bytes));
    if !cache.path(&vmlinux).exists() {
        let scratch = cache.scratch()?;
        if let Some(elf) = image::extract_pvh(&bytes, scratch.path()) {
            let path = scratch.path().join("vmlinux");
            fs::write(&path, elf).map_err(io_error("write", &path))?;
            cache.publish(&path, &vmlinux)?;
        }
    }
    let vmlinux = Some(cache.path(&vmlinux)).filter(|path| path.exists());
    let modules = match modules {
        None => None,
        Some(dir) => Some(listed(spec, dir, &release, cache)?),
    };
    Ok(Kernel {
        spec: spec.into(),
        release,
        image,
        vmlinux,
        modules,
        config,
        packages: Vec::new(),
    })
}

/// The folder of modules with `modules.dep`: `dir` itself, or one in the cache with links to the modules below `dir`.
fn listed(spec: &str, dir: &Path, release: &str, cache: &Cache) -> Result<PathBuf, KernelError> {
    let installed = ["lib/modules", "usr/lib/modules"].map(|below| dir.join(below).join(release));
    let dir = installed
        .iter()
        .find(|dir| dir.is_dir())
        .map_or(dir, |dir| dir.as_path());
    let dir = &fs::canonicalize(dir).map_err(io_error("open", dir))?;
    if dir.join("modules.dep").exists() {
        return Ok(dir.clone());
    }
    // A tree's list names objects; only what was built is there. Without a tree, everything below is meant.
    let files: Vec<PathBuf> = if dir.join("Kbuild").exists() {
        let order = fs::read_to_string(dir.join("modules.order")).unwrap_or_default();
        order
            .lines()
            .map(|line| PathBuf::from(line).with_extension("ko"))
            .filter(|path| dir.join(path).exists())
            .collect()
    } else {
        modules::find(dir).map_err(io_error("read", dir))?
    };
    if files.is_empty() && !dir.join("modules.builtin").exists() {
        return Err(KernelError::NoModules {
            spec: spec.into(),
            path: dir.clone(),
            release: release.into(),
        });
    }
    // Which modules, how large and how new: when it changes, the list is made again.
    let mut identity = crc32fast::Hasher::new();
    identity.update(dir.as_os_str().as_encoded_bytes());
    for file in &files {
        let metadata = fs::metadata(dir.join(file)).map_err(io_error("read", dir))?;
        let modified = metadata
            .modified()
            .ok()
            .and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok())
            .unwrap_or_default();
        identity.update(
            format!(
                "{}\0{}\0{}\0",
                file.display(),
                metadata.len(),
                modified.as_nanos()
            )
            .as_bytes(),
        );
    }
    let name = format!(
        "trees/{release}-{:08x}-{}",
        identity.finalize(),
        files.len()
    );
    let below = format!("lib/modules/{release}");
    if !cache.path(&name).exists() {
        let scratch = cache.scratch()?;
        let ready = scratch.path().join("ready");
        let target = ready.join(&below);
        for file in &files {
            let link = target.join("kernel").join(file);
            fs::create_dir_all(link.parent().unwrap_or(&target))
                .map_err(io_error("make", &target))?;
            std::os::unix::fs::symlink(dir.join(file), &link).map_err(io_error("make", &link))?;
        }
        fs::create_dir_all(&target).map_err(io_error("make", &target))?;
        for list in [
            "modules.order",
            "modules.builtin",
            "modules.builtin.modinfo",
        ] {
            if dir.join(list).exists() {
                fs::copy(dir.join(list), target.join(list))
                    .map_err(io_error("copy", &dir.join(list)))?;
            }
        }
        depmod(&ready, release)?;
        cache.publish(&ready, &name)?;
    }
    Ok(cache.path(&name).join(below))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_listed_through_links() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(&dir.path().join("cache")).unwrap();
        let tree = dir.path().join("tree");
        fs::create_dir_all(&tree).unwrap();
        let error = listed("k", &tree, "7.0", &cache).unwrap_err().to_string();
        assert!(error.contains("holds no modules of 7.0"), "{error}");
    }
}
