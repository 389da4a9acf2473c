//! Keys set by environment variables.
//!
//! Owns their names (`CAUSEWAY_LOG__LEVEL` is `log.level`) and turning their text into values.

use toml::{Table, Value};

use super::problem::{Place, Problem, Severity, suggestion};
use super::schema::{Given, Kind, Node};

/// What the names of all variables begin with.
pub const PREFIX: &str = "CAUSEWAY_";

/// The variable that names the configuration file, and sets no key.
pub const CONFIG_VARIABLE: &str = "CAUSEWAY_CONFIG";

/// A key and its value.
#[derive(Debug, PartialEq)]
pub(super) struct Override {
    variable: String,
    section: String,
    key: String,
    value: Value,
}

impl Override {
    /// Sets the key, whatever stood there.
    pub(super) fn apply(self, document: &mut Table) {
        let section = document.entry(self.section).or_insert_with(|| Value::Table(Table::new()));
        if let Value::Table(section) = section {
            section.insert(self.key, self.value);
        }
    }

    /// The key's path, such as `log.level`, and the variable that set it.
    pub(super) fn path_and_variable(&self) -> (String, String) {
        (format!("{}.{}", self.section, self.key), self.variable.clone())
    }
}

/// The variables that set keys, and what is wrong with others that begin with [`PREFIX`].
pub(super) fn overrides(
    environment: impl IntoIterator<Item = (String, String)>,
    schema: Node<'_>,
) -> (Vec<Override>, Vec<Problem>) {
    let known: Vec<_> = variables(schema).collect();
    let (mut overrides, mut problems) = (Vec::new(), Vec::new());
    for (name, text) in environment {
        if !name.starts_with(PREFIX) || name == CONFIG_VARIABLE {
            continue;
        }
        match read(&name, &text, &known) {
            Ok(value) => overrides.push(value),
            Err(message) => {
                problems.push(Problem { severity: Severity::Error, place: Place::Environment(name), message });
            }
        }
    }
    (overrides, problems)
}

/// A key that can be set by a variable.
struct Variable<'a> {
    name: String,
    section: &'a str,
    key: &'a str,
    schema: Node<'a>,
}

/// Every plain key of every section. Listeners have no names of their own there: they stand in the file.
fn variables(schema: Node<'_>) -> impl Iterator<Item = Variable<'_>> {
    schema.keys().flat_map(|(section, table)| {
        let keys = table.keys().filter(|(_, schema)| has_variable(*schema));
        keys.map(move |(key, schema)| Variable { name: variable(section, key), section, key, schema })
    })
}

/// Whether a variable sets a key: a table or a list is no text.
pub(super) fn has_variable(schema: Node<'_>) -> bool {
    !matches!(schema.kind(), Kind::Table | Kind::Array(_))
}

/// The variable that sets a key.
pub(super) fn variable(section: &str, key: &str) -> String {
    format!("{PREFIX}{}__{}", section.to_uppercase(), key.to_uppercase())
}

fn read(name: &str, text: &str, known: &[Variable<'_>]) -> Result<Override, String> {
    let Some(variable) = known.iter().find(|variable| variable.name == name) else {
        let hint = suggestion(name, known.iter().map(|variable| variable.name.as_str()));
        return Err(format!("sets no key of the configuration{hint}"));
    };
    let value = value(text, variable.schema)?;
    let (section, key) = (variable.section.to_owned(), variable.key.to_owned());
    Ok(Override { variable: name.to_owned(), section, key, value })
}

fn value(text: &str, schema: Node<'_>) -> Result<Value, String> {
    let (value, given) = match schema.kind() {
        Kind::Boolean => match text.parse() {
            Ok(value) => (Value::Boolean(value), Given::Boolean),
            Err(_) => return Err(format!("must be {}, not {text:?}", schema.wanted())),
        },
        Kind::Integer => match text.parse() {
            Ok(value) => (Value::Integer(value), Given::Integer(value)),
            Err(_) => return Err(format!("must be {}, not {text:?}", schema.wanted())),
        },
        Kind::Number => match text.parse() {
            Ok(value) => (Value::Float(value), Given::Number(value)),
            Err(_) => return Err(format!("must be {}, not {text:?}", schema.wanted())),
        },
        _ => (Value::String(text.to_owned()), Given::String(text)),
    };
    schema.check(&given)?;
    Ok(value)
}
