//! What is wrong with a configuration, and where.
//!
//! Owns how it is shown: `FILE:LINE:COLUMN: message`, the line, and a mark under the place.

use std::fmt;
use std::ops::Range;

/// One thing that is wrong or doubtful.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Whether it keeps the broker from starting.
    pub severity: Severity,
    /// Where it is.
    pub place: Place,
    /// What it is, and often what to do.
    pub message: String,
}

/// Whether a problem keeps the broker from starting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// It does.
    Error,
    /// It does not, but is probably not what was meant.
    Warning,
}

/// Where a problem is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Somewhere in a file.
    Line {
        /// The file, as it was named.
        file: String,
        /// The line, counted from 1.
        line: usize,
        /// The column in characters, counted from 1.
        column: usize,
        /// The text of the line.
        text: String,
        /// How many characters of it are meant, at least 1.
        width: usize,
    },
    /// The file as a whole.
    File(String),
    /// An environment variable.
    Environment(String),
}

impl Place {
    /// The place of these bytes of a file.
    pub(super) fn in_file(file: &str, content: &str, bytes: Range<usize>) -> Place {
        let start = floor(content, bytes.start);
        let line_start = content[..start].rfind('\n').map_or(0, |index| index + 1);
        let line_end = content[start..].find('\n').map_or(content.len(), |index| start + index);
        let end = floor(content, bytes.end).clamp(start, line_end);
        Place::Line {
            file: file.to_owned(),
            line: content[..start].matches('\n').count() + 1,
            column: content[line_start..start].chars().count() + 1,
            text: content[line_start..line_end].trim_end().to_owned(),
            width: content[start..end].chars().count().max(1),
        }
    }
}

/// The nearest beginning of a character at or before `index`.
fn floor(content: &str, index: usize) -> usize {
    (0..=index.min(content.len())).rev().find(|&index| content.is_char_boundary(index)).unwrap_or(0)
}

/// `FILE:LINE:COLUMN: `, to be followed by the message.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Line { file, line, column, .. } => write!(f, "{file}:{line}:{column}: "),
            Place::File(file) => write!(f, "{file}: "),
            Place::Environment(name) => write!(f, "environment variable {name}: "),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.place.fmt(f)?;
        if self.severity == Severity::Warning {
            f.write_str("warning: ")?;
        }
        f.write_str(&self.message)?;
        if let Place::Line { line, column, text, width, .. } = &self.place {
            // Tabs are repeated, so that the mark stands under the place however wide they are shown.
            let indent: String = text.chars().take(column - 1).map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
            let number = line.to_string();
            let margin = " ".repeat(number.len());
            write!(f, "\n  {number} | {text}\n  {margin} | {indent}{}", "^".repeat(*width))?;
        }
        Ok(())
    }
}

/// `, did you mean "..."?` if one of `known` is near, else nothing.
pub(super) fn suggestion<'a>(wrong: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let distance = |name: &str| strsim::damerau_levenshtein(&wrong.to_lowercase(), &name.to_lowercase());
    let nearest = known.into_iter().map(|name| (distance(name), name)).min();
    match nearest {
        Some((distance, name)) if distance <= (name.chars().count() / 3).max(1) => format!(", did you mean {name:?}?"),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_shows_its_place() {
        let place = Place::in_file("a.toml", "x = 1\n\tlöl = 2\n", 8..11);
        let problem = Problem { severity: Severity::Warning, place, message: "odd".to_owned() };
        assert_eq!(problem.to_string(), "a.toml:2:3: warning: odd\n  2 | \tlöl = 2\n    | \t ^^");
    }

    #[test]
    fn places_stay_inside_the_content() {
        for content in ["", "\n", "é", "a\nb"] {
            for start in 0..6 {
                for end in 0..6 {
                    Place::in_file("f", content, start..end);
                }
            }
        }
    }

    #[test]
    fn only_near_names_are_suggested() {
        let known = ["listener", "limits", "log"];
        assert_eq!(suggestion("lisener", known), ", did you mean \"listener\"?");
        assert_eq!(suggestion("LIMIT", known), ", did you mean \"limits\"?");
        assert_eq!(suggestion("lgo", known), ", did you mean \"log\"?");
        assert_eq!(suggestion("persistence", known), "");
    }
}
