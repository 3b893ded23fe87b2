//! The witness as a process of its own, and what it says, as a stream of happenings.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::Sender;

use crate::run::happening::Happening;
use crate::witness::wire;

/// The witness's process. Dropping it kills it.
#[derive(Debug)]
pub(super) struct WitnessChild {
    child: Child,
    stdin: Option<ChildStdin>,
}

impl WitnessChild {
    /// Starts this very program as witness, or as one that goes on; its notices come as happenings, its end as [`Happening::WitnessGone`].
    ///
    /// # Errors
    /// If the program can't be started.
    pub(super) fn start(
        config: &Path,
        go_on: Option<&wire::GoOn>,
        happenings: Sender<Happening>,
    ) -> std::io::Result<WitnessChild> {
        let mut command = Command::new(std::env::current_exe()?);
        // A group of its own: Ctrl-C is the supervisor's to handle. If the supervisor is killed, standard input ends, and so does the witness.
        command
            .arg("witness")
            .arg(config)
            .args(go_on.map(|_| "--go-on"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0);
        let mut child = command.spawn()?;
        let stdout = child.stdout.take().expect("piped");
        std::thread::Builder::new()
            .name("notices".into())
            .spawn(move || {
                for line in BufReader::new(stdout).lines() {
                    let Ok(line) = line else { break };
                    let happening = match serde_json::from_str(&line) {
                        Ok(notice) => Happening::Notice(notice),
                        Err(error) => Happening::Nonsense(format!("{error}: {line}")),
                    };
                    if happenings.send(happening).is_err() {
                        return;
                    }
                }
                let _nobody_listens = happenings.send(Happening::WitnessGone);
            })?;
        let stdin = child.stdin.take();
        let mut witness = WitnessChild { child, stdin };
        if let Some(go_on) = go_on {
            witness.say(go_on);
        }
        Ok(witness)
    }

    /// Tells the witness something. A witness that is gone is noticed by [`Happening::WitnessGone`], not here.
    pub(super) fn tell(&mut self, command: &wire::Command) {
        self.say(command);
    }

    fn say(&mut self, words: &impl serde::Serialize) {
        let Some(stdin) = &mut self.stdin else { return };
        let mut line = serde_json::to_string(words).expect("plain data");
        line.push('\n');
        if stdin.write_all(line.as_bytes()).is_err() {
            self.stdin = None;
        }
    }

    /// Waits for the witness's end; tells how it ended, and whether somebody else wanted it (SIGKILL, as the kernel does without memory, or SIGTERM)
    /// and not a fault of its own.
    pub(super) fn wait(&mut self) -> (String, bool) {
        self.stdin = None;
        match self.child.wait() {
            Ok(status) => {
                let by_others = [libc::SIGKILL, libc::SIGTERM].map(Some);
                (status.to_string(), by_others.contains(&status.signal()))
            }
            Err(error) => (error.to_string(), false),
        }
    }
}

impl Drop for WitnessChild {
    fn drop(&mut self) {
        let _already_gone = self.child.kill();
        let _already_reaped = self.child.wait();
    }
}
