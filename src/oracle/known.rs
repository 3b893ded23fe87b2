//! Known deviations: promises that stock kernels break, so that a clean stock kernel stays clean and a broken one still stands out.
//!
//! A check that sees on the wire the condition under which a stock kernel breaks its promise says so in its entry. Whether this kernel is one of
//! those is looked up in `vm/known.toml` by the release that the agent told. Shown for it: *known*, counted apart. Not shown either way: suspect.
//! Neither: the finding stays what it is.

use std::sync::OnceLock;

use serde::Deserialize;

use crate::finding::Check;
use crate::release::{numbers, within};

const TEXT: &str = include_str!("../../vm/known.toml");

/// A condition that a check saw on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum When {
    /// The leg that lacks the write is write-mostly and may be behind (K2).
    Behind,
    /// The boot before left the array dirty, and the resync has not passed (K4).
    BeforeResync,
    /// A file system's commit block, which is written with PREFLUSH (K3).
    Preflush,
    /// Another failure of the leg is not yet on record (K6).
    LegFailing,
    /// Data went out, and the page with its bit had not yet, for no longer than such pages take (K1).
    BitOnItsWay,
    /// A leg's cache lost what its own marks still ask to be copied, and another leg's marks no longer do (K8).
    CacheLost,
    /// The chunk came with the array's growth, and its bit was never set since (K10).
    Grown,
    /// Another write, for which the newcomer may have waited, ended on the leg while the one that it passes was in flight (K11).
    Woken,
}

/// What is known of a finding on a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// It is this entry.
    Known(&'static str),
    /// It may be this entry.
    Perhaps(&'static str),
    /// No entry explains it.
    No,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    known: Vec<Entry>,
}

/// One entry.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Its name in the md reference, section 0.
    pub id: String,
    /// The check whose findings it explains.
    pub check: Check,
    /// The condition.
    pub when: When,
    /// Releases for which it was shown.
    pub kernels: Vec<String>,
    /// Releases for which it was not shown either way.
    pub perhaps: Vec<String>,
    /// What happens, in one sentence.
    pub what: String,
}

/// All entries.
///
/// # Panics
/// If the embedded file is broken, which a test rules out.
pub fn entries() -> &'static [Entry] {
    static ENTRIES: OnceLock<Vec<Entry>> = OnceLock::new();
    ENTRIES.get_or_init(|| {
        let file: File = toml::from_str(TEXT).expect("the embedded file is tested");
        file.known
    })
}

/// What is known of a check's finding under a condition on a kernel; `release` as `uname -r` has it.
pub fn standing(check: Check, when: When, release: Option<&str>) -> Standing {
    let release = release.and_then(numbers);
    let mine = || {
        entries()
            .iter()
            .filter(|e| e.check == check && e.when == when)
    };
    let among = |bounds: &[String]| match release {
        Some(release) => bounds.iter().any(|bound| within(bound, release)),
        None => false,
    };
    if let Some(entry) = mine().find(|entry| among(&entry.kernels)) {
        return Standing::Known(&entry.id);
    }
    // A kernel that did not tell its release may be any.
    let perhaps = mine().find(|entry| release.is_none() || among(&entry.perhaps));
    perhaps.map_or(Standing::No, |entry| Standing::Perhaps(&entry.id))
}

/// Whether a deviation was shown for a kernel.
pub fn is_shown(id: &str, release: Option<&str>) -> bool {
    release.and_then(numbers).is_some_and(|release| {
        entries()
            .iter()
            .any(|entry| entry.id == id && entry.kernels.iter().any(|bound| within(bound, release)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_embedded_file_is_good() {
        for entry in entries() {
            assert!(entry.id.starts_with('K'), "{entry:?}");
            for bound in entry.kernels.iter().chain(&entry.perhaps) {
                let (from, to) = bound.split_once("..").unwrap_or((bound, bound));
                for end in [from, to].into_iter().filter(|end| !end.is_empty()) {
                    assert!(numbers(end).is_some(), "{bound}");
                }
            }
        }
    }

    #[test]
    fn a_kernel_is_known_where_it_was_shown_and_suspect_where_nobody_looked() {
        let of = |release| standing(Check::BitClearEq, When::Behind, release);
        assert_eq!(
            of(Some("6.12.117+deb13-cloud-amd64")),
            Standing::Known("K2")
        );
        assert_eq!(of(Some("6.12.30-amd64")), Standing::Perhaps("K2"));
        assert_eq!(of(Some("7.3.4+deb13")), Standing::Known("K2"));
        assert_eq!(of(Some("7.3.5")), Standing::Perhaps("K2"));
        assert_eq!(of(None), Standing::Perhaps("K2"));
        assert_eq!(of(Some("6.1.192")), Standing::No);
        assert_eq!(
            standing(Check::DirtyFirst, When::Behind, Some("6.12.117")),
            Standing::No
        );
    }
}
