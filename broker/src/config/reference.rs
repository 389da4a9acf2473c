//! The reference of all keys and the sample configuration, made from the schema.
//!
//! Owns their layout. What they say stands at the types.

use std::fmt::Write as _;

use serde_json::Value;

use super::environment::{has_variable, variable};
use super::schema::{Kind, Node, json_schema};

const SAMPLE_HEAD: &str = "\
#:schema ./causeway.schema.json
#
# Configuration of causewayd: every key with its default. Keys that have none are commented out.
#
# Check it with:  causewayd check causeway.toml
# Run it with:    causewayd run --config causeway.toml
#
# Keys outside of [[listener]], but for lists, can be set by environment variables, too: CAUSEWAY_LOG__LEVEL=debug is level in
# [log].
# Relative paths are relative to the folder of this file.
";

/// Columns of the sample.
const WIDTH: usize = 110;

/// A TOML file with every key at its default.
pub fn sample() -> String {
    let schema = json_schema();
    let mut text = SAMPLE_HEAD.to_owned();
    for (name, section) in Node::root(&schema).keys() {
        let (header, table) = match section.kind() {
            Kind::Array(element) => (format!("[[{name}]]"), element),
            _ => (format!("[{name}]"), section),
        };
        text.push('\n');
        comment(&mut text, &section.description());
        sample_table(&mut text, name, &header, table, "");
    }
    text
}

/// Each line begins with `off`, which is `# ` for a table that is not there by default.
fn sample_table(text: &mut String, path: &str, header: &str, table: Node<'_>, off: &str) {
    push_line(text, &format!("{off}{header}"));
    let is_table = |schema: Node<'_>| matches!(schema.kind(), Kind::Table);
    for (name, schema) in table.keys().filter(|(_, schema)| !is_table(*schema)) {
        comment(text, &schema.description());
        comment_values(text, schema);
        let (off, value) = match (schema.default(), schema.example()) {
            (Some(default), _) => (off, default),
            (None, Some(example)) => ("# ", example),
            (None, None) => ("# ", &Value::Null),
        };
        push_line(text, &format!("{off}{name} = {value}"));
    }
    for (name, schema) in table.keys().filter(|(_, schema)| is_table(*schema)) {
        let path = format!("{path}.{name}");
        text.push('\n');
        comment(text, &schema.description());
        sample_table(text, &path, &format!("[{path}]"), schema, "# ");
    }
}

fn comment_values(text: &mut String, schema: Node<'_>) {
    let choices: Vec<_> = schema.choices_described().collect();
    let width = choices.iter().map(|(choice, _)| choice.len()).max().unwrap_or_default() + 2;
    for (choice, meaning) in choices {
        push_line(text, &format!("#   {:width$}  {meaning}", format!("{choice:?}")));
    }
    match (schema.kind(), schema.range()) {
        (Kind::Integer, (Some(min), Some(max))) if min == max => push_line(text, &format!("#   {min} only")),
        (Kind::Integer, (Some(min), Some(max))) => push_line(text, &format!("#   {min} to {max}")),
        (Kind::Number, _) => push_line(text, &format!("#   {}", schema.wanted().trim_start_matches("a number from "))),
        _ => {}
    }
}

/// Wraps the words of a comment.
fn comment(text: &mut String, words: &str) {
    let mut line = "#".to_owned();
    for word in words.split(' ') {
        if line.len() + word.len() >= WIDTH {
            push_line(text, &line);
            line = "#".to_owned();
        }
        line.push(' ');
        line.push_str(word);
    }
    push_line(text, &line);
}

fn push_line(text: &mut String, line: &str) {
    text.push_str(line);
    text.push('\n');
}

/// Markdown tables of every key.
pub fn reference() -> String {
    let schema = json_schema();
    let mut text = String::new();
    for (name, section) in Node::root(&schema).keys() {
        match section.kind() {
            Kind::Array(element) => reference_table(&mut text, name, &format!("[[{name}]]"), section, element, false),
            _ => reference_table(&mut text, name, &format!("[{name}]"), section, section, true),
        }
    }
    text
}

fn reference_table(
    text: &mut String,
    path: &str,
    header: &str,
    section: Node<'_>,
    table: Node<'_>,
    has_variables: bool,
) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "### `{header}`\n\n{}\n", section.description());
    let _ = writeln!(text, "| Key | Value | Default | Meaning |\n|---|---|---|---|");
    let is_table = |schema: Node<'_>| matches!(schema.kind(), Kind::Table);
    for (name, schema) in table.keys().filter(|(_, schema)| !is_table(*schema)) {
        let default = match schema.default() {
            Some(default) => format!("`{default}`"),
            None if table.required().any(|required| required == name) => "needed".to_owned(),
            None => "none".to_owned(),
        };
        let mut meaning = schema.description();
        for (choice, what) in schema.choices_described() {
            let _ = write!(meaning, "<br>`{choice:?}`: {what}");
        }
        if has_variables && has_variable(schema) {
            let _ = write!(meaning, "<br>`{}`", variable(path, name));
        }
        let _ = writeln!(text, "| `{name}` | {} | {default} | {meaning} |", kind(schema));
    }
    text.push('\n');
    for (name, schema) in table.keys().filter(|(_, schema)| is_table(*schema)) {
        let path = format!("{path}.{name}");
        reference_table(text, &path, &format!("[{path}]"), schema, schema, false);
    }
}

fn kind(schema: Node<'_>) -> String {
    match schema.kind() {
        Kind::Choice(_) => "one of these".to_owned(),
        Kind::Array(element) => format!("array; each {}", element.wanted()),
        _ => schema.wanted(),
    }
}
