//! The guest's console, in lines that can be shown.
//!
//! What arrives is the guest's to choose, so nothing of it is trusted: bytes that are no UTF-8 are replaced, escape sequences and
//! control characters taken out, and a line that never ends is cut.

/// The longest line handed on, in bytes before cleaning. A longer one arrives in pieces.
pub const LINE_BYTES_MAX: usize = 4096;

/// Where a line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// The guest's serial console.
    Console,
    /// QEMU itself, on its standard error.
    Qemu,
}

/// One line, cleaned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsoleLine {
    pub stream: Stream,
    pub text: String,
    /// Whether this is a piece of a line that goes on in the next one.
    pub cut: bool,
}

/// Bytes in, lines out.
#[derive(Debug)]
pub struct LineSplitter {
    stream: Stream,
    line: Vec<u8>,
}

impl LineSplitter {
    pub fn new(stream: Stream) -> LineSplitter {
        LineSplitter {
            stream,
            line: Vec::new(),
        }
    }

    /// Takes bytes and hands every line that they end to `sink`.
    pub fn push(&mut self, bytes: &[u8], sink: &mut dyn FnMut(ConsoleLine)) {
        for byte in bytes {
            if *byte == b'\n' {
                self.emit(false, sink);
            } else {
                self.line.push(*byte);
                if self.line.len() >= LINE_BYTES_MAX {
                    self.emit(true, sink);
                }
            }
        }
    }

    /// Hands on what is left when the stream has ended.
    pub fn finish(&mut self, sink: &mut dyn FnMut(ConsoleLine)) {
        if !self.line.is_empty() {
            self.emit(false, sink);
        }
    }

    fn emit(&mut self, cut: bool, sink: &mut dyn FnMut(ConsoleLine)) {
        let text = clean(&String::from_utf8_lossy(&self.line));
        self.line.clear();
        sink(ConsoleLine {
            stream: self.stream,
            text,
            cut,
        });
    }
}

/// `text` without escape sequences and control characters; tabs become spaces, trailing space goes.
fn clean(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\u{1b}' => match chars.peek() {
                // A control sequence ends with a letter or a few signs; its parameters are digits and the like.
                Some('[') => {
                    chars.next();
                    while chars
                        .next_if(|c| ('\u{20}'..='\u{3f}').contains(c))
                        .is_some()
                    {}
                    chars.next_if(|c| ('\u{40}'..='\u{7e}').contains(c));
                }
                // An operating system command ends with BEL or ESC \.
                Some(']') => while chars.next_if(|c| *c != '\u{7}' && *c != '\u{1b}').is_some() {},
                _ => {
                    chars.next();
                }
            },
            '\t' => clean.push(' '),
            // Direction marks would let a guest write lines that read otherwise than they are.
            '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {}
            c if c.is_control() => {}
            c => clean.push(c),
        }
    }
    clean.truncate(clean.trim_end().len());
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(pieces: &[&[u8]]) -> Vec<(String, bool)> {
        let mut found = Vec::new();
        let mut splitter = LineSplitter::new(Stream::Console);
        let mut sink = |line: ConsoleLine| found.push((line.text, line.cut));
        for piece in pieces {
            splitter.push(piece, &mut sink);
        }
        splitter.finish(&mut sink);
        found
    }

    #[test]
    fn lines_arrive_whole_whatever_the_pieces() {
        assert_eq!(
            lines(&[b"one\r\ntw", b"o\n\nend"]),
            [
                ("one".into(), false),
                ("two".into(), false),
                (String::new(), false),
                ("end".into(), false)
            ]
        );
    }

    #[test]
    fn what_a_terminal_would_obey_is_gone() {
        assert_eq!(
            lines(&[b"\x1b[31mred\x1b[0m \x07bell\x1b]0;title\x07\tx\x1bc\n"]),
            [("red bell x".into(), false)]
        );
        assert_eq!(
            lines(&["a\u{202e}b\u{9b}c\n".as_bytes()]),
            [("abc".into(), false)]
        );
        assert_eq!(lines(&[b"\xff\xfe ok\n"])[0].0, "\u{fffd}\u{fffd} ok");
        assert_eq!(lines(&[b"\x1b["])[0].0, "");
    }

    #[test]
    fn a_line_that_never_ends_is_cut() {
        let found = lines(&[&[b'x'; LINE_BYTES_MAX + 10]]);
        assert_eq!(found.len(), 2);
        assert!(found[0].1 && found[0].0.len() == LINE_BYTES_MAX && found[1].0.len() == 10);
    }
}
