//! Kernels to boot: named by the user, found, fetched, and asked what they have.
//!
//! [`resolve`] turns `debian:6.1`, `pinned:6.1`, `host`, a built kernel tree or a bzImage into a [`Kernel`]: an image, its modules
//! with `modules.dep`, its configuration where there is one, and where it all came from. Nothing is installed and no root is needed.
//! Debian's packages change their layout with the version (modules in `lib` or `usr/lib`, the image in one package or in three); in
//! the cache they all look alike: `vmlinuz`, `vmlinux` where it boots faster, `config`, and `modules/`.

mod archive;
mod debian_version;
mod fetched;
mod image;
mod local;
mod mirror;
pub mod modules;
pub mod needs;
mod own_module;
pub mod pins;
pub mod spec;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

pub use archive::Candidate;
pub use fetched::list_cached;
pub use needs::Need;
pub use own_module::OwnModule;
pub use spec::{Spec, SpecError};

use crate::cache::{Cache, CacheError};
use archive::{Archive, first_error};
use fetched::fetched;
use local::{bzimage, host, tree};
use modules::Modules;
use pins::{Pin, PinnedPackage};

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
    #[error("{spec}: the archive has no such kernel; {hint}")]
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
        "this machine's apt sources name no Debian archive to fetch kernels from: install python-apt-common, which knows where it is (vm/setup does), or set LEGWATCH_MIRROR to the address of one"
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
    #[error("{} is no kernel module: give an uncompressed .ko", path.display())]
    NoModule { path: PathBuf },
    #[error("{} was built for {built_for}, and the kernel is {release}: build it against that kernel's headers, or name its own with --kernel", path.display())]
    ModuleRelease {
        path: PathBuf,
        built_for: String,
        release: String,
    },
    #[error("{}: {name} is built into {release} and can't be replaced by a module", path.display())]
    BuiltIn {
        path: PathBuf,
        name: String,
        release: String,
    },
    #[error("the embedded vm/kernels.toml is broken: this is our fault")]
    Pins(#[from] toml::de::Error),
}

impl KernelError {
    /// Whether the outcome is "could not be tested" (exit 125) rather than a mistake of the user's.
    pub fn is_unavailable(&self) -> bool {
        matches!(
            self,
            KernelError::Dropped { .. } | KernelError::ArchiveUnreachable { .. }
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

fn tool_error(tool: &'static str) -> impl FnOnce(io::Error) -> KernelError {
    move |source| KernelError::NoTool { tool, source }
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

impl Kernel {
    /// Its version as numbers tell it: that of Debian's package where it is from one (whose `uname -r` may lack the patch level), else its release.
    pub fn version(&self) -> &str {
        match self.packages.first() {
            Some(package) => debian_version::upstream(&package.version),
            None => &self.release,
        }
    }

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
}
