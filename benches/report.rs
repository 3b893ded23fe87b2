//! Reports of large runs, from their journals: time, size, memory. `cargo bench --bench report`; docs/report.md has the figures. `LEGWATCH` names another
//! legwatch than the one that is built.

#[path = "../tests/checker/history.rs"]
mod history;

use std::fs::File;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use history::{History, Load};
use legwatch::journal::Writer;
use legwatch::picture::Painter;
use legwatch::report::html;
use legwatch::report::text::{self, Style};

/// Writes go around in so many array sectors.
const AREA: u64 = 8000;

#[allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "it measures"
)]
fn main() {
    let dir = tempfile::tempdir().unwrap();
    println!("| run | journal | report.txt | report.html | its size | most memory |");
    println!("| --- | --- | --- | --- | --- | --- |");
    for (events, wrong) in [
        (100_000, 1),
        (100_000, 10_000),
        (1_000_000, 1),
        (4_000_000, 1),
    ] {
        let path = dir.path().join("journal");
        let (count, bytes) = journal(&path, events, wrong);
        let (text_s, _, _) = check(&path, "text");
        let (html_s, page, kib) = check(&path, "html");
        println!(
            "| {count} events, {wrong} writes lost | {} MB | {text_s:.1} s | {html_s:.1} s | {:.2} MB | {} MB |",
            bytes / 1_000_000,
            page as f64 / 1e6,
            kib / 1000
        );
    }
    many_findings();
}

/// A journal of about so many events, with so many writes that leg b never gets, spread over it.
fn journal(path: &Path, events: u64, wrong: u64) -> (u64, u64) {
    let mut history = History::with_bitmap(2, None);
    let mut writer = Writer::new(File::create(path).unwrap(), &history.header).unwrap();
    let (mut count, mut sequence) = (0, 0);
    // A write is eight events.
    let every = events / 8 / wrong;
    while count < events {
        sequence += 1;
        let load = Load::new(1, sequence, sequence * 8 % AREA, 8);
        if sequence % every == every / 2 {
            history.begin(&load);
            history.write(0, load.sector, &load.contents());
            history.end(&load);
        } else {
            history.honest(&load);
        }
        if sequence % 5000 == 0 {
            history.quiet();
        }
        count += append(&mut history, &mut writer);
    }
    history.superblocks(true);
    history.quiet();
    history.power_off();
    count += append(&mut history, &mut writer);
    writer.finish().unwrap();
    (count, std::fs::metadata(path).unwrap().len())
}

fn append(history: &mut History, writer: &mut Writer<File>) -> u64 {
    for event in &history.events {
        writer.append(event).unwrap();
    }
    let count = history.events.len() as u64;
    history.forget();
    count
}

/// `legwatch check`: seconds, bytes printed, most memory in KiB.
#[allow(
    clippy::disallowed_methods,
    clippy::zombie_processes,
    reason = "it measures; wait4 waits for the child"
)]
fn check(journal: &Path, format: &str) -> (f64, u64, u64) {
    let printed = journal.with_extension("out");
    let begun = Instant::now();
    let child = Command::new(
        std::env::var_os("LEGWATCH").unwrap_or_else(|| env!("CARGO_BIN_EXE_legwatch").into()),
    )
    .arg("check")
    .arg(journal)
    .args(["--format", format])
    .stdout(File::create(&printed).unwrap())
    .spawn()
    .unwrap();
    let mut status = 0;
    // SAFETY: a child of ours that nobody else waits for, and plain data that the call fills.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        let pid = libc::pid_t::try_from(child.id()).unwrap();
        assert_eq!(libc::wait4(pid, &mut status, 0, &mut usage), pid);
        usage
    };
    assert_eq!(libc::WEXITSTATUS(status), 1, "a lost write is found");
    let kib = u64::try_from(usage.ru_maxrss).unwrap();
    let bytes = std::fs::metadata(&printed).unwrap().len();
    (begun.elapsed().as_secs_f64(), bytes, kib)
}

/// Ten thousand findings of different causes, as no run has had them yet.
#[allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "it measures"
)]
fn many_findings() {
    let mut history = History::with_bitmap(2, None);
    let lost = Load::new(1, 1, 200, 8);
    history.begin(&lost);
    history.write(0, 200, &lost.contents());
    history.end(&lost);
    history.quiet();
    history.superblocks(true);
    history.power_off();
    let mut verdict = history.verdict();
    let one = verdict.findings[0].clone();
    verdict.findings = (0..10_000)
        .map(|at| {
            let mut finding = one.clone();
            finding.id = format!("{}-{at}", one.id);
            finding
        })
        .collect();
    let mut painter = Painter::new(&history.header, &verdict);
    history.events.iter().for_each(|event| painter.apply(event));
    let picture = painter.finish();
    let begun = Instant::now();
    let page = html::render(&history.header, &verdict, &picture);
    let html_s = begun.elapsed().as_secs_f64();
    let begun = Instant::now();
    let text = text::render(&history.header, &verdict, Style::Plain);
    println!(
        "| 10,000 findings | | {:.1} s, {} kB | {html_s:.1} s | {:.2} MB | |",
        begun.elapsed().as_secs_f64(),
        text.len() / 1000,
        page.len() as f64 / 1e6
    );
}
