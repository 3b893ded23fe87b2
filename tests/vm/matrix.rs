//! The main job on stock kernels: clean where the kernel is right, found where it is not, and inconclusive where nothing was tested.

use super::harness::{array, full, run};

/// What the main job writes.
const WRITES: u64 = 10_000;

#[test]
fn quick_raid1_is_clean_on_every_stock_kernel() {
    for kernel in ["pinned:6.1", "pinned:6.12", "pinned:7.3.4"] {
        run("raid1-quick", kernel, &[])
            .compared_all(2, 2000)
            .check_agrees();
    }
}

#[test]
fn raid1_is_clean_with_a_bitmap_on_three_legs() {
    run("raid1-three-legs", "pinned:6.12", &[]).compared_all(3, WRITES);
}

#[test]
fn raid1_is_clean_with_one_queue() {
    run("raid1-one-queue", "pinned:6.12", &[]).compared_all(2, WRITES);
}

#[test]
fn raid1_of_every_layout_is_clean_on_every_stock_kernel() {
    if !full() {
        return;
    }
    for kernel in ["pinned:6.1", "pinned:6.12", "pinned:7.3.4"] {
        for (scenario, legs) in [
            ("raid1", 2),
            ("raid1-bitmap", 2),
            ("raid1-three-legs", 3),
            ("raid1-one-queue", 2),
        ] {
            run(scenario, kernel, &[])
                .compared_all(legs, WRITES)
                .check_agrees();
        }
    }
}

#[test]
fn write_behind_is_clean_and_seen_on_6_12() {
    let ran = run("write-behind", "pinned:6.12", &[]);
    ran.compared_all(2, 400);
    assert!(ran.report()["coverage"]["writes_behind"].as_u64().unwrap() > 0);
    if full() {
        let ran = run("write-behind", "pinned:6.17.13", &[]);
        ran.compared_all(2, 400);
        assert!(ran.report()["coverage"]["writes_behind"].as_u64().unwrap() > 0);
    }
}

/// There the first leg alone decides whether a write is left behind, so the usual layout tests nothing.
#[test]
fn write_behind_of_the_second_leg_is_inconclusive_on_6_1() {
    run("write-behind", "pinned:6.1", &[])
        .ended_with(125)
        .because("no write-behind was seen");
}

#[test]
fn write_behind_of_the_first_leg_is_clean_and_seen_on_6_1() {
    let ran = run("write-behind-first", "pinned:6.1", &[]);
    ran.compared_all(2, 400);
    assert!(ran.report()["coverage"]["writes_behind"].as_u64().unwrap() > 0);
}

#[test]
fn lost_write_behind_data_is_found_on_6_16_3() {
    let ran = run(
        "write-behind",
        "pinned:6.16.3",
        &["--seed", "1", "--bisect"],
    );
    ran.ended_with(1).check_agrees();
    assert_eq!(ran.findings().len(), 1, "{}", ran.stdout);
    let finding = ran.finding("stamp", "absent", &["a", "b"]);
    assert_eq!(finding["confidence"], "proven");
    assert_eq!(finding["cause"], "kernel");
    assert_eq!(finding["writes"], 400);
    // All that was written, a place a write.
    let places = array(&finding);
    assert_eq!(
        places.iter().map(|(_, count)| count).sum::<u64>(),
        400 * 128
    );
    let detail = finding["detail"].as_str().unwrap();
    for words in ["both legs got a READ of these sectors", "absent", "#"] {
        assert!(detail.contains(words), "{words}: {detail}");
    }
    let headline = finding["headline"].as_str().unwrap();
    assert!(headline.contains("400 writes never reached"), "{headline}");
    let story = finding["story"].as_array().unwrap();
    assert!(
        story
            .iter()
            .any(|line| line["what"].as_str().unwrap().contains("READ")),
        "{story:#?}"
    );
}
