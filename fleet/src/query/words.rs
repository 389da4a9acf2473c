//! The words of a question.
//!
//! Owns where one ends and the next begins.

use super::QueryError;

/// One word, and the character where it begins, counted from 1.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Word {
    pub(super) position: usize,
    pub(super) kind: Kind,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Kind {
    /// A name, a number, or a text without quotes.
    Bare(String),
    /// A text in quotes.
    Quoted(String),
    /// `=`, `!=`, `<`, `<=`, `>`, `>=`, `(`, `)` or `,`.
    Sign(&'static str),
}

impl Kind {
    /// As an error shows it.
    pub(super) fn shown(&self) -> String {
        match self {
            Kind::Bare(text) => format!("{text:?}"),
            Kind::Quoted(text) => format!("the text {text:?}"),
            Kind::Sign(sign) => format!("{sign:?}"),
        }
    }
}

/// Longer ones come first.
const SIGNS: [&str; 10] = ["!=", "<=", ">=", "==", "=", "<", ">", "(", ")", ","];

pub(super) fn is_part_of_word(character: char) -> bool {
    character.is_ascii_alphanumeric() || "._-:/+#$@".contains(character)
}

pub(super) fn words(text: &str) -> Result<Vec<Word>, QueryError> {
    let (mut words, mut rest, mut position) = (Vec::new(), text, 1);
    loop {
        let blank = rest.len() - rest.trim_start().len();
        position += rest[..blank].chars().count();
        rest = &rest[blank..];
        let Some(first) = rest.chars().next() else { return Ok(words) };
        let (kind, bytes) = if let Some(sign) = SIGNS.into_iter().find(|sign| rest.starts_with(sign)) {
            (Kind::Sign(if sign == "==" { "=" } else { sign }), sign.len())
        } else if first == '"' || first == '\'' {
            quoted(rest, first).ok_or_else(|| QueryError {
                position,
                message: format!("this text does not end: {first} is missing"),
            })?
        } else if is_part_of_word(first) {
            let bytes = rest.find(|character| !is_part_of_word(character)).unwrap_or(rest.len());
            (Kind::Bare(rest[..bytes].to_owned()), bytes)
        } else {
            return Err(QueryError {
                position,
                message: format!("{first:?} has no place here; texts stand in quotes"),
            });
        };
        words.push(Word { position, kind });
        position += rest[..bytes].chars().count();
        rest = &rest[bytes..];
    }
}

/// A text in quotes, and how many bytes it takes with them. A backslash takes what follows as it is.
fn quoted(text: &str, quote: char) -> Option<(Kind, usize)> {
    let (mut content, mut characters) = (String::new(), text.char_indices().skip(1));
    while let Some((at, character)) = characters.next() {
        match character {
            '\\' => content.push(characters.next()?.1),
            character if character == quote => return Some((Kind::Quoted(content), at + quote.len_utf8())),
            character => content.push(character),
        }
    }
    None
}
