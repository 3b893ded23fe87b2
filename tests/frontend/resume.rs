//! `legwatch serve` is killed, and `legwatch serve --resume` goes on with its run, or says why it can't.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use crate::goes_on::check;
use crate::support::raw::Raw;
use legwatch::event::What;

const FEATURES: u64 = 1 << 32 | 1 << 28;

/// `legwatch serve`, killed when it is dropped.
struct Serve(Child);

impl Serve {
    fn start(args: &[&std::ffi::OsStr]) -> Serve {
        let child = Command::new(env!("CARGO_BIN_EXE_legwatch"))
            .arg("serve")
            .args(args)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Serve(child)
    }

    /// Waits until it says this; all that it said until then.
    fn says(&mut self, text: &str) -> String {
        let mut said = String::new();
        for line in BufReader::new(self.0.stderr.as_mut().unwrap()).lines() {
            said += &line.unwrap();
            said.push('\n');
            if said.contains(text) {
                return said;
            }
        }
        panic!("it did not say `{text}`: {said}");
    }

    /// Its exit code, and what it says to its end.
    fn end(mut self) -> (Option<i32>, String) {
        let mut said = String::new();
        std::io::Read::read_to_string(self.0.stderr.as_mut().unwrap(), &mut said).unwrap();
        (self.0.wait().unwrap().code(), said)
    }
}

impl Drop for Serve {
    fn drop(&mut self) {
        // SIGKILL; it may be gone already.
        let _gone = self.0.kill();
        self.0.wait().unwrap();
    }
}

#[test]
fn serve_goes_on_with_a_run_of_file_legs() {
    let dir = tempfile::tempdir().unwrap();
    let [image, sockets, out] = ["image", "s", "out"].map(|name| dir.path().join(name));
    File::create(&image).unwrap().set_len(8 << 20).unwrap();
    let leg = format!("a=file:{}", image.display());
    let first = ["--leg", &leg, "--sockets"].map(AsRef::as_ref);
    let rest = [sockets.as_os_str(), "--out".as_ref(), out.as_os_str()];
    let again = ["--resume".as_ref(), out.as_os_str()];
    let mut serve = Serve::start(&[&first[..], &rest[..]].concat());
    serve.says("Ctrl-C");
    let socket = sockets.join("a.sock");
    let mut raw = Raw::attach(&socket, 1, FEATURES);
    raw.start(0, 0);
    for place in 0..100u16 {
        raw.write(0, 0, u64::from(place), &[7; 512]);
        raw.kick(0);
        raw.await_used(0, place + 1, "a write");
    }
    let (code, said) = Serve::start(&again).end();
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("is in use"), "{said}");
    drop(serve);

    let mut serve = Serve::start(&again);
    serve.says("goes on, serving 1 legs");
    // It is connected to as soon as it listens.
    raw.again(&socket);
    raw.resume(0, 100);
    raw.write(0, 0, 100, &[8; 512]);
    raw.kick(0);
    raw.await_used(0, 101, "a write after the restart");
    let pid = rustix::process::Pid::from_child(&serve.0);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    serve.says("out");
    let code = serve.0.wait().unwrap().code();
    let report = std::fs::read_to_string(out.join("report.txt")).unwrap();
    assert!(report.contains("restarted 1 time"), "{report}");
    assert!(
        report.contains("restarted 1 time(s): what was in flight then is abandoned and came again; events missing: 0"),
        "{report}"
    );
    assert_eq!(check(&out), (code.unwrap(), report));
    let file = BufReader::new(File::open(out.join("journal")).unwrap());
    let writes = legwatch::journal::Reader::new(file)
        .unwrap()
        .map(Result::unwrap)
        .filter(|event| matches!(&event.what, What::Completed(done) if done.request.leg.0 == 0))
        .count();
    assert_eq!(writes, 101, "each write once, over the kill");
    assert!(!out.join("ahead").exists());

    let (code, said) = Serve::start(&again).end();
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("has ended in order"), "{said}");
}

#[test]
fn what_cannot_go_on_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let [image, rules, sockets] = ["image", "rules", "s"].map(|name| dir.path().join(name));
    File::create(&image).unwrap().set_len(8 << 20).unwrap();
    std::fs::write(
        &rules,
        "[[fault]]\nlegs = [\"a\"]\ndo = { fail = \"io-error\" }\n",
    )
    .unwrap();
    let file = format!("a=file:{}", image.display());
    let cases: [(&str, &[&str], &str); 3] = [
        ("mem", &["--leg", "a=mem:8M"], "it has memory legs"),
        (
            "rules",
            &["--leg", &file, "--faults", rules.to_str().unwrap()],
            "fault rules",
        ),
        (
            "none",
            &["--leg", &file, "--watch", "no-journal"],
            "keeps no journal",
        ),
    ];
    for (name, args, why) in cases {
        let out = dir.path().join(format!("out-{name}"));
        let mut all: Vec<&std::ffi::OsStr> = args.iter().map(AsRef::as_ref).collect();
        all.extend([
            "--sockets".as_ref(),
            sockets.as_os_str(),
            "--out".as_ref(),
            out.as_os_str(),
        ]);
        let mut serve = Serve::start(&all);
        serve.says("Ctrl-C");
        drop(serve);
        let (code, said) = Serve::start(&["--resume".as_ref(), out.as_os_str()]).end();
        assert_eq!(code, Some(2), "{name}: {said}");
        assert!(said.contains(why), "{name}: {said}");
        assert!(said.contains("legwatch check"), "{name}: {said}");
    }
    let (code, said) = Serve::start(&["--resume".as_ref(), dir.path().as_os_str()]).end();
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("witness.json"), "{said}");
}
