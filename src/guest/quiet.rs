//! Quiet points: everything synced, md at rest, and then a mark whose write the host answers when the legs are at rest too.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::control::Marker;
use super::{Error, Shared, admin, dm, md};
use crate::mark::Mark;

/// Syncs, waits for md, and declares the quiet point. To be called with all writers parked. Returns what was not at rest, else an empty text.
pub(super) fn declare(
    shared: &Shared,
    marker: &mut Marker,
    timeout: Duration,
) -> Result<String, Error> {
    rustix::fs::sync();
    let targets = shared.targets();
    let paths: BTreeSet<PathBuf> = md::devices()
        .into_iter()
        .chain(targets.values().map(|target| target.path.clone()))
        .collect();
    drop(targets);
    let mut pending = Vec::new();
    for path in paths {
        // A device that cannot be opened (an array that was stopped) has nothing to sync.
        if let Ok(file) = File::open(&path)
            && let Err(error) = file.sync_all()
        {
            pending.push(format!("fsync of {}: {error}", path.display()));
        }
    }
    for busy in [md::wait_for_rest(timeout), dm::wait_for_rest(timeout)] {
        if !busy.is_empty() {
            pending.push(busy);
        }
    }
    let pending = pending.join(", ");
    admin::look_at_policies(shared, marker)?;
    let id = shared.quiet_id.fetch_add(1, Ordering::Relaxed) + 1;
    marker.tell(&Mark::Quiet {
        id,
        pending: pending.clone(),
    })?;
    Ok(pending)
}
