//! The bytes around the first difference, expected and actual, side by side in lines of 16.

use std::fmt::Write as _;

use crate::stamp::Stamp;

/// Bytes a line.
const LINE: usize = 16;
/// Lines before and behind the first difference.
const AROUND: usize = 2;

/// Bytes out of hexadecimal; `None` for anything else.
pub(super) fn unhex(text: &str) -> Option<Vec<u8>> {
    let raw = text.as_bytes();
    if !raw.len().is_multiple_of(2) {
        return None;
    }
    raw.chunks_exact(2)
        .map(|two| {
            let digit = |byte: u8| char::from(byte).to_digit(16);
            u8::try_from(digit(two[0])? * 16 + digit(two[1])?).ok()
        })
        .collect()
}

/// The lines around the first byte that differs; empty if nothing does.
pub(super) fn diff(expected: &[u8], actual: &[u8]) -> Vec<String> {
    let Some(first) = (0..expected.len().min(actual.len())).find(|at| expected[*at] != actual[*at])
    else {
        return Vec::new();
    };
    let from = (first / LINE).saturating_sub(AROUND);
    let mut out = Vec::new();
    for line in from..=first / LINE + AROUND {
        let range = line * LINE..(line + 1) * LINE;
        let (Some(want), Some(have)) = (expected.get(range.clone()), actual.get(range)) else {
            break;
        };
        let shown = |sign: char, bytes: &[u8], whole: &[u8]| {
            let meaning = meaning(whole, line * LINE);
            format!("{sign} {:03x}  {}{meaning}", line * LINE, row(bytes))
        };
        if want == have {
            out.push(shown(' ', want, expected));
        } else {
            out.push(shown('-', want, expected));
            out.push(shown('+', have, actual));
        }
    }
    out
}

/// What a line of a stamp says, by the stamp's own fields; empty for other contents and for the fill.
fn meaning(sector: &[u8], at: usize) -> String {
    let Some((stamp, whole)) = Stamp::read(sector) else {
        return String::new();
    };
    match at {
        0 => format!(
            "  run {:016x}{}",
            stamp.run,
            if whole { "" } else { ", damaged" }
        ),
        16 => format!("  sector {}, #{}", stamp.sector, stamp.sequence),
        32 => format!("  writer {}, target {}", stamp.writer, stamp.target),
        _ => String::new(),
    }
}

fn row(bytes: &[u8]) -> String {
    let mut out = String::new();
    for byte in bytes {
        write!(out, "{byte:02x} ").expect("a string takes everything");
    }
    out.push(' ');
    out.extend(bytes.iter().map(|byte| match byte {
        0x20..=0x7e => char::from(*byte),
        _ => '.',
    }));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_difference_is_shown_with_its_neighbourhood() {
        let (one, mut other) = ([0u8; 512], [0u8; 512]);
        other[100] = 7;
        let lines = diff(&one, &other);
        assert_eq!(lines.len(), 6);
        assert!(lines[2].starts_with("- 060") && lines[3].starts_with("+ 060"));
        assert!(diff(&one, &one).is_empty());
    }

    #[test]
    fn the_fields_of_a_stamp_are_named() {
        let stamp = |sequence| {
            Stamp {
                run: 7,
                target: 1,
                sector: crate::block::Sector(8200),
                writer: 3,
                sequence,
            }
            .to_sector()
        };
        let lines = diff(&stamp(119), &stamp(118));
        assert!(lines[1].starts_with("- 010") && lines[1].ends_with("sector 8200, #119"));
        assert!(lines[2].starts_with("+ 010") && lines[2].ends_with("sector 8200, #118"));
        assert!(lines[3].ends_with("writer 3, target 1"));
    }

    #[test]
    fn hexadecimal_comes_back() {
        assert_eq!(unhex("00ff1a"), Some(vec![0, 255, 26]));
        assert_eq!(unhex("0g"), None);
    }
}
