//! Documents point at things that exist.
//!
//! Owns links between files and the commands that documents tell readers to
//! type. It never opens a web address.

use std::path::{Component, Path, PathBuf};

use clap::CommandFactory as _;

use super::{Finding, TextFile};
use crate::prove;

/// Each row of its tables is a claim and names the command that proves it.
const CLAIMS: &str = "docs/claims.md";

/// Checks every Markdown file.
pub(super) fn check(files: &[TextFile], root: &Path) -> Vec<Finding> {
    files
        .iter()
        .filter(|file| file.has_extension("md"))
        .flat_map(|file| check_file(file, &|path| root.join(path).exists()))
        .collect()
}

fn check_file(file: &TextFile, exists: &dyn Fn(&Path) -> bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut report = |line: usize, what: String| findings.push(Finding::new(&file.path, line, what));
    let mut in_code = false;
    for (index, line) in file.text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        }
        for command in commands(line) {
            if let Some(what) = unknown_command(command) {
                report(index + 1, what);
            }
        }
        if in_code {
            continue;
        }
        for target in links(line) {
            if !exists(&resolve(&file.path, target)) {
                report(index + 1, format!("link to {target}, which does not exist: mend or remove it"));
            }
        }
        if file.path == Path::new(CLAIMS) && is_row(&file.text, index) && !line.contains("cargo xtask prove ") {
            report(index + 1, "a claim without proof: name its `cargo xtask prove …`".to_owned());
        }
    }
    findings
}

/// The targets of `[text](target)` that are files of this repository.
fn links(line: &str) -> impl Iterator<Item = &str> {
    line.split("](")
        .skip(1)
        .filter_map(|rest| rest.split([')', ' ']).next())
        .filter(|target| !target.contains("://") && !target.starts_with("mailto:"))
        .filter_map(|target| target.split('#').next())
        .filter(|target| !target.is_empty())
}

/// Where a link in `from` leads, relative to the root.
fn resolve(from: &Path, target: &str) -> PathBuf {
    let mut path = match target.strip_prefix('/') {
        Some(_) => PathBuf::new(),
        None => from.parent().unwrap_or(Path::new("")).to_path_buf(),
    };
    for part in Path::new(target).components() {
        match part {
            Component::ParentDir => {
                path.pop();
            }
            Component::Normal(name) => path.push(name),
            _ => {}
        }
    }
    path
}

/// What follows each `cargo xtask ` on a line.
fn commands(line: &str) -> impl Iterator<Item = &str> {
    line.split("cargo xtask ").skip(1)
}

fn unknown_command(after: &str) -> Option<String> {
    let mut words = after.split(|c: char| !c.is_ascii_alphanumeric() && c != '-' && c != '_').take(2);
    let command = words.next().filter(|word| starts_as_name(word))?;
    if crate::Cli::command().find_subcommand(command).is_none() {
        return Some(format!("there is no `cargo xtask {command}`: name one that exists"));
    }
    let name = words.next().filter(|word| starts_as_name(word))?;
    let is_written_beside = after.as_bytes().get(command.len()) == Some(&b' ');
    if command == "prove" && is_written_beside && !prove::is_known(name) {
        return Some(format!("there is no `cargo xtask prove {name}`: name one of `prove list`"));
    }
    None
}

/// Names are in lower case; NAME and … are placeholders.
fn starts_as_name(word: &str) -> bool {
    word.starts_with(|first: char| first.is_ascii_lowercase())
}

/// Whether a line is a row of a table, neither its head nor the rule below.
fn is_row(text: &str, index: usize) -> bool {
    let is_table = |line: &str| line.trim_start().starts_with('|');
    let is_rule = |line: &str| is_table(line) && !line.contains(|c: char| c.is_alphanumeric());
    let mut lines = text.lines().skip(index);
    let Some(line) = lines.next() else {
        return false;
    };
    is_table(line) && !is_rule(line) && !lines.next().is_some_and(is_rule)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(path: &str, text: &str) -> Vec<usize> {
        check_file(&TextFile::new(path, text), &|path| path == Path::new("docs/lexicon.md"))
            .into_iter()
            .map(|finding| finding.line)
            .collect()
    }

    #[test]
    fn a_broken_link_is_found() {
        assert!(lines("README.md", "[words](docs/lexicon.md#top) [x](https://example.org)").is_empty());
        assert!(lines("docs/adr/0001.md", "[words](../lexicon.md) [here](#below)").is_empty());
        assert_eq!(lines("README.md", "\n[words](lexicon.md)"), [2]);
        assert!(lines("README.md", "```\n[words](lexicon.md)\n```").is_empty());
    }

    #[test]
    fn an_unknown_command_is_found() {
        assert!(lines("README.md", "Run `cargo xtask test`, then `cargo xtask prove list`.").is_empty());
        assert!(lines("README.md", "`cargo xtask prove NAME` and `cargo xtask …`").is_empty());
        assert_eq!(lines("README.md", "`cargo xtask tset`"), [1]);
        assert_eq!(lines("README.md", "`cargo xtask prove everything`"), [1]);
    }

    #[test]
    fn a_claim_names_its_proof() {
        let claims = "| Claim | Proof |\n|---|---|\n| a | `cargo xtask prove connections` |\n| b | none |\n";
        assert_eq!(lines("docs/claims.md", claims), [4]);
        assert!(lines("docs/other.md", claims).is_empty());
    }
}
