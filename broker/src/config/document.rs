//! One configuration file against the schema.
//!
//! Owns finding every wrong key and value of a file, with their places. It knows no key by name.

use std::collections::BTreeMap;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::problem::{Place, Problem, Severity, suggestion};
use super::schema::{Given, Kind, Node};

/// The text of a file, and where each key stands in it.
pub(super) struct Document<'a> {
    name: &'a str,
    content: &'a str,
    /// By path, such as `listener[0].tls.key_file`: the bytes of the value, or of the header of a table.
    places: BTreeMap<String, Range<usize>>,
}

impl<'a> Document<'a> {
    /// Reads and checks a file's content. `name` is what problems call it.
    pub(super) fn read(name: &'a str, content: &'a str, schema: Node<'_>) -> (Document<'a>, Vec<Problem>) {
        let mut document = Document { name, content, places: BTreeMap::new() };
        let (table, errors) = DeTable::parse_recoverable(content);
        let mut problems = Vec::new();
        for error in &errors {
            problems.push(document.error_at(error.span().unwrap_or_default(), error.message().to_owned()));
        }
        // What follows a wrong line is guesswork: only a file that can be read is checked further.
        if errors.is_empty() {
            document.check_table("", table.get_ref(), schema, table.span(), &mut problems);
        }
        problems.sort_by_key(|problem| match problem.place {
            Place::Line { line, column, .. } => (line, column),
            _ => (0, 0),
        });
        // Each level of brackets that is not closed is reported where the file ends.
        problems.dedup();
        (document, problems)
    }

    /// The place of a path's value, or of the nearest table around it that the file has.
    pub(super) fn place(&self, path: &str) -> Place {
        let mut path = path;
        loop {
            if let Some(bytes) = self.places.get(path) {
                return Place::in_file(self.name, self.content, bytes.clone());
            }
            match path.rfind(['.', '[']) {
                Some(end) => path = &path[..end],
                None => return Place::File(self.name.to_owned()),
            }
        }
    }

    /// An error somewhere in the file.
    pub(super) fn error_at(&self, bytes: Range<usize>, message: String) -> Problem {
        let place = Place::in_file(self.name, self.content, bytes);
        Problem { severity: Severity::Error, place, message }
    }

    fn check_table(
        &mut self,
        path: &str,
        table: &DeTable<'_>,
        schema: Node<'_>,
        place: Range<usize>,
        problems: &mut Vec<Problem>,
    ) {
        for (key, value) in table {
            let name = key.get_ref();
            match schema.key(name) {
                Some(schema) => self.check_value(&join(path, name), key.span(), value, schema, problems),
                None => problems.push(self.error_at(key.span(), unknown_key(path, name, schema))),
            }
        }
        for name in schema.required().filter(|name| !table.contains_key(*name)) {
            problems.push(self.error_at(place.clone(), format!("{} needs the key {name:?}", section(path))));
        }
    }

    fn check_value(
        &mut self,
        path: &str,
        key: Range<usize>,
        value: &Spanned<DeValue<'_>>,
        schema: Node<'_>,
        problems: &mut Vec<Problem>,
    ) {
        let bytes = value.span();
        match (value.get_ref(), schema.kind()) {
            (DeValue::Table(table), Kind::Table) => {
                self.places.insert(path.to_owned(), key.clone());
                self.check_table(path, table, schema, key, problems);
            }
            (DeValue::Array(values), Kind::Array(schema)) => {
                self.places.insert(path.to_owned(), key);
                for (index, value) in values.iter().enumerate() {
                    self.check_value(&format!("{path}[{index}]"), value.span(), value, schema, problems);
                }
            }
            (value, _) => {
                self.places.insert(path.to_owned(), bytes.clone());
                let checked = schema.check(&given(value));
                problems.extend(checked.err().map(|wrong| self.error_at(bytes, format!("{path} {wrong}"))));
            }
        }
    }
}

fn given<'a>(value: &'a DeValue<'_>) -> Given<'a> {
    match value {
        DeValue::Boolean(_) => Given::Boolean,
        DeValue::String(text) => Given::String(text),
        DeValue::Integer(integer) => i64::from_str_radix(integer.as_str(), integer.radix())
            .map_or(Given::Other("so large a number"), Given::Integer),
        DeValue::Float(number) => number.as_str().parse().map_or(Given::Other("no number"), Given::Number),
        DeValue::Datetime(_) => Given::Other("a date or time"),
        DeValue::Array(_) => Given::Other("an array"),
        DeValue::Table(_) => Given::Other("a table"),
    }
}

fn unknown_key(path: &str, name: &str, schema: Node<'_>) -> String {
    let hint = suggestion(name, schema.keys().map(|(name, _)| name));
    format!("unknown key {name:?} in {}{hint}", section(path))
}

/// How a file writes the table of this path.
fn section(path: &str) -> String {
    match path {
        "" => "the file".to_owned(),
        path => {
            let names: String =
                path.split('[').map(|part| part.split_once(']').map_or(part, |(_, rest)| rest)).collect();
            match path.ends_with(']') {
                true => format!("[[{names}]]"),
                false => format!("[{names}]"),
            }
        }
    }
}

fn join(path: &str, name: &str) -> String {
    match path {
        "" => name.to_owned(),
        path => format!("{path}.{name}"),
    }
}
