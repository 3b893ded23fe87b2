//! md as /sys shows it: which arrays there are, whether they are at rest, and what is told about them.
//!
//! An array is at rest when no sync runs and nothing of it waits to be written: `array_state` says `clean` (or one of the read-only states), or
//! `active-idle` for so long that no clean superblock is to be expected, or `active` on an array whose `safe_mode_delay` is 0 (such an array
//! turns clean only when it is stopped).

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};

use crate::clock;

/// How long `active-idle` may last before it counts as rest.
const ACTIVE_IDLE: Duration = Duration::from_secs(2);
/// How long an array must look at rest: between being asked for a sync and starting it, it says `idle` too.
const SETTLE: Duration = Duration::from_millis(20);
/// The longest time between two looks, in case a kernel does not notify.
const LOOK_MS: i64 = 20;

/// An array that is active for so long, with nothing to sync and no request on any disk, will not come to rest: md itself calls it clean a fifth of a second
/// after its last write. Less than the host's patience with a silent guest, so that it learns why.
const STUCK: Duration = Duration::from_secs(50);
/// How long such an array is left alone until md is asked to look: an emulated processor may have lost the timer that does it.
const ASK: Duration = Duration::from_secs(10);

/// The directory with the block devices.
const BLOCK: &str = "/sys/block";

/// The arrays: name and md directory.
pub(super) fn arrays(block: &Path) -> Vec<(String, PathBuf)> {
    let mut out: Vec<_> = fs::read_dir(block)
        .into_iter()
        .flatten()
        .filter_map(Result::ok)
        .map(|entry| {
            (
                entry.file_name().to_string_lossy().into_owned(),
                entry.path().join("md"),
            )
        })
        .filter(|(name, md)| name.starts_with("md") && md.is_dir())
        .collect();
    out.sort();
    out
}

/// An attribute's first line; `None` if it is not there.
pub(super) fn attribute(path: &Path) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    Some(text.lines().next().unwrap_or("").trim().to_owned())
}

/// How an array is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rest {
    Yes,
    /// At rest if it stays so.
    Idle,
    No,
}

/// Whether nothing is being synced.
pub(super) fn is_idle(sync_action: Option<&str>) -> bool {
    matches!(sync_action, None | Some("" | "idle" | "none" | "frozen"))
}

/// What an array's attributes mean. An attribute that is not there does not speak against rest.
fn judge(array_state: Option<&str>, sync_action: Option<&str>, safe_mode_delay: &str) -> Rest {
    if !is_idle(sync_action) {
        return Rest::No;
    }
    match array_state {
        None | Some("" | "clean" | "readonly" | "read-auto" | "inactive" | "clear" | "broken") => {
            Rest::Yes
        }
        Some("active-idle") => Rest::Idle,
        Some("active") if safe_mode_delay.parse() == Ok(0.0) => Rest::Yes,
        Some(_) => Rest::No,
    }
}

/// Waits until all arrays are at rest. The text says what was not when the time was over, or when nothing had changed for long, and is empty otherwise.
pub(super) fn wait_for_rest(timeout: Duration) -> String {
    wait_for_rest_in(Path::new(BLOCK), timeout, ASK, STUCK)
}

fn wait_for_rest_in(block: &Path, timeout: Duration, ask: Duration, stuck: Duration) -> String {
    let begun = clock::now();
    let mut asked = false;
    let mut rest_since = None;
    let (mut last, mut last_since) = (None, begun);
    loop {
        let (mut pending, mut idle, mut files) = (Vec::new(), false, Vec::new());
        let mut syncs = false;
        let mut any = false;
        for (name, md) in arrays(block) {
            any = true;
            // Opened before they are read, so that no change between reading and polling is missed.
            let mut read = |attr: &str| {
                let mut file = File::open(md.join(attr)).ok()?;
                let mut text = String::new();
                std::io::Read::read_to_string(&mut file, &mut text).ok()?;
                files.push(file);
                Some(text.trim().to_owned())
            };
            let state = read("array_state");
            let action = read("sync_action");
            let delay = attribute(&md.join("safe_mode_delay")).unwrap_or_default();
            match judge(state.as_deref(), action.as_deref(), &delay) {
                Rest::Yes => {}
                Rest::Idle => idle = true,
                Rest::No => {
                    syncs |= !is_idle(action.as_deref());
                    pending.push(format!(
                        "{name} array_state={} sync_action={}",
                        state.unwrap_or_default(),
                        action.unwrap_or_default()
                    ));
                }
            }
        }
        let now = clock::now();
        if pending.is_empty() {
            let since = *rest_since.get_or_insert(now);
            let long_enough = if idle { ACTIVE_IDLE } else { SETTLE };
            if !any || now.duration_since(since) >= long_enough {
                return String::new();
            }
        } else {
            rest_since = None;
            let traffic = traffic(block);
            if syncs || traffic.is_none() || traffic != last {
                last_since = now;
                last = traffic;
                asked = false;
            } else if !asked && now.duration_since(last_since) >= ask {
                asked = true;
                for (name, md) in arrays(block) {
                    ask_for_clean(&name, &md);
                }
            }
            if now.duration_since(begun) >= timeout || now.duration_since(last_since) >= stuck {
                return pending.join(", ");
            }
        }
        let mut polled: Vec<PollFd<'_>> = files
            .iter()
            .map(|file| PollFd::from_borrowed_fd(file.as_fd(), PollFlags::PRI))
            .collect();
        let wait = Timespec {
            tv_sec: 0,
            tv_nsec: LOOK_MS * 1_000_000,
        };
        let _changed_or_not = rustix::event::poll(&mut polled, Some(&wait));
    }
}

/// Has md look whether the array is clean now, as its timer should have (`md.c:safe_delay_store` calls `md_safemode_timeout` when the delay gets shorter). An
/// array with writes that md still counts stays active.
fn ask_for_clean(name: &str, md: &Path) {
    let path = md.join("safe_mode_delay");
    let Some(delay) = attribute(&path) else {
        return;
    };
    if delay.parse::<f64>().is_ok_and(|delay| delay > 0.002) {
        super::console(&format!(
            "legwatch-guest: {name} is active though nothing happens; md is asked to look"
        ));
        let _asked_or_refused = fs::write(&path, "0.001").and_then(|()| fs::write(&path, delay));
    }
}

/// What all disks have ended so far, by name (Documentation/block/stat.rst); `None` while any has a request in flight, or tells nothing.
fn traffic(block: &Path) -> Option<Vec<(String, Vec<u64>)>> {
    /// Requests that ended: reads, writes, discards and flushes, where the kernel counts those.
    const ENDED: [usize; 4] = [0, 4, 11, 15];
    const IN_FLIGHT: usize = 8;
    let mut all = Vec::new();
    for entry in fs::read_dir(block).ok()?.flatten() {
        let text = fs::read_to_string(entry.path().join("stat")).ok()?;
        let numbers: Vec<u64> = text
            .split_whitespace()
            .filter_map(|number| number.parse().ok())
            .collect();
        if *numbers.get(IN_FLIGHT)? > 0 {
            return None;
        }
        let ended = ENDED.iter().filter_map(|at| numbers.get(*at).copied());
        all.push((
            entry.file_name().to_string_lossy().into_owned(),
            ended.collect(),
        ));
    }
    all.sort();
    Some(all)
}

/// The block devices of all arrays, to be flushed.
pub(super) fn devices() -> Vec<PathBuf> {
    arrays(Path::new(BLOCK))
        .into_iter()
        .map(|(name, _)| Path::new("/dev").join(name))
        .collect()
}

/// What reports show of all arrays, by dotted names.
pub(super) fn facts() -> Vec<(String, String)> {
    facts_in(Path::new(BLOCK))
}

fn facts_in(block: &Path) -> Vec<(String, String)> {
    let mut out = Vec::new();
    for (name, md) in arrays(block) {
        for attr in ["array_state", "mismatch_cnt", "sync_action", "degraded"] {
            if let Some(value) = attribute(&md.join(attr)) {
                out.push((format!("{name}.{attr}"), value));
            }
        }
        let mut devices: Vec<String> = fs::read_dir(&md)
            .into_iter()
            .flatten()
            .filter_map(Result::ok)
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .filter(|file| file.starts_with("dev-"))
            .collect();
        devices.sort();
        for device in devices {
            if let Some(value) = attribute(&md.join(&device).join("state")) {
                out.push((format!("{name}.{device}.state"), value));
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rest_is_clean_or_idle_long_enough_and_no_sync() {
        assert_eq!(judge(Some("clean"), Some("idle"), "0.201"), Rest::Yes);
        assert_eq!(judge(Some("clean"), None, ""), Rest::Yes);
        assert_eq!(judge(None, None, ""), Rest::Yes);
        assert_eq!(judge(Some("clean"), Some("check"), "0.201"), Rest::No);
        assert_eq!(judge(Some("write-pending"), Some("idle"), "0"), Rest::No);
        assert_eq!(judge(Some("active"), Some("idle"), "0.201"), Rest::No);
        assert_eq!(judge(Some("active"), Some("idle"), "0.000"), Rest::Yes);
        assert_eq!(
            judge(Some("active-idle"), Some("idle"), "0.201"),
            Rest::Idle
        );
    }

    #[test]
    fn what_is_pending_is_named_and_facts_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let md = dir.path().join("md0/md");
        fs::create_dir_all(md.join("dev-vdb")).unwrap();
        fs::create_dir_all(dir.path().join("vdb")).unwrap();
        for (file, text) in [
            ("array_state", "active\n"),
            ("sync_action", "resync\n"),
            ("safe_mode_delay", "0.204\n"),
            ("degraded", "0\n"),
            ("dev-vdb/state", "in_sync,write_mostly\n"),
        ] {
            fs::write(md.join(file), text).unwrap();
        }
        let (short, long) = (Duration::from_millis(60), Duration::from_secs(3600));
        assert_eq!(
            wait_for_rest_in(dir.path(), short, Duration::ZERO, Duration::ZERO),
            "md0 array_state=active sync_action=resync"
        );
        let facts = facts_in(dir.path());
        assert_eq!(facts.len(), 4);
        assert!(facts.contains(&("md0.dev-vdb.state".into(), "in_sync,write_mostly".into())));
        fs::write(md.join("sync_action"), "idle\n").unwrap();
        let stat = |disk: &str, in_flight: u32| {
            let text = format!("  7  0  56  1  9  0  72  2  {in_flight}  3  3  0 0 0 0 4 1\n");
            fs::write(dir.path().join(disk).join("stat"), text).unwrap();
        };
        for disk in ["md0", "vdb"] {
            stat(disk, 0);
        }
        assert_eq!(
            wait_for_rest_in(dir.path(), long, Duration::ZERO, short),
            "md0 array_state=active sync_action=idle"
        );
        // md was asked to look, and its delay is what it was.
        assert_eq!(
            fs::read_to_string(md.join("safe_mode_delay")).unwrap(),
            "0.204"
        );
        // What a disk still has is waited for.
        stat("vdb", 1);
        assert_eq!(traffic(dir.path()), None);
        stat("vdb", 0);
        let ended = vec![7, 9, 0, 4];
        assert_eq!(
            traffic(dir.path()),
            Some(vec![("md0".into(), ended.clone()), ("vdb".into(), ended)])
        );
        fs::write(md.join("array_state"), "clean\n").unwrap();
        assert_eq!(
            wait_for_rest_in(dir.path(), Duration::ZERO, short, short),
            ""
        );
    }
}
