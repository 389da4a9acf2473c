//! `cargo xtask tidy`: the rules of this repository that no compiler knows.
//!
//! Owns the list of rules, one module each, and how findings are reported.
//! It never changes a file.

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::workspace::Workspace;

mod arrows;
mod citations;
mod documents;
mod heads;
mod purity;
mod samples;
mod source;
mod words;

use source::Source;

/// One breach of a rule.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Finding {
    /// Relative to the root.
    file: PathBuf,
    /// Counted from 1.
    line: usize,
    /// What is wrong, and what to do about it.
    what: String,
}

impl Finding {
    fn new(file: &Path, line: usize, what: impl Into<String>) -> Self {
        Self { file: file.to_path_buf(), line, what: what.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file.display(), self.line, self.what)
    }
}

/// A text file of the repository.
#[derive(Debug)]
struct TextFile {
    /// Relative to the root.
    path: PathBuf,
    text: String,
}

impl TextFile {
    #[cfg(test)]
    fn new(path: &str, text: &str) -> Self {
        Self { path: path.into(), text: text.into() }
    }

    fn has_extension(&self, extension: &str) -> bool {
        self.path.extension().is_some_and(|found| found == extension)
    }
}

/// Checks every rule and prints one line for each breach.
///
/// # Errors
/// When there is a breach, or a rule cannot be checked.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    let files = read(workspace)?;
    let sources = Source::read_all(&files);
    let mut findings = Vec::new();
    findings.extend(arrows::check(&files)?);
    findings.extend(purity::check(&files, &sources)?);
    findings.extend(heads::check(&files));
    findings.extend(words::check(&sources));
    findings.extend(citations::check(&files));
    findings.extend(documents::check(&files, &workspace.root));
    findings.extend(samples::check(workspace, &files)?);
    findings.sort();
    findings.dedup();
    for finding in &findings {
        println!("{finding}");
    }
    if !findings.is_empty() {
        bail!("{} breaches of the rules of this repository", findings.len());
    }
    println!("{} files obey the rules of this repository", files.len());
    Ok(())
}

/// Reads every text file; a file that is no UTF-8 has no rules.
fn read(workspace: &Workspace) -> Result<Vec<TextFile>> {
    let mut files = Vec::new();
    for path in workspace.files()? {
        let bytes =
            std::fs::read(workspace.root.join(&path)).with_context(|| format!("cannot read {}", path.display()))?;
        if let Ok(text) = String::from_utf8(bytes) {
            files.push(TextFile { path, text });
        }
    }
    Ok(files)
}

/// The number of the line that holds `needle`, or 1.
fn line_of(text: &str, needle: &str) -> usize {
    text.lines().position(|line| line.contains(needle)).map_or(1, |index| index + 1)
}
