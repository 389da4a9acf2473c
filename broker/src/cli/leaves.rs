//! JSON documents leaf by leaf, for people.
//!
//! Owns paths such as `climate.target`, and a change on one line.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::table::text;

/// The most characters of a value on one line.
const VALUE_CHARS_MAX: usize = 60;

/// What stands at each path. An array is a leaf, and so is an empty object.
pub(super) fn leaves(value: &Value) -> BTreeMap<String, Value> {
    let mut leaves = BTreeMap::new();
    gather(value, &mut String::new(), &mut leaves);
    leaves
}

fn gather(value: &Value, path: &mut String, leaves: &mut BTreeMap<String, Value>) {
    match value {
        Value::Object(fields) if !fields.is_empty() || path.is_empty() => {
            for (key, field) in fields {
                let length = path.len();
                if length > 0 {
                    path.push('.');
                }
                path.push_str(&key.replace('.', "\\."));
                gather(field, path, leaves);
                path.truncate(length);
            }
        }
        Value::Null if path.is_empty() => {}
        leaf => drop(leaves.insert(path.clone(), leaf.clone())),
    }
}

/// What a path leads to, in the form that [`leaves`] gives.
pub(super) fn at<'a>(value: &'a Value, path: &str) -> &'a Value {
    parts(path).iter().fold(value, |value, part| &value[part.as_str()])
}

/// The document that has these values at their paths.
///
/// # Errors
/// The path that is empty, or leads through another's value.
pub(super) fn document(values: Vec<(String, Value)>) -> Result<Value, String> {
    let mut document = Map::new();
    for (path, value) in values {
        let parts = parts(&path);
        let (last, above) = parts.split_last().filter(|_| !parts.iter().any(String::is_empty)).ok_or(path.clone())?;
        let mut fields = &mut document;
        for part in above {
            let next = fields.entry(part.clone()).or_insert_with(|| Map::new().into());
            fields = next.as_object_mut().ok_or(path.clone())?;
        }
        if fields.insert(last.clone(), value).is_some() {
            return Err(path);
        }
    }
    Ok(document.into())
}

/// The keys of a path. `\.` is a dot in a key.
fn parts(path: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut characters = path.chars().peekable();
    while let Some(character) = characters.next() {
        let last = parts.len() - 1;
        match character {
            '.' => parts.push(String::new()),
            '\\' if characters.peek() == Some(&'.') => parts[last].extend(characters.next()),
            other => parts[last].push(other),
        }
    }
    parts
}

/// A value on one line, cut to what a line can bear. Texts keep their quotes: `"1"` is not `1`.
pub(super) fn short(value: &Value) -> String {
    let whole = text(&Value::String(value.to_string()));
    match whole.char_indices().nth(VALUE_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &whole[..end]),
        None => whole,
    }
}

/// What an entry of a history says, such as `desired.climate.target: 19 -> 21`.
pub(super) fn difference(entry: &Value) -> String {
    let (from, to) = (leaves(&entry["from"]), leaves(&entry["to"]));
    let mut said = Vec::new();
    for path in to.keys().chain(from.keys().filter(|path| !to.contains_key(*path))) {
        said.push(match (from.get(path), to.get(path).filter(|to| !to.is_null())) {
            (Some(from), Some(to)) => format!("{path}: {} -> {}", short(from), short(to)),
            (None, Some(to)) => format!("{path}: {}", short(to)),
            // What was an object is gone with what was below it.
            (Some(_), None) | (None, None) if is_above(path, &from, &to) => continue,
            (Some(from), None) => format!("{path}: {} -> gone", short(from)),
            (None, None) => format!("{path}: gone"),
        });
    }
    for kind in ["released", "expired"] {
        let dropped = leaves(&entry[kind]);
        said.extend(dropped.iter().map(|(path, value)| format!("desired.{path} {kind} ({})", short(value))));
    }
    one_line(said.join("; "))
}

/// On one line, and nothing that a terminal would take for orders: keys are what vehicles say.
pub(super) fn one_line(said: String) -> String {
    text(&Value::String(said))
}

/// Whether another path below this one says what happened.
fn is_above(path: &str, from: &BTreeMap<String, Value>, to: &BTreeMap<String, Value>) -> bool {
    let below = format!("{path}.");
    from.keys().chain(to.keys()).any(|other| other.starts_with(&below))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn keys_of_vehicles_give_no_orders_to_terminals() {
        let entry = json!({ "to": { "reported": { "\u{1b}[2J\nfake": 1 } }, "expired": { "\u{9b}m": 2 } });
        assert_eq!(difference(&entry), "reported. [2J fake: 1; desired. m expired (2)");
    }

    #[test]
    fn paths_lead_to_leaves_and_back() {
        let value = json!({ "a": { "b": 1, "c.d": [1, { "x": 2 }], "e": {} }, "f": "g" });
        let leaves = leaves(&value);
        assert_eq!(leaves.keys().collect::<Vec<_>>(), ["a.b", "a.c\\.d", "a.e", "f"]);
        for (path, leaf) in &leaves {
            assert_eq!(at(&value, path), leaf);
        }
        assert_eq!(document(leaves.into_iter().collect()), Ok(value));
        for wrong in [vec!["a", "a"], vec!["a", "a.b"], vec![""], vec!["a..b"], vec!["a."]] {
            let values = wrong.iter().map(|path| ((*path).to_owned(), json!(1))).collect();
            assert!(document(values).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_change_is_one_line() {
        for (entry, line) in [
            (json!({ "from": { "desired": { "a": 19 } }, "to": { "desired": { "a": 21 } } }), "desired.a: 19 -> 21"),
            (json!({ "to": { "reported": { "a": "x", "b": 1 } } }), "reported.a: \"x\"; reported.b: 1"),
            (
                json!({ "from": { "desired": { "a": { "b": 1 } } }, "to": { "desired": { "a": null } } }),
                "desired.a.b: 1 -> gone",
            ),
            (json!({ "released": { "doors": { "locked": false } } }), "desired.doors.locked released (false)"),
            (json!({ "expired": { "a": 1 } }), "desired.a expired (1)"),
            (json!({}), ""),
        ] {
            assert_eq!(difference(&entry), line);
        }
        assert!(short(&json!("x".repeat(100))).ends_with('…'));
    }
}
