//! `legwatch serve` with a QEMU that the test starts itself, from the arguments that serve prints.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use legwatch::cache::Cache;
use legwatch::initramfs::{self, Contents};
use legwatch::kernel;
use legwatch::qemu;
use legwatch::scenario::Scenario;
use rustix::process::Signal;

use super::harness::{RUN, Ran, Running, array, until};

const KERNEL: &str = "pinned:6.12";
/// What a guest has that knows nothing of legwatch: it makes an array, writes, and powers off.
const INIT: &str = r#"#!/bin/sh
/bin/busybox mount -t devtmpfs none /dev
/bin/busybox mount -t proc none /proc
/bin/busybox mount -t sysfs none /sys
while read -r module; do /bin/busybox insmod "$module"; done </etc/legwatch/modules
until [ -b /dev/vda ] && [ -b /dev/vdb ]; do /bin/busybox sleep 0.1; done
b=/dev/vdb
PREPARE
mdadm --create /dev/md0 --run --assume-clean --level=1 --raid-devices=2 --bitmap=none /dev/vda $b
/bin/busybox dd if=/dev/urandom of=/dev/md0 bs=64k count=32 conv=fsync
SPOIL
/bin/busybox sync
mdadm --stop /dev/md0
/bin/busybox poweroff -f
"#;

/// The agent, where `ci/build` puts it.
fn agent() -> PathBuf {
    if let Some(named) = std::env::var_os("LEGWATCH_GUEST") {
        return named.into();
    }
    let program = Path::new(env!("CARGO_BIN_EXE_legwatch"));
    let target = program.ancestors().nth(2).unwrap();
    target.join("x86_64-unknown-linux-gnu/guest/legwatch-guest")
}

/// Starts `serve` with two legs, and a plan if there is one.
fn serve(plan: Option<&Path>) -> Running {
    let mut args = vec![
        "serve",
        "--leg",
        "a=mem:64M",
        "--leg",
        "b=mem:64M,queues=2",
        "--sockets",
        "s",
    ];
    if let Some(plan) = plan {
        args.extend(["--plan", plan.to_str().unwrap()]);
    }
    let mut serve = Running::start(&args);
    serve.line("Ctrl-C or SIGTERM ends it");
    serve
}

/// A QEMU of the test's own, which does not outlive it.
struct Qemu(Child);

impl Drop for Qemu {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}

/// Runs QEMU with the arguments that serve printed, until the guest powers off.
fn guest(serve: &Running, init: &Path) {
    let path = serve.dir().join("console");
    let file = std::fs::File::create(&path).unwrap();
    let mut qemu = Qemu(qemu(serve, init).stdout(file).spawn().unwrap());
    let mut status = None;
    until("the guest's power-off", RUN, || {
        status = qemu.0.try_wait().unwrap();
        status.is_some()
    });
    let console = std::fs::read(&path).unwrap();
    let console = String::from_utf8_lossy(&console);
    assert!(status.unwrap().success(), "{status:?}\n{console}");
    // Shown when the test fails.
    for line in console.lines().filter(|line| !line.starts_with('[')) {
        eprintln!("    {line}");
    }
}

/// QEMU with the arguments that serve printed.
fn qemu(serve: &Running, init: &Path) -> Command {
    let cache = Cache::open().unwrap();
    let kernel = kernel::resolve(KERNEL, &cache).unwrap();
    let contents = Contents {
        agent: init.to_owned(),
        modules: ["virtio_pci", "virtio_blk", "raid1", "dm_mod", "dm_flakey"]
            .map(String::from)
            .into(),
        binaries: ["mdadm", "dmsetup"].map(PathBuf::from).into(),
        ..Contents::default()
    };
    let initramfs = initramfs::build(&kernel, &contents, &cache).unwrap();
    let mut command = Command::new(qemu::Qemu::find().unwrap().path);
    for line in serve.said() {
        if let Some(line) = line.strip_prefix("  ")
            && line.starts_with('-')
        {
            command.args(line.trim_end_matches(" \\").split(' '));
        }
    }
    command
        .args([
            "-m",
            "1024M",
            "-accel",
            "tcg",
            "-cpu",
            "max,la57=off",
            "-nodefaults",
        ])
        .args(["-no-reboot", "-display", "none", "-serial", "stdio"])
        .arg("-kernel")
        .arg(kernel.boot_image())
        .arg("-initrd")
        .arg(&initramfs)
        .args(["-append", "console=ttyS0 panic=-1"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit());
    command
}

fn init(serve: &Running, prepare: &str, spoil: &str) -> PathBuf {
    let path = serve.dir().join("init");
    std::fs::write(
        &path,
        INIT.replace("PREPARE", prepare).replace("SPOIL", spoil),
    )
    .unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

fn ended(serve: Running, by: Signal) -> Ran {
    serve.signal(by);
    let sockets = serve.dir().join("s");
    let ran = serve.end();
    assert!(!sockets.exists(), "the sockets' folder is left");
    ran
}

#[test]
fn a_plan_is_run_by_the_agent_in_a_qemu_of_ones_own() {
    let plan = tempfile::NamedTempFile::new().unwrap();
    let scenario = Scenario::load(Path::new("raid1-quick")).unwrap();
    std::fs::write(
        plan.path(),
        serde_json::to_vec(&scenario.plan(1, 7, 9)).unwrap(),
    )
    .unwrap();
    let serve = serve(Some(plan.path()));
    guest(&serve, &agent());
    let ran = ended(serve, Signal::TERM);
    ran.compared_all(2, 2000).check_agrees();
}

#[test]
fn without_the_agent_twins_are_compared_and_the_report_says_what_is_off() {
    let serve = serve(None);
    let init = init(&serve, "", "");
    guest(&serve, &init);
    let ran = ended(serve, Signal::TERM);
    ran.ended_with(0).check_agrees();
    assert!(ran.report()["coverage"]["twins_compared"].as_u64().unwrap() >= 4096);
    for words in [
        "no agent spoke",
        "as suspect",
        "stamp, ack-all, buf-stable and same-pages were off",
    ] {
        assert!(ran.stdout.contains(words), "{words}\n{}", ran.stdout);
    }
}

/// A write that one leg has and another never got has no innocent explanation in md.
#[test]
fn without_the_agent_a_missing_write_is_proven() {
    let serve = serve(None);
    let spoil = "/bin/busybox dd if=/dev/urandom of=/dev/vdb bs=4k seek=1000 count=1 conv=fsync";
    let init = init(&serve, "", spoil);
    guest(&serve, &init);
    let ran = ended(serve, Signal::TERM);
    ran.ended_with(1).check_agrees();
    assert_eq!(ran.findings().len(), 1, "{}", ran.stdout);
    let finding = ran.finding("all-legs", "absent", &["a"]);
    assert_eq!(finding["confidence"], "proven", "{}", ran.stdout);
    // Blocks of 4 KiB; data begins at the leg's block 256.
    assert_eq!(array(&finding), [((1000 - 256) * 8, 8)]);
}

/// Contents that differ may have an innocent explanation: a page that its program changed in flight.
#[test]
fn without_the_agent_a_difference_is_suspect() {
    let serve = serve(None);
    let spoilt = "\
{
  echo 0 4096 linear /dev/vdb 0
  echo 4096 1024 flakey /dev/vdb 4096 0 1 5 corrupt_bio_byte 100 w 170 0
  echo 5120 125952 linear /dev/vdb 5120
} >/tmp/table
DM_DISABLE_UDEV=1 dmsetup create leg-b /tmp/table
b=/dev/mapper/leg-b";
    let init = init(&serve, spoilt, "");
    guest(&serve, &init);
    let ran = ended(serve, Signal::TERM);
    ran.ended_with(0).check_agrees();
    assert_eq!(ran.findings().len(), 1, "{}", ran.stdout);
    let finding = ran.finding("same-data", "differs", &["a", "b"]);
    assert_eq!(finding["confidence"], "suspect", "{}", ran.stdout);
    let area = 2048..2048 + 1024;
    assert!(
        array(&finding)
            .iter()
            .all(|(start, _)| area.contains(start))
    );
}

/// What was in flight when it ended can be on one leg alone: that is no finding. QEMU is not ours, and goes on without its legs.
#[test]
fn an_end_under_a_guest_that_writes_alarms_nobody() {
    let mut serve = serve(None);
    let spoil = "while echo BUSY; do /bin/busybox dd if=/dev/urandom of=/dev/md0 bs=64k count=8 conv=fsync; done";
    let init = init(&serve, "", spoil);
    let mut qemu = Qemu(qemu(&serve, &init).spawn().unwrap());
    let mut console = BufReader::new(qemu.0.stdout.take().unwrap()).lines();
    let busy = console
        .by_ref()
        .map_while(Result::ok)
        .filter(|line| line.contains("BUSY"));
    assert_eq!(busy.take(3).count(), 3, "the guest ended");
    serve.signal(Signal::INT);
    serve.exit();
    drop(qemu);
    let ran = serve.end();
    ran.ended_with(125).check_agrees();
    assert_eq!(
        ran.findings(),
        Vec::<serde_json::Value>::new(),
        "{}",
        ran.stdout
    );
}

#[test]
fn nobody_came_is_inconclusive() {
    let ran = ended(serve(None), Signal::INT);
    ran.ended_with(125)
        .because("nothing was exercised")
        .check_agrees();
}
