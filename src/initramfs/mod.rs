//! The guest's files: an initramfs from a kernel's modules and the host's programs.
//!
//! Holds the agent as `/init`, busybox with its applets, mdadm and whatever else is asked for, each with its shared libraries at the
//! paths they have on the host, and the modules wanted, unpacked, with all they need. `/etc/legwatch/modules` lists them in the order
//! they must be loaded in, a path a line, so that init needs `finit_module` only; `/lib/modules/RELEASE` has enough for busybox's
//! `modprobe` too, for what the kernel asks for by itself.
//!
//! The archive is not compressed: under TCG unpacking costs more than loading (measured: docs/kernels.md). It is the same, byte for
//! byte, for the same contents, and kept in the cache by what it holds.

mod cpio;
mod libraries;

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::cache::{self, Cache, CacheError};
use crate::kernel::{Kernel, KernelError, OwnModule, find_program, modules};
use cpio::{Node, Tree};
use libraries::Kind;

/// Where init finds the list of modules, in load order.
pub const MODULES_LIST: &str = "/etc/legwatch/modules";
/// The loader for shared libraries that name none themselves.
const DEFAULT_LOADER: &str = "/lib64/ld-linux-x86-64.so.2";

/// What the cache keeps of built ones, less those that were used in the last hour.
const CACHED_BYTES_MAX: u64 = 1 << 30;
const CACHED_AGE_MIN: Duration = Duration::from_secs(3600);

/// What goes into a guest.
#[derive(Debug, Clone, Default)]
pub struct Contents {
    /// The program that becomes `/init`.
    pub agent: PathBuf,
    /// Modules that must be there, built in or to load.
    pub modules: Vec<String>,
    /// Modules that are loaded too where the kernel has them.
    pub modules_optional: Vec<String>,
    /// Modules of the user's own: in place of the kernel's of the same name, or on top.
    pub own_modules: Vec<OwnModule>,
    /// Programs of the host, by name (`mdadm`) or path. They go to `/sbin` or `/bin` as on the host.
    pub binaries: Vec<PathBuf>,
    /// Further files.
    pub extra: Vec<Extra>,
}

/// A file of the user's: `FILE[:GUESTPATH]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extra {
    pub host: PathBuf,
    /// Absolute; without one the file goes to `/root` under its own name.
    pub guest: Option<String>,
}

/// Why there is no initramfs.
#[derive(Debug, thiserror::Error)]
pub enum InitramfsError {
    #[error(transparent)]
    Cache(#[from] CacheError),
    #[error(transparent)]
    Kernel(#[from] KernelError),
    #[error("kernel '{spec}' ({release}) has no module {}: neither built in nor to load", names.join(", "))]
    MissingModules {
        spec: String,
        release: String,
        names: Vec<String>,
    },
    #[error(
        "the guest needs {name}, which is not on this machine: run vm/setup, which installs it"
    )]
    NoProgram { name: String },
    #[error("{} can't go into the guest: {why}", path.display())]
    Unusable { path: PathBuf, why: String },
    #[error("'{argument}' is no file to add: give FILE or FILE:/PATH/IN/GUEST")]
    BadExtra { argument: String },
    #[error("can't read {}", path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl Extra {
    /// Parses `FILE` or `FILE:GUESTPATH`; what follows the last colon is a guest path only when it starts with a slash.
    ///
    /// # Errors
    /// The file's name is empty, or the guest path has a `..` in it.
    pub fn parse(argument: &str) -> Result<Extra, InitramfsError> {
        let (host, guest) = match argument.rsplit_once(':') {
            Some((host, guest)) if guest.starts_with('/') => (host, Some(guest.to_owned())),
            _ => (argument, None),
        };
        let climbs = guest
            .as_deref()
            .is_some_and(|guest| guest.ends_with('/') || guest.split('/').any(|part| part == ".."));
        if host.is_empty() || climbs {
            return Err(InitramfsError::BadExtra {
                argument: argument.into(),
            });
        }
        Ok(Extra {
            host: host.into(),
            guest,
        })
    }
}

/// Builds the initramfs for `kernel` and says where it is. The file belongs to the cache: don't change it.
///
/// # Errors
/// A module or program is missing, a file can't be read, or the cache can't be written.
pub fn build(
    kernel: &Kernel,
    contents: &Contents,
    cache: &Cache,
) -> Result<PathBuf, InitramfsError> {
    let mut tree = Tree::default();
    skeleton(&mut tree);
    add_file(&mut tree, &contents.agent, "/init")?;
    add_busybox(&mut tree)?;
    for binary in &contents.binaries {
        let path = if binary.components().count() == 1 {
            let name = binary.to_string_lossy();
            find_program(&name).ok_or_else(|| InitramfsError::NoProgram {
                name: name.into_owned(),
            })?
        } else {
            binary.clone()
        };
        let name = path
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default();
        let folder = if path.parent().is_some_and(|dir| dir.ends_with("sbin")) {
            "/sbin"
        } else {
            "/bin"
        };
        add_file(&mut tree, &path, &format!("{folder}/{name}"))?;
    }
    for extra in &contents.extra {
        let name = extra
            .host
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default();
        let guest = extra
            .guest
            .clone()
            .unwrap_or_else(|| format!("/root/{name}"));
        add_file(&mut tree, &extra.host, &guest)?;
    }
    add_modules(&mut tree, kernel, contents)?;
    let bytes = tree.archive().map_err(|path| InitramfsError::Unusable {
        path: path.into(),
        why: "it is larger than 4 GiB".into(),
    })?;

    let name = format!(
        "initramfs/{}-{:016x}.cpio",
        bytes.len(),
        cache::digest(&bytes)
    );
    let path = cache.path(&name);
    if path.exists() {
        cache::keep_recent(&path, CACHED_BYTES_MAX, CACHED_AGE_MIN);
        return Ok(path);
    }
    let scratch = cache.scratch()?;
    let file = scratch.path().join("initramfs");
    fs::write(&file, &bytes).map_err(|source| InitramfsError::Io {
        path: file.clone(),
        source,
    })?;
    let path = cache.publish(&file, &name)?;
    cache::keep_recent(&path, CACHED_BYTES_MAX, CACHED_AGE_MIN);
    Ok(path)
}

fn skeleton(tree: &mut Tree) {
    for dir in [
        "bin", "dev", "etc", "mnt", "proc", "root", "run", "sbin", "sys", "tmp",
    ] {
        tree.put(dir, Node::Dir);
    }
    // Until init mounts devtmpfs, these are what it has.
    tree.put("dev/console", Node::Device(0o600, 5, 1));
    tree.put("dev/null", Node::Device(0o666, 1, 3));
    for (path, text) in [
        ("etc/passwd", "root::0:0:root:/root:/bin/sh\n"),
        ("etc/group", "root:x:0:\ndisk:x:6:\n"),
        ("etc/mdadm/mdadm.conf", "MAILADDR root\n"),
        ("etc/mtab", ""),
    ] {
        tree.put(path, Node::File(text.into(), 0o644));
    }
}

/// Puts one file of the host at `guest`, with its shared libraries when it is a program.
fn add_file(tree: &mut Tree, host: &Path, guest: &str) -> Result<(), InitramfsError> {
    let io_error = |source| InitramfsError::Io {
        path: host.to_owned(),
        source,
    };
    let metadata = fs::metadata(host).map_err(io_error)?;
    if !metadata.is_file() {
        return Err(InitramfsError::Unusable {
            path: host.to_owned(),
            why: "it is no regular file".into(),
        });
    }
    let bytes = fs::read(host).map_err(io_error)?;
    let loader = match libraries::kind(&bytes) {
        Kind::Dynamic { loader } => Some(loader),
        Kind::Bare {
            needs_libraries: true,
        } => Some(DEFAULT_LOADER.to_owned()),
        Kind::Bare {
            needs_libraries: false,
        }
        | Kind::Other => None,
        Kind::Foreign => {
            return Err(InitramfsError::Unusable {
                path: host.to_owned(),
                why: "it is a program for another machine than x86-64".into(),
            });
        }
    };
    if let Some(loader) = loader {
        let host = fs::canonicalize(host).map_err(io_error)?;
        let libraries = libraries::of(&host, &loader).map_err(|why| InitramfsError::Unusable {
            path: host.clone(),
            why,
        })?;
        for library in libraries {
            let path = library.to_string_lossy().into_owned();
            if !tree.has(&path) {
                let bytes = fs::read(&library).map_err(|source| InitramfsError::Io {
                    path: library,
                    source,
                })?;
                tree.put(&path, Node::File(bytes, 0o755));
            }
        }
    }
    // Set-uid bits mean nothing in a guest where everything is root.
    let permissions = std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o777;
    let permissions = if guest == "/init" {
        permissions | 0o500
    } else {
        permissions
    };
    tree.put(guest, Node::File(bytes, permissions));
    Ok(())
}

fn add_busybox(tree: &mut Tree) -> Result<(), InitramfsError> {
    let no_busybox = || InitramfsError::NoProgram {
        name: "busybox".into(),
    };
    let busybox = find_program("busybox").ok_or_else(no_busybox)?;
    add_file(tree, &busybox, "/bin/busybox")?;
    let output = Command::new(&busybox)
        .arg("--list")
        .stdin(Stdio::null())
        .output();
    let output = output.map_err(|source| InitramfsError::Io {
        path: busybox,
        source,
    })?;
    for applet in String::from_utf8_lossy(&output.stdout).lines() {
        let plain = applet
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && byte != b'/');
        if plain && !applet.is_empty() && applet != "busybox" {
            tree.put(&format!("/bin/{applet}"), Node::Link("busybox".into()));
        }
    }
    // The kernel and scripts look here.
    for name in ["modprobe", "insmod", "mdev", "poweroff", "reboot"] {
        tree.put(&format!("/sbin/{name}"), Node::Link("/bin/busybox".into()));
    }
    tree.put("/usr/bin", Node::Link("/bin".into()));
    tree.put("/usr/sbin", Node::Link("/sbin".into()));
    Ok(())
}

fn add_modules(
    tree: &mut Tree,
    kernel: &Kernel,
    contents: &Contents,
) -> Result<(), InitramfsError> {
    let known = kernel.read_modules()?;
    for own in &contents.own_modules {
        own.fits(kernel, &known)?;
    }
    let own = |name: &str| contents.own_modules.iter().find(|own| own.name == name);
    let (_, mut missing) = known.load_order(&contents.modules);
    missing.retain(|name| own(&modules::name_of(name)).is_none());
    // A kernel of which no list says what is built in may have it all.
    if !missing.is_empty() && !known.is_unknown() {
        return Err(InitramfsError::MissingModules {
            spec: kernel.spec.clone(),
            release: kernel.release.clone(),
            names: missing,
        });
    }
    let wanted: Vec<String> = contents
        .modules
        .iter()
        .chain(&contents.modules_optional)
        .chain(
            contents
                .own_modules
                .iter()
                .flat_map(|own| own.needs.iter().chain(std::iter::once(&own.name))),
        )
        .cloned()
        .collect();
    let (order, _) = known.load_order(&wanted);
    let mut list = String::new();
    let guest_dir = format!("/lib/modules/{}", kernel.release);
    if let Some(dir) = &kernel.modules {
        let mut placed = BTreeSet::new();
        for name in &order {
            let Some(below) = known.path(name) else {
                continue;
            };
            let guest = format!(
                "{guest_dir}/{}",
                modules::uncompressed(&below.to_string_lossy())
            );
            if placed.insert(guest.clone()) {
                let bytes = match own(name) {
                    Some(own) => own.bytes.clone(),
                    None => read_module(&dir.join(below))?,
                };
                tree.put(&guest, Node::File(bytes, 0o644));
                list.push_str(&guest);
                list.push('\n');
            }
        }
        for (file, text) in [
            ("modules.dep", known.reduced_dep(&order)),
            ("modules.alias", known.reduced_alias(&order)),
        ] {
            tree.put(
                &format!("{guest_dir}/{file}"),
                Node::File(text.into_bytes(), 0o644),
            );
        }
        for file in ["modules.builtin", "modules.order"] {
            if let Ok(bytes) = fs::read(dir.join(file)) {
                tree.put(&format!("{guest_dir}/{file}"), Node::File(bytes, 0o644));
            }
        }
    }
    // Those that the kernel has none of go in last: what they need is there by then.
    for own in &contents.own_modules {
        if known.path(&own.name).is_none() {
            let guest = format!("{guest_dir}/updates/{}.ko", own.name);
            tree.put(&guest, Node::File(own.bytes.clone(), 0o644));
            list.push_str(&guest);
            list.push('\n');
        }
    }
    tree.put(MODULES_LIST, Node::File(list.into_bytes(), 0o644));
    Ok(())
}

/// A module's bytes, unpacked, and without debug information when it is large and there is a tool to strip it.
fn read_module(path: &Path) -> Result<Vec<u8>, InitramfsError> {
    /// Debian's own modules are all smaller than this; those of a tree with debug information are not.
    const LEN_PLAIN_MAX: usize = 3 << 20;
    let unpacker: &[&str] = match path.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => &["xz", "-dc"],
        Some("zst") => &["zstd", "-dcq"],
        Some("gz") => &["gzip", "-dc"],
        _ => &[],
    };
    let io_error = |source| InitramfsError::Io {
        path: path.to_owned(),
        source,
    };
    let bytes = if let Some((program, arguments)) = unpacker.split_first() {
        let file = fs::File::open(path).map_err(io_error)?;
        let output = Command::new(program)
            .args(arguments)
            .stdin(file)
            .stderr(Stdio::null())
            .output();
        let output = output.map_err(|_| InitramfsError::NoProgram {
            name: (*program).into(),
        })?;
        if !output.status.success() {
            return Err(InitramfsError::Unusable {
                path: path.to_owned(),
                why: format!("{program} can't unpack it"),
            });
        }
        output.stdout
    } else {
        fs::read(path).map_err(io_error)?
    };
    if bytes.len() > LEN_PLAIN_MAX && unpacker.is_empty() {
        let stripped = Command::new("strip")
            .args(["--strip-debug", "-o", "/dev/stdout"])
            .arg(path)
            .stderr(Stdio::null())
            .output();
        if let Ok(output) = stripped
            && output.status.success()
            && output.stdout.starts_with(b"\x7fELF")
        {
            return Ok(output.stdout);
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_extra_file_can_say_where_it_goes() {
        let parsed = |text: &str| {
            Extra::parse(text)
                .map(|extra| (extra.host, extra.guest))
                .unwrap()
        };
        assert_eq!(parsed("a/b"), ("a/b".into(), None));
        assert_eq!(parsed("a:b"), ("a:b".into(), None));
        assert_eq!(parsed("a:/bin/b"), ("a".into(), Some("/bin/b".into())));
        for bad in ["", ":/x", "a:/../x", "a:/dir/"] {
            Extra::parse(bad).unwrap_err();
        }
    }

    fn kernel(dir: &Path) -> Kernel {
        Kernel {
            spec: "test".into(),
            release: "7.0".into(),
            image: dir.join("bzImage"),
            vmlinux: None,
            modules: Some(dir.to_owned()),
            config: None,
            packages: Vec::new(),
        }
    }

    #[test]
    fn the_same_contents_give_the_same_file_and_modules_are_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(&dir.path().join("cache")).unwrap();
        fs::write(
            dir.path().join("modules.dep"),
            "k/raid1.ko: k/md-mod.ko\nk/md-mod.ko:\n",
        )
        .unwrap();
        fs::create_dir(dir.path().join("k")).unwrap();
        fs::write(dir.path().join("k/raid1.ko"), "of the kernel's").unwrap();
        fs::write(dir.path().join("k/md-mod.ko"), "two").unwrap();
        let agent = dir.path().join("agent");
        fs::write(&agent, "#!/bin/sh\n").unwrap();
        let mut contents = Contents {
            agent,
            modules: vec!["raid1".into()],
            modules_optional: vec!["absent".into()],
            ..Contents::default()
        };
        if find_program("busybox").is_none() {
            let error = build(&kernel(dir.path()), &contents, &cache)
                .unwrap_err()
                .to_string();
            assert!(error.contains("vm/setup"), "{error}");
            return;
        }
        let first = build(&kernel(dir.path()), &contents, &cache).unwrap();
        assert_eq!(
            build(&kernel(dir.path()), &contents, &cache).unwrap(),
            first
        );
        let text = String::from_utf8_lossy(&fs::read(&first).unwrap()).into_owned();
        assert!(text.contains("/lib/modules/7.0/k/md-mod.ko\n/lib/modules/7.0/k/raid1.ko\n"));
        let own = |name: &str, bytes: &str| OwnModule {
            path: format!("{name}.ko").into(),
            name: name.into(),
            release: "7.0".into(),
            needs: vec!["md_mod".into()],
            bytes: bytes.into(),
        };
        contents.own_modules = vec![own("raid1", "of my own"), own("raid9", "on top of it")];
        let with_own = build(&kernel(dir.path()), &contents, &cache).unwrap();
        let text = String::from_utf8_lossy(&fs::read(&with_own).unwrap()).into_owned();
        assert!(text.contains(
            "/lib/modules/7.0/k/md-mod.ko\n/lib/modules/7.0/k/raid1.ko\n/lib/modules/7.0/updates/raid9.ko\n"
        ));
        assert!(text.contains("of my own") && text.contains("on top of it"));
        assert!(!text.contains("of the kernel's"));
        contents.own_modules[1].release = "6.0".into();
        let error = build(&kernel(dir.path()), &contents, &cache)
            .unwrap_err()
            .to_string();
        assert!(error.contains("was built for 6.0"), "{error}");
        contents.own_modules.clear();
        contents.modules.push("nothing".into());
        let error = build(&kernel(dir.path()), &contents, &cache)
            .unwrap_err()
            .to_string();
        assert!(error.contains("has no module nothing"), "{error}");
    }
}
