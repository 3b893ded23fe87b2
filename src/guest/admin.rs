//! What the agent does to arrays, with a mark before and one after: legs are failed, taken out and added; checks and repairs are run to their end; writes are
//! serialised or not.

use std::collections::BTreeMap;
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
/// Whether overlapping writes wait for each other on each leg (`md.c:serialize_policy_store`).
const POLICY: &str = "serialize_policy";
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
    if matches!(action, AdminAction::Serialize | AdminAction::Unserialize) {
        look_at_policies(shared, marker)?;
    }
    let mut tell = |phase| {
        marker.tell(&Mark::Admin(Admin {
            action,
            phase,
            legs: legs.clone(),
        }))
    };
    tell(AdminPhase::Begin)?;
    let outcome = match action {
        AdminAction::Check | AdminAction::Repair => sync(&attributes, action, timeout),
        AdminAction::Serialize | AdminAction::Unserialize => {
            let on = action == AdminAction::Serialize;
            let arrays = &mut *shared.serialized();
            set_policy(&attributes, on, &legs, arrays).map(|()| (String::new(), None))
        }
        AdminAction::Fail | AdminAction::Remove | AdminAction::Add | AdminAction::ReAdd => {
            let leg = leg.ok_or_else(|| Error::new("the step names no leg"))?;
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
    };
    let (ok, mismatches) = match &outcome {
        Ok((_, mismatches)) => (true, *mismatches),
        Err(_) => (false, None),
    };
    tell(AdminPhase::End { ok, mismatches })?;
    outcome.map(|(said, _)| said)
}

/// The legs that an array has, by their disks' serials.
pub(super) fn members(block: &Path, attributes: &Path) -> Vec<String> {
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

/// Sets an array's policy, and remembers where it is on.
fn set_policy(
    attributes: &Path,
    on: bool,
    legs: &[String],
    arrays: &mut BTreeMap<PathBuf, Vec<String>>,
) -> Result<(), Error> {
    let file = attributes.join(POLICY);
    let wanted = if on { "1" } else { "0" };
    arrays.remove(attributes);
    fs::write(&file, wanted).map_err(context(file.display().to_string()))?;
    let is = md::attribute(&file);
    if is.as_deref() != Some(wanted) {
        return Err(Error::new(format!(
            "{} is {is:?} after {wanted} was written to it",
            file.display()
        )));
    }
    if on {
        arrays.insert(attributes.to_owned(), legs.to_owned());
    }
    Ok(())
}

/// Tells of arrays whose policy is no longer on: a command turned it off, or stopped the array.
pub(super) fn look_at_policies(shared: &Shared, marker: &mut Marker) -> Result<(), Error> {
    for legs in off_since(&mut shared.serialized()) {
        marker.tell(&Mark::Admin(Admin {
            action: AdminAction::Serialize,
            phase: AdminPhase::End {
                ok: false,
                mismatches: None,
            },
            legs,
        }))?;
    }
    Ok(())
}

/// Takes out the arrays whose policy is off by now, and returns their legs.
fn off_since(arrays: &mut BTreeMap<PathBuf, Vec<String>>) -> Vec<Vec<String>> {
    let is_on = |attributes: &Path| md::attribute(&attributes.join(POLICY)).as_deref() == Some("1");
    let mut off = Vec::new();
    arrays.retain(|attributes, legs| {
        let on = is_on(attributes);
        if !on {
            off.push(std::mem::take(legs));
        }
        on
    });
    off
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
    fn a_policy_is_set_and_is_found_off() {
        let dir = tempfile::tempdir().unwrap();
        let md = dir.path().to_owned();
        let legs = ["a".to_owned(), "b".to_owned()];
        let mut arrays = BTreeMap::new();
        set_policy(&md, true, &legs, &mut arrays).unwrap();
        assert_eq!(fs::read_to_string(md.join(POLICY)).unwrap(), "1");
        assert!(off_since(&mut arrays).is_empty() && arrays.len() == 1);
        fs::write(md.join(POLICY), "0\n").unwrap();
        assert_eq!(off_since(&mut arrays), [legs.to_vec()]);
        assert!(off_since(&mut arrays).is_empty());
        set_policy(&md, true, &legs, &mut arrays).unwrap();
        set_policy(&md, false, &legs, &mut arrays).unwrap();
        assert!(arrays.is_empty());
        // The array is gone.
        set_policy(&md, true, &legs, &mut arrays).unwrap();
        fs::remove_file(md.join(POLICY)).unwrap();
        assert_eq!(off_since(&mut arrays), [legs.to_vec()]);
        assert!(set_policy(&md.join("none"), true, &legs, &mut arrays).is_err());
    }

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
