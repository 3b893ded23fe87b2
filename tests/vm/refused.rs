//! What is refused only once a kernel is there, and before any guest: nothing is left of it.

use std::path::Path;

use super::harness::{Ran, Running, full};

const KERNEL: &str = "pinned:6.12";

/// Runs a scenario whose file is made of these parts, with these variables set.
fn refused(guest: &str, leg: &str, kernel: &str, variables: &[(&str, &str)]) -> Ran {
    let file = tempfile::NamedTempFile::new().unwrap();
    let text = format!(
        "name = \"x\"\nabout = \"x\"\n[guest]\n{guest}\n[legs.a]\n{leg}\n[legs.b]\nsize = \"64M\"\n\
         [[workload]]\nwrite = {{ device = \"/dev/md0\", writes = 1 }}\n"
    );
    std::fs::write(file.path(), text).unwrap();
    let path = file.path().to_str().unwrap();
    Running::start_with(&["run", path, "--kernel", kernel], variables).end()
}

impl Ran {
    /// Asserts a refusal: the code, one last sentence with these words, and nothing left.
    fn refused_with(&self, code: i32, words: &[&str]) {
        self.ended_with(code);
        let last = self.stderr.last().unwrap();
        assert!(last.starts_with("legwatch: "), "{:#?}", self.stderr);
        for word in words {
            assert!(last.contains(word), "`{word}` is not in {last}");
        }
        let like = self.stderr.iter().filter(|line| line.contains(words[0]));
        assert_eq!(like.count(), 1, "said twice: {:#?}", self.stderr);
        assert!(!self.folder.exists(), "the run's folder is left");
        let temporary = self.folder.with_file_name("t");
        assert_eq!(
            std::fs::read_dir(temporary).unwrap().count(),
            0,
            "sockets are left"
        );
    }
}

#[test]
fn what_the_guest_would_lack_is_named() {
    let leg = "size = \"64M\"";
    refused("modules = [\"nonesuch\"]", leg, KERNEL, &[])
        .refused_with(2, &["has no module nonesuch"]);
    refused("binaries = [\"nonesuch\"]", leg, KERNEL, &[]).refused_with(
        2,
        &[
            "the guest needs nonesuch, which is not on this machine",
            "vm/setup",
        ],
    );
    if full() {
        // Asks the archive.
        refused("smp = 2", leg, "debian:6.1.9999", &[])
            .refused_with(2, &["debian:6.1.9999: the archive has no such kernel"]);
    }
}

#[test]
fn image_files_that_can_not_be_legs_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    std::fs::write(path("odd"), [0; 1000]).unwrap();
    std::fs::write(path("used"), [0; 4096]).unwrap();
    let serve = format!("a=file:{}", path("used").display());
    let mut used = std::process::Command::new(env!("CARGO_BIN_EXE_legwatch"))
        .args(["serve", "--leg", &serve, "--sockets"])
        .arg(path("s"))
        .arg("--out")
        .arg(path("out"))
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    super::harness::until("the other program's socket", super::harness::STEP, || {
        path("s/control.sock").exists()
    });
    for (file, words) in [
        (
            "/nonexistent/image",
            ["leg a: ", "/nonexistent/image", "No such file"],
        ),
        (
            path("odd").to_str().unwrap(),
            ["leg a: ", "odd has 1000 bytes", "block size 512"],
        ),
        (
            path("used").to_str().unwrap(),
            ["leg a: ", "used is in use", "another program"],
        ),
    ] {
        refused("", &format!("file = \"{file}\""), KERNEL, &[]).refused_with(2, &words);
    }
    used.kill().unwrap();
    used.wait().unwrap();
}

#[test]
fn a_temporary_folder_that_is_too_deep_for_sockets_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let deep = dir.path().join("x".repeat(100));
    std::fs::create_dir(&deep).unwrap();
    let variables = [("TMPDIR", deep.to_str().unwrap())];
    refused("", "size = \"64M\"", KERNEL, &variables)
        .refused_with(2, &["socket", "107", "use a shorter folder"]);
    assert_eq!(std::fs::read_dir(&deep).unwrap().count(), 0);
}

/// A bzImage whose code is noise never boots; the guest says nothing, and QEMU's end or our patience ends it.
#[test]
fn a_kernel_of_noise_never_boots() {
    if !full() {
        return;
    }
    let cache = legwatch::cache::Cache::open().unwrap();
    let kernel = legwatch::kernel::resolve(KERNEL, &cache).unwrap();
    let mut bytes = std::fs::read(kernel.image).unwrap();
    let half = bytes.len() / 2;
    for (at, byte) in bytes[half..].iter_mut().enumerate() {
        *byte = u8::try_from(at * 7 % 251).unwrap();
    }
    let image = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(image.path(), bytes).unwrap();
    let modules = format!(
        "{},modules={}",
        image.path().display(),
        kernel.modules.unwrap().display()
    );
    let ran = super::harness::run(Path::new("raid1-quick"), &modules, &[]);
    ran.ended_with(125).because("never booted");
}
