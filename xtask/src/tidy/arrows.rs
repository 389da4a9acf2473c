//! Which crate may depend on which.
//!
//! Owns the table of arrows. Dependencies of tests are free: an arrow is what
//! ships. A new arrow is a change of architecture, made here and in
//! ARCHITECTURE.md together.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result};

use super::{Finding, TextFile, line_of};

/// Each crate's folder, and the folders it may depend on.
const ARROWS: &[(&str, &[&str])] = &[
    ("broker", &["core", "storage", "fleet", "protocol"]),
    ("core", &["fleet", "protocol"]),
    ("storage", &[]),
    ("fleet", &[]),
    ("protocol", &[]),
    ("tcu-client", &["fleet", "protocol"]),
    ("conformance", &["protocol"]),
    ("sim", &["core", "storage", "fleet", "protocol", "tcu-client"]),
    ("fuzz", &["core", "protocol", "fleet"]),
    ("benches", &["core", "storage", "fleet", "protocol"]),
    ("xtask", &[]),
];

/// Checks every crate's dependencies against the table.
///
/// # Errors
/// When a manifest is no TOML.
pub(super) fn check(files: &[TextFile]) -> Result<Vec<Finding>> {
    let mut crates = Vec::new();
    for file in files {
        if let Some(manifest) = manifest(file)? {
            crates.push((file, manifest));
        }
    }
    let folders: BTreeMap<String, &str> =
        crates.iter().filter_map(|(file, manifest)| Some((package_name(manifest)?, folder(&file.path)?))).collect();
    let mut findings = Vec::new();
    for (file, manifest) in &crates {
        let Some(from) = folder(&file.path) else {
            continue;
        };
        let Some((_, allowed)) = ARROWS.iter().find(|(name, _)| *name == from) else {
            findings.push(Finding::new(
                &file.path,
                1,
                format!("crate {from} has no arrows: add it to the table in xtask/src/tidy/arrows.rs"),
            ));
            continue;
        };
        for name in dependencies(manifest) {
            let Some(to) = folders.get(&name) else {
                continue;
            };
            if !allowed.contains(to) {
                findings.push(Finding::new(
                    &file.path,
                    line_of(&file.text, &name),
                    format!("{from} must not depend on {to}: remove it, or change the architecture"),
                ));
            }
        }
    }
    Ok(findings)
}

/// The manifest of a crate; the workspace's own is none.
pub(super) fn manifest(file: &TextFile) -> Result<Option<toml::Table>> {
    if file.path.file_name().is_none_or(|name| name != "Cargo.toml") {
        return Ok(None);
    }
    let table: toml::Table = file.text.parse().with_context(|| format!("{} is no TOML", file.path.display()))?;
    Ok(table.contains_key("package").then_some(table))
}

/// The packages a manifest depends on, those of tests aside.
pub(super) fn dependencies(manifest: &toml::Table) -> Vec<String> {
    let mut tables = vec![manifest];
    if let Some(targets) = manifest.get("target").and_then(toml::Value::as_table) {
        tables.extend(targets.values().filter_map(toml::Value::as_table));
    }
    tables
        .into_iter()
        .flat_map(|table| ["dependencies", "build-dependencies"].map(|key| table.get(key)))
        .flatten()
        .filter_map(toml::Value::as_table)
        .flatten()
        .map(|(name, value)| {
            // A renamed dependency says its package.
            let package = value.get("package").and_then(toml::Value::as_str);
            package.unwrap_or(name).to_owned()
        })
        .collect()
}

/// The top folder of a path.
pub(super) fn folder(path: &Path) -> Option<&str> {
    path.components().next()?.as_os_str().to_str()
}

fn package_name(manifest: &toml::Table) -> Option<String> {
    Some(manifest.get("package")?.get("name")?.as_str()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(core_dependencies: &str) -> [TextFile; 3] {
        [
            TextFile::new("Cargo.toml", "[workspace]\n"),
            TextFile::new("storage/Cargo.toml", "[package]\nname = \"causeway-storage\"\n"),
            TextFile::new("core/Cargo.toml", &format!("[package]\nname = \"causeway-core\"\n{core_dependencies}")),
        ]
    }

    #[test]
    fn a_forbidden_arrow_is_found_with_its_line() {
        let findings = check(&files("[dependencies]\ncauseway-storage.workspace = true\n")).unwrap();
        assert_eq!(findings.len(), 1);
        assert_eq!(findings[0].line, 4);
        assert!(findings[0].what.contains("core must not depend on storage"));
    }

    #[test]
    fn a_renamed_or_conditional_arrow_is_found() {
        let renamed = "[dependencies]\nlog = { package = \"causeway-storage\", path = \"../storage\" }\n";
        assert_eq!(check(&files(renamed)).unwrap().len(), 1);
        let conditional = "[target.'cfg(unix)'.dependencies]\ncauseway-storage = \"1\"\n";
        assert_eq!(check(&files(conditional)).unwrap().len(), 1);
    }

    #[test]
    fn tests_may_depend_on_anything() {
        let findings = check(&files("[dev-dependencies]\ncauseway-storage.workspace = true\n"));
        assert_eq!(findings.unwrap(), []);
    }

    #[test]
    fn an_unknown_crate_is_found() {
        let file = TextFile::new("cloud/Cargo.toml", "[package]\nname = \"cloud\"\n");
        assert!(check(&[file]).unwrap()[0].what.contains("no arrows"));
    }
}
