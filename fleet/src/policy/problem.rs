//! What is wrong with a policy, and where.
//!
//! Owns the place of a problem in the text. How it is shown is for whoever shows it.

use std::fmt;
use std::ops::Range;

/// One thing that is wrong, or probably not what was meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The bytes of the text that are meant.
    pub bytes: Range<usize>,
    /// The line, counted from 1.
    pub line: usize,
    /// The column in characters, counted from 1.
    pub column: usize,
    /// What it is, and what to do.
    pub message: String,
}

impl Problem {
    pub(super) fn at(text: &str, bytes: Range<usize>, message: impl Into<String>) -> Problem {
        let (line, column) = place(text, bytes.start);
        Problem { bytes, line, column, message: message.into() }
    }
}

/// `LINE:COLUMN: message`.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.line, self.column, self.message)
    }
}

/// Line and column of a byte, both from 1.
pub(super) fn place(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at.min(text.len())).unwrap_or_default();
    let line_start = before.rfind('\n').map_or(0, |end| end + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}
