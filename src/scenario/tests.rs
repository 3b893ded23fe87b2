use std::path::Path;

use super::*;
use crate::mark::AdminAction;

fn parse(text: &str) -> Result<Scenario, String> {
    Scenario::parse(text, Path::new("x.toml")).map_err(|error| error.to_string())
}

const SMALL: &str = r#"
name = "small"
about = "the least that makes sense"
[legs.a]
size = "1M"
[[workload]]
write = { device = "/dev/md0", writes = 1 }
"#;

#[test]
fn every_built_in_scenario_makes_sense() {
    for (name, text) in EMBEDDED {
        let scenario = parse(text).unwrap();
        scenario.check_alone(Path::new(name)).unwrap();
        assert_eq!(&scenario.name, name);
        assert!(!scenario.about.is_empty(), "{name}");
    }
}

#[test]
fn a_last_quiet_point_is_added() {
    let scenario = parse(SMALL).unwrap();
    let plan = scenario.plan(1, 7, 9);
    assert_eq!((plan.run, plan.seed, plan.boot), (7, 9, 1));
    assert!(matches!(
        plan.steps.last().unwrap().action,
        StepAction::Quiet { .. }
    ));
}

#[test]
fn steps_that_write_to_one_device_have_one_target_and_writers_of_their_own() {
    let text = format!(
        "{SMALL}[[workload]]\nwrite = {{ device = \"/dev/md0\", writes = 1, writers = 3 }}\n\
         [[workload]]\nwrite = {{ device = \"/dev/md1\", writes = 1 }}\n"
    );
    let scenario = parse(&text).unwrap();
    let loads: Vec<_> = scenario.boots[0]
        .steps
        .iter()
        .filter_map(|step| match &step.action {
            StepAction::Write(load) => Some((load.target, load.first_writer, load.writers)),
            StepAction::Shell { .. }
            | StepAction::ReadBack { .. }
            | StepAction::Survey { .. }
            | StepAction::Quiet { .. }
            | StepAction::Join
            | StepAction::Md { .. }
            | StepAction::Fact { .. } => None,
        })
        .collect();
    assert_eq!(loads, [(0, 0, 1), (0, 1, 3), (1, 4, 1)]);
}

#[test]
fn what_makes_no_sense_is_refused_in_words() {
    let cases = [
        (
            "[legs.a]\nsize = \"1M\"",
            "[legs.a]\nsize = \"0\"",
            "leg a: size 0",
        ),
        (
            "[legs.a]\nsize = \"1M\"",
            "[legs.a]",
            "leg a: give it a size",
        ),
        (
            "size = \"1M\"",
            "size = \"1M\"\nsise = 3",
            "unknown field `sise`",
        ),
        (
            "size = \"1M\"",
            "size = \"1M\"\nblock_size = 1024",
            "block size 1024",
        ),
        ("[legs.a]", "[legs.\"a/b\"]", "leg name `a/b`"),
        ("[legs.a]", "[legs.control]", "control leg"),
        ("size = \"1M\"", "size = \"one\"", "`one` is no size"),
        (
            "writes = 1",
            "writes = 0",
            "boot 1, workload step 1: writes = 0",
        ),
        ("writes = 1", "writes = 1, sizes = [700]", "size 700"),
        ("writes = 1", "writes = 1, depth = 65", "depth = 65"),
        (
            "[[workload]]\n",
            "[[workload]]\nquiet = true\n",
            "2 actions",
        ),
        ("[[workload]]", "[[setup]]", "no [[workload]]"),
        (
            "[[workload]]\n",
            "[[workload]]\nread_back = \"/dev/md0\"\n\n[[workload]]\n",
            "boot 1, step `",
        ),
        ("name = \"small\"", "name = ", "line 2, column 8"),
    ];
    for (from, to, expected) in cases {
        let text = SMALL.replace(from, to);
        assert_ne!(text, SMALL, "{from}");
        let message = parse(&text).unwrap_err();
        assert!(
            message.contains(expected),
            "{expected:?} is not in {message:?}"
        );
        assert!(message.starts_with("scenario x.toml"), "{message}");
    }
}

#[test]
fn a_missing_file_names_the_built_in_scenarios() {
    let message = Scenario::load(Path::new("no-such"))
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("raid1") && message.contains("write-behind"),
        "{message}"
    );
    assert_eq!(Scenario::load(Path::new("raid1")).unwrap().name, "raid1");
}

#[test]
fn sizes_are_read_and_printed() {
    for (text, bytes, printed) in [
        ("512", 512, "512"),
        ("64K", 65536, "64K"),
        ("1m", 1 << 20, "1M"),
        ("3GiB", 3 << 30, "3G"),
    ] {
        let size: Size = text.parse().unwrap();
        assert_eq!((size.bytes(), size.to_string().as_str()), (bytes, printed));
    }
    for text in ["", "K", "-1", "1X", "99999999999T", "1.5G"] {
        text.parse::<Size>().unwrap_err();
    }
}

#[test]
fn what_is_done_to_an_array_is_checked_word_by_word() {
    let step = |md: &str| parse(&format!("{SMALL}[[workload]]\nmd = \"{md}\"\n"));
    let scenario = step("re-add b").unwrap();
    // The last step is the quiet point that every plan gets.
    let last = &scenario.boots[0].steps.iter().rev().nth(1).unwrap().action;
    assert!(
        matches!(last, StepAction::Md { action: AdminAction::ReAdd, device, leg: Some(leg), .. } if device == "/dev/md0" && leg == "b"),
        "{last:?}"
    );
    step("check").unwrap();
    for (wrong, said) in [
        (
            "break b",
            "use one of fail, remove, add, re-add, check, repair",
        ),
        ("fail", "write it as \"fail LEG\""),
        ("check b", "write it as \"check\""),
        ("fail b c", "write it as \"fail LEG\""),
    ] {
        let error = step(wrong).unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
    }
    let error = parse(&format!(
        "{SMALL}[[workload]]\nrun = \"true\"\narray = \"/dev/md1\"\n"
    ));
    assert!(error.unwrap_err().to_string().contains("array without md"));
}

#[test]
fn a_rule_for_a_boot_or_a_step_that_is_not_there_is_refused_with_its_line() {
    let refused = |rule: &str, expected: &str| {
        let text =
            format!("{SMALL}[[boot]]\nworkload = [{{ name = \"more\", run = \"true\" }}]\n{rule}");
        let line = text.lines().position(|line| line == "[[fault]]").unwrap() + 1;
        let why = parse(&text).unwrap_err();
        let expected = format!("line {line}: fault `dead`: {expected}");
        assert!(why.contains(&expected), "{expected} is not in {why}");
    };
    refused(
        "[[fault]]\nboots = [2, 3]\ndo = \"dead\"\n",
        "boot 3; there are 2",
    );
    refused(
        "[[fault]]\nduring = \"moer\"\ndo = \"dead\"\n",
        "during: no step is called `moer`",
    );
    refused(
        "[[fault]]\nduring = \"more\"\nboots = [1]\ndo = \"dead\"\n",
        "during: no step is called `more` in its boots",
    );
    parse(&format!(
        "{SMALL}[[boot]]\nworkload = [{{ name = \"more\", run = \"true\" }}]\n\
         [[fault]]\nduring = \"more\"\nboots = [2]\ndo = \"dead\"\n"
    ))
    .unwrap();
}

#[test]
fn what_a_budget_or_an_expectation_gets_wrong_is_refused_with_its_line() {
    for (more, line, expected) in [
        (
            "[budget]\n# none\ngood_legs = 1\n",
            3,
            "good_legs = 1 of 1 legs",
        ),
        (
            "[expect]\nresync = true\nlegs = { z = \"active\" }\n",
            3,
            "[expect] legs: unknown leg `z`; the legs are a",
        ),
        ("[expect.legs]\nz = \"active\"\n", 2, "unknown leg `z`"),
        ("[expect]\nnoticed = [\"x\"]\n", 2, "there is no fault `x`"),
        (
            "[expect]\nmin_refused = 1\n",
            2,
            "min_refused: no write step has engine = \"io-uring-nowait\"",
        ),
        (
            "[expect]\nfacts = { x = \"0\" }\n",
            2,
            "no step tells the fact `x`",
        ),
    ] {
        let line = SMALL.lines().count() + line;
        let why = parse(&format!("{SMALL}{more}")).unwrap_err();
        let at = format!("line {line}: ");
        assert!(
            why.contains(&at) && why.contains(expected),
            "{at}{expected} is not in {why}"
        );
    }
}

#[test]
fn discards_are_demanded_only_where_a_leg_takes_them() {
    let with = |discard: bool| {
        let text = SMALL.replace("\"1M\"\n", &format!("\"1M\"\ndiscard = {discard}\n"));
        parse(&format!("{text}[expect]\nmin_discards = 1\n"))
    };
    with(true).unwrap();
    let why = with(false).unwrap_err();
    assert!(
        why.contains("line 10: [expect] min_discards: no leg takes discards"),
        "{why}"
    );
}

#[test]
fn what_only_a_hand_could_bring_about_is_refused_without_one() {
    let step = "[[workload]]\nname = \"some\"\nrun = \"true\"\n[[workload]]\nname = \"more\"\nrun = \"true\"\n";
    let line = format!("{SMALL}{step}").lines().count() + 1;
    let with = |rules: &str| {
        let scenario = parse(&format!("{SMALL}{step}{rules}")).unwrap();
        scenario
            .check_alone(Path::new("x.toml"))
            .map_err(|error| error.to_string())
    };
    for (rule, expected) in [
        (
            "from_mark = \"moer\"\ndo = \"dead\"\n",
            "fault `dead`: from_mark: no step is called `moer`",
        ),
        (
            "to_mark = \"moer\"\ndo = \"lose\"\n",
            "fault `lose`: to_mark: no step is called `moer`",
        ),
        ("do = \"flush-lie\"\n", "no rule cuts the power"),
        ("do = { hold = {} }\n", "nothing releases what it holds"),
        (
            "do = { hold = { until_mark = \"moer\" } }\n",
            "nothing releases what it holds",
        ),
        (
            "from_mark = \"more\"\nto_mark = \"some\"\ndo = \"dead\"\n",
            "to_mark: step `some` begins no later than `more` (from_mark)",
        ),
        (
            "during = \"more\"\nto_mark = \"more\"\ndo = \"dead\"\n",
            "to_mark: step `more` begins no later than `more` (during)",
        ),
    ] {
        let why = with(&format!("[[fault]]\n{rule}")).unwrap_err();
        let at = format!("scenario x.toml: line {line}: ");
        assert!(
            why.starts_with(&at) && why.contains(expected),
            "{at}{expected} is not in {why}"
        );
        assert!(why.contains("--control"), "{why}");
    }
    for rules in [
        "[[fault]]\nfrom_mark = \"more\"\ndo = \"dead\"\n",
        "[[fault]]\nfrom_mark = \"some\"\nto_mark = \"more\"\ndo = \"dead\"\n",
        "[[fault]]\ndo = \"flush-lie\"\n[[fault]]\nnth = 5\ndo = \"power-cut\"\n",
        "[[fault]]\ndo = { hold = { until_mark = \"more\" } }\n",
        "[[fault]]\ndo = { hold = { until_mark = \"moer\", at_most_ms = 5 } }\n",
        "[[fault]]\nname = \"x\"\ndo = \"lose\"\n[[fault]]\ndo = { hold = { until_rule = \"x\" } }\n",
    ] {
        with(rules).unwrap();
    }
    let later = "[[boot]]\nworkload = [{ name = \"later\", run = \"true\" }]\n";
    let rule = |boot: u32| {
        format!("{later}[[fault]]\nboots = [{boot}]\nfrom_mark = \"later\"\ndo = \"dead\"\n")
    };
    with(&rule(2)).unwrap();
    let why = with(&rule(1)).unwrap_err();
    assert!(
        why.contains("step `later` begins in boot 2 at the earliest"),
        "{why}"
    );
}
