//! What a run exercised, and where it comes from.

use std::fmt::Write as _;

use super::style::Style;
use super::{line, seconds};
use crate::header::RunHeader;
use crate::oracle::excuse::Excuse;
use crate::oracle::{Coverage, FaultCoverage, LegCoverage, SyncPass, Verdict};
use crate::report::facts;

/// Resyncs, recoveries and checks that are told one by one.
const PASSES_MAX: usize = 8;

/// What was exercised and compared.
pub(super) fn coverage(out: &mut String, coverage: &Coverage, style: Style) {
    line(out, &style.bold("exercised"));
    line(
        out,
        &format!(
            "  writes {} (failed {}), discards {}, flushes {}; {} events, {} {}",
            coverage.writes_acknowledged,
            coverage.writes_failed,
            coverage.discards_acknowledged,
            coverage.flushes_acknowledged,
            coverage.events,
            coverage.boots,
            if coverage.boots == 1 { "boot" } else { "boots" }
        ),
    );
    let percent = (coverage.sectors_compared * 100)
        .checked_div(coverage.sectors_intended)
        .map_or_else(String::new, |percent| format!(" ({percent} %)"));
    line(
        out,
        &format!(
            "  sectors intended {}, compared on all legs {}{percent}, open {}; twins compared {}",
            coverage.sectors_intended,
            coverage.sectors_compared,
            coverage.sectors_open,
            coverage.twins_compared
        ),
    );
    for (case, count) in &coverage.excused {
        line(
            out,
            &format!("  excused {count} by case {case}: {}", Excuse::why(*case)),
        );
        if let Some(first) = coverage.excused_first.get(case) {
            line(out, &format!("    first: {}", first.what));
        }
    }
    if coverage.excused.is_empty() {
        line(out, "  excused 0");
    }
    let behind = if coverage.writes_behind > 0 {
        format!(
            "seen: {} writes, the longest {:.3} s behind",
            coverage.writes_behind,
            seconds(coverage.behind_longest_us)
        )
    } else {
        "not seen".into()
    };
    line(out, &format!("  write-behind {behind}"));
    for pair in &coverage.lag {
        line(
            out,
            &format!(
                "  mirror lag {}: half of {} sectors within {:.3} ms, 99 % within {:.3} ms, the longest {:.3} ms",
                pair.legs.join("-"),
                pair.sectors,
                millis(pair.within_us(50)),
                millis(pair.within_us(99)),
                millis(pair.longest_us)
            ),
        );
    }
    for pass in passes(coverage) {
        line(out, &format!("  {pass}"));
    }
    line(
        out,
        &format!(
            "  quiet points reached {}, missed {}",
            coverage.quiet_reached,
            coverage.quiet_missed.len()
        ),
    );
    if coverage.read_back_good + coverage.read_back_bad > 0 {
        line(
            out,
            &format!(
                "  read back {} sectors right, {} wrong",
                coverage.read_back_good, coverage.read_back_bad
            ),
        );
    }
    for leg in &coverage.legs {
        line(out, &leg_line(leg));
    }
    for fault in &coverage.faults {
        line(out, &fault_line(fault));
    }
    let triggered: Vec<String> = coverage
        .triggered
        .iter()
        .map(|(check, count)| format!("{check} {count}"))
        .collect();
    if !triggered.is_empty() {
        line(out, &format!("  checks: {}", triggered.join(", ")));
    }
}

/// A line for each resync, recovery, check and repair, but not for too many.
pub(crate) fn passes(coverage: &Coverage) -> Vec<String> {
    let all = &coverage.sync_passes;
    let more = (all.len().saturating_sub(PASSES_MAX) as u64) + coverage.sync_passes_more;
    let mut out: Vec<String> = all.iter().take(PASSES_MAX).map(pass_line).collect();
    if more > 0 {
        out.push(format!("{more} more such passes"));
    }
    out
}

/// What sysfs said, and what the legs showed.
fn pass_line(pass: &SyncPass) -> String {
    let apart = if pass.apart > 0 {
        format!(
            "; {} sectors that it called done differed at that moment",
            pass.apart
        )
    } else {
        String::new()
    };
    // A check copies nothing, and a repair from the leg's own pages.
    let copies = matches!(pass.action.as_str(), "resync" | "recover");
    let copied = if copies {
        format!("; legs were sent {} sectors of copies", pass.copied)
    } else {
        String::new()
    };
    format!(
        "{} of {} in boot {}: sysfs told up to {} of {} sectors, in {} looks{copied}{apart}",
        pass.action,
        pass.legs.join(" "),
        pass.boot,
        pass.done,
        pass.all,
        pass.looks,
    )
}

fn fault_line(fault: &FaultCoverage) -> String {
    let mut text = format!("  injected `{}`: {} requests", fault.name, fault.fired);
    for (count, what) in [
        (fault.met, "reads met it later"),
        (
            fault.sectors_left,
            "sectors are still not what they should be",
        ),
        (fault.withheld, "withheld by the budget"),
    ] {
        if count > 0 {
            write!(text, "; {count} {what}").expect("a string takes everything");
        }
    }
    text
}

fn millis(us: u64) -> f64 {
    seconds(us) * 1000.0
}

fn leg_line(leg: &LegCoverage) -> String {
    let mut text = format!(
        "  leg {}{}: seen {} sectors; reads {}, writes {}, flushes {}, discards {}; {} in flight at most",
        leg.name,
        if leg.active { "" } else { " (not active)" },
        leg.sectors_seen,
        leg.reads,
        leg.writes,
        leg.flushes,
        leg.discards,
        leg.in_flight_max
    );
    if leg.overlaps > 0 {
        write!(text, "; {} writes over others in flight", leg.overlaps)
            .expect("a string takes everything");
    }
    if leg.errors + leg.abandoned > 0 {
        write!(text, "; {} errors, {} abandoned", leg.errors, leg.abandoned)
            .expect("a string takes everything");
    }
    if leg.pages_own + leg.pages_copied > 0 {
        write!(
            text,
            "; {} sectors from the writer's own pages, {} from copies",
            leg.pages_own, leg.pages_copied
        )
        .expect("a string takes everything");
    }
    text
}

/// Where it all comes from.
pub(super) fn provenance(out: &mut String, header: &RunHeader, verdict: &Verdict, style: Style) {
    out.push('\n');
    line(out, &style.bold("provenance"));
    for (name, value) in facts::provenance(header, &verdict.coverage) {
        line(out, &format!("  {name}: {value}"));
    }
    if !header.reproduce.is_empty() {
        line(out, &format!("  again: {}", header.reproduce));
    }
}
