//! What only a guest can judge of the device: a size that changes under its block layer, a witness that is killed under its requests.
//!
//! A host without QEMU skips, and says so.
#![allow(
    clippy::print_stdout,
    reason = "a test says what it skipped and measured"
)]

use std::ffi::OsString;
use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use legwatch::block::LegId;
use legwatch::cache::Cache;
use legwatch::clock;
use legwatch::config::LegConfig;
use legwatch::device::{Device, Options};
use legwatch::event::EventNo;
use legwatch::initramfs::{self, Contents};
use legwatch::kernel;
use legwatch::qemu::{self, Accel, Disk, Guest, Machine, Qemu, QemuError};
use legwatch::sequence::Sequence;

const PATIENCE: Duration = Duration::from_secs(120);
const BEGIN: &str = r#"#!/bin/sh
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev; mount -t tmpfs tmp /tmp
while read -r module; do insmod "$module"; done </etc/legwatch/modules
for i in 1 2 3 4 5 6 7 8 9; do [ -b /dev/vda ] && break; sleep 0.2; done
"#;

/// A guest that runs `script`, and its console.
struct Run {
    guest: Guest,
    lines: Arc<Mutex<Vec<String>>>,
    _dir: tempfile::TempDir,
}

impl Run {
    /// `None`, if there is no QEMU or no kernel here.
    fn start(script: &str, socket: &Path, properties: &[&str], chardev: &str) -> Option<Run> {
        let qemu = match Qemu::find() {
            Ok(qemu) => qemu,
            Err(QemuError::NotFound) => {
                println!("SKIPPED: there is no QEMU here; vm/setup installs it");
                return None;
            }
            Err(error) => panic!("{error}"),
        };
        let cache = Cache::open().unwrap();
        let kernel = match kernel::resolve("pinned:6.12", &cache) {
            Ok(kernel) => kernel,
            Err(error) if error.is_unavailable() => {
                println!("SKIPPED: {error}");
                return None;
            }
            Err(error) => panic!("{error:?}"),
        };
        let dir = tempfile::tempdir().unwrap();
        let agent = dir.path().join("init");
        fs::write(&agent, format!("{BEGIN}{script}\npoweroff -f\n")).unwrap();
        let contents = Contents {
            agent,
            modules: vec!["virtio_pci".into(), "virtio_blk".into()],
            modules_optional: vec![],
            own_modules: vec![],
            binaries: vec![],
            extra: vec![],
        };
        let machine = Machine {
            accel: Accel::Tcg,
            smp: 2,
            mem_mib: 256,
            kernel: kernel.boot_image().to_owned(),
            initramfs: initramfs::build(&kernel, &contents, &cache).unwrap(),
            append: String::new(),
            disks: vec![Disk {
                name: "a".into(),
                socket: socket.to_owned(),
                queues: 2,
                queue_size: 64,
                properties: properties.iter().map(ToString::to_string).collect(),
                connection: vec![],
            }],
            qmp: None,
            gdb: None,
            extra: vec![],
        };
        let mut arguments = qemu::command(&machine).unwrap();
        for argument in &mut arguments {
            if argument.to_string_lossy().starts_with("socket,id=chr-") {
                argument.push(OsString::from(chardev));
            }
        }
        let lines = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&lines);
        let guest = qemu::spawn(&qemu, &arguments, move |line: qemu::ConsoleLine| {
            kept.lock().unwrap().push(line.text);
        });
        Some(Run {
            guest: guest.unwrap(),
            lines,
            _dir: dir,
        })
    }

    fn console(&self) -> String {
        self.lines.lock().unwrap().join("\n")
    }

    fn has(&self, line: &str) -> bool {
        self.lines.lock().unwrap().iter().any(|said| said == line)
    }

    fn await_line(&self, line: &str) {
        let begun = clock::now();
        while !self.has(line) {
            let console = self.console();
            assert!(begun.elapsed() < PATIENCE, "awaited {line}:\n{console}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn end(mut self) -> String {
        let exit = self
            .guest
            .wait(PATIENCE)
            .unwrap_or_else(|| self.guest.kill());
        let console = self.console();
        assert_eq!(exit.code, Some(0), "{console}");
        console
    }
}

#[test]
fn the_guest_sees_a_leg_grow() {
    const SCRIPT: &str = r#"
echo SIZE $(cat /sys/block/vda/size)
i=0; while [ $i -lt 600 ] && [ "$(cat /sys/block/vda/size)" != 4096 ]; do sleep 0.1; i=$((i+1)); done
echo SIZE $(cat /sys/block/vda/size)
dd if=/dev/urandom of=/dev/vda bs=512 seek=4095 count=1 oflag=direct && echo WROTE
"#;
    let dir = tempfile::tempdir().unwrap();
    let (sequence, mut collector) = Sequence::new(EventNo(0));
    let collector =
        std::thread::spawn(move || while collector.next(Duration::from_secs(300)).is_ok() {});
    let legs = [LegConfig::memory("a", 2048 * 512)];
    let device = Device::start(&legs, dir.path(), &Options::default(), &sequence).unwrap();
    drop(sequence);
    if let Some(run) = Run::start(SCRIPT, &dir.path().join("a.sock"), &["packed=on"], "") {
        run.await_line("SIZE 2048");
        assert!(device.resize(LegId(0), 4096).unwrap(), "QEMU is told");
        run.await_line("SIZE 4096");
        let console = run.end();
        assert!(console.contains("WROTE"), "{console}");
        let last = device.read_sector(LegId(0), legwatch::block::Sector(4095));
        assert_ne!(last.unwrap(), [0; 512]);
    }
    drop(device);
    collector.join().unwrap();
}

struct Witness(Child);

impl Witness {
    fn start(dir: &Path, round: u32) -> Witness {
        let image: PathBuf = dir.join("image");
        let child = Command::new(env!("CARGO_BIN_EXE_legwatch"))
            .args(["serve", "--leg"])
            .arg(format!(
                "a=file:{},delay_ms=2,late_fetch=true",
                image.display()
            ))
            .arg("--sockets")
            .arg(dir)
            .arg("--out")
            .arg(dir.join(format!("out{round}")))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Witness(child)
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        // SIGKILL; it may be gone already.
        let _gone = self.0.kill();
        self.0.wait().unwrap();
    }
}

#[test]
fn the_guest_does_not_notice_a_witness_that_is_killed() {
    const SCRIPT: &str = r#"
dd if=/dev/urandom of=/tmp/data bs=64k count=64 2>/dev/null
echo LOAD
i=0; while [ $i -lt 30 ]; do dd if=/tmp/data of=/dev/vda bs=16k count=256 oflag=direct 2>/dev/null || echo BAD-WRITE; i=$((i+1)); done
dd if=/dev/vda of=/tmp/back bs=64k count=64 iflag=direct 2>/dev/null
cmp /tmp/data /tmp/back && echo SAME-DATA
"#;
    for properties in [&[][..], &["packed=on"]] {
        let dir = tempfile::tempdir().unwrap();
        let image = fs::File::create(dir.path().join("image")).unwrap();
        image.set_len(8 << 20).unwrap();
        let socket = dir.path().join("a.sock");
        let mut witness = Witness::start(dir.path(), 0);
        let begun = clock::now();
        while UnixStream::connect(&socket).is_err() {
            assert!(begun.elapsed() < PATIENCE, "awaited the socket");
            std::thread::sleep(Duration::from_millis(5));
        }
        let Some(run) = Run::start(SCRIPT, &socket, properties, ",reconnect-ms=50") else {
            return;
        };
        run.await_line("LOAD");
        let mut kills = 0;
        for round in 1..=5 {
            std::thread::sleep(Duration::from_millis(700));
            if run.has("SAME-DATA") {
                break;
            }
            drop(witness);
            kills += 1;
            witness = Witness::start(dir.path(), round);
        }
        let console = run.end();
        assert!(console.contains("SAME-DATA"), "{console}");
        assert!(!console.contains("BAD-WRITE"), "{console}");
        assert!(kills > 0, "the load was over before the first kill");
        println!("{properties:?}: killed {kills} times under load");
        drop(witness);
    }
}
