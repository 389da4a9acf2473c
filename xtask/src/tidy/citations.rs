//! Cited statements of the MQTT specifications exist.
//!
//! Owns joining `[MQTT-x]` in code with the lists of statements. Whether the
//! code obeys what it cites is for its tests.

use std::collections::BTreeSet;

use super::{Finding, TextFile};

/// The lists, one statement a row, its identifier first.
const LISTS: &[&str] = &["conformance/spec/mqtt5-normative.tsv", "conformance/spec/mqtt311-statement-ids.tsv"];

/// Checks every citation in Rust files.
pub(super) fn check(files: &[TextFile]) -> Vec<Finding> {
    let known = known_statements(files);
    let mut findings = Vec::new();
    for file in files.iter().filter(|file| file.has_extension("rs")) {
        for (index, line) in file.text.lines().enumerate() {
            for statement in cited(line) {
                if !known.contains(statement) {
                    findings.push(Finding::new(
                        &file.path,
                        index + 1,
                        format!("[{statement}] is in no specification: look it up in {}", LISTS[0]),
                    ));
                }
            }
        }
    }
    findings
}

fn known_statements(files: &[TextFile]) -> BTreeSet<&str> {
    files
        .iter()
        .filter(|file| LISTS.iter().any(|list| file.path.as_os_str() == *list))
        .flat_map(|file| file.text.lines())
        .filter_map(|line| line.split('\t').next())
        .collect()
}

/// The identifiers in `[MQTT-3.1.2-5]` and the like. What has no digit behind
/// the dash is a placeholder in prose.
fn cited(line: &str) -> impl Iterator<Item = &str> {
    line.split('[').skip(1).filter_map(|rest| rest.split_once(']')).map(|(inside, _)| inside).filter(|inside| {
        inside.strip_prefix("MQTT-").is_some_and(|number| number.starts_with(|first: char| first.is_ascii_digit()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(code: &str) -> [TextFile; 2] {
        [TextFile::new(LISTS[0], "id\tsection\nMQTT-3.1.2-5\t3.1.2\n"), TextFile::new("core/src/a.rs", code)]
    }

    #[test]
    fn an_unknown_statement_is_found() {
        assert_eq!(check(&files("//= [MQTT-3.1.2-5] resume\n")), []);
        // Put together here, lest this very file cites it.
        let unknown = format!("[{}-3.1.2-500]", "MQTT");
        let findings = check(&files(&format!("\n//= test {unknown}\n")));
        assert_eq!(findings.len(), 1);
        assert_eq!(findings[0].line, 2);
    }

    #[test]
    fn a_placeholder_is_no_citation() {
        assert_eq!(check(&files("//! Cites `[MQTT-x]`, and [links].\n")), []);
    }
}
