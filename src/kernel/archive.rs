//! Debian's package archive, read without root and without touching the host's apt.
//!
//! apt runs with a configuration of its own: sources, lists and cache below our cache folder; from the host it takes only the mirror
//! (or `$LEGWATCH_MIRROR`), how to reach it (`Acquire::…`: proxies and the like) and Debian's keyring. Suites that the host does not
//! use can be read that way. apt checks every file against the signed index.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::mirror::mirrors;
use super::pins::PinnedPackage;
use super::{KernelError, debian_version, io_error, tool_error};
use crate::cache::Cache;

/// Debian's archive keys.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// The suites of the main archive that have kernels, oldest first.
const SUITES: &[&str] = &[
    "bullseye",
    "bookworm",
    "bookworm-backports",
    "trixie",
    "trixie-backports",
];
/// Their security suites, on the security archive.
const SECURITY_SUITES: &[&str] = &["bullseye-security", "bookworm-security", "trixie-security"];
/// The flavour: small, made for virtual machines, and with every module of interest.
pub(super) const FLAVOUR: &str = "cloud-amd64";
/// The parts that a kernel is split into, by version. The first one names it.
const PARTS: &[&str] = &["image", "binary", "modules", "base"];
/// An index older than this is read again before "the newest" is answered from it.
const INDEX_AGE_MAX: Duration = Duration::from_secs(24 * 3600);

/// One kernel of the archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// `6.16.3+deb13-cloud-amd64`, usually also its `uname -r`.
    pub abi: String,
    /// The Debian version of its packages.
    pub version: String,
    /// Its packages; the first one names it.
    pub packages: Vec<PinnedPackage>,
}

/// The archive as this cache knows it.
#[derive(Debug)]
pub(super) struct Archive<'a> {
    cache: &'a Cache,
}

impl<'a> Archive<'a> {
    pub(super) fn new(cache: &'a Cache) -> Archive<'a> {
        Archive { cache }
    }

    fn index_path(&self) -> PathBuf {
        self.cache.path("apt/index.tsv")
    }

    /// Every kernel of the archive, oldest first, from an index that is at most a day old; from an older one when the archive can't
    /// be reached.
    pub(super) fn candidates(&self) -> Result<Vec<Candidate>, KernelError> {
        let path = self.index_path();
        if !self.index_is_fresh()
            && let Err(error) = self.refresh()
            && !path.exists()
        {
            return Err(error);
        }
        let text = fs::read_to_string(&path).map_err(io_error("read", &path))?;
        Ok(candidates(&parse_index(&text)))
    }

    fn index_is_fresh(&self) -> bool {
        let modified = |path: &Path| fs::metadata(path).and_then(|metadata| metadata.modified());
        // The file system's clock, through a file of now.
        let now = self
            .cache
            .scratch()
            .ok()
            .and_then(|scratch| modified(scratch.path()).ok());
        match (now, modified(&self.index_path())) {
            (Some(now), Ok(then)) => now
                .duration_since(then)
                .map_or(true, |age| age < INDEX_AGE_MAX),
            _ => false,
        }
    }

    /// Reads the suites' package lists again. A suite that is gone is left out; all gone is an error.
    pub(super) fn refresh(&self) -> Result<(), KernelError> {
        let version = || {
            fs::metadata(self.index_path())
                .and_then(|metadata| metadata.modified())
                .ok()
        };
        let before = version();
        let _lock = self.cache.lock("apt")?;
        if version() != before {
            // Somebody else did it while we waited.
            return Ok(());
        }
        self.configure()?;
        // apt-get fails when one suite of many is gone; what counts is what it got.
        let update = self
            .apt("apt-get", &["-qq", "update"])?
            .output()
            .map_err(tool_error("apt-get"))?;
        let dump = self
            .apt("apt-cache", &["dumpavail"])?
            .output()
            .map_err(tool_error("apt-cache"))?;
        let packages = parse_dump(&String::from_utf8_lossy(&dump.stdout));
        if packages.is_empty() {
            let said = String::from_utf8_lossy(if update.stderr.is_empty() {
                &dump.stderr
            } else {
                &update.stderr
            })
            .into_owned();
            return Err(KernelError::ArchiveUnreachable {
                mirror: self.mirror()?,
                said: first_error(&said),
            });
        }
        let scratch = self.cache.scratch()?;
        let fresh = scratch.path().join("index.tsv");
        let text: String = packages
            .iter()
            .flat_map(|package| {
                [
                    &package.name,
                    "\t",
                    &package.version,
                    "\t",
                    &package.sha256,
                    "\n",
                ]
            })
            .collect();
        fs::write(&fresh, text).map_err(io_error("write", &fresh))?;
        fs::rename(&fresh, self.index_path()).map_err(io_error("write", &self.index_path()))
    }

    /// Downloads these packages into `into`, as apt names them, and checks each one's SHA-256.
    pub(super) fn download(
        &self,
        spec: &str,
        packages: &[PinnedPackage],
        into: &Path,
    ) -> Result<Vec<PathBuf>, KernelError> {
        if !self.index_path().exists() {
            self.refresh()?;
        }
        let mut said = self.try_download(packages, into)?;
        if said.is_some() {
            // The archive moved on since the index was read, perhaps.
            self.refresh()?;
            said = self.try_download(packages, into)?;
        }
        if let Some(said) = said {
            let text = fs::read_to_string(self.index_path())
                .map_err(io_error("read", &self.index_path()))?;
            let listed = parse_index(&text);
            let dropped = packages.iter().find(|package| {
                !listed
                    .iter()
                    .any(|other| (&other.name, &other.version) == (&package.name, &package.version))
            });
            return Err(match dropped {
                Some(package) => KernelError::Dropped {
                    spec: spec.into(),
                    package: package.name.clone(),
                    version: package.version.clone(),
                },
                None => KernelError::Tool {
                    tool: "apt-get".into(),
                    doing: format!("downloading the packages of {spec}"),
                    said,
                },
            });
        }
        let mut files = Vec::new();
        for package in packages {
            let prefix = format!("{}_", package.name);
            let entries = fs::read_dir(into).map_err(io_error("read", into))?;
            let file = entries.flatten().map(|entry| entry.path()).find(|path| {
                path.file_name().is_some_and(|name| {
                    name.to_string_lossy().starts_with(&prefix)
                        && name.to_string_lossy().ends_with(".deb")
                })
            });
            let Some(file) = file else {
                return Err(KernelError::Tool {
                    tool: "apt-get".into(),
                    doing: format!("downloading {}", package.name),
                    said: "it said it did, and there is no file".into(),
                });
            };
            let found = sha256(&file)?;
            if found != package.sha256 {
                return Err(KernelError::Sha256 {
                    spec: spec.into(),
                    package: package.name.clone(),
                    expected: package.sha256.clone(),
                    found,
                });
            }
            files.push(file);
        }
        Ok(files)
    }

    /// What apt said when it failed, or nothing.
    fn try_download(
        &self,
        packages: &[PinnedPackage],
        into: &Path,
    ) -> Result<Option<String>, KernelError> {
        let _lock = self.cache.lock("apt")?;
        self.configure()?;
        let mut command = self.apt("apt-get", &["-qq", "download"])?;
        command
            .args(
                packages
                    .iter()
                    .map(|package| format!("{}={}", package.name, package.version)),
            )
            .current_dir(into);
        let output = command.output().map_err(tool_error("apt-get"))?;
        Ok((!output.status.success())
            .then(|| first_error(&String::from_utf8_lossy(&output.stderr))))
    }

    fn mirror(&self) -> Result<String, KernelError> {
        mirrors().map(|(main, _)| main)
    }

    /// Writes apt's own configuration for us.
    fn configure(&self) -> Result<(), KernelError> {
        if !Path::new(KEYRING).exists() {
            return Err(KernelError::NoKeyring {
                path: KEYRING.into(),
            });
        }
        let (main, security) = mirrors()?;
        let root = self.cache.path("apt");
        for dir in ["lists/partial", "archives/partial", "empty"] {
            fs::create_dir_all(root.join(dir)).map_err(io_error("make", &root))?;
        }
        let mut sources = String::new();
        for (uri, suites) in [(&main, SUITES), (&security, SECURITY_SUITES)] {
            for suite in suites {
                // A suite that is no longer updated has an expired index; its kernels are wanted all the same.
                sources.push_str(&format!(
                    "deb [signed-by={KEYRING} arch=amd64 check-valid-until=no] {uri} {suite} main\n"
                ));
            }
        }
        let dump = Command::new("apt-config")
            .arg("dump")
            .stderr(Stdio::null())
            .output()
            .map_err(tool_error("apt-config"))?;
        let mut config = String::new();
        for line in String::from_utf8_lossy(&dump.stdout).lines() {
            // Only how to reach the mirror: no hooks, and no lists beyond the packages.
            if line.starts_with("Acquire::")
                && !line.starts_with("Acquire::IndexTargets")
                && !line.starts_with("Acquire::Languages")
            {
                config.push_str(line);
                config.push('\n');
            }
        }
        let path = |name: &str| root.join(name).display().to_string();
        config.push_str(&format!(
            "Dir::Etc::Main \"/dev/null\";\nDir::Etc::Parts \"{}\";\nDir::Etc::SourceList \"{}\";\nDir::Etc::SourceParts \"{}\";\nDir::State::Lists \"{}\";\nDir::Cache \"{}\";\n\
             Dir::Cache::Archives \"{}\";\nDir::Cache::pkgcache \"\";\nDir::Cache::srcpkgcache \"\";\n\
             Acquire::Languages \"none\";\nAcquire::Retries \"3\";\nAPT::Architecture \"amd64\";\nAPT::Sandbox::User \"root\";\n",
            path("empty"),
            path("sources.list"),
            path("empty"),
            path("lists"),
            root.display(),
            path("archives"),
        ));
        // apt reads this file first, and from it where the further ones are: nowhere, else the host's would come after and win.
        for (name, text) in [("sources.list", sources), ("apt.conf", config)] {
            let file = root.join(name);
            fs::File::create(&file)
                .and_then(|mut file| file.write_all(text.as_bytes()))
                .map_err(io_error("write", &file))?;
        }
        Ok(())
    }

    fn apt(&self, program: &str, arguments: &[&str]) -> Result<Command, KernelError> {
        let root = self.cache.path("apt");
        let mut command = Command::new(program);
        command
            .env("APT_CONFIG", root.join("apt.conf"))
            .env("LC_ALL", "C")
            .args(arguments)
            .stdin(Stdio::null());
        Ok(command)
    }
}

/// The kernel packages in apt's own stanzas, each once, sorted.
fn parse_dump(dump: &str) -> Vec<PinnedPackage> {
    let mut packages = Vec::new();
    for stanza in dump.split("\n\n") {
        let Some(name) = stanza
            .trim_start()
            .strip_prefix("Package: linux-")
            .and_then(|rest| rest.lines().next())
        else {
            continue;
        };
        let field = |key: &str| {
            stanza
                .lines()
                .find_map(|line| line.strip_prefix(key))
                .map(str::trim)
        };
        if let (Some(_), Some(version), Some(sha256)) = (
            split_name(&format!("linux-{name}")),
            field("Version:"),
            field("SHA256:"),
        ) {
            packages.push(PinnedPackage {
                name: format!("linux-{name}"),
                version: version.into(),
                sha256: sha256.into(),
            });
        }
    }
    packages.sort();
    packages.dedup();
    packages
}

fn parse_index(text: &str) -> Vec<PinnedPackage> {
    let parse = |line: &str| {
        let mut fields = line.split('\t').map(str::to_owned);
        Some(PinnedPackage {
            name: fields.next()?,
            version: fields.next()?,
            sha256: fields.next()?,
        })
    };
    text.lines().filter_map(parse).collect()
}

/// Part and ABI of a kernel package's name; nothing for meta-packages, headers and other flavours.
fn split_name(name: &str) -> Option<(&'static str, &str)> {
    let rest = name.strip_prefix("linux-")?;
    PARTS.iter().find_map(|part| {
        let abi = rest.strip_prefix(part)?.strip_prefix('-')?;
        let kernel = abi
            .strip_suffix("-unsigned")
            .unwrap_or(abi)
            .strip_suffix(FLAVOUR)?;
        // `linux-image-6.1-cloud-amd64` and `linux-image-cloud-amd64` are meta-packages: a real one has three numbers.
        let numbers = kernel
            .split(|c: char| !c.is_ascii_digit() && c != '.')
            .next()
            .unwrap_or_default();
        (numbers
            .split('.')
            .filter(|number| !number.is_empty())
            .count()
            == 3)
            .then_some((*part, abi))
    })
}

/// Packages put together to kernels, oldest first. A signed image hides the unsigned one of its version.
fn candidates(packages: &[PinnedPackage]) -> Vec<Candidate> {
    type Member<'p> = (&'p str, bool, &'p PinnedPackage); // part, signed, package
    let mut kernels: BTreeMap<(&str, &str), Vec<Member<'_>>> = BTreeMap::new();
    for package in packages {
        if let Some((part, abi)) = split_name(&package.name) {
            let signed = abi.strip_suffix("-unsigned");
            kernels
                .entry((signed.unwrap_or(abi), &package.version))
                .or_default()
                .push((part, signed.is_none(), package));
        }
    }
    let mut candidates = Vec::new();
    for ((abi, version), members) in kernels {
        let find = |part: &str| {
            let of_part = || members.iter().filter(|(other, _, _)| *other == part);
            of_part()
                .find(|(_, signed, _)| *signed)
                .or_else(|| of_part().next())
                .map(|(_, _, package)| (*package).clone())
        };
        let packages: Vec<PinnedPackage> = PARTS.iter().filter_map(|part| find(part)).collect();
        if find("image").is_some() {
            candidates.push(Candidate {
                abi: abi.into(),
                version: version.into(),
                packages,
            });
        }
    }
    candidates.sort_by(|a, b| {
        debian_version::compare(&a.version, &b.version).then_with(|| a.abi.cmp(&b.abi))
    });
    candidates
}

impl Candidate {
    /// The upstream version, as `debian:VERSION` takes it: `6.16.3`.
    pub fn upstream(&self) -> &str {
        debian_version::upstream(&self.version)
    }

    /// Whether the user's `version` means this kernel: a series, an upstream version, or the package version.
    pub fn is(&self, version: &str) -> bool {
        let upstream = debian_version::upstream(&self.version);
        version == self.version
            || upstream == version
            || upstream
                .strip_prefix(version)
                .is_some_and(|rest| rest.starts_with('.'))
    }
}

fn sha256(path: &Path) -> Result<String, KernelError> {
    let output = Command::new("sha256sum")
        .arg("-b")
        .arg(path)
        .output()
        .map_err(tool_error("sha256sum"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    match text.trim_start_matches('\\').split_whitespace().next() {
        Some(sum) if output.status.success() && sum.len() == 64 => Ok(sum.to_owned()),
        _ => Err(KernelError::Tool {
            tool: "sha256sum".into(),
            doing: format!("reading {}", path.display()),
            said: first_error(&String::from_utf8_lossy(&output.stderr)),
        }),
    }
}

/// The first line of a tool's complaint that says what is wrong.
pub(super) fn first_error(said: &str) -> String {
    let line = said
        .lines()
        .find(|line| line.starts_with("E:"))
        .or_else(|| said.lines().find(|line| !line.trim().is_empty()));
    line.unwrap_or("it gave no reason")
        .trim()
        .chars()
        .filter(|c| !c.is_control())
        .take(300)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, version: &str) -> PinnedPackage {
        PinnedPackage {
            name: name.into(),
            version: version.into(),
            sha256: "0".into(),
        }
    }

    #[test]
    fn names_are_split_and_meta_packages_left_out() {
        assert_eq!(
            split_name("linux-image-6.1.0-56-cloud-amd64"),
            Some(("image", "6.1.0-56-cloud-amd64"))
        );
        assert_eq!(
            split_name("linux-image-6.1.0-56-cloud-amd64-unsigned"),
            Some(("image", "6.1.0-56-cloud-amd64-unsigned"))
        );
        assert_eq!(
            split_name("linux-modules-7.3.4+deb13-cloud-amd64"),
            Some(("modules", "7.3.4+deb13-cloud-amd64"))
        );
        for other in [
            "linux-image-6.1-cloud-amd64",
            "linux-image-cloud-amd64",
            "linux-headers-6.1.0-56-cloud-amd64",
            "linux-image-6.1.0-56-amd64",
            "linux-image-6.1.0-56-cloud-amd64-dbg",
        ] {
            assert_eq!(split_name(other), None, "{other}");
        }
    }

    #[test]
    fn packages_become_kernels_in_order_and_signed_ones_win() {
        let found = candidates(&[
            package("linux-image-7.3.4+deb13-cloud-amd64", "7.3.4-1~bpo13+1"),
            package("linux-base-7.3.4+deb13-cloud-amd64", "7.3.4-1~bpo13+1"),
            package("linux-binary-7.3.4+deb13-cloud-amd64", "7.3.4-1~bpo13+1"),
            package("linux-modules-7.3.4+deb13-cloud-amd64", "7.3.4-1~bpo13+1"),
            package("linux-image-6.1.0-56-cloud-amd64", "6.1.192-2"),
            package("linux-image-6.1.0-56-cloud-amd64-unsigned", "6.1.192-2"),
            package("linux-image-6.1.0-9-cloud-amd64-unsigned", "6.1.27-1"),
        ]);
        let versions: Vec<_> = found
            .iter()
            .map(|candidate| candidate.version.as_str())
            .collect();
        assert_eq!(versions, ["6.1.27-1", "6.1.192-2", "7.3.4-1~bpo13+1"]);
        assert_eq!(
            found[0].packages[0].name,
            "linux-image-6.1.0-9-cloud-amd64-unsigned"
        );
        assert_eq!(found[0].abi, "6.1.0-9-cloud-amd64");
        assert_eq!(
            found[1].packages,
            [package("linux-image-6.1.0-56-cloud-amd64", "6.1.192-2")]
        );
        assert_eq!(found[2].packages.len(), 4);
        assert!(found[1].is("6.1") && found[1].is("6.1.192") && found[1].is("6.1.192-2"));
        assert!(!found[1].is("6.1.19") && !found[1].is("6.10"));
    }

    #[test]
    fn stanzas_and_index_hold_the_same() {
        let dump = "Package: bash\nVersion: 1\n\nPackage: linux-image-6.1.0-56-cloud-amd64\nSource: linux\nVersion: 6.1.192-2\nSHA256: ab\n\n\
                    Package: linux-image-6.1.0-56-cloud-amd64\nVersion: 6.1.192-2\nSHA256: ab\n";
        let packages = parse_dump(dump);
        assert_eq!(
            packages,
            [PinnedPackage {
                name: "linux-image-6.1.0-56-cloud-amd64".into(),
                version: "6.1.192-2".into(),
                sha256: "ab".into()
            }]
        );
        assert_eq!(
            parse_index("linux-image-6.1.0-56-cloud-amd64\t6.1.192-2\tab\nbroken\n"),
            packages
        );
    }

    #[test]
    fn the_line_that_says_it() {
        assert_eq!(
            first_error("W: no\nE: Unable to fetch\n"),
            "E: Unable to fetch"
        );
        assert_eq!(first_error(""), "it gave no reason");
    }
}
