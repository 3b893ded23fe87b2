//! Where the archive is: the user's word, else the host's own apt sources, else (Ubuntu) what python-apt knows of Debian.

use std::process::{Command, Stdio};

use super::KernelError;
use super::tool_error;

/// Debian's archive as the package python-apt-common has it, for machines with another distribution's sources.
const TEMPLATE: &str = "/usr/share/python-apt/templates/Debian.info";

/// The main and the security archive: `$LEGWATCH_MIRROR`, else what the host's own apt sources name, else what python-apt's template says.
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
    choose_mirrors(&String::from_utf8_lossy(&output.stdout))
        .or_else(|| template_mirrors(&std::fs::read_to_string(TEMPLATE).ok()?))
        .ok_or(KernelError::NoMirror)
}

/// The archives by a template of python-apt's: the first address in it is the main one's.
fn template_mirrors(template: &str) -> Option<(String, String)> {
    let main = template
        .lines()
        .find_map(|line| line.strip_prefix("BaseURI:"))?
        .trim()
        .trim_end_matches('/');
    (!main.is_empty()).then(|| (main.to_owned(), security_of(main)))
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

    #[test]
    fn where_the_host_is_no_debian_the_template_tells() {
        let template = "X-Version: ge 12\n\nSuite: {series}\nBaseURI: https://d.example/debian/\n\nSuite: {series}-security\nBaseURI: https://s.example/\n";
        assert_eq!(
            template_mirrors(template),
            Some((
                "https://d.example/debian".into(),
                "https://d.example/debian-security".into()
            ))
        );
        assert_eq!(template_mirrors("Suite: {series}\nBaseURI: \n"), None);
    }
}
