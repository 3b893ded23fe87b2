//! Watches how far md says that it is with resyncs, recoveries, checks and repairs, and tells it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::control::{Control, Marker};
use super::{Error, admin, console, context, md};
use crate::mark::{Mark, SyncLook};

const BLOCK: &str = "/sys/block";
/// Between two looks.
const LOOK: Duration = Duration::from_millis(200);
/// How often the same is told, at most: a guest that only says so is hung all the same.
const SAME_MAX: u32 = 25;

/// An array that syncs, what was told of it last, and how often.
#[derive(Debug)]
struct Told {
    look: SyncLook,
    times: u32,
}

/// Looks while it lives.
#[derive(Debug)]
pub(super) struct Watcher {
    stop: Sender<()>,
    thread: JoinHandle<()>,
}

impl Watcher {
    /// Begins.
    pub(super) fn start(control: &Control) -> Result<Watcher, Error> {
        let mut marker = control.marker()?;
        let (stop, stopped) = mpsc::channel();
        let thread = thread::Builder::new()
            .name("sync".into())
            .spawn(move || {
                let mut told = BTreeMap::new();
                while stopped.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
                    if let Err(error) = look(Path::new(BLOCK), &mut told, &mut marker) {
                        console(&format!("legwatch-guest: {}", error.chain()));
                        return;
                    }
                }
            })
            .map_err(context("starting to watch resyncs"))?;
        Ok(Watcher { stop, thread })
    }

    /// Ends, with the look that is under way.
    pub(super) fn end(self) {
        drop(self.stop);
        if self.thread.join().is_err() {
            console("legwatch-guest: watching resyncs panicked");
        }
    }
}

/// Looks at all arrays, and tells of those that sync, and of those that do no more. `told`: those that did, by their attributes' folder.
fn look(
    block: &Path,
    told: &mut BTreeMap<PathBuf, Told>,
    marker: &mut Marker,
) -> Result<(), Error> {
    for look in looks(block, told) {
        marker.tell(&Mark::Sync(look))?;
    }
    Ok(())
}

fn looks(block: &Path, told: &mut BTreeMap<PathBuf, Told>) -> Vec<SyncLook> {
    let mut out = Vec::new();
    let mut over = std::mem::take(told);
    for (_, attributes) in md::arrays(block) {
        let Some((action, done, all)) = progress(&attributes) else {
            continue;
        };
        let before = over.remove(&attributes);
        let legs = match &before {
            Some(before) => before.look.legs.clone(),
            None => admin::members(block, &attributes),
        };
        let look = SyncLook {
            action,
            legs,
            done,
            all,
        };
        let same = before.filter(|before| before.look == look);
        let times = same.map_or(1, |before| before.times.saturating_add(1));
        if times <= SAME_MAX {
            out.push(look.clone());
        }
        told.insert(attributes, Told { look, times });
    }
    out.extend(over.into_values().map(|told| SyncLook {
        action: "idle".into(),
        legs: told.look.legs,
        done: 0,
        all: 0,
    }));
    out
}

/// What an array is doing and how far it is, in sectors; `None`: nothing, or it has not begun, or became something else in between.
fn progress(attributes: &Path) -> Option<(String, u64, u64)> {
    let action = || md::attribute(&attributes.join("sync_action"));
    let before = action().filter(|action| !md::is_idle(Some(action)))?;
    let completed = md::attribute(&attributes.join("sync_completed"))?;
    let (done, all) = completed.split_once(" / ")?;
    let (done, all) = (done.parse().ok()?, all.parse().ok()?);
    (action()? == before).then_some((before, done, all))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_goes_on_is_told_and_its_end_once() {
        let dir = tempfile::tempdir().unwrap();
        let attributes = dir.path().join("md0/md");
        fs::create_dir_all(attributes.join("dev-vdb")).unwrap();
        fs::create_dir_all(dir.path().join("vdb")).unwrap();
        fs::write(dir.path().join("vdb/serial"), "a\n").unwrap();
        let put = |action: &str, completed: &str| {
            fs::write(attributes.join("sync_action"), action).unwrap();
            fs::write(attributes.join("sync_completed"), completed).unwrap();
        };
        let mut told = BTreeMap::new();
        let mut looks = || looks(dir.path(), &mut told);
        let at = |action: &str, done, all| SyncLook {
            action: action.into(),
            legs: vec!["a".into()],
            done,
            all,
        };
        put("idle\n", "none\n");
        assert_eq!(looks(), []);
        put("recover\n", "delayed\n");
        assert_eq!(looks(), []);
        put("recover\n", "128 / 4096\n");
        for _ in 0..SAME_MAX {
            assert_eq!(looks(), [at("recover", 128, 4096)]);
        }
        assert_eq!(looks(), []);
        put("recover\n", "256 / 4096\n");
        assert_eq!(looks(), [at("recover", 256, 4096)]);
        put("check\n", "0 / 4096\n");
        assert_eq!(looks(), [at("check", 0, 4096)]);
        put("idle\n", "none\n");
        assert_eq!(looks(), [at("idle", 0, 0)]);
        assert_eq!(looks(), []);
    }
}
