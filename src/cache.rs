//! The folder that fetched kernels and built images are kept in.
//!
//! `$LEGWATCH_CACHE`, else `$XDG_CACHE_HOME/legwatch`, else `~/.cache/legwatch`. Everything in it can be deleted at any time between
//! runs. Several programs may use it at once: what is built is built in a scratch folder beside and renamed into place, under a lock
//! where two builders would do the same work twice.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::fs::FlockOperation;

/// A scratch folder older than this was left by a program that was killed. Long enough for the slowest download.
const SCRATCH_AGE_MAX: Duration = Duration::from_secs(24 * 3600);

/// Why the cache can't be used.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    #[error(
        "there is no place for the cache: set LEGWATCH_CACHE, XDG_CACHE_HOME or HOME to a folder"
    )]
    NoHome,
    #[error("the cache can't {action} {}: check the folder's owner and free space, or set LEGWATCH_CACHE to another one", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// 64 bits that tell contents of one length apart: CRC-32s of the CRC-32s of blocks, in two sizes. A CRC-32 of the whole would not do: a bzImage ends
/// with its own, so that every one of them has the same.
pub fn digest(bytes: &[u8]) -> u64 {
    let blocks = |size: usize| {
        let mut all = crc32fast::Hasher::new();
        for block in bytes.chunks(size) {
            all.update(&crc32fast::hash(block).to_le_bytes());
        }
        u64::from(all.finalize())
    };
    blocks(4096) << 32 | blocks(1021)
}

/// The cache folder.
#[derive(Debug, Clone)]
pub struct Cache {
    root: PathBuf,
}

/// An exclusive lock, held until dropped.
#[derive(Debug)]
pub struct Lock {
    // Closing the file lets go of the lock.
    _file: File,
}

/// A folder of our own inside the cache, removed when dropped.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
}

impl Cache {
    /// The user's cache, from the environment. Creates the folder.
    ///
    /// # Errors
    /// No variable names a place, or the folder can't be made.
    pub fn open() -> Result<Cache, CacheError> {
        let from = |name: &str| {
            std::env::var_os(name)
                .filter(|value| !value.is_empty())
                .map(PathBuf::from)
        };
        let root = from("LEGWATCH_CACHE")
            .or_else(|| from("XDG_CACHE_HOME").map(|dir| dir.join("legwatch")))
            .or_else(|| from("HOME").map(|dir| dir.join(".cache/legwatch")))
            .ok_or(CacheError::NoHome)?;
        Cache::at(&root)
    }

    /// A cache in a folder of the caller's choice. Creates the folder.
    ///
    /// # Errors
    /// The folder can't be made.
    pub fn at(root: &Path) -> Result<Cache, CacheError> {
        for dir in ["locks", "scratch"] {
            let dir = root.join(dir);
            fs::create_dir_all(&dir).map_err(|source| CacheError::Io {
                action: "make",
                path: dir,
                source,
            })?;
        }
        let root = fs::canonicalize(root).map_err(|source| CacheError::Io {
            action: "open",
            path: root.into(),
            source,
        })?;
        Ok(Cache { root })
    }

    /// Where `name` is, or would be.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.root.join(name)
    }

    /// Waits for the lock called `name` (no slashes) and takes it.
    ///
    /// # Errors
    /// The lock's file can't be made or locked.
    pub fn lock(&self, name: &str) -> Result<Lock, CacheError> {
        let path = self.root.join("locks").join(name);
        let fail = |source: io::Error| CacheError::Io {
            action: "lock",
            path: path.clone(),
            source,
        };
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(fail)?;
        rustix::io::retry_on_intr(|| rustix::fs::flock(&file, FlockOperation::LockExclusive))
            .map_err(|errno| fail(errno.into()))?;
        Ok(Lock { _file: file })
    }

    /// A new empty folder on the cache's own file system. Removes what killed programs left there a day ago or longer.
    ///
    /// # Errors
    /// The folder can't be made.
    pub fn scratch(&self) -> Result<Scratch, CacheError> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let parent = self.root.join("scratch");
        loop {
            let path = parent.join(format!(
                "{}-{}",
                std::process::id(),
                NEXT.fetch_add(1, Ordering::Relaxed)
            ));
            match fs::create_dir(&path) {
                Ok(()) => {
                    sweep(&parent, &path);
                    return Ok(Scratch { path });
                }
                // Left by a killed program of our number.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(source) => {
                    return Err(CacheError::Io {
                        action: "make",
                        path,
                        source,
                    });
                }
            }
        }
    }

    /// Moves a finished file or folder to its place under `name`. What is there already stays, and wins.
    ///
    /// # Errors
    /// The move failed for another reason than that somebody else was first.
    pub fn publish(&self, finished: &Path, name: impl AsRef<Path>) -> Result<PathBuf, CacheError> {
        let target = self.path(name);
        let fail = |source| CacheError::Io {
            action: "write",
            path: target.clone(),
            source,
        };
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent).map_err(fail)?;
        }
        if !target.exists()
            && let Err(source) = fs::rename(finished, &target)
            && !target.exists()
        {
            return Err(fail(source));
        }
        Ok(target)
    }
}

/// Keeps what is made again and again, and can be, from filling the disk: notes that `used` (in one folder with its like) was used now, and removes what was
/// used longest ago until the others take at most `bytes_max`. What was used less than `age_min` ago stays: somebody may be about to read it. Best effort.
pub fn keep_recent(used: &Path, bytes_max: u64, age_min: Duration) {
    let now = rustix::fs::Timespec {
        tv_sec: 0,
        tv_nsec: rustix::fs::UTIME_NOW,
    };
    let times = rustix::fs::Timestamps {
        last_access: now,
        last_modification: now,
    };
    let noted = rustix::fs::utimensat(rustix::fs::CWD, used, &times, rustix::fs::AtFlags::empty());
    let now = fs::metadata(used).and_then(|metadata| metadata.modified());
    let (Ok(()), Ok(now), Some(Ok(entries))) = (noted, now, used.parent().map(fs::read_dir)) else {
        return;
    };
    let mut files = Vec::new();
    let mut bytes = 0u64;
    for entry in entries.flatten() {
        if let Ok(metadata) = entry.metadata()
            && let Ok(then) = metadata.modified()
        {
            bytes = bytes.saturating_add(metadata.len());
            files.push((then, metadata.len(), entry.path()));
        }
    }
    files.sort();
    for (then, len, path) in files {
        let age = now.duration_since(then).unwrap_or_default();
        if bytes <= bytes_max || age < age_min {
            break;
        }
        if fs::remove_file(path).is_ok() {
            bytes = bytes.saturating_sub(len);
        }
    }
}

/// Removes the scratch folders that are a day older than `new`. Best effort: what can't be removed is in nobody's way.
fn sweep(parent: &Path, new: &Path) {
    let modified = |path: &Path| fs::metadata(path).and_then(|metadata| metadata.modified());
    let (Ok(now), Ok(entries)) = (modified(new), fs::read_dir(parent)) else {
        return;
    };
    for entry in entries.flatten() {
        if let Ok(then) = modified(&entry.path())
            && now
                .duration_since(then)
                .is_ok_and(|age| age > SCRATCH_AGE_MAX)
        {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

impl Scratch {
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As bzImages are: `arch/x86/boot/Makefile` appends the CRC-32 of all that is before it.
    #[test]
    fn contents_that_end_with_their_own_crc_are_told_apart() {
        let image = |fill: u8| {
            let mut bytes = vec![fill; 5000];
            bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
            bytes
        };
        let (one, other) = (image(1), image(2));
        assert_eq!(crc32fast::hash(&one), crc32fast::hash(&other));
        let halves = |digest: u64| [digest >> 32, digest & 0xffff_ffff];
        let (one, other) = (halves(digest(&one)), halves(digest(&other)));
        assert!(one[0] != other[0] && one[1] != other[1]);
    }

    #[test]
    fn the_first_to_publish_wins_and_scratch_goes_away() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(&dir.path().join("new")).unwrap();
        let kept;
        {
            let scratch = cache.scratch().unwrap();
            kept = scratch.path().to_owned();
            for text in ["first", "second"] {
                let file = scratch.path().join(text);
                fs::write(&file, text).unwrap();
                let published = cache.publish(&file, "deep/name").unwrap();
                assert_eq!(fs::read_to_string(published).unwrap(), "first");
            }
        }
        assert!(!kept.exists());
    }

    #[test]
    fn what_was_used_longest_ago_makes_room() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let hours = |hours: u64| Duration::from_secs(3600 * hours);
        for (name, age_hours) in [
            ("oldest", 9),
            ("older", 5),
            ("old", 2),
            ("new", 0),
            ("used", 7),
        ] {
            fs::write(path(name), [0; 100]).unwrap();
            let file = File::options().append(true).open(path(name)).unwrap();
            let now = file.metadata().unwrap().modified().unwrap();
            file.set_modified(now - hours(age_hours)).unwrap();
        }
        keep_recent(&path("used"), 300, hours(1));
        let left = |names: &[&str]| {
            for name in ["oldest", "older", "old", "new", "used"] {
                assert_eq!(path(name).exists(), names.contains(&name), "{name}");
            }
        };
        left(&["old", "new", "used"]);
        // Of the last hour: too much, and kept.
        keep_recent(&path("used"), 50, hours(1));
        left(&["new", "used"]);
    }

    #[test]
    fn a_lock_is_exclusive() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path()).unwrap();
        let lock = cache.lock("x").unwrap();
        let file = File::open(cache.path("locks/x")).unwrap();
        assert!(rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err());
        drop(lock);
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).unwrap();
    }
}
