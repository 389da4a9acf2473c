//! From a file and the environment to a checked configuration.
//!
//! Owns the order: syntax, keys and values, environment, meaning, files. Each stage reports all it finds; a later one runs only if the
//! earlier ones found nothing.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Table;

use super::check::{self, Depth};
use super::document::Document;
use super::policy::{PolicyError, read_policy};
use super::problem::{Place, Problem, Severity};
use super::schema::{Node, json_schema};
use super::{Config, environment};

/// A configuration that can be run.
#[derive(Debug)]
pub struct Loaded {
    /// What was configured. Relative paths of the file are resolved.
    pub config: Config,
    /// What is probably not meant.
    pub warnings: Vec<Problem>,
}

/// Reads and checks a file, and the files that it names.
///
/// # Errors
/// All errors that were found, then all warnings.
pub fn load(path: &Path, environment: impl IntoIterator<Item = (String, String)>) -> Result<Loaded, Vec<Problem>> {
    load_to(path, environment, Depth::Files)
}

/// [`load`], as far as `depth` says.
///
/// # Errors
/// All errors that were found, then all warnings.
pub fn load_to(
    path: &Path,
    environment: impl IntoIterator<Item = (String, String)>,
    depth: Depth,
) -> Result<Loaded, Vec<Problem>> {
    let name = path.display().to_string();
    let content = fs::read_to_string(path).map_err(|error| {
        vec![Problem { severity: Severity::Error, place: Place::File(name.clone()), message: error.to_string() }]
    })?;
    let folder = path.parent().unwrap_or(Path::new(""));
    read(&name, &content, folder, environment, depth)
}

/// Checks a file's content without touching the files that it names.
///
/// # Errors
/// All errors that were found, then all warnings.
pub fn parse(
    name: &str,
    content: &str,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<Loaded, Vec<Problem>> {
    read(name, content, Path::new(""), environment, Depth::Meaning)
}

fn read(
    name: &str,
    content: &str,
    folder: &Path,
    environment: impl IntoIterator<Item = (String, String)>,
    depth: Depth,
) -> Result<Loaded, Vec<Problem>> {
    let schema = json_schema();
    let schema = Node::root(&schema);
    let (document, mut problems) = Document::read(name, content, schema);
    let (overrides, more) = environment::overrides(environment, schema);
    problems.extend(more);
    if !problems.is_empty() {
        return Err(problems);
    }

    let whole = |error: toml::de::Error| {
        let message = error.message().to_owned();
        vec![match error.span() {
            Some(bytes) => document.error_at(bytes, message),
            None => Problem { severity: Severity::Error, place: Place::File(name.to_owned()), message },
        }]
    };
    // First without the environment: the errors of this one have places.
    toml::from_str::<Config>(content).map_err(whole)?;
    let mut table: Table = toml::from_str(content).map_err(whole)?;
    let variables: BTreeMap<_, _> = overrides.iter().map(environment::Override::path_and_variable).collect();
    overrides.into_iter().for_each(|value| value.apply(&mut table));
    let mut config = Config::deserialize(table).map_err(whole)?;

    resolve_paths(&mut config, folder);
    let findings = check::check(&config, depth);
    let place = |path: &str| match variables.get(path) {
        Some(variable) => Place::Environment(variable.clone()),
        None => document.place(path),
    };
    let mut problems: Vec<Problem> = findings.into_iter().map(|finding| finding.at(place)).collect();
    if depth == Depth::Files {
        problems.extend(policy_problems(&config));
    }
    match problems.iter().any(|problem| problem.severity == Severity::Error) {
        false => Ok(Loaded { config, warnings: problems }),
        true => {
            problems.sort_by_key(|problem| problem.severity != Severity::Error);
            Err(problems)
        }
    }
}

/// What is wrong or doubtful in the policy, if there is one that can be read.
fn policy_problems(config: &Config) -> Vec<Problem> {
    match config.policy.file.as_deref().map(read_policy) {
        Some(Ok((_, warnings))) => warnings,
        Some(Err(PolicyError::Wrong(problems))) => problems,
        Some(Err(PolicyError::Io { .. })) | None => Vec::new(),
    }
}

/// Makes the paths of a configuration independent of the folder the process is started in.
fn resolve_paths(config: &mut Config, folder: &Path) {
    let resolve = |path: &mut PathBuf| *path = folder.join(&*path);
    config.authentication.password_file.as_mut().map(resolve);
    config.authentication.jwt.as_mut().map(|jwt| &mut jwt.keys_file).map(resolve);
    config.storage.data_directory.as_mut().map(resolve);
    config.audit.directory.as_mut().map(resolve);
    config.policy.file.as_mut().map(resolve);
    let enrolment = &mut config.enrolment;
    for path in [&mut enrolment.certificate_file, &mut enrolment.key_file, &mut enrolment.authority_directory] {
        path.as_mut().map(resolve);
    }
    config.admin.token_file.as_mut().map(resolve);
    if let Some(tls) = &mut config.admin.tls {
        resolve(&mut tls.certificate_file);
        resolve(&mut tls.key_file);
        tls.client_ca_file.as_mut().map(resolve);
        tls.crl_file.as_mut().map(resolve);
    }
    for tls in config.listener.iter_mut().filter_map(|listener| listener.tls.as_mut()) {
        resolve(&mut tls.certificate_file);
        resolve(&mut tls.key_file);
        tls.client_ca_file.as_mut().map(resolve);
        tls.crl_file.as_mut().map(resolve);
    }
}
