//! The schema of the configuration, made from its types: what keys there are, and what values they take.
//!
//! Owns reading the schema: every check of a key, every range and every line of the reference comes from here.

use std::net::SocketAddr;

use schemars::generate::SchemaSettings;
use serde_json::Value;

use super::problem::suggestion;
use super::{Config, Network};

/// The JSON Schema (2020-12) of a configuration file, for editors.
pub fn json_schema() -> Value {
    // Without references, so that every key's description and range is where the key is.
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    settings.into_generator().into_root_schema_for::<Config>().to_value()
}

/// One node of the schema.
#[derive(Clone, Copy)]
pub(super) struct Node<'a> {
    /// What a value must be.
    value: &'a Value,
    /// What stands at the key: description, default and examples. Differs from `value` if the key is optional.
    key: &'a Value,
}

/// What kind of value a node takes.
pub(super) enum Kind<'a> {
    Table,
    /// An array whose elements are like this.
    Array(Node<'a>),
    Boolean,
    Integer,
    /// With a fraction or without.
    Number,
    String,
    /// One of these strings.
    Choice(Vec<&'a str>),
}

/// A value, of whatever kind.
pub(super) enum Given<'a> {
    Boolean,
    Integer(i64),
    Number(f64),
    String(&'a str),
    /// None of these; with the name of its kind.
    Other(&'static str),
}

impl<'a> Node<'a> {
    pub(super) fn root(schema: &'a Value) -> Node<'a> {
        let any_of = schema.get("anyOf").and_then(Value::as_array);
        let present = any_of.and_then(|nodes| nodes.iter().find(|node| node["type"] != "null"));
        Node { value: present.unwrap_or(schema), key: schema }
    }

    pub(super) fn kind(self) -> Kind<'a> {
        if self.value.get("properties").is_some() {
            return Kind::Table;
        }
        let choices = self.choices();
        if !choices.is_empty() {
            return Kind::Choice(choices);
        }
        if let Some(items) = self.value.get("items") {
            return Kind::Array(Node::root(items));
        }
        match self.type_name() {
            Some("boolean") => Kind::Boolean,
            Some("integer") => Kind::Integer,
            Some("number") => Kind::Number,
            _ => Kind::String,
        }
    }

    /// The type; of an optional value, the one that is not null.
    fn type_name(self) -> Option<&'a str> {
        match self.value.get("type")? {
            Value::Array(types) => types.iter().filter_map(Value::as_str).find(|name| *name != "null"),
            name => name.as_str(),
        }
    }

    fn choices(self) -> Vec<&'a str> {
        let list = |key: &str| self.value.get(key).and_then(Value::as_array).into_iter().flatten();
        let plain = list("enum").filter_map(Value::as_str);
        let documented = list("oneOf").filter_map(|choice| choice.get("const")?.as_str());
        plain.chain(documented).collect()
    }

    /// What each choice means.
    pub(super) fn choices_described(self) -> impl Iterator<Item = (&'a str, &'a str)> {
        let list = self.value.get("oneOf").and_then(Value::as_array).into_iter().flatten();
        list.filter_map(|choice| Some((choice.get("const")?.as_str()?, choice.get("description")?.as_str()?)))
    }

    /// The keys of a table, in the order of the types.
    pub(super) fn keys(self) -> impl Iterator<Item = (&'a str, Node<'a>)> {
        let properties = self.value.get("properties").and_then(Value::as_object);
        properties.into_iter().flatten().map(|(name, node)| (name.as_str(), Node::root(node)))
    }

    pub(super) fn key(self, name: &str) -> Option<Node<'a>> {
        self.value.get("properties")?.get(name).map(Node::root)
    }

    pub(super) fn required(self) -> impl Iterator<Item = &'a str> {
        self.value.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
    }

    pub(super) fn integer(self, name: &str) -> Option<i64> {
        // Only a limit above what TOML can say does not fit.
        self.value.get(name)?.as_i64()
    }

    fn number(self, name: &str) -> Option<f64> {
        self.value.get(name)?.as_f64()
    }

    pub(super) fn text(self, name: &str) -> Option<&'a str> {
        self.value.get(name)?.as_str()
    }

    /// What the key is for, in one line.
    pub(super) fn description(self) -> String {
        self.key.get("description").and_then(Value::as_str).unwrap_or_default().replace('\n', " ")
    }

    /// The value of a key that is not set, if there is one.
    pub(super) fn default(self) -> Option<&'a Value> {
        self.key.get("default").filter(|default| !default.is_null())
    }

    /// A value that the key could have.
    pub(super) fn example(self) -> Option<&'a Value> {
        self.key.get("examples")?.get(0)
    }

    /// Says what kind of value is wanted, as in "must be ...".
    pub(super) fn wanted(self) -> String {
        match self.kind() {
            Kind::Table => "a table".to_owned(),
            Kind::Array(element) if matches!(element.kind(), Kind::Table) => {
                "an array of tables (each begins with its name in double brackets)".to_owned()
            }
            Kind::Array(_) => "an array".to_owned(),
            Kind::Boolean => "true or false".to_owned(),
            Kind::Choice(choices) => format!("one of {}", quoted(&choices)),
            Kind::Integer => match self.range() {
                (Some(min), Some(max)) if min == max => format!("{min}"),
                (Some(min), Some(max)) => format!("an integer from {min} to {max}"),
                (Some(min), None) => format!("an integer of {min} or more"),
                _ => "an integer".to_owned(),
            },
            Kind::Number => match (self.number("minimum"), self.number("maximum")) {
                (Some(min), Some(max)) => format!("a number from {min} to {max}"),
                _ => "a number".to_owned(),
            },
            Kind::String => match self.text("format") {
                Some("socket-address") => "an address and port such as \"127.0.0.1:1883\" or \"[::]:1883\"".to_owned(),
                Some("network") => "an address or network such as \"192.0.2.7\" or \"10.0.0.0/8\"".to_owned(),
                Some("url-path") => "a path that begins with a slash, such as \"/mqtt\"".to_owned(),
                _ => match (self.integer("minLength"), self.integer("maxLength")) {
                    (Some(min), Some(max)) => format!("a string of {min} to {max} characters"),
                    (None, Some(max)) => format!("a string of at most {max} characters"),
                    _ => "a string".to_owned(),
                },
            },
        }
    }

    pub(super) fn range(self) -> (Option<i64>, Option<i64>) {
        (self.integer("minimum"), self.integer("maximum"))
    }

    /// Whether the value will do.
    ///
    /// # Errors
    /// What is wrong, as in "must be ...".
    pub(super) fn check(self, given: &Given<'_>) -> Result<(), String> {
        let (good, shown, hint) = match (self.kind(), given) {
            (Kind::Boolean, Given::Boolean) => return Ok(()),
            (Kind::Integer, Given::Integer(value)) => (self.in_range(*value), value.to_string(), String::new()),
            (Kind::Number, Given::Integer(value)) => (self.spans(*value as f64), value.to_string(), String::new()),
            (Kind::Number, Given::Number(value)) => (self.spans(*value), value.to_string(), String::new()),
            (Kind::String, Given::String(text)) => (self.is_well_formed(text), format!("{text:?}"), String::new()),
            (Kind::Choice(choices), Given::String(text)) => {
                let hint = suggestion(text, choices.iter().copied());
                (choices.contains(text), format!("{text:?}"), hint)
            }
            (Kind::Integer | Kind::Number, Given::String(text)) => (false, format!("{text:?}"), String::new()),
            (_, given) => (false, given.kind().to_owned(), String::new()),
        };
        match good {
            true => Ok(()),
            false => Err(format!("must be {}, not {shown}{hint}", self.wanted())),
        }
    }

    fn in_range(self, value: i64) -> bool {
        let (min, max) = self.range();
        min.is_none_or(|min| value >= min) && max.is_none_or(|max| value <= max)
    }

    fn spans(self, value: f64) -> bool {
        let (min, max) = (self.number("minimum"), self.number("maximum"));
        value.is_finite() && min.is_none_or(|min| value >= min) && max.is_none_or(|max| value <= max)
    }

    fn is_well_formed(self, text: &str) -> bool {
        let length = text.chars().count() as i64;
        let fits = self.integer("minLength").is_none_or(|min| length >= min)
            && self.integer("maxLength").is_none_or(|max| length <= max);
        fits && match self.text("format") {
            Some("socket-address") => text.parse::<SocketAddr>().is_ok(),
            Some("network") => text.parse::<Network>().is_ok(),
            Some("url-path") => text.starts_with('/') && text.bytes().all(|byte| byte.is_ascii_graphic()),
            _ => true,
        }
    }
}

impl Given<'_> {
    fn kind(&self) -> &'static str {
        match self {
            Given::Boolean => "a boolean",
            Given::Integer(_) => "an integer",
            Given::Number(_) => "a number with a fraction",
            Given::String(_) => "a string",
            Given::Other(kind) => kind,
        }
    }
}

/// `"a", "b"`
pub(super) fn quoted(names: &[&str]) -> String {
    names.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ")
}
