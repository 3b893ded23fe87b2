//! Guests boot: every pinned kernel to a raid1 on two vhost-user legs, with what this crate makes of kernel, files and machine.
//!
//! The legs are qemu-storage-daemon's here, so that this ring tests what makes a guest and nothing else. A host without QEMU skips,
//! and says so; a host without a way to the archive says "could not be tested".
#![allow(
    clippy::print_stdout,
    reason = "a test says what it skipped and measured"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use legwatch::cache::Cache;
use legwatch::clock;
use legwatch::guest_health;
use legwatch::initramfs::{self, Contents};
use legwatch::kernel::{self, Kernel, KernelError};
use legwatch::qemu::{self, Accel, AccelChoice, Disk, Machine, Qemu, QemuError, Stream};

/// Loads what is listed, makes a mirror, writes, reads back, stops, powers off.
const INIT: &str = r#"#!/bin/sh
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev; mount -t tmpfs tmp /tmp
stage() { read -r up rest </proc/uptime; echo "STAGE $1 $up"; }
stage init
while read -r module; do insmod "$module" || echo "FAILED insmod $module"; done </etc/legwatch/modules
stage modules
for i in 1 2 3 4 5 6 7 8 9; do [ -b /dev/vdb ] && break; sleep 0.1; done
stage disks
mdadm --create /dev/md0 --run --level=1 --raid-devices=2 --assume-clean --bitmap=none --metadata=1.2 /dev/vda /dev/vdb 2>&1
stage created
dd if=/dev/urandom of=/tmp/data bs=64k count=16 2>/dev/null
dd if=/tmp/data of=/dev/md0 bs=64k oflag=direct 2>&1 | tail -n 1
dd if=/dev/md0 of=/tmp/back bs=64k count=16 iflag=direct 2>/dev/null
cmp /tmp/data /tmp/back && echo MIRROR-OK
mdadm --stop /dev/md0 2>&1
stage stopped
poweroff -f
"#;

fn qemu() -> Option<Qemu> {
    match Qemu::find() {
        Ok(qemu) => Some(qemu),
        Err(QemuError::NotFound) => {
            println!("SKIPPED: there is no QEMU here; vm/setup installs it");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

fn kernel(spec: &str, cache: &Cache) -> Option<Kernel> {
    match kernel::resolve(spec, cache) {
        Ok(kernel) => Some(kernel),
        Err(error) if error.is_unavailable() => {
            println!("SKIPPED: {error}");
            None
        }
        Err(error) => panic!("{spec}: {error:?}"),
    }
}

fn contents(dir: &Path) -> Contents {
    let agent = dir.join("init");
    fs::write(&agent, INIT).unwrap();
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    Contents {
        agent,
        modules: names(&["virtio_pci", "virtio_blk", "md_mod", "raid1"]),
        modules_optional: names(&["virtio_rng"]),
        own_modules: Vec::new(),
        binaries: vec!["mdadm".into()],
        extra: Vec::new(),
    }
}

struct Legs {
    daemon: Child,
    disks: Vec<Disk>,
}

impl Legs {
    fn start(dir: &Path) -> Legs {
        let mut command = Command::new("qemu-storage-daemon");
        let mut disks = Vec::new();
        for name in ["a", "b"] {
            let image = dir.join(format!("{name}.img"));
            fs::File::create(&image).unwrap().set_len(64 << 20).unwrap();
            let socket = dir.join(format!("{name}.sock"));
            command.args([
                "--blockdev",
                &format!("driver=file,node-name={name},filename={}", image.display()),
            ]);
            let export = "type=vhost-user-blk,writable=on,addr.type=unix";
            let export = format!(
                "{export},id=export-{name},node-name={name},addr.path={}",
                socket.display()
            );
            command.args(["--export", &export]);
            disks.push(Disk {
                name: name.into(),
                socket,
                queues: 1,
                queue_size: 128,
                properties: Vec::new(),
                connection: vec![],
            });
        }
        let daemon = command.stdin(Stdio::null()).spawn().unwrap();
        let legs = Legs { daemon, disks };
        assert!(
            wait(|| legs.disks.iter().all(|disk| disk.socket.exists())),
            "qemu-storage-daemon made no sockets"
        );
        legs
    }
}

impl Drop for Legs {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

/// Waits up to 5 s for something to be so.
fn wait(what: impl Fn() -> bool) -> bool {
    for _ in 0..100 {
        if what() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    what()
}

fn machine(accel: Accel, kernel: &Kernel, initramfs: PathBuf, disks: Vec<Disk>) -> Machine {
    Machine {
        accel,
        smp: 2,
        mem_mib: 512,
        kernel: kernel.boot_image().to_owned(),
        initramfs,
        append: std::env::var("LEGWATCH_TEST_APPEND").unwrap_or_default(),
        disks,
        qmp: None,
        gdb: None,
        extra: Vec::new(),
    }
}

/// The console of a whole run, and QEMU's end.
fn run(qemu: &Qemu, machine: &Machine) -> (Vec<String>, qemu::Exit) {
    let lines = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&lines);
    let arguments = qemu::command(machine).unwrap();
    let on_line = move |line: qemu::ConsoleLine| {
        let prefix = if line.stream == Stream::Qemu {
            "qemu: "
        } else {
            ""
        };
        kept.lock().unwrap().push(format!("{prefix}{}", line.text));
    };
    let mut guest = qemu::spawn(qemu, &arguments, on_line).unwrap();
    let exit = guest
        .wait(Duration::from_secs(120))
        .unwrap_or_else(|| guest.kill());
    let lines = lines.lock().unwrap().clone();
    (lines, exit)
}

fn mirror(spec: &str) {
    let Some(qemu) = qemu() else { return };
    let cache = Cache::open().unwrap();
    let Some(kernel) = kernel(spec, &cache) else {
        return;
    };
    kernel.require(kernel::needs::BASE).unwrap();
    kernel
        .require(kernel::needs::set("raid1").unwrap())
        .unwrap();
    let dir = tempfile::tempdir().unwrap();
    let start = clock::now();
    let initramfs = initramfs::build(&kernel, &contents(dir.path()), &cache).unwrap();
    let packed = start.elapsed();
    let legs = Legs::start(dir.path());
    let machine = machine(Accel::Tcg, &kernel, initramfs, legs.disks.clone());
    let start = clock::now();
    let (lines, exit) = run(&qemu, &machine);
    let wall = start.elapsed();
    let console = lines.join("\n");
    assert!(
        lines.iter().any(|line| line == "MIRROR-OK"),
        "{spec}: {exit:?}\n{console}"
    );
    assert!(!console.contains("FAILED"), "{console}");
    assert_eq!(exit.code, Some(0), "{console}");
    let crashes = guest_health::analyse(lines.iter().map(String::as_str), 0);
    assert_eq!(crashes, [], "{console}");
    let (a, b) = (
        fs::read(dir.path().join("a.img")).unwrap(),
        fs::read(dir.path().join("b.img")).unwrap(),
    );
    // Past both superblocks.
    assert!(
        a[8192..] == b[8192..] && a[8192..].iter().any(|byte| *byte != 0),
        "{spec}: the legs differ or are empty"
    );
    let stages: Vec<&str> = lines
        .iter()
        .filter_map(|line| line.strip_prefix("STAGE "))
        .collect();
    let (packed_s, wall_s) = (packed.as_secs_f64(), wall.as_secs_f64());
    println!(
        "{spec} ({}): {} in {wall_s:.2} s; initramfs in {packed_s:.2} s",
        kernel.release,
        stages.join(", ")
    );
}

#[test]
fn linux_5_10_mirrors() {
    mirror("pinned:5.10");
}

#[test]
fn linux_6_1_mirrors() {
    mirror("pinned:6.1");
}

#[test]
fn linux_6_12_mirrors() {
    mirror("pinned:6.12");
}

#[test]
fn linux_6_16_mirrors() {
    mirror("debian:6.16.3");
}

#[test]
fn linux_6_17_mirrors() {
    mirror("debian:6.17.13");
}

#[test]
fn linux_6_18_mirrors() {
    mirror("pinned:6.18");
}

#[test]
fn linux_7_3_mirrors() {
    mirror("debian:7.3.4");
}

#[test]
fn the_newest_of_a_series_is_found_and_unknown_ones_are_named() {
    let cache = Cache::open().unwrap();
    let known = match kernel::list_archive(&cache) {
        Ok(known) => known,
        Err(
            KernelError::NoMirror
            | KernelError::NoKeyring { .. }
            | KernelError::ArchiveUnreachable { .. },
        ) => {
            println!("SKIPPED: the archive can't be reached from here");
            return;
        }
        Err(error) => panic!("{error:?}"),
    };
    assert!(known.iter().any(|candidate| candidate.is("6.12")));
    let error = kernel::resolve("debian:6.12.9999", &cache).unwrap_err();
    assert!(
        !error.is_unavailable() && error.to_string().contains("of that series it has 6.12."),
        "{error}"
    );
    let error = kernel::resolve("debian:2.6", &cache).unwrap_err();
    assert!(
        error.to_string().contains("the archive has no such kernel"),
        "{error}"
    );
}

#[test]
fn a_kernel_without_its_root_is_a_lost_guest() {
    let Some(qemu) = qemu() else { return };
    let cache = Cache::open().unwrap();
    let Some(kernel) = kernel("pinned:6.12", &cache) else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let nothing = dir.path().join("no-initramfs");
    fs::write(&nothing, "no archive").unwrap();
    let (lines, exit) = run(&qemu, &machine(Accel::Tcg, &kernel, nothing, Vec::new()));
    assert_eq!(exit.code, Some(0), "{lines:?}");
    let crashes = guest_health::analyse(lines.iter().map(String::as_str), u64::MAX);
    assert_eq!(crashes.len(), 1, "{crashes:?}");
    assert_eq!(crashes[0].kind, guest_health::Kind::Panic);
    assert_eq!(crashes[0].meaning(), guest_health::Meaning::LostGuest);
}

#[test]
fn the_accelerator_is_found_out_and_kept() {
    let Some(qemu) = qemu() else { return };
    let cache = Cache::open().unwrap();
    let Some(kernel) = kernel("pinned:6.12", &cache) else {
        return;
    };
    let choose = |choice| Accel::choose(choice, &qemu, kernel.boot_image(), &cache);
    let chosen = choose(AccelChoice::Auto).unwrap();
    println!(
        "auto is {}: {}",
        chosen.accel,
        chosen.note.as_deref().unwrap_or("no note")
    );
    assert_eq!(chosen.note.is_some(), chosen.accel == Accel::Tcg);
    let start = clock::now();
    assert_eq!(choose(AccelChoice::Auto).unwrap(), chosen);
    assert!(
        start.elapsed() < Duration::from_secs(1),
        "the answer was not kept"
    );
    assert_eq!(choose(AccelChoice::Kvm).is_ok(), chosen.accel == Accel::Kvm);
}

/// Not a test by itself: what `no_qemu_outlives_us` kills.
#[test]
fn helper_that_is_killed() {
    let Some(said) = std::env::var_os("LEGWATCH_TEST_PID_FILE") else {
        return;
    };
    let qemu = qemu().unwrap();
    let arguments = ["-nodefaults", "-display", "none", "-S"]
        .map(Into::into)
        .to_vec();
    let mut guest = qemu::spawn(&qemu, &arguments, |_| {}).unwrap();
    fs::write(&said, guest.pid().to_string()).unwrap();
    guest.wait(Duration::from_secs(60));
}

#[test]
fn no_qemu_outlives_us() {
    if qemu().is_none() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let said = dir.path().join("pid");
    let mut helper = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "boot::helper_that_is_killed", "--nocapture"])
        .env("LEGWATCH_TEST_PID_FILE", &said)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let pid = || fs::read_to_string(&said).ok().filter(|pid| !pid.is_empty());
    assert!(wait(|| pid().is_some()), "the helper started no QEMU");
    let status = PathBuf::from(format!("/proc/{}/stat", pid().unwrap()));
    assert!(status.exists());
    helper.kill().unwrap();
    helper.wait().unwrap();
    // A zombie that some init has not reaped yet is no QEMU.
    let gone = || fs::read_to_string(&status).map_or(true, |text| text.contains(") Z "));
    assert!(
        wait(gone),
        "QEMU still runs 5 s after its parent was killed"
    );
}
