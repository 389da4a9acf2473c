//! Every Rust file opens by saying what it owns.
//!
//! Owns that one rule; whether the head says something true is for readers.

use super::{Finding, TextFile};

/// Checks that every Rust file begins with `//!`.
pub(super) fn check(files: &[TextFile]) -> Vec<Finding> {
    files
        .iter()
        .filter(|file| file.has_extension("rs") && !file.text.starts_with("//!"))
        .map(|file| {
            Finding::new(&file.path, 1, "no head: begin with `//!`, what this file owns and what it never does")
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_a_head_is_found() {
        let files = [
            TextFile::new("a.rs", "use std::fmt;\n//! Late.\n"),
            TextFile::new("b.rs", "//! Owns b.\n"),
            TextFile::new("c.toml", "x = 1\n"),
        ];
        let findings = check(&files);
        assert_eq!(findings.len(), 1);
        assert_eq!(findings[0].file, files[0].path);
    }
}
