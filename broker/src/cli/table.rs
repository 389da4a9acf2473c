//! Answers of the registry for people, and what they are made of.
//!
//! Owns columns, times and lifetimes as text.

use std::io::{self, Write};

use serde_json::Value;

use crate::pki::stamp;

/// Prints JSON as it is, for programs.
pub(super) fn print_json(value: &Value, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "{value:#}")
}

/// Prints rows under their heads, each column as wide as it needs to be.
pub(super) fn print_table(heads: &[&str], rows: &[Vec<String>], out: &mut dyn Write) -> io::Result<()> {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([heads[column].len()]).max().unwrap_or_default()
    };
    let widths: Vec<_> = (0..heads.len()).map(width).collect();
    let heads: Vec<String> = heads.iter().map(|head| (*head).to_owned()).collect();
    for row in [&heads].into_iter().chain(rows) {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        writeln!(out, "{}", cells.collect::<Vec<_>>().join("  ").trim_end())?;
    }
    Ok(())
}

/// Prints `name: value` lines.
pub(super) fn print_fields(fields: &[(&str, String)], out: &mut dyn Write) -> io::Result<()> {
    let width = fields.iter().map(|(name, _)| name.len()).max().unwrap_or_default() + 1;
    fields.iter().try_for_each(|(name, value)| writeln!(out, "{:width$} {value}", format!("{name}:")))
}

/// A text of an answer, on one line.
pub(super) fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect(),
        Value::Array(values) => values.iter().map(text).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

/// A time of an answer, in milliseconds since 1970.
pub(super) fn time(value: &Value) -> String {
    value.as_u64().map(|ms| stamp((ms / 1000) as i64)).unwrap_or_default()
}

/// Seconds, as in `90s`, `15m`, `12h` or `30d`.
///
/// # Errors
/// What it should be.
pub(super) fn seconds(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} has to be a number and s, m, h or d, such as 12h");
    let unit = text.chars().next_back().ok_or_else(wrong)?;
    let factor = match unit {
        's' => 1,
        'm' => 60,
        'h' => 60 * 60,
        'd' => 24 * 60 * 60,
        _ => return Err(wrong()),
    };
    let number: u64 = text[..text.len() - unit.len_utf8()].parse().map_err(|_| wrong())?;
    number.checked_mul(factor).filter(|seconds| *seconds > 0).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lifetimes_have_units() {
        assert_eq!(seconds("90s"), Ok(90));
        assert_eq!(seconds("2d"), Ok(172_800));
        for wrong in ["", "1", "h", "0s", "-1h", "1w", "1é", "99999999999999999999d", "999999999999999999d"] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn columns_are_as_wide_as_they_need_to_be() {
        let mut out = Vec::new();
        let rows = [vec!["a".to_owned(), "long one".to_owned()], vec!["bcd".to_owned(), String::new()]];
        print_table(&["X", "NAME"], &rows, &mut out).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "X    NAME\na    long one\nbcd\n");
    }
}
