//! What the user can call a kernel, parsed once.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// Which kernel to boot, as meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Spec {
    /// `debian:6.1` (newest 6.1.x of the archive), `debian:6.16.3` (that upstream version), `debian:6.1.192-2` (that package version).
    Debian { version: String },
    /// `pinned:6.1`: the entry of that name in `vm/kernels.toml`, to the byte.
    Pinned { name: String },
    /// `host`: the kernel this machine runs.
    Host,
    /// A built kernel tree, or a bzImage with or without a folder of modules: which of the two is seen when it is opened.
    Path {
        path: PathBuf,
        modules: Option<PathBuf>,
    },
}

/// Why a text names no kernel.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    #[error(
        "kernel '{spec}': '{version}' is no Debian kernel version: give 6.1 (the newest 6.1.x), 6.16.3 or 6.1.192-2"
    )]
    Version { spec: String, version: String },
    #[error("kernel '{spec}': unknown option '{option}': after a path only modules=DIR can follow")]
    Option { spec: String, option: String },
    #[error(
        "the kernel's name is empty: give debian:6.1, debian:6.16.3, host, a built kernel tree, or a bzImage"
    )]
    Empty,
}

impl FromStr for Spec {
    type Err = SpecError;

    fn from_str(spec: &str) -> Result<Spec, SpecError> {
        if spec.is_empty() {
            return Err(SpecError::Empty);
        }
        if spec == "host" {
            return Ok(Spec::Host);
        }
        for (prefix, pinned) in [("debian:", false), ("pinned:", true)] {
            let Some(version) = spec.strip_prefix(prefix) else {
                continue;
            };
            if !is_version(version) {
                return Err(SpecError::Version {
                    spec: spec.into(),
                    version: version.into(),
                });
            }
            return Ok(if pinned {
                Spec::Pinned {
                    name: version.into(),
                }
            } else {
                Spec::Debian {
                    version: version.into(),
                }
            });
        }
        let (path, option) = match spec.split_once(',') {
            Some((path, option)) => (path, Some(option)),
            None => (spec, None),
        };
        let modules = match option {
            None => None,
            Some(option) => match option.strip_prefix("modules=") {
                Some(dir) if !dir.is_empty() => Some(PathBuf::from(dir)),
                _ => {
                    return Err(SpecError::Option {
                        spec: spec.into(),
                        option: option.into(),
                    });
                }
            },
        };
        if path.is_empty() {
            return Err(SpecError::Empty);
        }
        Ok(Spec::Path {
            path: path.into(),
            modules,
        })
    }
}

/// Two or three numbers, then perhaps a Debian revision: nothing that a package manager or a path could take for something else.
fn is_version(version: &str) -> bool {
    let (upstream, revision) = version
        .split_once('-')
        .map_or((version, None), |(upstream, revision)| {
            (upstream, Some(revision))
        });
    let numbers: Vec<&str> = upstream.split('.').collect();
    (2..=3).contains(&numbers.len())
        && numbers.iter().all(|number| {
            (1..=6).contains(&number.len()) && number.bytes().all(|byte| byte.is_ascii_digit())
        })
        && revision.is_none_or(|revision| {
            (1..=32).contains(&revision.len())
                && revision
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"~+.".contains(&byte))
        })
}

impl fmt::Display for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Spec::Debian { version } => write!(f, "debian:{version}"),
            Spec::Pinned { name } => write!(f, "pinned:{name}"),
            Spec::Host => f.write_str("host"),
            Spec::Path {
                path,
                modules: None,
            } => write!(f, "{}", path.display()),
            Spec::Path {
                path,
                modules: Some(dir),
            } => write!(f, "{},modules={}", path.display(), dir.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_parses_and_prints_as_it_was() {
        for text in [
            "debian:6.1",
            "debian:6.16.3",
            "debian:6.1.192-2",
            "debian:6.16.3-1~bpo13+1",
            "pinned:6.1",
            "host",
            "/k/linux",
            "bzImage,modules=/lib/modules/7",
        ] {
            assert_eq!(text.parse::<Spec>().unwrap().to_string(), text);
        }
        assert_eq!(
            "a/bzImage,modules=m".parse::<Spec>().unwrap(),
            Spec::Path {
                path: "a/bzImage".into(),
                modules: Some("m".into())
            }
        );
    }

    #[test]
    fn what_is_no_kernel_is_refused_in_one_line() {
        for text in [
            "",
            "debian:",
            "debian:6",
            "debian:6.1.2.3",
            "debian:6.x",
            "debian:6.1-",
            "debian:6.1-a b",
            "pinned:../x",
            "k,modules=",
            "k,mod=x",
            ",modules=x",
        ] {
            let error = text.parse::<Spec>().unwrap_err().to_string();
            assert!(!error.contains('\n'), "{error}");
        }
    }
}
