//! Names with `*` (any characters, or none) and `?` (any one character).

/// Whether a text has a wildcard.
pub(super) fn is_pattern(text: &str) -> bool {
    text.contains(['*', '?'])
}

/// Whether a name is as the pattern says.
pub(super) fn matches(pattern: &str, name: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let name: Vec<char> = name.chars().collect();
    let (mut at, mut upto) = (0, 0);
    // The last `*`, and how far the name went when it took nothing.
    let mut star: Option<(usize, usize)> = None;
    while let Some(is) = name.get(upto) {
        match pattern.get(at) {
            Some('*') => {
                star = Some((at, upto));
                at += 1;
            }
            Some(wanted) if *wanted == '?' || wanted == is => {
                at += 1;
                upto += 1;
            }
            Some(_) | None => {
                let Some((stands, took)) = star else {
                    return false;
                };
                // It takes one more.
                star = Some((stands, took + 1));
                at = stands + 1;
                upto = took + 1;
            }
        }
    }
    pattern.iter().skip(at).all(|rest| *rest == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_and_question_marks_match() {
        for (pattern, name, is) in [
            ("stack-*", "stack-raid10", true),
            ("stack-*", "stack-", true),
            ("stack-*", "raid10", false),
            ("*-check", "raid10-nowait-check", true),
            ("*-check", "check-repair", false),
            ("*raid1*", "stack-dm-raid1", true),
            ("known-k?", "known-k1", true),
            ("known-k?", "known-k", false),
            ("known-k?", "known-k10", false),
            ("*a*b", "ab ac", false),
            ("*a*b", "aab", true),
            ("*", "", true),
            ("?", "ä", true),
            ("", "", true),
            ("", "a", false),
            ("raid1", "raid1", true),
            ("raid1", "raid10", false),
        ] {
            assert_eq!(matches(pattern, name), is, "{pattern} {name}");
        }
    }
}
