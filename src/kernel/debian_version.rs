//! Debian's order of package versions.
//!
//! `[epoch:]upstream[-revision]`, compared part by part as Debian Policy 5.6.12 says: runs of non-digits where `~` sorts before
//! everything, even the end, and letters before the rest; then runs of digits as numbers.

use std::cmp::Ordering;

/// How `a` sorts against `b`.
pub(super) fn compare(a: &str, b: &str) -> Ordering {
    let (epoch_a, upstream_a, revision_a) = split(a);
    let (epoch_b, upstream_b, revision_b) = split(b);
    compare_part(epoch_a, epoch_b)
        .then_with(|| compare_part(upstream_a, upstream_b))
        .then_with(|| compare_part(revision_a, revision_b))
}

/// The upstream part: `6.1.192` of `6.1.192-2`.
pub(super) fn upstream(version: &str) -> &str {
    split(version).1
}

fn split(version: &str) -> (&str, &str, &str) {
    let (epoch, rest) = version.split_once(':').unwrap_or(("0", version));
    let (upstream, revision) = rest.rsplit_once('-').unwrap_or((rest, "0"));
    (epoch, upstream, revision)
}

fn compare_part(mut a: &str, mut b: &str) -> Ordering {
    while !a.is_empty() || !b.is_empty() {
        let (text_a, rest_a) = take(a, |c| !c.is_ascii_digit());
        let (text_b, rest_b) = take(b, |c| !c.is_ascii_digit());
        let order = compare_text(text_a, text_b);
        if order != Ordering::Equal {
            return order;
        }
        let (digits_a, rest_a) = take(rest_a, |c| c.is_ascii_digit());
        let (digits_b, rest_b) = take(rest_b, |c| c.is_ascii_digit());
        let (digits_a, digits_b) = (
            digits_a.trim_start_matches('0'),
            digits_b.trim_start_matches('0'),
        );
        // Without leading zeros the longer number is the larger one.
        let order = digits_a
            .len()
            .cmp(&digits_b.len())
            .then_with(|| digits_a.cmp(digits_b));
        if order != Ordering::Equal {
            return order;
        }
        (a, b) = (rest_a, rest_b);
    }
    Ordering::Equal
}

fn take(text: &str, belongs: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(|c| !belongs(c)).unwrap_or(text.len()))
}

fn compare_text(a: &str, b: &str) -> Ordering {
    let weight = |c: Option<char>| match c {
        Some('~') => 0,
        None => 1,
        Some(letter) if letter.is_ascii_alphabetic() => 1 + u32::from(letter),
        Some(other) => 256 + u32::from(other),
    };
    let (mut a, mut b) = (a.chars(), b.chars());
    loop {
        let (next_a, next_b) = (a.next(), b.next());
        let order = weight(next_a).cmp(&weight(next_b));
        if order != Ordering::Equal || next_a.is_none() {
            return order;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_in_debians_order() {
        // Each is older than the next.
        let ascending = [
            "5.10.262-1",
            "6.1.9-1",
            "6.1.187-1~deb11u1",
            "6.1.187-1",
            "6.1.192-1",
            "6.1.192-2",
            "6.12.90-1",
            "6.12.117-1~bpo12+1",
            "6.12.117-1",
            "6.16.3-1~bpo13+1",
            "7.0~rc7-1~exp1",
            "7.0-1",
            "1:1.0-1",
        ];
        for (index, a) in ascending.iter().enumerate() {
            for (other, b) in ascending.iter().enumerate() {
                assert_eq!(compare(a, b), index.cmp(&other), "{a} {b}");
            }
        }
        assert_eq!(compare("1.01", "1.1"), Ordering::Equal);
    }

    #[test]
    fn the_upstream_part() {
        assert_eq!(upstream("1:6.16.3-1~bpo13+1"), "6.16.3");
        assert_eq!(upstream("6.1"), "6.1");
    }
}
