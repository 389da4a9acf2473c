//! From words to a question.
//!
//! Owns the grammar, and what is said about what does not follow it.
//!
//! ```text
//! any       = all { "or" all }
//! all       = one { "and" one }
//! one       = "not" one | "(" any ")" | "exists" field | condition
//! condition = field ( "=" | "!=" | "<" | "<=" | ">" | ">=" ) value
//!           | field [ "not" ] "in" "(" value { "," value } ")" | field "exists"
//! ```

use super::words::{Kind, Word, words};
use super::{Comparison, Fields, Node, QUERY_BYTES_MAX, QueryError, Scalar, Subject};
use crate::{Groups, Vin};

/// How deep parentheses and `not` may go.
const DEPTH_MAX: usize = 32;
const KEYWORDS: [&str; 5] = ["and", "or", "not", "in", "exists"];

type Parsed<T> = Result<T, QueryError>;

pub(super) fn parse(text: &str, fields: &Fields) -> Parsed<Node> {
    if text.len() > QUERY_BYTES_MAX {
        return Err(QueryError {
            position: 1,
            message: format!("a query has {QUERY_BYTES_MAX} bytes at most, not {}", text.len()),
        });
    }
    let words = words(text)?;
    let end = text.chars().count() + 1;
    let mut parser = Parser { words: &words, fields, end };
    let node = parser.any(0)?;
    match parser.words.first() {
        None => Ok(node),
        Some(word) => Err(error(word.position, format!("{} comes after the end: and, or?", word.kind.shown()))),
    }
}

fn error(position: usize, message: impl Into<String>) -> QueryError {
    QueryError { position, message: message.into() }
}

struct Parser<'a> {
    words: &'a [Word],
    fields: &'a Fields,
    /// Behind the last character.
    end: usize,
}

impl<'a> Parser<'a> {
    fn position(&self) -> usize {
        self.words.first().map_or(self.end, |word| word.position)
    }

    fn next(&mut self) -> Option<&'a Word> {
        let (first, rest) = self.words.split_first()?;
        self.words = rest;
        Some(first)
    }

    fn takes_keyword(&mut self, keyword: &str) -> bool {
        let is_next = matches!(self.words.first(), Some(Word { kind: Kind::Bare(text), .. }) if text.eq_ignore_ascii_case(keyword));
        if is_next {
            self.words = &self.words[1..];
        }
        is_next
    }

    fn takes_sign(&mut self, sign: &str) -> bool {
        let is_next = matches!(self.words.first(), Some(Word { kind: Kind::Sign(next), .. }) if *next == sign);
        if is_next {
            self.words = &self.words[1..];
        }
        is_next
    }

    fn any(&mut self, depth: usize) -> Parsed<Node> {
        let mut nodes = vec![self.all(depth)?];
        while self.takes_keyword("or") {
            nodes.push(self.all(depth)?);
        }
        Ok(one_or(nodes, Node::Any))
    }

    fn all(&mut self, depth: usize) -> Parsed<Node> {
        let mut nodes = vec![self.one(depth)?];
        while self.takes_keyword("and") {
            nodes.push(self.one(depth)?);
        }
        Ok(one_or(nodes, Node::All))
    }

    fn one(&mut self, depth: usize) -> Parsed<Node> {
        if depth > DEPTH_MAX {
            return Err(error(self.position(), format!("this is more than {DEPTH_MAX} levels deep")));
        }
        if self.takes_keyword("not") {
            return Ok(Node::Not(Box::new(self.one(depth + 1)?)));
        }
        if self.takes_sign("(") {
            let node = self.any(depth + 1)?;
            return match self.takes_sign(")") {
                true => Ok(node),
                false => Err(error(self.position(), "a parenthesis is not closed: ) is missing")),
            };
        }
        if self.takes_keyword("exists") {
            return match self.takes_sign("(") {
                false => self.subject().map(Node::Exists),
                true => {
                    let subject = self.subject()?;
                    match self.takes_sign(")") {
                        true => Ok(Node::Exists(subject)),
                        false => Err(error(self.position(), "a parenthesis is not closed: ) is missing")),
                    }
                }
            };
        }
        self.condition()
    }

    fn condition(&mut self) -> Parsed<Node> {
        let subject = self.subject()?;
        let position = self.position();
        if self.takes_keyword("exists") {
            return Ok(Node::Exists(subject));
        }
        if self.takes_keyword("in") {
            return self.values(subject).map(|values| Node::In(subject, values));
        }
        if self.takes_keyword("not") {
            return match self.takes_keyword("in") {
                true => self.values(subject).map(|values| Node::Not(Box::new(Node::In(subject, values)))),
                false => Err(error(self.position(), "in belongs behind not here")),
            };
        }
        let comparison = match self.next().map(|word| &word.kind) {
            Some(Kind::Sign("=")) => Comparison::Equal,
            Some(Kind::Sign("!=")) => Comparison::Unequal,
            Some(Kind::Sign("<")) => Comparison::Less,
            Some(Kind::Sign("<=")) => Comparison::AtMost,
            Some(Kind::Sign(">")) => Comparison::Greater,
            Some(Kind::Sign(">=")) => Comparison::AtLeast,
            found => {
                let found = found.map_or_else(|| "the end".to_owned(), Kind::shown);
                return Err(error(position, format!("one of = != < <= > >= in exists belongs here, not {found}")));
            }
        };
        if subject == Subject::Group && !matches!(comparison, Comparison::Equal | Comparison::Unequal) {
            return Err(error(position, "a vehicle is in a group or not: ask with = != or in"));
        }
        Ok(Node::Is(subject, comparison, self.value(subject)?))
    }

    fn subject(&mut self) -> Parsed<Subject> {
        let position = self.position();
        let name = match self.next() {
            Some(Word { kind: Kind::Bare(name), .. }) if !is_keyword(name) => name,
            found => {
                let found = found.map_or_else(|| "the end".to_owned(), |word| word.kind.shown());
                return Err(error(position, format!("a field belongs here, not {found}: {}", self.known())));
            }
        };
        match name.as_str() {
            "vin" => Ok(Subject::Vin),
            "group" => Ok(Subject::Group),
            "version" => Ok(Subject::Version),
            name => match self.fields.iter().position(|field| field == name) {
                Some(place) => Ok(Subject::Field(place)),
                None => Err(error(position, format!("{name} is not indexed: {}", self.known()))),
            },
        }
    }

    /// What can be asked for.
    fn known(&self) -> String {
        let mut known: Vec<&str> = self.fields.iter().collect();
        known.extend(["vin", "group"]);
        let hint = if self.fields.is_empty() { " (shadow.index adds fields)" } else { "" };
        format!("there are {} and version{hint}", known.join(", "))
    }

    fn values(&mut self, subject: Subject) -> Parsed<Vec<Scalar>> {
        if !self.takes_sign("(") {
            return Err(error(self.position(), "a list belongs behind in: (a, b)"));
        }
        let mut values = vec![self.value(subject)?];
        while self.takes_sign(",") {
            values.push(self.value(subject)?);
        }
        if !self.takes_sign(")") {
            return Err(error(self.position(), "the list does not end: ) is missing"));
        }
        values.sort_unstable();
        values.dedup();
        Ok(values)
    }

    fn value(&mut self, subject: Subject) -> Parsed<Scalar> {
        let position = self.position();
        let (text, is_quoted) = match self.next().map(|word| &word.kind) {
            Some(Kind::Quoted(text)) => (text, true),
            Some(Kind::Bare(text)) if !is_keyword(text) => (text, false),
            found => {
                let found = found.map_or_else(|| "the end".to_owned(), Kind::shown);
                return Err(error(position, format!("a value belongs here, not {found}")));
            }
        };
        let number = text
            .parse()
            .ok()
            .filter(|number: &f64| number.is_finite())
            .filter(|_| !is_quoted && looks_like_number(text));
        match subject {
            Subject::Vin => match text.parse::<Vin>() {
                Ok(vin) => Ok(Scalar::from(vin.as_str())),
                Err(wrong) => Err(error(position, wrong.to_string())),
            },
            Subject::Group => match Groups::check_name(text) {
                Ok(()) => Ok(Scalar::from(text.as_str())),
                Err(wrong) => Err(error(position, wrong.to_string())),
            },
            Subject::Version => number
                .map(Scalar::number)
                .ok_or_else(|| error(position, format!("a version is a number, not {text:?}"))),
            Subject::Field(_) => Ok(match (number, text.as_str()) {
                (Some(number), _) => Scalar::number(number),
                (None, "true") if !is_quoted => Scalar::Bool(true),
                (None, "false") if !is_quoted => Scalar::Bool(false),
                (None, text) => Scalar::from(text),
            }),
        }
    }
}

/// `inf` and `nan` are texts.
fn looks_like_number(text: &str) -> bool {
    text.trim_start_matches(['-', '+']).starts_with(|first: char| first.is_ascii_digit() || first == '.')
}

fn is_keyword(text: &str) -> bool {
    KEYWORDS.into_iter().any(|keyword| keyword.eq_ignore_ascii_case(text))
}

fn one_or(mut nodes: Vec<Node>, several: fn(Vec<Node>) -> Node) -> Node {
    match nodes.len() {
        1 => nodes.remove(0),
        _ => several(nodes),
    }
}
