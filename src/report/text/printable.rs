//! What others may have written, made harmless for a terminal: a guest, and whoever hands a journal on, has a say in names, values and lines.

use std::borrow::Cow;

use super::style::CODES;

/// The text in one line: control characters and direction marks are spelled out.
pub fn printable(text: &str) -> Cow<'_, str> {
    but_for(&[], text)
}

/// The same, but for the colours that reports have themselves.
pub(super) fn coloured(text: &str) -> Cow<'_, str> {
    but_for(&CODES, text)
}

fn but_for<'a>(codes: &[&str], text: &'a str) -> Cow<'a, str> {
    if !text.chars().any(harmful) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        if let Some(code) = codes.iter().find(|code| rest.starts_with(**code)) {
            out.push_str(code);
            rest = &rest[code.len()..];
            continue;
        }
        if harmful(c) {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
        rest = &rest[c.len_utf8()..];
    }
    Cow::Owned(out)
}

/// Moves the cursor, ends a line, or turns the direction of what follows.
fn harmful(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_moves_the_cursor_or_ends_the_line() {
        let hostile = "a\u{1b}[2J\u{1b}]0;b\u{7}\r\n✓ clean\u{9b}1A\u{202e}z\tä";
        let shown = printable(hostile);
        assert!(!shown.chars().any(harmful), "{shown:?}");
        assert_eq!(
            shown,
            "a\\u{1b}[2J\\u{1b}]0;b\\u{7}\\r\\n✓ clean\\u{9b}1A\\u{202e}z\\tä"
        );
        assert!(matches!(printable("plain ✗ text"), Cow::Borrowed(_)));
    }

    #[test]
    fn the_reports_own_colours_stay_where_they_are_its_own() {
        let text = super::super::Style::Colour.red("✗ 1 finding");
        assert_eq!(coloured(&text), text);
        assert_eq!(printable(&text), "\\u{1b}[1;31m✗ 1 finding\\u{1b}[0m");
    }
}
