//! What strangers say, fit for a line of the log.
//!
//! Owns how long it may be, and that it stays one line. It hides nothing short.

use std::fmt::{self, Display, Write};

/// Characters of one name, topic or value.
const TEXT_CHARS_MAX: usize = 128;
/// Bytes of a line.
const LINE_BYTES_MAX: usize = 1024;

/// A text that a client sent: in quotes, control characters escaped, and cut with a note of its length.
pub(crate) fn shown(text: &str) -> String {
    match text.char_indices().nth(TEXT_CHARS_MAX) {
        Some((end, _)) => format!("{:?}… ({} bytes)", &text[..end], text.len()),
        None => format!("{text:?}"),
    }
}

/// A line with texts of clients in it, cut with a note of its length, and without control characters.
pub(crate) struct Line<T>(pub(crate) T);

impl<T: Display> Display for Line<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut cut = Cut { to: f, bytes: 0 };
        write!(cut, "{}", self.0)?;
        let bytes = cut.bytes;
        match bytes > LINE_BYTES_MAX {
            true => write!(f, "… ({bytes} bytes)"),
            false => Ok(()),
        }
    }
}

/// Passes on what fits, and counts all.
struct Cut<'a, 'b> {
    to: &'a mut fmt::Formatter<'b>,
    bytes: usize,
}

impl Write for Cut<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = LINE_BYTES_MAX.saturating_sub(self.bytes);
        self.bytes += text.len();
        let end = (0..=room.min(text.len())).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
        let mut part = &text[..end];
        while let Some(index) = part.find(char::is_control) {
            self.to.write_str(&part[..index])?;
            self.to.write_char(char::REPLACEMENT_CHARACTER)?;
            let after = part[index..].chars().next().map_or(1, char::len_utf8);
            part = &part[index + after..];
        }
        self.to.write_str(part)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_texts_are_shown_whole() {
        assert_eq!(shown("car\n1"), "\"car\\n1\"");
        assert_eq!(Line(format_args!("connected client={:?}", "é")).to_string(), "connected client=\"é\"");
        assert_eq!(Line("a\nb\u{85}c").to_string(), "a\u{fffd}b\u{fffd}c");
    }

    #[test]
    fn long_texts_are_cut_and_their_length_is_told() {
        assert_eq!(shown(&"é".repeat(129)), format!("\"{}\"… (258 bytes)", "é".repeat(128)));
        assert_eq!(shown(&"x".repeat(128)).len(), 130);
        for long in ["x".repeat(65_535), "é".repeat(30_000), format!("x{}", "é".repeat(30_000))] {
            let line = Line(format_args!("client={long:?}: too long")).to_string();
            assert!(line.len() < LINE_BYTES_MAX + 30, "{line}");
            assert!(line.starts_with("client=\"") && line.contains("… (6"), "{line}");
        }
    }
}
