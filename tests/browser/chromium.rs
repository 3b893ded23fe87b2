//! A chromium of our own, driven over its remote-debugging pipe (JSON, a NUL behind each message): no port, no network.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::{Value, json};

/// The browser with one page.
pub(crate) struct Chromium {
    process: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
    session: Option<String>,
    last: u64,
    errors: Vec<String>,
}

impl Chromium {
    /// Starts it; `None`: there is no chromium on this machine.
    pub(crate) fn start(folder: &Path) -> Option<Chromium> {
        let program = ["chromium", "chromium-browser", "google-chrome"]
            .into_iter()
            .find(|name| {
                Command::new(name)
                    .arg("--version")
                    .stdout(Stdio::null())
                    .stderr(Stdio::null())
                    .status()
                    .is_ok_and(|status| status.success())
            })?;
        // It reads descriptor 3 and writes descriptor 4.
        let mut process = Command::new("sh")
            .arg("-c")
            .arg(format!(
                "exec {program} --headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking \
                 --disable-component-update --disable-sync --hide-scrollbars --user-data-dir=\"$0\" --window-size=1280,1000 \
                 --remote-debugging-pipe about:blank 3<&0 4>&1 </dev/null >/dev/null 2>&1"
            ))
            .arg(folder.join("profile"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let to = process.stdin.take().unwrap();
        let from = BufReader::new(process.stdout.take().unwrap());
        Some(Chromium {
            process,
            to,
            from,
            session: None,
            last: 0,
            errors: Vec::new(),
        })
    }

    /// Opens a file and waits until its script has run.
    pub(crate) fn open(&mut self, path: &Path) {
        let target = self.call("Target.createTarget", json!({ "url": "about:blank" }));
        let attached = self.call(
            "Target.attachToTarget",
            json!({ "targetId": target["targetId"], "flatten": true }),
        );
        self.session = Some(attached["sessionId"].as_str().unwrap().to_owned());
        for domain in ["Runtime", "Log", "Page"] {
            self.call(&format!("{domain}.enable"), json!({}));
        }
        let url = format!("file://{}", path.display());
        self.call("Page.navigate", json!({ "url": url }));
        loop {
            let message = self.read();
            if message["method"] == "Page.loadEventFired" {
                return;
            }
        }
    }

    /// The value of an expression.
    pub(crate) fn ask(&mut self, expression: &str) -> Value {
        let answer = self.call(
            "Runtime.evaluate",
            json!({ "expression": expression, "returnByValue": true }),
        );
        assert!(
            answer.get("exceptionDetails").is_none(),
            "{expression}: {answer}"
        );
        answer["result"]["value"].clone()
    }

    /// Waits until an expression is true: an event that was sent has been dealt with.
    pub(crate) fn wait(&mut self, expression: &str) {
        let begun = legwatch::clock::now();
        while self.ask(expression) != true {
            assert!(begun.elapsed().as_secs() < 60, "waited for {expression}");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }

    /// Clicks with the mouse on a place that an expression gives: `[x, y]` in the window.
    pub(crate) fn click(&mut self, place: &str) {
        let place = self.ask(place);
        for kind in ["mousePressed", "mouseReleased"] {
            self.call(
                "Input.dispatchMouseEvent",
                json!({ "type": kind, "x": place[0], "y": place[1], "button": "left", "clickCount": 1 }),
            );
        }
    }

    /// Turns the mouse's wheel towards the user over such a place, with Ctrl held.
    pub(crate) fn ctrl_wheel(&mut self, place: &str) {
        let place = self.ask(place);
        self.call(
            "Input.dispatchMouseEvent",
            json!({ "type": "mouseWheel", "x": place[0], "y": place[1], "deltaX": 0, "deltaY": -120, "modifiers": 2 }),
        );
    }

    /// Presses a key whose text is this.
    pub(crate) fn key(&mut self, text: &str) {
        for kind in ["keyDown", "keyUp"] {
            self.call(
                "Input.dispatchKeyEvent",
                json!({ "type": kind, "key": text, "text": text }),
            );
        }
    }

    /// As a system that prefers dark pages shows it, or light ones.
    pub(crate) fn prefers(&mut self, scheme: &str) {
        self.call(
            "Emulation.setEmulatedMedia",
            json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] }),
        );
    }

    /// As narrow as a phone.
    pub(crate) fn phone(&mut self) {
        self.size(390, 844);
    }

    fn size(&mut self, width: u32, height: u32) {
        self.call(
            "Emulation.setDeviceMetricsOverride",
            json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600 }),
        );
        // The page draws anew a moment after its size has changed.
        self.call(
            "Runtime.evaluate",
            json!({ "expression": "new Promise((done) => setTimeout(done, 200))", "awaitPromise": true }),
        );
    }

    /// Pictures of the whole page.
    pub(crate) fn shots(&mut self, folder: &Path) {
        for (name, width, theme) in [
            ("light", 1280, "light"),
            ("dark", 1280, "dark"),
            ("phone", 390, "light"),
        ] {
            self.ask(&format!(
                "document.documentElement.dataset.theme = '{theme}'; document.getElementById('fit').click()"
            ));
            self.size(width, 2400);
            let shot = self.call(
                "Page.captureScreenshot",
                json!({ "format": "png", "captureBeyondViewport": true }),
            );
            let picture = base64(shot["data"].as_str().unwrap());
            std::fs::write(folder.join(format!("{name}.png")), picture).unwrap();
        }
    }

    /// What the page has logged as an error so far, exceptions included.
    pub(crate) fn errors(&mut self) -> Vec<String> {
        self.ask("0");
        std::mem::take(&mut self.errors)
    }

    fn call(&mut self, method: &str, params: Value) -> Value {
        self.last += 1;
        let mut message = json!({ "id": self.last, "method": method, "params": params });
        if let Some(session) = &self.session {
            message["sessionId"] = json!(session);
        }
        let mut bytes = message.to_string().into_bytes();
        bytes.push(0);
        self.to.write_all(&bytes).unwrap();
        self.to.flush().unwrap();
        loop {
            let answer = self.read();
            if answer["id"] == self.last {
                assert!(answer.get("error").is_none(), "{method}: {answer}");
                return answer["result"].clone();
            }
        }
    }

    fn read(&mut self) -> Value {
        let mut bytes = Vec::new();
        self.from.read_until(0, &mut bytes).unwrap();
        assert_eq!(bytes.pop(), Some(0), "chromium went away");
        let message: Value = serde_json::from_slice(&bytes).unwrap();
        let params = &message["params"];
        match message["method"].as_str() {
            Some("Runtime.exceptionThrown") => self.errors.push(params.to_string()),
            Some("Runtime.consoleAPICalled") if params["type"] == "error" => {
                self.errors.push(params.to_string());
            }
            Some("Log.entryAdded") if params["entry"]["level"] == "error" => {
                self.errors.push(params.to_string());
            }
            _ => {}
        }
        message
    }
}

impl Drop for Chromium {
    fn drop(&mut self) {
        let _gone = self.process.kill();
        let _reaped = self.process.wait();
    }
}

fn base64(text: &str) -> Vec<u8> {
    let value = |byte: u8| match byte {
        b'A'..=b'Z' => u32::from(byte - b'A'),
        b'a'..=b'z' => u32::from(byte - b'a') + 26,
        b'0'..=b'9' => u32::from(byte - b'0') + 52,
        b'+' => 62,
        _ => 63,
    };
    let mut out = Vec::new();
    let (mut bits, mut held) = (0u32, 0u32);
    for byte in text.bytes().filter(|byte| *byte != b'=') {
        held = held << 6 | value(byte);
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            out.push(u8::try_from(held >> bits & 0xff).unwrap());
        }
    }
    out
}
