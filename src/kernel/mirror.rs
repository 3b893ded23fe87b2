//! Where the archive is: the user's word, else the host's own apt sources.

use std::process::{Command, Stdio};

use super::KernelError;
use super::tool_error;

/// The main and the security archive: `$LEGWATCH_MIRROR`, else what the host's own apt sources name.
pub(super) fn mirrors() -> Result<(String, String), KernelError> {
    if let Some(mirror) = std::env::var("LEGWATCH_MIRROR")
        .ok()
        .filter(|mirror| !mirror.is_empty())
    {
        return if mirror.contains(char::is_whitespace) || !mirror.contains(":/") {
            Err(KernelError::BadMirror { mirror })
        } else {
            let main = mirror.trim_end_matches('/').to_owned();
            let security = security_of(&main);
            Ok((main, security))
        };
    }
    let output = Command::new("apt-get")
        .args([
            "indextargets",
            "--format",
            "$(RELEASE) $(COMPONENT) $(REPO_URI)",
            "Created-By: Packages",
        ])
        .env("LC_ALL", "C")
        .stderr(Stdio::null())
        .output()
        .map_err(tool_error("apt-get"))?;
    choose_mirrors(&String::from_utf8_lossy(&output.stdout)).ok_or(KernelError::NoMirror)
}

/// The archives among lines of release, component and address.
fn choose_mirrors(targets: &str) -> Option<(String, String)> {
    let known = [
        "bullseye",
        "bookworm",
        "trixie",
        "forky",
        "sid",
        "oldoldstable",
        "oldstable",
        "stable",
        "testing",
        "unstable",
    ];
    let (mut main, mut security) = (None, None);
    for line in targets.lines() {
        let mut words = line.split_whitespace();
        let (Some(release), Some("main"), Some(uri)) = (words.next(), words.next(), words.next())
        else {
            continue;
        };
        let (suite, kind) = release.split_once(['-', '/']).unwrap_or((release, ""));
        if !known.contains(&suite) {
            continue;
        }
        let uri = uri.trim_end_matches('/').to_owned();
        match kind {
            "" | "updates" | "backports" => main = main.or(Some(uri)),
            "security" => security = security.or(Some(uri)),
            _ => {}
        }
    }
    let main = main?;
    let security = security.unwrap_or_else(|| security_of(&main));
    Some((main, security))
}

/// Where a mirror keeps the security archive, by custom.
fn security_of(main: &str) -> String {
    format!("{}-security", main.trim_end_matches('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_the_hosts_own() {
        let main = "http://mirror.example/debian";
        let targets = format!(
            "noble main http://ubuntu.example/\nbookworm contrib x:/y\nbookworm-updates main {main}/\n"
        );
        assert_eq!(
            choose_mirrors(&targets),
            Some((main.into(), "http://mirror.example/debian-security".into()))
        );
        let targets = format!("{targets}bookworm-security main http://s.example/sec/\n");
        assert_eq!(
            choose_mirrors(&targets),
            Some((main.into(), "http://s.example/sec".into()))
        );
        assert_eq!(choose_mirrors("noble main http://ubuntu.example/\n"), None);
    }
}
