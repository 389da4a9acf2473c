//! Who may do what: every line of `matrix/matrix.tsv` is decided by the rules alone, and tried over a real connection.
//!
//! The broker is the daemon itself, with a registry, a policy and a listener that asks for certificates; what a try came to is what
//! its client was told, and what an operator who sees everything was sent.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "all of this is test code")]
#![allow(unreachable_pub, reason = "the parts of one test")]

mod matrix {
    pub mod client;
    pub mod fleet;
    pub mod rows;
    pub mod rules;
    pub mod tries;
}
mod support;

use matrix::fleet::Fleet;
use matrix::rows::{Row, rows};
use matrix::rules::Rules;
use matrix::tries::Tries;

/// What a line says, and what it came to.
fn differences(tried: impl Iterator<Item = (usize, String, String)>) -> Vec<String> {
    tried
        .filter(|(_, expected, found)| expected != found)
        .map(|(line, expected, found)| format!("line {line}: {expected:?} expected, {found:?} found"))
        .collect()
}

/// How many lines there are of each kind.
fn summary(rows: &[Row]) -> String {
    let refused = rows.iter().filter(|row| ["refused", "invalid", "nothing"].contains(&row.expected.as_str())).count();
    let kinds = rows.chunk_by(|one, other| one.tried == other.tried).map(|chunk| chunk[0].tried.as_str());
    let kinds: std::collections::BTreeSet<&str> = kinds.collect();
    let counts = kinds.iter().map(|kind| format!("{kind} {}", rows.iter().filter(|row| row.tried == *kind).count()));
    format!("{} lines ({}), of which {refused} must be refused", rows.len(), counts.collect::<Vec<_>>().join(", "))
}

#[test]
fn every_line_is_decided_as_it_says() {
    let (rows, rules) = (rows(), Rules::load());
    let decided = rows.iter().map(|row| (row.line, row.expected.clone(), rules.decide(row)));
    let wrong = differences(decided);
    assert!(wrong.is_empty(), "{} of {} lines:\n{}", wrong.len(), rows.len(), wrong.join("\n"));
    println!("\nmatrix: {}, decided by the rules alone", summary(&rows));
}

#[test]
fn every_line_comes_true_over_a_real_connection() {
    let (rows, fleet) = (rows(), Fleet::start());
    let mut tries = Tries::new(&fleet);
    let wrong = differences(rows.iter().map(|row| (row.line, row.expected.clone(), tries.outcome(row))));
    assert!(wrong.is_empty(), "{} of {} lines:\n{}\n{}", wrong.len(), rows.len(), wrong.join("\n"), fleet.log());
    println!("\nmatrix: {}, tried over real connections", summary(&rows));
}
