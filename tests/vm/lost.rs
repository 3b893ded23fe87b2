//! Guests that are lost: each is inconclusive, and is called what it was.

use super::harness::{full, run, scenario};

const KERNEL: &str = "pinned:6.12";

#[test]
fn a_guest_that_panics_away_from_storage_is_lost() {
    let ran = run(scenario("panic"), KERNEL, &[]);
    ran.ended_with(125)
        .because("the guest's kernel failed away from storage: Kernel panic - not syncing: sysrq triggered crash")
        .check_agrees();
    let reasons = ran.reasons();
    assert!(
        reasons
            .iter()
            .any(|reason| reason.contains("in stage `crash the kernel`")),
        "{reasons:#?}"
    );
    // What was compared until then is told.
    assert_eq!(ran.report()["coverage"]["sectors_compared"], 800);
}

#[test]
fn findings_outrank_a_guest_that_is_lost_after_them() {
    let ran = run(scenario("panic-findings"), KERNEL, &["--bisect"]);
    ran.ended_with(1).check_agrees();
    ran.finding("stamp", "garbage", &["b"]);
    assert!(
        ran.reasons()
            .iter()
            .any(|reason| reason.contains("Kernel panic"))
    );
}

#[test]
fn a_kernel_without_an_init_never_boots() {
    let ran = run(
        "raid1-quick",
        KERNEL,
        &["--append", "rdinit=/nonexistent root=/dev/nothing"],
    );
    ran.ended_with(125).check_agrees();
    let reasons = ran.reasons();
    assert!(
        reasons[0].contains("while it booted: Kernel panic"),
        "{reasons:#?}"
    );
    assert!(
        reasons.iter().any(|reason| reason.contains("never booted")),
        "{reasons:#?}"
    );
}

#[test]
fn a_setup_that_fails_could_not_be_tested() {
    let ran = run(scenario("setup-fails"), KERNEL, &["--bisect"]);
    ran.ended_with(125)
        .because("could not be tested: set-up `create the array` failed: exit code 2; its last line: mdadm: cannot open /dev/legs/nobody")
        .check_agrees();
}

#[test]
fn a_guest_that_hangs_is_told_after_a_minute() {
    if !full() {
        return;
    }
    let ran = run(scenario("hang"), KERNEL, &[]);
    ran.ended_with(125)
        .because("the guest hung: ")
        .check_agrees();
    assert!(
        ran.reasons()[0].contains("in stage `writes that never end`"),
        "{:#?}",
        ran.reasons()
    );
}

#[test]
fn an_oops_away_from_storage_is_a_lost_guest_and_one_in_raid1_a_finding() {
    let ran = run(scenario("oops-elsewhere"), KERNEL, &[]);
    ran.ended_with(125)
        .because(
            "the guest's kernel failed away from storage: BUG: kernel NULL pointer dereference",
        )
        .check_agrees();
    let ran = run(scenario("oops-storage"), KERNEL, &[]);
    ran.ended_with(1).check_agrees();
    assert_eq!(ran.findings().len(), 1, "{}", ran.stdout);
    let finding = ran.finding("guest", "kernel", &[]);
    assert_eq!(finding["confidence"], "proven");
    assert!(
        finding["detail"]
            .as_str()
            .unwrap()
            .contains("raid1_end_write_request"),
        "{finding:#}"
    );
}
