//! Device-mapper mirrors, as `dmsetup status` shows them: whether their legs are in sync.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::clock;

/// Between two looks; the kernel notifies of nothing here.
const LOOK: Duration = Duration::from_millis(50);

/// Waits until all mirrors of device-mapper are in sync. The text says what was not when the time was over, and is empty otherwise.
pub(super) fn wait_for_rest(timeout: Duration) -> String {
    let begun = clock::now();
    loop {
        let pending = if any() { pending() } else { String::new() };
        if pending.is_empty() || clock::now().duration_since(begun) >= timeout {
            return pending;
        }
        std::thread::sleep(LOOK);
    }
}

/// Whether there is any device of device-mapper; without one, dmsetup need not be there.
fn any() -> bool {
    std::fs::read_dir("/sys/block")
        .into_iter()
        .flatten()
        .flatten()
        .any(|entry| Path::new(&entry.path()).join("dm").is_dir())
}

fn pending() -> String {
    match Command::new("dmsetup").arg("status").output() {
        Ok(output) if output.status.success() => {
            judge(&String::from_utf8_lossy(&output.stdout)).join(", ")
        }
        // A guest that set up device-mapper by other means: its mirrors are not known, and nothing is waited for.
        Ok(_) | Err(_) => String::new(),
    }
}

/// The mirrors in a `dmsetup status` that are not at rest (`dm-raid1.c:mirror_status`, `dm-raid.c:raid_status`).
fn judge(status: &str) -> Vec<String> {
    let rest = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let in_sync = |ratio: Option<&&str>| {
            ratio
                .and_then(|ratio| ratio.split_once('/'))
                .is_none_or(|(done, all)| done == all)
        };
        match words.get(3) {
            Some(&"mirror") => {
                let legs: usize = words.get(4).and_then(|n| n.parse().ok()).unwrap_or(0);
                in_sync(words.get(5 + legs))
            }
            Some(&"raid") => {
                in_sync(words.get(7)) && matches!(words.get(8), None | Some(&("idle" | "frozen")))
            }
            Some(_) | None => true,
        }
    };
    status
        .lines()
        .filter(|line| !rest(line))
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirrors_that_are_not_in_sync_are_told() {
        let rest = "vault: 0 131072 crypt \n\
            m: 0 131072 mirror 2 253:0 253:16 128/128 1 AA 1 core\n\
            r: 0 131072 raid raid1 2 AA 131072/131072 idle 0 0 -\n";
        assert!(judge(rest).is_empty());
        for busy in [
            "m: 0 131072 mirror 2 253:0 253:16 5/128 1 AA 1 core",
            "r: 0 131072 raid raid1 2 Aa 512/131072 recover 0 0 -",
            "r: 0 131072 raid raid1 2 AA 131072/131072 check 0 0 -",
        ] {
            assert_eq!(judge(busy), [busy]);
        }
    }
}
