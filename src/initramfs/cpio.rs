//! An archive in the kernel's `newc` format (`Documentation/driver-api/early-userspace/buffer-format.rst`).
//!
//! Reproducible: entries are sorted, times are 0, owners are root, inode numbers count up.

use std::collections::BTreeMap;

/// One thing in the archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Node {
    Dir,
    /// Contents and permission bits.
    File(Vec<u8>, u32),
    Link(String),
    /// A character device with these permission bits, major and minor.
    Device(u32, u32, u32),
}

/// A tree of files that becomes an archive.
#[derive(Debug, Default)]
pub(super) struct Tree {
    nodes: BTreeMap<String, Node>,
}

impl Tree {
    /// Puts `node` at `path` (absolute or relative to the root, no `..`), with the folders above it. What is there is replaced.
    pub(super) fn put(&mut self, path: &str, node: Node) {
        let parts: Vec<&str> = path
            .split('/')
            .filter(|part| !part.is_empty() && *part != ".")
            .collect();
        for depth in 1..parts.len() {
            self.nodes
                .entry(parts[..depth].join("/"))
                .or_insert(Node::Dir);
        }
        if !parts.is_empty() {
            self.nodes.insert(parts.join("/"), node);
        }
    }

    /// Whether something is at `path`.
    pub(super) fn has(&self, path: &str) -> bool {
        self.nodes.contains_key(path.trim_start_matches('/'))
    }

    /// The archive's bytes, or the path of a file too large for the format (4 GiB).
    pub(super) fn archive(&self) -> Result<Vec<u8>, String> {
        let mut bytes = Vec::new();
        for (inode, (path, node)) in (1u32..).zip(&self.nodes) {
            let (mode, body, device): (u32, &[u8], (u32, u32)) = match node {
                Node::Dir => (0o040_755, &[], (0, 0)),
                Node::File(contents, permissions) => (0o100_000 | permissions, contents, (0, 0)),
                Node::Link(target) => (0o120_777, target.as_bytes(), (0, 0)),
                Node::Device(permissions, major, minor) => {
                    (0o020_000 | permissions, &[], (*major, *minor))
                }
            };
            entry(&mut bytes, inode, path, mode, body, device).ok_or_else(|| path.clone())?;
        }
        entry(&mut bytes, 0, "TRAILER!!!", 0, &[], (0, 0)).ok_or_else(String::new)?;
        Ok(bytes)
    }
}

fn entry(
    bytes: &mut Vec<u8>,
    inode: u32,
    name: &str,
    mode: u32,
    body: &[u8],
    device: (u32, u32),
) -> Option<()> {
    let body_len = u32::try_from(body.len()).ok()?;
    let name_len = u32::try_from(name.len() + 1).ok()?;
    bytes.extend(b"070701");
    // inode, mode, owner, group, links, time, length, device of the file system, device of the node, length of the name, checksum
    for field in [
        inode, mode, 0, 0, 1, 0, body_len, 0, 0, device.0, device.1, name_len, 0,
    ] {
        bytes.extend(format!("{field:08x}").bytes());
    }
    bytes.extend(name.bytes());
    bytes.push(0);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes.extend(body);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_come_before_what_is_in_them_and_all_is_aligned() {
        let mut tree = Tree::default();
        tree.put("/a/b/c", Node::File(b"hello".to_vec(), 0o644));
        tree.put("a/b", Node::Dir);
        tree.put("init", Node::Link("a/b/c".into()));
        assert!(tree.has("/a/b") && !tree.has("a/x"));
        let bytes = tree.archive().unwrap();
        assert_eq!(bytes.len() % 4, 0);
        let text = String::from_utf8_lossy(&bytes);
        let at = |what: &str| text.find(what).unwrap();
        assert!(
            at("a/b\0") < at("a/b/c\0")
                && at("a/b/c\0") < at("init\0")
                && at("init\0") < at("TRAILER!!!")
        );
        assert_eq!(text.matches("070701").count(), 5);
        assert!(text.starts_with("07070100000001000041ed"));
    }

    #[test]
    fn the_hosts_cpio_reads_it() {
        let mut tree = Tree::default();
        tree.put("etc/x", Node::File(vec![7; 1001], 0o600));
        tree.put("bin/sh", Node::Link("busybox".into()));
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.cpio");
        std::fs::write(&file, tree.archive().unwrap()).unwrap();
        // busybox is what the guest needs anyway; a host without it is covered by the test above.
        let Ok(output) = std::process::Command::new("busybox")
            .args(["cpio", "-t"])
            .stdin(std::fs::File::open(&file).unwrap())
            .output()
        else {
            return;
        };
        assert_eq!(
            String::from_utf8_lossy(&output.stdout),
            "bin\nbin/sh\netc\netc/x\n"
        );
    }
}
