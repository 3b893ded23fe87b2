//! A module of the user's own (`run --module FILE.ko`), and what it says about itself in its `.modinfo`.

use std::fs;
use std::path::{Path, PathBuf};

use super::modules::{Modules, name_of};
use super::{Kernel, KernelError, io_error};

/// A module that takes the place of the kernel's of its name, or comes on top.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnModule {
    /// Where it was read.
    pub path: PathBuf,
    /// Its name, with underscores.
    pub name: String,
    /// The release that it was built for.
    pub release: String,
    /// The modules that it needs.
    pub needs: Vec<String>,
    /// The file.
    pub bytes: Vec<u8>,
}

impl OwnModule {
    /// Reads a module. It is not compressed.
    ///
    /// # Errors
    /// There is no such file, or it is no kernel module.
    pub fn read(path: &Path) -> Result<OwnModule, KernelError> {
        let bytes = fs::read(path).map_err(io_error("read", path))?;
        let no_module = || KernelError::NoModule {
            path: path.to_owned(),
        };
        if !bytes.starts_with(b"\x7fELF") {
            return Err(no_module());
        }
        let release = modinfo(&bytes, "vermagic")
            .and_then(|magic| magic.split(' ').next().map(str::to_owned))
            .ok_or_else(no_module)?;
        let name = match modinfo(&bytes, "name") {
            Some(name) => name_of(&name),
            // Kernels before 4.13 don't say.
            None => name_of(&path.to_string_lossy()),
        };
        let needs = modinfo(&bytes, "depends").unwrap_or_default();
        let needs = needs
            .split(',')
            .filter(|need| !need.is_empty())
            .map(name_of)
            .collect();
        Ok(OwnModule {
            path: path.to_owned(),
            name,
            release,
            needs,
            bytes,
        })
    }

    /// Whether this kernel can load it.
    ///
    /// # Errors
    /// It was built for another release, or the kernel has it built in.
    pub fn fits(&self, kernel: &Kernel, known: &Modules) -> Result<(), KernelError> {
        if self.release != kernel.release {
            return Err(KernelError::ModuleRelease {
                path: self.path.clone(),
                built_for: self.release.clone(),
                release: kernel.release.clone(),
            });
        }
        if known.has(&self.name) && known.path(&self.name).is_none() {
            return Err(KernelError::BuiltIn {
                path: self.path.clone(),
                name: self.name.clone(),
                release: kernel.release.clone(),
            });
        }
        Ok(())
    }
}

/// The value of a key in a module's `.modinfo`: strings `key=value`, each ended by a zero.
fn modinfo(bytes: &[u8], key: &str) -> Option<String> {
    let wanted = format!("{key}=");
    bytes
        .split(|byte| *byte == 0)
        .filter_map(|text| std::str::from_utf8(text).ok())
        .find_map(|text| text.strip_prefix(&wanted))
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernel() -> Kernel {
        Kernel {
            spec: "test".into(),
            release: "6.12.1".into(),
            image: "bzImage".into(),
            vmlinux: None,
            modules: None,
            config: None,
            packages: Vec::new(),
        }
    }

    #[test]
    fn a_module_says_what_it_is_and_must_fit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.ko");
        fs::write(
            &path,
            b"\x7fELF\x02\0\0license=GPL\0depends=md-mod,dm-mod\0name=raid1\0vermagic=6.12.1 SMP mod_unload \0",
        )
        .unwrap();
        let module = OwnModule::read(&path).unwrap();
        assert_eq!(
            (module.name.as_str(), module.release.as_str()),
            ("raid1", "6.12.1")
        );
        assert_eq!(module.needs, ["md_mod", "dm_mod"]);
        let loadable = Modules::parse("kernel/raid1.ko:\n", "", "", "");
        module.fits(&kernel(), &loadable).unwrap();
        module.fits(&kernel(), &Modules::default()).unwrap();
        let built_in = Modules::parse("", "kernel/drivers/md/raid1.ko\n", "", "");
        let said = module.fits(&kernel(), &built_in).unwrap_err().to_string();
        assert!(said.contains("built into"), "{said}");
        let other = Kernel {
            release: "6.1.0".into(),
            ..kernel()
        };
        let said = module.fits(&other, &loadable).unwrap_err().to_string();
        assert!(said.contains("6.12.1") && said.contains("6.1.0"), "{said}");
        for bytes in [&b"text"[..], b"\x7fELF\x02\0name=raid1\0"] {
            fs::write(&path, bytes).unwrap();
            let said = OwnModule::read(&path).unwrap_err().to_string();
            assert!(said.contains("no kernel module"), "{said}");
        }
    }
}
