//! Kernel releases as numbers, and ranges of them, as `vm/known.toml`, `[suite]` tables and the museum write them.
//!
//! A bound is `FROM..TO`, both included, either of which may be left out, or one release. Releases are compared by their first three numbers; an upper
//! bound of two numbers takes in its whole series (`..6.12` has 6.12.117).

/// The first three numbers of a release.
pub type Numbers = [u32; 3];

/// The first three numbers of a release: `6.12.117+deb13-cloud-amd64` is 6.12.117. Debian's 6.1 tells its patch level in the package's version only, so
/// `6.1.0-56-cloud-amd64` is 6.1.0.
pub fn numbers(release: &str) -> Option<Numbers> {
    parse(release, 0)
}

/// As [`numbers`], with `missing` for the third number where there is none.
fn parse(release: &str, missing: u32) -> Option<Numbers> {
    let mut out = [0, 0, missing];
    let mut parts = release.split('.');
    for (at, slot) in out.iter_mut().enumerate() {
        let Some(part) = parts.next() else {
            break;
        };
        let digits: String = part.chars().take_while(char::is_ascii_digit).collect();
        if digits.is_empty() && at < 2 {
            return None;
        }
        *slot = digits.parse().unwrap_or(0);
        if digits.len() < part.len() {
            break;
        }
    }
    Some(out)
}

/// Whether a release is within a bound. An end that is no release bounds nothing; [`check`] refuses such.
pub fn within(bound: &str, release: Numbers) -> bool {
    let (from, to) = bound.split_once("..").unwrap_or((bound, bound));
    let least = parse(from, 0).is_none_or(|from| from <= release);
    let most = parse(to, u32::MAX).is_none_or(|to| release <= to);
    least && most
}

/// Whether a bound is one.
///
/// # Errors
/// One sentence.
pub fn check(bound: &str) -> Result<(), String> {
    let (from, to) = bound.split_once("..").unwrap_or((bound, bound));
    let ends = [from, to];
    let no_release = |end: &&&str| {
        let plain = end.split('.').all(|part| {
            (1..=6).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit())
        });
        !(end.is_empty() || plain && (2..=3).contains(&end.split('.').count()))
    };
    if let Some(end) = ends.iter().find(no_release) {
        return Err(format!(
            "`{end}` is no kernel release; write 6.12.43, 6.12 or a range such as 6.12..6.16.3"
        ));
    }
    match (parse(from, 0), parse(to, u32::MAX)) {
        _ if bound.is_empty() => {
            Err("an empty range of kernels; write `..` for all of them".into())
        }
        (Some(least), Some(most)) if least > most => {
            Err(format!("the range `{bound}` ends before it begins"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_compared_as_numbers() {
        assert_eq!(numbers("6.1.0-56-cloud-amd64"), Some([6, 1, 0]));
        assert_eq!(numbers("7.3.4+deb13"), Some([7, 3, 4]));
        assert_eq!(numbers("6.14-rc1"), Some([6, 14, 0]));
        assert_eq!(numbers("next"), None);
        assert!(within("6.13..", [6, 14, 0]) && !within("6.13..", [6, 12, 900]));
        assert!(within("..", [1, 0, 0]));
        assert!(within("..6.12", [6, 12, 117]) && !within("..6.12.100", [6, 12, 117]));
        assert!(within("6.12", [6, 12, 117]) && !within("6.12", [6, 13, 0]));
        assert!(within("6.16.3", [6, 16, 3]) && !within("6.16.3", [6, 16, 4]));
    }

    #[test]
    fn what_is_no_range_is_refused() {
        for good in ["..", "6.1", "6.1.192", "6.1..", "..6.12", "6.1..6.12.3"] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for bad in ["", "6", "six", "6.1-", "7.0..6.1", "6.1.2.3", "6.1..x"] {
            assert!(check(bad).is_err(), "{bad}");
        }
    }
}
