//! Owns the list of failures that are expected of a broker, and the selection of tests by name. Never runs a test.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};

use crate::registry::Test;

/// Test names with the explanation why they are known to fail.
#[derive(Clone, Debug, Default)]
pub struct KnownFailures(BTreeMap<String, String>);

impl KnownFailures {
    /// Reads lines of `test-name # explanation`; blank lines and lines that are only a comment are ignored.
    pub fn parse(text: &str) -> Result<KnownFailures> {
        let mut known = BTreeMap::new();
        for (index, line) in text.lines().enumerate() {
            let (name, explanation) = line.split_once('#').unwrap_or((line, ""));
            let (name, explanation) = (name.trim(), explanation.trim());
            if name.is_empty() {
                continue;
            }
            let number = index + 1;
            ensure!(!explanation.is_empty(), "line {number}: {name} needs an explanation behind '#'");
            let twice = known.insert(name.to_owned(), explanation.to_owned());
            ensure!(twice.is_none(), "line {number}: {name} is listed twice");
        }
        Ok(KnownFailures(known))
    }

    /// Fails if a listed name is no test at all.
    pub fn check_names(&self, tests: &[Test]) -> Result<()> {
        let unknown = self.0.keys().find(|name| !tests.iter().any(|test| test.name == name.as_str()));
        unknown.map_or(Ok(()), |name| Err(anyhow::anyhow!("known failure {name:?} is no test of this suite")))
    }

    /// The explanation for a test, if it is listed.
    pub fn explanation(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// Reads the list from a file.
    pub fn load(path: &std::path::Path) -> Result<KnownFailures> {
        let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("in {}", path.display()))
    }
}

/// Whether a filter selects a test: a glob (with `*` or `?`) or a part of its name or of one of its statement ids.
pub fn selects(filter: &str, test: &Test) -> bool {
    let fits = |text: &str| {
        if filter.contains(['*', '?']) { glob(filter.as_bytes(), text.as_bytes()) } else { text.contains(filter) }
    };
    fits(test.name) || test.ids.iter().any(|id| fits(id))
}

fn glob(pattern: &[u8], text: &[u8]) -> bool {
    match (pattern, text) {
        ([], []) => true,
        ([b'*', rest @ ..], _) => (0..=text.len()).any(|skipped| glob(rest, &text[skipped..])),
        ([b'?', pattern @ ..], [_, text @ ..]) => glob(pattern, text),
        ([wanted, pattern @ ..], [found, text @ ..]) => wanted == found && glob(pattern, text),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn explanations_are_required() {
        let known = KnownFailures::parse("# head\n\n3.1/a # because\n").unwrap();
        assert_eq!(known.explanation("3.1/a"), Some("because"));
        assert!(KnownFailures::parse("3.1/a\n").is_err());
        assert!(KnownFailures::parse("a # x\na # y\n").is_err());
    }

    #[test]
    fn filters_are_globs_or_parts() {
        let test = Test { name: "3.1/will_is_sent", ids: &["MQTT-3.1.2-8"], ending: None, run: |_| Ok(()) };
        for filter in ["will", "3.1/*sent", "*", "MQTT-3.1.2-8", "MQTT-3.1.?-8", "3.1/will_is_sent"] {
            assert!(selects(filter, &test), "{filter}");
        }
        for filter in ["wont", "3.2/*", "will*"] {
            assert!(!selects(filter, &test), "{filter}");
        }
    }
}
