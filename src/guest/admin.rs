//! What the agent does to arrays, with a mark before and one after: legs are failed, taken out and added; checks and repairs are run to their end.

use std::fs;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};

use super::control::Marker;
use super::{Error, Shared, context, disks, md, shell};
use crate::clock;
use crate::mark::{Admin, AdminAction, AdminPhase, Mark};

const BLOCK: &str = "/sys/block";
/// The longest time between two looks, in case a kernel does not notify.
const LOOK_MS: i64 = 20;

/// Does it. The text is for the step's end mark.
pub(super) fn run(
    shared: &Shared,
    marker: &mut Marker,
    step: &str,
    action: AdminAction,
    device: &str,
    leg: Option<&str>,
    timeout: Duration,
) -> Result<String, Error> {
    let real = fs::canonicalize(device).map_err(context(device.to_owned()))?;
    let name = real.file_name().unwrap_or_default().to_string_lossy();
    let attributes = Path::new(BLOCK).join(&*name).join("md");
    if !attributes.is_dir() {
        return Err(Error::new(format!("{device} is no md array")));
    }
    let legs = match leg {
        Some(leg) => vec![leg.to_owned()],
        None => members(Path::new(BLOCK), &attributes),
    };
    let mut tell = |phase| {
        marker.tell(&Mark::Admin(Admin {
            action,
            phase,
            legs: legs.clone(),
        }))
    };
    tell(AdminPhase::Begin)?;
    let outcome = match (action.of_leg(), leg) {
        (true, Some(leg)) => {
            let asked = format!("mdadm {device} --{} /dev/legs/{leg}", action.name());
            // A leg that has just failed is busy until its last request has ended and md has let go of it.
            let command = if action == AdminAction::Remove {
                format!(
                    "while ! said=$({asked} 2>&1); do case $said in *busy*) sleep 0.1;; *) echo \"$said\"; exit 1;; esac; done"
                )
            } else {
                asked
            };
            shell::run(shared, step, &command, timeout).map(|said| (said, None))
        }
        (true, None) => Err(Error::new("the step names no leg")),
        (false, _) => sync(&attributes, action, timeout),
    };
    let (ok, mismatches) = match &outcome {
        Ok((_, mismatches)) => (true, *mismatches),
        Err(_) => (false, None),
    };
    tell(AdminPhase::End { ok, mismatches })?;
    outcome.map(|(said, _)| said)
}

/// The legs that an array has, by their disks' serials.
fn members(block: &Path, attributes: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(attributes)
        .into_iter()
        .flatten()
        .filter_map(Result::ok)
        .filter_map(|entry| {
            let file = entry.file_name().to_string_lossy().into_owned();
            disks::serial(block, file.strip_prefix("dev-")?)
        })
        .collect();
    names.sort();
    names
}

/// Runs a check or a repair to its end; tells what md counted.
fn sync(
    attributes: &Path,
    action: AdminAction,
    timeout: Duration,
) -> Result<(String, Option<u64>), Error> {
    let file: PathBuf = attributes.join("sync_action");
    let begun = clock::now();
    fs::write(&file, action.name()).map_err(context(file.display().to_string()))?;
    loop {
        // Opened before it is read, so that no change between reading and polling is missed.
        let mut open = fs::File::open(&file).map_err(context(file.display().to_string()))?;
        let mut now = String::new();
        std::io::Read::read_to_string(&mut open, &mut now)
            .map_err(context(file.display().to_string()))?;
        if now.trim() == "idle" {
            break;
        }
        if clock::now().duration_since(begun) >= timeout {
            return Err(Error::new(format!(
                "{} is not over after {} s",
                now.trim(),
                timeout.as_secs()
            )));
        }
        let mut polled = [PollFd::from_borrowed_fd(open.as_fd(), PollFlags::PRI)];
        let wait = Timespec {
            tv_sec: 0,
            tv_nsec: LOOK_MS * 1_000_000,
        };
        let _changed_or_not = rustix::event::poll(&mut polled, Some(&wait));
    }
    let last = md::attribute(&attributes.join("last_sync_action"));
    if last.as_deref().is_some_and(|last| last != action.name()) {
        return Err(Error::new(format!(
            "md ran {} instead of {}",
            last.unwrap_or_default(),
            action.name()
        )));
    }
    let count = md::attribute(&attributes.join("mismatch_cnt")).and_then(|text| text.parse().ok());
    Ok((format!("mismatch_cnt {count:?}"), count))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_told_by_their_serials() {
        let dir = tempfile::tempdir().unwrap();
        let md = dir.path().join("md0/md");
        for leg in ["vdb", "vdc"] {
            fs::create_dir_all(md.join(format!("dev-{leg}"))).unwrap();
            fs::create_dir_all(dir.path().join(leg)).unwrap();
        }
        fs::write(dir.path().join("vdb/serial"), "b\n").unwrap();
        fs::write(dir.path().join("vdc/serial"), "a\n").unwrap();
        assert_eq!(members(dir.path(), &md), ["a", "b"]);
    }

    #[test]
    fn a_check_that_does_not_end_is_named() {
        let dir = tempfile::tempdir().unwrap();
        for (file, text) in [("mismatch_cnt", "128\n"), ("last_sync_action", "check\n")] {
            fs::write(dir.path().join(file), text).unwrap();
        }
        // A file never leaves the action that was written to it.
        let error = sync(dir.path(), AdminAction::Check, Duration::ZERO).unwrap_err();
        assert!(
            error.chain().contains("check is not over"),
            "{}",
            error.chain()
        );
        let idle = dir.path().join("sync_action");
        fs::remove_file(&idle).unwrap();
        let error = sync(&dir.path().join("none"), AdminAction::Check, Duration::ZERO);
        assert!(error.unwrap_err().chain().contains("sync_action"));
    }
}
