//! The crates that decide never wait.
//!
//! Owns what `protocol`, `fleet` and `core` may name and depend on: no
//! runtime, sockets, files, clocks, threads, locks or ambient randomness.
//! Their tests are free.

use anyhow::Result;

use super::source::{NamedPath, Source};
use super::{Finding, TextFile, arrows, line_of};

/// The pure crates, and the foreign crates each may depend on.
const PURE_CRATES: &[(&str, &[&str])] = &[
    ("protocol", &["bytes", "thiserror", "smallvec"]),
    (
        "fleet",
        &[
            "argon2",
            "base64",
            "bytes",
            "foldhash",
            "minicbor",
            "ring",
            "serde",
            "serde_json",
            "smallvec",
            "strsim",
            "thiserror",
            "toml",
        ],
    ),
    ("core", &["bytes", "foldhash", "slab", "smallvec", "thiserror"]),
];

/// Where a forbidden name must stand in a path.
enum At {
    /// At its beginning.
    Start,
    /// Anywhere: the name has one meaning only.
    Anywhere,
}

const FORBIDDEN: &[(At, &[&str], &str)] = &[
    (At::Anywhere, &["tokio"], "the edges in broker/ wait, this crate decides"),
    (At::Start, &["std", "net"], "take addresses as opaque input from broker/"),
    (At::Start, &["std", "fs"], "files belong to storage/ and broker/"),
    (At::Start, &["std", "thread"], "threads belong to broker/"),
    (At::Anywhere, &["thread", "spawn"], "threads belong to broker/"),
    (At::Anywhere, &["time", "Instant"], "take `now` as an argument"),
    (At::Anywhere, &["Instant", "now"], "take `now` as an argument"),
    (At::Anywhere, &["SystemTime"], "take `now` as an argument"),
    (At::Anywhere, &["Mutex"], "one shard is one thread: own the value instead"),
    (At::Anywhere, &["RwLock"], "one shard is one thread: own the value instead"),
    (At::Start, &["rand"], "take randomness as an argument"),
    (At::Anywhere, &["SystemRandom"], "take randomness as an argument"),
    (At::Anywhere, &["getrandom"], "take randomness as an argument"),
];

/// Checks the sources and the manifests of the pure crates.
///
/// # Errors
/// When a manifest is no TOML.
pub(super) fn check(files: &[TextFile], sources: &[Source]) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for source in sources.iter().filter(|source| is_pure(source)) {
        for path in source.named_paths() {
            if let Some(remedy) = breach(&path) {
                let name = path.segments.join("::");
                findings.push(Finding::new(
                    &source.path,
                    path.line,
                    format!("a pure crate must not name {name}: {remedy}"),
                ));
            }
        }
    }
    for file in files {
        findings.extend(check_manifest(file)?);
    }
    Ok(findings)
}

fn is_pure(source: &Source) -> bool {
    PURE_CRATES.iter().any(|(name, _)| source.path.starts_with(format!("{name}/src")))
}

fn breach(path: &NamedPath) -> Option<&'static str> {
    let segments: Vec<&str> = path.segments.iter().map(String::as_str).collect();
    FORBIDDEN
        .iter()
        .find(|(at, name, _)| match at {
            // A lone word that equals a crate's name is likely a variable.
            At::Start => segments.len() > 1 && segments.starts_with(name),
            At::Anywhere => segments.windows(name.len()).any(|window| window == *name),
        })
        .map(|(_, _, remedy)| *remedy)
}

fn check_manifest(file: &TextFile) -> Result<Vec<Finding>> {
    let Some(manifest) = arrows::manifest(file)? else {
        return Ok(Vec::new());
    };
    let folder = arrows::folder(&file.path);
    let Some((name, allowed)) = PURE_CRATES.iter().find(|(name, _)| Some(*name) == folder) else {
        return Ok(Vec::new());
    };
    Ok(arrows::dependencies(&manifest)
        .iter()
        // Arrows between this workspace's crates have their own rule.
        .filter(|dependency| !dependency.starts_with("causeway-"))
        .filter(|dependency| !allowed.contains(&dependency.as_str()))
        .map(|dependency| {
            Finding::new(
                &file.path,
                line_of(&file.text, dependency),
                format!("{name} is pure and must not depend on {dependency}: if it is pure too, add it in xtask/src/tidy/purity.rs"),
            )
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(path: &str, text: &str) -> Vec<Finding> {
        let files = [TextFile::new(path, text)];
        check(&files, &Source::read_all(&files)).unwrap()
    }

    #[test]
    fn every_impurity_is_found() {
        for code in [
            "use std::time::{Duration, Instant};",
            "use std::{fs, fmt};",
            "let now = std::time::SystemTime::now();",
            "use std::sync::{Arc, Mutex};",
            "let x: parking_lot::RwLock<u8>;",
            "tokio::spawn(x);",
            "fn f(a: std::net::IpAddr) {}",
            "use std::time; fn f() { time::Instant::now(); }",
            "std::thread::sleep(d);",
            "let r = rand::random();",
            "let r = ring::rand::SystemRandom::new();",
        ] {
            assert_ne!(findings("core/src/a.rs", code), [], "{code}");
        }
    }

    #[test]
    fn what_is_pure_or_elsewhere_is_free() {
        assert_eq!(findings("core/src/a.rs", "use std::time::Duration; // tokio::spawn"), []);
        assert_eq!(findings("core/src/a.rs", "let rand = thread(5); let s = \"std::fs::x\";"), []);
        assert_eq!(findings("broker/src/a.rs", "use std::net::TcpStream;"), []);
        assert_eq!(findings("core/tests/a.rs", "use std::net::TcpStream;"), []);
        let in_test = "#[cfg(test)]\nmod tests {\n  use std::time::Instant;\n}\n";
        assert_eq!(findings("core/src/a.rs", in_test), []);
    }

    #[test]
    fn an_impure_dependency_is_found() {
        let manifest = "[package]\nname = \"causeway-core\"\n[dependencies]\nbytes = \"1\"\nrand = \"1\"\n";
        let findings = findings("core/Cargo.toml", manifest);
        assert_eq!(findings.len(), 1);
        assert_eq!(findings[0].line, 5);
    }
}
