//! QEMU's machine protocol (docs/interop/qmp-spec of QEMU), as much of it as is needed to take a disk away and put it back, and to save a machine to a file
//! and go on from it.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use super::Disk;

/// How long QEMU, or the guest that has to let a device go, may take for an answer. Generous: emulated, on a shared machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// Why QEMU did not do it.
#[derive(Debug, thiserror::Error)]
pub enum QmpError {
    /// The conversation broke off.
    #[error("QEMU's control socket")]
    Talk(#[from] io::Error),
    /// QEMU says something that is no JSON.
    #[error("QEMU's answer makes no sense")]
    Nonsense(#[from] serde_json::Error),
    /// QEMU refuses.
    #[error("QEMU refuses {command}: {why}")]
    Refused {
        /// What it was told.
        command: &'static str,
        /// Its own words.
        why: String,
    },
}

/// A conversation with a QEMU.
#[derive(Debug)]
pub struct Qmp {
    stream: BufReader<UnixStream>,
    /// Devices whose removal was told meanwhile.
    deleted: Vec<String>,
    /// How far saving or loading was last said to be.
    migrated: Option<String>,
}

impl Qmp {
    /// Begins to talk to the QEMU that listens at `path`.
    ///
    /// # Errors
    /// [`QmpError`].
    pub fn connect(path: &Path) -> Result<Qmp, QmpError> {
        let stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut qmp = Qmp {
            stream: BufReader::new(stream),
            deleted: Vec::new(),
            migrated: None,
        };
        let _greeting = qmp.next()?;
        qmp.execute("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    /// Takes a disk away, and waits until the guest has let it go; then its connection is closed.
    ///
    /// # Errors
    /// [`QmpError`]; a guest that does not let it go shows as a timed-out conversation.
    pub fn unplug(&mut self, disk: &Disk) -> Result<(), QmpError> {
        let id = disk.device_id();
        self.execute("device_del", json!({ "id": id }))?;
        while !self.deleted.contains(&id) {
            let said = self.next()?;
            self.note(&said);
        }
        self.deleted.retain(|one| *one != id);
        self.execute("chardev-remove", json!({ "id": disk.chardev_id() }))?;
        Ok(())
    }

    /// Puts a disk that was taken away back.
    ///
    /// # Errors
    /// [`QmpError`].
    pub fn plug(&mut self, disk: &Disk) -> Result<(), QmpError> {
        let mut backend = json!({ "type": "socket", "data": {
            "addr": { "type": "unix", "data": { "path": disk.socket } },
            "server": false,
        }});
        for option in &disk.connection {
            if let Some((name, number)) = option.split_once('=')
                && let Ok(number) = number.parse::<u32>()
            {
                backend["data"][name] = number.into();
            }
        }
        let chardev = json!({ "id": disk.chardev_id(), "backend": backend });
        self.execute("chardev-add", chardev)?;
        let mut device = json!({
            "driver": "vhost-user-blk-pci",
            "id": disk.device_id(),
            "chardev": disk.chardev_id(),
            "num-queues": disk.queues,
            "queue-size": disk.queue_size,
            "disable-legacy": "on",
        });
        for property in &disk.properties {
            if let Some((name, value)) = property.split_once('=') {
                device[name] = match value {
                    "on" => true.into(),
                    "off" => false.into(),
                    other => other.into(),
                };
            }
        }
        self.execute("device_add", device)?;
        Ok(())
    }

    /// Stops the machine and saves it to a file. It has no disks: those of vhost-user can't be saved.
    ///
    /// # Errors
    /// [`QmpError`].
    pub fn save(&mut self, file: &Path) -> Result<(), QmpError> {
        self.execute("stop", json!({}))?;
        self.migrate("migrate", file)
    }

    /// Takes up what [`Qmp::save`] saved, in a QEMU of the same arguments that was started with [`super::RESUMES`]; it stays stopped.
    ///
    /// # Errors
    /// [`QmpError`].
    pub fn load(&mut self, file: &Path) -> Result<(), QmpError> {
        self.migrate("migrate-incoming", file)
    }

    /// Lets a stopped machine go on.
    ///
    /// # Errors
    /// [`QmpError`].
    pub fn go_on(&mut self) -> Result<(), QmpError> {
        self.execute("cont", json!({})).map(drop)
    }

    /// With `mapped-ram` each page has its place in the file, pages of zeroes take none, and loading takes a fifth of the time.
    fn migrate(&mut self, command: &'static str, file: &Path) -> Result<(), QmpError> {
        let on = |name| json!({ "capability": name, "state": true });
        let capabilities = json!({ "capabilities": [on("events"), on("mapped-ram")] });
        self.execute("migrate-set-capabilities", capabilities)?;
        self.migrated = None;
        let uri = format!("file:{}", file.display());
        self.execute(command, json!({ "uri": uri }))?;
        let status = loop {
            match self.migrated.take() {
                Some(status) if ["completed", "failed"].contains(&status.as_str()) => break status,
                Some(_) | None => {
                    let said = self.next()?;
                    self.note(&said);
                }
            }
        };
        if status == "completed" {
            return Ok(());
        }
        let state = self.execute("query-migrate", json!({}))?;
        let why = state["error-desc"].as_str().unwrap_or("it failed").into();
        Err(QmpError::Refused { command, why })
    }

    fn execute(&mut self, command: &'static str, arguments: Value) -> Result<Value, QmpError> {
        let mut line = json!({ "execute": command, "arguments": arguments }).to_string();
        line.push('\n');
        self.stream.get_mut().write_all(line.as_bytes())?;
        loop {
            let mut said = self.next()?;
            if let Some(error) = said.get("error") {
                let why = error["desc"].as_str().unwrap_or("no reason given").into();
                return Err(QmpError::Refused { command, why });
            }
            if let Some(done) = said.get_mut("return") {
                return Ok(done.take());
            }
            self.note(&said);
        }
    }

    fn note(&mut self, said: &Value) {
        if said["event"] == "DEVICE_DELETED"
            && let Some(device) = said["data"]["device"].as_str()
        {
            self.deleted.push(device.to_owned());
        }
        if said["event"] == "MIGRATION"
            && let Some(status) = said["data"]["status"].as_str()
        {
            self.migrated = Some(status.to_owned());
        }
    }

    fn next(&mut self) -> Result<Value, QmpError> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        Ok(serde_json::from_str(&line)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    fn disk() -> Disk {
        Disk {
            name: "leg1".into(),
            socket: "/s/b.sock".into(),
            queues: 2,
            queue_size: 256,
            properties: vec!["packed=on".into()],
            connection: vec!["reconnect-ms=100".into()],
        }
    }

    /// A QEMU that answers with these lines, one a command, and returns what it was told.
    fn qemu(
        answers: &'static [&'static str],
    ) -> (tempfile::TempDir, std::thread::JoinHandle<Vec<Value>>) {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("q")).unwrap();
        let thread = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(b"{\"QMP\": {}}\n").unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
            let mut told = Vec::new();
            for answer in answers {
                told.push(serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap());
                stream.write_all(answer.as_bytes()).unwrap();
                stream.write_all(b"\n").unwrap();
            }
            told
        });
        (dir, thread)
    }

    #[test]
    fn a_disk_goes_and_comes_back() {
        let (dir, qemu) = qemu(&[
            "{\"return\": {}}",
            "{\"return\": {}}\n{\"event\": \"DEVICE_DELETED\", \"data\": {\"path\": \"/x\"}}\n{\"event\": \"DEVICE_DELETED\", \"data\": {\"device\": \"leg-leg1\"}}",
            "{\"return\": {}}",
            "{\"event\": \"RESUME\"}\n{\"return\": {}}",
            "{\"return\": {}}",
        ]);
        let mut qmp = Qmp::connect(&dir.path().join("q")).unwrap();
        qmp.unplug(&disk()).unwrap();
        qmp.plug(&disk()).unwrap();
        let told = qemu.join().unwrap();
        let commands: Vec<_> = told
            .iter()
            .map(|one| one["execute"].as_str().unwrap())
            .collect();
        let expected = [
            "qmp_capabilities",
            "device_del",
            "chardev-remove",
            "chardev-add",
            "device_add",
        ];
        assert_eq!(commands, expected);
        assert_eq!(told[3]["arguments"]["backend"]["data"]["reconnect-ms"], 100);
        assert_eq!(told[4]["arguments"]["packed"], true);
        assert_eq!(told[4]["arguments"]["num-queues"], 2);
    }

    #[test]
    fn a_machine_is_saved_when_qemu_says_so_and_a_failure_has_a_reason() {
        let (dir, thread) = qemu(&[
            "{\"return\": {}}",
            "{\"return\": {}}",
            "{\"return\": {}}",
            "{\"event\": \"MIGRATION\", \"data\": {\"status\": \"setup\"}}\n{\"return\": {}}\n{\"event\": \"MIGRATION\", \"data\": {\"status\": \"active\"}}\n{\"event\": \"MIGRATION\", \"data\": {\"status\": \"completed\"}}",
            "{\"return\": {}}",
            "{\"return\": {}}\n{\"event\": \"MIGRATION\", \"data\": {\"status\": \"failed\"}}",
            "{\"return\": {\"status\": \"failed\", \"error-desc\": \"no space\"}}",
        ]);
        let mut qmp = Qmp::connect(&dir.path().join("q")).unwrap();
        qmp.save(Path::new("/s/boot")).unwrap();
        let failed = qmp.load(Path::new("/s/boot")).unwrap_err().to_string();
        assert_eq!(failed, "QEMU refuses migrate-incoming: no space");
        let told = thread.join().unwrap();
        assert_eq!(told[3]["arguments"]["uri"], "file:/s/boot");
    }

    #[test]
    fn a_refusal_is_told_in_qemus_words() {
        let (dir, qemu) = qemu(&[
            "{\"return\": {}}",
            "{\"error\": {\"class\": \"GenericError\", \"desc\": \"no such device\"}}",
        ]);
        let mut qmp = Qmp::connect(&dir.path().join("q")).unwrap();
        let refused = qmp.unplug(&disk()).unwrap_err().to_string();
        assert_eq!(refused, "QEMU refuses device_del: no such device");
        qemu.join().unwrap();
    }
}
