//! Whether two plans are of one campaign, and both as one: parts of it are planned on several machines, and it is gone on with later.

use super::plan::{Plan, Row};

/// In what two plans differ. What could not be had of a kernel is no difference; nor is where a scenario's file lies.
pub fn differs(one: &Plan, other: &Plan) -> Option<String> {
    let made = |plan: &Plan| match &plan.legwatch {
        Some(version) => format!("of legwatch {version}"),
        None => "of an older legwatch".to_owned(),
    };
    let names = |plan: &Plan| -> Vec<String> {
        let names = plan.rows.iter().map(|row| row.key.clone());
        names.collect()
    };
    if one.legwatch != other.legwatch {
        let (one, other) = (made(one), made(other));
        Some(format!("the one is {one}, the other {other}"))
    } else if one.version != other.version {
        Some("the forms of their plans differ".into())
    } else if names(one) != names(other) {
        Some("the scenarios or kernels differ".into())
    } else if (one.seed, one.repeat) != (other.seed, other.repeat) {
        Some("the seeds differ".into())
    } else if one.options != other.options {
        Some("the options of runs differ".into())
    } else {
        let mut pairs = one.rows.iter().zip(&other.rows);
        pairs.find_map(|(one, other)| row_differs(one, other))
    }
}

fn row_differs(one: &Row, other: &Row) -> Option<String> {
    if one.text_crc32 != other.text_crc32 {
        return Some(format!("the text of scenario {} differs", one.scenario));
    }
    // A kernel that could not be had has no version, and so nothing that goes by it.
    if one.unavailable.is_some() || other.unavailable.is_some() {
        None
    } else if one.version != other.version {
        Some(format!(
            "kernel {} is {} in the one and {} in the other",
            one.kernel, one.version, other.version
        ))
    } else if (&one.expect, &one.skip, one.tries) != (&other.expect, &other.skip, other.tries) {
        Some(format!("what is expected of {} differs", one.key))
    } else {
        None
    }
}

/// Takes what `plan` could not have of a kernel from another plan of its campaign.
pub fn join(plan: &mut Plan, other: &Plan) {
    for (row, another) in plan.rows.iter_mut().zip(&other.rows) {
        if row.unavailable.is_some() && another.unavailable.is_none() {
            row.clone_from(another);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::campaign::Expectation;
    use crate::campaign::plan::tests::plan;
    use crate::finding::Check;

    fn changed(change: impl Fn(&mut Plan)) -> Plan {
        let mut plan = plan(Some(2));
        change(&mut plan);
        plan
    }

    #[test]
    fn what_differs_is_said() {
        type Change = fn(&mut Plan);
        let changes: [(Change, &str); 11] = [
            (|plan| plan.version += 1, "the forms of their plans"),
            (
                |plan| plan.legwatch = Some("9.9".into()),
                "the other of legwatch 9.9",
            ),
            (
                |plan| plan.legwatch = None,
                "the other of an older legwatch",
            ),
            (|plan| plan.rows.truncate(3), "scenarios or kernels"),
            (|plan| plan.seed = 9, "seeds"),
            (|plan| plan.repeat = None, "seeds"),
            (|plan| plan.options.push("--strict".into()), "options"),
            (
                |plan| plan.rows[2].text_crc32 = Some(7),
                "the text of scenario behind differs",
            ),
            (
                |plan| plan.rows[1].version = "6.12.118".into(),
                "kernel pinned:6.12 is 6.12 in the one and 6.12.118 in the other",
            ),
            (
                |plan| plan.rows[1].expect = Expectation::found(Check::Stamp, None, None),
                "what is expected of quick@pinned:6.12 differs",
            ),
            (
                |plan| plan.rows[0].skip = Some("no".into()),
                "what is expected of quick@pinned:6.1 differs",
            ),
        ];
        let one = plan(Some(2));
        assert_eq!(differs(&one, &one), None);
        for (change, words) in changes {
            let why = differs(&one, &changed(change)).unwrap();
            assert!(why.contains(words), "{why}");
        }
    }

    #[test]
    fn what_could_not_be_had_is_no_difference_and_is_taken_from_the_other() {
        let had = changed(|plan| {
            plan.rows[1].expect = Expectation::found(Check::Stamp, None, None);
            plan.rows[3].skip = Some("not for it".into());
        });
        let lacks = changed(|plan| {
            for row in [1, 3] {
                plan.rows[row].version = String::new();
                plan.rows[row].unavailable = Some("unreachable".into());
            }
            plan.rows[0].path = "elsewhere/quick.toml".into();
        });
        assert_eq!(differs(&had, &lacks), None);
        assert_eq!(differs(&lacks, &had), None);
        let mut whole = had.clone();
        join(&mut whole, &lacks);
        assert_eq!(whole, had);
        let mut whole = lacks.clone();
        join(&mut whole, &had);
        assert_eq!(whole.rows[1..], had.rows[1..]);
        assert_eq!(whole.rows[0].path, "elsewhere/quick.toml");
    }
}
