//! The policy's file.
//!
//! Owns the key that names it, and reading it with what is wrong shown as in any other file. What its rules mean is said in
//! `causeway_fleet::policy`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use causeway_fleet::policy::{self, Policy};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::problem::{Place, Problem, Severity};

/// Who may do what with which topics.
///
/// Without a file, everybody who was let in may do everything, and a vehicle everything within its own topics.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PolicySettings {
    /// File of roles and rules; what no rule allows is denied. Read again on SIGHUP and within seconds of a change. `causewayd policy
    /// explain` says what it decides.
    #[schemars(length(min = 1), example = &"policy.toml")]
    pub file: Option<PathBuf>,
}

/// Why there is no policy.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// It cannot be read.
    #[error("{}: {source}", file.display())]
    Io {
        /// Which file.
        file: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// It is wrong. All that is wrong with it, at least one thing.
    #[error("{}{}", first(.0), more(.0))]
    Wrong(Vec<Problem>),
}

fn first(problems: &[Problem]) -> String {
    problems.first().map(|problem| format!("{}{}", problem.place, problem.message)).unwrap_or_default()
}

fn more(problems: &[Problem]) -> String {
    match problems.len() {
        0 | 1 => String::new(),
        count => format!(" (and {} more)", count - 1),
    }
}

/// Reads a policy; also what in it is probably not meant.
///
/// # Errors
/// It cannot be read, or is wrong.
pub fn read_policy(file: &Path) -> Result<(Policy, Vec<Problem>), PolicyError> {
    let text = fs::read_to_string(file).map_err(|source| PolicyError::Io { file: file.to_owned(), source })?;
    if text.starts_with("-----BEGIN ") {
        // Problems are shown with their lines, and those of a key are nobody's business.
        let source = io::Error::new(io::ErrorKind::InvalidData, "a certificate or a key (PEM) is no policy");
        return Err(PolicyError::Io { file: file.to_owned(), source });
    }
    let name = file.display().to_string();
    let shown = |severity: Severity, problems: Vec<policy::Problem>| -> Vec<Problem> {
        let place = |problem: &policy::Problem| Place::in_file(&name, &text, problem.bytes.clone());
        problems
            .into_iter()
            .map(|problem| Problem { severity, place: place(&problem), message: problem.message })
            .collect()
    };
    match Policy::parse(&text) {
        Ok((policy, warnings)) => Ok((policy, shown(Severity::Warning, warnings))),
        Err(problems) => Err(PolicyError::Wrong(shown(Severity::Error, problems))),
    }
}
