//! Words that are left behind by accident.
//!
//! Owns the list of stray words. A test may wait for time or be ignored only
//! with a comment beside it that says why.

use super::Finding;
use super::source::Source;

/// Never committed.
const NEVER: &[(&str, &str)] = &[
    ("todo!", "do it now or leave it out"),
    ("unimplemented!", "do it now or leave it out"),
    ("dbg!", "remove it, or trace it properly"),
];

/// Allowed with a comment on the same line or the line above.
const WITH_REASON: &[(&str, &str)] = &[("#[ignore]", "make it run, or say why in a comment beside it")];

/// Allowed in tests with a comment on the same line or the line above.
const IN_TESTS_WITH_REASON: &[(&str, &str)] = &[
    ("thread::sleep", "wait for a condition with a deadline, or say why in a comment beside it"),
    ("time::sleep", "wait for a condition with a deadline, or say why in a comment beside it"),
];

/// Checks every Rust file.
pub(super) fn check(sources: &[Source]) -> Vec<Finding> {
    sources.iter().flat_map(check_source).collect()
}

fn check_source(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (index, line) in source.lines.iter().enumerate() {
        let above = index.checked_sub(1).and_then(|above| source.lines.get(above));
        let has_reason = !line.comment.trim().is_empty() || above.is_some_and(|above| !above.comment.trim().is_empty());
        let mut report = |words: &[(&str, &str)]| {
            for (word, remedy) in words {
                if contains_word(&line.code, word) {
                    let what = format!("stray `{word}`: {remedy}");
                    findings.push(Finding::new(&source.path, index + 1, what));
                }
            }
        };
        report(NEVER);
        if !has_reason {
            report(WITH_REASON);
            if line.is_test {
                report(IN_TESTS_WITH_REASON);
            }
        }
    }
    findings
}

/// Whether `word` stands in `code` on its own: `my_dbg!` is not `dbg!`.
fn contains_word(code: &str, word: &str) -> bool {
    code.match_indices(word).any(|(index, _)| {
        !code[..index].chars().next_back().is_some_and(|before| before.is_alphanumeric() || before == '_')
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn lines(path: &str, text: &str) -> Vec<usize> {
        check_source(&Source::parse(Path::new(path), text)).into_iter().map(|finding| finding.line).collect()
    }

    #[test]
    fn stray_words_are_found_in_code_only() {
        assert_eq!(lines("a.rs", "fn f() {\n  todo!()\n}"), [2]);
        assert_eq!(lines("a.rs", "dbg!(x);"), [1]);
        assert!(lines("a.rs", "// todo!\nlet s = \"dbg!\"; my_dbg!(x);").is_empty());
    }

    #[test]
    fn a_sleep_in_a_test_needs_a_reason() {
        assert_eq!(lines("core/tests/a.rs", "std::thread::sleep(d);"), [1]);
        assert_eq!(lines("core/tests/a.rs", "\ntokio::time::sleep(d).await;"), [2]);
        assert!(lines("core/tests/a.rs", "// The clock itself is tested.\nthread::sleep(d);").is_empty());
        assert!(lines("core/src/a.rs", "thread::sleep(d);").is_empty());
    }

    #[test]
    fn an_ignored_test_needs_a_reason() {
        assert_eq!(lines("core/tests/a.rs", "#[ignore]"), [1]);
        assert!(lines("core/tests/a.rs", "// Takes an hour.\n#[ignore]").is_empty());
    }
}
