//! Kernels to boot: named by the user, found, fetched, and asked what they have.
//!
//! [`resolve`] turns `debian:6.1`, `pinned:6.1`, `host`, a built kernel tree or a bzImage into a [`Kernel`]: an image, its modules
//! with `modules.dep`, its configuration where there is one, and where it all came from. Nothing is installed and no root is needed.
//! Debian's packages change their layout with the version (modules in `lib` or `usr/lib`, the image in one package or in three); in
//! the cache they all look alike: `vmlinuz`, `vmlinux` where it boots faster, `config`, and `modules/`.

mod archive;
mod debian_version;
mod image;
pub mod modules;
pub mod needs;
pub mod pins;
pub mod spec;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

pub use archive::Candidate;
pub use needs::Need;
pub use spec::{Spec, SpecError};

use crate::cache::{Cache, CacheError};
use archive::{Archive, first_error, tool_error};
use modules::Modules;
use pins::{Pin, PinnedPackage};

/// Raised when what is kept for a kernel changes, so that old caches are built again.
const LAYOUT: u32 = 1;

/// A kernel that can be booted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    /// As the user called it.
    pub spec: String,
    /// Its `uname -r`.
    pub release: String,
    /// The bzImage.
    pub image: PathBuf,
    /// The ELF from inside the bzImage, when it has a PVH entry: boots faster, and without KASLR.
    pub vmlinux: Option<PathBuf>,
    /// The folder with `modules.dep`; nothing for a kernel without modules.
    pub modules: Option<PathBuf>,
    /// Its `.config`, when it is known.
    pub config: Option<PathBuf>,
    /// The Debian packages it came from; empty for others.
    pub packages: Vec<PinnedPackage>,
}

/// Why there is no such kernel.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    #[error(transparent)]
    Spec(#[from] SpecError),
    #[error(transparent)]
    Cache(#[from] CacheError),
    #[error(
        "could not be tested: {spec}: the archive no longer has {package} {version}; pick another with 'legwatch kernel list'"
    )]
    Dropped {
        spec: String,
        package: String,
        version: String,
    },
    #[error("could not be tested: {spec}: the archive has no such kernel; {hint}")]
    NoSuchVersion { spec: String, hint: String },
    #[error("there is no pinned kernel '{name}': there are {}", known.join(", "))]
    NoSuchPin { name: String, known: Vec<String> },
    #[error("{spec}: {package} has SHA-256 {found}, pinned is {expected}: don't use it")]
    Sha256 {
        spec: String,
        package: String,
        expected: String,
        found: String,
    },
    #[error(
        "this machine's apt sources name no Debian archive to fetch kernels from: set LEGWATCH_MIRROR to the address of one"
    )]
    NoMirror,
    #[error(
        "LEGWATCH_MIRROR is '{mirror}', which is no address of a Debian archive: it looks like http://HOST/debian"
    )]
    BadMirror { mirror: String },
    #[error("Debian's archive keys are not at {}: install the package debian-archive-keyring, or run vm/setup", path.display())]
    NoKeyring { path: PathBuf },
    #[error("could not be tested: the archive at {mirror} can't be read: {said}")]
    ArchiveUnreachable { mirror: String, said: String },
    #[error("{tool} can't be started: run vm/setup, which installs it")]
    NoTool {
        tool: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("{tool} failed while {doing}: {said}")]
    Tool {
        tool: String,
        doing: String,
        said: String,
    },
    #[error("can't {action} {}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("kernel '{spec}': there is nothing at {}", path.display())]
    NotThere { spec: String, path: PathBuf },
    #[error("kernel '{spec}': {} is no x86-64 bzImage", path.display())]
    NoImage { spec: String, path: PathBuf },
    #[error("kernel '{spec}': {} is no built kernel tree: it has no {missing}; run 'make bzImage modules' there", path.display())]
    NoTree {
        spec: String,
        path: PathBuf,
        missing: &'static str,
    },
    #[error("kernel '{spec}': {} holds no modules of {release}", path.display())]
    NoModules {
        spec: String,
        path: PathBuf,
        release: String,
    },
    #[error(
        "kernel '{spec}' lacks {}: 'legwatch kernel config' prints what to build it with",
        list(missing)
    )]
    Lacks { spec: String, missing: Vec<Need> },
    #[error("the embedded vm/kernels.toml is broken: this is our fault")]
    Pins(#[from] toml::de::Error),
}

impl KernelError {
    /// Whether the outcome is "could not be tested" (exit 125) rather than a mistake of the user's.
    pub fn is_unavailable(&self) -> bool {
        matches!(
            self,
            KernelError::Dropped { .. }
                | KernelError::NoSuchVersion { .. }
                | KernelError::ArchiveUnreachable { .. }
        )
    }
}

fn list(missing: &[Need]) -> String {
    let names: Vec<String> = missing
        .iter()
        .map(|need| format!("CONFIG_{} ({})", need.config, need.why))
        .collect();
    names.join(", ")
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> KernelError {
    move |source| KernelError::Io {
        action,
        path: path.to_owned(),
        source,
    }
}

/// Finds the kernel that `spec` names, fetching and unpacking it when it is one of Debian's and not in the cache yet.
///
/// # Errors
/// See [`KernelError`]; [`KernelError::is_unavailable`] tells "could not be tested" apart.
pub fn resolve(spec: &str, cache: &Cache) -> Result<Kernel, KernelError> {
    match spec.parse()? {
        Spec::Debian { version } => debian(spec, &version, cache),
        Spec::Pinned { name } => {
            let pins = pins::all()?;
            match pins.iter().find(|pin| pin.name == name) {
                Some(pin) => fetched(spec, &of_pin(pin), cache),
                None => Err(KernelError::NoSuchPin {
                    name,
                    known: pins.into_iter().map(|pin| pin.name).collect(),
                }),
            }
        }
        Spec::Host => host(spec, cache),
        Spec::Path { path, modules } => match fs::metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(KernelError::NotThere {
                spec: spec.into(),
                path,
            }),
            Err(source) => Err(io_error("open", &path)(source)),
            Ok(metadata) if metadata.is_dir() && modules.is_none() => tree(spec, &path, cache),
            Ok(_) => bzimage(spec, &path, modules.as_deref(), None, cache),
        },
    }
}

/// The kernels that the archive has, oldest first.
///
/// # Errors
/// The archive can't be read and was not read before.
pub fn list_archive(cache: &Cache) -> Result<Vec<Candidate>, KernelError> {
    Archive::new(cache).candidates()
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

impl Kernel {
    /// What to hand QEMU: the ELF where there is one, else the bzImage.
    pub fn boot_image(&self) -> &Path {
        self.vmlinux.as_deref().unwrap_or(&self.image)
    }

    /// The kernel's modules; empty for a kernel without.
    ///
    /// # Errors
    /// The files beside the modules can't be read.
    pub fn read_modules(&self) -> Result<Modules, KernelError> {
        match &self.modules {
            Some(dir) => Modules::read(dir).map_err(io_error("read", dir)),
            None => Ok(Modules::default()),
        }
    }

    /// Those of `needs` that this kernel lacks. Of a kernel whose configuration is not known, only missing modules are.
    ///
    /// # Errors
    /// The kernel's files can't be read.
    pub fn missing(&self, needs: &[Need]) -> Result<Vec<Need>, KernelError> {
        let modules = self.read_modules()?;
        let config = match &self.config {
            Some(path) => Some(fs::read_to_string(path).map_err(io_error("read", path))?),
            None => None,
        };
        Ok(needs
            .iter()
            .filter(|need| !has(config.as_deref(), &modules, need))
            .copied()
            .collect())
    }

    /// Like [`Kernel::missing`], with the missing ones as the error.
    ///
    /// # Errors
    /// [`KernelError::Lacks`], or the kernel's files can't be read.
    pub fn require(&self, needs: &[Need]) -> Result<(), KernelError> {
        let missing = self.missing(needs)?;
        if missing.is_empty() {
            Ok(())
        } else {
            Err(KernelError::Lacks {
                spec: self.spec.clone(),
                missing,
            })
        }
    }
}

/// Whether a kernel has what is needed. In doubt it has.
fn has(config: Option<&str>, modules: &Modules, need: &Need) -> bool {
    let listed = !need.module.is_empty() && modules.has(need.module);
    let Some(config) = config else {
        return listed || need.module.is_empty() || modules.is_unknown();
    };
    let symbol = format!("CONFIG_{}=", need.config);
    match config.lines().find_map(|line| line.strip_prefix(&symbol)) {
        Some("y") => true,
        // Configured as a module, and perhaps not built or not packed.
        Some("m") => listed || modules.is_unknown(),
        _ => listed,
    }
}

fn of_pin(pin: &Pin) -> Candidate {
    let name = pin
        .package
        .first()
        .map_or("", |package| package.name.as_str());
    let abi = name
        .trim_start_matches("linux-image-")
        .trim_end_matches("-unsigned")
        .to_owned();
    Candidate {
        abi,
        version: pin.version().to_owned(),
        packages: pin.package.clone(),
    }
}

fn debian(spec: &str, version: &str, cache: &Cache) -> Result<Kernel, KernelError> {
    // An exact version needs no index when it is pinned.
    if let Some(pin) = pins::all()?.iter().find(|pin| pin.is(version)) {
        return fetched(spec, &of_pin(pin), cache);
    }
    let known = Archive::new(cache).candidates()?;
    match known.iter().rev().find(|candidate| candidate.is(version)) {
        Some(candidate) => fetched(spec, candidate, cache),
        None => {
            let series: Vec<&str> = version.splitn(3, '.').take(2).collect();
            let near: Vec<&str> = known
                .iter()
                .filter(|candidate| candidate.is(&series.join(".")))
                .map(|candidate| debian_version::upstream(&candidate.version))
                .collect();
            let hint = if near.is_empty() {
                "'legwatch kernel list' lists what it has".to_owned()
            } else {
                let mut near = near;
                near.dedup();
                format!("of that series it has {}", near.join(", "))
            };
            Err(KernelError::NoSuchVersion {
                spec: spec.into(),
                hint,
            })
        }
    }
}

/// What is kept beside a fetched kernel.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    release: String,
    packages: Vec<PinnedPackage>,
}

/// The kernel from the cache, or from the archive into the cache.
fn fetched(spec: &str, candidate: &Candidate, cache: &Cache) -> Result<Kernel, KernelError> {
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

/// Writes `modules.dep` and its siblings below `root/lib/modules/release`.
fn depmod(root: &Path, release: &str) -> Result<(), KernelError> {
    // Neither depmod nor mdadm need be on a plain user's PATH.
    let program = find_program("depmod").unwrap_or_else(|| "depmod".into());
    run(
        Command::new(program).arg("-b").arg(root).arg(release),
        "depmod",
        &format!("listing the modules of {release}"),
    )
}

/// A program by name, on the PATH or where system programs live.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = [
        "/usr/local/sbin",
        "/usr/sbin",
        "/sbin",
        "/usr/local/bin",
        "/usr/bin",
        "/bin",
    ]
    .map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(system)
        .map(|dir| dir.join(name))
        .find(|path| path.is_file())
}

fn run(command: &mut Command, tool: &'static str, doing: &str) -> Result<(), KernelError> {
    let output = command
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .output()
        .map_err(tool_error(tool))?;
    if output.status.success() {
        return Ok(());
    }
    let said = first_error(&String::from_utf8_lossy(&output.stderr));
    Err(KernelError::Tool {
        tool: tool.into(),
        doing: doing.into(),
        said,
    })
}

fn host(spec: &str, cache: &Cache) -> Result<Kernel, KernelError> {
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

fn tree(spec: &str, path: &Path, cache: &Cache) -> Result<Kernel, KernelError> {
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
fn bzimage(
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
    let vmlinux = format!("images/{:08x}-{}", crc32fast::hash(&bytes), bytes.len());
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

    const RAID1: Need = Need {
        config: "MD_RAID1",
        module: "raid1",
        why: "x",
    };
    const DEVTMPFS: Need = Need {
        config: "DEVTMPFS",
        module: "",
        why: "x",
    };

    #[test]
    fn a_need_is_met_by_config_or_module() {
        let modules = Modules::parse("kernel/raid1.ko:\n", "", "", "");
        let other = Modules::parse("kernel/other.ko:\n", "", "", "");
        let none = Modules::default();
        assert!(has(Some("CONFIG_MD_RAID1=m\n"), &modules, &RAID1));
        assert!(!has(Some("CONFIG_MD_RAID1=m\n"), &other, &RAID1));
        assert!(has(Some("CONFIG_MD_RAID1=y\n"), &none, &RAID1));
        assert!(!has(
            Some("# CONFIG_MD_RAID1 is not set\nCONFIG_MD_RAID10=y\n"),
            &none,
            &RAID1
        ));
        assert!(!has(Some(""), &none, &DEVTMPFS));
        // Without a configuration only a list of modules can tell.
        assert!(
            has(None, &none, &RAID1) && has(None, &none, &DEVTMPFS) && has(None, &modules, &RAID1)
        );
        assert!(!has(None, &other, &RAID1));
    }

    #[test]
    fn mistakes_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(&dir.path().join("cache")).unwrap();
        let text = |spec: &str| resolve(spec, &cache).unwrap_err().to_string();
        let absent = dir.path().join("absent");
        assert!(text(&absent.display().to_string()).contains("there is nothing at"));
        assert!(text(&dir.path().display().to_string()).contains("no built kernel tree"));
        fs::write(&absent, "text").unwrap();
        assert!(text(&absent.display().to_string()).contains("is no x86-64 bzImage"));
        assert!(text("pinned:1.0").contains("there are 6.1, "));
        assert!(text("debian:x").contains("is no Debian kernel version"));
    }

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
