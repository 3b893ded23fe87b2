//! Bad input: one clear sentence on standard error, the documented exit code, and nothing left running or half-written.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use tempfile::TempDir;

/// A folder to run in; what is in it afterwards is what was left.
struct Bench {
    dir: TempDir,
}

impl Bench {
    fn new() -> Bench {
        // Short, for sockets' paths have a limit.
        let dir = tempfile::Builder::new()
            .prefix("lw-")
            .tempdir_in("/tmp")
            .unwrap();
        for name in ["t", "w"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        Bench { dir }
    }

    /// A path in the folder, but not where a run works.
    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn file(&self, name: &str, text: impl AsRef<[u8]>) -> String {
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// A scenario of two legs, with these lines for the first, and `rest` at the end.
    fn scenario(&self, leg: &str, rest: &str) -> String {
        self.file(
            "x.toml",
            format!(
                "name = \"x\"\nabout = \"x\"\n[guest]\n{rest}\n[legs.a]\n{leg}\n[legs.b]\nsize = \"64M\"\n\
                 [[workload]]\nwrite = {{ device = \"/dev/md0\", writes = 1 }}\n"
            ),
        )
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_legwatch"));
        command
            .args(args)
            .env("TMPDIR", self.path("t"))
            .env("LEGWATCH_GUEST", env!("CARGO_BIN_EXE_legwatch-guest"))
            .current_dir(self.path("w"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Asserts that a command is refused with this code, and a sentence with these words, and leaves nothing.
    fn refused(&self, mut command: Command, code: i32, words: &[&str]) {
        let output = command.output().unwrap();
        refused(&output, code, words);
        for name in ["t", "w"] {
            let left: Vec<_> = fs::read_dir(self.path(name)).unwrap().flatten().collect();
            assert!(left.is_empty(), "left behind: {left:?}; {}", text(&output));
        }
    }

    /// As [`Bench::refused`], for these arguments: exit code 2.
    fn mistake(&self, args: &[&str], words: &[&str]) {
        self.refused(self.command(args), 2, words);
    }
}

fn text(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn refused(output: &Output, code: i32, words: &[&str]) {
    let said = text(output);
    assert_eq!(output.status.code(), Some(code), "{said}");
    assert!(output.stdout.is_empty(), "{output:?}");
    // What goes on before it is told a line each; the refusal is the last, and one line.
    let last = said.lines().last().unwrap_or_default();
    assert!(last.starts_with("legwatch: "), "{said}");
    assert!(said.lines().rev().skip(1).all(is_progress), "{said}");
    for word in words {
        assert!(last.contains(word), "`{word}` is not in: {said}");
    }
}

/// What is told before a refusal.
fn is_progress(line: &str) -> bool {
    [
        "legwatch: kernel ",
        "legwatch: initramfs",
        "legwatch: accelerator",
        "legwatch: KVM",
    ]
    .iter()
    .any(|begin| line.starts_with(begin))
        || line.contains(", seed ")
}

/// A kernel that needs no archive: nothing but its existence is looked at before what is tested here.
const NO_KERNEL: &str = "/nonexistent/bzImage";

#[test]
fn scenarios_that_make_no_sense_are_refused_with_their_place() {
    let bench = Bench::new();
    let good = "size = \"64M\"";
    for (leg, rest, words) in [
        (
            good,
            "colour = 3",
            &["x.toml: line 4, column 1: unknown field `colour`"][..],
        ),
        ("size = 64M", "", &["x.toml: line 6, column"][..]),
        ("size = \"\"", "", &["line 6", "`` is no size"][..]),
        ("size = \"0\"", "", &["leg a: size 0", "give it a size"][..]),
        (
            "size = \"1000\"",
            "",
            &["leg a: size 1000", "block size 512"][..],
        ),
        ("queues = 2", "", &["leg a", "size"][..]),
        (
            "size = \"1M\"\nqueues = 99",
            "",
            &["leg a: 99 queues; use 1 to 16"][..],
        ),
        (good, "smp = 0", &["smp", "use 1 to 16"][..]),
        (
            "size = \"1M\"\n[legs.a]\nsize = \"1M\"",
            "",
            &["line 7", "duplicate"][..],
        ),
    ] {
        let scenario = bench.scenario(leg, rest);
        bench.mistake(&["run", &scenario, "--kernel", NO_KERNEL], words);
    }
    let broken = bench.file("broken.toml", "name = \"x");
    bench.mistake(&["run", &broken], &["broken.toml: line 1, column"]);
    let binary = bench.file("binary.toml", [0xff, 0xfe, 0]);
    bench.mistake(&["run", &binary], &["binary.toml can't be read"]);
    let dir = bench.path("t");
    bench.mistake(&["run", dir.to_str().unwrap()], &["can't be read"]);
    bench.mistake(
        &["run", "no-such"],
        &["no scenario no-such", "raid1, ", "write-behind"],
    );
}

#[test]
fn kernels_that_are_not_there_are_named() {
    let bench = Bench::new();
    let text = bench.file("text", "no kernel");
    let empty = bench.path("empty");
    fs::create_dir(&empty).unwrap();
    let tree = empty.to_str().unwrap();
    let with_option = format!("{text},colour=red");
    let without_modules = format!("{text},modules=/nonexistent");
    for (kernel, words) in [
        (NO_KERNEL, &["there is nothing at /nonexistent/bzImage"][..]),
        ("", &["the kernel's name is empty", "debian:6.1"][..]),
        (
            "debian:potato",
            &["'potato' is no Debian kernel version", "give 6.1"][..],
        ),
        (
            "pinned:2.4",
            &["there is no pinned kernel '2.4'", "6.12"][..],
        ),
        (&text, &["is no x86-64 bzImage"][..]),
        (
            tree,
            &["is no built kernel tree", "make bzImage modules"][..],
        ),
        (&with_option, &["unknown option 'colour=red'"][..]),
        (&without_modules, &["modules"][..]),
    ] {
        bench.mistake(&["run", "raid1", "--kernel", kernel], words);
    }
    let bisect = bench.command(&["run", "raid1", "--bisect", "--kernel", NO_KERNEL]);
    bench.refused(bisect, 255, &["there is nothing at"]);
}

#[test]
fn modules_of_ones_own_that_are_none_or_are_given_twice_are_refused() {
    let bench = Bench::new();
    let scenario = bench.scenario("size = \"64M\"", "");
    let run = |modules: &[&str], words: &[&str]| {
        let mut args = vec!["run", &scenario, "--kernel", NO_KERNEL];
        for module in modules {
            args.extend(["--module", module]);
        }
        bench.mistake(&args, words);
    };
    let none = bench.path("none.ko");
    run(&[none.to_str().unwrap()], &["can't read", "none.ko"]);
    let text = bench.file("text.ko", "no module");
    run(&[&text], &["text.ko is no kernel module"]);
    let module = |name: &str| {
        bench.file(
            name,
            b"\x7fELF\x02\0\0name=raid1\0vermagic=6.12.1 SMP mod_unload \0",
        )
    };
    run(
        &[&module("one.ko"), &module("two.ko")],
        &["one.ko", "two.ko", "both the module raid1"],
    );
}

#[test]
fn legs_of_serve_that_make_no_sense_are_refused() {
    let bench = Bench::new();
    let odd = bench.file("odd.img", [0; 1000]);
    let none = bench.file("none.img", []);
    let image = bench.file("image", [0; 4096]);
    let dir = bench.dir.path().to_str().unwrap();
    let sockets = bench.path("w/s");
    let sockets = sockets.to_str().unwrap();
    for (legs, words) in [
        (
            &["a"][..],
            &["--leg a", "NAME=mem:SIZE or NAME=file:PATH"][..],
        ),
        (&["a=mem:0"], &["leg a: size 0", "mem:64M"]),
        (&["a=mem:700"], &["leg a: size 700", "block size 512"]),
        (&["a=mem:1M", "a=mem:1M"], &["two legs of the name a"]),
        (
            &["a=mem:1M,colour=red"],
            &["leg a: unknown key `colour`; there are block_size"],
        ),
        (&["a=mem:1M,queues=x"], &["leg a: queues = `x`"]),
        (&["control=mem:1M"], &["leg name `control`"]),
        (
            &["a=file:/nonexistent/x"],
            &["leg a", "/nonexistent/x", "No such file"],
        ),
        (
            &[&format!("a=file:{odd}")],
            &["leg a", "odd.img has 1000 bytes", "block size 512"],
        ),
        (
            &[&format!("a=file:{none}")],
            &["leg a", "none.img has 0 bytes"],
        ),
        (&[&format!("a=file:{dir}")], &["leg a", dir]),
        (
            &[&format!("a=file:{image}"), &format!("b=file:{image}")],
            &["legs a and b are the same file"],
        ),
        (
            &[&format!("a=file:{image}"), &format!("b=file:{dir}/./image")],
            &["legs a and b are the same file"],
        ),
    ] {
        let mut args = vec!["serve", "--sockets", sockets];
        for leg in legs {
            args.extend(["--leg", leg]);
        }
        bench.mistake(&args, words);
    }
    let watch = [
        "serve",
        "--sockets",
        sockets,
        "--leg",
        "a=mem:1M",
        "--watch",
    ];
    for (words, what) in [("crc,colour", "`colour`"), ("no-x", "`no-x`")] {
        let args = [&watch[..], &[words]].concat();
        bench.mistake(&args, &["--watch", what, "buf-stable"]);
    }
}

/// `legwatch serve` that runs until it is dropped.
struct Serving(Child);

impl Serving {
    fn start(bench: &Bench, args: &[&str]) -> Serving {
        let mut all = vec!["serve"];
        all.extend(args);
        let mut child = bench.command(&all).stdout(Stdio::null()).spawn().unwrap();
        let mut said = String::new();
        let err = child.stderr.as_mut().unwrap();
        while !said.contains("gives the verdict") {
            let mut byte = [0];
            let count = std::io::Read::read(err, &mut byte).unwrap();
            assert_eq!(count, 1, "serve ended: {said}");
            said.push(char::from(byte[0]));
        }
        Serving(child)
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}

#[test]
fn a_leg_or_socket_that_somebody_has_is_refused() {
    let bench = Bench::new();
    let image = bench.file("image", vec![0; 1 << 20]);
    let leg = format!("a=file:{image}");
    let (own, other) = (bench.path("s"), bench.path("w/o"));
    let out = bench.path("out");
    let _serving = Serving::start(
        &bench,
        &[
            "--leg",
            &leg,
            "--sockets",
            own.to_str().unwrap(),
            "--out",
            out.to_str().unwrap(),
        ],
    );
    let other = other.to_str().unwrap();
    bench.mistake(
        &["serve", "--leg", &leg, "--sockets", other],
        &["leg a", "image is in use by another program or leg"],
    );
    bench.mistake(
        &[
            "serve",
            "--leg",
            "a=mem:1M",
            "--sockets",
            own.to_str().unwrap(),
        ],
        &["a.sock is taken: another program listens on it"],
    );
    let listener = UnixListener::bind(bench.path("control.sock")).unwrap();
    bench.mistake(
        &[
            "serve",
            "--leg",
            "b=mem:1M",
            "--sockets",
            bench.dir.path().to_str().unwrap(),
        ],
        &["control.sock is taken"],
    );
    drop(listener);
    assert!(
        !bench.path("b.sock").exists(),
        "half of the sockets are left"
    );
}

#[test]
fn sockets_that_can_not_be_made_are_refused() {
    let bench = Bench::new();
    let serve = |sockets: &str, words: &[&str]| {
        bench.mistake(&["serve", "--leg", "a=mem:1M", "--sockets", sockets], words);
    };
    let long = bench.path("w").join("x".repeat(100));
    serve(long.to_str().unwrap(), &["107", "use a shorter folder"]);
    let file = bench.file("file", "");
    serve(&file, &["the sockets' folder", "file", "--sockets"]);
    serve(
        "/proc/nonexistent/s",
        &["the sockets' folder /proc/nonexistent/s can't be made"],
    );
    // A plain file where a socket should be is somebody's.
    bench.file("a.sock", "mine");
    serve(
        bench.dir.path().to_str().unwrap(),
        &["a.sock exists and is no socket"],
    );
    assert_eq!(fs::read_to_string(bench.path("a.sock")).unwrap(), "mine");
    // A control socket that can't be had: the legs' sockets, and the folder that was made for them, go again.
    let sockets = bench.path("w/s");
    let sockets = sockets.to_str().unwrap();
    bench.mistake(
        &[
            "serve",
            "--leg",
            "a=mem:1M",
            "--sockets",
            sockets,
            "--control",
            "/proc/nonexistent/c",
        ],
        &["making the socket /proc/nonexistent/c"],
    );
    assert!(!bench.path("w/s").exists(), "sockets are left");
    let empty = bench.file("rules.toml", "# none\n");
    bench.mistake(
        &[
            "serve",
            "--leg",
            "a=mem:1M",
            "--sockets",
            sockets,
            "--faults",
            &empty,
        ],
        &["rules.toml", "no [[fault]]", "leave --faults out"],
    );
    // A folder that nobody may write to; to root everything is writable.
    let closed = bench.path("closed");
    fs::create_dir(&closed).unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o500)).unwrap();
    if fs::write(closed.join("try"), "").is_err() {
        serve(closed.to_str().unwrap(), &["closed", "Permission denied"]);
    }
}

#[test]
fn an_output_folder_with_something_in_it_is_left_alone() {
    let bench = Bench::new();
    let out = bench.path("out");
    fs::create_dir(&out).unwrap();
    fs::write(out.join("mine"), "x").unwrap();
    let out = out.to_str().unwrap();
    let sockets = bench.path("w/s");
    for args in [
        &["run", "raid1", "--kernel", NO_KERNEL, "--out", out][..],
        &[
            "serve",
            "--leg",
            "a=mem:1M",
            "--sockets",
            sockets.to_str().unwrap(),
            "--out",
            out,
        ],
    ] {
        bench.mistake(args, &["output folder", "out is not empty; name a new one"]);
    }
    assert_eq!(fs::read_dir(out).unwrap().count(), 1);
    let file = bench.file("file", "");
    bench.mistake(
        &["run", "raid1", "--kernel", NO_KERNEL, "--out", &file],
        &["is not a folder"],
    );
}

#[test]
fn what_this_machine_lacks_is_named() {
    let bench = Bench::new();
    let run = || bench.command(&["run", "raid1", "--kernel", NO_KERNEL]);
    let mut command = run();
    command.env("LEGWATCH_QEMU", "/nonexistent/qemu");
    bench.refused(command, 2, &["/nonexistent/qemu can't be started"]);
    let mut command = run();
    command.env("LEGWATCH_QEMU", "/bin/true");
    bench.refused(command, 2, &["/bin/true does not say which version it is"]);
    let mut command = run();
    command.env("LEGWATCH_GUEST", "/nonexistent/agent");
    bench.refused(
        command,
        2,
        &["LEGWATCH_GUEST names /nonexistent/agent", "ci/build"],
    );
    // A copy of the program that has no agent near; made by another process, for a child of another test may hold what this one has open for writing.
    let lonely = bench.path("lonely");
    let mut copy = Command::new("cp");
    copy.args([env!("CARGO_BIN_EXE_legwatch").as_ref(), lonely.as_os_str()]);
    assert!(copy.status().unwrap().success());
    let mut command = Command::new(&lonely);
    command
        .args(["run", "raid1", "--kernel", NO_KERNEL])
        .env_remove("LEGWATCH_GUEST")
        .env("TMPDIR", bench.path("t"))
        .current_dir(bench.path("w"));
    bench.refused(command, 2, &["legwatch-guest is not beside", "ci/build"]);
    bench.refused(
        {
            let mut command = run();
            command
                .env_remove("HOME")
                .env_remove("XDG_CACHE_HOME")
                .env_remove("LEGWATCH_CACHE");
            command
        },
        2,
        &["there is no place for the cache", "LEGWATCH_CACHE"],
    );
}

#[test]
fn what_is_no_recorded_run_is_refused() {
    let bench = Bench::new();
    let dir = bench.dir.path().to_str().unwrap().to_owned();
    let empty = bench.file("empty", "");
    let foreign = bench.file(
        "foreign",
        "just a text, and long enough to be taken for something",
    );
    for command in ["check", "report"] {
        bench.mistake(
            &[command, "/nonexistent"],
            &["/nonexistent is no run of legwatch", "name the folder"],
        );
        bench.mistake(&[command, &dir], &["is no run of legwatch: it has no"]);
    }
    for file in [&empty, &foreign] {
        bench.mistake(&["check", file], &["this is no journal of legwatch"]);
    }
    fs::create_dir(bench.path("run")).unwrap();
    let run = bench.path("run");
    let run = run.to_str().unwrap();
    bench.file("run/report.json", "{}");
    bench.file("run/report.txt", "");
    bench.mistake(&["report", run], &["report.json: no report of legwatch"]);
    fs::remove_file(bench.path("run/report.json")).unwrap();
    bench.file("run/journal", "x");
    bench.mistake(
        &["report", run],
        &["has a journal and no report", "legwatch check"],
    );
}

/// A journal of a run on which nobody came, and what is left of it after a kill.
#[test]
fn a_torn_journal_is_checked_to_its_tear() {
    let bench = Bench::new();
    let (sockets, out) = (bench.path("s"), bench.path("out"));
    let serving = Serving::start(
        &bench,
        &[
            "--leg",
            "a=mem:1M",
            "--sockets",
            sockets.to_str().unwrap(),
            "--out",
            out.to_str().unwrap(),
        ],
    );
    let pid = rustix::process::Pid::from_child(&serving.0);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let mut serving = serving;
    assert_eq!(serving.0.wait().unwrap().code(), Some(125));
    assert!(!sockets.exists(), "the sockets' folder was made for them");
    let journal = out.join("journal");
    fs::File::options()
        .append(true)
        .open(&journal)
        .unwrap()
        .write_all(&[7; 11])
        .unwrap();
    let check = |path: &Path| {
        let path = path.to_str().unwrap();
        bench.command(&["check", path]).output().unwrap()
    };
    for path in [&out, &journal] {
        let output = check(path);
        assert_eq!(output.status.code(), Some(125), "{output:?}");
        let said = text(&output);
        assert!(said.contains("the journal is torn at byte"), "{said}");
        assert!(said.contains("11 bytes dropped"), "{said}");
        assert!(String::from_utf8_lossy(&output.stdout).contains("inconclusive"));
    }
    let header = fs::read(&journal).unwrap();
    fs::write(&journal, &header[..20]).unwrap();
    bench.mistake(
        &["check", journal.to_str().unwrap()],
        &["the journal's header is damaged"],
    );
}

/// A live backend, asked and told by hand.
#[test]
fn ctl_tells_changes_and_refuses() {
    let bench = Bench::new();
    let (sockets, out, ctl) = (bench.path("s"), bench.path("out"), bench.path("ctl.sock"));
    let rules = bench.file(
        "rules",
        "[[fault]]\nname = \"slow\"\nlegs = [\"b\"]\ndo = { delay = { ms = 1 } }\n",
    );
    let word = |path: &Path| path.to_str().unwrap().to_owned();
    let (sockets, out, ctl) = (word(&sockets), word(&out), word(&ctl));
    let nobody = ["ctl", &ctl, "status"];
    bench.mistake(&nobody, &["no backend listens at", &ctl, "serve --control"]);
    let serving = Serving::start(
        &bench,
        &[
            "--leg",
            "a=mem:1M",
            "--leg",
            "b=mem:1M",
            "--sockets",
            &sockets,
            "--out",
            &out,
            "--control",
            &ctl,
            "--faults",
            &rules,
        ],
    );
    let mode = fs::metadata(&ctl).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "the owner's only");
    let command = |args: &[&str]| {
        let mut all = vec!["ctl", &ctl];
        all.extend(args);
        bench.command(&all)
    };
    let told = |args: &[&str]| {
        let output = command(args).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", text(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    let refused = |args: &[&str], words: &[&str]| bench.refused(command(args), 2, words);
    let status = told(&["status"]);
    assert!(
        status.contains("power on, 1 rules") && status.contains("leg b: 0 reads"),
        "{status}"
    );
    let status: serde_json::Value = serde_json::from_str(&told(&["--json", "status"])).unwrap();
    assert_eq!(status["status"]["legs"][1]["name"], "b");
    assert!(told(&["rules", "list"]).contains("slow"));
    let more = "[[fault]]\nname = \"more\"\ndo = \"dead\"\n";
    assert_eq!(told(&["rules", "add", more]), "added more\n");
    refused(
        &["rules", "add", more],
        &["line 1: fault `more`: two rules have this name"],
    );
    refused(
        &["rules", "add", "[[fault]]\ndo = \"explode\"\n"],
        &["line 2", "explode"],
    );
    refused(&["rules", "add", "@/none"], &["/none", "No such file"]);
    refused(
        &["rules", "remove", "moer"],
        &["there is no rule `moer`", "rules list"],
    );
    let listed: serde_json::Value =
        serde_json::from_str(&told(&["rules", "list", "--json"])).unwrap();
    assert_eq!(listed["rules"][1]["rule"]["name"], "more");
    assert_eq!(listed["rules"][1]["fired"], 0);
    told(&["rules", "remove", "more"]);
    told(&["hold", "a"]);
    refused(&["hold", "a"], &["leg a is held already", "release"]);
    refused(&["hold", "z"], &["unknown leg `z`; the legs are a, b"]);
    told(&["release"]);
    told(&["hold", "a"]);
    refused(&["release", "nobody"], &["there is no rule `nobody`"]);
    assert_eq!(told(&["heal", "--leg", "a"]), "0 sectors healed\n");
    refused(&["heal", "--leg", "z"], &["unknown leg `z`"]);
    assert_eq!(told(&["mark", "now"]), "mark now\n");
    told(&["cut"]);
    assert!(told(&["status"]).starts_with("power off"));
    told(&["power-on"]);
    refused(&["power-on"], &["the power is on"]);
    drop(serving);
}

/// `legwatch … | head` is no fault.
#[test]
fn the_command_line_itself_is_explained() {
    let bench = Bench::new();
    for args in [
        &["--help"][..],
        &["run", "--help"],
        &["serve", "--help"],
        &["--version"],
    ] {
        let output = bench.command(args).output().unwrap();
        assert_eq!(output.status.code(), Some(0));
        assert!(!output.stdout.is_empty());
    }
    for args in [
        &["frobnicate"][..],
        &["run"],
        &["run", "raid1", "--smp", "x"],
        &[],
    ] {
        let output = bench.command(args).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}");
    }
    let output = bench
        .command(&["run", "raid1", "--smp", "x", "--bisect"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(255), "{}", text(&output));
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    for arguments in [
        &["kernel", "config"][..],
        &["test", "--list"],
        &["explain", "stamp"],
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = Command::new(env!("CARGO_BIN_EXE_legwatch"))
            .args(arguments)
            .stdout(writer)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {output:?}");
        assert!(output.stderr.is_empty(), "{arguments:?}: {output:?}");
    }
}
