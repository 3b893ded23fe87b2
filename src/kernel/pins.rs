//! The kernels that tests rely on, to the byte: `vm/kernels.toml`, embedded.

use serde::Deserialize;

use super::debian_version;

/// The embedded file.
const TEXT: &str = include_str!("../../vm/kernels.toml");

/// One pinned kernel.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pin {
    /// What `pinned:NAME` calls it.
    pub name: String,
    /// The packages that make it up; the first one is the one that names it.
    pub package: Vec<PinnedPackage>,
}

/// One package file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields)]
pub struct PinnedPackage {
    pub name: String,
    pub version: String,
    /// Of the `.deb`, in hexadecimal.
    pub sha256: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    kernel: Vec<Pin>,
}

/// All pins, in the file's order.
///
/// # Errors
/// The embedded file is broken: a test keeps it from being so.
pub fn all() -> Result<Vec<Pin>, toml::de::Error> {
    toml::from_str::<File>(TEXT).map(|file| file.kernel)
}

impl Pin {
    /// The Debian version of the pinned kernel.
    pub fn version(&self) -> &str {
        self.package.first().map_or("", |package| &package.version)
    }

    /// Whether `version`, an upstream or a package version, is this pin's.
    pub fn is(&self, version: &str) -> bool {
        self.version() == version || debian_version::upstream(self.version()) == version
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_parses_and_each_pin_is_whole() {
        let pins = all().unwrap();
        assert!(pins.iter().any(|pin| pin.name == "6.1"));
        for pin in &pins {
            assert!(!pin.package.is_empty(), "{}", pin.name);
            assert!(
                debian_version::upstream(pin.version()).starts_with(&pin.name),
                "{}",
                pin.name
            );
            for package in &pin.package {
                assert!(
                    package.sha256.len() == 64
                        && package.sha256.bytes().all(|byte| byte.is_ascii_hexdigit()),
                    "{}",
                    package.name
                );
                assert_eq!(package.version, pin.version(), "{}", package.name);
            }
        }
    }

    #[test]
    fn a_pin_is_met_by_either_version() {
        let pin = all()
            .unwrap()
            .into_iter()
            .find(|pin| pin.name == "6.16.3")
            .unwrap();
        assert!(pin.is("6.16.3") && pin.is(pin.version()) && !pin.is("6.16"));
    }
}
